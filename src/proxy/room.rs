//! What is open to one upstream: connections of each lane, those that are being made, and who waits for room. Counted by
//! all threads together, when a connection is opened or closed; a request over one that is there counts nothing here.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::time::Instant;
use tracing::warn;

use super::{
    choose::Candidate,
    hold::{Line, Place, Queue, Spot},
    lane::{Lane, Lanes},
    snapshot::{Apart, Service},
};

/// The log says at most once in so many milliseconds that an upstream is at a limit.
const TOLD: u64 = 10_000;

/// At which bound an upstream is, beside that of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// As many connections of a lane are open as may be, and none of them is unused and at hand.
    Connections(Lane, u64),
    /// As many are being made as may be at once.
    Pending(u64),
    /// Others wait there that came before: for any room, or for a connection of a lane.
    Queue(Option<Lane>),
}

/// The most that may be open to one upstream; none: no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Most {
    /// Connections, used or not.
    pub connections: Lanes<Option<u64>>,
    /// Connections that are being made, TLS included.
    pub pending: Option<u64>,
}

impl Most {
    /// Whether there is any bound for requests of this lane.
    pub fn is_any(&self, lane: Lane) -> bool {
        self.pending.is_some() || self.connections.of(lane).is_some()
    }
}

/// One request that looks for room.
#[derive(Debug, Clone, Copy)]
pub struct Looks<'a> {
    /// Its lane.
    pub lane: Lane,
    /// Where it stands, if it waits.
    pub place: Option<&'a Place>,
    /// It may wait: nothing of it was sent yet.
    pub may_wait: bool,
    /// It has not looked before.
    pub first: bool,
    /// When it looks.
    pub now: Instant,
}

/// Marks those that are at a bound; `unused`: whether a connection to the upstream of this id is at hand. Costs nothing for
/// one without bounds.
pub fn mark(
    service: &Service,
    candidates: &mut [Candidate<'_>],
    looks: Looks<'_>,
    unused: impl Fn(u64) -> bool,
) {
    let Looks { lane, place, may_wait, first, now } = looks;
    for ((candidate, upstream), share) in candidates.iter_mut().zip(&service.upstreams).zip(&service.shares) {
        let bounded = share.open.is_any(lane);
        if candidate.most.is_none() && !bounded {
            continue;
        }
        let room = &upstream.room;
        if bounded {
            candidate.bound = room.bound(lane, &share.open, || unused(upstream.id));
        }
        match candidate.bound {
            Some(Bound::Connections(..)) if place.is_some() => room.is_short(lane),
            None if may_wait => candidate.bound = room.queued(lane, place),
            _ => {}
        }
        if first && candidate.is_full() {
            let limit = Limit::of(candidate.bound);
            upstream.numbers.limited(limit);
            if limit != Limit::Queue && room.is_news(now) {
                let (service, upstream, limit) = (&service.name, &upstream.name, limit.label());
                warn!(service.name = %service, upstream.name = %upstream, limit, "upstream was at its limit");
            }
        }
    }
}

/// Whether there is room for somebody there.
pub fn is_free(service: &Service, spot: Spot) -> bool {
    let place = service.upstreams.iter().position(|upstream| upstream.id == spot.0);
    let one = place.and_then(|place| Some((service.upstreams.get(place)?, service.shares.get(place)?)));
    let Some((upstream, share)) = one else { return false };
    let below = |count: u64, most: Option<u64>| most.is_none_or(|most| count < most);
    match spot.1 {
        Some(lane) => below(upstream.room.open(lane), *share.open.connections.of(lane)),
        None => {
            below(upstream.outstanding(), share.most) && below(upstream.room.pending(), share.open.pending)
        }
    }
}

/// What kept a request from an upstream: the label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `max_requests`.
    Requests,
    /// `max_connections`.
    Connections,
    /// `max_pending`.
    Pending,
    /// Others that wait.
    Queue,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Connections, Self::Pending, Self::Queue];

    fn of(bound: Option<Bound>) -> Self {
        match bound {
            None => Self::Requests,
            Some(Bound::Connections(..)) => Self::Connections,
            Some(Bound::Pending(_)) => Self::Pending,
            Some(Bound::Queue(_)) => Self::Queue,
        }
    }

    /// The label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Pending => "pending",
            Self::Queue => "queue",
        }
    }
}

/// What is open to one upstream. Goes on with it over a reload, whatever the bounds are then.
#[derive(Debug)]
pub struct Room {
    upstream: u64,
    line: Line,
    /// Those that wait for any room.
    any: Queue,
    /// Those that wait for a connection.
    queues: Lanes<Queue>,
    open: Lanes<Apart<AtomicU64>>,
    pending: Apart<AtomicU64>,
    /// Of those that are open, what threads have told that they have unused.
    unused: Lanes<AtomicU64>,
    /// One of those that wait would go if an unused connection of another thread were closed.
    short: Lanes<AtomicBool>,
    began: Instant,
    /// When it was told that it is at a limit, in milliseconds since that; 0: never.
    told: AtomicU64,
}

