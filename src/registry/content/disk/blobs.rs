//! Blobs as files.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};

use super::super::{CHUNK, ChunkList, ContentError, Hashed, files::Files};
use super::{full_or, reading::Open, verified::Verified};
use crate::model::{Algorithm, Digest};

/// A blob's time is set anew only when it is older, so that a push of known layers writes nothing.
const TOUCH_AFTER: Duration = Duration::from_secs(600);

pub(super) struct Blobs {
    root: PathBuf,
    files: Files,
    pub(super) verified: Arc<Verified>,
}

impl Blobs {
    /// Makes the 256 directories of each algorithm at once: later no parent needs a sync.
    pub(super) fn open(root: &Path, files: Files, verified: Arc<Verified>) -> io::Result<Self> {
        for algorithm in Algorithm::ALL {
            let root = root.join(algorithm.word());
            files.make_dirs(&root)?;
            for first in 0..=255u8 {
                let dir = root.join(hex::encode([first]));
                if !files.is_there(&dir)? {
                    files.make_dir(&dir)?;
                }
            }
            files.sync_dir(&root)?;
        }
        Ok(Self { root: root.to_owned(), files, verified })
    }

    fn path(&self, blob: &Digest) -> PathBuf {
        let hex = blob.hex();
        self.root.join(blob.algorithm().word()).join(&hex[..2]).join(hex)
    }

    fn chunks_path(&self, blob: &Digest) -> PathBuf {
        self.path(blob).with_extension("chunks")
    }

    pub(super) fn find(&self, blob: &Digest) -> Result<Option<u64>, ContentError> {
        maybe(self.files.look(&self.path(blob))).map(|found| found.map(|meta| meta.len()))
    }

    pub(super) fn keep(&self, blob: &Digest) -> Result<Option<u64>, ContentError> {
        let Some(file) = maybe(self.files.open(&self.path(blob)))? else { return Ok(None) };
        let meta = file.metadata().map_err(ContentError::io("look at a blob"))?;
        let old = meta.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > TOUCH_AFTER);
        if old {
            // Now by the storage's own clock: that is what the collector measures age by.
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            futimens(&file, &Timestamps { last_access: now, last_modification: now })
                .map_err(|errno| ContentError::Io { what: "touch a blob", source: errno.into() })?;
        }
        Ok(Some(meta.len()))
    }

    pub(super) fn open_blob(&self, blob: &Digest) -> Result<Option<Open>, ContentError> {
        let Some(file) = maybe(self.files.open(&self.path(blob)))? else { return Ok(None) };
        let size = file.metadata().map_err(ContentError::io("look at a blob"))?.len();
        let list = if size > CHUNK { maybe(self.files.open(&self.chunks_path(blob)))? } else { None };
        Ok(Some(Open { blob: *blob, size, file, list }))
    }

    pub(super) fn chunks(&self, blob: &Digest) -> Result<Option<ChunkList>, ContentError> {
        match self.find(blob)? {
            None => Ok(None),
            Some(size) if size <= CHUNK => match blob.algorithm() {
                Algorithm::Sha256 => Ok(Some(ChunkList(vec![*blob]))),
                // Nobody needs it: at most one chunk, and only if somebody asks.
                Algorithm::Sha512 => {
                    let whole = maybe(self.files.read(&self.path(blob)))?;
                    Ok(whole.map(|whole| ChunkList(vec![Digest::of(&whole)])))
                }
            },
            Some(size) => {
                let list = maybe(self.files.read(&self.chunks_path(blob)))?;
                let list = list.and_then(|bytes| ChunkList::from_bytes(&bytes));
                // A sound list of another length is of another content.
                Ok(list.filter(|list| list.0.len() as u64 == size.div_ceil(CHUNK)))
            }
        }
    }

    /// Its caller made sure that these are the bytes of this name.
    pub(super) fn put(&self, blob: &Digest, bytes: &[u8]) -> Result<(), ContentError> {
        self.files.replace(&self.path(blob), bytes, true).map_err(full_or("store a blob"))
    }

    /// Moves a synced file, whose hash this is, to its name. An older copy is replaced: if it had rotted, this
    /// heals it.
    pub(super) fn adopt(&self, file: &Path, hashed: &Hashed) -> Result<(), ContentError> {
        let target = self.path(&hashed.digest);
        if hashed.size > CHUNK {
            // The list goes first: a blob that is visible has one.
            let list = hashed.chunks.to_bytes();
            self.files
                .replace(&self.chunks_path(&hashed.digest), &list, true)
                .map_err(full_or("store a chunk list"))?;
        }
        let publish = || {
            self.files.rename(file, &target)?;
            target.parent().map_or(Ok(()), |dir| self.files.sync_dir(dir))
        };
        publish().map_err(full_or("publish a blob"))?;
        self.verified.note_whole(&hashed.digest, hashed.size);
        Ok(())
    }
}

/// Absence is an answer, not an error.
fn maybe<T>(result: io::Result<T>) -> Result<Option<T>, ContentError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ContentError::Io { what: "open a blob", source }),
    }
}
