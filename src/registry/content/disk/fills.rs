//! All partial blobs that come in chunks, and a hold on one.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::super::{CHUNK, ChunkList, ContentError, Fill, FillError, chunk_count};
use super::blobs::Blobs;
use super::partial::{self, Partial};
use super::space::Reservation;
use super::{Disk, Inner, lock, make_dirs};
use crate::{clock, model::Digest, wire::replication::BlobRef};

/// Most partial blobs at once. One more takes the place of the one that was idle longest and that nobody holds.
const MOST: usize = 256;

pub(super) struct Fills {
    root: PathBuf,
    tmp: PathBuf,
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
    pub(super) fn open(root: PathBuf, tmp: PathBuf, idle: Duration, blobs: &Blobs) -> io::Result<Self> {
        make_dirs(&root)?;
        let mut open = BTreeMap::new();
        for entry in fs::read_dir(&root)? {
            let path = entry?.path();
            match left(&path, blobs).filter(|(_, age)| *age < idle) {
                Some((blob, age)) => {
                    open.insert(blob, Slot::Left { since: clock::boot().saturating_sub(age) });
                }
                None if path.is_dir() => fs::remove_dir_all(&path)?,
                None => fs::remove_file(&path)?,
            }
        }
        Ok(Self { root, tmp, idle, open: Mutex::new(open) })
    }

    fn dir(&self, blob: &Digest) -> PathBuf {
        self.root.join(blob.hex())
    }

    /// The fill that is there, if it is of this size and list; another one is thrown away.
    fn existing(
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
                Partial::take_up(self.dir(blob), self.tmp.clone(), *blob).map(Arc::new)
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
                partial::remove_dir(&self.dir(blob))?;
                open.remove(blob);
                Ok(None)
            }
        }
    }

    fn create(
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
        if open.len() >= MOST {
            self.make_room(&mut open);
        }
        let made = Partial::create(self.dir(blob), self.tmp.clone(), *blob, size, list);
        let made = Arc::new(made.inspect_err(|_| warn_if(blob, partial::remove_dir(&self.dir(blob))))?);
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
            _ => partial::remove_dir(&self.dir(blob)),
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
    fn remove(&self, partial: &Partial) {
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
fn left(path: &Path, blobs: &Blobs) -> Option<(Digest, Duration)> {
    let blob = Digest::from_hex(path.file_name()?.to_str()?).ok()?;
    let wanted = blobs.find(&blob).is_ok_and(|found| found.is_none());
    Some((blob, partial::age(path)?)).filter(|_| wanted)
}

fn warn_if(blob: &Digest, removed: Result<(), ContentError>) {
    if let Err(error) = removed {
        tracing::warn!(%blob, error = %error, "fill could not be removed");
    }
}

/// See [`Fill`].
pub(super) struct DiskFill {
    disk: Disk,
    partial: Arc<Partial>,
    reservation: Arc<Mutex<Reservation>>,
}

/// Takes a fill up or begins it, with space for all that is missing.
pub(super) async fn open(
    disk: &Disk,
    blob: &BlobRef,
    list: Option<ChunkList>,
) -> Result<DiskFill, FillError> {
    let BlobRef { digest, size, .. } = *blob;
    let list = checked(blob, list)?;
    let opened = disk.writing(move |disk| {
        let existing = disk.fills.existing(&digest, size, list.as_ref())?;
        let missing = existing.as_ref().map_or(size, |partial| size - partial.have());
        let reservation = disk.room.reserve(missing)?;
        let partial = match existing {
            Some(partial) => partial,
            None => disk.fills.create(&digest, size, list)?,
        };
        partial.touch();
        Ok((partial, reservation))
    });
    let (partial, reservation) = opened.await?;
    Ok(DiskFill { disk: disk.clone(), partial, reservation: Arc::new(Mutex::new(reservation)) })
}

/// The list to verify by: a blob of one chunk is its own.
fn checked(blob: &BlobRef, list: Option<ChunkList>) -> Result<Option<ChunkList>, FillError> {
    let own = ChunkList(vec![blob.digest]);
    let Some(list) = list else { return Ok((blob.size <= CHUNK).then_some(own)) };
    let wrong = |why| Err(FillError::WrongList { blob: blob.digest, why });
    if list.0.len() as u64 != chunk_count(blob.size) {
        return wrong("it has another number of chunks");
    }
    if blob.size <= CHUNK {
        return if list == own { Ok(Some(own)) } else { wrong("its one chunk is another blob") };
    }
    match blob.chunks {
        Some(expected) if list.digest() != expected => wrong("its digest is another"),
        _ => Ok(Some(list)),
    }
}

impl DiskFill {
    /// Runs file work; a fill that it ended is removed at once.
    async fn working(
        &self,
        work: impl FnOnce(&Inner, &Partial) -> Result<(), FillError> + Send + 'static,
    ) -> Result<(), FillError> {
        let partial = self.partial.clone();
        let done = self.disk.writing(move |disk| {
            let done = work(disk, &partial);
            if partial.is_over() {
                disk.fills.remove(&partial);
            }
            match done {
                // The storage puts numbers to what it says itself.
                Err(FillError::Content(error)) => Err(error),
                other => Ok(other),
            }
        });
        done.await?
    }
}

#[async_trait]
impl Fill for DiskFill {
    fn size(&self) -> u64 {
        self.partial.size()
    }

    fn have(&self) -> u64 {
        self.partial.have()
    }

    fn verifies(&self) -> bool {
        self.partial.verifies()
    }

    fn missing(&self) -> Vec<u32> {
        self.partial.missing()
    }

    async fn write(&self, chunk: u32, bytes: Bytes) -> Result<(), FillError> {
        let reservation = self.reservation.clone();
        self.working(move |disk, partial| {
            // Others write to this disk as well: what was promised may be gone.
            disk.room.check(bytes.len() as u64)?;
            partial.write(chunk, &bytes)?;
            lock(&reservation).spent(bytes.len() as u64);
            Ok(())
        })
        .await
    }

    async fn flush(&self) -> Result<(), FillError> {
        self.working(|_, partial| partial.sync()).await
    }

    async fn commit(&self) -> Result<(), FillError> {
        self.working(|disk, partial| partial.commit(&disk.blobs)).await
    }
}
