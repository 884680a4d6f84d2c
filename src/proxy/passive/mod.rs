//! Passive health: what becomes of requests says how their upstreams are.
//!
//! [`blame`] says what counts, [`crate::balance::ejection`] what follows from it, [`shown`] is what requests read. The
//! pool of a service is locked only for what is wrong: a failure, an answer after one, a trial. A request that goes well
//! at an upstream that was well before reads one word and writes none that another thread writes.

mod blame;
mod handed;
mod shown;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::IntCounterVec;
use tokio::time::Instant;
use tracing::{info, warn};

pub(super) use handed::{all as ejections, hand};
pub use shown::Shown;

use super::{
    choose::{Candidate, Out},
    classify::Route,
    ctx::Ctx,
    forward,
    h1::Fields,
    retry::{Event, What},
    snapshot::{Service, Upstream},
};
use crate::{
    balance::ejection::{Change, Failure, Outcome, Pool, Rules, Seen, Standing},
    clock,
    config::proxy::Passive as Config,
    health::State,
    model::ServiceName,
};

/// What traffic says of the upstreams of one service; goes on over a reload.
#[derive(Debug)]
pub struct Passive {
    service: ServiceName,
    /// Ejections, by service, upstream and cause.
    counted: IntCounterVec,
    watched: Mutex<Watched>,
}

#[derive(Debug)]
struct Watched {
    pool: Pool,
    /// Each in its place in the pool.
    upstreams: Vec<Arc<Upstream>>,
}

impl Watched {
    fn place(&self, upstream: &Upstream) -> Option<usize> {
        self.upstreams.iter().position(|known| known.id == upstream.id)
    }

    /// Tells requests where it stands now.
    fn show(&self, place: usize) {
        if let (Some(upstream), Some(standing)) = (self.upstreams.get(place), self.pool.standing(place)) {
            upstream.shown.show(&standing);
        }
    }
}

/// The rules of a config.
fn rules(config: &Config) -> Rules {
    Rules {
        failures: config.failures,
        ratio: config.ratio,
        requests: config.requests,
        window: config.window,
        first: config.ejection,
        longest: config.longest,
        most: config.max_ejected,
    }
}

impl Passive {
    /// Of a service without upstreams yet.
    pub fn new(service: &ServiceName, config: &Config, counted: IntCounterVec) -> Self {
        let watched = Watched { pool: Pool::new(rules(config)), upstreams: Vec::new() };
        Self { service: service.clone(), counted, watched: Mutex::new(watched) }
    }

    /// Goes on with these upstreams under these rules. What is known of one stays if it has the same name and address.
    pub fn keep(&self, config: &Config, upstreams: &[Arc<Upstream>]) {
        let mut watched = self.watched();
        let same = |a: &Upstream, b: &Upstream| a.name == b.name && a.address == b.address;
        let before = |next: &Arc<Upstream>| watched.upstreams.iter().position(|known| same(known, next));
        let places: Vec<Option<usize>> = upstreams.iter().map(before).collect();
        let changes = watched.pool.keep(rules(config), &places, clock::now());
        watched.upstreams = upstreams.to_vec();
        (0..upstreams.len()).for_each(|place| watched.show(place));
        drop(watched);
        for (place, change) in changes {
            upstreams.get(place).into_iter().for_each(|upstream| self.tell(upstream, change));
        }
    }

    /// Where each upstream stands.
    pub fn standings(&self) -> Vec<(Arc<Upstream>, Standing)> {
        let watched = self.watched();
        let of = |(place, upstream): (usize, &Arc<Upstream>)| {
            Some((upstream.clone(), watched.pool.standing(place)?))
        };
        watched.upstreams.iter().enumerate().filter_map(of).collect()
    }

    /// Whether a request may be sent to one that is out, as its trial, and by which number.
    pub fn try_one(&self, upstream: &Upstream, now: Instant) -> Option<u32> {
        let mut watched = self.watched();
        let place = watched.place(upstream)?;
        let number = watched.pool.try_one(place, now)?;
        watched.show(place);
        Some(number)
    }

    /// The request of a trial has ended, however.
    pub fn trial_over(&self, upstream: &Upstream, number: u32) {
        let mut watched = self.watched();
        if let Some(place) = watched.place(upstream) {
            watched.pool.trial_over(place, number, clock::now());
            watched.show(place);
        }
    }