/// What takes room.
#[derive(Debug, Clone, Copy)]
enum Takes {
    Connection(Lane),
    Pending,
}

/// Room that is taken; free again when dropped.
#[derive(Debug)]
pub struct Occupied {
    room: Arc<Room>,
    takes: Takes,
}

impl Room {
    /// Of the upstream of this id, whose service's requests wait in that line.
    pub fn new(upstream: u64, line: Line, now: Instant) -> Self {
        Self {
            upstream,
            line,
            any: Queue::default(),
            queues: Lanes::default(),
            open: Lanes::default(),
            pending: Apart::default(),
            unused: Lanes::default(),
            short: Lanes::default(),
            began: now,
            told: AtomicU64::new(0),
        }
    }

    /// Connections that are open.
    pub fn open(&self, lane: Lane) -> u64 {
        self.open.of(lane).0.load(Ordering::SeqCst)
    }

    /// Connections that are being made.
    pub fn pending(&self) -> u64 {
        self.pending.0.load(Ordering::SeqCst)
    }

    /// Connections that no request uses; up to half a second late.
    pub fn unused(&self, lane: Lane) -> u64 {
        self.unused.of(lane).load(Ordering::Relaxed)
    }

    /// Requests that wait for room here.
    pub fn waiting(&self) -> u64 {
        (self.any.len() + self.queues.control.len() + self.queues.bulk.len()) as u64
    }

    /// Those that wait for any room, or for a connection.
    pub fn queue(&self, lane: Option<Lane>) -> &Queue {
        lane.map_or(&self.any, |lane| self.queues.of(lane))
    }

    /// Takes the place of one more connection, unless there are as many as may be.
    pub fn connection(self: &Arc<Self>, lane: Lane, most: &Most) -> Option<Occupied> {
        self.take(Takes::Connection(lane), *most.connections.of(lane))
    }

    /// The same for one that is being made.
    pub fn connecting(self: &Arc<Self>, most: &Most) -> Option<Occupied> {
        self.take(Takes::Pending, most.pending)
    }

    /// At which bound a request is that needs a connection of this lane; `unused`: whether one is at hand.
    pub fn bound(&self, lane: Lane, most: &Most, unused: impl FnOnce() -> bool) -> Option<Bound> {
        let reached = |count: u64, most: &Option<u64>| most.filter(|most| count >= *most);
        let bound = || match reached(self.open(lane), most.connections.of(lane)) {
            Some(most) => Some(Bound::Connections(lane, most)),
            None => reached(self.pending(), &most.pending).map(Bound::Pending),
        };
        bound()?;
        // Who looks for an unused one may close another that will not do.
        if unused() { None } else { bound() }
    }

    /// Whether one that has just come, or stands at this place in the line, would go past others.
    pub fn queued(&self, lane: Lane, place: Option<&Place>) -> Option<Bound> {
        let behind = |of: &Option<Lane>| {
            let behind = |place: &Place| place.is_behind((self.upstream, *of));
            !self.queue(*of).is_empty() && place.is_none_or(behind)
        };
        [None, Some(lane)].into_iter().find(behind).map(Bound::Queue)
    }

    /// One that waits would go if an unused connection were closed, wherever that is.
    pub fn is_short(&self, lane: Lane) {
        self.short.of(lane).store(true, Ordering::Relaxed);
    }

    /// Whether to close an unused connection; asked by who has one.
    pub fn wants_one(&self, lane: Lane) -> bool {
        let short = self.short.of(lane);
        short.load(Ordering::Relaxed) && short.swap(false, Ordering::Relaxed)
    }

    /// Whether it was not said lately that it is at a limit; it is said then.
    fn is_news(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.began).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX).max(1);
        let told = self.told.load(Ordering::Relaxed);
        let late = told == 0 || since.saturating_sub(told) >= TOLD;
        late && self.told.compare_exchange(told, since, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Calls one that waits for any room.
    pub fn freed(&self) {
        self.line.freed((self.upstream, None), &self.any);
    }

    fn take(self: &Arc<Self>, takes: Takes, most: Option<u64>) -> Option<Occupied> {
        let one_more = |now: u64| most.is_none_or(|most| now < most).then_some(now + 1);
        self.count(takes).fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Occupied { room: self.clone(), takes })
    }

    fn count(&self, takes: Takes) -> &AtomicU64 {
        match takes {
            Takes::Connection(lane) => &self.open.of(lane).0,
            Takes::Pending => &self.pending.0,
        }
    }
}

impl Occupied {
    /// Whether others wait for a connection like this one: then it is not kept unused, for they may be of any thread.
    pub fn is_wanted(&self) -> bool {
        match self.takes {
            Takes::Connection(lane) => !self.room.queues.of(lane).is_empty(),
            Takes::Pending => false,
        }
    }

