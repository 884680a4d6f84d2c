//! Transactions: compare, then do one of two lists.

use bytes::Bytes;

use super::{KeyValue, LeaseId, Revision, StoreError};

/// Most operations that one transaction may hold, compares not counted: etcd's default is 128.
pub const MAX_OPS: usize = 100;

/// Most compares that one transaction may hold: etcd's default.
pub const MAX_COMPARES: usize = 128;

/// Largest encoded value that we store under one key.
pub const MAX_VALUE: usize = 256 * 1024;

/// Largest sum of keys and values in one transaction: below etcd's 1.5 MiB, with room for its framing.
pub const MAX_TXN: usize = 1400 * 1024;

/// What is compared of a key. A key that does not exist has revisions and version 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// `mod_revision` against a number; 0 = does not exist.
    ModRevision(String, CompareOp, Revision),
    /// `create_revision` against a number; 0 = does not exist.
    CreateRevision(String, CompareOp, Revision),
    /// `version` against a number; 0 = does not exist.
    Version(String, CompareOp, i64),
    /// The value against bytes. A key that does not exist never compares true.
    Value(String, CompareOp, Bytes),
}

/// How two sides are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    /// Same.
    Equal,
    /// Not the same.
    NotEqual,
    /// The key's side is larger.
    Greater,
    /// The key's side is smaller.
    Less,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Puts a value, under a lease if one is named.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// Ends with this lease; `None` takes the key out of any lease.
        lease: Option<LeaseId>,
    },
    /// Deletes one key, if it is there.
    Delete {
        /// The key.
        key: String,
    },
    /// Deletes all keys from `start` to before `end`.
    DeleteRange {
        /// First, inclusive.
        start: String,
        /// End, exclusive; an empty one is no end.
        end: String,
    },
    /// Reads one key, as it is after the operations before this one.
    Get {
        /// The key.
        key: String,
    },
}

/// A transaction: when all compares hold, `then`, else `otherwise`. A key may be written only once in each list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Done if they do.
    pub then: Vec<Op>,
    /// Done if they do not.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// An empty one: compares nothing, does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if `key` was last put at `revision`; 0 = only if it does not exist.
    pub fn at_revision(mut self, key: impl Into<String>, revision: Revision) -> Self {
        self.compares.push(Compare::ModRevision(key.into(), CompareOp::Equal, revision));
        self
    }

    /// Only if `key` does not exist.
    pub fn absent(self, key: impl Into<String>) -> Self {
        self.at_revision(key, 0)
    }

    /// Only if `key` is the same incarnation that was made at `revision`: the fence of a leader key.
    pub fn created_at(mut self, key: impl Into<String>, revision: Revision) -> Self {
        self.compares.push(Compare::CreateRevision(key.into(), CompareOp::Equal, revision));
        self
    }

    /// Puts without a lease.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.then.push(Op::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Puts under a lease.
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.then.push(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Deletes one key.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.then.push(Op::Delete { key: key.into() });
        self
    }

    /// Whether it is within our own limits, which every store refuses to pass in the same words.
    pub fn within_limits(&self) -> Result<(), StoreError> {
        let refused = |why: String| Err(StoreError::Refused { why });
        let ops = self.then.len().max(self.otherwise.len());
        if ops > MAX_OPS {
            return refused(format!("{ops} operations in one transaction; at most {MAX_OPS} are allowed"));
        }
        if self.compares.len() > MAX_COMPARES {
            let compares = self.compares.len();
            return refused(format!(
                "{compares} compares in one transaction; at most {MAX_COMPARES} are allowed"
            ));
        }
        let mut total = 0;
        for op in self.then.iter().chain(&self.otherwise) {
            let (key, value) = match op {
                Op::Put { key, value, .. } => (key, value.len()),
                // An empty start of a range is the first key there is.
                Op::DeleteRange { .. } => continue,
                Op::Delete { key } | Op::Get { key } => (key, 0),
            };
            if key.is_empty() {
                return refused("the empty key is not allowed".to_owned());
            }
            if value > MAX_VALUE {
                return refused(format!(
                    "value of `{key}` has {value} bytes; at most {MAX_VALUE} are allowed"
                ));
            }
            total += key.len() + value;
        }
        if total > MAX_TXN {
            return refused(format!("transaction of {total} bytes; at most {MAX_TXN} are allowed"));
        }
        Ok(())
    }

    /// When the compares fail, reads this key in the same breath.
    pub fn or_get(mut self, key: impl Into<String>) -> Self {
        self.otherwise.push(Op::Get { key: key.into() });
        self
    }
}

/// What one operation answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpAnswer {
    /// Put.
    Put,
    /// So many keys deleted.
    Deleted(i64),
    /// The key, if there is one.
    Got(Option<KeyValue>),
}

/// What a transaction answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Whether the compares held.
    pub succeeded: bool,
    /// The store's revision after it.
    pub revision: Revision,
    /// One answer per operation of the list that was done.
    pub answers: Vec<OpAnswer>,
}
