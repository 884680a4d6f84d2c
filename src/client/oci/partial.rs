//! A blob on its way into a file: what is there, and the hash of it.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncReadExt, AsyncWriteExt},
};

use super::PullError;
use crate::model::{Digest, Hash};

/// How much of an older download is read at a time to hash it.
const REREAD: usize = 256 * 1024;

/// A download into a file that may have begun in an earlier run.
pub struct Partial {
    path: PathBuf,
    file: File,
    hash: Hash,
    len: u64,
    size: u64,
    digest: Digest,
}

impl Partial {
    /// Opens or makes the file at `path` for the blob `digest` of `size` bytes; hashes what is in it already.
    pub async fn open(path: &Path, digest: Digest, size: u64) -> Result<Self, PullError> {
        Self::read(path, digest, size).await.map_err(|source| PullError::Disk { digest, source })
    }

    async fn read(path: &Path, digest: Digest, size: u64) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).await?;
        let (mut hash, mut len) = (Hash::new(digest.algorithm()), 0);
        let mut buffer = vec![0; REREAD];
        loop {
            let read = file.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            len += read as u64;
        }
        let mut partial = Self { path: path.to_owned(), file, hash, len, size, digest };
        if len > size {
            partial.empty().await?;
        }
        Ok(partial)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are there.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the whole.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The blob.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        if self.len + bytes.len() as u64 > self.size {
            self.clear().await?;
            return Err(PullError::TooLong { digest: self.digest, size: self.size });
        }
        let written = self.file.write_all(bytes).await;
        if let Err(source) = written {
            // How much of it is in the file is not known: hash and file must agree, so nothing is kept.
            self.clear().await?;
            return Err(self.disk(source));
        }
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Throws away what is there.
    pub(super) async fn clear(&mut self) -> Result<(), PullError> {
        let emptied = self.empty().await;
        emptied.map_err(|source| self.disk(source))
    }

    async fn empty(&mut self) -> io::Result<()> {
        // A new handle: a write that is still on its way in the old one must not land in the new file.
        drop(tokio::fs::remove_file(&self.path).await);
        self.file = OpenOptions::new().read(true).write(true).create_new(true).open(&self.path).await?;
        self.hash = Hash::new(self.digest.algorithm());
        self.len = 0;
        Ok(())
    }

    /// Checks the whole and brings it to disk; what is wrong is thrown away.
    pub(super) async fn finish(&mut self) -> Result<(), PullError> {
        let got = self.hash.digest();
        if got != self.digest {
            self.clear().await?;
            return Err(PullError::Corrupt { expected: self.digest, got });
        }
        let synced = async {
            self.file.flush().await?;
            self.file.sync_all().await
        };
        let synced = synced.await;
        synced.map_err(|source| self.disk(source))
    }

    fn disk(&self, source: io::Error) -> PullError {
        PullError::Disk { digest: self.digest, source }
    }
}
