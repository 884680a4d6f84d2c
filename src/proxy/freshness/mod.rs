//! What a proxy knows of what the registries of one service have: per repository the newest position at which it
//! changed, per registry the position it has reached, and until when the first of these can be relied on.
//!
//! Pure: answers of the registries come in with the moments at which they were asked for, and what a request needs
//! is compared with what each registry has. Moments are those of [`crate::clock::boot`], which runs through suspend.
//! The rules are told in `docs/replication.md`.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::model::{Mark, Position, RepositoryName};

/// Repositories whose need is kept one by one. Past it the newest position of all becomes the need of each: reads of
/// quiet repositories then ask for more than they must, until the replicas have that.
pub const REPOSITORIES: usize = 100_000;

/// The newest changes whose moment is kept. One that lags by more has been behind for long enough not to be waited for.
pub const MOMENTS: usize = 4096;

/// A lease is never longer than this at the proxy, whatever the writer says: it counts on 3 s from its side.
pub const LEASE: Duration = Duration::from_secs(2);

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// One repository.
    Repository(&'a RepositoryName),
    /// All of them.
    All,
}

/// What a poll of the writer's log brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polled {
    /// The writer's newest position.
    pub head: Position,
    /// Every change up to here is among `changes`, or was among those of an earlier poll.
    pub upto: Position,
    /// The mark there.
    pub mark: Mark,
    /// The changes.
    pub changes: Vec<(Position, RepositoryName)>,
    /// The reigns of the writer's history, each with the last position before it.
    pub reigns: Vec<(u64, Position)>,
    /// How long the lease lasts from when the poll was sent; zero when it renewed none.
    pub lease: Duration,
}

/// Where a registry stands with regard to what is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has what is needed.
    Fresh {
        /// What it has.
        has: Position,
    },
    /// It does not.
    Behind {
        /// What is needed.
        needed: Position,
        /// What it has.
        has: Position,
        /// For how long yet it may be waited for, reckoned from when the proxy learnt of the first change that it
        /// lacks.
        patience: Duration,
    },
    /// What is needed is not known.
    Unknown {
        /// What it has.
        has: Position,
    },
    /// It claims no position: it is new, or has not reached the writer since it began.
    Unclaimed,
    /// Its history is another than the writer's.
    Foreign,
    /// By its list it has what the writer has.
    Same,
    /// By its list it does not.
    Differs {
        /// When what it has was pushed, in seconds; 0 if nobody says.
        pushed: i64,
    },
    /// It was written lately, and lists do not show that for sure yet.
    Written,
    /// Its list is not known.
    Unlisted,
}

/// How far a registry has come, to choose among those that may miss something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Far {
    /// Nobody knows.
    Unknown,
    /// To what was pushed then, by its list.
    Pushed(i64),
    /// To this position.
    Position(Position),
    /// As far as the writer, when that was asked last.
    Same,
}

impl Standing {
    /// What it has.
    pub fn has(&self) -> Option<Position> {
        match self {
            Self::Fresh { has } | Self::Behind { has, .. } | Self::Unknown { has } => Some(*has),
            _ => None,
        }
    }

    /// How far it has come.
    pub fn far(&self) -> Far {
        match self {
            Self::Same => Far::Same,
            Self::Differs { pushed } => Far::Pushed(*pushed),
            other => other.has().map_or(Far::Unknown, Far::Position),
        }
    }
}

/// One registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Registry {
    claim: Option<Claim>,
    /// Its history is not the writer's, as far as is known.
    foreign: Option<Foreign>,
    /// When its state last claimed nothing, or less than before.
    withdrew: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    position: Position,
    /// It was received then.
    at: Duration,
}

/// What is known of a history that is not the writer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Foreign {
    /// Up to here it is the writer's.
    common: Position,
    /// Its newest reign.
    epoch: u64,
    /// What the registry claims, which does not count.
    claim: Claim,
}

/// The last position of a history that is not behind this reign of it; `None` while the reign goes on.
fn end_of_reign(reigns: &[(u64, Position)], epoch: u64) -> Option<Position> {
    reigns.iter().find(|(later, _)| *later > epoch).map(|(_, after)| *after)
}

impl Foreign {
    /// Of a claim that is not in the writer's history: its reign ended before.
    fn beyond(reigns: &[(u64, Position)], claim: Claim) -> Option<Self> {
        let common = end_of_reign(reigns, claim.position.epoch)?;
        (claim.position > common).then_some(Self { common, epoch: claim.position.epoch, claim })
    }

    /// Whether a later claim shows that the registry has noticed, although nobody may have seen it claim nothing
    /// meanwhile: what it claims is common, or less than before, or of a writer's reign that this history had not.
    fn is_left_by(&self, position: Position, reign: Option<u64>) -> bool {
        let newer = reign.is_some_and(|reign| reign > self.epoch && position.epoch >= reign);
        position <= self.common || position < self.claim.position || newer
    }
}

