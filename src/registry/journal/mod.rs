//! The one way in which what a registry shows comes to change: into the log first, then into the catalogue.
//!
//! Changes come from the APIs (at the writer) or from another registry's log (at a replica), and go through one task in
//! one order, so that a client that leaves cannot leave half of one behind, nor a blob of which nobody was told. Those that wait
//! at the same time are made together ([`group`]). What a kill left between the two steps is made good when the journal is
//! opened: [`turn`] does the steps, this file is the handle.

mod ahead;
mod group;
mod plain;
mod turn;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    content::{Catalogue, Content, ContentError, Upload},
    log::{Log, LogError, Read, history::Place},
    writer::{Pending, Writer, Writes},
};
use crate::{
    model::{Digest, Mark, Position, RepositoryName},
    supervise::{Handle, Stage},
    wire::replication::{BlobRef, Change, Entry, Epoch},
};
use ahead::Ahead;
use group::Ask;
use plain::Plain;
pub use turn::blob_ref;
use turn::{Order, Received, Turn};

/// Changes that wait their turn. More wait for a place: each of them is a request that is being answered.
const QUEUE: usize = 64;

/// Entries that a replica applies in one step.
pub const BATCH: usize = 256;

/// Note of a log: proxies hold leases that may outlive the process.
pub const LEASED: &str = "leased";
/// Note of the role that last opened the log.
pub const ROLE: &str = "role";
/// Note of a log whose history is not the writer's, or behind what is shown of a snapshot.
const DIVERGED: &str = "diverged";

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Writes are not taken now.
    #[error("this registry takes no writes now: {0}")]
    NotNow(String),
    /// Writes are not taken here.
    #[error("this registry takes no writes: {0}")]
    Never(String),
    /// The storage.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is no log.
    #[error("registries on shared storage keep no log of changes: nobody can copy from them or follow them")]
    NoLog,
    /// The registry stops.
    #[error("the registry is stopping")]
    Stopping,
}

/// What this registry says of its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// That it has one: what it shows is the history of its writer up to there.
    Confirmed,
    /// Nothing yet, but what it shows was right once: the writer was not heard of since the start.
    Unconfirmed,
    /// Nothing ever: what is shown is decided by all registries of a shared storage, and each answer is the newest.
    NoPositions,
    /// Nothing, for it is a new replica that has not got anything yet.
    New,
    /// Nothing, for its history is another than its writer's: why.
    Disowned(String),
}

impl Claim {
    /// Why nothing is said about repositories, if nothing is.
    pub fn unknown(&self) -> Option<&str> {
        match self {
            Self::Confirmed | Self::Unconfirmed | Self::NoPositions => None,
            Self::New => Some("it is new and copies the catalogue of its writer"),
            Self::Disowned(why) => Some(why),
        }
    }
}

/// Where the journal stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// Everything up to here is applied and durable.
    pub position: Position,
    /// The log's mark there.
    pub mark: Mark,
    /// Nothing that is shown changed later than here.
    pub shown: Position,
    /// What is said of it.
    pub claim: Claim,
}

impl At {
    /// The position that may be told.
    pub fn claimed(&self) -> Option<Position> {
        (self.claim == Claim::Confirmed).then_some(self.position)
    }
}

/// A change as an operation has decided it.
pub struct Draft {
    /// What kind.
    pub change: Change,
    /// The manifest it is about, if it is about one.
    pub digest: Option<Digest>,
    /// What must be here before it may be seen.
    pub blobs: Vec<BlobRef>,
    /// The next generation. The journal says at which position.
    pub next: Arc<Catalogue>,
}

/// A change that waits for its turn. Dropping it does not take the change back.
pub struct Queued(oneshot::Receiver<Result<Pending, JournalError>>);

impl Queued {
    /// Waits until the change is made, whole and durable; it may be acknowledged when [`Pending::acknowledged`] says so.
    pub async fn made(self) -> Result<Pending, JournalError> {
        self.0.await.map_err(|_| JournalError::Stopping)?
    }
}

