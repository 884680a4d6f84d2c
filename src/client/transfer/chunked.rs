//! A blob that arrives in chunks, in any order: the file, and beside it what each chunk that is there was hashed as.
//!
//! The record is written behind the bytes and believed only if they still hash to it: after a kill, a full disk or a
//! bad sector a later run fetches what is not sound, and nothing else.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::TransferError;
use crate::model::{Algorithm, Digest, Hash};

/// Bytes of a chunk: large enough that a request is worth it, small enough that four are on their way in one blob.
pub(super) const CHUNK: u64 = 16 * 1024 * 1024;

/// Bytes of a chunk's record: its sha256, zeros for one that is not there.
const RECORD: usize = 32;

/// Read at once.
const PIECE: usize = 256 * 1024;

/// The file of one blob under way.
#[derive(Debug)]
pub(super) struct Chunked {
    path: PathBuf,
    file: File,
    record: File,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Chunked {
    /// Opens or begins it in this folder.
    pub(super) fn open(folder: &Path, digest: Digest, size: u64) -> Result<Self, TransferError> {
        let path = folder.join(digest.hex());
        let opened = || {
            let open =
                |path: &Path| File::options().read(true).write(true).create(true).truncate(false).open(path);
            let (file, record) = (open(&path)?, open(&path.with_extension("chunks"))?);
            file.set_len(size)?;
            record.set_len(size.div_ceil(CHUNK) * RECORD as u64)?;
            Ok((file, record))
        };
        let (file, record) = opened().map_err(TransferError::local("open", &path))?;
        Ok(Self { path, file, record, digest, size })
    }

    /// First byte and length of a chunk.
    pub(super) fn range(&self, chunk: u64) -> (u64, u64) {
        let from = chunk * CHUNK;
        (from, CHUNK.min(self.size - from))
    }

    /// The chunks that are not here, or not sound. Blocks: reads all that is here.
    pub(super) fn missing(&self) -> Result<Vec<u64>, TransferError> {
        let sound = |chunk: u64| -> io::Result<bool> {
            let mut noted = [0; RECORD];
            self.record.read_exact_at(&mut noted, chunk * RECORD as u64)?;
            if noted == [0; RECORD] {
                return Ok(false);
            }
            let (from, len) = self.range(chunk);
            Ok(self.hashed(Algorithm::Sha256, from, len)?.as_bytes() == noted)
        };
        let mut missing = Vec::new();
        for chunk in 0..self.size.div_ceil(CHUNK) {
            if !sound(chunk).map_err(TransferError::local("read", &self.path))? {
                missing.push(chunk);
            }
        }
        Ok(missing)
    }

    /// Puts bytes into their place.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), TransferError> {
        self.file.write_all_at(bytes, at).map_err(TransferError::local("write", &self.path))
    }

    /// Notes that a chunk is here, as this.
    pub(super) fn note(&self, chunk: u64, hash: &Digest) -> Result<(), TransferError> {
        let noted = self.record.write_all_at(hash.as_bytes(), chunk * RECORD as u64);
        noted.map_err(TransferError::local("write", &self.path))
    }

    /// Notes every chunk as it is, when the whole is what it should be. Blocks.
    pub(super) fn note_all(&self) -> Result<(), TransferError> {
        if self.whole()? != self.digest {
            return Ok(());
        }
        for chunk in 0..self.size.div_ceil(CHUNK) {
            let (from, len) = self.range(chunk);
            let hash = self.hashed(Algorithm::Sha256, from, len);
            self.note(chunk, &hash.map_err(TransferError::local("read", &self.path))?)?;
        }
        Ok(())
    }

    /// What the whole is hashed as. Blocks.
    pub(super) fn whole(&self) -> Result<Digest, TransferError> {
        let hashed = self.hashed(self.digest.algorithm(), 0, self.size);
        hashed.map_err(TransferError::local("read", &self.path))
    }

    /// Forgets every chunk.
    pub(super) fn clear(&self) -> Result<(), TransferError> {
        let cleared = self
            .record
            .set_len(0)
            .and_then(|()| self.record.set_len(self.size.div_ceil(CHUNK) * RECORD as u64));
        cleared.map_err(TransferError::local("write", &self.path))
    }

    /// Brings it to disk and puts it where it belongs; the record is of no use any more.
    pub(super) fn settle(&self, to: &Path) -> Result<(), TransferError> {
        let settled = || {
            self.file.sync_all()?;
            fs::rename(&self.path, to)?;
            fs::remove_file(self.path.with_extension("chunks"))
        };
        settled().map_err(TransferError::local("write", to))
    }

    fn hashed(&self, algorithm: Algorithm, from: u64, len: u64) -> io::Result<Digest> {
        let (mut hash, mut piece) = (Hash::new(algorithm), vec![0; PIECE]);
        let mut at = from;
        while at < from + len {
            let now = usize::try_from(from + len - at).unwrap_or(PIECE).min(PIECE);
            self.file.read_exact_at(&mut piece[..now], at)?;
            hash.update(&piece[..now]);
            at += now as u64;
        }
        Ok(hash.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_keeps_what_is_sound_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let size = 2 * CHUNK + 5;
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let digest = Digest::of(&bytes);
        let open = || Chunked::open(dir.path(), digest, size).unwrap();
        let chunk = |of: &Chunked, chunk: u64| {
            let (from, len) = of.range(chunk);
            bytes[from as usize..(from + len) as usize].to_vec()
        };
        let first = open();
        assert_eq!(first.missing().unwrap(), [0, 1, 2]);
        for n in [0, 2] {
            let part = chunk(&first, n);
            first.write(first.range(n).0, &part).unwrap();
            first.note(n, &Digest::of(&part)).unwrap();
        }
        // Written, but the run was killed before it was noted.
        first.write(CHUNK, &chunk(&first, 1)).unwrap();
        assert_eq!(open().missing().unwrap(), [1]);
        // A bit flips in what was there.
        first.write(3, b"x").unwrap();
        assert_eq!(open().missing().unwrap(), [0, 1]);
        for n in [0, 1] {
            let part = chunk(&first, n);
            first.write(first.range(n).0, &part).unwrap();
            first.note(n, &Digest::of(&part)).unwrap();
        }
        assert_eq!((open().missing().unwrap(), open().whole().unwrap()), (vec![], digest));
        first.settle(&dir.path().join("done")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_empty_blob_lacks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let empty = Chunked::open(dir.path(), Digest::of(b""), 0).unwrap();
        assert_eq!((empty.missing().unwrap(), empty.whole().unwrap()), (vec![], Digest::of(b"")));
    }
}
