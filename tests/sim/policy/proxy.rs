//! What one proxy keeps of its servers, and how it makes a choice of that: the same few lines that `proxy/` has around its
//! cores, without threads and sockets.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};
use switchyard::{
    balance::{
        PeakEwma, Weight,
        ejection::{Change, Outcome, Pool, Seen, Standing},
        retry_budget::{self, Window},
        slow_start,
    },
    clock,
    health::{Access, Found, State, verdict::Tracker},
    model::RouteClass,
    proxy::{
        choose::{Candidate, Out},
        cohort::core::{self, Choice, Core},
    },
};
use tokio::time::Instant;

use super::{plan::Plan, server::Server};

/// For so long after an ejection its trial is a request that may be sent again.
const PICKY: Duration = Duration::from_secs(10);

/// What one proxy keeps of one server.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) tracker: Tracker,
    /// When the next probe is due.
    pub(super) probe: u64,
    pub(super) outstanding: u64,
    pub(super) mean: PeakEwma,
    /// Good answers ever.
    pub(super) good: u64,
    /// Traffic has seen what the verdict does not say.
    pub(super) doubtful: bool,
}

impl Known {
    /// Whether agents could be served by it.
    pub(super) fn able(&self) -> bool {
        let verdict = self.tracker.verdict();
        verdict.state == State::Up && verdict.may(RouteClass::AgentPoll, Access::Write).is_yes()
    }
}

/// One proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) zone: usize,
    pub(super) turn: usize,
    pub(super) of: Vec<Known>,
    pub(super) pool: Pool,
    pub(super) core: Core,
    requests: Window,
    retries: Window,
}

impl Proxy {
    pub(super) fn new(plan: &Plan, now: Instant, rng: &mut StdRng) -> Self {
        let known = |_| Known {
            tracker: Tracker::new(plan.rise, plan.fall, now, clock::wall()),
            probe: rng.random_range(0..plan.interval / 4),
            outstanding: 0,
            mean: PeakEwma::default(),
            good: 0,
            doubtful: false,
        };
        let of = (0..plan.servers).map(known).collect();
        let mut pool = Pool::new(plan.passive);
        pool.keep(plan.passive, &vec![None; plan.servers], now);
        Self {
            zone: rng.random_range(0..3),
            turn: 0,
            of,
            pool,
            core: Core::new(plan.cohorts, now),
            requests: Window::default(),
            retries: Window::default(),
        }
    }

    /// What it knows at this moment. `millis` have passed since the beginning.
    pub(super) fn candidates<'a>(
        &'a self,
        servers: &'a [Server],
        plan: &Plan,
        (now, millis): (Instant, u32),
        (repeatable, agent): (bool, bool),
    ) -> Vec<Candidate<'a>> {
        let mut all = Vec::with_capacity(servers.len());
        for (place, (server, known)) in servers.iter().zip(&self.of).enumerate() {
            let (verdict, weight) = (known.tracker.verdict(), Weight::of(server.weight));
            let (out, back) = match self.pool.standing(place) {
                Some(Standing::Out(out)) if now < out.next => (Out::Ejected, None),
                Some(Standing::Out(out)) if repeatable || now >= out.until + PICKY => (Out::Trial, None),
                Some(Standing::Out(_)) => (Out::Ejected, None),
                Some(Standing::In { back, .. }) => (Out::In, back),
                None => (Out::In, None),
            };
            let since = back.map_or(verdict.since, |back| back.max(verdict.since));
            let part = match verdict.state {
                State::Up => slow_start(weight, now - since, plan.slow_start),
                _ => weight,
            };
            let served = self.core.chosen().is_some() && verdict.version() == self.core.chosen();
            all.push(Candidate {
                outstanding: known.outstanding,
                most: server.most,
                out,
                apart: agent && (known.doubtful || !served),
                weight,
                part,
                local: server.zone == self.zone,
                latency: known.mean.latency(millis),
                ..Candidate::plain(&server.name, verdict)
            });
        }
        all
    }

    /// Takes in what a probe has found; gives the milliseconds until the next one.
    pub(super) fn probed(
        &mut self,
        place: usize,
        found: Found,
        plan: &Plan,
        now: Instant,
        rng: &mut StdRng,
    ) -> u64 {
        let known = &mut self.of[place];
        let good = matches!(found, Found::Good { .. });
        known.tracker.record(found, now, clock::wall());
        known.doubtful = !(good && known.tracker.verdict().state == State::Up);
        let pause = if known.tracker.changing() { plan.interval / 4 } else { plan.interval };
        pause * rng.random_range(90..110) / 100
    }

    /// Whether agents are to be served from elsewhere; done already, if so.
    pub(super) fn look(&mut self, now: Instant) -> Option<Choice> {
        let seen = |known: &Known| core::Seen {
            version: known.tracker.verdict().version().cloned(),
            known: known.tracker.verdict().state != State::Unknown,
            able: known.able(),
        };
        let seen: Vec<_> = self.of.iter().map(seen).collect();
        let choice = self.core.look(&seen, now)?;
        self.core.take(choice.clone());
        Some(choice)
    }

    /// Takes in what became of a request.
    pub(super) fn record(
        &mut self,
        place: usize,
        outcome: Outcome,
        began: Instant,
        now: Instant,
    ) -> Option<Change> {
        let of = &self.of;
        let seen =
            |at: usize| Seen { up: of[at].tracker.verdict().state == State::Up, good: of[at].good, moved: 0 };
        self.pool.record(place, outcome, began, now, seen)
    }

    /// One more request has come.
    pub(super) fn count(&mut self, second: u64) {
        self.requests.add(second);
    }

    /// Whether one more retry is borne; it is counted then.
    pub(super) fn may_retry(&mut self, plan: &Plan, second: u64) -> bool {
        let (requests, retries) = (self.requests.sum(second), self.retries.sum(second));
        let allowed = retry_budget::allows(requests, retries, plan.budget.ratio, plan.budget.min);
        if allowed {
            self.retries.add(second);
        }
        allowed
    }
}
