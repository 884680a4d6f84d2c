//! A pull: chunks of every blob, several at once, into a folder beside the goal; each verified, then each blob as a whole.

use std::{cell::Cell, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};

use super::{
    Calls, PARALLEL, TransferError, Watch,
    chunked::Chunked,
    pause,
    sessions::lock,
    tries::{Failed, Tries},
};
use crate::{
    client::ClientError,
    clock,
    model::{Algorithm, Digest, Hash, RepositoryName, Tag},
};

/// Nothing for so long: the chunk is gone on with in another request.
const STILL: Duration = Duration::from_secs(30);

/// A whole that is wrong is fetched once more: then it was the registry's, and not this disk's.
const ROUNDS: u32 = 2;

/// A blob that is to be there, and under which name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The blob.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Names of the files that have its bytes; at least one.
    pub names: Vec<String>,
}

/// One pull.
pub struct Pull<'a> {
    /// From here.
    pub calls: &'a Calls,
    /// The template.
    pub repository: &'a RepositoryName,
    /// It ends when nothing has moved for so long.
    pub patience: Duration,
    /// Is told how it goes.
    pub watch: &'a dyn Watch,
}

impl Pull<'_> {
    /// The manifest behind a tag.
    pub async fn manifest(&self, tag: &Tag) -> Result<Bytes, TransferError> {
        let reference = tag.as_str().replace('+', "%2B");
        let mut tries = Tries::new(self.patience, clock::now());
        loop {
            match self.calls.manifest(self.repository, &reference).await {
                Ok(bytes) => return Ok(bytes),
                Err(failed) => pause(self.watch, 0, &mut tries, failed).await?,
            }
        }
    }

    /// Brings every blob into `parts`, which may hold what an earlier run brought, and puts them as files into `whole`.
    ///
    /// Dropping it leaves what came; a later run goes on with it.
    pub async fn run(&self, wanted: &[Wanted], parts: &Path, whole: &Path) -> Result<(), TransferError> {
        for folder in [parts, whole] {
            std::fs::create_dir_all(folder).map_err(TransferError::local("make", folder))?;
        }
        let _lock = lock(&parts.join("lock"))?;
        let mut blobs = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            take_back(wanted, parts, whole).await?;
            blobs.push(Arc::new(Chunked::open(parts, wanted.digest, wanted.size)?));
        }
        let done: Vec<Cell<u64>> = blobs.iter().map(|_| Cell::new(0)).collect();
        let mut todo: Vec<usize> = (0..blobs.len()).collect();
        for round in 1.. {
            self.fetch(&blobs, &todo, &done, parts).await?;
            todo = self.wrong(&blobs, &todo, round).await?;
            if todo.is_empty() {
                break;
            }
        }
        for (blob, wanted) in blobs.iter().zip(wanted) {
            put(blob, &wanted.names, whole)?;
        }
        Ok(())
    }

    /// Fetches what is missing of these blobs.
    async fn fetch(
        &self,
        blobs: &[Arc<Chunked>],
        todo: &[usize],
        done: &[Cell<u64>],
        parts: &Path,
    ) -> Result<(), TransferError> {
        let mut chunks = Vec::new();
        for &at in todo {
            let blob = blobs[at].clone();
            let missing = blocking(move || blob.missing()).await?;
            let to_come: u64 = missing.iter().map(|chunk| blobs[at].range(*chunk).1).sum();
            done[at].set(blobs[at].size - to_come);
            self.watch.at(at, done[at].get());
            chunks.extend(missing.into_iter().map(|chunk| (at, chunk)));
        }
        let needed = chunks.iter().map(|(at, chunk)| blobs[*at].range(*chunk).1).sum();
        room(parts, needed)?;
        let fetches = chunks.into_iter().map(|(at, chunk)| self.chunk(at, &blobs[at], chunk, &done[at]));
        futures_util::stream::iter(fetches).buffer_unordered(PARALLEL).try_collect::<()>().await
    }

    /// The blobs that are not what they should be: they are begun anew.
    async fn wrong(
        &self,
        blobs: &[Arc<Chunked>],
        todo: &[usize],
        round: u32,
    ) -> Result<Vec<usize>, TransferError> {
        let checks = todo.iter().map(|&at| {
            let blob = blobs[at].clone();
            async move { blocking(move || blob.whole()).await.map(|got| (at, got)) }
        });
        let found: Vec<(usize, Digest)> =
            futures_util::stream::iter(checks).buffer_unordered(PARALLEL).try_collect().await?;
        let mut wrong = Vec::new();
        for (at, got) in found.into_iter().filter(|(at, got)| blobs[*at].digest != *got) {
            blobs[at].clear()?;
            if round >= ROUNDS {
                return Err(TransferError::Corrupt { expected: blobs[at].digest, got });
            }
            self.watch.note(at, &format!("{} arrived as {got}; it is fetched anew", blobs[at].digest));
            wrong.push(at);
        }
        Ok(wrong)
    }

    /// Fetches one chunk, from where it broke off each time.
    async fn chunk(
        &self,
        at: usize,
        blob: &Chunked,
        chunk: u64,
        done: &Cell<u64>,
    ) -> Result<(), TransferError> {
        let (from, len) = blob.range(chunk);
        let (mut hash, mut got) = (Hash::new(Algorithm::Sha256), 0);
        let mut tries = Tries::new(self.patience, clock::now());
        while got < len {
            let before = got;
            let came = self.read(blob, (from + got, from + len), |piece, place| {
                blob.write(place, piece)?;
                hash.update(piece);
                got += piece.len() as u64;
                done.set(done.get() + piece.len() as u64);
                self.watch.at(at, done.get());
                Ok(())
            });
            let came = came.await;
            if got > before {
                tries.moved(clock::now());
            }
            match came {
                Ok(()) if got < len => {
                    let url =
                        self.calls.base().join(&format!("/v2/{}/blobs/{}", self.repository, blob.digest));
                    let early = ClientError::Strange { url, why: "it ended before its time".into() };
                    pause(self.watch, at, &mut tries, Failed { anew: true, ..early.into() }).await?;
                }
                Ok(()) => {}
                Err(failed) => pause(self.watch, at, &mut tries, failed).await?,
            }
        }
        blob.note(chunk, &hash.digest())
    }

    /// Reads from `from` up to `end`, or as far as it comes.
    async fn read(
        &self,
        blob: &Chunked,
        (from, end): (u64, u64),
        mut take: impl FnMut(&[u8], u64) -> Result<(), TransferError>,
    ) -> Result<(), Failed> {
        let (mut response, mut place) =
            self.calls.read(self.repository, &blob.digest, (from, end - 1)).await?;
        let url = || self.calls.base().join(&format!("/v2/{}/blobs/{}", self.repository, blob.digest));
        while place < end {
            let next = tokio::time::timeout(STILL, response.chunk()).await;
            let next = next.map_err(|_| ClientError::Silent { url: url(), within: STILL })?;
            let Some(piece) = next.map_err(|source| ClientError::Unanswered { url: url(), source })? else {
                break;
            };
            // A server without ranges sends all of it: what is not wanted is let go.
            let (starts, ends) = (place, place + piece.len() as u64);
            let (first, last) = (from.max(starts), end.min(ends));
            if first < last {
                take(&piece[(first - starts) as usize..(last - starts) as usize], first)?;
            }
            place = ends;
        }
        Ok(())
    }
}

