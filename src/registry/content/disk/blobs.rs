//! Blobs as files.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::super::{CHUNK, ChunkList, ContentError, Hashed, files::Files};
use super::{full_or, reading::Open, verified::Verified};
use crate::model::{Algorithm, Digest};

/// Times that a blob is stored anew which went before it could be marked as wanted.
const MOVED: usize = 4;

pub(super) struct Blobs {
    pub(super) root: PathBuf,
    pub(super) trash: PathBuf,
    pub(super) files: Files,
    /// Others use the directory, too: nothing is replaced, and what is not seen is looked for anew.
    pub(super) shared: bool,
    pub(super) verified: Arc<Verified>,
}

impl Blobs {
    /// Makes the 256 directories of each algorithm at once: later no parent needs a sync.
    pub(super) fn open(
        root: &Path,
        trash: PathBuf,
        (files, shared): (Files, bool),
        verified: Arc<Verified>,
    ) -> io::Result<Self> {
        files.make_dirs(&trash)?;
        for algorithm in Algorithm::ALL {
            let root = root.join(algorithm.word());
            files.make_dirs(&root)?;
            for first in 0..=255u8 {
                let dir = root.join(hex::encode([first]));
                if !files.is_there(&dir)? {
                    match files.make_dir(&dir) {
                        // By another registry, since.
                        Err(error) if shared && error.kind() == io::ErrorKind::AlreadyExists => {}
                        made => made?,
                    }
                }
            }
            files.sync_dir(&root)?;
        }
        Ok(Self { root: root.to_owned(), trash, files, shared, verified })
    }

    pub(super) fn path(&self, blob: &Digest) -> PathBuf {
        let hex = blob.hex();
        self.root.join(blob.algorithm().word()).join(&hex[..2]).join(hex)
    }

    fn chunks_path(&self, blob: &Digest) -> PathBuf {
        self.path(blob).with_extension("chunks")
    }

    pub(super) fn find(&self, blob: &Digest) -> Result<Option<u64>, ContentError> {
        self.anywhere(blob, |path| self.files.look(path)).map(|found| found.map(|meta| meta.len()))
    }

    /// Marks it as wanted, and takes it out of the trash.
    pub(super) fn keep(&self, blob: &Digest) -> Result<Option<u64>, ContentError> {
        let path = self.path(blob);
        let is_there = || {
            self.look_anew(&path)?;
            self.files.is_there(&path).map_err(ContentError::io("look at a blob"))
        };
        self.look_anew(&path)?;
        loop {
            if let Some(file) = maybe(self.files.open(&path))? {
                let size = file.metadata().map_err(ContentError::io("look at a blob"))?.len();
                self.files.touch(&file).map_err(ContentError::io("touch a blob"))?;
                // Else it was moved to the trash since, and marked there.
                if is_there()? {
                    return Ok(Some(size));
                }
            }
            if !self.put_back(blob)? && !is_there()? {
                return Ok(None);
            }
        }
    }

    pub(super) fn open_blob(&self, blob: &Digest) -> Result<Option<Open>, ContentError> {
        let Some(file) = self.anywhere(blob, |path| self.files.open(path))? else { return Ok(None) };
        let size = file.metadata().map_err(ContentError::io("look at a blob"))?.len();
        let list = match size > CHUNK {
            true => self.anywhere(blob, |path| self.files.open(&path.with_extension("chunks")))?,
            false => None,
        };
        Ok(Some(Open { blob: *blob, size, file, list }))
    }

    pub(super) fn chunks(&self, blob: &Digest) -> Result<Option<ChunkList>, ContentError> {
        match self.find(blob)? {
            None => Ok(None),
            Some(size) if size <= CHUNK => match blob.algorithm() {
                Algorithm::Sha256 => Ok(Some(ChunkList(vec![*blob]))),
                // Nobody needs it: at most one chunk, and only if somebody asks.
                Algorithm::Sha512 => {
                    let whole = self.anywhere(blob, |path| self.files.read(path))?;
                    Ok(whole.map(|whole| ChunkList(vec![Digest::of(&whole)])))
                }
            },
            Some(size) => {
                let list = self.anywhere(blob, |path| self.files.read(&path.with_extension("chunks")))?;
                let list = list.and_then(|bytes| ChunkList::from_bytes(&bytes));
                // A sound list of another length is of another content.
                Ok(list.filter(|list| list.0.len() as u64 == size.div_ceil(CHUNK)))
            }
        }
    }

    /// The first place in which it is found.
    fn anywhere<T>(
        &self,
        blob: &Digest,
        look: impl Fn(&Path) -> io::Result<T>,
    ) -> Result<Option<T>, ContentError> {
        for path in self.places(blob) {
            if let Some(found) = maybe(look(&path))? {
                return Ok(Some(found));
            }
        }
        if !self.shared {
            return Ok(None);
        }
        for path in self.places(blob) {
            self.look_anew(&path)?;
            if let Some(found) = maybe(look(&path))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Another registry may have put something there or taken it away, and this machine not know it yet.
    pub(super) fn look_anew(&self, path: &Path) -> Result<(), ContentError> {
        match path.parent().filter(|_| self.shared) {
            Some(dir) => maybe(self.files.refresh(dir)).map(drop),
            None => Ok(()),
        }
    }

    /// Its caller made sure that these are the bytes of this name.
    pub(super) fn put(&self, blob: &Digest, bytes: &[u8]) -> Result<(), ContentError> {
        self.want(blob, || self.store(&self.path(blob), bytes).map_err(full_or("store a blob")))
    }

    /// Stores a blob that is wanted from now on. Of a shared directory one that is there already stays as it is, so it is marked as
    /// one that is found; it may be on its way to the trash.
    fn want(&self, blob: &Digest, store: impl Fn() -> Result<(), ContentError>) -> Result<(), ContentError> {
        if !self.shared {
            return store();
        }
        let mut stored = store();
        for _ in 0..MOVED {
            match &stored {
                Ok(()) if self.keep(blob)?.is_some() => return Ok(()),
                Ok(()) => {}
                // It was there, or was given its name, and then it was not.
                Err(ContentError::Io { source, .. })
                    if [io::ErrorKind::AlreadyExists, io::ErrorKind::NotFound].contains(&source.kind()) => {}
                Err(_) => break,
            }
            stored = store();
        }
        stored
    }

    fn store(&self, target: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.shared { self.files.place(target, bytes) } else { self.files.replace(target, bytes, true) }
    }

    /// Gives a synced file, whose hash this is, its name. An older copy is replaced, if nobody else can be reading it: if
    /// it had rotted, this heals it.
    pub(super) fn adopt(&self, file: &Path, hashed: &Hashed) -> Result<(), ContentError> {
        let target = self.path(&hashed.digest);
        // Of a shared directory it is stored once more with its blob: it goes to the trash with an earlier copy of that.
        let list = || {
            if hashed.size <= CHUNK {
                return Ok(());
            }
            let list = hashed.chunks.to_bytes();
            self.store(&self.chunks_path(&hashed.digest), &list).map_err(full_or("store a chunk list"))
        };
        let publish = || {
            if self.shared {
                return self.files.give(file, &target, hashed.size);
            }
            self.files.rename(file, &target)?;
            target.parent().map_or(Ok(()), |dir| self.files.sync_dir(dir))
        };
        // The list goes first: a blob that is visible has one.
        let store = || list().and_then(|()| publish().map_err(full_or("publish a blob")));
        self.want(&hashed.digest, store)?;
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
