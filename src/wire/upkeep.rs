//! What registries tell of their upkeep: garbage that was collected, or would be.

use serde::{Deserialize, Serialize};

use crate::model::{Digest, RepositoryName};

/// `GET`: what a collection would do now. `POST`: does it.
pub const GC: &str = "/replication/v1/gc";

/// Blobs that a report names at most; the sums are of all.
pub const NAMED: usize = 1000;

/// One collection of garbage.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Collected {
    /// Nothing was done; this is what would have been.
    pub dry_run: bool,
    /// How long it took.
    pub seconds: f64,
    /// Moved to the trash: nothing needs them, and nobody wanted them for the grace.
    pub discarded: Sum,
    /// Deleted for good: they were in the trash for the second grace, and still nothing needs them.
    pub purged: Sum,
    /// Taken out of the trash: something needs them by now.
    pub put_back: Sum,
    /// In the trash, not for long enough yet.
    pub waiting: Sum,
    /// All other blobs.
    pub kept: Sum,
    /// Blobs that were taken from repositories that do not need them.
    pub taken_away: u64,
    /// Untagged manifests that were removed, as `gc.untagged` says.
    #[serde(default)]
    pub untagged: u64,
    /// Manifests that cannot be read: their repositories keep all that they were given.
    pub unread: Vec<Unread>,
    /// The blobs of the first three sums, at most [`NAMED`] of them.
    pub blobs: Vec<Moved>,
}

/// Blobs, and what they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sum {
    /// How many.
    pub blobs: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Sum {
    /// One more.
    pub fn add(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// A blob that was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Where to.
    pub what: What,
    /// Which.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// It is in the trash.
    Discarded,
    /// It is no more.
    Purged,
    /// It is a blob like others again.
    PutBack,
}

impl What {
    /// For people and as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discarded => "discarded",
            Self::Purged => "purged",
            Self::PutBack => "put-back",
        }
    }
}

/// A manifest that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Where.
    pub repository: RepositoryName,
    /// Which.
    pub manifest: Digest,
    /// Why.
    pub why: String,
}
