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

/// What `switchyard registry fsck` found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checked {
    /// Repositories whose catalogue could be read.
    pub repositories: u64,
    /// Blobs that were read, those in the trash included.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Checked {
    /// Findings that are wrong and were not mended.
    pub fn left(&self) -> usize {
        self.findings.iter().filter(|finding| !finding.repaired && !finding.harmless).count()
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind.
    pub trouble: Trouble,
    /// What it is about.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// What can be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// `repository:tag` of those that need it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needed_by: Vec<String>,
    /// It was mended.
    pub repaired: bool,
    /// It is worth knowing, and nothing is wrong.
    pub harmless: bool,
}

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// A blob has not the bytes of its name.
    Blob,
    /// A blob's chunk list is not its own.
    ChunkList,
    /// A blob is needed and not here.
    Missing,
    /// A manifest cannot be read.
    Manifest,
    /// A catalogue cannot be read.
    Catalogue,
    /// A repository was given what is not here, or not given what it needs.
    Link,
    /// The log does not fit the catalogues, or cannot be read.
    Log,
    /// Something unfinished was cleaned up.
    Leftover,
    /// Something lies there that is not the storage's.
    Stranger,
    /// A bad blob was put away before.
    Quarantined,
}

impl Trouble {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blob => "bad blob",
            Self::ChunkList => "bad chunk list",
            Self::Missing => "missing blob",
            Self::Manifest => "bad manifest",
            Self::Catalogue => "bad catalogue",
            Self::Link => "wrong link",
            Self::Log => "log",
            Self::Leftover => "leftover",
            Self::Stranger => "foreign file",
            Self::Quarantined => "quarantined blob",
        }
    }
}