/// What the journal is opened as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening<'a> {
    /// A writer of this name; a reign begins if the log is new, or was a replica's.
    Writer(&'a str),
    /// A writer of this name whose reign begins now, above this epoch.
    Anew(&'a str, u64),
    /// A replica.
    Replica,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    content: Arc<dyn Content>,
    /// None where several registries change one storage: there is no one order of their changes.
    log: Option<Arc<Log>>,
    writer: Writer,
    at: watch::Sender<At>,
    orders: mpsc::Sender<Order>,
    ahead: Ahead,
    /// [`LEASED`] is noted.
    leased: Arc<AtomicBool>,
}

impl Journal {
    /// Makes good what a kill left, begins a reign if one is to begin, and starts the task.
    pub async fn open(
        content: Arc<dyn Content>,
        log: Log,
        writer: Writer,
        opening: Opening<'_>,
        tasks: &Handle,
    ) -> Result<Self, JournalError> {
        let (orders, queue) = mpsc::channel(QUEUE);
        let nothing =
            At { position: Position::ZERO, mark: Mark::ZERO, shown: Position::ZERO, claim: Claim::New };
        let (log, at) = (Arc::new(log), watch::Sender::new(nothing));
        let (ahead, leased) = (Ahead::default(), Arc::default());
        let turn = Turn::new(content.clone(), log.clone(), writer.clone(), at.clone(), ahead.clone());
        let journal = Self { content, log: Some(log), writer, at, orders, ahead, leased };
        turn.open(opening).await?;
        tasks.finish_at(Stage::Store, "registry journal", move |stop| turn.run(queue, stop));
        Ok(journal)
    }

    /// Of a storage that other registries change, too: without a log, each change is the storage's own decision.
    pub fn without_log(content: Arc<dyn Content>, tasks: &Handle) -> Self {
        let (orders, queue) = mpsc::channel(QUEUE);
        let at = At {
            position: Position::ZERO,
            mark: Mark::ZERO,
            shown: Position::ZERO,
            claim: Claim::NoPositions,
        };
        let writer = Writer::new(std::time::Duration::ZERO, Writes::Taken);
        let plain = Plain::new(content.clone(), writer.clone());
        tasks.finish_at(Stage::Store, "registry journal", move |stop| plain.run(queue, stop));
        let (at, ahead, leased) = (watch::Sender::new(at), Ahead::default(), Arc::default());
        Self { content, log: None, writer, at, orders, ahead, leased }
    }

    /// Where it stands now.
    pub fn at(&self) -> At {
        self.at.borrow().clone()
    }

    /// Follows where it stands.
    pub fn follow(&self) -> watch::Receiver<At> {
        self.at.subscribe()
    }

    /// The writer's side: leases, and whether writes are taken.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Whether writes are taken, as an error if not.
    pub fn check_writes(&self) -> Result<(), JournalError> {
        self.writer.check()
    }

    /// Begins a reign above this epoch; for a writer that takes no writes yet.
    pub async fn reign(&self, name: String, above: u64) -> Result<(), JournalError> {
        self.order(|reply| Order::Reign(name, above, reply)).await
    }

    /// The newest generation that was decided, made or not: a change that is decided on it is made behind it, or not at
    /// all. Who tells anybody of what it has waits until it is made.
    pub async fn newest(&self, repository: &RepositoryName) -> Result<Option<Arc<Catalogue>>, JournalError> {
        match self.ahead.newest(repository) {
            Some(newest) => Ok(Some(newest)),
            None => Ok(self.content.catalogue(repository).await?),
        }
    }

    /// Whether changes of one repository may wait behind each other. Where no log is kept, the storage takes one at a time.
    pub fn queues(&self) -> bool {
        self.log.is_some()
    }

    /// Asks for a change. [`ContentError::Conflict`] in the end if the repository has another generation by then than the
    /// one that it was decided on.
    ///
    /// Cancelled, it was not asked for.
    pub async fn queue(&self, draft: Draft) -> Result<Queued, JournalError> {
        let place = self.orders.reserve().await.map_err(|_| JournalError::Stopping)?;
        let (reply, answer) = oneshot::channel();
        if self.queues() {
            self.ahead.decided(draft.next.clone());
        }
        place.send(Order::Change(Ask::Commit(Box::new(draft), reply)));
        Ok(Queued(answer))
    }

    /// Makes a change, whole and durable, as [`Journal::queue`] and [`Queued::made`] do.
    ///
    /// Cancelling the wait does not take the change back.
    pub async fn commit(&self, draft: Draft) -> Result<Pending, JournalError> {
        self.queue(draft).await?.made().await
    }

    /// Makes a whole upload a blob, gives it to its repository, and announces it.
    ///
    /// Cancelling the wait stops none of it: a client that leaves must not leave a blob that only this registry has.
    pub async fn receive(
        &self,
        repository: &RepositoryName,
        upload: Box<dyn Upload>,
        expected: &Digest,
    ) -> Result<Position, JournalError> {
        let (repository, blob) = (repository.clone(), *expected);
        self.order(|reply| Order::Receive(Received { repository, upload, blob, reply })).await
    }

    /// Gives a blob that is here to a repository, and announces that, so that replicas fetch it already.
    pub async fn give(&self, repository: &RepositoryName, blob: &Digest) -> Result<Position, JournalError> {
        let (repository, blob) = (repository.clone(), *blob);
        self.order(|reply| Order::Change(Ask::Give(repository, blob, reply))).await
    }

    /// Takes a blob from a repository, and tells replicas to do the same. Its caller makes sure that nothing which the
    /// repository shows needs it.
    pub async fn withdraw(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
    ) -> Result<Position, JournalError> {
        let (repository, blob) = (repository.clone(), *blob);
        self.order(|reply| Order::Withdraw(repository, blob, reply)).await
    }

    /// Applies entries of the writer's log that follow on the own one; at most [`BATCH`]. Every blob they need is
    /// here already and given to its repository.
    pub async fn apply(&self, entries: Vec<(Entry, Bytes)>) -> Result<Position, JournalError> {
        self.order(|reply| Order::Apply(entries, reply)).await
    }

    /// Takes over one repository of a snapshot.
    pub async fn restore(&self, whole: Catalogue) -> Result<(), JournalError> {
        self.order(|reply| Order::Restore(Box::new(whole), reply)).await
    }

    /// Forgets a repository that the writer does not have.
    pub async fn forget(&self, repository: &RepositoryName) -> Result<(), JournalError> {
        let repository = repository.clone();
        self.order(|reply| Order::Forget(repository, reply)).await
    }

    /// The snapshot is taken over: the log goes on behind it.
    pub async fn rebase(
        &self,
        position: Position,
        mark: Mark,
        epochs: Vec<Epoch>,
    ) -> Result<(), JournalError> {
        self.order(|reply| Order::Rebase(position, mark, epochs, reply)).await
    }

    /// Catalogues of a snapshot are about to be shown, ahead of the own log. What is claimed stays; after a restart
    /// nothing is, until [`Journal::rebase`].
    pub async fn begin_snapshot(&self) -> Result<(), JournalError> {
        self.blocking(|log| log.put_note(DIVERGED, Some(b"1"))).await
    }

    /// Claims nothing from now on, also after a restart, until [`Journal::rebase`].
    pub async fn disown(&self, why: String) -> Result<(), JournalError> {
        self.order(|reply| Order::Disown(why, reply)).await
    }

    /// Whether this writer may be believed: not while another one is known whose history is newer. Nothing is claimed,
    /// and nothing said about repositories, as long as there is a reason.
    pub fn doubt(&self, why: Option<String>) {
        self.claim(why.map_or(Claim::Confirmed, Claim::Disowned));
    }

    /// Nobody has said yet whether this writer may be believed: it serves, and claims nothing.
    pub fn unsettle(&self) {
        self.claim(Claim::Unconfirmed);
    }

    fn claim(&self, claim: Claim) {
        self.at.send_if_modified(|at| std::mem::replace(&mut at.claim, claim.clone()) != claim);
    }

    /// The writer's history is this one's, as far as this one goes.
    pub fn confirm(&self) {
        self.at.send_if_modified(|at| {
            let some = at.claim == Claim::New && at.position > Position::ZERO;
            let confirmed = some || at.claim == Claim::Unconfirmed;
            if confirmed {
                at.claim = Claim::Confirmed;
            }
            confirmed
        });
    }

    /// Notes, durably and before it is given, that leases may outlive this process.
    pub async fn note_lease(&self) -> Result<(), JournalError> {
        if !self.leased.load(Ordering::Acquire) {
            self.blocking(|log| match log.note(LEASED)? {
                Some(_) => Ok(()),
                None => log.put_note(LEASED, Some(b"1")),
            })
            .await?;
            self.leased.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Whether all that a registry has which is at this position is in this history, too.
    pub fn covers(&self, position: Position) -> bool {
        let foreign = |log: &Arc<Log>| matches!(log.history().place(position), Place::Foreign { .. });
        !self.log.as_ref().is_some_and(foreign)
    }

    /// The log's mark at a position of this history, as far as it is kept.
    pub async fn mark_at(&self, position: Position) -> Result<Option<Mark>, JournalError> {
        let read = self.blocking(move |log| log.read(position, None, position)).await?;
        Ok(match read {
            Read::Lines { mark, .. } => Some(mark),
            Read::Compacted { .. } | Read::Foreign { .. } => None,
        })
    }

    /// The log behind a position. Only what is applied.
    pub async fn read(&self, after: Position, mark: Option<Mark>) -> Result<Read, JournalError> {
        // An entry that is not applied yet may still be taken back: nobody may see it.
        let applied = self.at().position;
        self.blocking(move |log| log.read(after, mark, applied)).await
    }

    /// The log itself, for what only looks.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Log) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, JournalError> {
        turn::blocking(self.log.as_ref().ok_or(JournalError::NoLog)?, work).await
    }

    /// The reigns so far.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.log.as_ref().map(|log| log.history().epochs).unwrap_or_default()
    }

    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, JournalError>>) -> Order,
    ) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.map_err(|_| JournalError::Stopping)?;
        answer.await.map_err(|_| JournalError::Stopping)?
    }
}

#[cfg(test)]
mod tests;
