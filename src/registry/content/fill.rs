//! A blob that comes from elsewhere, in chunks and in any order.

use async_trait::async_trait;
use bytes::Bytes;

use super::ContentError;
use crate::model::Digest;

/// Why a fill does not go on.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The storage: full, broken, or the whole is not what its name says.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The chunk list is not the one that belongs to the blob.
    #[error("chunk list is not that of blob {blob}: {why}")]
    WrongList {
        /// Whose it should be.
        blob: Digest,
        /// In what way.
        why: &'static str,
    },
    /// No chunk of this length belongs there.
    #[error("chunk {chunk} of blob {blob} came with {got} bytes instead of {expected}")]
    Misfit {
        /// Of which blob.
        blob: Digest,
        /// Which chunk, from 0.
        chunk: u32,
        /// Bytes that came.
        got: u64,
        /// Bytes that it has; 0 behind the end.
        expected: u64,
    },
    /// Not all of it is here.
    #[error("{missing} chunks of blob {blob} are still missing")]
    Incomplete {
        /// Of which blob.
        blob: Digest,
        /// How many.
        missing: u64,
    },
    /// It was completed, thrown away or begun anew by somebody else.
    #[error("blob {blob} is not being filled any more")]
    Gone {
        /// Which blob.
        blob: Digest,
    },
}

/// A hold on a partial blob. Dropping it leaves the blob where it stands; what was not made durable by then may
/// have to come again after a restart.
///
/// Every method may be cancelled: what it began is finished by itself.
#[async_trait]
pub trait Fill: Send + Sync {
    /// Bytes of the whole.
    fn size(&self) -> u64;

    /// Bytes that are here.
    fn have(&self) -> u64;

    /// Whether each chunk is verified as it comes; if not, only the whole is.
    fn verifies(&self) -> bool;

    /// The chunks that are not here yet, in order.
    fn missing(&self) -> Vec<u32>;

    /// Takes one whole chunk. One that is here already changes nothing. Chunks may come at the same time.
    ///
    /// A chunk that is not what the list says is [`ContentError::Corrupt`], and nothing of it is written. On a full
    /// disk the chunk is refused and may be brought again.
    async fn write(&self, chunk: u32, bytes: Bytes) -> Result<(), FillError>;

    /// Makes what is here durable, so that it need not come again.
    async fn flush(&self) -> Result<(), FillError>;

    /// Verifies the whole, makes it durable and a blob. Ends the fill, unless the storage failed.
    ///
    /// A whole that is not what its name says is [`ContentError::Corrupt`]; all of it was thrown away.
    async fn commit(&self) -> Result<(), FillError>;
}
