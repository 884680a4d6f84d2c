//! Changes that came while others were made are made together: one append to the log for all of them, and their catalogues
//! written beside each other. Nobody waits for company: what comes alone is made alone.
//!
//! In the log, what only gives blobs comes first, then each repository's changes behind each other. So those that could be
//! shown are always in front of those that could not, and the log is taken back behind them. Of one repository only the
//! newest catalogue is written.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    Draft, JournalError,
    turn::{Reply, Turn, blob_ref, line},
};
use crate::{
    model::{Digest, Mark, Position, RepositoryName},
    registry::{
        content::{Catalogue, ContentError, Shown},
        writer::{Pending, Writes},
    },
    wire::replication::{BlobRef, Change, Entry},
};

/// Changes that are made together at most.
pub(super) const GROUP: usize = 64;

/// What may be made together with others.
pub(super) enum Ask {
    Commit(Box<Draft>, Reply<Pending>),
    Give(RepositoryName, Digest, Reply<Position>),
}

/// Blobs given and catalogues changed, with where each stands in the log.
struct Plan {
    lines: Vec<(Entry, Bytes)>,
    gifts: Vec<(Ask, Position)>,
    repositories: Vec<Changed>,
    /// Where the log ends behind the gifts, and behind all.
    given: (Position, Mark),
    end: (Position, Mark),
}

/// The changes of one repository.
struct Changed {
    next: Arc<Catalogue>,
    asked: Vec<(Box<Draft>, Reply<Pending>, Position)>,
    /// Where the log ends behind them.
    end: (Position, Mark),
}

impl Changed {
    fn first(&self) -> Position {
        self.asked.first().map_or(self.end.0, |(.., position)| *position)
    }
}

impl Plan {
    /// Puts an entry behind the others; tells where.
    fn add(&mut self, entry: impl FnOnce(Position, Position) -> Entry) -> Result<Position, JournalError> {
        let prev = self.end.0;
        let entry = entry(prev, prev.next());
        let (position, line) = (entry.position, line(&entry)?);
        self.end = (position, self.end.1.then(&line));
        self.lines.push((entry, line));
        Ok(position)
    }

    /// Who asked for what is not made.
    fn asked(self) -> Vec<Ask> {
        let gifts = self.gifts.into_iter().map(|(ask, _)| ask);
        gifts.chain(drafts(self.repositories)).collect()
    }
}

fn drafts(repositories: Vec<Changed>) -> impl Iterator<Item = Ask> {
    let all = repositories.into_iter().flat_map(|changed| changed.asked);
    all.map(|(draft, reply, _)| Ask::Commit(draft, reply))
}

impl Turn {
    /// Makes changes, and answers everybody. What goes wrong for some of them is nothing to the others: what is left is
    /// made one by one, and each is told its own fault.
    pub(super) async fn together(&self, asked: Vec<Ask>) {
        let Err((mut left, error)) = self.at_once(asked).await else { return };
        if left.len() == 1
            && let Some(ask) = left.pop()
        {
            return self.refuse(ask, error);
        }
        tracing::debug!(error = %error, changes = left.len(), "changes could not be made together");
        for ask in left {
            if let Err((mut left, error)) = self.at_once(vec![ask]).await
                && let Some(ask) = left.pop()
            {
                self.refuse(ask, error);
            }
        }
    }

    fn refuse(&self, ask: Ask, error: JournalError) {
        match ask {
            Ask::Commit(draft, reply) => {
                self.ahead.over(&draft.next, false);
                drop(reply.send(Err(error)));
            }
            Ask::Give(.., reply) => drop(reply.send(Err(error))),
        }
    }

    /// Those that were not made, and why; the others are answered.
    async fn at_once(&self, asked: Vec<Ask>) -> Result<(), (Vec<Ask>, JournalError)> {
        if let Err(error) = self.writer.check() {
            return Err((asked, error));
        }
        let mut plan = self.plan(asked).await;
        let lines = std::mem::take(&mut plan.lines);
        let (Some(first), last) = (lines.first().map(|(entry, _)| entry.position), plan.end.0) else {
            return Ok(());
        };
        // Nobody sees either of them yet.
        let next = plan.repositories.iter().map(|changed| changed.next.clone()).collect();
        let (staged, appended) =
            tokio::join!(self.content.stage(next), self.blocking(move |log| log.append(&lines)));
        let staged = match appended.and(staged.map_err(JournalError::from)) {
            Ok(staged) => staged,
            Err(error) => {
                // It is not known either whether an append that failed lasted.
                self.take_back(first..=last).await;
                return Err((plan.asked(), error));
            }
        };
        // Told as shown before anybody can be shown it: a list never shows more than it says.
        let before = match plan.repositories.last() {
            Some(changed) => self.showing(changed.end.0),
            None => self.at.borrow().shown,
        };
        let Shown { count, error, unsure } = self.content.show(staged).await;
        let mut left = plan.repositories.split_off(count.min(plan.repositories.len()));
        if let Some(changed) = left.first() {
            self.take_back(changed.first()..=last).await;
        }
        let shown = plan.repositories.last().map_or(before, |changed| changed.end.0);
        if let Some(error) = unsure {
            // They are shown, and the log has them: only whether they are durable is not known.
            tracing::warn!(error = %error, "catalogues may not be durable, and are written again");
            if let Err(again) = self.write_again().await {
                self.at.send_modify(|at| at.shown = shown);
                left.splice(..0, plan.repositories);
                plan.repositories = left;
                return Err((plan.asked(), again));
            }
        }
        self.made(plan, shown);
        match (left.is_empty(), error) {
            (true, _) => Ok(()),
            (false, Some(error)) => Err((drafts(left).collect(), error.into())),
            (false, None) => {
                let source = std::io::Error::other("its storage does not say why");
                Err((drafts(left).collect(), ContentError::Io { what: "publish a catalogue", source }.into()))
            }
        }
    }

