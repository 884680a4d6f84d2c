//! `/replication/v1/…`: the registries' change log, snapshots of the catalogue, and how each registry stands.
//!
//! What is asked and answered is told in `docs/replication.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Arch, Digest, Mark, Position, RepositoryName, Tag, TemplateId};

/// The log.
pub const LOG: &str = "/replication/v1/log";
/// The catalogue at a position.
pub const SNAPSHOT: &str = "/replication/v1/snapshot";
/// How a registry stands.
pub const STATE: &str = "/replication/v1/state";
/// Blobs, by digest alone.
pub const BLOBS: &str = "/replication/v1/blobs";
/// A proxy's lease; `DELETE` gives it up.
pub const LEASE: &str = "/replication/v1/lease";

/// Query of [`LOG`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogQuery {
    /// Everything up to here is known. Without it nothing but the head is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Position>,
    /// The asker's mark at `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// A proxy asks: the poll confirms all up to `after`, and is what renews its lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// A replica asks: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// What that replica has applied; `after` is what it has read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Position>,
    /// Milliseconds to wait for something new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<u64>,
}

/// The first line of a log answer; [`LogHead::lines`] lines follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// Who answers.
    pub registry: String,
    /// What it is.
    pub role: Role,
    /// Its newest position.
    pub head: Position,
    /// This answer covers all up to here: the next `after`.
    pub upto: Position,
    /// The log's mark there: the next `mark`.
    pub mark: Mark,
    /// The reigns so far.
    pub epochs: Vec<Epoch>,
    /// How long a proxy's lease lasts, in milliseconds from when it sent its poll; 0 when it got none.
    #[serde(default)]
    pub lease: u64,
    /// Lines that follow: [`Entry`] for a replica, [`Changed`] for a proxy.
    pub lines: usize,
}

/// One writer's reign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number.
    pub epoch: u64,
    /// The last position before it.
    pub after: Position,
    /// Who wrote.
    pub writer: String,
    /// Random: the reigns of two histories are never the same one, even under the same number.
    pub id: String,
}

/// What a registry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = RegistryRole))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes pushes.
    Writer,
    /// Copies.
    Replica,
}

impl Role {
    /// The word of config, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Replica => "replica",
        }
    }
}

/// One committed change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it stands.
    pub position: Position,
    /// The entry before it.
    pub prev: Position,
    /// Unix seconds of the commit.
    pub time: i64,
    /// What kind of change.
    pub change: Change,
    /// Of what; `None` only for [`Change::Opened`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryName>,
    /// The reign that begins with this entry: [`Change::Opened`] alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Epoch>,
    /// The manifest or blob it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What must be durable before the change may be seen; given to the repository with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<BlobRef>,
    /// The change itself; `None` when nothing that is shown has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<Patch>,
}

/// Kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A writer's reign began.
    Opened,
    /// A blob is complete and was given to a repository.
    Blob,
    /// A blob was taken from a repository that shows nothing which needs it.
    Withdrawn,
    /// A manifest, and with it perhaps a tag.
    Published,
    /// A tag was removed.
    Untagged,
    /// A manifest was removed with its tags.
    Removed,
    /// Versions were taken back.
    Reverted,
    /// The whole template was removed.
    Cleared,
    /// The architecture was set by hand.
    Arch,
}

/// A blob and how to check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Digest of its chunk list; `None` for a blob of one chunk, or when the list is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Digest>,
}

/// A manifest that a repository has. Its bytes are a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// As pushed; given back as it came.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// The manifest this one is about, for the referrers list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// Manifests this one lists; they are kept as long as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Digest>,
    /// Unix seconds of the last push.
    pub pushed: i64,
}

/// A tag, and where it stands in the template's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// In order of first publication; never given twice while the template lives.
    pub number: i64,
    /// Its manifest.
    pub digest: Digest,
    /// Unix seconds of the first push.
    pub created: i64,
    /// Unix seconds of the last push.
    pub pushed: i64,
}

/// From one generation of a repository to the next. What is not named stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// The generation it makes.
    pub generation: u64,
    /// The position of the change that it is.
    pub changed: Position,
    /// The template's id.
    pub template: Option<TemplateId>,
    /// The architecture set by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// The number of the next new tag.
    pub next_number: i64,
    /// By digest; `None` is a tombstone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub manifests: BTreeMap<Digest, Option<Stored>>,
    /// By tag; `None` is a tombstone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<Tag, Option<Version>>,
}

