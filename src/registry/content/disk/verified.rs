//! Which chunks of which blobs were read and found right, and since when: within `verify_every` they need not be hashed
//! again before they are sent. Kept in memory alone: what a restart forgets is verified anew.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use super::lock;
use crate::{clock, model::Digest, registry::content::chunk_count};

/// Chunks that are remembered in all, 64 TiB of blobs in 2 MiB. More: another blob's are forgotten.
const CHUNKS: u64 = 16 * 1024 * 1024;

pub(super) struct Verified {
    every: Duration,
    blobs: Mutex<Blobs>,
}

#[derive(Default)]
struct Blobs {
    seen: HashMap<Digest, Seen>,
    chunks: u64,
}

struct Seen {
    /// When its first chunk was verified; all are forgotten together.
    since: Duration,
    chunks: u64,
    /// A bit for each chunk.
    bits: Vec<u64>,
}

impl Verified {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, blobs: Mutex::default() }
    }

    /// Whether this chunk need not be looked at.
    pub(super) fn holds(&self, blob: &Digest, chunk: u32) -> bool {
        self.holds_at(blob, chunk, clock::boot())
    }

    fn holds_at(&self, blob: &Digest, chunk: u32, now: Duration) -> bool {
        let blobs = lock(&self.blobs);
        let Some(seen) = blobs.seen.get(blob) else { return false };
        now.saturating_sub(seen.since) < self.every
            && seen.bits.get(chunk as usize / 64).is_some_and(|word| word & (1 << (chunk % 64)) != 0)
    }

    /// This chunk of a blob of this size is what its name says.
    pub(super) fn note(&self, blob: &Digest, size: u64, chunk: u32) {
        self.note_at(blob, size, chunk..chunk.saturating_add(1), clock::boot());
    }

    /// So is all of the blob.
    pub(super) fn note_whole(&self, blob: &Digest, size: u64) {
        let chunks = u32::try_from(chunk_count(size)).unwrap_or(u32::MAX);
        self.note_at(blob, size, 0..chunks, clock::boot());
    }

    /// Nothing is known of it any more.
    pub(super) fn forget(&self, blob: &Digest) {
        lock(&self.blobs).forget(blob);
    }

    fn note_at(&self, blob: &Digest, size: u64, chunks: std::ops::Range<u32>, now: Duration) {
        let all = chunk_count(size);
        let mut blobs = lock(&self.blobs);
        let old = blobs.seen.get(blob).is_some_and(|seen| now.saturating_sub(seen.since) >= self.every);
        // All of it at once is as new as now.
        if old || u64::from(chunks.end - chunks.start) >= all {
            blobs.forget(blob);
        }
        while blobs.chunks + all > CHUNKS
            && let Some(other) = blobs.seen.keys().find(|other| *other != blob).copied()
        {
            blobs.forget(&other);
        }
        if !blobs.seen.contains_key(blob) {
            blobs.chunks += all;
            let words = usize::try_from(all.div_ceil(64)).unwrap_or(0);
            blobs.seen.insert(*blob, Seen { since: now, chunks: all, bits: vec![0; words] });
        }
        let Some(seen) = blobs.seen.get_mut(blob) else { return };
        for chunk in chunks {
            if let Some(word) = seen.bits.get_mut(chunk as usize / 64) {
                *word |= 1 << (chunk % 64);
            }
        }
    }
}

impl Blobs {
    fn forget(&mut self, blob: &Digest) {
        if let Some(seen) = self.seen.remove(blob) {
            self.chunks -= seen.chunks;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::content::CHUNK;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_chunk_is_known_until_its_time_is_over_and_only_that_one() {
        let verified = Verified::new(DAY);
        let (blob, other) = (Digest::of(b"a"), Digest::of(b"b"));
        let size = CHUNK * 100;
        verified.note_at(&blob, size, 70..71, SECOND);
        assert!(verified.holds_at(&blob, 70, SECOND + DAY - SECOND / 2));
        assert!(!verified.holds_at(&blob, 70, SECOND + DAY));
        assert!(!verified.holds_at(&blob, 69, SECOND) && !verified.holds_at(&other, 70, SECOND));
        // One that comes later does not make the first one newer.
        verified.note_at(&blob, size, 3..4, DAY);
        assert!(verified.holds_at(&blob, 3, DAY) && !verified.holds_at(&blob, 3, DAY + SECOND));
        // Behind that time, all begins anew.
        verified.note_at(&blob, size, 4..5, DAY * 2);
        assert!(verified.holds_at(&blob, 4, DAY * 2) && !verified.holds_at(&blob, 70, DAY * 2));
        verified.note_at(&blob, size, 0..100, DAY * 5 / 2);
        assert!(verified.holds_at(&blob, 4, DAY * 3 + SECOND));
        lock(&verified.blobs).forget(&blob);
        assert!(!verified.holds_at(&blob, 4, DAY * 3));
        assert_eq!(lock(&verified.blobs).chunks, 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let verified = Verified::new(DAY);
        let half = CHUNK * (CHUNKS / 2);
        for name in [b"a", b"b", b"c"] {
            verified.note_at(&Digest::of(name), half, 0..1, SECOND);
            let blobs = lock(&verified.blobs);
            assert!(blobs.chunks <= CHUNKS && blobs.seen.contains_key(&Digest::of(name)));
        }
    }
}
