//! The one writer: takes what waits, does all of it in one redb transaction, and answers when that is on the disk.
//!
//! While a commit waits for the disk the next batch gathers, so many concurrent writers share each sync.

use std::sync::Arc;

use redb::{Database, Durability};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::{Inner, State, apply::Tables, disk, leases::Taken};
use crate::{
    clock,
    store::{LeaseId, Revision, StoreError, Txn, TxnAnswer},
    supervise::Stop,
};

/// Most jobs that share a commit.
const BATCH: usize = 256;

/// Changes forgotten in one commit after a compaction: a long history is cleaned up piece by piece.
const CLEAN: usize = 2_000;

/// History is kept for at least so many revisions or so many bytes, and at most for twice as many.
const KEEP_REVISIONS: Revision = 10_000;
const KEEP_BYTES: usize = 64 << 20;

/// What may be asked of the writer.
pub(super) enum Ask {
    Txn(Txn),
    Grant(LeaseId, u32),
    Revoke(LeaseId),
    /// Only if its time is over: it may have been renewed since somebody looked.
    Expire(LeaseId),
    Compact(Revision),
}

/// What it answers.
pub(super) enum Answer {
    Txn(TxnAnswer),
    Granted(bool),
    Done,
}

/// Something to write, and who waits for it.
pub(super) struct Job {
    pub(super) ask: Ask,
    pub(super) reply: oneshot::Sender<Result<Answer, StoreError>>,
}

/// The writer's own memory.
pub(super) struct Writer {
    pub(super) inner: Arc<Inner>,
    pub(super) jobs: mpsc::Receiver<Job>,
}

/// Where the last full stretch of history ended, and what came since: see [`KEEP_REVISIONS`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    last: Revision,
    bytes: usize,
    keep_revisions: Revision,
    keep_bytes: usize,
}

impl Marks {
    pub(super) fn new(revision: Revision) -> Self {
        Self::keeping(revision, KEEP_REVISIONS, KEEP_BYTES)
    }

    pub(super) fn keeping(revision: Revision, keep_revisions: Revision, keep_bytes: usize) -> Self {
        Self { last: revision, bytes: 0, keep_revisions, keep_bytes }
    }

    /// Counts a batch; returns the revision to compact to when a stretch is full.
    fn count(&mut self, revision: Revision, bytes: usize) -> Option<Revision> {
        self.bytes += bytes;
        if revision - self.last < self.keep_revisions && self.bytes < self.keep_bytes {
            return None;
        }
        let due = self.last;
        (self.last, self.bytes) = (revision, 0);
        Some(due)
    }
}

/// What a batch has reached when it is committed.
struct Reached {
    answers: Vec<Result<Answer, StoreError>>,
    revision: Revision,
    marks: Marks,
    more_to_clean: bool,
}

/// Where a batch broke off.
enum Broken {
    /// Before the commit: certainly not done.
    Before(redb::Error),
    /// In commit number so many: it is on the disk or not.
    Commit(i64, Box<Reached>, redb::Error),
}

impl Writer {
    /// Runs until asked to stop, then does what is still waiting and closes the file.
    pub(super) async fn run(mut self, stop: Stop) -> Result<(), StoreError> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut more_to_clean = true;
        loop {
            tokio::select! {
                biased;
                () = stop.requested() => break,
                // With something left to clean, an empty batch does it while nobody waits.
                () = std::future::ready(()), if more_to_clean && self.jobs.is_empty() => {}
                count = self.jobs.recv_many(&mut batch, BATCH) => if count == 0 {
                    break;
                },
            }
            more_to_clean = self.write(std::mem::take(&mut batch)).await;
        }
        self.jobs.close();
        while self.jobs.recv_many(&mut batch, BATCH).await > 0 {
            self.write(std::mem::take(&mut batch)).await;
        }
        let inner = self.inner.clone();
        let closed = tokio::task::spawn_blocking(move || inner.close()).await;
        if let Err(error) = closed {
            error!(%error, "embedded store did not close");
        }
        // Nobody holds the store any more: that is no reason to end the process.
        stop.requested().await;
        Ok(())
    }

    async fn write(&mut self, batch: Vec<Job>) -> bool {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || inner.write(batch)).await {
            Ok(more_to_clean) => more_to_clean,
            Err(error) => {
                // Whoever waits sees the reply dropped, which is an unknown outcome.
                error!(%error, "embedded store failed in a batch");
                false
            }
        }
    }
}

impl Inner {
    /// Does a batch and answers everybody in it. Says whether there is more to clean up.
    fn write(&self, batch: Vec<Job>) -> bool {
        let (asks, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|job| (job.ask, job.reply)).unzip();
        let mut taken = Vec::new();
        let result = match self.with_db(|db| self.attempt(db, &asks, &mut taken)) {
            Some(Ok(reached)) => Ok(reached),
            Some(Err(broken)) => self.settle(broken),
            // The last fault could not be mended; perhaps it can now, for the next batch.
            None => {
                self.reopen();
                Err(StoreError::Unavailable { why: "the store's file cannot be opened".to_owned() })
            }
        };
        let (answers, more_to_clean) = match result {
            Ok(reached) => {
                *self.marks() = reached.marks;
                for (ask, answer) in asks.iter().zip(&reached.answers) {
                    if let (Ask::Grant(id, ttl), Ok(Answer::Granted(true))) = (ask, answer) {
                        self.leases.begin(*id, *ttl, clock::boot());
                    }
                }
                self.state.send_modify(|state| state.revision = reached.revision);
                (reached.answers, reached.more_to_clean)
            }
            Err(error) => {
                for lease in taken {
                    self.leases.put_back(lease, clock::boot());
                }
                (asks.iter().map(|_| Err(error.clone())).collect(), false)
            }
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Who no longer waits need not know.
            reply.send(answer).ok();
        }
        more_to_clean
    }

