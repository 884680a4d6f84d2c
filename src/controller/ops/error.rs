//! What an operation may fail with. `api/answer.rs` is the one table from these to status and text.

use std::time::Duration;

use crate::{controller::records::RecordError, store::StoreError};

/// When to ask again, if nothing better is known: a little over an etcd election.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpsError {
    /// No such instance or node.
    #[error("Not found")]
    NotFound,
    /// The request makes no sense; nothing was done and would not be next time.
    #[error("{0}")]
    BadInput(String),
    /// The template has no such tag.
    #[error("No such tag {0}")]
    NoSuchTag(String),
    /// No such template.
    #[error("VM not in the registry")]
    NotInRegistry,
    /// The caller's groups do not reach what this is about.
    #[error("Permission denied: {0}")]
    Forbidden(String),
    /// Not in the state it is in now.
    #[error("{0}")]
    Conflict(String),
    /// The idempotency key was used with another body.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// Certainly not done; later it may be.
    #[error("{why}")]
    Unavailable {
        /// In words.
        why: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// The answer of a write was lost, and repeating it did not settle whether it was done.
    #[error("it is not known whether this was done: {0}")]
    Unknown(String),
    /// A limit is reached.
    #[error("{0}")]
    TooMany(String),
    /// The registries' front does not answer.
    #[error("{0}")]
    RegistryDown(String),
}

impl OpsError {
    /// Certainly not done, for this reason.
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self::Unavailable { why: why.into(), retry_after: RETRY_AFTER }
    }
}

impl From<StoreError> for OpsError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unknown { why } => Self::Unknown(why),
            StoreError::LeaseGone => Self::Conflict("the lease ran out in between".into()),
            other => Self::unavailable(other.to_string()),
        }
    }
}

impl From<RecordError> for OpsError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::TooLarge(_) => Self::BadInput(format!("too much text in this request: {error}")),
            other => Self::Conflict(other.to_string()),
        }
    }
}
