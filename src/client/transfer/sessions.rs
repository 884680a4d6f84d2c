//! What a later run of the same push goes on with: upload sessions, and what files were hashed as.
//!
//! A small file that is replaced as a whole. Losing it costs time and nothing else.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use super::TransferError;
use crate::model::{Algorithm, Digest, Hash};

/// Read at once of a file that is hashed.
const PIECE: usize = 1024 * 1024;

/// Longest file of this kind that is read; a longer one is not ours.
const LONGEST: u64 = 16 * 1024 * 1024;

/// What is remembered.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    /// Paths of upload sessions by blob.
    sessions: BTreeMap<Digest, String>,
    /// By path.
    files: BTreeMap<PathBuf, Hashed>,
}

/// What a file was hashed as, while it looked so.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hashed {
    size: u64,
    modified: u128,
    digest: Digest,
}

/// The memory of one push. Without a place to keep it, it forgets.
#[derive(Debug)]
pub struct Sessions {
    path: Option<PathBuf>,
    known: RefCell<Known>,
    /// Held as long as this push is at it.
    _lock: Option<File>,
}

impl Sessions {
    /// Of the push of `what` (registry, repository and tag) in this folder. What is there and cannot be read is forgotten.
    ///
    /// # Errors
    /// Another process is at the same push.
    pub fn open(folder: Option<&Path>, what: &str) -> Result<Self, TransferError> {
        let Some(folder) = folder else {
            return Ok(Self { path: None, known: RefCell::default(), _lock: None });
        };
        fs::create_dir_all(folder).map_err(TransferError::local("make", folder))?;
        let path = folder.join(format!("{}.json", &Digest::of(what.as_bytes()).hex()[..32]));
        let lock = lock(&path.with_extension("lock"))?;
        let short = fs::metadata(&path).is_ok_and(|is| is.len() <= LONGEST);
        let read = short.then(|| fs::read(&path).ok()).flatten();
        let known = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(Self { path: Some(path), known: RefCell::new(known), _lock: Some(lock) })
    }

    pub(super) fn session(&self, blob: &Digest) -> Option<String> {
        self.known.borrow().sessions.get(blob).cloned()
    }

    pub(super) fn put(&self, blob: &Digest, session: &str) {
        self.known.borrow_mut().sessions.insert(*blob, session.to_owned());
        self.save();
    }

    pub(super) fn forget(&self, blob: &Digest) {
        if self.known.borrow_mut().sessions.remove(blob).is_some() {
            self.save();
        }
    }

    /// What a file was hashed as, if it still looks as it did then.
    pub fn hashed(&self, path: &Path) -> Option<(Digest, u64)> {
        let looks = look(path).ok()?;
        let known = self.known.borrow();
        let known = known.files.get(path)?;
        (looks == (known.size, known.modified)).then_some((known.digest, known.size))
    }

    /// Remembers what a file was hashed as.
    pub fn remember(&self, path: &Path, digest: Digest, looked: (u64, u128)) {
        let hashed = Hashed { size: looked.0, modified: looked.1, digest };
        self.known.borrow_mut().files.insert(path.to_owned(), hashed);
        self.save();
    }

    /// All of it has come: nothing is to be gone on with.
    pub(super) fn end(&self) {
        *self.known.borrow_mut() = Known::default();
        if let Some(path) = &self.path {
            fs::remove_file(path).ok();
            fs::remove_file(path.with_extension("lock")).ok();
        }
    }

    /// What cannot be written is lost for the next run alone.
    fn save(&self) {
        let Some(path) = &self.path else { return };
        let whole = serde_json::to_vec(&*self.known.borrow()).unwrap_or_default();
        let beside = path.with_extension("new");
        let written = File::create(&beside)
            .and_then(|mut file| file.write_all(&whole).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&beside, path));
        if let Err(error) = written {
            tracing::debug!(%error, path = %path.display(), "upload sessions were not remembered");
        }
    }
}

/// Takes a lock that ends with its process.
pub(super) fn lock(path: &Path) -> Result<File, TransferError> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(TransferError::local("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TransferError::Busy { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(TransferError::local("lock", path)(source)),
    }
}

/// Size and time of the last change.
pub(super) fn look(path: &Path) -> io::Result<(u64, u128)> {
    let is = fs::metadata(path)?;
    let modified = is.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    Ok((is.len(), modified))
}

/// Hashes a file from its beginning to its end, and tells how it looked before. Blocks.
pub fn hash_file(path: &Path, mut at: impl FnMut(u64)) -> io::Result<(Digest, (u64, u128))> {
    let looked = look(path)?;
    let (mut file, mut hash) = (File::open(path)?, Hash::new(Algorithm::Sha256));
    let (mut piece, mut done) = (vec![0; PIECE], 0);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((hash.digest(), (done, looked.1)));
        }
        hash.update(&piece[..read]);
        done += read as u64;
        at(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_knows_what_the_one_before_knew_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("state"), dir.path().join("disk.img"));
        fs::write(&file, b"one").unwrap();
        let first = Sessions::open(Some(&folder), "r/n:t").unwrap();
        let (digest, looked) = hash_file(&file, |_| {}).unwrap();
        assert_eq!(digest, Digest::of(b"one"));
        first.remember(&file, digest, looked);
        first.put(&digest, "/v2/n/blobs/uploads/1");
        assert!(matches!(Sessions::open(Some(&folder), "r/n:t"), Err(TransferError::Busy { .. })));
        drop(first);
        let second = Sessions::open(Some(&folder), "r/n:t").unwrap();
        assert_eq!(second.session(&digest).as_deref(), Some("/v2/n/blobs/uploads/1"));
        assert_eq!(second.hashed(&file), Some((digest, 3)));
        fs::write(&file, b"other").unwrap();
        assert_eq!(second.hashed(&file), None, "it has changed");
        second.end();
        drop(second);
        assert_eq!(Sessions::open(Some(&folder), "r/n:t").unwrap().session(&digest), None);
    }

    #[test]
    fn a_memory_that_cannot_be_read_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Sessions::open(Some(dir.path()), "x");
        open().unwrap().put(&Digest::of(b"a"), "/v2/");
        let file = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .find(|p| p.extension().unwrap() == "json");
        fs::write(file.unwrap(), "{\"sess").unwrap();
        assert_eq!(open().unwrap().session(&Digest::of(b"a")), None);
    }
}
