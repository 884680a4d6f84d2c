//! Counters of one service and of one upstream.
//!
//! Two threads that write to one counter wait for each other's core, and finding a counter by its labels costs more
//! than counting. So each thread counts by itself, in counters that are looked up at their first use and kept; what
//! was counted is put together when somebody asks.

use std::{
    cell::Cell,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use prometheus::{
    HistogramVec, IntCounterVec,
    local::{LocalHistogram, LocalIntCounter},
};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    balance::retry_budget::{self, Window},
    clock,
    config::proxy::RetryBudget,
    model::{RouteClass, ServiceName, UpstreamName},
    proxy::{choose::Past, lane::Lane, room::Limit, snapshot::Apart},
};

const CLASSES: usize = RouteClass::ALL.len();

/// `none`, then `1xx` to `5xx`.
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Threads that count by themselves at most; with more, some share.
const SHARES: usize = 64;

/// The place of a status in [`STATUSES`].
fn place(status: Option<u16>) -> usize {
    status.map(|status| usize::from(status / 100)).filter(|place| *place < STATUSES.len()).unwrap_or(0)
}

/// One `T` for each thread that counts.
#[derive(Debug)]
pub(super) struct Shared<T>(Box<[Apart<Mutex<T>>]>);

impl<T: Default> Shared<T> {
    pub(super) fn new() -> Self {
        let shares = thread::available_parallelism().map_or(SHARES, |cores| cores.get().min(SHARES));
        Self((0..shares).map(|_| Apart::default()).collect())
    }

