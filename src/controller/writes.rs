//! Transactions of ours: each puts `head`, is repeated after a lost answer, and knows its own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    clocks::Clocks,
    ops::OpsError,
    records::{self, WriteId},
};
use crate::{
    clock,
    store::{KeyValue, LeaseId, Op, OpAnswer, Revision, Store, StoreError, Txn, keys::Keys},
};

/// How long an operation may go on about one write, lost answers and lost races included; under the 4.5 s after
/// which clients and proxies give up. Over: 503, and whether it was done is told as far as it is known.
const PATIENCE: Duration = Duration::from_millis(4000);

/// Between two tries of a write whose answer was lost.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a lost race is decided anew. More: the record is contended beyond reason, 503.
pub(super) const RACES: u32 = 32;

/// What became of a write.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is stored.
    Done,
    /// Somebody else was faster; this is what there is now under the key that tells.
    Lost(Option<KeyValue>),
}

/// A write in the making.
pub(super) struct Draft {
    txn: Txn,
    write: WriteId,
    tells: String,
    deletes: bool,
}

impl Draft {
    /// A write that is known by the value it puts under `tells`.
    pub(super) fn new(tells: impl Into<String>) -> Self {
        Self { txn: Txn::new(), write: WriteId::random(), tells: tells.into(), deletes: false }
    }

    /// Only if `key` was last put at `revision`; 0 = only if it does not exist.
    pub(super) fn at(mut self, key: impl Into<String>, revision: Revision) -> Self {
        self.txn = self.txn.at_revision(key, revision);
        self
    }

    /// Only while `key` is the one that was made at `revision`, whatever became of what is in it.
    pub(super) fn made_at(mut self, key: impl Into<String>, revision: Revision) -> Self {
        self.txn = self.txn.created_at(key, revision);
        self
    }

    /// Only while this leader key stands: the fence of a duty.
    pub(super) fn fenced(mut self, fence: Option<&Fence>) -> Self {
        if let Some(fence) = fence {
            self.txn = self.txn.created_at(fence.key.clone(), fence.created);
        }
        self
    }

    /// Puts a record.
    pub(super) fn put<T: Serialize>(mut self, key: impl Into<String>, record: &T) -> Result<Self, OpsError> {
        self.txn = self.txn.put(key, records::encode(record, &self.write)?);
        Ok(self)
    }

    /// Puts a record that ends with a lease.
    pub(super) fn put_leased<T: Serialize>(
        mut self,
        key: impl Into<String>,
        record: &T,
        lease: LeaseId,
    ) -> Result<Self, OpsError> {
        self.txn = self.txn.put_leased(key, records::encode(record, &self.write)?, lease);
        Ok(self)
    }

    /// Deletes a key. Deleting the key that tells makes its absence the proof.
    pub(super) fn delete(mut self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.deletes |= key == self.tells;
        self.txn = self.txn.delete(key);
        self
    }

    /// Deletes all keys that begin with `prefix`.
    pub(super) fn delete_prefix(mut self, prefix: &str) -> Self {
        let end = crate::store::prefix_end(prefix);
        self.txn.then.push(Op::DeleteRange { start: prefix.to_owned(), end });
        self
    }

    /// Bytes of all values that it puts.
    pub(super) fn size(&self) -> usize {
        self.txn.then.iter().map(|op| if let Op::Put { value, .. } = op { value.len() } else { 0 }).sum()
    }

    fn is_own(&self, found: Option<&KeyValue>) -> bool {
        match found {
            Some(kv) => !self.deletes && records::written_by(&kv.value) == self.write,
            None => self.deletes,
        }
    }
}

/// A leader key as it was when its duty was taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) key: String,
    pub(super) created: Revision,
}

/// Until when an operation tries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    until: Instant,
}

impl Patience {
    /// From now on.
    pub(super) fn new() -> Self {
        Self { until: clock::now() + PATIENCE }
    }

    pub(super) fn is_over(self) -> bool {
        clock::now() >= self.until
    }
}

/// Writes.
#[derive(Clone)]
pub(super) struct Writes {
    store: Arc<dyn Store>,
    head: String,
    clocks: Clocks,
}

impl Writes {
    pub(super) fn new(store: Arc<dyn Store>, keys: &Keys, clocks: Clocks) -> Self {
        Self { store, head: keys.head(), clocks }
    }

    /// Stores it, or says who was faster. After a lost answer the same transaction is repeated: same
    /// comparison, same write id; so it is done at most once, and its own trace is recognised.
    pub(super) async fn commit(&self, draft: Draft, patience: Patience) -> Result<Outcome, OpsError> {
        let mut txn = draft.txn.clone();
        // Uncompared, in every transaction: what a list waits for. See `lists`.
        txn = txn.put(self.head.clone(), Bytes::from(self.clocks.mark(&draft.write.0)));
        txn = txn.or_get(draft.tells.clone());
        debug_assert!(txn.then.len() <= crate::store::MAX_OPS, "a batch is cut before it is drafted");
        let mut lost_answer: Option<String> = None;
        loop {
            let result = tokio::time::timeout_at(patience.until, self.store.txn(txn.clone())).await;
            let error = match result {
                Ok(Ok(answer)) if answer.succeeded => return Ok(Outcome::Done),
                Ok(Ok(answer)) => {
                    let found = answer.answers.into_iter().find_map(|answer| match answer {
                        OpAnswer::Got(kv) => Some(kv),
                        _ => None,
                    });
                    let found = found.flatten();
                    let own = lost_answer.is_some() && draft.is_own(found.as_ref());
                    return Ok(if own { Outcome::Done } else { Outcome::Lost(found) });
                }
                Ok(Err(StoreError::Unavailable { why })) if lost_answer.is_none() => {
                    return Err(OpsError::unavailable(why));
                }
                Ok(Err(error)) if error.may_pass() => error,
                // Not done, and would not be next time; but an earlier try may have been.
                Ok(Err(error)) => match lost_answer {
                    Some(why) => return Err(OpsError::Unknown(why)),
                    None => return Err(error.into()),
                },
                Err(_) => StoreError::Unknown { why: "no answer in time".into() },
            };
            let why = lost_answer.get_or_insert_with(|| error.to_string());
            if clock::now() + PAUSE >= patience.until {
                return Err(OpsError::Unknown(why.clone()));
            }
            tokio::time::sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }
}
