//! What can go wrong, and whether the thing may have happened.

use super::Revision;

/// Why the store did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Certainly not done: nothing reached a store that could do it.
    #[error("store is unavailable: {why}")]
    Unavailable {
        /// In words, for the log and for `readyz`.
        why: String,
    },
    /// May or may not have been done: the answer was lost or late.
    #[error("the store's answer was lost: {why}")]
    Unknown {
        /// In words.
        why: String,
    },
    /// A read or watch at a revision that is no longer kept.
    #[error("revision is compacted; the oldest kept is {oldest}")]
    Compacted {
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// The store takes no writes: out of space. Certainly not done.
    #[error("store takes no writes: {why}")]
    Full {
        /// In words.
        why: String,
    },
    /// The store refused, and would again: too many operations, too large, no permission.
    #[error("store refused: {why}")]
    Refused {
        /// In words.
        why: String,
    },
    /// The lease named in an operation is gone.
    #[error("lease is gone")]
    LeaseGone,
}

impl StoreError {
    /// Whether the operation is certain not to have been done.
    pub fn certainly_not_done(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }

    /// Whether asking again later can help.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Unknown { .. })
    }
}
