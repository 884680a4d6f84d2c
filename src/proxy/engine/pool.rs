//! Unused connections to upstreams, one pool per thread.

use std::time::Duration;

use tokio::time::Instant;

use super::stream::{State, Stream};
use crate::proxy::{
    forward,
    room::{self, Occupied},
};

/// An open connection, and its place among those that may be open.
pub(super) type Link = (Stream, Option<Occupied>);

/// Unused connections that are kept to one upstream. Full: the oldest is closed.
const EACH: usize = 256;

/// And to all of them together. Full: what comes back is closed.
const ALL: usize = 2048;

/// An upstream that closes unused connections tells by it how long it keeps them. For so long that is remembered: a
/// restart closes them as well, and looks the same.
const LEARNT_FOR: Duration = Duration::from_secs(60);

/// A connection that was closed younger than this tells nothing: it was closed with its last answer.
const LEAST: Duration = Duration::from_millis(50);

/// The unused connections of one thread.
#[derive(Debug, Default)]
pub(super) struct Pool {
    upstreams: Vec<Unused>,
    count: usize,
}

#[derive(Debug)]
struct Unused {
    upstream: u64,
    /// The one that was used last is last.
    connections: Vec<Kept>,
    /// How long this upstream keeps unused connections, as it seems, and when that was learnt.
    learnt: Option<(Duration, Instant)>,
    /// For metrics.
    told: Option<room::Unused>,
}

#[derive(Debug)]
struct Kept {
    stream: Stream,
    /// Its place among those that may be open.
    open: Option<Occupied>,
    /// Its last answer was complete.
    since: Instant,
    /// It is kept until then.
    until: Instant,
}

/// Which connections will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Any that is not known to be closed.
    Any,
    /// One over which an answer came within [`forward::PROVED`], and that is not closed this very moment.
    Proved,
}

impl Pool {
    /// A connection to this upstream.
    pub(super) fn take(&mut self, upstream: u64, which: Which, now: Instant) -> Option<Link> {
        let unused = self.upstreams.iter_mut().find(|unused| unused.upstream == upstream)?;
        while let Some(kept) = unused.connections.pop() {
            self.count -= 1;
            if kept.until <= now {
                continue;
            }
            match kept.stream.state() {
                State::Open => {}
                State::Closed => {
                    unused.learn(&kept, now);
                    continue;
                }
                State::Speaks => continue,
            }
            if which == Which::Proved {
                let proved = now.saturating_duration_since(kept.since) <= forward::PROVED;
                if !proved {
                    // The others are older still.
                    unused.connections.push(kept);
                    self.count += 1;
                    return None;
                }
                if kept.stream.look() != State::Open {
                    unused.learn(&kept, now);
                    continue;
                }
            }
            return Some((kept.stream, kept.open));
        }
        None
    }

    /// Whether there is a connection that will do, as far as one look tells; `None`: none will. If not, the oldest of those
    /// that there are is closed, so that there may be a new one.
    pub(super) fn has(&mut self, upstream: u64, which: Option<Which>, now: Instant) -> bool {
        let unused = self.upstreams.iter_mut().find(|unused| unused.upstream == upstream);
        let Some(unused) = unused.filter(|unused| !unused.connections.is_empty()) else { return false };
        let open = |kept: &&Kept| kept.until > now && kept.stream.state() == State::Open;
        let last = which.zip(unused.connections.iter().rev().find(open));
        let will_do = last.is_some_and(|(which, kept)| {
            let proved = now.saturating_duration_since(kept.since) <= forward::PROVED;
            which == Which::Any || (proved && kept.stream.look() == State::Open)
        });
        if !will_do {
            unused.connections.remove(0);
            self.count -= 1;
        }
        will_do
    }

    /// Closes one unused connection to each upstream where requests wait for one: they may be of any thread. To be called
    /// at every tick.
    pub(super) fn make_room(&mut self) {
        for unused in &mut self.upstreams {
            let wanted = |kept: &Kept| kept.open.as_ref().is_some_and(Occupied::is_to_go);
            if unused.connections.first().is_some_and(wanted) {
                unused.connections.remove(0);
                self.count -= 1;
            }
        }
    }

