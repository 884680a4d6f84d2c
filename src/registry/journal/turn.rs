//! One change after the other: the steps, and what makes good what was cut off between them.

use std::{
    collections::BTreeMap,
    io,
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::{
    At, BATCH, Claim, DIVERGED, JournalError, Opening, ROLE,
    ahead::Ahead,
    group::{Ask, GROUP},
};
use crate::{
    clock,
    model::{Digest, Mark, Position, RepositoryName},
    registry::{
        content::{CHUNK, Catalogue, Content, ContentError, Upload},
        log::{Log, LogError, history::History},
        writer::{Writer, Writes},
    },
    supervise::Stop,
    wire::replication::{BlobRef, Change, Entry, Epoch, Patch, Role},
};

pub(super) type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

/// An upload that is to become a blob.
pub(super) struct Received {
    pub(super) repository: RepositoryName,
    pub(super) upload: Box<dyn Upload>,
    pub(super) blob: Digest,
    pub(super) reply: Reply<Position>,
}

/// One that has become a blob, or not.
struct Whole {
    repository: RepositoryName,
    blob: Digest,
    made: Result<u64, ContentError>,
    reply: Reply<Position>,
}

/// They are checked and synced beside each other and beside the changes, for that takes as long as they are large.
type Uploads = FuturesUnordered<BoxFuture<'static, Whole>>;

async fn whole(received: Received) -> Whole {
    let Received { repository, mut upload, blob, reply } = received;
    let made = upload.commit(&blob).await;
    Whole { repository, blob, made, reply }
}

impl Whole {
    /// What is to be done with it, if it is a blob.
    fn asked(self) -> Option<Ask> {
        let Self { repository, blob, made, reply } = self;
        match made {
            Ok(_) => Some(Ask::Give(repository, blob, reply)),
            Err(error) => {
                drop(reply.send(Err(error.into())));
                None
            }
        }
    }
}

/// What waits already and can be made together with this one, up to an order that cannot, which is next.
fn gather(first: Ask, queue: &mut mpsc::Receiver<Order>, uploads: &mut Uploads) -> (Vec<Ask>, Option<Order>) {
    let mut asked = vec![first];
    while asked.len() < GROUP {
        match uploads.next().now_or_never() {
            Some(Some(whole)) => asked.extend(whole.asked()),
            Some(None) | None => match queue.try_recv() {
                Ok(Order::Change(ask)) => asked.push(ask),
                Ok(Order::Receive(received)) => uploads.push(Box::pin(self::whole(received))),
                Ok(other) => return (asked, Some(other)),
                Err(_) => break,
            },
        }
    }
    (asked, None)
}

/// What is asked of the task.
pub(super) enum Order {
    Change(Ask),
    Receive(Received),
    Withdraw(RepositoryName, Digest, Reply<Position>),
    Apply(Vec<(Entry, Bytes)>, Reply<Position>),
    Restore(Box<Catalogue>, Reply<()>),
    Forget(RepositoryName, Reply<()>),
    Rebase(Position, Mark, Vec<Epoch>, Reply<()>),
    Disown(String, Reply<()>),
    Reign(String, u64, Reply<()>),
}

pub(super) struct Turn {
    pub(super) content: Arc<dyn Content>,
    pub(super) log: Arc<Log>,
    pub(super) writer: Writer,
    pub(super) at: watch::Sender<At>,
    pub(super) ahead: Ahead,
    /// Changes that are in the log, could not be shown, and could not be taken back yet.
    stuck: Mutex<Option<RangeInclusive<Position>>>,
}

impl Turn {
    pub(super) fn new(
        content: Arc<dyn Content>,
        log: Arc<Log>,
        writer: Writer,
        at: watch::Sender<At>,
        ahead: Ahead,
    ) -> Self {
        Self { content, log, writer, at, ahead, stuck: Mutex::default() }
    }

    /// Takes orders until the registry stops and nobody asks any more.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Order>, stop: Stop) {
        let mut uploads = Uploads::new();
        loop {
            let order = tokio::select! {
                biased;
                // First, for each of them has been waited for already.
                Some(whole) = uploads.next() => match whole.asked() {
                    Some(ask) => Some(Order::Change(ask)),
                    None => continue,
                },
                order = queue.recv() => order,
                () = stop.requested() => None,
                () = tokio::time::sleep(RETRY), if self.is_stuck() => {
                    self.take_back_again().await;
                    continue;
                }
            };
            let next = match order {
                Some(Order::Change(ask)) => {
                    let (asked, next) = gather(ask, &mut queue, &mut uploads);
                    self.together(asked).await;
                    next
                }
                Some(other) => Some(other),
                None => break,
            };
            if let Some(next) = next {
                self.take(next, &mut uploads).await;
            }
        }
        while let Some(whole) = uploads.next().await {
            if let Some(ask) = whole.asked() {
                self.together(vec![ask]).await;
            }
        }
        // What is in the log and not shown is made good by the next start, or it would never be.
        let all = self.at.borrow().position == self.log.head().0;
        if all && let Err(error) = self.blocking(Log::all_applied).await {
            tracing::debug!(error = %error, "the next start looks once more at the last change");
        }
    }

    /// Whoever asked may be gone: what was done stays done.
    async fn take(&self, order: Order, uploads: &mut Uploads) {
        match order {
            Order::Change(ask) => self.together(vec![ask]).await,
            Order::Receive(received) => uploads.push(Box::pin(whole(received))),
            Order::Withdraw(repository, blob, reply) => {
                drop(reply.send(self.withdraw(repository, blob).await));
            }
            Order::Apply(entries, reply) => drop(reply.send(self.apply(entries).await)),
            Order::Restore(whole, reply) => drop(reply.send(self.restore(*whole).await)),
            Order::Forget(repository, reply) => drop(reply.send(self.forget(&repository).await)),
            Order::Rebase(position, mark, epochs, reply) => {
                drop(reply.send(self.rebase(position, mark, epochs).await));
            }
            Order::Disown(why, reply) => drop(reply.send(self.disown(why).await)),
            Order::Reign(name, above, reply) => drop(reply.send(self.reign(&name, above).await)),
        }
    }

    /// Brings log and catalogues into step and says what is claimed.
    pub(super) async fn open(&self, opening: Opening<'_>) -> Result<(), JournalError> {
        let (before, diverged) =
            self.blocking(|log| Ok((log.note(ROLE)?, log.note(DIVERGED)?.is_some()))).await?;
        let new = self.log.history().head == Position::ZERO;
        let role = match opening {
            Opening::Writer(_) | Opening::Anew(..) => Role::Writer,
            Opening::Replica => Role::Replica,
        };
        let was_replica = before.as_deref() == Some(Role::Replica.as_str().as_bytes());
        let mut damaged = false;
        match self.make_good().await {
            Ok(()) => {}
            Err(JournalError::Content(error @ ContentError::Damaged { .. })) => {
                // One bad catalogue must not keep the registry from starting.
                tracing::error!(error = %error, "the last change could not be made good");
                damaged = true;
            }
            Err(error) => return Err(error),
        }
        let claim = match opening {
            Opening::Writer(name) | Opening::Anew(name, _) => {
                let above = if let Opening::Anew(_, above) = opening { Some(above) } else { None };
                let History { head, epochs, .. } = self.log.history();
                if (new && !self.content.repositories().await?.is_empty())
                    || self.newest_shown().await? > head
                {
                    // What was there before the log, or came with a snapshot that was cut off, is in no entry:
                    // followers must begin with a snapshot.
                    let (base, mark) = (head.max(BEFORE_THE_LOG), Mark::ZERO.then(Uuid::new_v4().as_bytes()));
                    self.blocking(move |log| log.reset(base, mark, &epochs, DIVERGED)).await?;
                }
                if diverged {
                    // What it shows is partly its own and partly its old writer's, and an operator has made it the
                    // writer: no log leads there, so followers begin with a snapshot.
                    let history = self.log.history();
                    let mark = history.mark.then(Uuid::new_v4().as_bytes());
                    let reset = move |log: &Log| log.reset(history.head, mark, &history.epochs, DIVERGED);
                    self.blocking(reset).await?;
                }
                if new || was_replica || diverged || above.is_some() {
                    self.begin_reign(name, above.unwrap_or(0)).await?;
                }
                Claim::Confirmed
            }
            Opening::Replica if diverged => {
                Claim::Disowned("it was taking over its writer's catalogue, and goes on with that".into())
            }
            Opening::Replica if new && !self.content.repositories().await?.is_empty() => {
                // It was filled by pushes of its own.
                self.blocking(|log| log.put_note(DIVERGED, Some(b"1"))).await?;
                Claim::Disowned("it was filled before it was a replica, and that is being taken back".into())
            }
            Opening::Replica if new => Claim::New,
            Opening::Replica if damaged => {
                Claim::Disowned("a catalogue lacks a change; it is copied anew from its writer".into())
            }
            Opening::Replica => Claim::Unconfirmed,
        };
        if before.as_deref() != Some(role.as_str().as_bytes()) {
            self.blocking(move |log| log.put_note(ROLE, Some(role.as_str().as_bytes()))).await?;
        }
        let (position, mark) = self.log.head();
        self.at.send_replace(At { position, mark, shown: self.newest_shown().await?, claim });
        Ok(())
    }

    /// The entry that begins a writer's reign.
    async fn begin_reign(&self, name: &str, above: u64) -> Result<(), JournalError> {
        let history = self.log.history();
        let newest = history.epoch().max(above);
        let epoch =
            newest.checked_add(1).ok_or_else(|| LogError::Damaged(format!("no epoch follows {newest}")))?;
        let position = Position { epoch, seq: 1 };
        let epoch = Epoch {
            epoch: position.epoch,
            after: history.head,
            writer: name.to_owned(),
            id: Uuid::new_v4().to_string(),
        };
        tracing::info!(%position, registry.name = name, "reign begun");
        let entry = Entry { opened: Some(epoch), ..self.entry(history.head, position, Change::Opened) };
        let line = line(&entry)?;
        self.blocking(move |log| log.append(&[(entry, line)])).await
    }

    /// Begins a reign while it runs, above this epoch.
    async fn reign(&self, name: &str, above: u64) -> Result<(), JournalError> {
        self.begin_reign(name, above).await?;
        self.advance(self.log.head().0, false);
        Ok(())
    }

    pub(super) fn entry(&self, prev: Position, position: Position, change: Change) -> Entry {
        Entry {
            position,
            prev,
            time: clock::wall().unix_seconds(),
            change,
            repository: None,
            opened: None,
            digest: None,
            blobs: Vec::new(),
            patch: None,
        }
    }

    /// Puts an entry into the log. One of which it is not known whether it lasted is taken out again.
    async fn append(&self, entry: Entry) -> Result<(), JournalError> {
        let (position, line) = (entry.position, line(&entry)?);
        let appended = self.blocking(move |log| log.append(&[(entry, line)])).await;
        if appended.is_err() {
            self.take_back(position..=position).await;
        }
        appended
    }

    /// The newest changes could not be shown: they are taken out of the log, or else nothing is written until they are.
    pub(super) async fn take_back(&self, entries: RangeInclusive<Position>) {
        let (range, position) = (entries.clone(), *entries.start());
        if let Err(error) = self.blocking(move |log| log.take_back(range)).await {
            tracing::error!(%position, error = %error, "change could not be taken back; no writes are taken until it is");
            *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = Some(entries);
            let why = format!(
                "change {position} could not be made and is still in its log ({error}); it is tried again"
            );
            self.writer.set_writes(Writes::NotNow(why));
        }
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    async fn take_back_again(&self) {
        let stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(entries) = stuck else { return };
        let position = *entries.start();
        let taken = self.blocking(move |log| log.take_back(entries)).await;
        // What of them could be shown was perhaps not durable.
        let good = match taken {
            Ok(()) => self.make_good().await,
            Err(error) => Err(error),
        };
        match good {
            Ok(()) => {
                *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = None;
                tracing::info!(%position, "change taken back, writes are taken again");
                self.writer.set_writes(Writes::Taken);
            }
            Err(error) => tracing::debug!(%position, error = %error, "change could still not be taken back"),
        }
    }

    /// Told first: a kill in between leaves the blob here, and who asked, unanswered, asks again.
    async fn withdraw(&self, repository: RepositoryName, digest: Digest) -> Result<Position, JournalError> {
        self.writer.check()?;
        let (prev, _) = self.log.head();
        let position = prev.next();
        let entry = Entry {
            repository: Some(repository.clone()),
            digest: Some(digest),
            ..self.entry(prev, position, Change::Withdrawn)
        };
        self.append(entry).await?;
        if let Err(error) = self.content.unlink(&repository, &digest).await {
            self.take_back(position..=position).await;
            return Err(error.into());
        }
        self.advance(position, false);
        Ok(position)
    }

    async fn apply(&self, entries: Vec<(Entry, Bytes)>) -> Result<Position, JournalError> {
        debug_assert!(entries.len() <= BATCH);
        let Some((last, _)) = entries.last() else { return Ok(self.log.head().0) };
        let position = last.position;
        let shows = entries.iter().any(|(entry, _)| entry.patch.is_some());
        // After a failure the log may have them already.
        if self.log.head().0 < position {
            self.blocking(move |log| log.append(&entries)).await?;
        }
        self.make_good().await?;
        self.advance(position, shows);
        Ok(position)
    }

    /// Applies what the last entries say and the catalogues do not show yet. A catalogue that does not lead there
    /// (it is damaged, or lacks a change in between) is left as it is, and told at the end.
    pub(super) async fn make_good(&self) -> Result<(), JournalError> {
        let entries = self.blocking(Log::unapplied).await?;
        let mut next: BTreeMap<RepositoryName, Catalogue> = BTreeMap::new();
        let mut broken = None;
        for entry in entries {
            let (Some(repository), Some(patch)) = (entry.repository, entry.patch) else { continue };
            let now = match next.remove(&repository) {
                Some(catalogue) => Ok(Some(catalogue)),
                None => self.content.catalogue(&repository).await.map(|now| now.map(|now| (*now).clone())),
            };
            match now.map_err(JournalError::from).and_then(|now| patched(&repository, now, &patch)) {
                Ok(catalogue) => drop(next.insert(repository, catalogue)),
                Err(error) => broken = Some(error),
            }
        }
        for (repository, catalogue) in next {
            // Also when it is there already: a write before may have failed behind the rename, undurable.
            tracing::debug!(%repository, changed = %catalogue.changed, "change applied");
            self.showing(catalogue.changed);
            self.content.restore(catalogue).await?;
        }
        broken.map_or(Ok(()), Err)
    }

    async fn restore(&self, whole: Catalogue) -> Result<(), JournalError> {
        let same =
            self.content.catalogue(&whole.name).await.is_ok_and(|now| now.is_some_and(|now| *now == whole));
        if !same {
            self.showing(whole.changed);
            self.content.restore(whole).await?;
        }
        Ok(())
    }

    async fn forget(&self, repository: &RepositoryName) -> Result<(), JournalError> {
        Ok(self.content.remove(repository).await?)
    }

    async fn rebase(&self, position: Position, mark: Mark, epochs: Vec<Epoch>) -> Result<(), JournalError> {
        self.blocking(move |log| log.reset(position, mark, &epochs, DIVERGED)).await?;
        let shown = self.newest_shown().await?;
        self.at.send_replace(At { position, mark, shown, claim: Claim::Confirmed });
        Ok(())
    }

    async fn disown(&self, why: String) -> Result<(), JournalError> {
        // Nobody may believe it from now on, whatever the disk says.
        self.at.send_modify(|at| at.claim = Claim::Disowned(why));
        self.blocking(|log| log.put_note(DIVERGED, Some(b"1"))).await
    }

    /// A change is about to be shown. Tells what was the newest one before.
    pub(super) fn showing(&self, position: Position) -> Position {
        let before = self.at.borrow().shown;
        self.at.send_if_modified(|at| {
            at.shown = at.shown.max(position);
            // Nobody waits for this.
            false
        });
        before
    }

    fn advance(&self, position: Position, shows: bool) {
        let (_, mark) = self.log.head();
        self.at.send_modify(|at| {
            (at.position, at.mark) = (position, mark);
            if shows {
                at.shown = position;
            }
        });
    }

    /// The newest change of what any catalogue shows.
    async fn newest_shown(&self) -> Result<Position, JournalError> {
        let mut newest = Position::ZERO;
        for repository in self.content.repositories().await? {
            // A damaged one shows nothing.
            if let Ok(Some(catalogue)) = self.content.catalogue(&repository).await {
                newest = newest.max(catalogue.changed);
            }
        }
        Ok(newest)
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Log) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, JournalError> {
        blocking(&self.log, work).await
    }
}

/// A change that could not be taken back is tried again so often.
const RETRY: Duration = Duration::from_secs(1);

/// Where a log begins whose registry had content before it had a log.
const BEFORE_THE_LOG: Position = Position { epoch: 0, seq: 1 };

/// Runs work on the log on a blocking thread. Cancelling the wait lets the work finish.
pub(super) async fn blocking<T: Send + 'static>(
    log: &Arc<Log>,
    work: impl FnOnce(&Log) -> Result<T, LogError> + Send + 'static,
) -> Result<T, JournalError> {
    let log = log.clone();
    match tokio::task::spawn_blocking(move || work(&log)).await {
        Ok(done) => Ok(done?),
        Err(gone) => {
            Err(ContentError::Io { what: "run work on the log", source: io::Error::other(gone) }.into())
        }
    }
}

