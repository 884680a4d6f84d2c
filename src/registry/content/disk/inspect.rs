//! Blobs as they lie on the disk, and a place for those that are bad.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;

use super::super::{CHUNK, ChunkList, ContentError, Hasher, inspect::Inspect};
use super::{Disk, blobs::Blobs, full_or};
use crate::model::{Algorithm, Digest};

/// What a storage has in its directory.
const OURS: [&str; 14] = [
    "layout.json",
    "lock",
    "blobs",
    "trash",
    "quarantine",
    "uploads",
    "fills",
    "repositories",
    "aside",
    "tmp",
    // The change log's, beside the storage.
    "log",
    // Of a directory that several registries use.
    ".peers",
    "ids",
    "leases",
];

/// One read of a scan.
const READ: usize = 256 * 1024;

#[async_trait]
impl Inspect for Disk {
    async fn scan(&self, blob: &Digest, hash: Hasher) -> Result<Option<(Hasher, bool)>, ContentError> {
        let blob = *blob;
        self.reading(move |disk| disk.blobs.scan(&blob, hash)).await
    }

    async fn quarantine(&self, blob: &Digest) -> Result<bool, ContentError> {
        let blob = *blob;
        self.writing(move |disk| disk.blobs.quarantine(&blob).map_err(full_or("quarantine a blob"))).await
    }

    async fn quarantined(&self) -> Result<Vec<Digest>, ContentError> {
        self.reading(|disk| {
            let dir = disk.blobs.quarantine_dir();
            let entries = match disk.blobs.files.list(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                entries => entries.map_err(ContentError::io("look into the quarantine"))?,
            };
            let name = |entry: &std::fs::DirEntry| entry.file_name().to_str().and_then(digest_of);
            let mut found: Vec<Digest> = entries.iter().filter_map(name).collect();
            found.sort_unstable();
            found.dedup();
            Ok(found)
        })
        .await
    }

    async fn relist(&self, blob: &Digest, list: &ChunkList) -> Result<(), ContentError> {
        let (blob, bytes) = (*blob, list.to_bytes());
        self.writing(move |disk| {
            let path = disk.blobs.path(&blob).with_extension("chunks");
            disk.blobs.files.replace(&path, &bytes, true).map_err(full_or("store a chunk list"))
        })
        .await
    }

    async fn orphans(&self, remove: bool) -> Result<Vec<String>, ContentError> {
        self.writing(move |disk| {
            let found =
                disk.blobs.orphans(disk.idle).map_err(ContentError::io("look for lists of chunks"))?;
            for list in found.iter().filter(|_| remove) {
                disk.blobs.files.remove(list).map_err(ContentError::io("remove a list of chunks"))?;
            }
            Ok(found.into_iter().map(|path| path.display().to_string()).collect())
        })
        .await
    }

    async fn strangers(&self) -> Result<Vec<String>, ContentError> {
        self.reading(|disk| {
            let mut found = Vec::new();
            disk.blobs.strangers(&mut found).map_err(ContentError::io("look through the storage"))?;
            found.sort();
            Ok(found.into_iter().map(|path| path.display().to_string()).collect())
        })
        .await
    }
}

impl Blobs {
    fn quarantine_dir(&self) -> PathBuf {
        self.trash.with_file_name("quarantine")
    }

    fn scan(&self, blob: &Digest, mut hash: Hasher) -> Result<Option<(Hasher, bool)>, ContentError> {
        let Some(open) = self.open_blob(blob)? else { return Ok(None) };
        open.advise(&(0..open.size));
        let mut piece = vec![0; READ];
        let end = hash.size().saturating_add(CHUNK);
        while hash.size() < end {
            let wanted = usize::try_from(end - hash.size()).unwrap_or(READ).min(READ);
            let read = open.file.read_at(&mut piece[..wanted], hash.size());
            match read.map_err(ContentError::io("read a blob"))? {
                0 => return Ok(Some((hash, true))),
                n => hash.update(&piece[..n]),
            }
        }
        let whole = hash.size() >= open.size;
        Ok(Some((hash, whole)))
    }

