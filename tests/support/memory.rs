//! A store in memory, with the semantics of the others: for runs on paused time, which need thousands of stores and
//! nothing of a disk. `tests/store` holds it to the same rules, and plays the same sequences on it, as on the others.
//!
//! Nothing here leaves the thread, so a run on one thread is the same each time. With a seed each call takes a while
//! before and after it is done, of paused time; so calls of several callers meet in every order.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use switchyard::{
    clock,
    store::{
        Compare, CompareOp, Consistency, Event, Got, KeyValue, LeaseId, LeaseState, Op, OpAnswer, Range,
        Ranged, Revision, Store, StoreError, Txn, TxnAnswer, Watch, WatchItem,
    },
    supervise::{Handle, OnEnd, Stage, Stop},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// How often a watch on which nothing happens says so.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Changes that a watch hands out at once, unless one revision has more.
const PIECE: usize = 1_000;

pub(crate) struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    newest: watch::Sender<Newest>,
    leases_changed: Notify,
    pace: Option<Mutex<SmallRng>>,
}

#[derive(Clone, Copy)]
struct Newest {
    revision: Revision,
    closed: bool,
}

struct State {
    revision: Revision,
    compacted: Revision,
    /// What each key was, by revision; `None` from its deletion on.
    keys: BTreeMap<String, Vec<(Revision, Option<KeyValue>)>>,
    /// The changes of each revision, of which the last one is the newest.
    log: VecDeque<Vec<Event>>,
    /// Those of the revision in the making.
    making: Vec<Event>,
    leases: BTreeMap<LeaseId, Lease>,
    granted: i64,
}

struct Lease {
    ttl_seconds: u32,
    ends: Instant,
    keys: BTreeSet<String>,
}

impl MemoryStore {
    /// An empty one. It is closed when its stage of the task tree stops.
    pub(crate) fn open(seed: Option<u64>, tasks: &Handle) -> Self {
        let state = State {
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            making: Vec::new(),
            leases: BTreeMap::new(),
            granted: 1 << 32,
        };
        let inner = Arc::new(Inner {
            state: Mutex::new(state),
            newest: watch::Sender::new(Newest { revision: 1, closed: false }),
            leases_changed: Notify::new(),
            pace: seed.map(|seed| Mutex::new(SmallRng::seed_from_u64(seed))),
        });
        let leases = inner.clone();
        tasks.start(Stage::Store, "leases in memory", OnEnd::StopAll, move |stop| {
            expire(leases.clone(), stop)
        });
        Self { inner }
    }
}

async fn expire(inner: Arc<Inner>, stop: Stop) -> Result<(), Infallible> {
    while !stop.is_requested() {
        let next = {
            let (mut state, now) = (inner.state(), clock::now());
            let over: Vec<_> =
                state.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
            over.into_iter().for_each(|id| state.revoke(id));
            inner.tell(&state);
            state.leases.values().map(|lease| lease.ends).min()
        };
        tokio::select! {
            () = stop.requested() => {}
            () = inner.leases_changed.notified() => {}
            () = tokio::time::sleep_until(next.unwrap_or_else(clock::now)), if next.is_some() => {}
        }
    }
    inner.newest.send_modify(|newest| newest.closed = true);
    Ok(())
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn tell(&self, state: &State) {
        self.newest.send_if_modified(|newest| {
            let more = newest.revision != state.revision;
            newest.revision = state.revision;
            more
        });
    }

    /// The way to the store or back from it.
    async fn pace(&self) {
        let Some(pace) = &self.pace else { return };
        let drawn = pace.lock().unwrap().random_range(0..6_u64);
        match drawn {
            0..3 => {}
            3 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(Duration::from_millis(drawn - 3)).await,
        }
    }

    /// Does something, between the ways there and back. Dropped on the way back it is done all the same.
    async fn call<T>(&self, work: impl FnOnce(&mut State) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.pace().await;
        if self.newest.borrow().closed {
            return Err(closed());
        }
        let answer = {
            let mut state = self.state();
            let answer = work(&mut state);
            self.tell(&state);
            answer
        };
        self.pace().await;
        answer
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable { why: "the store is closed".to_owned() }
}

fn refused<T>(why: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Refused { why: why.into() })
}

fn within(range: (&str, &str), key: &str) -> bool {
    key >= range.0 && (range.1.is_empty() || key < range.1)
}

