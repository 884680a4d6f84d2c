//! The store of one process: everything in one file on the local disk, with etcd's semantics.
//!
//! ```text
//!   txn, lease, compact ──▶ queue ──▶ writer: one batch = one redb commit = one sync ──▶ answers
//!   get, range ─────────────────────▶ a redb snapshot, off the runtime's workers
//!   watch ◀── pieces of history, read when the writer says that there is a newer revision
//! ```
//!
//! An answer means that the change is on the disk: killed at any moment, the store opens again with everything
//! it has acknowledged. Readers see committed data only.

mod apply;
mod disk;
mod file;
mod leases;
mod writer;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream;
use rand::Rng;
use redb::{Database, ReadTransaction, ReadableDatabase};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

use self::{
    file::{DirLock, Opener},
    leases::Leases,
    writer::{Answer, Ask, Job, Marks, Writer},
};
use super::{
    Consistency, Got, LeaseId, LeaseState, Range, Ranged, Revision, Store, StoreError, Txn, TxnAnswer, Watch,
    WatchItem,
};
use crate::{
    clock,
    supervise::{Handle, OnEnd, Stage, Stop},
};

pub use file::OpenError;

/// Jobs that may wait for the writer. Full: the next one waits, within its time.
const QUEUE: usize = 1024;

/// How long anything may take: far more than a healthy disk needs, so that only a stuck one is given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a watch on which nothing happens says so.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Longest sleep between looks at the leases: timers stand still in a suspended machine, leases do not.
const LEASE_LOOK: Duration = Duration::from_secs(1);

/// A store in a directory. Share it as an [`Arc`]; it is closed when its stage of the task tree stops.
#[derive(Debug)]
pub struct EmbeddedStore {
    inner: Arc<Inner>,
    jobs: mpsc::Sender<Job>,
}

/// What readers, watches and the writer share.
struct Inner {
    open: RwLock<Open>,
    opener: Opener,
    leases: Leases,
    marks: Mutex<Marks>,
    state: watch::Sender<State>,
}

/// The file while it is open. Without a database it is broken for now, without a lock it is closed for good.
struct Open {
    // Before the lock, so that the file is free when the directory is.
    db: Option<Database>,
    lock: Option<DirLock>,
}

/// What watches wait for.
#[derive(Debug, Clone, Copy)]
struct State {
    revision: Revision,
    closed: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens the store in `dir`, which is made if it is not there; repairs it after a crash.
    ///
    /// Errors when another process holds the directory, naming it, and when the file cannot be used.
    pub async fn open(dir: &Path, tasks: Handle) -> Result<Self, OpenError> {
        let dir = dir.to_owned();
        let opening = tokio::task::spawn_blocking(move || {
            let lock = file::lock(&dir)?;
            let (path, opener) = file::opener(&dir);
            Self::prepare(Some(lock), &path, opener)
        });
        let (inner, revision) = opening.await.map_err(|error| OpenError::Directory {
            dir: "store".to_owned(),
            source: std::io::Error::other(error),
        })??;
        tracing::info!(revision, "embedded store opened");
        Ok(Self::start(inner, &tasks))
    }

    fn prepare(lock: Option<DirLock>, path: &Path, opener: Opener) -> Result<(Inner, Revision), OpenError> {
        let name = || path.display().to_string();
        let failed = |source| OpenError::File { file: name(), source: Box::new(source) };
        let db = opener().map_err(failed)?;
        let found =
            file::prepare(&db).map_err(failed)?.map_err(|found| OpenError::Format { file: name(), found })?;
        let leases = Leases::default();
        for (id, ttl) in found.leases {
            leases.begin(id, ttl, clock::boot());
        }
        let inner = Inner {
            open: RwLock::new(Open { db: Some(db), lock }),
            opener,
            leases,
            marks: Mutex::new(Marks::new(found.revision)),
            state: watch::Sender::new(State { revision: found.revision, closed: false }),
        };
        Ok((inner, found.revision))
    }

    fn start(inner: Inner, tasks: &Handle) -> Self {
        let inner = Arc::new(inner);
        let (jobs, waiting) = mpsc::channel(QUEUE);
        let writer = Writer { inner: inner.clone(), jobs: waiting };
        tasks.start_vital(Stage::Store, "embedded store", |stop| writer.run(stop));
        let (leases, weak) = (inner.clone(), jobs.downgrade());
        tasks.start(Stage::Store, "embedded store leases", OnEnd::Restart(LEASE_LOOK), move |stop| {
            expire(leases.clone(), weak.clone(), stop)
        });
        Self { inner, jobs }
    }

