//! What is known of one upstream.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{Cause, Count, Failure, Out, Rules, TOGETHER};

/// Looks back that are kept for the ratio: how finely its window moves on.
const STEPS: u32 = 10;

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It takes requests.
    In {
        /// When it came back, if it was out.
        back: Option<Instant>,
    },
    /// It takes none, or one at a time.
    Out {
        /// Since when, until when, why.
        out: Out,
        /// Number of the newest trial under way; 0 without one.
        trial: u32,
    },
}

impl State {
    pub(super) fn out(&self) -> Option<Out> {
        match self {
            Self::Out { out, .. } => Some(*out),
            Self::In { .. } => None,
        }
    }
}

/// The failures since an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    count: u32,
    since: Instant,
}

/// How much had been counted then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    at: Instant,
    good: u64,
    failed: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) state: State,
    /// Ejections that make the next one longer.
    times: u32,
    run: Option<Run>,
    /// The failure of a connection that others count together with.
    connection: Option<Instant>,
    /// Failures ever.
    failed: u64,
    /// The oldest one is where the window begins.
    marks: VecDeque<Mark>,
    /// Good answers at the last look, and when one last found more of them than before.
    good: Option<u64>,
    well: Option<Instant>,
}

impl Default for Member {
    fn default() -> Self {
        Self::with(State::In { back: None }, 0)
    }
}

impl Member {
    fn with(state: State, times: u32) -> Self {
        Self {
            state,
            times,
            run: None,
            connection: None,
            failed: 0,
            marks: VecDeque::new(),
            good: None,
            well: None,
        }
    }

    pub(super) fn back(back: Option<Instant>, times: u32) -> Self {
        Self::with(State::In { back }, times)
    }

    pub(super) fn out(out: Out) -> Self {
        Self::with(State::Out { out, trial: 0 }, out.times)
    }

    pub(super) fn in_a_row(&self) -> u32 {
        self.run.map_or(0, |run| run.count)
    }

    pub(super) fn times(&self) -> u32 {
        self.times
    }

    pub(super) fn answered(&mut self) {
        self.run = None;
    }

    /// Counts a failure; whether it counts.
    pub(super) fn failed(&mut self, failure: Failure, now: Instant, good: u64, rules: &Rules) -> bool {
        if failure.is_of_connection() {
            if self.connection.is_some_and(|first| now < first + TOGETHER) {
                return false;
            }
            self.connection = Some(now);
        }
        let run = self.run.get_or_insert(Run { count: 0, since: now });
        run.count = run.count.saturating_add(1);
        self.mark(now, good, rules.window);
        self.failed += 1;
        true
    }

    /// Moves the window on to where it ends now.
    fn mark(&mut self, now: Instant, good: u64, window: Duration) {
        if self.marks.back().is_some_and(|last| now.saturating_duration_since(last.at) >= window) {
            // Nothing failed for so long: what was answered before that is not of this trouble.
            self.marks.clear();
        }
        if self.marks.back().is_none_or(|last| now.saturating_duration_since(last.at) >= window / STEPS) {
            self.marks.push_back(Mark { at: now, good, failed: self.failed });
        }
        while self.marks.get(1).is_some_and(|next| now.saturating_duration_since(next.at) >= window) {
            self.marks.pop_front();
        }
    }

    /// Takes in how many good answers it has given.
    pub(super) fn look(&mut self, good: u64, now: Instant) {
        if self.good.is_some_and(|before| good > before) {
            self.well = Some(now);
        }
        self.good = Some(good);
    }

    /// What was counted of its answers is not comparable any more.
    pub(super) fn count_anew(&mut self) {
        self.marks.clear();
        (self.good, self.well) = (None, None);
    }

    /// Whether it takes requests and has answered well since, the last time too.
    pub(super) fn does_well(&self, since: Instant) -> bool {
        self.state.out().is_none() && self.run.is_none() && self.well.is_some_and(|well| well > since)
    }

    /// What is to be said against it, and since when.
    pub(super) fn verdict(&self, good: u64, rules: &Rules) -> Option<(Count, Instant)> {
        if let Some(run) = self.run.filter(|run| run.count >= rules.failures) {
            return Some((Count::InARow(run.count), run.since));
        }
        let from = self.marks.front()?;
        let failed = self.failed.saturating_sub(from.failed);
        let all = failed + good.saturating_sub(from.good);
        let many = all >= rules.requests && failed as f64 >= rules.ratio * all as f64;
        many.then_some((Count::Of { failed, all }, from.at))
    }

    /// Takes it out; what that is.
    pub(super) fn eject(&mut self, cause: Cause, now: Instant, rules: &Rules) -> Out {
        if let State::In { back: Some(back) } = self.state {
            self.forget(now.saturating_duration_since(back), rules);
        }
        let lasts = rules.lasts(self.times);
        // Counting on beyond the longest would only make health slower to be believed.
        let times = if lasts < rules.longest { self.times + 1 } else { self.times.max(1) };
        let until = now + lasts;
        let out = Out { since: now, until, next: until, times, cause };
        *self = Self::out(out);
        out
    }

    /// Health for as long as the last ejection took makes up for that one.
    fn forget(&mut self, mut healthy: Duration, rules: &Rules) {
        while let Some(before) = self.times.checked_sub(1) {
            let Some(left) = healthy.checked_sub(rules.lasts(before)) else { break };
            (self.times, healthy) = (before, left);
        }
    }

    pub(super) fn holds(&self) -> bool {
        let counted = self.run.is_none_or(|run| run.count > 0);
        let marked = self.marks.len() <= STEPS as usize + 2;
        let placed = match self.state {
            State::In { .. } => true,
            State::Out { out, .. } => {
                self.run.is_none() && out.since <= out.until && out.until <= out.next && out.times > 0
            }
        };
        counted && marked && placed
    }
}
