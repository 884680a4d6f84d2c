//! Fetches blobs from other registries: those that somebody waits for, and those that were announced.
//!
//! [`plan`] decides, this carries out: one task holds every ask that is under way. An ask takes one chunk
//! whole into memory, so that at most [`plan::PARALLEL`] × [`plan::BLOBS`] chunks of
//! [`CHUNK`](crate::registry::content::CHUNK) bytes are held. Whatever fails is tried again for ever; what is wrong
//! meanwhile is in [`View`], in the log and in the metrics.

mod board;
mod job;
mod meter;

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use prometheus::{IntCounter, IntCounterVec};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::plan::{self, Ask, End, Then};
use crate::{
    client::{Credentials, replication::Replication},
    clock,
    config::BaseUrl,
    model::{Digest, RepositoryName},
    registry::content::{Content, Fill},
    supervise::Stop,
    telemetry::{Metrics, MetricsError, names},
    wire::replication::{BlobRef, Fetching, Peer},
};

use board::Board;
use job::{Finish, Opened, Taken};

/// A source that does not take a connection within this has failed.
const DIAL: Duration = Duration::from_secs(3);

/// A source that sends nothing for so long has failed.
const IDLE: Duration = Duration::from_secs(10);

/// When the storage could not take something, it is tried again so much later.
const HELD: Duration = Duration::from_secs(3);

/// What is open is made durable at the end, within this.
const FLUSH: Duration = Duration::from_secs(5);

/// Why there is no fetcher.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No client could be made.
    #[error("cannot make a client of `{url}`")]
    Client {
        /// Of which source.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A mistake of ours.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// What is being fetched, from whom, and what is in the way.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    /// Blobs that are needed or begun, in order; at most [`board::SHOWN`].
    pub fetching: Vec<Fetching>,
    /// The sources, the writer first.
    pub peers: Vec<Peer>,
    /// Bytes that needed blobs still lack.
    pub missing: u64,
}

/// Runs the fetches. A clone shares everything with the original, so that a loop that ended can be started again.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
}

/// Asks a [`Fetcher`] for blobs. Cheap to clone.
#[derive(Clone)]
pub struct FetchHandle {
    shared: Arc<Shared>,
}

struct Shared {
    content: Arc<dyn Content>,
    sources: Vec<Replication>,
    fetched: IntCounter,
    failures: IntCounterVec,
    start: Instant,
    board: Mutex<Board>,
    /// The loop has something to look at.
    changed: Notify,
    /// Blobs became complete.
    done: watch::Sender<()>,
}

/// The end of something that was under way.
enum Ended {
    Opened(Ask, Opened),
    Taken(Ask, Taken),
    Finished(Digest, Finish),
    Closed,
}

type Jobs = FuturesUnordered<BoxFuture<'static, Ended>>;

impl Fetcher {
    /// Fetches into this storage from these sources; the first one is the writer. Nothing runs before
    /// [`Fetcher::run`].
    ///
    /// Errors when a client or a metric cannot be made.
    pub fn new(
        content: Arc<dyn Content>,
        sources: Vec<BaseUrl>,
        credentials: &Credentials,
        metrics: &Metrics,
    ) -> Result<Self, FetchError> {
        Self::with(content, (sources, credentials), metrics, IDLE)
    }

