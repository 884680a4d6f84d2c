//! Hashing a blob as it is stored: whole, and in chunks of [`CHUNK`], so that a range can be verified alone.

use std::ops::Range;

use sha2::{
    Digest as _, Sha256,
    digest::common::hazmat::{SerializableState, SerializedState},
};

use crate::model::Digest;

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

/// The hashes of a blob's chunks, in order; each covers [`CHUNK`] bytes, the last one what is left.
///
/// A blob of one chunk needs no list: its own digest is it.
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
        self.0.iter().flat_map(|digest| *digest.as_bytes()).collect()
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
    whole: Sha256,
    /// None during the first chunk: there `whole` is its hash too, so small blobs are hashed once.
    chunk: Option<Sha256>,
    list: Vec<Digest>,
    size: u64,
}

impl Hasher {
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
                let full = self.chunk.replace(Sha256::new()).unwrap_or_else(|| self.whole.clone());
                self.list.push(Digest::from_hash(full));
            }
            bytes = later;
        }
    }

    /// What [`Hasher::restored`] goes on from: size, state, chunk list, and a digest of these. Only at the border of
    /// two chunks, where the running chunk has nothing to save.
    pub fn saved(&self) -> Option<Vec<u8>> {
        if self.size == 0 || !self.size.is_multiple_of(CHUNK) {
            return None;
        }
        let mut out = self.size.to_le_bytes().to_vec();
        out.extend_from_slice(&self.whole.serialize());
        out.extend(self.list.iter().flat_map(|digest| *digest.as_bytes()));
        let own = Digest::of(&out);
        out.extend_from_slice(own.as_bytes());
        Some(out)
    }

    /// Reads what [`Hasher::saved`] wrote; nothing if any of it is damaged.
    pub fn restored(bytes: &[u8]) -> Option<Self> {
        let (text, own) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
        if Digest::of(text).as_bytes() != own {
            return None;
        }
        let (size, rest) = text.split_first_chunk::<8>()?;
        let size = u64::from_le_bytes(*size);
        let (state, list) = rest.split_at_checked(SerializedState::<Sha256>::default().len())?;
        let whole = Sha256::deserialize(state.try_into().ok()?).ok()?;
        let list: Vec<Digest> = list
            .chunks_exact(32)
            .map(|entry| Some(Digest::from_bytes(entry.try_into().ok()?)))
            .collect::<Option<_>>()?;
        let fits = size > 0 && list.len() as u64 * CHUNK == size;
        fits.then(|| Self { whole, chunk: Some(Sha256::new()), list, size })
    }

    /// The end of the blob.
    pub fn finish(mut self) -> Hashed {
        let digest = Digest::from_hash(self.whole);
        match self.chunk {
            None => self.list.push(digest),
            Some(rest) if !self.size.is_multiple_of(CHUNK) => self.list.push(Digest::from_hash(rest)),
            Some(_) => {}
        }
        Hashed { digest, size: self.size, chunks: ChunkList(self.list) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(size: u64, pieces: usize) {
        let data: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let mut hasher = Hasher::default();
        for piece in data.chunks(pieces) {
            hasher.update(piece);
        }
        let hashed = hasher.finish();
        assert_eq!((hashed.digest, hashed.size), (Digest::of(&data), size));
        let wanted: Vec<_> = match data.is_empty() {
            true => vec![Digest::of(b"")],
            false => data.chunks(CHUNK as usize).map(Digest::of).collect(),
        };
        assert_eq!(hashed.chunks.0, wanted, "{size} bytes in pieces of {pieces}");
    }

    #[test]
    fn chunks_are_hashed_alone_whatever_the_pieces() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 77] {
            check(size, 100_003);
            check(size, 9_000_000);
        }
    }

    #[test]
    fn a_saved_hash_goes_on_as_if_it_had_never_stopped() {
        let data: Vec<u8> = (0..CHUNK * 2 + 99).map(|i| (i % 249) as u8).collect();
        let (before, after) = data.split_at(CHUNK as usize * 2);
        let mut hasher = Hasher::default();
        hasher.update(&before[..5000]);
        assert_eq!(hasher.saved(), None, "in the middle of a chunk");
        hasher.update(&before[5000..]);
        let mut saved = hasher.saved().unwrap();
        let mut restored = Hasher::restored(&saved).unwrap();
        hasher.update(after);
        restored.update(after);
        assert_eq!(restored.finish(), hasher.finish());
        for at in [0, 20, saved.len() - 40, saved.len() - 1] {
            saved[at] ^= 1;
            assert!(Hasher::restored(&saved).is_none(), "byte {at}");
            saved[at] ^= 1;
        }
        assert!(Hasher::restored(&saved[..saved.len() - 32]).is_none() && Hasher::restored(b"").is_none());
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
