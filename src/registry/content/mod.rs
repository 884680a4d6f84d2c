//! Where content lives: blobs by digest, upload sessions, and one catalogue per repository.
//!
//! The trait says only what a storage must decide itself; everything else (what a manifest needs, versions,
//! templates) is built on it in [`super::repositories`]. What is read is always complete: a blob exists once
//! it was checked against its digest and is durable, a catalogue is published whole or not at all.
//!
//! A catalogue has a generation, and publishing one names the generation it was made from: the same contract
//! holds for a directory of our own (a lock), a shared one (`link(2)`) and an object store (conditional put).

mod catalogue;
mod chunks;
mod fill;
mod files;
#[cfg(test)]
mod conformance;
pub mod inspect;
pub mod lease;
pub mod staged;
pub mod trash;
pub mod disk;
mod shared;

use std::{io, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{
    http::{Parts, read},
    model::{Algorithm, Digest, RepositoryName, TemplateId},
    wire::replication::BlobRef,
};

pub use catalogue::{Catalogue, NoSuchVersion, Pulls, Which};
pub use chunks::{CHUNK, ChunkList, Hashed, Hasher, chunk_count, chunk_range};
pub use fill::{Fill, FillError};
pub use inspect::Inspect;
pub use lease::{Duty, Lease, Leases, SILENCE};
pub use staged::{Shown, Staged};

#[cfg(test)]
pub(super) use files::faulty::{ERRORS, Faults, Plan, World};
pub use trash::Trash;

/// Why content could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Not enough space is left. Known not to have happened.
    #[error("not enough disk space: {} free, {} needed", size(*.free), size(*.needed))]
    Full {
        /// Bytes.
        free: u64,
        /// Bytes, the reserve included.
        needed: u64,
    },
    /// Too many upload sessions are open.
    #[error("{limit} uploads{} are open already, which is the most this registry takes", of(.client))]
    TooManyUploads {
        /// The bound.
        limit: usize,
        /// Of this client alone.
        client: Option<String>,
    },
    /// No such upload session (any more).
    #[error("no such upload session; it ended, was cancelled, or was idle too long")]
    UnknownUpload,
    /// The session is another registry's, which alone can go on with it.
    #[error("this upload session is registry `{registry}`'s; go on with it there, or begin another one here")]
    ElsewhereUpload {
        /// Whose.
        registry: String,
    },
    /// Another request went on with this session.
    #[error("another request went on with this upload session")]
    Overtaken,
    /// The bytes are not what their name says; they were thrown away.
    #[error("content arrived as {got}, not as {expected}, and was thrown away")]
    Corrupt {
        /// The name it was given.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// What one registry at a time does, another one does by now, or may.
    #[error("this registry has the {} lease of its storage no longer; another one may have it by now", .duty.word())]
    LeaseLost {
        /// Which.
        duty: Duty,
    },
    /// What this machine sees of a shared directory may be old: why.
    #[error("{0}")]
    Unsure(String),
    /// The catalogue has another generation by now: read it and decide again.
    #[error("the catalogue of `{repository}` was changed in between")]
    Conflict {
        /// Whose.
        repository: RepositoryName,
    },
    /// What is stored cannot be used.
    #[error("stored {what} is damaged: {why}")]
    Damaged {
        /// Which thing.
        what: String,
        /// In what way.
        why: String,
    },
    /// The storage failed. Whether a write happened is not known.
    #[error("storage failed to {what}")]
    Io {
        /// The operation.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ContentError {
    /// For `map_err`: names the operation.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

fn of(client: &Option<String>) -> String {
    client.as_ref().map(|client| format!(" of {client}")).unwrap_or_default()
}

/// What a look at the upload sessions found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Sessions that are left.
    pub open: usize,
    /// Thrown away: nothing came for too long.
    pub idle: usize,
    /// Thrown away: begun too long ago.
    pub aged: usize,
}

/// A size for people, in binary units.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// How full the storage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes we may still write.
    pub free: u64,
    /// Bytes.
    pub total: u64,
}

/// What the storage can do at this moment: why not, for each that it cannot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Reading.
    pub read: Option<String>,
    /// Writing.
    pub write: Option<String>,
}

