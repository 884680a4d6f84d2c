//! All partial blobs that come in chunks: those of earlier runs, and those that are gone on with.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::super::{ChunkList, ContentError, files::Files};
use super::blobs::Blobs;
use super::lock;
use super::partial::{self, Partial};
use crate::{clock, model::Digest};

/// Most partial blobs at once. One more takes the place of the one that was idle longest and that nobody holds.
const MOST: usize = 256;

pub(super) struct Fills {
    root: PathBuf,
    files: Files,
    idle: Duration,
    open: Mutex<BTreeMap<Digest, Slot>>,
}

enum Slot {
    /// Of an earlier run; with [`clock::boot`] of its last chunk.
    Left { since: Duration },
    /// Read, and perhaps held by somebody.
    Open(Arc<Partial>),
}

impl Fills {
    /// Finds the fills of earlier runs; what is none, or complete, or was idle too long, is removed.
    pub(super) fn open(
        root: PathBuf,
        files: Files,
        idle: Duration,
        blobs: &Blobs,
    ) -> io::Result<(Self, usize)> {
        files.make_dirs(&root)?;
        let (mut open, mut removed) = (BTreeMap::new(), 0);
        for entry in files.list(&root)? {
            let path = entry.path();
            match left(&files, &path, blobs).filter(|(_, age)| *age < idle) {
                Some((blob, age)) => {
                    open.insert(blob, Slot::Left { since: clock::boot().saturating_sub(age) });
                }
                None => {
                    removed += 1;
                    if path.is_dir() { files.remove_all(&path)? } else { files.remove(&path)? }
                }
            }
        }
        Ok((Self { root, files, idle, open: Mutex::new(open) }, removed))
    }

    fn dir(&self, blob: &Digest) -> PathBuf {
        self.root.join(blob.hex())
    }

    /// The fill that is there, if it is of this size and list; another one is thrown away.
    pub(super) fn existing(
        &self,
        blob: &Digest,
        size: u64,
        list: Option<&ChunkList>,
    ) -> Result<Option<Arc<Partial>>, ContentError> {
        let mut open = lock(&self.open);
        let partial = match open.get(blob) {
            None => return Ok(None),
            Some(Slot::Open(partial)) => Some(partial.clone()),
            Some(Slot::Left { .. }) => {
                Partial::take_up(self.dir(blob), self.files.clone(), *blob).map(Arc::new)
            }
        };
        match partial {
            Some(partial) if partial.fits(size, list) && !partial.is_over() => {
                open.insert(*blob, Slot::Open(partial.clone()));
                Ok(Some(partial))
            }
            Some(partial) => {
                partial.remove()?;
                open.remove(blob);
                Ok(None)
            }
            None => {
                partial::remove_dir(&self.files, &self.dir(blob))?;
                open.remove(blob);
                Ok(None)
            }
        }
    }

    pub(super) fn create(
        &self,
        blob: &Digest,
        size: u64,
        list: Option<ChunkList>,
    ) -> Result<Arc<Partial>, ContentError> {
        let mut open = lock(&self.open);
        if let Some(Slot::Open(partial)) = open.get(blob)
            && partial.fits(size, list.as_ref())
            && !partial.is_over()
        {
            return Ok(partial.clone());
        }
        if open.contains_key(blob) {
            // Somebody began one with another list since we looked.
            self.throw_away(&mut open, blob);
        }
        if open.len() >= MOST {
            self.make_room(&mut open);
        }
        let made = Partial::create(self.dir(blob), self.files.clone(), *blob, size, list);
        let made =
            Arc::new(made.inspect_err(|_| warn_if(blob, partial::remove_dir(&self.files, &self.dir(blob))))?);
        open.insert(*blob, Slot::Open(made.clone()));
        Ok(made)
    }

    fn make_room(&self, open: &mut BTreeMap<Digest, Slot>) {
        let longest = open.iter().filter(|(_, slot)| !slot.is_held()).max_by_key(|(_, slot)| slot.idle());
        let Some(blob) = longest.map(|(blob, _)| *blob) else { return };
        tracing::info!(%blob, "longest idle fill was thrown away to make room for another");
        self.throw_away(open, &blob);
    }

    /// One that cannot be removed is tried again, and keeps no other.
    fn throw_away(&self, open: &mut BTreeMap<Digest, Slot>, blob: &Digest) {
        let removed = match open.get(blob) {
            Some(Slot::Open(partial)) => partial.remove(),
            _ => partial::remove_dir(&self.files, &self.dir(blob)),
        };
        if removed.is_ok() {
            open.remove(blob);
        }
        warn_if(blob, removed);
    }

    /// Removes fills that were idle too long or whose blob is complete, unless somebody holds them.
    pub(super) fn expire(&self, blobs: &Blobs) {
        let mut open = lock(&self.open);
        let known: Vec<Digest> = open.keys().copied().collect();
        for blob in known {
            let Some(slot) = open.get(&blob).filter(|slot| !slot.is_held()) else { continue };
            if slot.idle() >= self.idle || blobs.find(&blob).is_ok_and(|found| found.is_some()) {
                tracing::info!(%blob, "fill that nobody went on with was thrown away");
                self.throw_away(&mut open, &blob);
            } else if let Slot::Open(partial) = slot {
                partial.rest();
            }
        }
    }

    /// Ends a fill that is over.
    pub(super) fn remove(&self, partial: &Partial) {
        let mut open = lock(&self.open);
        // Begun anew by somebody meanwhile: the directory is theirs.
        let ours = |slot: &Slot| matches!(slot, Slot::Open(open) if std::ptr::eq(&raw const **open, partial));
        if open.get(partial.blob()).is_some_and(ours) {
            self.throw_away(&mut open, partial.blob());
        }
    }
}

impl Slot {
    fn idle(&self) -> Duration {
        match self {
            Self::Left { since } => clock::boot().saturating_sub(*since),
            Self::Open(partial) => partial.idle(),
        }
    }

    fn is_held(&self) -> bool {
        matches!(self, Self::Open(partial) if Arc::strong_count(partial) > 1)
    }
}

/// A directory that an earlier run left and that is worth keeping, with its age.
fn left(files: &Files, path: &Path, blobs: &Blobs) -> Option<(Digest, Duration)> {
    let blob = Digest::from_hex(path.file_name()?.to_str()?)?;
    let wanted = blobs.find(&blob).is_ok_and(|found| found.is_none());
    Some((blob, partial::age(files, path)?)).filter(|_| wanted)
}

fn warn_if(blob: &Digest, removed: Result<(), ContentError>) {
    if let Err(error) = removed {
        tracing::warn!(%blob, error = %error, "fill could not be removed");
    }
}
