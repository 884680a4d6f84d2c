//! The hash of a blob's finished beginning, which follows the chunks as they come.

use std::{fs::File, io, os::unix::fs::FileExt};

use sha2::{Digest as _, Sha256};

use super::super::{CHUNK, ChunkList, chunk_range};
use crate::model::{Algorithm, Digest, Hash};

/// One read.
const READ: u64 = 1024 * 1024;

/// Always reads the file: what is hashed is what is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Trail {
    whole: Hash,
    /// Chunks that are hashed.
    at: u32,
    /// Their digests, when there is no list that says them.
    learnt: Option<Vec<Digest>>,
}

impl Trail {
    /// From the start. `learn`: the blob has no chunk list, and gets one on the way.
    pub(super) fn new(algorithm: Algorithm, learn: bool) -> Self {
        Self { whole: Hash::new(algorithm), learnt: learn.then(Vec::new), ..Self::default() }
    }

    /// The next chunk.
    pub(super) fn at(&self) -> u32 {
        self.at
    }

    /// Hashes the next chunk of a blob of this size. On an error nothing has changed.
    pub(super) fn advance(&mut self, file: &File, size: u64) -> io::Result<()> {
        let range = chunk_range(size, self.at);
        let (mut whole, mut chunk) = (self.whole.clone(), self.learnt.as_ref().map(|_| Sha256::new()));
        let mut piece = vec![0; usize::try_from(READ.min(range.end - range.start)).unwrap_or(0)];
        let mut from = range.start;
        while from < range.end {
            let wanted = usize::try_from(range.end - from).unwrap_or(piece.len()).min(piece.len());
            file.read_exact_at(&mut piece[..wanted], from)?;
            whole.update(&piece[..wanted]);
            if let Some(chunk) = &mut chunk {
                chunk.update(&piece[..wanted]);
            }
            from += wanted as u64;
        }
        if let (Some(learnt), Some(chunk)) = (&mut self.learnt, chunk) {
            learnt.push(Digest::from_hash(chunk));
        }
        (self.whole, self.at) = (whole, self.at + 1);
        Ok(())
    }

    /// The digest of what was hashed.
    pub(super) fn digest(&self) -> Digest {
        self.whole.digest()
    }

    /// The chunk list that was learnt, when there was none.
    pub(super) fn learnt(&self) -> Option<ChunkList> {
        self.learnt.clone().map(ChunkList)
    }

    /// What [`Trail::restored`] goes on from; not of one that learns, nor behind a last, shorter chunk.
    pub(super) fn saved(&self, size: u64) -> Option<Vec<u8>> {
        if self.at == 0 || self.learnt.is_some() || u64::from(self.at) * CHUNK > size {
            return None;
        }
        let mut out = self.at.to_le_bytes().to_vec();
        out.extend_from_slice(&self.whole.saved());
        let own = Digest::of(&out);
        out.extend_from_slice(own.as_bytes());
        Some(out)
    }

    /// Reads what [`Trail::saved`] wrote; nothing if any of it is damaged.
    pub(super) fn restored(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let (text, own) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
        if Digest::of(text).as_bytes() != own {
            return None;
        }
        let (at, state) = text.split_first_chunk::<4>()?;
        let whole = Hash::restored(algorithm, state)?;
        Some(Self { whole, at: u32::from_le_bytes(*at), learnt: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_trail_goes_on_and_a_damaged_one_does_not() {
        let size = CHUNK + 77;
        let data: Vec<u8> = (0..size).map(|n| (n % 241) as u8).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("data"), &data).unwrap();
        let file = File::open(dir.path().join("data")).unwrap();

        let mut trail = Trail::new(Algorithm::Sha512, false);
        assert_eq!(trail.saved(size), None, "nothing to save");
        trail.advance(&file, size).unwrap();
        let mut saved = trail.saved(size).unwrap();
        let mut again = Trail::restored(Algorithm::Sha512, &saved).unwrap();
        again.advance(&file, size).unwrap();
        assert_eq!((again.at(), again.digest()), (2, Algorithm::Sha512.of(&data)));
        assert_eq!(again.saved(size), None, "behind a short chunk nothing comes");
        saved[10] ^= 1;
        for bad in [&saved[..], b""] {
            assert!(Trail::restored(Algorithm::Sha512, bad).is_none());
        }

        let mut learning = Trail::new(Algorithm::Sha256, true);
        learning.advance(&file, size).unwrap();
        learning.advance(&file, size).unwrap();
        let list = data.chunks(CHUNK as usize).map(Digest::of).collect();
        assert_eq!((learning.digest(), learning.learnt()), (Digest::of(&data), Some(ChunkList(list))));

        std::fs::OpenOptions::new().write(true).open(dir.path().join("data")).unwrap().set_len(100).unwrap();
        let mut short = Trail::new(Algorithm::Sha256, true);
        assert!(short.advance(&file, size).is_err());
        assert_eq!((short.at(), short.digest()), (0, Digest::of(b"")), "as before");
    }
}
