//! Which upstreams of a pool real traffic has shown to be broken, and for how long each is left alone.
//!
//! One is ejected when many of its requests failed in a row, or a large part of many, while another one of the pool did
//! well: what fails everywhere is no fault of one upstream, and taking that one away would only put its load on the
//! others. Transfers have a row of their own besides, for one that answers every head at once may bring no body to its end:
//! only a transfer that went through ends that row, and only another one's shows that it is better. When its time is over, one request is sent to it as a trial; that decides whether it is back, or out again for
//! twice as long. Health makes the next ejection shorter again, as slowly as failures have made it longer.
//!
//! Pure: the caller brings the time, and says how the others are.

mod member;

use std::{fmt, time::Duration};

use tokio::time::Instant;

use self::member::{Member, State};

/// Failures of connections to one upstream within this count once: a restart cuts thousands of parked polls.
pub const TOGETHER: Duration = Duration::from_secs(1);

/// A trial that has brought nothing after so long keeps the next request away no more: it may be a push of hours.
pub const TRIAL: Duration = Duration::from_secs(10);

/// Transfers that fail further apart than this are no row: most of one are slow for a minute before they count.
pub const ROW: Duration = Duration::from_secs(600);

/// How the others are is asked so often at most, for asking costs.
pub const LOOK: Duration = Duration::from_millis(100);

/// When an upstream is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// So many failures in a row.
    pub failures: u32,
    /// Such a part of all requests within [`Rules::window`].
    pub ratio: f64,
    /// That part counts once there were so many requests.
    pub requests: u64,
    /// How far back [`Rules::ratio`] looks.
    pub window: Duration,
    /// The first ejection; each further one is twice as long.
    pub first: Duration,
    /// None is longer.
    pub longest: Duration,
    /// Such a part of the pool may be out at once, rounded down, but one in any case; with 0 nobody is ejected.
    pub most: f64,
}

impl Rules {
    /// How long an ejection lasts that follows so many others.
    pub fn lasts(&self, times: u32) -> Duration {
        let factor = 1u32.checked_shl(times).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest.max(self.first))
    }

    /// How many of a pool of so many may be out at once. Never the last one.
    pub fn may_be_out(&self, of: usize) -> usize {
        let others = of.saturating_sub(1);
        if self.most <= 0.0 {
            return 0;
        }
        // Of a whole number of upstreams; what `as` cuts off is the rounding.
        let part = (of as f64 * self.most) as usize;
        part.max(1).min(others)
    }
}

/// What became of a request, as far as its upstream is to blame or to praise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was an answer.
    Answered,
    /// A transfer went through to its end.
    Moved,
    /// It failed.
    Failed(Failure),
    /// A transfer failed. An answer to something else does not make up for that.
    Stuck(Failure),
}

impl Outcome {
    /// How it failed, if it did.
    pub fn failure(self) -> Option<Failure> {
        match self {
            Self::Answered | Self::Moved => None,
            Self::Failed(failure) | Self::Stuck(failure) => Some(failure),
        }
    }
}

/// How it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection.
    Connect,
    /// The connection was closed or reset.
    Closed,
    /// It took too long.
    TimedOut,
    /// It moved less than a transfer may.
    TooSlow,
    /// What came was no HTTP.
    Garbled,
    /// An answer that says that the server failed.
    Status(u16),
}

impl Failure {
    /// The label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect-failed",
            Self::Closed => "closed",
            Self::TimedOut => "timed-out",
            Self::TooSlow => "too-slow",
            Self::Garbled => "garbled",
            Self::Status(_) => "status",
        }
    }

    /// Whether one event may bring thousands of it at once.
    fn is_of_connection(self) -> bool {
        matches!(self, Self::Connect | Self::Closed)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("no connection"),
            Self::Closed => f.write_str("it closed the connection"),
            Self::TimedOut => f.write_str("it took too long"),
            Self::TooSlow => f.write_str("it was too slow"),
            Self::Garbled => f.write_str("its answer was not HTTP"),
            Self::Status(status) => write!(f, "it answered {status}"),
        }
    }
}

/// Why one was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// How much had failed.
    pub count: Count,
    /// The last of it.
    pub last: Failure,
}