    /// Has the writer do something; the time includes the wait for a place in its queue.
    async fn ask(&self, ask: Ask) -> Result<Answer, StoreError> {
        let deadline = clock::now() + REQUEST_TIMEOUT;
        let (reply, answer) = oneshot::channel();
        let place = match timeout_at(deadline, self.jobs.reserve()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(closed()),
            Err(_) => return Err(StoreError::Unavailable { why: "too many writes are waiting".to_owned() }),
        };
        place.send(Job { ask, reply });
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(StoreError::Unknown { why: "the store's writer ended".to_owned() }),
            Err(_) => Err(StoreError::Unknown { why: "the disk has not answered in time".to_owned() }),
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable { why: "the store is closed".to_owned() }
}

/// Ends leases whose time is over.
async fn expire(inner: Arc<Inner>, jobs: mpsc::WeakSender<Job>, stop: Stop) -> Result<(), StoreError> {
    loop {
        if inner.is_broken()
            && let Some(jobs) = jobs.upgrade()
        {
            // The writer tries to open the file whenever it is given something; nobody else may have anything for it.
            let (reply, answer) = oneshot::channel();
            if jobs.send(Job { ask: Ask::Expire(LeaseId(0)), reply }).await.is_ok() {
                drop(answer.await);
            }
        }
        let (over, next) = inner.leases.over(clock::boot());
        let Some(jobs) = jobs.upgrade().filter(|_| !over.is_empty()) else {
            let wait = next.map_or(LEASE_LOOK, |next| next.saturating_sub(clock::boot())).min(LEASE_LOOK);
            tokio::select! {
                () = stop.requested() => return Ok(()),
                () = inner.leases.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            continue;
        };
        let mut failed = false;
        for id in over {
            let (reply, answer) = oneshot::channel();
            if jobs.send(Job { ask: Ask::Expire(id), reply }).await.is_err() {
                break;
            }
            failed |= !matches!(answer.await, Ok(Ok(_)));
        }
        drop(jobs);
        if failed || stop.is_requested() {
            // The disk is in trouble or the store is being closed: no hurry.
            tokio::select! {
                () = stop.requested() => return Ok(()),
                () = tokio::time::sleep(LEASE_LOOK) => {}
            }
        }
    }
}

impl Inner {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the file could not be opened anew after a fault. One that was closed for good is not.
    fn is_broken(&self) -> bool {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.db.is_none() && open.lock.is_some()
    }

    /// Does something with the database, if it is open. For threads that may block.
    fn with_db<T>(&self, work: impl FnOnce(&Database) -> T) -> Option<T> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.db.as_ref().map(work)
    }

    /// Reads off the runtime's workers. A read that failed has done nothing, whatever became of it.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.clone();
        let deadline: Instant = clock::now() + REQUEST_TIMEOUT;
        let reading = tokio::task::spawn_blocking(move || {
            inner.with_db(|db| db.begin_read().map_err(redb::Error::from).and_then(|read| work(&read)))
        });
        match timeout_at(deadline, reading).await {
            Ok(Ok(Some(Ok(value)))) => Ok(value),
            Ok(Ok(Some(Err(error)))) => Err(StoreError::Unavailable { why: error.to_string() }),
            Ok(Ok(None)) if self.is_broken() => {
                let why = "its file could not be opened after a fault, and is tried again every second";
                Err(StoreError::Unavailable { why: why.to_owned() })
            }
            Ok(Ok(None)) => Err(closed()),
            Ok(Err(error)) => Err(StoreError::Unavailable { why: error.to_string() }),
            Err(_) => Err(StoreError::Unavailable { why: "the disk has not answered in time".to_owned() }),
        }
    }
}

/// A running watch: where it is in history.
struct Watching {
    inner: Arc<Inner>,
    state: watch::Receiver<State>,
    prefix: String,
    next: Revision,
    over: bool,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<WatchItem, StoreError>, Self)> {
        if self.over {
            return None;
        }
        let item = loop {
            let state = *self.state.borrow_and_update();
            if self.next <= state.revision {
                let (prefix, from) = (self.prefix.clone(), self.next);
                match self.inner.read(move |read| disk::read_history(read, &prefix, from)).await {
                    Ok(piece) => {
                        self.next = piece.next;
                        match piece.item {
                            Some(item) => break Ok(item),
                            None => continue,
                        }
                    }
                    Err(error) => break Err(error),
                }
            }
            if state.closed {
                break Err(closed());
            }
            tokio::select! {
                changed = self.state.changed() => if changed.is_err() {
                    break Err(closed());
                },
                () = tokio::time::sleep(PROGRESS_EVERY) => break Ok(WatchItem::Progress(state.revision)),
            }
        };
        self.over = !matches!(item, Ok(WatchItem::Events { .. } | WatchItem::Progress(_)));
        Some((item, self))
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str, _: Consistency) -> Result<Got, StoreError> {
        if key.is_empty() {
            return Err(StoreError::Refused { why: "the empty key is not allowed".to_owned() });
        }
        let key = key.to_owned();
        let (revision, kv) = self.inner.read(move |read| disk::read_key(read, &key)).await?;
        Ok(Got { revision, kv })
    }

    async fn range(&self, range: Range) -> Result<Ranged, StoreError> {
        self.inner.read(move |read| disk::read_range(read, &range)).await?
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, StoreError> {
        txn.within_limits()?;
        match self.ask(Ask::Txn(txn)).await? {
            Answer::Txn(answer) => Ok(answer),
            Answer::Granted(_) | Answer::Done => Err(StoreError::Unknown { why: "wrong answer".to_owned() }),
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let state = self.inner.state.subscribe();
        let State { revision, closed: is_closed } = *state.borrow();
        if is_closed {
            return Err(closed());
        }
        let next = if from > 0 { from } else { revision + 1 };
        let watching =
            Watching { inner: self.inner.clone(), state, prefix: prefix.to_owned(), next, over: false };
        Ok(Watch::new(stream::unfold(watching, Watching::next)))
    }

    async fn lease_grant(&self, ttl_seconds: u32) -> Result<LeaseId, StoreError> {
        loop {
            let id = LeaseId(rand::rng().random_range(1..i64::MAX));
            if let Answer::Granted(true) = self.ask(Ask::Grant(id, ttl_seconds.max(1))).await? {
                return Ok(id);
            }
        }
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        match self.inner.leases.keep_alive(lease, clock::boot()) {
            Some(state) => Ok(state),
            // Gone means that its keys are, too.
            None => self.ask(Ask::Expire(lease)).await.map(|_| LeaseState::Gone),
        }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(Ask::Revoke(lease)).await.map(drop)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(Ask::Compact(revision)).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