    fn attempt(&self, db: &Database, asks: &[Ask], taken: &mut Vec<Taken>) -> Result<Reached, Broken> {
        let mut write = db.begin_write().map_err(|error| Broken::Before(error.into()))?;
        write.set_durability(Durability::Immediate).map_err(|error| Broken::Before(error.into()))?;
        let (reached, commit) = self.apply(&write, asks, taken).map_err(Broken::Before)?;
        match commit {
            // Nothing was changed: nothing to sync.
            None => write.abort().map_err(|error| Broken::Before(error.into()))?,
            Some(number) => {
                if let Err(error) = write.commit() {
                    return Err(Broken::Commit(number, Box::new(reached), error.into()));
                }
            }
        }
        Ok(reached)
    }

    fn apply(
        &self,
        write: &redb::WriteTransaction,
        asks: &[Ask],
        taken: &mut Vec<Taken>,
    ) -> Result<(Reached, Option<i64>), redb::Error> {
        let mut tables = Tables::open(write)?;
        let mut answers = Vec::with_capacity(asks.len());
        for ask in asks {
            answers.push(match ask {
                Ask::Txn(txn) => tables.txn(txn)?.map(Answer::Txn),
                Ask::Grant(id, ttl) => Ok(Answer::Granted(tables.grant(*id, *ttl)?)),
                Ask::Revoke(id) => {
                    taken.extend(self.leases.take(*id));
                    tables.revoke(*id)?;
                    Ok(Answer::Done)
                }
                Ask::Expire(id) => {
                    if let Some(lease) = self.leases.take_if_over(*id, clock::boot()) {
                        taken.push(lease);
                        tables.revoke(*id)?;
                    }
                    Ok(Answer::Done)
                }
                Ask::Compact(revision) => tables.compact(*revision).map(|()| Answer::Done),
            });
        }
        let mut marks = *self.marks();
        if let Some(due) = marks.count(tables.revision, tables.superseded) {
            // A revision that was reached is never in the future.
            tables.compact(due).ok();
        }
        let more_to_clean = tables.clean(CLEAN)?;
        let revision = tables.revision;
        Ok((Reached { answers, revision, marks, more_to_clean }, tables.close()?))
    }

    /// After a fault the file is opened anew, and tells whether a commit is in it.
    fn settle(&self, broken: Broken) -> Result<Reached, StoreError> {
        let reopened = self.reopen();
        let (number, reached, error) = match broken {
            Broken::Before(error) => {
                error!(%error, "embedded store could not write");
                return Err(refusal(&error));
            }
            Broken::Commit(number, reached, error) => (number, reached, error),
        };
        error!(%error, commit = number, reopened, "embedded store could not commit");
        let commits = self.with_db(|db| -> Result<i64, redb::Error> {
            disk::number(&redb::ReadableDatabase::begin_read(db)?.open_table(disk::META)?, disk::COMMITS)
        });
        match commits {
            Some(Ok(commits)) if commits >= number => Ok(*reached),
            Some(Ok(_)) => Err(refusal(&error)),
            Some(Err(_)) | None => Err(StoreError::Unknown { why: error.to_string() }),
        }
    }

    fn reopen(&self) -> bool {
        let mut open = self.open.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if open.lock.is_none() {
            return false;
        }
        // The old one must let go of the file first.
        open.db = None;
        match (self.opener)() {
            Ok(db) => {
                open.db = Some(db);
                info!("embedded store was opened anew");
                true
            }
            Err(error) => {
                warn!(%error, "embedded store could not be opened anew");
                false
            }
        }
    }

    fn close(&self) {
        let mut open = self.open.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        open.db = None;
        open.lock = None;
        drop(open);
        self.state.send_modify(|state: &mut State| state.closed = true);
    }
}

/// A full disk will refuse again; other faults may pass.
fn refusal(error: &redb::Error) -> StoreError {
    let why = error.to_string();
    match error {
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => StoreError::Full { why },
        _ => StoreError::Unavailable { why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_cut_once_a_stretch_of_it_is_full_and_keeps_the_last_full_one() {
        let mut marks = Marks::new(1);
        assert_eq!(marks.count(KEEP_REVISIONS, 10), None);
        assert_eq!(marks.count(KEEP_REVISIONS + 1, 10), Some(1));
        assert_eq!(marks.count(KEEP_REVISIONS + 2, KEEP_BYTES), Some(KEEP_REVISIONS + 1));
        assert_eq!(marks.count(KEEP_REVISIONS + 3, 10), None);
    }
}