/// How much had failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many in a row.
    InARow(u32),
    /// So many transfers in a row.
    Transfers(u32),
    /// So many of so many.
    Of {
        /// That failed.
        failed: u64,
        /// All.
        all: u64,
    },
    /// The trial.
    Trial,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            Count::InARow(count) => write!(f, "{count} failures in a row, the last: {}", self.last),
            Count::Transfers(count) => {
                write!(f, "{count} transfers in a row failed, the last: {}", self.last)
            }
            Count::Of { failed, all } => {
                write!(f, "{failed} of {all} requests failed, the last: {}", self.last)
            }
            Count::Trial => write!(f, "the trial failed: {}", self.last),
        }
    }
}

/// How another upstream of the pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// It passes its probes.
    pub up: bool,
    /// Good answers that it ever gave.
    pub good: u64,
    /// Transfers that it ever brought to their end.
    pub moved: u64,
}

/// An ejection, or the time after it in which the trial is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Out {
    /// When it began.
    pub since: Instant,
    /// When it is over.
    pub until: Instant,
    /// When the next request may be sent there.
    pub next: Instant,
    /// Which ejection in succession it is, from 1.
    pub times: u32,
    /// Why.
    pub cause: Cause,
}

/// Where an upstream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It takes requests.
    In {
        /// When it came back, if it was ever out.
        back: Option<Instant>,
        /// Failures in a row.
        failures: u32,
        /// Ejections that make the next one longer.
        times: u32,
    },
    /// It takes none, or one at a time.
    Out(Out),
}

/// Something worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It takes no requests.
    Ejected {
        /// For so long.
        lasts: Duration,
        /// Which ejection in succession it is.
        times: u32,
        /// Why.
        cause: Cause,
    },
    /// It takes requests again: the trial went well, or the rules have changed.
    Back {
        /// It was out for so long.
        out: Duration,
    },
}

/// The upstreams of one service, each by its place.
#[derive(Debug, Clone)]
pub struct Pool {
    rules: Rules,
    members: Vec<Member>,
    looked: Option<Instant>,
    trials: u32,
}

