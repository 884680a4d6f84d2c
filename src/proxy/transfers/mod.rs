//! Transfers in flight: what moves, for whom, how fast, and whom it waits for.
//!
//! A request is one once it has moved [`LARGE`] bytes one way, or is of the bulk lane and has gone on for [`LONG`]; another
//! protocol is one from its beginning. Until then nothing is kept of it, so short requests cost two comparisons where they
//! pause. Each thread has a list of its own; what changes in an entry are words that one thread stores and whoever asks reads.

mod keep;
mod view;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::http::Method;
use tokio::time::Instant;

use super::{ctx::Ctx, lane::Lane, snapshot::Service};
use crate::{
    clock,
    model::{RequestId, RouteClass, Timestamp},
};

pub use self::keep::keep;

/// With so many bytes one way a request is a transfer.
pub const LARGE: u64 = 256 * 1024;

/// One of the bulk lane is after so long, however little has moved.
pub const LONG: Duration = Duration::from_secs(1);

/// Transfers that are listed at most. Full: further ones are as they were, but nobody is told of them while they last.
pub const MOST: usize = 4096;

/// So much of a path is kept.
const PATH: usize = 512;

/// No upstream.
const NONE: usize = usize::MAX;

/// Which way a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the upstream.
    Up,
    /// To the client.
    Down,
    /// Another protocol: both ways.
    Both,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Both];

    /// The word of log, metrics and admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Both => "both",
        }
    }
}

/// Who is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// Whoever asks.
    Client,
    /// Whoever answers.
    Upstream,
    /// Others are served first.
    Turn,
}

impl Waits {
    /// The word of log and admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Turn => "turn",
        }
    }

    fn of(number: u8) -> Self {
        match number {
            0 => Self::Client,
            1 => Self::Upstream,
            _ => Self::Turn,
        }
    }
}

/// How far one has come when it pauses.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// Bytes of the request's body.
    pub up: u64,
    /// Bytes of the answer's.
    pub down: u64,
    /// Who is waited for.
    pub waits: Waits,
}

/// Bytes of the two bodies that were counted before the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Of the request's.
    pub up: u64,
    /// Of the answer's.
    pub down: u64,
}

/// All of a process.
#[derive(Debug, Default)]
pub struct Transfers {
    lists: Mutex<Vec<Arc<List>>>,
    count: Arc<AtomicUsize>,
    next: Arc<AtomicU64>,
}

/// Those of one thread.
#[derive(Debug)]
pub struct List {
    entries: Mutex<BTreeMap<u64, Arc<Transfer>>>,
    count: Arc<AtomicUsize>,
    next: Arc<AtomicU64>,
}

/// One of them.
#[derive(Debug)]
pub struct Transfer {
    request: RequestId,
    trace: Option<u128>,
    listener: String,
    client: IpAddr,
    method: Method,
    path: String,
    service: Arc<Service>,
    class: RouteClass,
    lane: Lane,
    direction: Direction,
    length: Option<u64>,
    started: Instant,
    since: Timestamp,
    up: AtomicU64,
    down: AtomicU64,
    /// Place of the upstream in the service.
    place: AtomicUsize,
    waits: AtomicU8,
    /// So much of it is in the metrics.
    counted: (AtomicU64, AtomicU64),
    /// The task's own.
    kept: Mutex<keep::Kept>,
}

/// One that is listed, until this is dropped.
#[derive(Debug)]
pub struct Listed(Box<(u64, Arc<List>, Arc<Transfer>)>);

impl Transfers {
    /// The list of one more thread.
    pub fn list(&self) -> Arc<List> {
        let (count, next) = (self.count.clone(), self.next.clone());
        let list = Arc::new(List { entries: Mutex::default(), count, next });
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).push(list.clone());
        list
    }

    /// Those in flight, the oldest first.
    pub fn all(&self) -> Vec<Arc<Transfer>> {
        let mut all = Vec::new();
        for list in &*self.lists.lock().unwrap_or_else(PoisonError::into_inner) {
            all.extend(list.lock().values().cloned());
        }
        all.sort_by_key(|transfer: &Arc<Transfer>| transfer.started);
        all
    }

    /// No further one is listed.
    pub fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= MOST
    }
}

impl List {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Transfer>>> {
        // A map is whole after each of its calls.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists it, unless there are [`MOST`].
    fn add(self: &Arc<Self>, transfer: Transfer) -> Option<Listed> {
        if !self.take_place() {
            return None;
        }
        let (number, transfer) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(transfer));
        self.lock().insert(number, transfer.clone());
        Some(Listed(Box::new((number, self.clone(), transfer))))
    }
}