/// All of it, for one service.
#[derive(Debug)]
pub struct Freshness {
    most: usize,
    fresh_wait: Duration,
    /// Place of the writer.
    writer: usize,
    registries: Vec<Registry>,
    /// The need of a repository without one of its own: the writer's position when the log was first asked, until
    /// the table overflows. Unknown before the first answer.
    floor: Option<Position>,
    needs: HashMap<RepositoryName, Position>,
    /// Of the writer's history, as it last told them.
    reigns: Vec<(u64, Position)>,
    newest: Position,
    /// A list showed a change that the log has not brought yet: until it has, any repository may be the changed one.
    listed: Option<Position>,
    /// When the newest changes became known, in order of both.
    learnt: VecDeque<(Position, Duration)>,
    /// Where the next poll goes on.
    after: Option<(Position, Mark)>,
    /// When the writer last answered out of the history that is known here.
    heard: Option<Duration>,
    lease: Option<Duration>,
}

impl Freshness {
    /// Of so many registries, of which nothing is known yet.
    pub fn new(registries: usize, writer: usize, fresh_wait: Duration) -> Self {
        Self::bounded(registries, writer, fresh_wait, REPOSITORIES)
    }

    /// The same with another bound for repositories, for tests that reach it.
    pub fn bounded(registries: usize, writer: usize, fresh_wait: Duration, most: usize) -> Self {
        Self {
            most,
            fresh_wait,
            writer,
            registries: vec![Registry::default(); registries],
            floor: None,
            needs: HashMap::new(),
            reigns: Vec::new(),
            newest: Position::ZERO,
            listed: None,
            learnt: VecDeque::new(),
            after: None,
            heard: None,
            lease: None,
        }
    }

    /// What to ask the log with: position and mark of what is known. `None`: for its head alone.
    pub fn after(&self) -> Option<(Position, Mark)> {
        self.after
    }

    /// Takes the answer to a poll that was sent at `sent`. Its changes are noted before the lease it gives counts.
    ///
    /// While this proxy had no lease the writer waited for nobody. So one begins only with an answer that covers all
    /// there is; one that goes on needs no more, for the writer has waited all along.
    ///
    /// Says whether it was of the history that is known; one that is not was taken for [`Freshness::diverged`].
    pub fn polled(&mut self, polled: Polled, sent: Duration, now: Duration) -> bool {
        if self.after.is_some_and(|(after, _)| polled.upto < after) {
            // No log goes backwards: another history, whatever its status says.
            self.diverged(None);
            return false;
        }
        match self.floor {
            None => {
                self.floor = Some(polled.upto);
                self.learn(polled.upto, now);
            }
            Some(_) => {
                for (position, repository) in polled.changes {
                    self.note(&repository, position, now);
                }
            }
        }
        self.after = Some((polled.upto, polled.mark));
        self.forget_beyond(polled.head, sent, now);
        self.listed = self.listed.filter(|listed| *listed > polled.upto);
        self.heard = Some(now);
        self.reigns = polled.reigns;
        // One that claimed, before the writer was asked, more than the writer has now, copied it from elsewhere; and
        // so did one whose claim is of a reign that had ended before, whenever it was made.
        for (_, registry) in self.registries.iter_mut().enumerate().filter(|(at, _)| *at != self.writer) {
            if let Some(claim) =
                registry.claim.filter(|claim| claim.position > polled.head && claim.at < sent)
            {
                let foreign = Foreign { common: Position::ZERO, epoch: claim.position.epoch, claim };
                (registry.claim, registry.foreign) = (None, Some(foreign));
            }
            if let Some(foreign) = registry.claim.and_then(|claim| Foreign::beyond(&self.reigns, claim)) {
                (registry.claim, registry.foreign) = (None, Some(foreign));
            }
            let left =
                |foreign: &Foreign| foreign.is_left_by(foreign.claim.position, Some(polled.upto.epoch));
            if let Some(foreign) = registry.foreign.filter(left) {
                (registry.claim, registry.foreign) = (Some(foreign.claim), None);
            }
        }
        let covers = polled.upto >= polled.head || self.lease_live(now);
        if !polled.lease.is_zero() && covers {
            self.lease = self.lease.max(Some(sent + polled.lease.min(LEASE)));
        }
        debug_assert!(self.holds());
        true
    }

