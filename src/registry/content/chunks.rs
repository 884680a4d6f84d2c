//! Hashing a blob as it is stored: whole, and in chunks of [`CHUNK`], so that a range can be verified alone.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use crate::model::{Algorithm, Digest, Hash};

/// How much one entry of a chunk list covers.
pub const CHUNK: u64 = 4 * 1024 * 1024;

/// How many chunks a blob of this size has; an empty one has one.
pub fn chunk_count(size: u64) -> u64 {
    size.div_ceil(CHUNK).max(1)
}

/// Where a chunk is in a blob of this size; empty behind its end.
pub fn chunk_range(size: u64, chunk: u32) -> Range<u64> {
    let from = u64::from(chunk) * CHUNK;
    from.min(size)..(from + CHUNK).min(size)
}

/// The sha256 of a blob's chunks, in order, whatever the blob is named by; each covers [`CHUNK`] bytes, the last one
/// what is left.
///
/// A blob of one chunk needs no list: its own digest tells whether the chunk is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkList(pub Vec<Digest>);

impl ChunkList {
    /// As stored beside the blob: 32 bytes a chunk, then the list's own digest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.plain();
        let digest = Digest::of(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// Reads what [`ChunkList::to_bytes`] wrote; nothing if the list is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (list, own) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
        if list.is_empty() || list.len() % 32 != 0 || Digest::of(list).as_bytes() != own {
            return None;
        }
        list.chunks_exact(32)
            .map(|entry| entry.try_into().ok().map(Digest::from_bytes))
            .collect::<Option<Vec<_>>>()
            .map(Self)
    }

    /// The list's own digest: what peers compare and logs carry.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.plain())
    }

    fn plain(&self) -> Vec<u8> {
        self.0.iter().flat_map(|digest| digest.as_bytes()).copied().collect()
    }
}

/// What a whole blob came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// Of everything.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Of its chunks.
    pub chunks: ChunkList,
}

/// A running hash. Cloning it forks it.
#[derive(Debug, Clone, Default)]
pub struct Hasher {
    whole: Hash,
    /// None during the first chunk of a sha256: there `whole` is its hash too, so small blobs are hashed once.
    chunk: Option<Sha256>,
    /// Bare: it grows with the upload.
    list: Vec<[u8; 32]>,
    size: u64,
}

