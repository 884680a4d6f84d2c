//! Transactions, leases and compaction, applied to tables that are open for writing.
//!
//! Everything that can be refused is refused before the first change, so that one refused transaction leaves
//! nothing behind in the batch it shares with others.

use redb::{ReadableTable, Table, WriteTransaction};

use super::disk::{
    self, COMMITS, COMPACTED, CURRENT, HISTORY, LEASED, LEASES, META, OLD, REVISION, bounds, decode, encode,
};
use crate::store::{
    Compare, CompareOp, KeyValue, LeaseId, Op, OpAnswer, Revision, StoreError, Txn, TxnAnswer,
};

/// All tables, open for writing, and the revision that has been reached.
pub(super) struct Tables<'t> {
    meta: Table<'t, &'static str, i64>,
    current: Table<'t, &'static str, &'static [u8]>,
    old: Table<'t, (&'static str, i64), &'static [u8]>,
    history: Table<'t, (i64, u32), &'static str>,
    leases: Table<'t, i64, u32>,
    leased: Table<'t, (i64, &'static str), ()>,
    /// The newest revision.
    pub(super) revision: Revision,
    /// The oldest readable revision.
    pub(super) compacted: Revision,
    /// How many changes the revision in the making has.
    changes: u32,
    /// Bytes of keys and values that went into history, for whoever decides on compaction.
    pub(super) superseded: usize,
    touched: bool,
}

type Refusable<T> = Result<Result<T, StoreError>, redb::Error>;

impl<'t> Tables<'t> {
    pub(super) fn open(write: &'t WriteTransaction) -> Result<Self, redb::Error> {
        let meta = write.open_table(META)?;
        let (revision, compacted) = (disk::number(&meta, REVISION)?, disk::number(&meta, COMPACTED)?);
        Ok(Self {
            current: write.open_table(CURRENT)?,
            old: write.open_table(OLD)?,
            history: write.open_table(HISTORY)?,
            leases: write.open_table(LEASES)?,
            leased: write.open_table(LEASED)?,
            meta,
            revision: revision.max(disk::FIRST_REVISION),
            compacted,
            changes: 0,
            superseded: 0,
            touched: false,
        })
    }

    /// Writes down what was reached. Returns the number of the commit that is to follow, if one is needed.
    pub(super) fn close(mut self) -> Result<Option<i64>, redb::Error> {
        if !self.touched {
            return Ok(None);
        }
        let commits = disk::number(&self.meta, COMMITS)? + 1;
        self.meta.insert(COMMITS, commits)?;
        self.meta.insert(REVISION, self.revision)?;
        self.meta.insert(COMPACTED, self.compacted)?;
        Ok(Some(commits))
    }

