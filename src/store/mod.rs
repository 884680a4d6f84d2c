//! The store: etcd's own semantics as a trait, and who implements them.
//!
//! Get, range, transaction, watch from a revision, lease, compaction: nothing more, so that what is proved
//! of one implementation by `conformance` is true of the other. [`etcd`] speaks to a cluster, [`embedded`]
//! keeps everything in one file of one process, [`faulty`] wraps either and misbehaves on purpose.
//!
//! This room knows nothing of controllers: keys are bytes with a drawn tree in [`keys`], values are bytes.

mod error;
pub mod keys;
mod kv;
mod lease;
mod keeper;
mod member;
mod register;
mod standing;
mod txn;
mod watch;
pub mod page;
pub mod embedded;
pub mod etcd;
pub mod faulty;
pub mod conformance;

use async_trait::async_trait;

pub use error::StoreError;
pub use keeper::KeptLease;
pub use kv::{Consistency, Got, KeyValue, Range, Ranged, prefix_end};
pub use lease::{LeaseId, LeaseState};
pub use member::{Member, MemberError};
pub use register::Registration;
pub use standing::{Alarm, Said, Standing};
pub use txn::{Compare, CompareOp, MAX_COMPARES, MAX_OPS, MAX_TXN, MAX_VALUE, Op, OpAnswer, Txn, TxnAnswer};
pub use watch::{Event, Watch, WatchItem};

/// A revision of the whole store: each writing transaction makes the next one.
pub type Revision = i64;

/// The store. Every method is bounded in time by the implementation (its request timeout) and can be
/// cancelled by dropping the future; a cancelled write may or may not have happened.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One key.
    async fn get(&self, key: &str, consistency: Consistency) -> Result<Got, StoreError>;

    /// Keys from a start, in key order, at most `limit` of them, at one revision.
    async fn range(&self, range: Range) -> Result<Ranged, StoreError>;

    /// Compares, then does one of two lists of operations, all at once.
    ///
    /// After [`StoreError::Unknown`] it may have been done: read before repeating.
    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, StoreError>;

    /// All changes of keys that begin with `prefix`, from `from` on (that revision included).
    ///
    /// The watch reports [`WatchItem::Compacted`] when `from` is no longer kept, then ends; and ends with an
    /// error when it breaks. The caller lists anew and watches from there.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError>;

    /// A new lease of `ttl` seconds (at least 1).
    async fn lease_grant(&self, ttl_seconds: u32) -> Result<LeaseId, StoreError>;

    /// Renews a lease to its full time. [`LeaseState::Gone`] when it has run out or was revoked.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError>;

    /// Ends a lease and deletes its keys. Ending one that is gone succeeds.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Forgets history before `revision`. Compacting to an older revision than before succeeds and does nothing.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// How each member stands; nobody for a store that looks after itself. What one does not say is in its entry.
    async fn standing(&self) -> Vec<Standing> {
        Vec::new()
    }

    /// Has a member make its file anew, without what is free in it. The member answers nothing meanwhile, which may be
    /// for minutes; nobody else is kept.
    async fn defragment(&self, member: &str) -> Result<(), StoreError> {
        Err(StoreError::Refused { why: format!("`{member}` is no member: this store looks after itself") })
    }
}
