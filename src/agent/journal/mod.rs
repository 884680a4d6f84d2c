//! What was begun here, durably: one entry per instance, written before the step it speaks of is taken.
//!
//! One file of lines, `<checksum> <json>`, only ever appended to and synced line by line, so a crash can harm
//! nothing but the last line, which had not been answered for yet. It is rewritten when it has grown, and at
//! each opening.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use super::home::write_durably;
use crate::{
    model::{Attempt, InstanceId},
    wire::{
        agent::{StartTask, VmPhase},
        vm::{ScriptResult, VmInfo},
    },
};

/// The file is rewritten when it is longer than this and mostly history.
const LONG: u64 = 1024 * 1024;

/// What the journal knows of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The instance.
    pub(super) instance: InstanceId,
    /// Which offer of it.
    pub(super) attempt: Attempt,
    /// The step that was about to be taken, or how it ended.
    pub(super) phase: VmPhase,
    /// What was asked.
    pub(super) task: StartTask,
    /// The VM, once there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) info: Option<VmInfo>,
    /// How its script ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) script: Option<ScriptResult>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) message: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Put(Box<Entry>),
    Drop(InstanceId),
}

/// The journal file, open.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    /// Its length when it was last rewritten: about what the entries themselves take.
    base: u64,
    entries: BTreeMap<InstanceId, Entry>,
}

impl Journal {
    /// Reads what is there and goes on from it. Lines that do not bear their checksum are left out: after a
    /// crash that is the last one at most.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (entries, bad) = replay(&bytes);
        if bad > 0 {
            warn!(path = %path.display(), lines = bad, "journal had unreadable lines");
        }
        if !entries.is_empty() {
            info!(path = %path.display(), entries = entries.len(), "journal was read");
        }
        let (file, length) = rewrite(path, &entries)?;
        Ok(Self { path: path.to_owned(), file, length, base: length, entries })
    }

    /// Everything that is in it.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Adds or replaces an instance's entry. On disk when it returns.
    pub(super) fn put(&mut self, entry: Entry) -> io::Result<()> {
        self.append(&Line::Put(Box::new(entry.clone())))?;
        self.entries.insert(entry.instance.clone(), entry);
        self.shorten()
    }

    /// Strikes an instance out. On disk when it returns.
    pub(super) fn strike(&mut self, instance: &InstanceId) -> io::Result<()> {
        if !self.entries.contains_key(instance) {
            return Ok(());
        }
        self.append(&Line::Drop(instance.clone()))?;
        self.entries.remove(instance);
        self.shorten()
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let bytes = print(line)?;
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Half a line may be there; what follows must not be glued to it.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn shorten(&mut self) -> io::Result<()> {
        if self.length < LONG.max(self.base * 4) {
            return Ok(());
        }
        (self.file, self.length) = rewrite(&self.path, &self.entries)?;
        self.base = self.length;
        Ok(())
    }
}

fn rewrite(path: &Path, entries: &BTreeMap<InstanceId, Entry>) -> io::Result<(File, u64)> {
    let mut whole = Vec::new();
    for entry in entries.values() {
        whole.extend(print(&Line::Put(Box::new(entry.clone())))?);
    }
    write_durably(path, &whole)?;
    Ok((OpenOptions::new().append(true).open(path)?, whole.len() as u64))
}

fn print(line: &Line) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(line)?;
    let mut bytes = checksum(&json).into_bytes();
    bytes.push(b' ');
    bytes.extend(json);
    bytes.push(b'\n');
    Ok(bytes)
}

/// Enough to tell a torn line from a whole one.
fn checksum(json: &[u8]) -> String {
    hex::encode(&Sha256::digest(json)[..8])
}

/// The entries that the lines come to, and how many lines could not be read.
fn replay(bytes: &[u8]) -> (BTreeMap<InstanceId, Entry>, usize) {
    let (mut entries, mut bad) = (BTreeMap::new(), 0);
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match read(line) {
            Some(Line::Put(entry)) => {
                entries.insert(entry.instance.clone(), *entry);
            }
            Some(Line::Drop(instance)) => {
                entries.remove(&instance);
            }
            None => bad += 1,
        }
    }
    (entries, bad)
}

fn read(line: &[u8]) -> Option<Line> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let (sum, json) = (&line[..space], &line[space + 1..]);
    if sum != checksum(json).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
pub(super) mod tests;
