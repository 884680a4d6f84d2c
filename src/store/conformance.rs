//! What every store has to answer alike: one sequence of steps, played on any store, its answers made comparable.
//!
//! Revisions count from where the play began and leases go by the name the play gave them, so that two stores
//! with different pasts can be held side by side. `tests/store` plays random sequences on an etcd and on the
//! embedded store and compares every answer.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    Compare, CompareOp, Consistency, Event, KeyValue, LeaseId, LeaseState, Op, OpAnswer, Range, Revision,
    Store, StoreError, Txn, WatchItem,
};
use crate::clock;

/// A key of the play, by its end; all are below the play's root.
pub type Name = String;

/// A revision, from the play's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// 0: the newest for a read, "does not exist" for a compare.
    Zero,
    /// So many after the beginning of the play.
    After(Revision),
    /// So many before the newest one, but not before the beginning.
    Back(Revision),
    /// So many after the newest one.
    Ahead(Revision),
}

/// What of a key is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// Its last change.
    Mod(At),
    /// Its creation.
    Create(At),
    /// How often it was put.
    Version(i64),
    /// Its value.
    Value(String),
}

/// What is done with keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Puts, under a lease of the play if one is named.
    Put(Name, String, Option<u8>),
    /// Deletes.
    Delete(Name),
    /// Deletes from one key to before another.
    DeleteRange(Name, Name),
    /// Reads.
    Get(Name),
}

/// One step of a play.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Reads a key.
    Get(Name),
    /// Reads a range.
    Range {
        /// From here.
        start: Name,
        /// To before here.
        end: Name,
        /// At most so many.
        limit: i64,
        /// When.
        at: At,
        /// Without values.
        keys_only: bool,
    },
    /// A transaction: compares, then, otherwise.
    Txn(Vec<(Name, CompareOp, Side)>, Vec<Act>, Vec<Act>),
    /// Watches keys that begin so, from a revision to the newest.
    Watch(Name, At),
    /// A lease that outlives the play.
    Grant(u8),
    /// Renews it.
    KeepAlive(u8),
    /// Ends it.
    Revoke(u8),
    /// Compacts.
    Compact(At),
}

/// What a step answered, comparable with another store's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the answers of the store's own calls")]
pub enum Seen {
    Got {
        revision: Revision,
        kv: Option<KeyValue>,
    },
    Ranged {
        revision: Revision,
        kvs: Vec<KeyValue>,
        more: bool,
    },
    Done {
        succeeded: bool,
        revision: Revision,
        answers: Vec<OpAnswer>,
    },
    Events(Vec<Event>),
    Lease(LeaseState),
    Nothing,
    Compacted {
        oldest: Revision,
    },
    Refused,
    LeaseGone,
    /// Only a store in trouble answers so; the text is for whoever reads the failed test.
    Failed(String),
    /// A watch split a revision or went back.
    Broken(&'static str),
}

/// Time of the play's leases: longer than any play.
const TTL: u32 = 600;

/// How long a change may take to reach a watch.
const PATIENCE: Duration = Duration::from_secs(20);

/// A play on one store.
pub struct Play<'s> {
    store: &'s dyn Store,
    root: String,
    base: Revision,
    compacted: Revision,
    leases: BTreeMap<u8, LeaseId>,
}

impl<'s> Play<'s> {
    /// Begins a play below `root`, where nothing may be yet.
    pub async fn begin(store: &'s dyn Store, root: &str) -> Result<Self, StoreError> {
        // One change, so that the beginning itself can be read and compacted to.
        let base = store.txn(Txn::new().put(format!("{root}begin"), "")).await?.revision;
        Ok(Self { store, root: root.to_owned(), base, compacted: 0, leases: BTreeMap::new() })
    }

    /// Takes a step.
    pub async fn step(&mut self, step: &Step) -> Seen {
        match self.take(step).await {
            Ok(seen) => seen,
            Err(StoreError::Compacted { oldest }) => Seen::Compacted { oldest: oldest - self.base },
            Err(StoreError::Refused { .. } | StoreError::Full { .. }) => Seen::Refused,
            Err(StoreError::LeaseGone) => Seen::LeaseGone,
            Err(error @ (StoreError::Unavailable { .. } | StoreError::Unknown { .. })) => {
                Seen::Failed(error.to_string())
            }
        }
    }

    async fn take(&mut self, step: &Step) -> Result<Seen, StoreError> {
        match step {
            Step::Get(name) => {
                let got = self.store.get(&self.key(name), Consistency::Linearizable).await?;
                Ok(Seen::Got { revision: got.revision - self.base, kv: got.kv.map(|kv| self.seen(kv)) })
            }
            Step::Range { start, end, limit, at, keys_only } => {
                let range = Range {
                    start: self.key(start),
                    end: self.key(end),
                    limit: *limit,
                    revision: self.revision(*at).await?,
                    consistency: Consistency::Linearizable,
                    keys_only: *keys_only,
                };
                let ranged = self.store.range(range).await?;
                let kvs = ranged.kvs.into_iter().map(|kv| self.seen(kv)).collect();
                Ok(Seen::Ranged { revision: ranged.revision - self.base, kvs, more: ranged.more })
            }
            Step::Txn(compares, then, otherwise) => {
                let mut txn = Txn::new();
                for (name, op, side) in compares {
                    txn.compares.push(self.compare(name, *op, side).await?);
                }
                txn.then = then.iter().map(|act| self.op(act)).collect();
                txn.otherwise = otherwise.iter().map(|act| self.op(act)).collect();
                let done = self.store.txn(txn).await?;
                let answers = done.answers.into_iter().map(|answer| match answer {
                    OpAnswer::Got(kv) => OpAnswer::Got(kv.map(|kv| self.seen(kv))),
                    other => other,
                });
                let (succeeded, revision) = (done.succeeded, done.revision - self.base);
                Ok(Seen::Done { succeeded, revision, answers: answers.collect() })
            }
            Step::Watch(prefix, at) => self.watch(prefix, *at).await,
            Step::Grant(name) => {
                let lease = self.store.lease_grant(TTL).await?;
                self.leases.insert(*name, lease);
                Ok(Seen::Nothing)
            }
            Step::KeepAlive(name) => Ok(Seen::Lease(self.store.lease_keep_alive(self.lease(*name)).await?)),
            Step::Revoke(name) => self.store.lease_revoke(self.lease(*name)).await.map(|()| Seen::Nothing),
            Step::Compact(at) => {
                let revision = self.revision(*at).await?;
                self.store.compact(revision).await?;
                self.compacted = self.compacted.max(revision);
                Ok(Seen::Nothing)
            }
        }
    }