/// What a proxy is told of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Where it stands.
    pub position: Position,
    /// What changed.
    pub repository: RepositoryName,
}

/// 409: the asker's history is not this log's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    /// In words.
    pub error: String,
    /// Nothing after this is common; `None` when that cannot be told.
    pub common: Option<Position>,
    /// The newest position here.
    pub head: Position,
}

/// 410: the entries behind `after` are not kept any more; a snapshot has what they did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// In words.
    pub error: String,
    /// Entries behind this are here.
    pub oldest: Position,
    /// The newest position here.
    pub head: Position,
}

/// The first line of a snapshot; [`SnapshotHead::repositories`] lines of [`SnapshotRepository`] follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHead {
    /// Who answers.
    pub registry: String,
    /// Where the catalogue stood.
    pub position: Position,
    /// The log's mark there.
    pub mark: Mark,
    /// The reigns so far.
    pub epochs: Vec<Epoch>,
    /// Lines that follow.
    pub repositories: usize,
}

/// One repository in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRepository {
    /// Its name.
    pub repository: RepositoryName,
    /// From nothing to all it holds.
    pub patch: Patch,
    /// Its manifests and every blob it was given.
    pub blobs: Vec<BlobRef>,
}

/// How a registry stands: [`STATE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = RegistryState))]
pub struct State {
    /// Its name.
    pub registry: String,
    /// What it is.
    pub role: Role,
    /// Every change up to here is applied and durable; `None` while nothing is claimed.
    pub position: Option<Position>,
    /// What it has applied although it does not claim it: it has not heard of its writer since its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<Position>,
    /// The newest position it knows of; its own for a writer.
    pub head: Option<Position>,
    /// The reign of its log.
    pub epoch: u64,
    /// How far behind the head.
    pub lag: Lag,
    /// May it be read from?
    pub read: bool,
    /// May it be written to?
    pub write: bool,
    /// One sentence for each thing that is wrong.
    pub why: Vec<String>,
    /// Blobs under way.
    pub fetching: Vec<Fetching>,
    /// Where blobs and log come from.
    pub peers: Vec<Peer>,
    /// Who follows this one.
    pub followers: Vec<Follower>,
    /// Own history that was set aside because the writer's is another.
    pub aside: Vec<Aside>,
}

/// How far behind.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = RegistryLag))]
pub struct Lag {
    /// Changes not applied yet.
    pub entries: u64,
    /// Bytes still to fetch for them.
    pub bytes: u64,
    /// For how long it has been behind.
    pub seconds: f64,
}

/// A blob under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Fetching {
    /// Its digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Bytes that are here, verified.
    pub have: u64,
    /// Why it does not go on; empty while it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Another registry, as this one sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Peer {
    /// Its URL.
    pub url: String,
    /// Bytes fetched from it.
    pub bytes: u64,
    /// Bytes a second, over the last ten seconds.
    pub rate: f64,
    /// The last failure; empty after a success.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// A proxy or replica that follows the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Follower {
    /// Its name.
    pub name: String,
    /// `proxy` or `replica`.
    pub kind: String,
    /// It has confirmed all up to here.
    pub position: Position,
    /// Seconds since it last asked.
    pub seen: f64,
    /// How it stands in words: `lease 1.8 s`, `no lease: …`.
    pub standing: String,
}

/// History that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Aside {
    /// The directory that holds it.
    pub path: String,
    /// Unix seconds.
    pub time: i64,
    /// The last common position, if that is known.
    pub common: Option<Position>,
    /// Up to where the set-aside history went.
    pub upto: Position,
    /// How many repositories were taken back.
    #[serde(default)]
    pub count: u64,
    /// Which: all of them in the file, the first [`ASIDE_SHOWN`] in a state.
    pub repositories: Vec<RepositoryName>,
}

/// Repositories that a state names of each history that was set aside.
pub const ASIDE_SHOWN: usize = 100;

/// Histories that were set aside that a state names: the newest.
pub const ASIDES_SHOWN: usize = 20;