    /// A transaction.
    pub(super) fn txn(&mut self, txn: &Txn) -> Refusable<TxnAnswer> {
        for ops in [&txn.then, &txn.otherwise] {
            if let Some(key) = twice(ops) {
                return Ok(Err(StoreError::Refused {
                    why: format!("`{key}` is written twice in one transaction"),
                }));
            }
        }
        let mut succeeded = true;
        for compare in &txn.compares {
            succeeded = succeeded && self.holds(compare)?;
        }
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        for op in ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && self.leases.get(lease.0)?.is_none()
            {
                return Ok(Err(StoreError::LeaseGone));
            }
        }
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(self.operation(op)?);
        }
        self.end_of_revision();
        Ok(Ok(TxnAnswer { succeeded, revision: self.revision, answers }))
    }

    fn holds(&self, compare: &Compare) -> Result<bool, redb::Error> {
        Ok(match compare {
            Compare::ModRevision(key, op, than) => {
                compared(&disk::get(&self.current, key)?.map_or(0, |kv| kv.mod_revision), *op, than)
            }
            Compare::CreateRevision(key, op, than) => {
                compared(&disk::get(&self.current, key)?.map_or(0, |kv| kv.create_revision), *op, than)
            }
            Compare::Version(key, op, than) => {
                compared(&disk::get(&self.current, key)?.map_or(0, |kv| kv.version), *op, than)
            }
            Compare::Value(key, op, than) => {
                disk::get(&self.current, key)?.is_some_and(|kv| compared(&kv.value, *op, than))
            }
        })
    }

    fn operation(&mut self, op: &Op) -> Result<OpAnswer, redb::Error> {
        match op {
            Op::Put { key, value, lease } => {
                let before = disk::get(&self.current, key)?;
                let revision = self.revision + 1;
                let kv = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
                    mod_revision: revision,
                    version: before.as_ref().map_or(1, |kv| kv.version + 1),
                    lease: *lease,
                };
                self.put_aside(before)?;
                self.current.insert(key.as_str(), encode(&kv).as_slice())?;
                if let Some(lease) = lease {
                    self.leased.insert((lease.0, key.as_str()), ())?;
                }
                self.note(key)?;
                Ok(OpAnswer::Put)
            }
            Op::Delete { key } => Ok(OpAnswer::Deleted(i64::from(self.delete(key)?))),
            Op::DeleteRange { start, end } => {
                let mut keys = Vec::new();
                if let Some(bounds) = bounds(start, end) {
                    for entry in self.current.range::<&str>(bounds)? {
                        keys.push(entry?.0.value().to_owned());
                    }
                }
                let mut deleted = 0;
                for key in keys {
                    deleted += i64::from(self.delete(&key)?);
                }
                Ok(OpAnswer::Deleted(deleted))
            }
            Op::Get { key } => Ok(OpAnswer::Got(disk::get(&self.current, key)?)),
        }
    }

    fn delete(&mut self, key: &str) -> Result<bool, redb::Error> {
        let before = self.current.remove(key)?.and_then(|bytes| decode(key, bytes.value()));
        if before.is_none() {
            return Ok(false);
        }
        self.put_aside(before)?;
        self.old.insert((key, self.revision + 1), [].as_slice())?;
        self.note(key)?;
        Ok(true)
    }

    /// Keeps what a key was until now, and takes it out of its lease.
    fn put_aside(&mut self, before: Option<KeyValue>) -> Result<(), redb::Error> {
        let Some(kv) = before else { return Ok(()) };
        if let Some(lease) = kv.lease {
            self.leased.remove((lease.0, kv.key.as_str()))?;
        }
        self.old.insert((kv.key.as_str(), kv.mod_revision), encode(&kv).as_slice())?;
        self.superseded += kv.key.len() + kv.value.len();
        Ok(())
    }

    /// One more change of the revision in the making.
    fn note(&mut self, key: &str) -> Result<(), redb::Error> {
        self.history.insert((self.revision + 1, self.changes), key)?;
        self.changes += 1;
        self.superseded += key.len();
        Ok(())
    }

    fn end_of_revision(&mut self) {
        if self.changes > 0 {
            self.revision += 1;
            self.changes = 0;
            self.touched = true;
        }
    }

    /// A new lease, unless the number is taken.
    pub(super) fn grant(&mut self, lease: LeaseId, ttl_seconds: u32) -> Result<bool, redb::Error> {
        if self.leases.get(lease.0)?.is_some() {
            return Ok(false);
        }
        self.leases.insert(lease.0, ttl_seconds)?;
        self.touched = true;
        Ok(true)
    }

    /// Ends a lease and deletes its keys in one revision, in key order.
    pub(super) fn revoke(&mut self, lease: LeaseId) -> Result<(), redb::Error> {
        if self.leases.remove(lease.0)?.is_none() {
            return Ok(());
        }
        self.touched = true;
        let mut keys = Vec::new();
        for entry in self.leased.range((lease.0, "")..)? {
            let (entry, _) = entry?;
            let (id, key) = entry.value();
            if id != lease.0 {
                break;
            }
            keys.push(key.to_owned());
        }
        for key in keys {
            self.delete(&key)?;
        }
        self.end_of_revision();
        Ok(())
    }

    /// Nothing older than `revision` can be read from now on; the space is freed by [`Tables::clean`].
    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            let why = format!("revision {revision} is in the future; the newest is {}", self.revision);
            return Err(StoreError::Refused { why });
        }
        if revision > self.compacted {
            self.compacted = revision;
            self.touched = true;
        }
        Ok(())
    }

    /// Forgets what only revisions before the compacted one need, at most `most` changes at a time.
    /// Says whether there is more to do.
    pub(super) fn clean(&mut self, most: usize) -> Result<bool, redb::Error> {
        let mut done = Vec::new();
        for entry in self.history.range(..(self.compacted, 0))?.take(most) {
            let (at, key) = entry?;
            done.push((at.value(), key.value().to_owned()));
        }
        for ((revision, n), key) in &done {
            let key = key.as_str();
            // Whatever this change replaced. What it made goes when a later change of the key is cleaned.
            self.old.retain_in((key, i64::MIN)..(key, *revision), |_, _| false)?;
            let deleted = self.old.get((key, *revision))?.is_some_and(|bytes| bytes.value().is_empty());
            if deleted {
                self.old.remove((key, *revision))?;
            }
            self.history.remove((*revision, *n))?;
            self.touched = true;
        }
        Ok(done.len() == most)
    }
}

fn compared<T: Ord>(left: &T, op: CompareOp, right: &T) -> bool {
    match op {
        CompareOp::Equal => left == right,
        CompareOp::NotEqual => left != right,
        CompareOp::Greater => left > right,
        CompareOp::Less => left < right,
    }
}

/// A key that is put twice, or put and deleted. Deleting twice is harmless, and etcd allows it too.
fn twice(ops: &[Op]) -> Option<&str> {
    let mut puts = std::collections::BTreeSet::new();
    for op in ops {
        if let Op::Put { key, .. } = op
            && !puts.insert(key.as_str())
        {
            return Some(key);
        }
    }
    ops.iter().find_map(|op| match op {
        Op::Delete { key } => puts.get(key.as_str()).copied(),
        Op::DeleteRange { start, end } => {
            bounds(start, end).and_then(|bounds| puts.range::<str, _>(bounds).next().copied())
        }
        Op::Put { .. } | Op::Get { .. } => None,
    })
}