    /// Answers those whose changes stand.
    fn made(&self, plan: Plan, shown: Position) {
        let end = plan.repositories.last().map_or(plan.given, |changed| changed.end);
        // Counted as waiting before anybody can see them.
        let mut answers = Vec::new();
        for (draft, reply, position) in plan.repositories.into_iter().flat_map(|changed| changed.asked) {
            answers.push((reply, self.writer.appended(position)));
            self.ahead.over(&draft.next, true);
        }
        self.at.send_modify(|at| {
            (at.position, at.mark) = end;
            at.shown = shown;
        });
        for (ask, position) in plan.gifts {
            if let Ask::Give(.., reply) = ask {
                drop(reply.send(Ok(position)));
            }
        }
        for (reply, pending) in answers {
            drop(reply.send(Ok(pending)));
        }
    }

    /// Writes what the last append says once more; if that fails too, nothing more is written.
    async fn write_again(&self) -> Result<(), JournalError> {
        if !self.is_stuck() {
            let Err(again) = self.make_good().await else { return Ok(()) };
            tracing::error!(error = %again, "catalogues could not be written again");
            let why = format!("a change cannot be made durable: {again}; restart it to make it good");
            self.writer.set_writes(Writes::NotNow(why));
        }
        self.writer.check()
    }

    /// Gives each its place; answers those for which there is none.
    async fn plan(&self, asked: Vec<Ask>) -> Plan {
        let (head, none) = (self.log.head(), Vec::new());
        let mut plan =
            Plan { lines: Vec::new(), gifts: Vec::new(), repositories: none, given: head, end: head };
        let mut drafts: Vec<(RepositoryName, Vec<_>)> = Vec::new();
        let mut gifts = Vec::new();
        for ask in asked {
            match ask {
                Ask::Give(repository, digest, reply) => gifts.push(async move {
                    let linked = self.linked(&repository, &digest).await;
                    (repository, digest, reply, linked)
                }),
                Ask::Commit(draft, reply) => {
                    let name = &draft.next.name;
                    match drafts.iter_mut().find(|(repository, _)| repository == name) {
                        Some((_, of)) => of.push((draft, reply)),
                        None => drafts.push((name.clone(), vec![(draft, reply)])),
                    }
                }
            }
        }
        for (repository, digest, reply, linked) in join_all(gifts).await {
            let planned = match linked {
                // Gone again already: there is nothing to announce.
                Ok(None) => {
                    drop(reply.send(Ok(self.at.borrow().position)));
                    continue;
                }
                Ok(Some(blob)) => plan.add(|prev, position| Entry {
                    repository: Some(repository.clone()),
                    digest: Some(digest),
                    blobs: vec![blob],
                    ..self.entry(prev, position, Change::Blob)
                }),
                Err(error) => Err(error.into()),
            };
            let ask = Ask::Give(repository, digest, reply);
            match planned {
                Ok(position) => plan.gifts.push((ask, position)),
                Err(error) => self.refuse(ask, error),
            }
        }
        plan.given = plan.end;
        for (repository, drafts) in drafts {
            self.plan_changes(&mut plan, repository, drafts).await;
        }
        plan
    }

    /// The changes of one repository, each of which must be decided on the one before it.
    async fn plan_changes(
        &self,
        plan: &mut Plan,
        repository: RepositoryName,
        drafts: Vec<(Box<Draft>, Reply<Pending>)>,
    ) {
        let empty = Arc::new(Catalogue::new(repository.clone()));
        let mut asked: Vec<(Box<Draft>, Reply<Pending>, Position)> = Vec::new();
        for (draft, reply) in drafts {
            let before = match asked.last() {
                Some((before, ..)) => Ok(Some(before.next.clone())),
                None => self.content.catalogue(&repository).await,
            };
            let planned = before.map_err(JournalError::from).and_then(|before| {
                let before = before.as_ref().unwrap_or(&empty);
                if draft.next.generation != before.generation + 1 {
                    return Err(ContentError::Conflict { repository: repository.clone() }.into());
                }
                let mut patch = draft.next.since(before);
                plan.add(|prev, position| {
                    patch.changed = position;
                    Entry {
                        repository: Some(repository.clone()),
                        digest: draft.digest,
                        blobs: draft.blobs.clone(),
                        patch: Some(patch),
                        ..self.entry(prev, position, draft.change)
                    }
                })
            });
            match planned {
                Ok(position) => asked.push((draft, reply, position)),
                Err(error) => self.refuse(Ask::Commit(draft, reply), error),
            }
        }
        let Some((last, _, position)) = asked.last() else { return };
        let mut next = (*last.next).clone();
        next.changed = *position;
        plan.repositories.push(Changed { next: Arc::new(next), asked, end: plan.end });
    }

    /// Gives a blob to its repository; what checks it, unless it is not here any more.
    async fn linked(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<BlobRef>, ContentError> {
        let Some(blob) = blob_ref(self.content.as_ref(), digest).await? else { return Ok(None) };
        self.content.link(repository, digest).await?;
        Ok(Some(blob))
    }
}