impl Pool {
    /// Of nobody yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, members: Vec::new(), looked: None, trials: 0 }
    }

    /// The rules that are in force.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Goes on with other rules and other members: each is one of before, by its place then, or new. Those that may not
    /// be out any more come back.
    pub fn keep(&mut self, rules: Rules, members: &[Option<usize>], now: Instant) -> Vec<(usize, Change)> {
        let kept = |place: &Option<usize>| place.and_then(|place| self.members.get(place)).cloned();
        self.members = members.iter().map(|place| kept(place).unwrap_or_default()).collect();
        self.members.iter_mut().for_each(Member::count_anew);
        (self.rules, self.looked) = (rules, None);
        let mut back = Vec::new();
        while self.out() > self.rules.may_be_out(self.members.len()) {
            let until = |member: &Member| member.state.out().map(|out| out.until);
            let out = self.members.iter().enumerate().filter_map(|(at, m)| until(m).map(|until| (until, at)));
            let Some((_, at)) = out.min() else { break };
            back.extend(self.let_in(at, now).map(|change| (at, change)));
        }
        debug_assert!(self.holds());
        back
    }

    /// Goes on with what somebody else has found out about a new member.
    pub fn hand(&mut self, place: usize, standing: Standing) {
        let room = self.out() < self.rules.may_be_out(self.members.len());
        let Some(member) = self.members.get_mut(place) else { return };
        match standing {
            Standing::In { back, times, .. } => *member = Member::back(back, times),
            Standing::Out(out) if room => *member = Member::out(out),
            Standing::Out(_) => {}
        }
        debug_assert!(self.holds());
    }

    /// Feeds in what became of a request that `began` then; says what changed, if anything did. `seen` says how each
    /// member is; it is asked only when something failed.
    pub fn record(
        &mut self,
        place: usize,
        outcome: Outcome,
        began: Instant,
        now: Instant,
        seen: impl Fn(usize) -> Seen,
    ) -> Option<Change> {
        let member = self.members.get_mut(place)?;
        let change = match (member.state, outcome) {
            // It was sent before the ejection ended, so it says nothing about what is now.
            (State::Out { out, .. }, _) if began < out.until => None,
            (State::Out { .. }, Outcome::Answered | Outcome::Moved) => self.let_in(place, now),
            (State::Out { .. }, Outcome::Failed(last) | Outcome::Stuck(last)) => {
                self.eject(place, Cause { count: Count::Trial, last }, now)
            }
            (State::In { back: Some(back) }, Outcome::Failed(_) | Outcome::Stuck(_)) if began < back => None,
            (State::In { .. }, Outcome::Answered) => {
                member.answered();
                None
            }
            (State::In { .. }, Outcome::Moved) => {
                member.moved();
                None
            }
            (State::In { .. }, Outcome::Failed(last)) => self.failed(place, last, false, now, seen),
            (State::In { .. }, Outcome::Stuck(last)) => self.failed(place, last, true, now, seen),
        };
        debug_assert!(self.holds());
        change
    }

    /// Whether a request may be sent to one that is out, as its trial, by which number then: one at a time, once its
    /// time is over.
    pub fn try_one(&mut self, place: usize, now: Instant) -> Option<u32> {
        let number = self.trials.wrapping_add(1).max(1);
        let State::Out { out, trial } = &mut self.members.get_mut(place)?.state else { return None };
        if now < out.next {
            return None;
        }
        out.next = now + TRIAL;
        *trial = number;
        self.trials = number;
        Some(number)
    }

    /// The request of a trial has ended. If it has told nothing, the next one may be sent.
    pub fn trial_over(&mut self, place: usize, number: u32, now: Instant) {
        if let Some(Member { state: State::Out { out, trial }, .. }) = self.members.get_mut(place)
            && *trial == number
        {
            out.next = now.max(out.until);
            *trial = 0;
        }
    }

    /// Where it stands.
    pub fn standing(&self, place: usize) -> Option<Standing> {
        let member = self.members.get(place)?;
        Some(match member.state {
            State::Out { out, .. } => Standing::Out(out),
            State::In { back } => Standing::In { back, failures: member.in_a_row(), times: member.times() },
        })
    }

    /// How many are out.
    pub fn out(&self) -> usize {
        self.members.iter().filter(|member| member.state.out().is_some()).count()
    }

    fn failed(
        &mut self,
        place: usize,
        last: Failure,
        transfer: bool,
        now: Instant,
        seen: impl Fn(usize) -> Seen,
    ) -> Option<Change> {
        let good = seen(place).good;
        if !self.members.get_mut(place)?.failed(last, transfer, now, good, &self.rules) {
            return None;
        }
        if self.looked.is_none_or(|looked| now >= looked + LOOK) {
            self.looked = Some(now);
            for (at, member) in self.members.iter_mut().enumerate() {
                member.look(seen(at), now);
            }
        }
        let (count, since) = self.members.get(place)?.verdict(good, &self.rules)?;
        let moves = matches!(count, Count::Transfers(_));
        let does_well =
            |(at, member): (usize, &Member)| at != place && member.does_well(since, moves) && seen(at).up;
        let room = self.out() < self.rules.may_be_out(self.members.len());
        let better = || self.members.iter().enumerate().any(does_well);
        (room && better()).then(|| self.eject(place, Cause { count, last }, now))?
    }

    fn eject(&mut self, place: usize, cause: Cause, now: Instant) -> Option<Change> {
        let out = self.members.get_mut(place)?.eject(cause, now, &self.rules);
        Some(Change::Ejected { lasts: out.until - out.since, times: out.times, cause })
    }

    fn let_in(&mut self, place: usize, now: Instant) -> Option<Change> {
        let member = self.members.get_mut(place)?;
        let out = member.state.out()?;
        *member = Member::back(Some(now), out.times);
        if matches!(out.cause.count, Count::Transfers(_)) {
            member.on_probation(now, &self.rules);
        }
        Some(Change::Back { out: now.saturating_duration_since(out.since) })
    }

    fn holds(&self) -> bool {
        self.out() <= self.rules.may_be_out(self.members.len()) && self.members.iter().all(Member::holds)
    }
}

#[cfg(test)]
mod tests;