    /// The calling thread's own.
    pub(super) fn own(&self, count: impl FnOnce(&mut T)) {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed));
        }
        if let Some(share) = self.0.get(THREAD.get() % self.0.len().max(1)) {
            // Counters have no state that could be left half changed.
            count(&mut share.0.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// One thread's after the other.
    pub(super) fn each(&self, mut what: impl FnMut(&mut T)) {
        for share in &self.0 {
            what(&mut share.0.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// Of one service.
#[derive(Debug)]
pub struct ServiceNumbers {
    service: String,
    requests: IntCounterVec,
    first_byte: HistogramVec,
    passed_over: IntCounterVec,
    body_bytes: IntCounterVec,
    shares: Shared<OfService>,
    began: Instant,
    retries: Mutex<Window>,
    /// The second in which it was last told that retries are refused; 0: never.
    told: AtomicU64,
}

#[derive(Debug, Default)]
struct OfService {
    requests: [[Option<LocalIntCounter>; STATUSES.len()]; CLASSES],
    first_byte: [Option<LocalHistogram>; CLASSES],
    /// Requests that are over, by the second in which they began.
    recent: Window,
    passed_over: [Option<LocalIntCounter>; Past::ALL.len()],
    /// By lane, up and down.
    moved: [[Option<LocalIntCounter>; 2]; Lane::ALL.len()],
}

/// A request that is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Over {
    pub(super) class: RouteClass,
    /// If it had an answer.
    pub(super) status: Option<u16>,
    /// So many seconds after its head came that of its answer went out.
    pub(super) first_byte: Option<f64>,
    /// When its head came.
    pub(super) started: Instant,
    pub(super) lane: Lane,
    /// Bytes of its body that were not counted yet.
    pub(super) up: u64,
    /// Bytes of its answer's body that were not.
    pub(super) down: u64,
}

impl ServiceNumbers {
    pub(super) fn new(
        service: &ServiceName,
        requests: &IntCounterVec,
        first_byte: &HistogramVec,
        passed_over: &IntCounterVec,
        body_bytes: &IntCounterVec,
    ) -> Self {
        Self {
            body_bytes: body_bytes.clone(),
            service: service.to_string(),
            requests: requests.clone(),
            first_byte: first_byte.clone(),
            passed_over: passed_over.clone(),
            shares: Shared::new(),
            began: clock::now(),
            retries: Mutex::default(),
            told: AtomicU64::new(0),
        }
    }

    /// A request is over.
    pub(super) fn done(&self, over: &Over) {
        let Over { class, status, first_byte, started, lane, up, down } = *over;
        let place = place(status);
        let second = self.second(started);
        self.shares.own(|own| {
            own.recent.add(second);
            if let Some(count) = own.requests.get_mut(class as usize).and_then(|by| by.get_mut(place)) {
                let make = || {
                    let status = STATUSES.get(place).copied().unwrap_or_default();
                    let labels = [self.service.as_str(), class.as_str(), status];
                    self.requests.with_label_values(&labels).local()
                };
                count.get_or_insert_with(make).inc();
            }
            if let (Some(seconds), Some(times)) = (first_byte, own.first_byte.get_mut(class as usize)) {
                let make =
                    || self.first_byte.with_label_values(&[self.service.as_str(), class.as_str()]).local();
                times.get_or_insert_with(make).observe(seconds);
            }
            self.add(own, lane, up, down);
        });
    }

    /// So many bytes of bodies of this lane have moved, to the upstream and to the client.
    pub fn moved(&self, lane: Lane, up: u64, down: u64) {
        self.shares.own(|own| self.add(own, lane, up, down));
    }

    fn add(&self, own: &mut OfService, lane: Lane, up: u64, down: u64) {
        let Some(ways) = own.moved.get_mut(lane as usize) else { return };
        for (count, (way, bytes)) in ways.iter_mut().zip([("up", up), ("down", down)]) {
            if bytes > 0 {
                let labels = [self.service.as_str(), lane.as_str(), way];
                count.get_or_insert_with(|| self.body_bytes.with_label_values(&labels).local()).inc_by(bytes);
            }
        }
    }

    /// Whether one more retry is borne by this budget; it is counted then.
    pub fn may_retry(&self, budget: RetryBudget, now: Instant) -> bool {
        let second = self.second(now);
        let mut requests = 0;
        self.shares.each(|share| requests += share.recent.sum(second));
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = retry_budget::allows(requests, retries.sum(second), budget.ratio, budget.min);
        if allowed {
            retries.add(second);
        } else if self.told.load(Ordering::Relaxed) + retry_budget::SECONDS <= second {
            self.told.store(second, Ordering::Relaxed);
            let (service, retries) = (&self.service, retries.sum(second));
            warn!(service.name = %service, requests, retries, "retries are refused: there are too many already");
        }
        allowed
    }

    /// Requests and retries of the last seconds, and whether one more retry would be borne; nothing is counted.
    pub fn retries(&self, budget: RetryBudget, now: Instant) -> (u64, u64, bool) {
        let second = self.second(now);
        let mut requests = 0;
        self.shares.each(|share| requests += share.recent.sum(second));
        let retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner).sum(second);
        (requests, retries, retry_budget::allows(requests, retries, budget.ratio, budget.min))
    }

    /// Seconds that have passed since counting began; the first one is 100, so that none is long past.
    fn second(&self, at: Instant) -> u64 {
        100 + at.saturating_duration_since(self.began).as_secs()
    }

    /// A choice departed from the rule.
    pub fn passed_over(&self, past: Past) {
        self.shares.own(|own| {
            if let Some(count) = own.passed_over.get_mut(past as usize) {
                let make =
                    || self.passed_over.with_label_values(&[self.service.as_str(), past.label()]).local();
                count.get_or_insert_with(make).inc();
            }
        });
    }

    /// Puts together what the threads have counted.
    pub(super) fn put_together(&self) {
        self.shares.each(|share| {
            share.passed_over.iter().flatten().for_each(LocalIntCounter::flush);
            share.moved.iter().flatten().flatten().for_each(LocalIntCounter::flush);
            share.requests.iter().flatten().flatten().for_each(LocalIntCounter::flush);
            share.first_byte.iter().flatten().for_each(LocalHistogram::flush);
        });
    }
}

impl Drop for ServiceNumbers {
    fn drop(&mut self) {
        self.put_together();
    }
}

/// Of one upstream.
#[derive(Debug)]
pub struct UpstreamNumbers {
    service: String,
    upstream: String,
    answers: IntCounterVec,
    limited: IntCounterVec,
    taken: IntCounterVec,
    shares: Shared<OfUpstream>,
}

#[derive(Debug, Default)]
struct OfUpstream {
    answers: [Option<LocalIntCounter>; STATUSES.len()],
    limited: [Option<LocalIntCounter>; Limit::ALL.len()],
    /// By lane: new ones, and such as were there.
    taken: [[Option<LocalIntCounter>; 2]; Lane::ALL.len()],
    /// Of them those of one that is well.
    good: u64,
    /// Transfers that went through.
    through: u64,
}

impl UpstreamNumbers {
    pub(super) fn new(
        service: &ServiceName,
        upstream: &UpstreamName,
        answers: &IntCounterVec,
        limited: &IntCounterVec,
        taken: &IntCounterVec,
    ) -> Self {
        let (service, upstream) = (service.to_string(), upstream.to_string());
        let (answers, limited, taken) = (answers.clone(), limited.clone(), taken.clone());
        Self { service, upstream, answers, limited, taken, shares: Shared::new() }
    }

    /// A request has a connection there: one that was `kept`, or a new one.
    pub fn took(&self, lane: Lane, kept: bool) {
        self.shares.own(|own| {
            let count = own.taken.get_mut(lane as usize).and_then(|kinds| kinds.get_mut(usize::from(kept)));
            if let Some(count) = count {
                let kind = if kept { "kept" } else { "new" };
                let labels = [self.service.as_str(), self.upstream.as_str(), lane.as_str(), kind];
                count.get_or_insert_with(|| self.taken.with_label_values(&labels).local()).inc();
            }
        });
    }

    /// A request could not go there for this limit.
    pub fn limited(&self, limit: Limit) {
        self.shares.own(|own| {
            if let Some(count) = own.limited.get_mut(limit as usize) {
                let labels = [self.service.as_str(), self.upstream.as_str(), limit.label()];
                count.get_or_insert_with(|| self.limited.with_label_values(&labels).local()).inc();
            }
        });
    }

    /// It has answered with this status; as one that is `well`, or not.
    pub fn answered(&self, status: u16, well: bool) {
        let place = place(Some(status));
        let make = || {
            let status = STATUSES.get(place).copied().unwrap_or_default();
            self.answers.with_label_values(&[self.service.as_str(), self.upstream.as_str(), status]).local()
        };
        self.shares.own(|own| {
            own.good += u64::from(well);
            if let Some(count) = own.answers.get_mut(place) {
                count.get_or_insert_with(make).inc();
            }
        });
    }

    /// How often it has answered as one that is well.
    pub fn good(&self) -> u64 {
        let mut good = 0;
        self.shares.each(|share| good += share.good);
        good
    }

    /// A transfer went through.
    pub fn through(&self) {
        self.shares.own(|own| own.through += 1);
    }

    /// How many transfers went through.
    pub fn moved(&self) -> u64 {
        let mut moved = 0;
        self.shares.each(|share| moved += share.through);
        moved
    }

    /// Puts together what the threads have counted.
    pub(super) fn put_together(&self) {
        self.shares.each(|share| {
            share.answers.iter().chain(&share.limited).flatten().for_each(LocalIntCounter::flush);
            share.taken.iter().flatten().flatten().for_each(LocalIntCounter::flush);
        });
    }
}

impl Drop for UpstreamNumbers {
    fn drop(&mut self) {
        self.put_together();
    }
}