    /// Takes in what became of a request that began then.
    fn report(&self, upstream: &Arc<Upstream>, outcome: Outcome, began: Instant) {
        if outcome.failure().is_none() && !upstream.shown.is_troubled() {
            return;
        }
        let mut watched = self.watched();
        let Some(place) = watched.place(upstream) else { return };
        let Watched { pool, upstreams } = &mut *watched;
        let seen = |at: usize| {
            let upstream = upstreams.get(at);
            let up = upstream.is_some_and(|upstream| upstream.prober.verdict().state == State::Up);
            let numbers = upstream.map(|upstream| &upstream.numbers);
            let (good, moved) = numbers.map_or((0, 0), |numbers| (numbers.good(), numbers.moved()));
            Seen { up, good, moved }
        };
        let change = pool.record(place, outcome, began, clock::now(), seen);
        watched.show(place);
        drop(watched);
        if let Some(change) = change {
            self.tell(upstream, change);
        }
    }

    fn tell(&self, upstream: &Upstream, change: Change) {
        let name = format!("{}/{}", self.service, upstream.name);
        let shown =
            |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
        match change {
            Change::Ejected { lasts, times, cause } => {
                let labels = [self.service.as_str(), upstream.name.as_str(), cause.last.label()];
                self.counted.with_label_values(&labels).inc();
                warn!(upstream.name = %name, why = %cause, lasts = %shown(lasts), times, "upstream ejected");
            }
            Change::Back { out } => info!(upstream.name = %name, out = %shown(out), "upstream is back"),
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        // What is changed under it is changed by one call that does not panic half way.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of an answer has come from the upstream of the attempt under way.
pub(super) fn answered(ctx: &mut Ctx, status: u16, fields: &Fields<'_>) {
    let outcome = match blame::answer(status, status == 503 && fields.has("retry-after")) {
        Some(failure) => failed_by(ctx, failure),
        None => Outcome::Answered,
    };
    if let Some(current) = &mut ctx.current {
        current.well = blame::is_well(status);
    }
    report(ctx, outcome);
}

/// So many bytes show that an upstream can bring a transfer to its end: what stands in a socket's buffers shows nothing.
const MUCH: u64 = 256 << 10;

/// The attempt under way has gone through, and moved so many bytes.
pub(super) fn moved(ctx: &Ctx, bytes: u64) {
    let Some(current) = ctx.current.as_ref().filter(|current| current.well && bytes >= MUCH) else { return };
    if let Some(upstream) = current.under_way.upstream().filter(|_| forward::is_transfer(ctx.route)) {
        upstream.numbers.through();
        report(ctx, Outcome::Moved);
    }
}

/// The attempt under way has failed.
pub(super) fn failed(ctx: &Ctx, event: Event) {
    let ours = ctx.current.as_ref().is_some_and(|current| current.blameless);
    if let Some(failure) = blame::event(event, ctx.route.class).filter(|_| !ours) {
        report(ctx, failed_by(ctx, failure));
    }
}

/// The answer that is passed on has broken off.
pub(super) fn broke_off(ctx: &Ctx, what: What) {
    if let Some(failure) = blame::broke_off(what, ctx.route.class) {
        report(ctx, failed_by(ctx, failure));
    }
}

fn failed_by(ctx: &Ctx, failure: Failure) -> Outcome {
    if forward::is_transfer(ctx.route) { Outcome::Stuck(failure) } else { Outcome::Failed(failure) }
}

fn report(ctx: &Ctx, outcome: Outcome) {
    let Some(current) = &ctx.current else { return };
    if let (Some(service), Some(upstream)) = (current.under_way.service(), current.under_way.upstream()) {
        service.passive.report(upstream, outcome, current.began);
    }
}

/// What a choice is to the upstream that it fell on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    /// One choice among many.
    None,
    /// The trial after its ejection, of this number.
    Ours(u32),
    /// Somebody else has just become that: it is not to be chosen now.
    Taken,
}

impl Service {
    /// Notes who is ejected. Nearly always nobody is: a word is read for each.
    pub(super) fn mark_ejected(&self, candidates: &mut [Candidate<'_>], route: Route, now: Instant) {
        for (candidate, upstream) in candidates.iter_mut().zip(&self.upstreams) {
            candidate.out = upstream.shown.now(now, route.repeatable);
        }
    }

    /// Begins the trial of the one that was chosen, if it waits for one.
    pub(super) fn trial(&self, candidates: &mut [Candidate<'_>], place: usize, now: Instant) -> Trial {
        let Some(candidate) = candidates.get_mut(place).filter(|candidate| candidate.out == Out::Trial)
        else {
            return Trial::None;
        };
        let begun = self.upstreams.get(place).and_then(|upstream| self.passive.try_one(upstream, now));
        match begun {
            Some(number) => Trial::Ours(number),
            None => {
                candidate.out = Out::Ejected;
                Trial::Taken
            }
        }
    }
}