impl State {
    fn now(&self, key: &str) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    fn range(&self, range: &Range) -> Result<Ranged, StoreError> {
        if range.revision > self.revision {
            return refused(format!("revision {} is in the future", range.revision));
        }
        if range.revision > 0 && range.revision < self.compacted {
            return Err(StoreError::Compacted { oldest: self.compacted });
        }
        let at = if range.revision > 0 { range.revision } else { self.revision };
        let most = usize::try_from(range.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let (mut kvs, mut more) = (Vec::new(), false);
        for (key, versions) in self.keys.range(range.start.clone()..) {
            if !within((&range.start, &range.end), key) {
                break;
            }
            let then = versions.iter().rev().find(|(revision, _)| *revision <= at);
            let Some(kv) = then.and_then(|(_, kv)| kv.clone()) else { continue };
            if kvs.len() == most {
                more = true;
                break;
            }
            kvs.push(if range.keys_only { KeyValue { value: Bytes::new(), ..kv } } else { kv });
        }
        Ok(Ranged { revision: self.revision, kvs, more })
    }

    fn txn(&mut self, txn: Txn) -> Result<TxnAnswer, StoreError> {
        for ops in [&txn.then, &txn.otherwise] {
            if let Some(key) = written_twice(ops) {
                return refused(format!("`{key}` is written twice in one transaction"));
            }
        }
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { txn.then } else { txn.otherwise };
        let gone =
            |op: &Op| matches!(op, Op::Put { lease: Some(lease), .. } if !self.leases.contains_key(lease));
        if ops.iter().any(gone) {
            return Err(StoreError::LeaseGone);
        }
        let answers = ops.into_iter().map(|op| self.operation(op)).collect();
        self.end_of_revision();
        Ok(TxnAnswer { succeeded, revision: self.revision, answers })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let number = |key: &str, of: fn(&KeyValue) -> i64| self.now(key).map_or(0, of);
        match compare {
            Compare::ModRevision(key, op, than) => compared(&number(key, |kv| kv.mod_revision), *op, than),
            Compare::CreateRevision(key, op, than) => {
                compared(&number(key, |kv| kv.create_revision), *op, than)
            }
            Compare::Version(key, op, than) => compared(&number(key, |kv| kv.version), *op, than),
            Compare::Value(key, op, than) => self.now(key).is_some_and(|kv| compared(&kv.value, *op, than)),
        }
    }

    fn operation(&mut self, op: Op) -> OpAnswer {
        match op {
            Op::Put { key, value, lease } => {
                let (before, revision) = (self.now(&key), self.revision + 1);
                let kv = KeyValue {
                    key: key.clone(),
                    value,
                    create_revision: before.map_or(revision, |kv| kv.create_revision),
                    mod_revision: revision,
                    version: before.map_or(0, |kv| kv.version) + 1,
                    lease,
                };
                self.change(&key, Some(kv));
                OpAnswer::Put
            }
            Op::Delete { key } => OpAnswer::Deleted(i64::from(self.delete(&key))),
            Op::DeleteRange { start, end } => {
                let from = self.keys.range(start.clone()..).map(|(key, _)| key);
                let keys: Vec<_> = from.take_while(|key| within((&start, &end), key)).cloned().collect();
                OpAnswer::Deleted(keys.iter().map(|key| i64::from(self.delete(key))).sum())
            }
            Op::Get { key } => OpAnswer::Got(self.now(&key).cloned()),
        }
    }

    fn delete(&mut self, key: &str) -> bool {
        let is_there = self.now(key).is_some();
        if is_there {
            self.change(key, None);
        }
        is_there
    }

    /// One change of the revision in the making.
    fn change(&mut self, key: &str, next: Option<KeyValue>) {
        let (old, new) = (self.now(key).and_then(|kv| kv.lease), next.as_ref().and_then(|kv| kv.lease));
        if let Some(lease) = old.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.remove(key);
        }
        if let Some(lease) = new.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(key.to_owned());
        }
        let revision = self.revision + 1;
        let deleted = || Event::Deleted { key: key.to_owned(), mod_revision: revision };
        self.making.push(next.clone().map_or_else(deleted, Event::Put));
        self.keys.entry(key.to_owned()).or_default().push((revision, next));
    }

    fn end_of_revision(&mut self) {
        if !self.making.is_empty() {
            self.revision += 1;
            self.log.push_back(std::mem::take(&mut self.making));
        }
    }

    fn revoke(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.remove(&id) else { return };
        for key in &lease.keys {
            self.delete(key);
        }
        self.end_of_revision();
    }

    fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return refused(format!("revision {revision} is in the future"));
        }
        if revision <= self.compacted {
            return Ok(());
        }
        self.compacted = revision;
        while self.revision - (self.log.len() as Revision) + 1 < revision {
            self.log.pop_front();
        }
        self.keys.retain(|_, versions| {
            let needed = versions.iter().rposition(|(at, _)| *at <= revision).unwrap_or(0);
            versions.drain(..needed);
            versions.len() > 1 || versions.iter().any(|(at, kv)| kv.is_some() || *at > revision)
        });
        Ok(())
    }

    /// Changes of keys that begin with `prefix` from a revision on, whole revisions; and where to go on.
    fn changes(&self, prefix: &str, from: Revision) -> (Vec<Event>, Revision) {
        let first = self.revision - (self.log.len() as Revision) + 1;
        let skip = usize::try_from(from - first).unwrap_or(0);
        let (mut events, mut next) = (Vec::new(), from.max(first));
        for made in self.log.iter().skip(skip) {
            events.extend(made.iter().filter(|event| event.key().starts_with(prefix)).cloned());
            next += 1;
            if events.len() >= PIECE {
                break;
            }
        }
        (events, next)
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

/// A key that is put twice, or put and deleted.
fn written_twice(ops: &[Op]) -> Option<&str> {
    let mut puts = BTreeSet::new();
    for op in ops {
        if let Op::Put { key, .. } = op
            && !puts.insert(key.as_str())
        {
            return Some(key);
        }
    }
    ops.iter().find_map(|op| match op {
        Op::Delete { key } => puts.get(key.as_str()).copied(),
        Op::DeleteRange { start, end } => puts.iter().find(|key| within((start, end), key)).copied(),
        Op::Put { .. } | Op::Get { .. } => None,
    })
}

struct Watching {
    inner: Arc<Inner>,
    newest: watch::Receiver<Newest>,
    prefix: String,
    next: Revision,
    over: bool,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<WatchItem, StoreError>, Self)> {
        while !self.over {
            let newest = *self.newest.borrow_and_update();
            if self.next <= newest.revision {
                self.inner.pace().await;
                let (compacted, (events, next)) = {
                    let state = self.inner.state();
                    (state.compacted, state.changes(&self.prefix, self.next))
                };
                if self.next < compacted {
                    self.over = true;
                    return Some((Ok(WatchItem::Compacted { oldest: compacted }), self));
                }
                self.next = next;
                if let Some(revision) = events.last().map(Event::revision) {
                    return Some((Ok(WatchItem::Events { revision, events }), self));
                }
            } else if newest.closed {
                self.over = true;
                return Some((Err(closed()), self));
            } else {
                tokio::select! {
                    _ = self.newest.changed() => {}
                    () = tokio::time::sleep(PROGRESS_EVERY) => {
                        return Some((Ok(WatchItem::Progress(newest.revision)), self));
                    }
                }
            }
        }
        None
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str, _: Consistency) -> Result<Got, StoreError> {
        let got = |state: &mut State| match key {
            "" => refused("the empty key is not allowed"),
            key => Ok(Got { revision: state.revision, kv: state.now(key).cloned() }),
        };
        self.inner.call(got).await
    }

    async fn range(&self, range: Range) -> Result<Ranged, StoreError> {
        self.inner.call(|state| state.range(&range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, StoreError> {
        txn.within_limits()?;
        self.inner.call(|state| state.txn(txn)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let newest = self.inner.newest.subscribe();
        let Newest { revision, closed: is_closed } = *newest.borrow();
        if is_closed {
            return Err(closed());
        }
        let next = if from > 0 { from } else { revision + 1 };
        let watching =
            Watching { inner: self.inner.clone(), newest, prefix: prefix.to_owned(), next, over: false };
        Ok(Watch::new(stream::unfold(watching, Watching::next)))
    }

    async fn lease_grant(&self, ttl_seconds: u32) -> Result<LeaseId, StoreError> {
        let ttl_seconds = ttl_seconds.max(1);
        let granted = |state: &mut State| {
            state.granted += 1;
            let ends = clock::now() + Duration::from_secs(ttl_seconds.into());
            state.leases.insert(LeaseId(state.granted), Lease { ttl_seconds, ends, keys: BTreeSet::new() });
            self.inner.leases_changed.notify_one();
            Ok(LeaseId(state.granted))
        };
        self.inner.call(granted).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        let kept = |state: &mut State| {
            let now = clock::now();
            match state.leases.get_mut(&lease) {
                Some(lease) if lease.ends > now => {
                    lease.ends = now + Duration::from_secs(lease.ttl_seconds.into());
                    Ok(LeaseState::Alive)
                }
                // Gone means that its keys are, too.
                _ => {
                    state.revoke(lease);
                    Ok(LeaseState::Gone)
                }
            }
        };
        self.inner.call(kept).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner
            .call(|state| {
                state.revoke(lease);
                Ok(())
            })
            .await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.call(|state| state.compact(revision)).await
    }
}