impl List {
    fn take_place(&self) -> bool {
        let one_more = |count: usize| (count < MOST).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn leave_place(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let (number, list, _) = &*self.0;
        list.lock().remove(number);
        list.leave_place();
    }
}

/// Notes where a request stands that pauses at `now`; it is listed when it has become a transfer. `length`: that of the body
/// that goes in this direction.
pub fn note(
    ctx: &mut Ctx,
    list: &Arc<List>,
    now: Instant,
    pause: Pause,
    length: impl FnOnce(Direction) -> Option<u64>,
) {
    if ctx.transfer.is_none() {
        let large = pause.up >= LARGE || pause.down >= LARGE;
        let long = || Lane::of(ctx.route) == Lane::Bulk && now.saturating_duration_since(ctx.started) >= LONG;
        if !large && !long() {
            return;
        }
        let up = pause.up >= LARGE || (pause.down == 0 && (pause.up > 0 || pause.waits == Waits::Client));
        begin(ctx, list, if up { Direction::Up } else { Direction::Down }, length);
    }
    let place = ctx.attempts.last().map_or(NONE, |attempt| attempt.place);
    if let Some(listed) = &ctx.transfer {
        listed.transfer().paused(pause, place);
    }
}

/// When [`note`] should be called although nothing has happened: a request becomes a transfer then that stands still.
pub fn look_at(ctx: &Ctx, now: Instant) -> Option<Instant> {
    let bulk = ctx.transfer.is_none() && Lane::of(ctx.route) == Lane::Bulk;
    bulk.then(|| ctx.started + LONG).filter(|at| *at > now)
}

/// Lists a request from here on.
pub fn begin(
    ctx: &mut Ctx,
    list: &Arc<List>,
    direction: Direction,
    length: impl FnOnce(Direction) -> Option<u64>,
) {
    let Some(service) = ctx.service().cloned() else { return };
    // In its one form it is ASCII.
    let path = ctx.path.get(..PATH).unwrap_or(&ctx.path).to_owned();
    ctx.transfer = list.add(Transfer {
        request: ctx.request.clone(),
        trace: ctx.trace.as_ref().map(|trace| trace.id.get()),
        listener: ctx.listener_name().to_owned(),
        client: ctx.client.ip,
        method: ctx.method.clone(),
        path,
        service,
        class: ctx.route.class,
        lane: Lane::of(ctx.route),
        direction,
        length: length(direction),
        started: ctx.started,
        since: clock::wall().minus(clock::now().saturating_duration_since(ctx.started)),
        up: AtomicU64::new(0),
        down: AtomicU64::new(0),
        place: AtomicUsize::new(ctx.attempts.last().map_or(NONE, |attempt| attempt.place)),
        waits: AtomicU8::new(Waits::Upstream as u8),
        counted: Default::default(),
        kept: Mutex::default(),
    });
}

impl Listed {
    /// What is listed.
    pub fn transfer(&self) -> &Transfer {
        &self.0.2
    }

    /// It is over with so many bytes: what of them is in the metrics already. Nothing more of it gets there.
    pub fn end(self, up: u64, down: u64) -> Counted {
        let (of_up, of_down) = &self.transfer().counted;
        Counted {
            up: of_up.fetch_max(up, Ordering::Relaxed).min(up),
            down: of_down.fetch_max(down, Ordering::Relaxed).min(down),
        }
    }
}

impl Transfer {
    /// It has come so far, at the upstream of this place.
    fn paused(&self, pause: Pause, place: usize) {
        self.moved(pause);
        self.place.store(place, Ordering::Relaxed);
    }

    /// It has come so far.
    pub fn moved(&self, pause: Pause) {
        self.up.store(pause.up, Ordering::Relaxed);
        self.down.store(pause.down, Ordering::Relaxed);
        self.waits.store(pause.waits as u8, Ordering::Relaxed);
    }

    /// Bytes of the two bodies.
    fn bytes(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }

    fn waits(&self) -> Waits {
        Waits::of(self.waits.load(Ordering::Relaxed))
    }

    /// The name of the upstream, if there is one.
    fn upstream(&self) -> Option<&str> {
        let place = self.place.load(Ordering::Relaxed);
        self.service.upstreams.get(place).map(|upstream| upstream.name.as_str())
    }

    /// Its service, lane and direction.
    pub fn labels(&self) -> (&str, Lane, Direction) {
        (self.service.name.as_str(), self.lane, self.direction)
    }

    /// Counts what has moved since this was last called. Any thread may; nothing is counted twice.
    pub fn count(&self) {
        let (up, down) = self.bytes();
        let news =
            |counted: &AtomicU64, now: u64| now.saturating_sub(counted.fetch_max(now, Ordering::Relaxed));
        let (up, down) = (news(&self.counted.0, up), news(&self.counted.1, down));
        self.service.numbers.moved(self.lane, up, down);
    }
}

#[cfg(test)]
mod tests;
