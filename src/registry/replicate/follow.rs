//! Follows the log of the writer, or of a peer while the writer cannot be reached, and reads ahead of what is
//! applied: a blob that is announced while a large one is still coming is fetched as well.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{adopt::Why, status::Status};
use crate::{
    client::replication::{LogAnswer, Replication},
    clock,
    model::{Mark, Position},
    registry::{
        content::{Content, ContentError},
        journal::{Claim, Journal},
        log,
    },
    supervise::Stop,
    telemetry::chain,
    wire::replication::{Entry, LogHead, LogQuery, Role},
};

/// A poll is parked so long: what this replica has applied is told at least so often.
const WAIT: Duration = Duration::from_secs(2);

/// Pages that are read ahead. Full: reading waits for what is applied…
pub(super) const AHEAD: usize = 4;

/// …but no longer than this without asking anew: the next thing to apply may need a blob that went with a history
/// which is the writer's no more.
const ROOM: Duration = Duration::from_secs(10);

/// The first pause after a failure; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause. A replica must be back soon after its writer is.
const LONGEST: Duration = Duration::from_secs(2);

/// While a peer's log is followed, the writer is tried again so often.
const WRITER_EVERY: Duration = Duration::from_secs(5);

/// What is read is worked off in order.
pub(super) enum Work {
    /// Entries behind what was read before, and whether the writer itself gave them.
    Entries(Vec<(Entry, Bytes)>, bool),
    /// The writer's catalogue is to be taken over; told when that is done.
    Adopt(Why, oneshot::Sender<()>),
}

pub(super) struct Follow {
    pub(super) name: String,
    /// The writer first.
    pub(super) sources: Vec<Replication>,
    pub(super) content: Arc<dyn Content>,
    pub(super) journal: Journal,
    pub(super) status: Arc<Status>,
    pub(super) work: mpsc::Sender<Work>,
    /// Set while what was read is not to be worked off: a snapshot takes its place.
    pub(super) abandoned: watch::Sender<bool>,
    /// Told when the writer is there, at first and again.
    pub(super) due: Arc<Notify>,
}

/// How one poll ended.
enum Polled {
    /// There may be more.
    Heard,
    /// Begin again at what is applied.
    Afresh,
    /// It failed; another source may do.
    Failed(String),
}

impl Follow {
    /// Runs until stopped, or until nobody works off what is read.
    pub(super) async fn run(self, stop: Stop) {
        let (mut source, mut pause) = (0, FIRST);
        let mut writer_tried = clock::now();
        let mut cursor = self.applied();
        let mut failures = Vec::new();
        // Why the writer did not answer; before it was asked it is not known to be there, either.
        let mut away = Some(String::new());
        if self.status.was_broken() || self.is_damaged().await {
            // No change leads on from what cannot be read.
            self.adopt(Why::Damaged).await;
            cursor = self.applied();
        }
        while !stop.is_requested() && !self.work.is_closed() {
            if source != 0 && clock::now() - writer_tried >= WRITER_EVERY {
                source = 0;
            }
            if source == 0 {
                writer_tried = clock::now();
            }
            let polled = tokio::select! {
                () = stop.requested() => return,
                polled = self.poll(source, &mut cursor) => polled,
            };
            match polled {
                Polled::Heard => {
                    pause = FIRST;
                    failures.clear();
                    match &away {
                        Some(why) if source != 0 => {
                            self.status
                                .lost(format!("a peer's log is followed, for the writer's cannot be: {why}"));
                        }
                        Some(_) => {
                            away = None;
                            self.due.notify_one();
                        }
                        None => {}
                    }
                }
                Polled::Afresh => cursor = self.applied(),
                Polled::Failed(why) => {
                    if source == 0 {
                        away = Some(why.clone());
                    }
                    failures.push(why);
                    source = (source + 1) % self.sources.len();
                    if source == 0 {
                        self.status.lost(failures.join("; "));
                        failures.clear();
                        tokio::select! {
                            () = stop.requested() => return,
                            () = tokio::time::sleep(pause) => {}
                        }
                        pause = (pause * 2).min(LONGEST);
                    }
                }
            }
        }
    }

    /// Whether a catalogue cannot be read.
    async fn is_damaged(&self) -> bool {
        for repository in self.content.repositories().await.unwrap_or_default() {
            if matches!(self.content.catalogue(&repository).await, Err(ContentError::Damaged { .. })) {
                return true;
            }
        }
        false
    }

    fn applied(&self) -> (Position, Mark) {
        let at = self.journal.at();
        (at.position, at.mark)
    }

