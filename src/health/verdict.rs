//! From the outcomes of probes to a verdict with its evidence. Pure: time comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    model::{RouteClass, ServerVersion, Timestamp},
    wire::{handover::Known, ready::Ready},
};

/// What one probe found.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// It is well; what it said about itself, if it speaks our words.
    Good {
        /// What was seen, for people.
        seen: String,
        /// The body of its `/readyz`; another shape speaks for all classes.
        ready: Option<Ready>,
    },
    /// It is not, or could not be asked.
    Bad {
        /// What was seen, for people.
        why: String,
    },
}

/// Letters of one sentence, and entries of one list, that a successor is told.
const HANDED: usize = 512;

/// Where an upstream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not probed yet. Never taken for up while a proven one exists.
    Unknown,
    /// Passes its probes.
    Up,
    /// Fails them.
    Down,
}

impl State {
    /// The word of logs and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Whether a request changes anything. Within one route class a server may be able to do the one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// It only looks.
    Read,
    /// It may change something.
    Write,
}

/// A permission, or why it is withheld.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum May {
    /// It may.
    Yes,
    /// It may not, because.
    No(String),
}

impl May {
    /// Whether it may.
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }
}

/// What is held to be true of one upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Where it stands.
    pub state: State,
    /// Since when, for reckoning.
    pub since: Instant,
    /// Since when, for people.
    pub since_wall: Timestamp,
    /// One sentence: why.
    pub evidence: String,
    read: May,
    write: May,
    poll: May,
    supports: Vec<String>,
    name: Option<String>,
    version: Option<ServerVersion>,
}

impl Verdict {
    /// One that nobody has asked yet.
    pub fn unknown(now: Instant, wall: Timestamp) -> Self {
        Self {
            state: State::Unknown,
            since: now,
            since_wall: wall,
            evidence: "not probed yet".into(),
            read: May::Yes,
            write: May::Yes,
            poll: May::Yes,
            supports: Vec::new(),
            name: None,
            version: None,
        }
    }

    /// What a successor is told; nothing while nothing is known. Words and lists are cut to [`HANDED`].
    pub fn known(&self, now: Instant) -> Option<Known> {
        let cut = |text: &str| text.chars().take(HANDED).collect::<String>();
        let may = |may: &May| match may {
            May::Yes => None,
            May::No(why) => Some(cut(why)),
        };
        Some(Known {
            up: match self.state {
                State::Unknown => return None,
                State::Up => true,
                State::Down => false,
            },
            for_ms: u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX),
            since: self.since_wall,
            evidence: cut(&self.evidence),
            read: may(&self.read),
            write: may(&self.write),
            poll: may(&self.poll),
            supports: self.supports.iter().take(HANDED).map(|ability| cut(ability)).collect(),
            name: self.name.clone(),
            version: self.version.as_ref().map(ToString::to_string),
        })
    }

    /// One that a predecessor has found.
    pub fn handed(known: &Known, now: Instant) -> Self {
        let may = |why: &Option<String>| why.clone().map_or(May::Yes, May::No);
        Self {
            state: if known.up { State::Up } else { State::Down },
            // A clock that has not run for so long yet knows no earlier moment than its first.
            since: now.checked_sub(Duration::from_millis(known.for_ms)).unwrap_or(now),
            since_wall: known.since,
            evidence: known.evidence.clone(),
            read: may(&known.read),
            write: may(&known.write),
            poll: may(&known.poll),
            supports: known.supports.clone(),
            name: known.name.clone(),
            version: known.version.as_deref().and_then(ServerVersion::parse),
        }
    }

    /// Whether it says of itself that it can serve such a request. Says nothing about [`Verdict::state`].
    pub fn may(&self, class: RouteClass, access: Access) -> &May {
        match (class, access) {
            (RouteClass::AgentPoll, _) => &self.poll,
            (RouteClass::RegistryWrite | RouteClass::RegistryUpload, _) => &self.write,
            (RouteClass::RegistryRead | RouteClass::AuthHandshake, _) => &self.read,
            (RouteClass::ControllerApi, Access::Read) => &self.read,
            (RouteClass::ControllerApi, Access::Write) => &self.write,
        }
    }

    /// Whether it declared this ability.
    pub fn supports(&self, ability: &str) -> bool {
        self.supports.iter().any(|s| s == ability)
    }

    /// What it calls itself, if it ever said so; one that is down keeps its name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The version that it said it is, if it ever did.
    pub fn version(&self) -> Option<&ServerVersion> {
        self.version.as_ref()
    }
}