impl Hasher {
    /// Of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        let chunk = match algorithm {
            Algorithm::Sha256 => None,
            Algorithm::Sha512 => Some(Sha256::new()),
        };
        Self { whole: Hash::new(algorithm), chunk, ..Self::default() }
    }

    /// What the whole is hashed by.
    pub fn algorithm(&self) -> Algorithm {
        self.whole.algorithm()
    }

    /// Bytes fed so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Feeds the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = CHUNK - self.size % CHUNK;
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(take);
            self.whole.update(now);
            if let Some(chunk) = &mut self.chunk {
                chunk.update(now);
            }
            self.size += now.len() as u64;
            if self.size.is_multiple_of(CHUNK) {
                self.end_chunk();
                self.chunk = Some(Sha256::new());
            }
            bytes = later;
        }
    }

    /// Puts the hash of the running chunk on the list.
    fn end_chunk(&mut self) {
        let hash = match (self.chunk.take(), &self.whole) {
            (Some(chunk), _) => chunk,
            (None, Hash::Sha256(whole)) => whole.clone(),
            // Such a one has a running chunk from its start.
            (None, Hash::Sha512(_)) => Sha256::new(),
        };
        self.list.push(hash.finalize().into());
    }

    /// What [`Hasher::restored`] goes on from: size, state, chunk list, and a digest of these. Only at the border of
    /// two chunks, where the running chunk has nothing to save.
    pub fn saved(&self) -> Option<Vec<u8>> {
        if self.size == 0 || !self.size.is_multiple_of(CHUNK) {
            return None;
        }
        let mut out = self.size.to_le_bytes().to_vec();
        out.extend_from_slice(&self.whole.saved());
        out.extend(self.list.iter().flatten());
        let own = Digest::of(&out);
        out.extend_from_slice(own.as_bytes());
        Some(out)
    }

    /// Reads what [`Hasher::saved`] wrote; nothing if any of it is damaged, or hashed by another algorithm.
    pub fn restored(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let (text, own) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
        if Digest::of(text).as_bytes() != own {
            return None;
        }
        let (size, rest) = text.split_first_chunk::<8>()?;
        let size = u64::from_le_bytes(*size);
        let (state, list) = rest.split_at_checked(Hash::saved_len(algorithm))?;
        let whole = Hash::restored(algorithm, state)?;
        let (list, left) = list.as_chunks::<32>();
        let fits = size > 0 && left.is_empty() && list.len() as u64 * CHUNK == size;
        let list = list.to_vec();
        fits.then(|| Self { whole, chunk: Some(Sha256::new()), list, size })
    }

    /// The end of the blob.
    pub fn finish(mut self) -> Hashed {
        if self.list.is_empty() || !self.size.is_multiple_of(CHUNK) {
            self.end_chunk();
        }
        let chunks = ChunkList(self.list.into_iter().map(Digest::from_bytes).collect());
        Hashed { digest: self.whole.digest(), size: self.size, chunks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(algorithm: Algorithm, size: u64, pieces: usize) {
        let data: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let mut hasher = Hasher::new(algorithm);
        for piece in data.chunks(pieces) {
            hasher.update(piece);
        }
        let hashed = hasher.finish();
        assert_eq!((hashed.digest, hashed.size), (algorithm.of(&data), size));
        let wanted: Vec<_> = match data.is_empty() {
            true => vec![Digest::of(b"")],
            false => data.chunks(CHUNK as usize).map(Digest::of).collect(),
        };
        assert_eq!(hashed.chunks.0, wanted, "{size} bytes in pieces of {pieces}");
    }

    #[test]
    fn chunks_are_hashed_alone_whatever_the_pieces() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 77] {
            for algorithm in Algorithm::ALL {
                check(algorithm, size, 100_003);
                check(algorithm, size, 9_000_000);
            }
        }
    }

    #[test]
    fn a_saved_hash_goes_on_as_if_it_had_never_stopped() {
        let data: Vec<u8> = (0..CHUNK * 2 + 99).map(|i| (i % 249) as u8).collect();
        let (before, after) = data.split_at(CHUNK as usize * 2);
        for algorithm in Algorithm::ALL {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&before[..5000]);
            assert_eq!(hasher.saved(), None, "in the middle of a chunk");
            hasher.update(&before[5000..]);
            let mut saved = hasher.saved().unwrap();
            let mut restored = Hasher::restored(algorithm, &saved).unwrap();
            hasher.update(after);
            restored.update(after);
            assert_eq!(restored.finish(), hasher.finish());
            for at in [0, 20, saved.len() - 40, saved.len() - 1] {
                saved[at] ^= 1;
                assert!(Hasher::restored(algorithm, &saved).is_none(), "byte {at}");
                saved[at] ^= 1;
            }
            let other = Algorithm::ALL.into_iter().find(|other| *other != algorithm).unwrap();
            for (algorithm, bad) in
                [(algorithm, &saved[..saved.len() - 32]), (algorithm, b""), (other, &saved)]
            {
                assert!(Hasher::restored(algorithm, bad).is_none());
            }
        }
    }

    #[test]
    fn a_damaged_list_is_not_read() {
        let list = ChunkList(vec![Digest::of(b"a"), Digest::of(b"b")]);
        let mut bytes = list.to_bytes();
        assert_eq!(ChunkList::from_bytes(&bytes), Some(list));
        bytes[3] ^= 1;
        assert_eq!(ChunkList::from_bytes(&bytes), None);
        assert_eq!(ChunkList::from_bytes(b""), None);
    }
}