    /// The writer's history is another than the one that is known: all of it is forgotten, and nobody's claim counts
    /// until its registry shows that it has noticed.
    pub fn diverged(&mut self, common: Option<Position>) {
        let common = common.unwrap_or(Position::ZERO);
        let known = self.after.map_or(0, |(after, _)| after.epoch);
        for registry in &mut self.registries {
            let noticed = registry.withdrew > self.heard && registry.withdrew.is_some();
            if let Some(claim) = registry.claim.filter(|claim| claim.position > common && !noticed) {
                // It may have noticed already, and claim what a newer writer has: the next poll tells.
                let foreign = Foreign { common, epoch: known, claim };
                (registry.claim, registry.foreign) = (None, Some(foreign));
            }
        }
        self.forget();
        debug_assert!(self.holds());
    }

    /// The log does not go back as far as what is known: changes were missed.
    pub fn compacted(&mut self) {
        self.forget();
        debug_assert!(self.holds());
    }

    /// The lease was given up.
    pub fn released(&mut self) {
        self.lease = None;
    }

    /// A registry has told its position; `None` takes its claim back. Says whether anything changed.
    pub fn reported(&mut self, place: usize, position: Option<Position>, now: Duration) -> bool {
        let Some(registry) = self.registries.get_mut(place) else { return false };
        if position.is_none() || position < registry.claim.map(|claim| claim.position) {
            registry.withdrew = Some(now);
        }
        self.claims(place, position, now)
    }

    fn claims(&mut self, place: usize, position: Option<Position>, now: Duration) -> bool {
        let Some(registry) = self.registries.get_mut(place) else { return false };
        let before = *registry;
        let had = registry.claim.map(|claim| claim.position);
        let claim = position.map(|position| Claim { position, at: now });
        let reign = self.after.map(|(after, _)| after.epoch);
        registry.foreign = match (registry.foreign, claim) {
            (Some(foreign), Some(claim)) if !foreign.is_left_by(claim.position, reign) => {
                Some(Foreign { claim, ..foreign })
            }
            (_, Some(claim)) if place != self.writer => Foreign::beyond(&self.reigns, claim),
            _ => None,
        };
        registry.claim = claim.filter(|_| registry.foreign.is_none());
        let changed = registry.foreign.is_some() != before.foreign.is_some()
            || registry.claim.map(|claim| claim.position) != had;
        debug_assert!(self.holds());
        changed
    }

    /// A registry has answered a request that was sent at `sent`, out of a catalogue not older than `position`; an
    /// answer without one takes its claim back. What was in flight while it moved on says nothing against it. Says
    /// whether anything changed.
    pub fn answered(
        &mut self,
        place: usize,
        position: Option<Position>,
        sent: Duration,
        now: Duration,
    ) -> bool {
        let Some(registry) = self.registries.get(place) else { return false };
        let Some(claim) = registry.claim else { return false };
        match position {
            Some(position) if position > claim.position => self.claims(place, Some(position), now),
            Some(position) if position == claim.position => false,
            _ if claim.at > sent => false,
            // That an odd answer shows less is no sign that the registry has noticed another history.
            lower => self.claims(place, lower, now),
        }
    }

    /// An answer showed a change at this position: whoever read it never goes back behind it. Says whether that was
    /// news.
    pub fn seen(&mut self, subject: Subject<'_>, changed: Position, now: Duration) -> bool {
        let news = self.is_news(subject, changed);
        if news {
            match subject {
                Subject::Repository(repository) => self.note(repository, changed, now),
                Subject::All => {
                    self.listed = Some(changed);
                    self.learn(changed, now);
                }
            }
        }
        debug_assert!(self.holds());
        news
    }

    /// Whether [`Freshness::seen`] would change anything.
    pub fn is_news(&self, subject: Subject<'_>, changed: Position) -> bool {
        match subject {
            Subject::Repository(_) => self.need(subject).is_some_and(|need| changed > need),
            // What answers about one repository or another have shown says nothing of the others.
            Subject::All => {
                self.listed < Some(changed) && self.after.is_some_and(|(after, _)| changed > after)
            }
        }
    }

    /// The position that an answer about this must not be older than; unknown before the log's first answer.
    pub fn need(&self, subject: Subject<'_>) -> Option<Position> {
        let floor = self.floor?;
        Some(match subject {
            Subject::Repository(repository) => {
                let own = self.needs.get(repository).copied().unwrap_or(floor);
                self.listed.map_or(own, |listed| listed.max(own))
            }
            Subject::All => self.newest,
        })
    }

    /// What a registry has.
    pub fn have(&self, place: usize) -> Option<Position> {
        self.registries.get(place)?.claim.map(|claim| claim.position)
    }

    /// Whether a registry's history was found to be another than the writer's.
    pub fn is_foreign(&self, place: usize) -> bool {
        self.registries.get(place).is_some_and(|registry| registry.foreign.is_some())
    }