    async fn poll(&self, source: usize, cursor: &mut (Position, Mark)) -> Polled {
        let Some(client) = self.sources.get(source) else {
            return Polled::Failed("there is no source".into());
        };
        let (after, mark) = *cursor;
        let query = LogQuery {
            after: Some(after),
            mark: Some(mark),
            replica: Some(self.name.clone()),
            applied: Some(self.journal.at().position),
            wait: u64::try_from(WAIT.as_millis()).ok(),
            ..LogQuery::default()
        };
        let from_writer = source == 0;
        match client.log(&query).await {
            Err(error) => Polled::Failed(chain(&error)),
            Ok(LogAnswer::Lines(head, lines)) => self.heard(from_writer, head, lines, cursor).await,
            // Only the writer's word moves history: a peer may merely be behind.
            Ok(_) if !from_writer => Polled::Failed(format!("`{}` cannot go on from {after}", client.base())),
            Ok(LogAnswer::Diverged(diverged)) => {
                let own = self.journal.epochs().last().map_or(0, |epoch| epoch.epoch);
                if diverged.head.epoch < own {
                    return Polled::Failed(format!(
                        "`{}` writes in epoch {}, and this registry has seen epoch {own}: it is not followed",
                        client.base(),
                        diverged.head.epoch
                    ));
                }
                let common = self.verified(client, diverged.common).await;
                self.adopt(Why::Diverged { common }).await
            }
            Ok(LogAnswer::Compacted(_)) => self.adopt(Why::Compacted).await,
        }
    }

    /// A position counts as common only if both logs have the same mark there: numbers alone agree between histories
    /// that have nothing to do with each other.
    async fn verified(&self, writer: &Replication, common: Option<Position>) -> Option<Position> {
        let common = common?;
        let mark = self.journal.mark_at(common).await.ok().flatten()?;
        let query = LogQuery { after: Some(common), mark: Some(mark), ..LogQuery::default() };
        matches!(writer.log(&query).await, Ok(LogAnswer::Lines(..))).then_some(common)
    }

    async fn heard(
        &self,
        from_writer: bool,
        head: LogHead,
        lines: Vec<Bytes>,
        cursor: &mut (Position, Mark),
    ) -> Polled {
        let (mut position, mut mark) = *cursor;
        let mut entries = Vec::with_capacity(lines.len());
        for line in lines {
            let entry = match log::entry(&line) {
                Ok(entry) => entry,
                Err(error) => return Polled::Failed(format!("`{}`: {error}", head.registry)),
            };
            if entry.prev != position {
                return Polled::Failed(format!(
                    "`{}` left out what is before {}",
                    head.registry, entry.position
                ));
            }
            (position, mark) = (entry.position, mark.then(&line));
            entries.push((entry, line));
        }
        if (position, mark) != (head.upto, head.mark) {
            return Polled::Failed(format!("the log of `{}` does not come to its own mark", head.registry));
        }
        if head.registry == self.name {
            return Polled::Failed(format!(
                "`{}` is this registry itself: take it out of `peers`",
                head.registry
            ));
        }
        if from_writer && head.role != Role::Writer {
            return Polled::Failed(format!("`{}` is named as the writer and is a replica", head.registry));
        }
        // Its history is ours, as far as we know it.
        if from_writer {
            if matches!(self.journal.at().claim, Claim::Disowned(_)) {
                // A snapshot was begun before a restart, and nothing else would end it. The own log leads here, unless
                // there is none: nothing at all is common to every history.
                let alien = cursor.0 == Position::ZERO;
                return self.adopt(if alien { Why::Diverged { common: None } } else { Why::Damaged }).await;
            }
            self.journal.confirm();
        }
        self.status.heard(head.head);
        if !entries.is_empty() {
            let Ok(room) = tokio::time::timeout(ROOM, self.work.reserve()).await else {
                return Polled::Heard;
            };
            let Ok(room) = room else { return Polled::Failed("the registry is stopping".into()) };
            self.status.read(entries.len() as u64);
            room.send(Work::Entries(entries, from_writer));
        }
        *cursor = (position, mark);
        Polled::Heard
    }

    async fn adopt(&self, why: Why) -> Polled {
        let (done, over) = oneshot::channel();
        self.abandoned.send_replace(true);
        if self.work.send(Work::Adopt(why, done)).await.is_err() || over.await.is_err() {
            return Polled::Failed("the snapshot was not taken over".into());
        }
        Polled::Afresh
    }
}