    /// Under its own name, or, if that is taken, with a number behind it.
    fn quarantine(&self, blob: &Digest) -> io::Result<bool> {
        let dir = self.quarantine_dir();
        self.files.make_dirs(&dir)?;
        let mut to = dir.join(blob.hex());
        for n in 1.. {
            if !self.files.is_there(&to)? {
                break;
            }
            to = dir.join(format!("{}-{n}", blob.hex()));
        }
        self.verified.forget(blob);
        let mut moved = false;
        for from in [self.path(blob), self.trash_path(blob)] {
            match self.files.rename(&from, &to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                renamed => renamed?,
            }
            moved = true;
            match self.files.rename(&from.with_extension("chunks"), &to.with_extension("chunks")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // Not durable, it is back after a power cut, and found again.
            if let Some(dir) = from.parent() {
                self.files.sync_dir(dir)?;
            }
            break;
        }
        self.files.sync_dir(&dir)?;
        Ok(moved)
    }

    /// Where others push, one that is young may be of a blob that is about to come.
    fn orphans(&self, age: Duration) -> io::Result<Vec<PathBuf>> {
        let mut dirs = vec![self.trash.clone()];
        for algorithm in Algorithm::ALL {
            let root = self.root.join(algorithm.word());
            dirs.extend((0..=255u8).map(|part| root.join(hex::encode([part]))));
        }
        let mut found = Vec::new();
        for dir in dirs {
            let entries = match self.files.list(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            let names: BTreeSet<_> = entries.iter().map(std::fs::DirEntry::file_name).collect();
            for entry in &entries {
                let name = entry.file_name();
                let blob = name.to_str().and_then(|name| name.strip_suffix(".chunks"));
                let Some(blob) = blob.filter(|blob| Digest::from_hex(blob).is_some()) else { continue };
                if names.contains(OsStr::new(blob)) || self.files.is_there(&dir.join(blob))? {
                    continue;
                }
                let is_old = || {
                    let modified = self.files.look(&entry.path())?.modified()?;
                    Ok::<_, io::Error>(modified.elapsed().is_ok_and(|since| since > age))
                };
                if !self.shared || is_old()? {
                    found.push(entry.path());
                }
            }
        }
        Ok(found)
    }

    fn strangers(&self, found: &mut Vec<PathBuf>) -> io::Result<()> {
        let Some(root) = self.root.parent() else { return Ok(()) };
        for entry in self.files.list(root)? {
            if !OURS.iter().any(|ours| entry.file_name() == *ours) {
                found.push(entry.path());
            }
        }
        for algorithm in Algorithm::ALL {
            for part in 0..=255u8 {
                let part = hex::encode([part]);
                let dir = self.root.join(algorithm.word()).join(&part);
                let is_ours = |name: &str| {
                    let name = name.strip_suffix(".chunks").unwrap_or(name);
                    name.starts_with(&part)
                        && Digest::from_hex(name).is_some_and(|d| d.algorithm() == algorithm)
                };
                self.others(&dir, is_ours, found)?;
            }
        }
        let is_ours = |name: &str| Digest::from_hex(name.strip_suffix(".chunks").unwrap_or(name)).is_some();
        self.others(&self.trash, is_ours, found)
    }

    fn others(&self, dir: &Path, is_ours: impl Fn(&str) -> bool, found: &mut Vec<PathBuf>) -> io::Result<()> {
        let entries = self.files.list(dir)?;
        let others = entries.iter().filter(|entry| !entry.file_name().to_str().is_some_and(&is_ours));
        found.extend(others.map(std::fs::DirEntry::path));
        Ok(())
    }
}

/// Whose name this is, whatever number is behind it; a chunk list's is nobody's.
fn digest_of(name: &str) -> Option<Digest> {
    Digest::from_hex(name.split_once('-').map_or(name, |(hex, _)| hex))
}