    /// Whether it is to be closed, unused as it is.
    pub fn is_to_go(&self) -> bool {
        matches!(self.takes, Takes::Connection(lane) if self.room.wants_one(lane))
    }
}

/// What one thread tells of its unused connections. What it has told is taken back when this is dropped.
#[derive(Debug)]
pub struct Unused {
    room: Arc<Room>,
    lane: Lane,
    told: u64,
}

impl Unused {
    /// So many it has now.
    pub fn tell(&mut self, now: u64) {
        let (count, before) = (self.room.unused.of(self.lane), std::mem::replace(&mut self.told, now));
        if now >= before {
            count.fetch_add(now - before, Ordering::Relaxed);
        } else {
            count.fetch_sub(before - now, Ordering::Relaxed);
        }
    }
}

impl Drop for Unused {
    fn drop(&mut self) {
        self.tell(0);
    }
}

impl Occupied {
    /// To tell of unused connections like this one.
    pub fn unused(&self) -> Option<Unused> {
        match self.takes {
            Takes::Connection(lane) => Some(Unused { room: self.room.clone(), lane, told: 0 }),
            Takes::Pending => None,
        }
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        // Before anybody is looked for; who waits says so before it looks at this.
        self.room.count(self.takes).fetch_sub(1, Ordering::SeqCst);
        match self.takes {
            Takes::Connection(lane) => {
                self.room.line.freed((self.room.upstream, Some(lane)), self.room.queues.of(lane));
            }
            Takes::Pending => self.room.freed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::clock;

    fn most(control: u64, bulk: u64, pending: u64) -> Most {
        Most { connections: Lanes { control: Some(control), bulk: Some(bulk) }, pending: Some(pending) }
    }

    #[test]
    fn each_lane_has_its_own_and_an_unused_one_will_do_at_the_bound() {
        let (room, most) = (Arc::new(Room::new(7, Line::default(), clock::now())), most(1, 2, 5));
        let first = room.connection(Lane::Control, &most).unwrap();
        assert!(room.connection(Lane::Control, &most).is_none());
        assert_eq!(room.bound(Lane::Control, &most, || false), Some(Bound::Connections(Lane::Control, 1)));
        assert_eq!(room.bound(Lane::Control, &most, || true), None);
        assert_eq!(room.bound(Lane::Bulk, &most, || false), None);
        let _transfers =
            [room.connection(Lane::Bulk, &most).unwrap(), room.connection(Lane::Bulk, &most).unwrap()];
        assert_eq!((room.open(Lane::Control), room.open(Lane::Bulk)), (1, 2));
        drop(first);
        assert_eq!((room.open(Lane::Control), room.bound(Lane::Control, &most, || false)), (0, None));
        let _pending: Vec<_> = (0..5).map(|_| room.connecting(&most).unwrap()).collect();
        assert_eq!(room.bound(Lane::Control, &most, || false), Some(Bound::Pending(5)));
        // Bounds that a reload has taken away, or made smaller.
        assert_eq!(room.bound(Lane::Bulk, &Most::default(), || false), None);
        assert!(room.connection(Lane::Bulk, &Most::default()).is_some());
    }

    #[test]
    fn who_waits_for_a_connection_of_one_lane_is_in_nobodys_way_in_the_other() {
        let line = Line::default();
        let room = Arc::new(Room::new(7, line.clone(), clock::now()));
        let place = line.enter(0, 9, 9, Default::default()).unwrap();
        place.want([((7, Some(Lane::Bulk)), room.queue(Some(Lane::Bulk)).clone())].into_iter().collect());
        assert_eq!(room.queued(Lane::Bulk, None), Some(Bound::Queue(Some(Lane::Bulk))));
        assert_eq!(room.queued(Lane::Bulk, Some(&place)), None);
        assert_eq!((room.queued(Lane::Control, None), room.waiting()), (None, 1));
        place.want([((7, None), room.queue(None).clone())].into_iter().collect());
        assert_eq!(room.queued(Lane::Control, None), Some(Bound::Queue(None)));
        drop(place);
        assert_eq!((room.queued(Lane::Control, None), room.waiting()), (None, 0));
    }

    #[test]
    fn threads_that_race_are_never_above_the_bound_and_nothing_is_lost() {
        let (room, most) = (Arc::new(Room::new(7, Line::default(), clock::now())), most(3, 1, 2));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let room = room.clone();
                thread::spawn(move || {
                    let mut had = 0;
                    for _ in 0..5_000 {
                        let taken = (room.connection(Lane::Control, &most), room.connecting(&most));
                        assert!(room.open(Lane::Control) <= 3 && room.pending() <= 2);
                        had += usize::from(taken.0.is_some());
                    }
                    had
                })
            })
            .collect();
        assert!(threads.into_iter().all(|one| one.join().unwrap() > 0));
        assert_eq!((room.open(Lane::Control), room.pending()), (0, 0));
    }
}