    /// All events of a watch from a revision on, up to a change that is made for the purpose of seeing it.
    async fn watch(&mut self, prefix: &str, at: At) -> Result<Seen, StoreError> {
        let prefix = self.key(prefix);
        let mut from = self.revision(at).await?;
        if from == self.compacted {
            // Etcd before 3.4.35 and 3.5.16 loses deletions at exactly the compacted revision.
            from += 1;
        }
        let mut watch = self.store.watch(&prefix, from).await?;
        let end = || self.store.txn(Txn::new().put(format!("{prefix}end"), ""));
        let mut last = end().await?.revision;
        // A watch may begin in the future.
        while last < from {
            last = end().await?.revision;
        }
        let (mut events, mut reached, began) = (Vec::new(), 0, clock::now());
        while reached < last {
            let Ok(item) = tokio::time::timeout(PATIENCE, watch.next()).await else {
                return Ok(Seen::Broken("the watch was silent"));
            };
            match item {
                Some(Ok(WatchItem::Events { revision, events: more })) => {
                    if more.first().is_none_or(|event| event.revision() <= reached) {
                        return Ok(Seen::Broken("a revision came in two pieces or out of order"));
                    }
                    if more.last().is_none_or(|event| event.revision() != revision) {
                        return Ok(Seen::Broken("the revision is not that of the last event"));
                    }
                    reached = revision;
                    events.extend(more);
                }
                Some(Ok(WatchItem::Progress(_))) if began.elapsed() < PATIENCE => {}
                Some(Ok(WatchItem::Progress(_))) => return Ok(Seen::Broken("the watch left a change out")),
                Some(Ok(WatchItem::Compacted { oldest })) => {
                    return match watch.next().await {
                        None => Err(StoreError::Compacted { oldest }),
                        Some(_) => Ok(Seen::Broken("a compacted watch went on")),
                    };
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(Seen::Broken("the watch ended")),
            }
        }
        let seen = events.into_iter().map(|event| match event {
            Event::Put(kv) => Event::Put(self.seen(kv)),
            Event::Deleted { key, mod_revision } => {
                Event::Deleted { key: self.name(&key), mod_revision: mod_revision - self.base }
            }
        });
        Ok(Seen::Events(seen.collect()))
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    fn name(&self, key: &str) -> Name {
        key.strip_prefix(&self.root).unwrap_or(key).to_owned()
    }

    fn lease(&self, name: u8) -> LeaseId {
        // One that nobody has granted.
        self.leases.get(&name).copied().unwrap_or(LeaseId(4711))
    }

    async fn revision(&self, at: At) -> Result<Revision, StoreError> {
        let newest = self.store.get(&self.root, Consistency::Linearizable).await?.revision;
        Ok(match at {
            At::Zero => 0,
            At::After(n) => self.base + n,
            At::Back(n) => (newest - n).max(self.base),
            At::Ahead(n) => newest + n,
        })
    }

    async fn compare(&self, name: &str, op: CompareOp, side: &Side) -> Result<Compare, StoreError> {
        let key = self.key(name);
        Ok(match side {
            Side::Mod(at) => Compare::ModRevision(key, op, self.revision(*at).await?),
            Side::Create(at) => Compare::CreateRevision(key, op, self.revision(*at).await?),
            Side::Version(version) => Compare::Version(key, op, *version),
            Side::Value(value) => Compare::Value(key, op, Bytes::from(value.clone())),
        })
    }

    fn op(&self, act: &Act) -> Op {
        match act {
            Act::Put(name, value, lease) => Op::Put {
                key: self.key(name),
                value: Bytes::from(value.clone()),
                lease: lease.map(|name| self.lease(name)),
            },
            Act::Delete(name) => Op::Delete { key: self.key(name) },
            Act::DeleteRange(start, end) => Op::DeleteRange { start: self.key(start), end: self.key(end) },
            Act::Get(name) => Op::Get { key: self.key(name) },
        }
    }

    fn seen(&self, kv: KeyValue) -> KeyValue {
        let name = |id: LeaseId| self.leases.iter().find(|(_, lease)| **lease == id).map(|(name, _)| *name);
        KeyValue {
            key: self.name(&kv.key),
            create_revision: kv.create_revision - self.base,
            mod_revision: kv.mod_revision - self.base,
            // A lease whose name was given to a newer one is told as -1.
            lease: kv.lease.map(|id| LeaseId(name(id).map_or(-1, i64::from))),
            ..kv
        }
    }
}