/// Something worth a log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: State,
    /// Now; the same as before when only what it may do has changed.
    pub to: State,
    /// The cause.
    pub why: String,
}

/// Counts outcomes until they make a verdict.
#[derive(Debug)]
pub struct Tracker {
    rise: u32,
    fall: u32,
    /// Outcomes in a row that speak against the present state.
    against: u32,
    verdict: Verdict,
}

impl Tracker {
    /// Nothing seen yet. `rise` good ones in a row make it up, `fall` bad ones down.
    pub fn new(rise: u32, fall: u32, now: Instant, wall: Timestamp) -> Self {
        Self::from(rise, fall, Verdict::unknown(now, wall))
    }

    /// Beginning with a verdict that was found before.
    pub fn from(rise: u32, fall: u32, verdict: Verdict) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), against: 0, verdict }
    }

    /// What is held to be true.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Whether the last outcomes speak against the verdict, so that it pays to ask again soon.
    pub fn changing(&self) -> bool {
        self.against > 0
    }

    /// Feeds one outcome in; says what changed, if anything did.
    ///
    /// The first outcome of all decides at once: until then there is nothing that a flapping server could
    /// be protected from.
    pub fn record(&mut self, found: Found, now: Instant, wall: Timestamp) -> Option<Change> {
        let from = self.verdict.state;
        let good = matches!(found, Found::Good { .. });
        let needed = match (from, good) {
            (State::Unknown, _) => 1,
            (State::Up, true) | (State::Down, false) => 0,
            (State::Up, false) => self.fall,
            (State::Down, true) => self.rise,
        };
        self.against = if needed == 0 { 0 } else { self.against + 1 };
        let turned = needed > 0 && self.against >= needed;
        if turned {
            self.against = 0;
            self.verdict.state = if good { State::Up } else { State::Down };
            self.verdict.since = now;
            self.verdict.since_wall = wall;
        }
        let agrees = (self.verdict.state == State::Up) == good;
        let mut moved = false;
        if agrees {
            match found {
                Found::Good { seen, ready } => moved = self.listen(seen, ready),
                Found::Bad { why } => self.verdict.evidence = why,
            }
        }
        debug_assert!(self.holds());
        (turned || moved).then(|| Change { from, to: self.verdict.state, why: self.verdict.evidence.clone() })
    }

    /// Takes over what a healthy server says of itself; tells whether its permissions changed.
    fn listen(&mut self, seen: String, ready: Option<Ready>) -> bool {
        let ready = ready.unwrap_or_default();
        let why = if ready.why.is_empty() { "it says so".to_owned() } else { ready.why.join("; ") };
        let may = |said: Option<bool>| if said == Some(false) { May::No(why.clone()) } else { May::Yes };
        let (read, write, poll) = (may(ready.read), may(ready.write), may(ready.poll));
        let verdict = &mut self.verdict;
        let moved = (verdict.read.is_yes(), verdict.write.is_yes(), verdict.poll.is_yes())
            != (read.is_yes(), write.is_yes(), poll.is_yes());
        let word = |may: &May| if may.is_yes() { "yes" } else { "no" };
        verdict.evidence = if read.is_yes() && write.is_yes() && poll.is_yes() {
            seen
        } else {
            format!("reads {}, writes {}, polls {}: {why}", word(&read), word(&write), word(&poll))
        };
        (verdict.read, verdict.write, verdict.poll, verdict.supports) = (read, write, poll, ready.supports);
        verdict.name = ready.name.or(verdict.name.take());
        let version = ready.version.as_deref().and_then(ServerVersion::parse);
        verdict.version = version.or(verdict.version.take());
        moved
    }

    fn holds(&self) -> bool {
        let limit = match self.verdict.state {
            State::Unknown => 1,
            State::Up => self.fall,
            State::Down => self.rise,
        };
        self.against < limit
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    fn good() -> Found {
        Found::Good { seen: "200".into(), ready: None }
    }

    fn bad() -> Found {
        Found::Bad { why: "connect refused".into() }
    }

    fn tracker() -> Tracker {
        Tracker::new(2, 3, clock::now(), clock::wall())
    }

    /// `+` good, `-` bad; gives the states after each.
    fn run(outcomes: &str) -> Vec<State> {
        let mut tracker = tracker();
        let step = |c| {
            tracker.record(if c == '+' { good() } else { bad() }, clock::now(), clock::wall());
            tracker.verdict().state
        };
        outcomes.chars().map(step).collect()
    }

    #[test]
    fn the_first_probe_decides_and_later_ones_need_rise_and_fall() {
        use State::{Down as D, Up as U};
        assert_eq!(run("+"), [U]);
        assert_eq!(run("-"), [D]);
        assert_eq!(run("+--+---"), [U, U, U, U, U, U, D]);
        assert_eq!(run("-+-++"), [D, D, D, D, U]);
    }

    #[test]
    fn a_change_is_told_once_with_its_cause() {
        let mut tracker = tracker();
        let mut told = Vec::new();
        for found in [good(), good(), bad(), bad(), bad(), bad()] {
            told.extend(tracker.record(found, clock::now(), clock::wall()));
        }
        assert_eq!(told.len(), 2);
        assert_eq!((told[1].from, told[1].to), (State::Up, State::Down));
        assert_eq!(told[1].why, "connect refused");
    }

    #[test]
    fn what_a_server_says_of_itself_counts_at_once() {
        let mut tracker = tracker();
        let said = |write| Found::Good {
            seen: "200".into(),
            ready: Some(Ready {
                ready: true,
                read: Some(true),
                write: Some(write),
                why: if write { vec![] } else { vec!["2.1 GiB free < 50 GiB".into()] },
                supports: vec!["idempotency-key".into()],
                ..Ready::default()
            }),
        };
        tracker.record(said(true), clock::now(), clock::wall());
        let change = tracker.record(said(false), clock::now(), clock::wall()).unwrap();
        assert_eq!((change.from, change.to), (State::Up, State::Up));
        assert_eq!(change.why, "reads yes, writes no, polls yes: 2.1 GiB free < 50 GiB");
        let verdict = tracker.verdict();
        assert!(verdict.may(RouteClass::RegistryRead, Access::Read).is_yes());
        assert!(!verdict.may(RouteClass::RegistryUpload, Access::Write).is_yes());
        assert!(!verdict.may(RouteClass::ControllerApi, Access::Write).is_yes());
        assert!(verdict.supports("idempotency-key"));
        assert!(tracker.record(said(true), clock::now(), clock::wall()).is_some());
    }

    #[test]
    fn a_server_that_is_down_keeps_its_name() {
        let mut tracker = Tracker::new(1, 1, clock::now(), clock::wall());
        let ready = Ready { ready: true, name: Some("r1".into()), ..Ready::default() };
        tracker.record(Found::Good { seen: "200".into(), ready: Some(ready) }, clock::now(), clock::wall());
        tracker.record(bad(), clock::now(), clock::wall());
        tracker.record(good(), clock::now(), clock::wall());
        assert_eq!(tracker.verdict().name(), Some("r1"));
    }

    #[test]
    fn a_successor_begins_with_what_was_found_and_goes_on_from_there() {
        let mut before = tracker();
        assert_eq!(before.verdict().known(clock::now()), None);
        let ready = Ready {
            ready: true,
            write: Some(false),
            why: vec!["disk full".into()],
            supports: vec!["idempotency-key".into()],
            name: Some("r1".into()),
            ..Ready::default()
        };
        before.record(Found::Good { seen: "200".into(), ready: Some(ready) }, clock::now(), clock::wall());
        let known = before.verdict().known(clock::now()).unwrap();
        let verdict = Verdict::handed(&known, clock::now());
        assert_eq!(verdict.known(clock::now()).unwrap(), known);
        assert_eq!(verdict.may(RouteClass::RegistryUpload, Access::Write), &May::No("disk full".into()));
        // One bad probe does not make it down, as it would after a start.
        let mut after = Tracker::from(2, 3, verdict);
        assert_eq!(after.record(bad(), clock::now(), clock::wall()), None);
        assert_eq!(after.verdict().state, State::Up);
    }

    proptest! {
        #[test]
        fn it_is_asked_sooner_exactly_while_outcomes_disagree(outcomes in "[+-]{1,40}") {
            let mut tracker = tracker();
            let mut now = clock::now();
            for c in outcomes.chars() {
                now += Duration::from_secs(1);
                tracker.record(if c == '+' { good() } else { bad() }, now, clock::wall());
                let agrees = (tracker.verdict().state == State::Up) == (c == '+');
                prop_assert_eq!(tracker.changing(), !agrees);
            }
        }
    }
}