    fn with(
        content: Arc<dyn Content>,
        (sources, credentials): (Vec<BaseUrl>, &Credentials),
        metrics: &Metrics,
        idle: Duration,
    ) -> Result<Self, FetchError> {
        let board = Board::new(&sources);
        let client = |base: BaseUrl| {
            let url = base.to_string();
            let client = Replication::new(base, credentials, DIAL, idle);
            client.map_err(|source| FetchError::Client { url, source })
        };
        let shared = Shared {
            content,
            sources: sources.into_iter().map(client).collect::<Result<_, _>>()?,
            fetched: metrics.counters(names::REGISTRY_FETCHED)?.with_label_values(&[] as &[&str]),
            failures: metrics.counters(names::REGISTRY_FETCH_FAILURES)?,
            start: clock::now(),
            board: Mutex::new(board),
            changed: Notify::new(),
            done: watch::Sender::new(()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// For those who need blobs.
    pub fn handle(&self) -> FetchHandle {
        FetchHandle { shared: self.shared.clone() }
    }

    /// Fetches until stopped. At most one may run; one that ended is followed up by another on a clone.
    pub async fn run(self, stop: Stop) -> Result<(), Infallible> {
        let shared = &self.shared;
        shared.board().again();
        let mut jobs = Jobs::new();
        loop {
            let wake = self.start_jobs(&mut jobs);
            let at = shared.start + wake.unwrap_or_default();
            tokio::select! {
                () = stop.requested() => break,
                Some(ended) = jobs.next(), if !jobs.is_empty() => self.end(ended, &mut jobs),
                () = shared.changed.notified() => {}
                () = tokio::time::sleep_until(at), if wake.is_some() => {}
            }
        }
        drop(jobs);
        let open = shared.board().take_fills();
        let flushed = futures_util::future::join_all(open.iter().map(|fill| fill.flush()));
        if tokio::time::timeout(FLUSH, flushed).await.is_err() {
            tracing::warn!("blobs that were being fetched could not be made durable in time");
        }
        Ok(())
    }

    /// Asks for what may be asked for; tells when to look again.
    fn start_jobs(&self, jobs: &mut Jobs) -> Option<Duration> {
        let now = self.shared.now();
        let mut board = self.shared.board();
        for ask in board.plan.next(now) {
            let (blob, fill) = board.of(&ask.blob);
            let shared = self.shared.clone();
            match (ask.piece, blob, fill) {
                (plan::Piece::Open { list }, Some(blob), _) => {
                    jobs.push(Box::pin(async move {
                        Ended::Opened(ask, job::open(&shared, blob, list, ask.source).await)
                    }));
                }
                (plan::Piece::Chunk(chunk), Some(_), Some(fill)) => {
                    jobs.push(Box::pin(async move {
                        let taken = job::take(&shared, &ask, chunk, fill.as_ref());
                        Ended::Taken(ask, taken.await)
                    }));
                }
                // The plan has one as open that is not: it is opened anew.
                _ => {
                    board.plan.ended(&ask, End::Gone, now);
                    self.shared.changed.notify_one();
                }
            }
        }
        while let Some(fill) = board.close_surplus() {
            jobs.push(Box::pin(async move {
                if let Err(error) = fill.flush().await {
                    tracing::warn!(error = %error, "blob that was being fetched could not be made durable");
                }
                Ended::Closed
            }));
        }
        board.plan.wake(now)
    }

    fn end(&self, ended: Ended, jobs: &mut Jobs) {
        let shared = &self.shared;
        let now = shared.now();
        let mut board = shared.board();
        match ended {
            Ended::Closed => {}
            Ended::Opened(ask, opened) => {
                if let Some(fill) = opened.fill {
                    board.opened(&ask.blob, fill);
                }
                self.ended(&mut board, &ask, opened.end, opened.why, jobs);
            }
            Ended::Taken(ask, taken) => self.ended(&mut board, &ask, taken.end, taken.why, jobs),
            Ended::Finished(blob, Finish::Done(linked)) => {
                if board.finished(&blob, &linked) {
                    jobs.push(self.finish(&mut board, blob));
                } else {
                    tracing::debug!(%blob, "blob fetched");
                }
                shared.done.send_replace(());
            }
            Ended::Finished(blob, Finish::Spoiled(why)) => {
                board.plan.spoiled(&blob, now);
                board.stands(&blob, why);
            }
            Ended::Finished(blob, Finish::Later(why)) => {
                board.plan.unfinished(&blob, now + HELD);
                board.stands(&blob, why);
            }
        }
    }

    fn ended(&self, board: &mut Board, ask: &Ask, end: End, why: String, jobs: &mut Jobs) {
        let now = self.shared.now();
        if !why.is_empty() && matches!(end, End::Corrupt | End::Listless) {
            tracing::warn!(error = %why, "what a registry gave of a blob was damaged");
        }
        let held = matches!(end, End::Held(_));
        let answered = matches!(end, End::Arrived | End::Lacks | End::Listless);
        match board.plan.ended(ask, end, now) {
            Then::Finish => {
                let finish = self.finish(board, ask.blob);
                jobs.push(finish);
            }
            Then::Rests(pause) if board.failed_first(ask.source) => {
                let peer = self.shared.sources.get(ask.source).map(|source| source.base().as_str());
                tracing::warn!(peer, error = %why, ?pause, "blob could not be fetched from a registry");
            }
            Then::Rests(pause) => tracing::debug!(error = %why, ?pause, "registry failed again"),
            Then::Nothing => {}
        }
        if held {
            board.stands(&ask.blob, why);
            return;
        }
        board.stands(&ask.blob, String::new());
        // What was asked before a failure may still arrive: that is no success after it.
        if !why.is_empty() || (answered && !board.plan.rests(ask.source, now)) {
            board.source_is(ask.source, why);
        }
    }

    fn finish(&self, board: &mut Board, blob: Digest) -> BoxFuture<'static, Ended> {
        let (fill, links) = board.finish(&blob);
        let shared = self.shared.clone();
        Box::pin(async move { Ended::Finished(blob, job::finish(&shared, blob, fill, links).await) })
    }
}

impl FetchHandle {
    /// Completes when all of these are here, complete and durable. Tries for ever.
    ///
    /// Dropping the wait does not end the fetch: the blobs go on as if they had been announced.
    pub async fn need(&self, blobs: &[BlobRef]) {
        let shared = &self.shared;
        let mut done = shared.done.subscribe();
        let mut need = Need { shared, id: shared.board().next_need(), blobs: BTreeSet::new() };
        for blob in blobs {
            match shared.content.keep(&blob.digest).await {
                Ok(Some(_)) => continue,
                Ok(None) => {}
                // Whoever opens it finds the same, and says so.
                Err(error) => tracing::debug!(blob = %blob.digest, error = %error, "blob was not looked up"),
            }
            if need.blobs.insert(blob.digest) {
                shared.board().need(need.id, blob);
                shared.changed.notify_one();
            }
        }
        loop {
            done.borrow_and_update();
            {
                let board = shared.board();
                need.blobs.retain(|blob| board.is_needed(need.id, blob));
            }
            // An error means that the sender is gone; we hold it.
            if need.blobs.is_empty() || done.changed().await.is_err() {
                return;
            }
        }
    }

    /// A blob that was announced is not the repository's any more.
    pub fn withdraw(&self, repository: &RepositoryName, blob: &Digest) {
        self.shared.board().withdraw(repository, blob);
    }

    /// Fetches a blob in the background and gives it to the repository. At most [`plan::ANNOUNCED`] wait: one more,
    /// and the oldest is forgotten, for whatever needs it asks for it.
    pub fn announce(&self, repository: RepositoryName, blob: BlobRef) {
        self.shared.board().announce(repository, &blob);
        self.shared.changed.notify_one();
    }

    /// How it stands.
    pub fn view(&self) -> View {
        self.shared.board().view(self.shared.now())
    }
}

/// One wait for blobs. Dropped, it lowers them.
struct Need<'s> {
    shared: &'s Shared,
    id: u64,
    blobs: BTreeSet<Digest>,
}

impl Drop for Need<'_> {
    fn drop(&mut self) {
        let mut board = self.shared.board();
        for blob in &self.blobs {
            board.need_no_more(self.id, blob);
        }
    }
}

impl Shared {
    /// What a panicking holder left is whole: the board is changed by calls that do not panic half-way.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the start.
    fn now(&self) -> Duration {
        clock::now() - self.start
    }
}

#[cfg(test)]
mod tests;
