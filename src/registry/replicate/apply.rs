//! Works off what was read: fetches what an entry needs, gives it to its repository, applies the entry. Whatever
//! fails is tried again for ever; nothing is skipped.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::{
    adopt::{Adopt, AdoptError},
    fetch::FetchHandle,
    follow::Work,
    status::Status,
};
use crate::{
    registry::{
        content::{Content, ContentError},
        journal::{BATCH, Journal, JournalError},
    },
    supervise::Stop,
    telemetry::chain,
    wire::replication::{BlobRef, Change, Entry},
};

/// The first pause after a failure; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(250);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);

pub(super) struct Apply {
    pub(super) content: Arc<dyn Content>,
    pub(super) journal: Journal,
    pub(super) fetcher: FetchHandle,
    pub(super) status: Arc<Status>,
    pub(super) adopt: Adopt,
    /// Set while what was read is not to be worked off: a snapshot takes its place.
    pub(super) abandoned: watch::Sender<bool>,
}

/// The registry stops.
pub(super) struct Stopped;

impl Apply {
    /// Runs until stopped, or until nothing more is read.
    pub(super) async fn run(self, mut work: mpsc::Receiver<Work>, stop: Stop) {
        loop {
            let next = tokio::select! {
                () = stop.requested() => return,
                next = work.recv() => next,
            };
            let done = match next {
                None => return,
                Some(Work::Entries(entries, from_writer)) => {
                    let done = self.entries(entries, &stop).await;
                    if done.is_ok() && from_writer {
                        // What it has now is the beginning of its writer's history.
                        self.journal.confirm();
                    }
                    done
                }
                Some(Work::Adopt(why, done)) => {
                    self.abandoned.send_replace(false);
                    let adopted = self.again(&stop, || async { self.adopt.run(&why).await }).await;
                    self.status.forget();
                    // Who asked goes on from the snapshot; when it is gone, so is this loop's work.
                    adopted.and(done.send(()).map_err(|()| Stopped))
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn entries(&self, entries: Vec<(Entry, Bytes)>, stop: &Stop) -> Result<(), Stopped> {
        // Known early: a blob that is announced behind a large one is fetched beside it.
        for (entry, _) in entries.iter().filter(|(entry, _)| entry.change == Change::Blob) {
            if let Some(repository) = &entry.repository {
                for blob in &entry.blobs {
                    self.fetcher.announce(repository.clone(), *blob);
                }
            }
        }
        let mut batch = Vec::new();
        let mut abandoned = self.abandoned.subscribe();
        for (entry, line) in entries {
            if *abandoned.borrow() {
                return Ok(());
            }
            let waits = entry.change != Change::Blob && !self.here(&entry.blobs, stop).await?;
            // A blob goes after what removed the manifests that needed it.
            let takes = entry.change == Change::Withdrawn;
            if waits || takes || batch.len() >= BATCH {
                self.flush(&mut batch, stop).await?;
            }
            if waits {
                tokio::select! {
                    () = stop.requested() => return Err(Stopped),
                    // Nobody may have its blobs any more. It is not in the own log, and never will be.
                    _ = abandoned.wait_for(|abandoned| *abandoned) => return Ok(()),
                    () = self.fetcher.need(&entry.blobs) => {}
                }
            }
            self.again(stop, || self.give(&entry)).await?;
            batch.push((entry, line));
        }
        self.flush(&mut batch, stop).await
    }

    async fn here(&self, blobs: &[BlobRef], stop: &Stop) -> Result<bool, Stopped> {
        for blob in blobs {
            // Kept: until the change is shown, nothing else says that it is needed.
            let found = self.again(stop, || self.content.keep(&blob.digest));
            if found.await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives the blobs of an entry to its repository, or takes the one that was withdrawn; those of an announcement only if they are here already.
    async fn give(&self, entry: &Entry) -> Result<(), ContentError> {
        let Some(repository) = &entry.repository else { return Ok(()) };
        if let (Change::Withdrawn, Some(blob)) = (entry.change, &entry.digest) {
            self.fetcher.withdraw(repository, blob);
            return self.content.unlink(repository, blob).await;
        }
        for blob in &entry.blobs {
            let manifest = entry.change == Change::Published && entry.digest == Some(blob.digest);
            let later = entry.change == Change::Blob && self.content.find(&blob.digest).await?.is_none();
            if !manifest && !later {
                self.content.link(repository, &blob.digest).await?;
            }
        }
        Ok(())
    }

    async fn flush(&self, batch: &mut Vec<(Entry, Bytes)>, stop: &Stop) -> Result<(), Stopped> {
        if batch.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(batch);
        let count = entries.len() as u64;
        let tried = AtomicBool::new(false);
        let applied = self.again(stop, || async {
            if tried.swap(true, Ordering::Relaxed) {
                // It may have been tried for so long that a collection came by.
                self.hold(&entries).await?;
            }
            match self.journal.apply(entries.clone()).await {
                Err(JournalError::Content(error @ ContentError::Damaged { .. })) => Ok(Err(error)),
                other => other.map(Ok),
            }
        });
        match applied.await? {
            Ok(_) => self.status.applied(count),
            Err(error) => {
                // Trying again would not help: the next run begins with a snapshot.
                self.status.broken(chain(&error));
                return Err(Stopped);
            }
        }
        Ok(())
    }

    /// Marks what entries need as wanted; what is gone is fetched again.
    async fn hold(&self, entries: &[(Entry, Bytes)]) -> Result<(), JournalError> {
        for (entry, _) in entries.iter().filter(|(entry, _)| entry.change != Change::Blob) {
            self.fetcher.need(&entry.blobs).await;
            self.give(entry).await?;
        }
        Ok(())
    }

    /// Tries until it is done or the registry stops.
    async fn again<T, E, Fut>(&self, stop: &Stop, mut work: impl FnMut() -> Fut) -> Result<T, Stopped>
    where
        E: Into<Trouble>,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut pause = FIRST;
        loop {
            let done = tokio::select! {
                () = stop.requested() => return Err(Stopped),
                done = work() => done,
            };
            match done {
                Ok(done) => return Ok(done),
                Err(error) => self.status.stuck(error.into().0),
            }
            tokio::select! {
                () = stop.requested() => return Err(Stopped),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST);
        }
    }
}

/// What went wrong, in words.
struct Trouble(String);

impl From<ContentError> for Trouble {
    fn from(error: ContentError) -> Self {
        Self(chain(&error))
    }
}

impl From<JournalError> for Trouble {
    fn from(error: JournalError) -> Self {
        Self(chain(&error))
    }
}

impl From<AdoptError> for Trouble {
    fn from(error: AdoptError) -> Self {
        Self(chain(&error))
    }
}