/// A blob that is here, with what checks it; `None` if it is not here.
pub async fn blob_ref(content: &dyn Content, digest: &Digest) -> Result<Option<BlobRef>, ContentError> {
    let Some(size) = content.find(digest).await? else { return Ok(None) };
    let list = if size > CHUNK { content.chunks(digest).await? } else { None };
    Ok(Some(BlobRef { digest: *digest, size, chunks: list.map(|list| list.digest()) }))
}

/// The catalogue with this change in it.
fn patched(
    repository: &RepositoryName,
    now: Option<Catalogue>,
    patch: &Patch,
) -> Result<Catalogue, JournalError> {
    let mut catalogue = now.unwrap_or_else(|| Catalogue::new(repository.clone()));
    let damaged = |why| ContentError::Damaged { what: format!("catalogue of `{repository}`"), why };
    if catalogue.generation >= patch.generation {
        return Ok(catalogue);
    }
    if catalogue.generation + 1 != patch.generation {
        let why = format!("change {} makes generation {} of it", patch.changed, patch.generation);
        return Err(damaged(format!("it is generation {}, and {why}", catalogue.generation)).into());
    }
    catalogue.apply(patch).map_err(damaged)?;
    Ok(catalogue)
}

pub(super) fn line(entry: &Entry) -> Result<Bytes, LogError> {
    let text = serde_json::to_vec(entry).map_err(|error| LogError::Damaged(error.to_string()))?;
    Ok(text.into())
}
