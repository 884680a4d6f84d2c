//! What looking for damage asks of a storage: bytes as they lie there, and a place for what is bad.

use async_trait::async_trait;

use super::{ChunkList, ContentError, Hasher};
use crate::model::Digest;

/// The examiner's side of a storage.
#[async_trait]
pub trait Inspect {
    /// Feeds the next bytes of a stored blob to its hash, as they lie there and at most one chunk of them; tells whether
    /// that was the end. `None` if the blob is not here.
    async fn scan(&self, blob: &Digest, hash: Hasher) -> Result<Option<(Hasher, bool)>, ContentError>;

    /// Takes a blob out of use and keeps its bytes, with its chunk list, where nothing reads them; tells whether it was
    /// there. Nothing that lies there is ever deleted.
    async fn quarantine(&self, blob: &Digest) -> Result<bool, ContentError>;

    /// The blobs that were taken out of use, each once.
    async fn quarantined(&self) -> Result<Vec<Digest>, ContentError>;

    /// Replaces a blob's chunk list.
    async fn relist(&self, blob: &Digest, list: &ChunkList) -> Result<(), ContentError>;

    /// Chunk lists whose blob is not where they are, as paths; with `remove`, those are gone then. To be asked while nothing
    /// is moved or deleted, as under the lease of [`super::Duty::Garbage`]: a push that is being made has its list first.
    async fn orphans(&self, remove: bool) -> Result<Vec<String>, ContentError>;

    /// Paths below the storage that are not the storage's own.
    async fn strangers(&self) -> Result<Vec<String>, ContentError>;
}