    /// Where a registry stands with regard to a subject.
    pub fn standing(&self, place: usize, subject: Subject<'_>, now: Duration) -> Standing {
        let Some(has) = self.have(place) else {
            return if self.is_foreign(place) { Standing::Foreign } else { Standing::Unclaimed };
        };
        let Some(needed) = self.need(subject) else { return Standing::Unknown { has } };
        if has >= needed {
            return Standing::Fresh { has };
        }
        let behind_since = self.learnt_after(has);
        let patience =
            behind_since.map_or(Duration::ZERO, |since| (since + self.fresh_wait).saturating_sub(now));
        Standing::Behind { needed, has, patience }
    }

    /// Whether what is needed is known for sure at this moment: the writer acknowledges nothing that is not.
    pub fn lease_live(&self, now: Duration) -> bool {
        self.lease_left(now).is_some()
    }

    /// What is left of the lease.
    pub fn lease_left(&self, now: Duration) -> Option<Duration> {
        let end = self.lease?;
        (now < end).then(|| end - now)
    }

    /// The need of repositories without one of their own.
    pub fn floor(&self) -> Option<Position> {
        self.floor
    }

    /// How many have one of their own.
    pub fn repositories(&self) -> usize {
        self.needs.len()
    }

    fn forget(&mut self) {
        (self.floor, self.after, self.lease, self.listed) = (None, None, None, None);
        self.needs.clear();
        self.reigns.clear();
        self.learnt.clear();
        self.newest = Position::ZERO;
    }

    /// What an answer showed beyond the head of a poll that was sent later was never there. Whatever it may have hidden
    /// is at most that head.
    fn forget_beyond(&mut self, head: Position, sent: Duration, now: Duration) {
        if self.learnt.back().is_none_or(|(position, at)| *position <= head || *at >= sent) {
            return;
        }
        while self.learnt.back().is_some_and(|(position, _)| *position > head) {
            self.learnt.pop_back();
        }
        if self.learnt.back().is_none_or(|(position, _)| *position < head) {
            self.learnt.push_back((head, now));
        }
        self.newest = head;
        let floor = self.floor.map(|floor| floor.min(head));
        self.listed = self.listed.map(|listed| listed.min(head));
        self.needs.values_mut().for_each(|need| *need = head.min(*need));
        self.needs.retain(|_, need| floor.is_none_or(|floor| *need > floor));
        self.floor = floor;
    }

    fn note(&mut self, repository: &RepositoryName, position: Position, now: Duration) {
        self.learn(position, now);
        if self.floor.is_some_and(|floor| position <= floor) {
            return;
        }
        if let Some(need) = self.needs.get_mut(repository) {
            *need = position.max(*need);
        } else if self.needs.len() < self.most {
            self.needs.insert(repository.clone(), position);
        } else {
            self.needs.clear();
            self.floor = Some(self.newest);
        }
    }

    fn learn(&mut self, position: Position, now: Duration) {
        if position <= self.newest && !self.learnt.is_empty() {
            return;
        }
        self.newest = self.newest.max(position);
        if self.learnt.len() == MOMENTS {
            self.learnt.pop_front();
        }
        self.learnt.push_back((position, now));
    }

    /// When the first change behind `has` became known; `None` when that is not kept any more.
    fn learnt_after(&self, has: Position) -> Option<Duration> {
        let at = self.learnt.partition_point(|(position, _)| *position <= has);
        let kept_all = at > 0 || self.learnt.len() < MOMENTS;
        self.learnt.get(at).filter(|_| kept_all).map(|(_, since)| *since)
    }

    fn holds(&self) -> bool {
        let above_floor =
            |need: &Position| self.floor.is_none_or(|floor| *need > floor) && *need <= self.newest;
        // Each need is looked at only while that is cheap.
        let needs = self.needs.len() > 64 || self.needs.values().all(above_floor);
        let claims = self.registries.iter().all(|r| r.claim.is_none() || r.foreign.is_none());
        let beyond = |claim: Claim| Foreign::beyond(&self.reigns, claim).is_some();
        let counted = self.registries.iter().enumerate().filter(|(place, _)| *place != self.writer);
        let within = counted.filter_map(|(_, registry)| registry.claim).all(|claim| !beyond(claim));
        let moments = self.learnt.iter().zip(self.learnt.iter().skip(1)).take(64).all(|(a, b)| a.0 < b.0);
        needs
            && claims
            && within
            && moments
            && self.needs.len() <= self.most
            && self.learnt.len() <= MOMENTS
            && self.floor.is_none_or(|floor| floor <= self.newest)
            && self.floor.is_some() == self.after.is_some()
            && (self.lease.is_none() || self.floor.is_some())
            && self.learnt.back().is_none_or(|(position, _)| *position == self.newest)
    }
}

#[cfg(test)]
mod tests;