/// An earlier run ended when some files had their names already: what is sound goes back among the parts, with a record.
async fn take_back(wanted: &Wanted, parts: &Path, whole: &Path) -> Result<(), TransferError> {
    let Some(there) = wanted.names.first().map(|name| whole.join(name)).filter(|there| there.is_file())
    else {
        return Ok(());
    };
    let (parts, digest, size) = (parts.to_owned(), wanted.digest, wanted.size);
    blocking(move || {
        std::fs::rename(&there, parts.join(digest.hex())).map_err(TransferError::local("move", &there))?;
        Chunked::open(&parts, digest, size)?.note_all()
    })
    .await
}

/// Makes a folder that is whole the goal, in one step. A goal that is there and not empty is replaced if that is to be.
///
/// # Errors
/// The goal cannot be made, or is there with something in it.
pub fn place(whole: &Path, goal: &Path, replace: bool) -> Result<(), TransferError> {
    let sync = |path: &Path| std::fs::File::open(path).and_then(|folder| folder.sync_all());
    sync_all(whole).map_err(TransferError::local("sync", whole))?;
    let aside = whole.with_extension("old");
    if replace && goal.exists() {
        std::fs::rename(goal, &aside).map_err(TransferError::local("move", goal))?;
    }
    // Onto an empty folder this is one step; onto one with something in it the system refuses.
    std::fs::rename(whole, goal).map_err(TransferError::local("make", goal))?;
    if aside.exists() {
        std::fs::remove_dir_all(&aside).map_err(TransferError::local("remove", &aside))?;
    }
    let parent = goal.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync(parent).map_err(TransferError::local("sync", parent))
}

/// Brings a folder with all that is in it to disk.
fn sync_all(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        } else {
            std::fs::File::open(entry.path())?.sync_all()?;
        }
    }
    std::fs::File::open(folder)?.sync_all()
}

/// Under its first name by a move, under the others as a second name of the same file.
fn put(blob: &Chunked, names: &[String], whole: &Path) -> Result<(), TransferError> {
    let mut first: Option<std::path::PathBuf> = None;
    for name in names {
        let to = whole.join(name);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(TransferError::local("make", parent))?;
        }
        match &first {
            None => {
                blob.settle(&to)?;
                first = Some(to);
            }
            // A copy: whoever writes into one file must not change the other.
            Some(first) => {
                std::fs::copy(first, &to).map_err(TransferError::local("write", &to))?;
            }
        }
    }
    Ok(())
}

/// Whether so many bytes more find room.
fn room(path: &Path, needed: u64) -> Result<(), TransferError> {
    // What cannot be asked will be seen when it is written.
    let Ok(is) = rustix::fs::statvfs(path) else { return Ok(()) };
    let free = is.f_bavail.saturating_mul(is.f_frsize);
    if needed <= free { Ok(()) } else { Err(TransferError::NoSpace { path: path.to_owned(), free, needed }) }
}

/// Reads and hashes beside the calls.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(gone) => {
            let source = std::io::Error::other(gone);
            Err(TransferError::Local { what: "read", path: "its files".into(), source })
        }
    }
}
