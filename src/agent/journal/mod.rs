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

use super::home::sync_parent;
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
    /// Its script was about to be begun: scripts cannot be repeated, so from here on neither can the start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) script_begun: bool,
    /// How often an agent went away in the middle of its start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) cut_off: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
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
    /// The last line could not be written, and may stand there in part.
    torn: bool,
    /// The file is a new one whose name may not be on disk yet.
    renamed: bool,
    whole: bool,
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
        let Replayed { entries, bad, whole } = replay(&bytes);
        if bad > 0 {
            warn!(path = %path.display(), lines = bad, whole, "journal had unreadable lines");
        }
        if !entries.is_empty() {
            info!(path = %path.display(), entries = entries.len(), "journal was read");
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        // What a crash left behind the last whole line is cut off before the next one is written.
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
        let torn = end < bytes.len() as u64;
        let mut journal =
            Self { path: path.to_owned(), file, length: end, base: end, torn, renamed: true, whole, entries };
        if let Err(error) = journal.rewrite() {
            // On a full disk, what is there can still be read, and must be: it says what runs here.
            warn!(path = %path.display(), error = %error, "journal could not be rewritten; it goes on as it is");
        }
        Ok(journal)
    }

    /// Whether every line was found as it was written, but for a last one that was never answered for.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Everything that is in it.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Adds or replaces an instance's entry. On disk when it returns.
    pub(super) fn put(&mut self, entry: Entry) -> io::Result<()> {
        self.append(&Line::Put(Box::new(entry.clone())))?;
        self.entries.insert(entry.instance.clone(), entry);
        self.shorten();
        Ok(())
    }

    /// Strikes an instance out. On disk when it returns.
    pub(super) fn strike(&mut self, instance: &InstanceId) -> io::Result<()> {
        if !self.entries.contains_key(instance) {
            return Ok(());
        }
        self.append(&Line::Drop(instance.clone()))?;
        self.entries.remove(instance);
        self.shorten();
        Ok(())
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let bytes = print(line)?;
        if self.renamed {
            // Else a crash could bring the old file back, without this line.
            sync_parent(&self.path)?;
            self.renamed = false;
        }
        if self.torn {
            // What follows half a line would be as unreadable as that.
            self.file.set_len(self.length)?;
        }
        self.torn = true;
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.torn = false;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Rewrites what has grown. The line before it is on disk already, so that this fails is no failure of it.
    fn shorten(&mut self) {
        if self.length < LONG.max(self.base.saturating_mul(4)) {
            return;
        }
        if let Err(error) = self.rewrite() {
            warn!(path = %self.path.display(), error = %error, "journal could not be shortened");
            // Not again with the very next line.
            self.base = self.length;
        }
    }

    /// Puts a file of the entries alone in the old one's place. After an error either may be there, and the one
    /// that is there is the one that is open.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut whole = Vec::new();
        for entry in self.entries.values() {
            whole.extend(print(&Line::Put(Box::new(entry.clone())))?);
        }
        let beside = self.path.with_extension("new");
        let mut file = OpenOptions::new().append(true).create(true).open(&beside)?;
        file.set_len(0)?;
        file.write_all(&whole)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        self.file = file;
        self.length = whole.len() as u64;
        self.base = self.length;
        (self.torn, self.renamed) = (false, true);
        sync_parent(&self.path)?;
        self.renamed = false;
        Ok(())
    }
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

/// What a file's lines come to.
struct Replayed {
    entries: BTreeMap<InstanceId, Entry>,
    /// Lines that could not be read.
    bad: usize,
    /// None of them but the last, and that one without its end: a crash does no more than that.
    whole: bool,
}

fn replay(bytes: &[u8]) -> Replayed {
    let (mut entries, mut bad, mut whole) = (BTreeMap::new(), 0, true);
    for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| *line != b"\n") {
        match line.strip_suffix(b"\n").and_then(read) {
            Some(Line::Put(entry)) => {
                entries.insert(entry.instance.clone(), *entry);
            }
            Some(Line::Drop(instance)) => {
                entries.remove(&instance);
            }
            None => {
                bad += 1;
                whole &= !line.ends_with(b"\n");
            }
        }
    }
    Replayed { entries, bad, whole }
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