    /// Keeps a connection for the next request. `keep` is how long it may be unused, by the config; `told` what the
    /// upstream itself said.
    pub(super) fn put(
        &mut self,
        upstream: u64,
        (stream, open): Link,
        keep: Duration,
        told: Option<Duration>,
        now: Instant,
    ) {
        let place = self.upstreams.iter().position(|unused| unused.upstream == upstream);
        let place = place.unwrap_or_else(|| {
            let told = open.as_ref().and_then(Occupied::unused);
            self.upstreams.push(Unused { upstream, connections: Vec::new(), learnt: None, told });
            self.upstreams.len() - 1
        });
        let Some(unused) = self.upstreams.get_mut(place) else { return };
        let keep = [told.map(margin), unused.learnt(now).map(margin)]
            .into_iter()
            .flatten()
            .fold(keep, Duration::min);
        if keep.is_zero() {
            return;
        }
        if unused.connections.len() >= EACH {
            unused.connections.remove(0);
            self.count -= 1;
        }
        if self.count < ALL {
            unused.connections.push(Kept { stream, open, since: now, until: now + keep });
            self.count += 1;
        }
    }

    /// Closes all that are unused to this upstream: it takes nothing new.
    pub(super) fn forget(&mut self, upstream: u64) {
        if let Some(unused) = self.upstreams.iter_mut().find(|unused| unused.upstream == upstream) {
            self.count -= unused.connections.len();
            unused.connections.clear();
        }
    }

    /// Closes all of them: the descriptors are needed.
    pub(super) fn clear(&mut self) {
        (self.upstreams, self.count) = (Vec::new(), 0);
    }

    /// Closes what has been unused for too long, and notices what was closed by the other side. To be called about
    /// once a second.
    pub(super) fn sweep(&mut self, now: Instant) {
        for unused in &mut self.upstreams {
            let (mut open, mut gone) = (Vec::with_capacity(unused.connections.len()), Vec::new());
            for kept in unused.connections.drain(..) {
                if kept.until <= now {
                    continue;
                }
                match kept.stream.state() {
                    State::Open => open.push(kept),
                    State::Closed => gone.push(kept),
                    State::Speaks => {}
                }
            }
            unused.connections = open;
            for kept in gone {
                unused.learn(&kept, now);
            }
            if let Some(told) = &mut unused.told {
                told.tell(unused.connections.len() as u64);
            }
        }
        self.upstreams.retain(|unused| !unused.connections.is_empty() || unused.learnt(now).is_some());
        self.count = self.upstreams.iter().map(|unused| unused.connections.len()).sum();
    }
}

impl Unused {
    fn learn(&mut self, closed: &Kept, now: Instant) {
        let age = now.saturating_duration_since(closed.since);
        if age < LEAST {
            return;
        }
        let least = self.learnt(now).map_or(age, |before| before.min(age));
        self.learnt = Some((least, now));
    }

    fn learnt(&self, now: Instant) -> Option<Duration> {
        let (keeps, at) = self.learnt?;
        (now.saturating_duration_since(at) < LEARNT_FOR).then_some(keeps)
    }
}

