//! What is known of one upstream.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{Cause, Count, Failure, Out, ROW, Rules, Seen, TOGETHER};

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

/// The failures since one went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    count: u32,
    since: Instant,
    last: Instant,
}

impl Run {
    /// One more of them.
    fn and(run: Option<Self>, now: Instant) -> Self {
        let before = run.unwrap_or(Self { count: 0, since: now, last: now });
        Self { count: before.count.saturating_add(1), last: now, ..before }
    }
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
    /// The same of transfers alone.
    stuck: Option<Run>,
    /// The failure of a connection that others count together with.
    connection: Option<Instant>,
    /// Failures ever.
    failed: u64,
    /// The oldest one is where the window begins.
    marks: VecDeque<Mark>,
    /// Good answers at the last look, and when one last found more of them than before.
    good: Option<u64>,
    well: Option<Instant>,
    /// The same of transfers.
    through: Option<u64>,
    moved: Option<Instant>,
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
            stuck: None,
            connection: None,
            failed: 0,
            marks: VecDeque::new(),
            good: None,
            well: None,
            through: None,
            moved: None,
        }
    }

    pub(super) fn back(back: Option<Instant>, times: u32) -> Self {
        Self::with(State::In { back }, times)
    }

    pub(super) fn out(out: Out) -> Self {
        Self::with(State::Out { out, trial: 0 }, out.times)
    }

    /// In whichever row is longer.
    pub(super) fn in_a_row(&self) -> u32 {
        [self.run, self.stuck].iter().flatten().map(|run| run.count).max().unwrap_or(0)
    }

    pub(super) fn times(&self) -> u32 {
        self.times
    }

    pub(super) fn answered(&mut self) {
        self.run = None;
    }

    pub(super) fn moved(&mut self) {
        (self.run, self.stuck) = (None, None);
    }

    /// It was out for its transfers: until one goes through, the next that fails is as good as all of them.
    pub(super) fn on_probation(&mut self, now: Instant, rules: &Rules) {
        let count = rules.failures.saturating_sub(1);
        self.stuck = (count > 0).then_some(Run { count, since: now, last: now });
    }

    /// Counts a failure; whether it counts.
    pub(super) fn failed(
        &mut self,
        failure: Failure,
        transfer: bool,
        now: Instant,
        good: u64,
        rules: &Rules,
    ) -> bool {
        if failure.is_of_connection() {
            if self.connection.is_some_and(|first| now < first + TOGETHER) {
                return false;
            }
            self.connection = Some(now);
        }
        self.run = Some(Run::and(self.run, now));
        let row = self.stuck.filter(|stuck| now.saturating_duration_since(stuck.last) < ROW);
        self.stuck = if transfer { Some(Run::and(row, now)) } else { row };
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

    /// Takes in how many good answers it has given, and transfers brought to their end.
    pub(super) fn look(&mut self, Seen { good, moved, .. }: Seen, now: Instant) {
        if self.good.is_some_and(|before| good > before) {
            self.well = Some(now);
        }
        if self.through.is_some_and(|before| moved > before) {
            self.moved = Some(now);
        }
        (self.good, self.through) = (Some(good), Some(moved));
    }

    /// What was counted of its answers is not comparable any more.
    pub(super) fn count_anew(&mut self) {
        self.marks.clear();
        (self.good, self.well) = (None, None);
        (self.through, self.moved) = (None, None);
    }

    /// Whether it takes requests and has answered well since, the last time too; or, if that is the question, whether
    /// transfers went through.
    pub(super) fn does_well(&self, since: Instant, moves: bool) -> bool {
        let (row, well) = if moves { (self.stuck, self.moved) } else { (self.run, self.well) };
        self.state.out().is_none() && row.is_none() && well.is_some_and(|well| well > since)
    }

    /// What is to be said against it, and since when.
    pub(super) fn verdict(&self, good: u64, rules: &Rules) -> Option<(Count, Instant)> {
        if let Some(run) = self.run.filter(|run| run.count >= rules.failures) {
            return Some((Count::InARow(run.count), run.since));
        }
        if let Some(run) = self.stuck.filter(|run| run.count >= rules.failures) {
            return Some((Count::Transfers(run.count), run.since));
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
        let counted =
            [self.run, self.stuck].iter().flatten().all(|run| run.count > 0 && run.since <= run.last);
        let marked = self.marks.len() <= STEPS as usize + 2;
        let placed = match self.state {
            State::In { .. } => true,
            State::Out { out, .. } => {
                self.run.is_none()
                    && self.stuck.is_none()
                    && out.since <= out.until
                    && out.until <= out.next
                    && out.times > 0
            }
        };
        counted && marked && placed
    }
}
