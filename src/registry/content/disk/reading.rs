//! A blob on its way out: each chunk is hashed before it is sent, unless that was done within `verify_every`.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

use futures_util::stream::{self, StreamExt};
use tokio::sync::Semaphore;

use super::{
    super::{CHUNK, chunk_range},
    verified::Verified,
};
use crate::{
    http::{Part, Parts},
    model::{Digest, Hash},
};

/// What is hashed at once.
const READ: usize = 256 * 1024;

/// An open blob.
pub(super) struct Open {
    pub(super) blob: Digest,
    pub(super) size: u64,
    pub(super) file: File,
    /// The digests of its chunks, [`ChunkList`](super::super::ChunkList) as stored; a blob of one chunk needs none. One
    /// without a list goes out as it is: its whole would have to be read first.
    pub(super) list: Option<File>,
}

impl Open {
    /// Tells the system what is coming. Bulk reads of a cloud must not push out of its memory what is read often: pages
    /// that were read through this file do not count as used again. Advice alone: a failure changes nothing.
    #[cfg(target_os = "linux")]
    pub(super) fn advise(&self, range: &Range<u64>) {
        use rustix::fs::Advice;
        if range.end - range.start > CHUNK {
            for advice in [Advice::Sequential, Advice::NoReuse] {
                if let Err(error) = rustix::fs::fadvise(&self.file, 0, None, advice) {
                    tracing::debug!(error = %error, "the system takes no advice about a file");
                }
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn advise(&self, _range: &Range<u64>) {}

    fn expected(&self, chunk: u32) -> io::Result<Option<Digest>> {
        if self.size <= CHUNK {
            return Ok(Some(self.blob));
        }
        let Some(list) = &self.list else { return Ok(None) };
        let mut entry = [0; 32];
        list.read_exact_at(&mut entry, u64::from(chunk) * 32)?;
        Ok(Some(Digest::from_bytes(entry)))
    }
}

/// The parts of a range, one for each of its chunks.
pub(super) fn parts(open: Open, range: Range<u64>, verified: Arc<Verified>, turns: Arc<Semaphore>) -> Parts {
    let file = match open.file.try_clone() {
        Ok(file) => Arc::new(file),
        Err(error) => return stream::once(async { Err(error) }).boxed(),
    };
    let start = (Arc::new(open), file, range, verified, turns);
    stream::try_unfold(start, |(open, file, range, verified, turns)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let chunk = u32::try_from(range.start / CHUNK).map_err(io::Error::other)?;
        let end = chunk_range(open.size, chunk).end.min(range.end);
        if end <= range.start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !verified.holds(&open.blob, chunk) {
            let permit = turns.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (open, verified) = (open.clone(), verified.clone());
            let checked = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                check(&open, chunk, &verified)
            });
            checked.await.map_err(io::Error::other)??;
        }
        let part = Part { file: file.clone(), range: range.start..end, turns: turns.clone() };
        Ok(Some((part, (open, file, end..range.end, verified, turns))))
    })
    .boxed()
}

/// Hashes a chunk; what it read is in the system's memory then, from where it is sent.
fn check(open: &Open, chunk: u32, verified: &Verified) -> io::Result<()> {
    let Some(expected) = open.expected(chunk)? else { return Ok(()) };
    let mut hash = Hash::new(expected.algorithm());
    let mut piece = vec![0; READ];
    let mut left = chunk_range(open.size, chunk);
    while !left.is_empty() {
        let wanted = usize::try_from(left.end - left.start).unwrap_or(READ).min(READ);
        open.file.read_exact_at(&mut piece[..wanted], left.start)?;
        hash.update(&piece[..wanted]);
        left.start += wanted as u64;
    }
    let got = hash.digest();
    if got != expected {
        tracing::error!(blob = %open.blob, chunk, expected = %expected, got = %got, "stored blob was damaged");
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("chunk {chunk} of blob {} is damaged", open.blob),
        ));
    }
    verified.note(&open.blob, open.size, chunk);
    Ok(())
}
