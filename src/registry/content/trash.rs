//! What collecting garbage asks of a storage: what is there and since when nobody wanted it, and a trash to move it to.
//!
//! Reads find what is in the trash as well, and whoever wants it for good takes it out again ([`Content::keep`]). So
//! moving a blob there loses nothing, and only what lay there for a second grace, unreferenced, is deleted.
//!
//! [`Content::keep`]: super::Content::keep

use std::time::SystemTime;

use async_trait::async_trait;

use super::ContentError;
use crate::model::{Digest, RepositoryName};

/// Listings of blobs come in so many parts.
pub const PARTS: u16 = 256;

/// A blob as a listing sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// When it was last wanted, or came; in the trash, when it was moved there. By the storage's clock.
    pub touched: SystemTime,
}

/// A blob that a repository was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// Which blob.
    pub digest: Digest,
    /// When it was last asked for by a push. By the storage's clock.
    pub touched: SystemTime,
}

/// The collector's side of a storage. All of it is safe beside everything else that happens there, also at other registries.
#[async_trait]
pub trait Trash {
    /// The storage's clock.
    async fn now(&self) -> Result<SystemTime, ContentError>;

    /// Blobs that are not in the trash: the part with this number, below [`PARTS`].
    async fn stored(&self, part: u16) -> Result<Vec<Stored>, ContentError>;

    /// Moves a blob to the trash, unless it was touched after this; tells whether it did.
    async fn discard(&self, blob: &Digest, untouched_since: SystemTime) -> Result<bool, ContentError>;

    /// What is in the trash.
    async fn discarded(&self) -> Result<Vec<Stored>, ContentError>;

    /// Takes a blob out of the trash; tells whether it was there.
    async fn put_back(&self, blob: &Digest) -> Result<bool, ContentError>;

    /// Deletes what is in the trash since before this, for good; tells whether it did.
    async fn purge(&self, blob: &Digest, since: SystemTime) -> Result<bool, ContentError>;

    /// Every repository that was given something, also one without a catalogue.
    async fn receivers(&self) -> Result<Vec<RepositoryName>, ContentError>;

    /// What a repository was given.
    async fn given(&self, repository: &RepositoryName) -> Result<Vec<Given>, ContentError>;

    /// Takes a blob from a repository, unless it was asked for after this; tells whether it did. A repository that has
    /// nothing left and never had a manifest is forgotten. Where several registries push, it is moved to a trash first, as
    /// blobs are, and goes when it lay there since before this: then this is called once for each of the two.
    async fn take_away(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
        untouched_since: SystemTime,
    ) -> Result<bool, ContentError>;
}
