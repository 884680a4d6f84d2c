//! A hold on one blob that comes in chunks.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::super::{CHUNK, ChunkList, ContentError, Fill, FillError, chunk_count};
use super::partial::Partial;
use super::space::Reservation;
use super::{Disk, Inner, lock};
use crate::{
    model::{Algorithm, Digest},
    wire::replication::BlobRef,
};

/// A blob of one chunk: that is checked against the blob's own digest and stored at once.
struct OneChunk {
    disk: Disk,
    blob: Digest,
    size: u64,
    here: Arc<AtomicBool>,
}

/// See [`Fill`].
struct DiskFill {
    disk: Disk,
    partial: Arc<Partial>,
    reservation: Arc<Mutex<Reservation>>,
}

/// Takes a fill up or begins it, with space for all that is missing.
pub(super) async fn open(
    disk: &Disk,
    blob: &BlobRef,
    list: Option<ChunkList>,
) -> Result<Box<dyn Fill>, FillError> {
    let BlobRef { digest, size, .. } = *blob;
    let list = checked(blob, list)?;
    if size <= CHUNK {
        let here = Arc::default();
        return Ok(Box::new(OneChunk { disk: disk.clone(), blob: digest, size, here }));
    }
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
    let reservation = Arc::new(Mutex::new(reservation));
    Ok(Box::new(DiskFill { disk: disk.clone(), partial, reservation }))
}

/// The list, if it is the blob's; one is of no use to a blob of one chunk.
fn checked(blob: &BlobRef, list: Option<ChunkList>) -> Result<Option<ChunkList>, FillError> {
    let Some(list) = list else { return Ok(None) };
    let wrong = |why| Err(FillError::WrongList { blob: blob.digest, why });
    if list.0.len() as u64 != chunk_count(blob.size) {
        return wrong("it has another number of chunks");
    }
    match blob.chunks {
        Some(expected) if list.digest() != expected => wrong("its digest is another"),
        None if blob.size <= CHUNK
            && blob.digest.algorithm() == Algorithm::Sha256
            && list.0 != [blob.digest] =>
        {
            wrong("its one chunk is another blob")
        }
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

#[async_trait]
impl Fill for OneChunk {
    fn size(&self) -> u64 {
        self.size
    }

    fn have(&self) -> u64 {
        if self.here.load(Ordering::Acquire) { self.size } else { 0 }
    }

    fn verifies(&self) -> bool {
        true
    }

    fn missing(&self) -> Vec<u32> {
        if self.here.load(Ordering::Acquire) { Vec::new() } else { vec![0] }
    }

    async fn write(&self, chunk: u32, bytes: Bytes) -> Result<(), FillError> {
        let (blob, got, expected) = (self.blob, bytes.len() as u64, if chunk == 0 { self.size } else { 0 });
        if chunk != 0 || got != expected {
            return Err(FillError::Misfit { blob, chunk, got, expected });
        }
        let here = self.here.clone();
        let stored = self.disk.writing(move |disk| {
            let got = blob.algorithm().of(&bytes);
            if got != blob {
                return Err(ContentError::Corrupt { expected: blob, got });
            }
            disk.room.check(bytes.len() as u64)?;
            disk.blobs.put(&blob, &bytes)?;
            here.store(true, Ordering::Release);
            Ok(())
        });
        Ok(stored.await?)
    }

    async fn flush(&self) -> Result<(), FillError> {
        Ok(())
    }

    async fn commit(&self) -> Result<(), FillError> {
        match self.missing().len() as u64 {
            0 => Ok(()),
            missing => Err(FillError::Incomplete { blob: self.blob, missing }),
        }
    }
}