/// A blob being read.
pub struct BlobBody {
    /// Of the whole blob, whatever range was asked for.
    pub size: u64,
    /// The asked range, in parts of files, each verified within `verify_every`. Ends with an error where it is not what
    /// was stored.
    pub parts: Parts,
}

impl BlobBody {
    /// The asked range, read in pieces of bounded size.
    pub fn bytes(self) -> BoxStream<'static, io::Result<Bytes>> {
        read(self.parts)
    }
}

/// One storage. Every method may be cancelled: what it began is finished or undone by itself.
#[async_trait]
pub trait Content: Trash + Inspect + Leases + Send + Sync + 'static {
    /// Tries what it can do. To be called every two seconds or so: the others of a shared storage take it for alive by that.
    async fn condition(&self) -> Condition;

    /// How full it is.
    async fn space(&self) -> Result<Space, ContentError>;

    /// The size of a blob, if it is here; in the trash it is.
    async fn find(&self, blob: &Digest) -> Result<Option<u64>, ContentError>;

    /// As [`Content::find`], and marks the blob as wanted, so that no collector takes it before it is referenced; from the trash
    /// it is taken out.
    async fn keep(&self, blob: &Digest) -> Result<Option<u64>, ContentError>;

    /// As [`Content::keep`], for a blob that the repository was given: `None` if it was not. Marks that, too.
    async fn keep_given(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
    ) -> Result<Option<u64>, ContentError>;

    /// Opens a blob; the range is clamped to its size. `None`: all of it.
    async fn read(&self, blob: &Digest, range: Option<Range<u64>>) -> Result<Option<BlobBody>, ContentError>;

    /// The chunk hashes of a blob, if it is here with a sound list.
    async fn chunks(&self, blob: &Digest) -> Result<Option<ChunkList>, ContentError>;

    /// Stores a small blob at once, durably, named by this algorithm.
    async fn put(&self, algorithm: Algorithm, bytes: Bytes) -> Result<Digest, ContentError>;

    /// Opens an upload session for a request that declares so many bytes, and that is hashed by this algorithm as it
    /// comes. It may end with a digest of another one all the same: then its commit reads all of it once more. The
    /// owner is who began it: sessions are counted by owner.
    async fn begin(
        &self,
        repository: &RepositoryName,
        owner: &str,
        algorithm: Algorithm,
        declared: u64,
    ) -> Result<Box<dyn Upload>, ContentError>;

    /// Goes on with a session, also after a restart. Whoever wrote to it before is overtaken. `ends_by` tells the
    /// algorithm of the digest that this request ends it with: one that is empty yet is hashed by that.
    async fn resume(
        &self,
        repository: &RepositoryName,
        id: &str,
        ends_by: Option<Algorithm>,
        declared: u64,
    ) -> Result<Box<dyn Upload>, ContentError>;

    /// How many bytes a session has, without disturbing it.
    async fn received(&self, repository: &RepositoryName, id: &str) -> Result<u64, ContentError>;

    /// Ends a session and frees its space; whoever writes to it is overtaken.
    async fn cancel(&self, repository: &RepositoryName, id: &str) -> Result<(), ContentError>;

    /// Opens a partial blob that comes in chunks from elsewhere, or goes on with one, also after a restart.
    ///
    /// A list must be the one that [`BlobRef::chunks`] names. Without one, a fill that was begun with a list goes on
    /// with that; a new one takes chunks unseen and is verified as a whole at its end. A list other than the fill was
    /// begun with begins it anew. Space for all that is missing is promised at once; [`ContentError::Full`] leaves
    /// what is here for another try.
    async fn fill(&self, blob: &BlobRef, list: Option<ChunkList>) -> Result<Box<dyn Fill>, FillError>;

    /// Throws away uploads and fills that were idle for too long, and uploads that were begun too long ago.
    async fn expire_uploads(&self) -> Result<Swept, ContentError>;

    /// Completes when there is something for [`Content::expire_uploads`] before its time. Cancel-safe.
    async fn upload_dropped(&self);

    /// Whether the repository was given this blob, by upload or mount.
    async fn linked(&self, repository: &RepositoryName, blob: &Digest) -> Result<bool, ContentError>;

    /// Gives a stored blob to a repository, durably.
    async fn link(&self, repository: &RepositoryName, blob: &Digest) -> Result<(), ContentError>;

    /// Takes a blob from a repository, durably. One that it was not given changes nothing.
    async fn unlink(&self, repository: &RepositoryName, blob: &Digest) -> Result<(), ContentError>;

    /// The blobs that a repository was given, sorted.
    async fn links(&self, repository: &RepositoryName) -> Result<Vec<Digest>, ContentError>;

    /// Whether other registries read and write here, too: then nothing that was read stays true for long.
    fn is_shared(&self) -> bool {
        false
    }

    /// Gives a template id to a repository, unless another one has it; tells which one has it now. A storage that one
    /// process alone uses leaves that to its caller, who lets one repository at a time get one.
    async fn name(
        &self,
        _id: &TemplateId,
        repository: &RepositoryName,
    ) -> Result<RepositoryName, ContentError> {
        Ok(repository.clone())
    }

    /// Every repository that has a catalogue, in order of name.
    async fn repositories(&self) -> Result<Vec<RepositoryName>, ContentError>;

    /// The newest catalogue of a repository.
    async fn catalogue(&self, repository: &RepositoryName) -> Result<Option<Arc<Catalogue>>, ContentError>;

    /// Makes the next generation visible, durably; [`ContentError::Conflict`] if it is not the next any more.
    async fn publish(&self, next: Catalogue) -> Result<Arc<Catalogue>, ContentError>;

    /// Writes newer generations of several repositories where nobody sees them, durably, beside each other, for
    /// [`Content::show`]; all of them or none. [`ContentError::Conflict`] if there is one already that is as new. What lies
    /// between what there is and such a generation is its caller's to know; where others publish, too, it must be the next.
    async fn stage(&self, next: Vec<Arc<Catalogue>>) -> Result<Staged, ContentError>;

    /// Makes what was staged visible, durably, one after the other as it was given: what comes behind one that could not be
    /// shown is not shown either.
    async fn show(&self, staged: Staged) -> Shown;

    /// Makes this the newest catalogue of its repository, durably, whatever was there, damaged or newer.
    ///
    /// One that contradicts itself is [`ContentError::Damaged`]; so is a place that another repository has.
    async fn restore(&self, whole: Catalogue) -> Result<Arc<Catalogue>, ContentError>;

    /// Forgets a repository: its catalogue, what it was given, when it was pulled. Its blobs stay.
    async fn remove(&self, repository: &RepositoryName) -> Result<(), ContentError>;

    /// Keeps a file that is of no use any more and must not be lost, durably; tells where its folder is.
    async fn put_aside(&self, folder: &str, file: &str, bytes: Bytes) -> Result<String, ContentError>;

    /// This file of every folder that was put aside, each with where its folder is.
    async fn asides(&self, file: &str) -> Result<Vec<(String, Bytes)>, ContentError>;

    /// When versions were last pulled. Lost at worst since the last [`Content::save_pulls`].
    async fn pulls(&self, repository: &RepositoryName) -> Result<Pulls, ContentError>;

    /// Remembers when versions were last pulled; not worth a sync.
    async fn save_pulls(&self, repository: &RepositoryName, pulls: Pulls) -> Result<(), ContentError>;
}

/// One request's hold on an upload session. Dropping it leaves the session where it stands, resumable.
#[async_trait]
pub trait Upload: Send + Sync {
    /// The session's id: `<registry>.<uuid>`, so that a proxy can tell whose it is.
    fn id(&self) -> &str;

    /// Bytes received, those not yet flushed included.
    fn received(&self) -> u64;

    /// Takes the next bytes. Waits while earlier ones are being written: memory stays bounded.
    async fn write(&mut self, bytes: Bytes) -> Result<(), ContentError>;

    /// Waits until everything taken is in the session.
    async fn flush(&mut self) -> Result<(), ContentError>;

    /// Completes when another request goes on with the session. Cancel-safe.
    async fn overtaken(&self);

    /// Checks the whole against its name, makes it durable and gives it to the repository; tells its size.
    async fn commit(&mut self, expected: &Digest) -> Result<u64, ContentError>;

    /// From now on the session ends with this hold, however that is dropped: nobody was told its name.
    fn unresumable(self: Box<Self>) -> Box<dyn Upload>;
}