/// How long a connection is kept that its other side keeps for `limit`: it must not be closed while a request is on its
/// way to it.
fn margin(limit: Duration) -> Duration {
    limit - (limit / 4).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::SocketAddr, sync::Arc};

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{
        clock,
        proxy::{
            hold::Line,
            lane::{Lane, Lanes},
            room::{Most, Room},
        },
    };

    const KEEP: Duration = Duration::from_secs(60);

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Stream::Plain(ours.unwrap()), theirs.unwrap().0)
    }

    fn address(stream: &Stream) -> SocketAddr {
        match stream {
            Stream::Plain(tcp) => tcp.local_addr().unwrap(),
            Stream::Tls(tls) => tls.tcp().local_addr().unwrap(),
            Stream::Http2(_) => panic!("no connection to an upstream is a stream"),
        }
    }

    /// Until the runtime has noticed what the other side did.
    async fn noticed(stream: &mut Stream) {
        poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
    }

    #[tokio::test]
    async fn the_connection_that_was_used_last_is_used_next() {
        let mut pool = Pool::default();
        let ((a, _a), (b, _b), now) = (pair().await, pair().await, clock::now());
        let last = address(&b);
        pool.put(1, (a, None), KEEP, None, now);
        pool.put(1, (b, None), KEEP, None, now);
        assert!(pool.take(2, Which::Any, now).is_none());
        assert_eq!(pool.take(1, Which::Any, now).map(|(stream, _)| address(&stream)), Some(last));
        assert!(pool.take(1, Which::Any, now).is_some());
        assert!(pool.take(1, Which::Any, now).is_none());
        assert_eq!(pool.count, 0);
    }

    #[tokio::test]
    async fn what_was_closed_is_not_used_and_its_age_is_learnt() {
        let mut pool = Pool::default();
        let ((mut a, theirs), now) = (pair().await, clock::now());
        drop(theirs);
        noticed(&mut a).await;
        pool.put(1, (a, None), KEEP, None, now);
        let later = now + Duration::from_secs(4);
        assert!(pool.take(1, Which::Any, later).is_none());
        let (b, _b) = pair().await;
        pool.put(1, (b, None), KEEP, None, later);
        // A quarter below the four seconds that it seems to keep them.
        assert!(pool.take(1, Which::Any, later + Duration::from_millis(3001)).is_none());
        let (c, _c) = pair().await;
        let forgotten = later + LEARNT_FOR;
        pool.put(1, (c, None), KEEP, None, forgotten);
        assert!(pool.take(1, Which::Any, forgotten + Duration::from_secs(50)).is_some());
    }

    #[tokio::test]
    async fn what_may_not_be_repeated_needs_a_connection_that_has_just_proved_alive() {
        let mut pool = Pool::default();
        let ((a, theirs), now) = (pair().await, clock::now());
        pool.put(1, (a, None), KEEP, None, now);
        assert!(pool.take(1, Which::Proved, now + Duration::from_millis(1001)).is_none());
        let (a, _) = pool.take(1, Which::Proved, now + Duration::from_millis(900)).unwrap();
        // The runtime has not heard of it yet, the system has.
        drop(theirs);
        while a.look() == State::Open {
            std::thread::yield_now();
        }
        pool.put(1, (a, None), KEEP, None, now);
        assert!(pool.take(1, Which::Proved, now).is_none());
    }

    #[tokio::test]
    async fn one_that_will_not_do_makes_room_for_a_new_one() {
        let (mut pool, now) = (Pool::default(), clock::now());
        let ((a, _a), (b, _b)) = (pair().await, pair().await);
        pool.put(1, (a, None), KEEP, None, now);
        pool.put(1, (b, None), KEEP, None, now);
        let later = now + Duration::from_secs(5);
        assert!(pool.has(1, Some(Which::Any), later) && pool.has(1, Some(Which::Proved), now));
        assert!(!pool.has(2, Some(Which::Any), now));
        assert_eq!(pool.count, 2);
        assert!(!pool.has(1, Some(Which::Proved), later));
        assert_eq!(pool.count, 1);
        assert!(!pool.has(1, None, now) && !pool.has(1, Some(Which::Any), now));
        assert_eq!(pool.count, 0);
    }

    #[tokio::test]
    async fn of_those_that_wait_for_one_somebody_is_told_when_an_unused_one_is_closed() {
        let (line, now) = (Line::default(), clock::now());
        let room = Arc::new(Room::new(1, line.clone(), now));
        let most = Most { connections: Lanes { control: Some(1), bulk: None }, pending: None };
        let mut pool = Pool::default();
        let (a, _a) = pair().await;
        pool.put(1, (a, room.connection(Lane::Control, &most)), KEEP, None, now);
        let place = line.enter(0, 9, 9, Default::default()).unwrap();
        let spot = (1, Some(Lane::Control));
        place.want([(spot, room.queue(spot.1).clone())].into_iter().collect());
        pool.make_room();
        assert_eq!((pool.count, room.open(Lane::Control)), (1, 1), "nobody has said that it would help");
        room.is_short(Lane::Control);
        pool.make_room();
        assert_eq!((pool.count, room.open(Lane::Control)), (0, 0));
        place.called().await;
    }

    #[tokio::test]
    async fn what_the_upstream_says_of_itself_counts_and_the_pool_is_bounded() {
        let (mut pool, now) = (Pool::default(), clock::now());
        let (a, _a) = pair().await;
        pool.put(1, (a, None), KEEP, Some(Duration::from_secs(4)), now);
        pool.sweep(now + Duration::from_millis(2900));
        assert_eq!(pool.count, 1);
        pool.sweep(now + Duration::from_millis(3100));
        assert_eq!(pool.count, 0);
        let mut others = Vec::new();
        for _ in 0..EACH + 3 {
            let (ours, theirs) = pair().await;
            others.push(theirs);
            pool.put(1, (ours, None), KEEP, None, now);
        }
        assert_eq!(pool.count, EACH);
        let (b, _b) = pair().await;
        pool.put(2, (b, None), Duration::ZERO, None, now);
        assert_eq!(pool.count, EACH);
    }
}
