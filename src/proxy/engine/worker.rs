//! What one thread shares among its connections; accepting them.

use std::{
    collections::HashSet,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tracing::{error, warn};

use super::{
    connection::{self, From},
    ending::Ending,
    entry::{self, Complaints},
    listeners::{Door, Group, Listeners},
    pool::Pool,
    timers::{TICK, Timers},
    tls::Crypt,
    upstream::Names,
    wire::Scratch,
};
use crate::{
    clock,
    http::AccessLog,
    model::UpstreamName,
    proxy::{
        lane::{Lane, Lanes},
        limit::gate::Gate,
        record::{self, Decisions, ProxyMetrics},
        snapshot::{Held, Live},
        transfers::{List, Transfers},
    },
    supervise::StopSource,
};

/// After a failed accept (out of descriptors, mostly) it is tried again so much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// And it is said so often at most: while descriptors are short every attempt fails.
const ACCEPT_TOLD: Duration = Duration::from_secs(5);

/// Connections too many that are told so at once, by each thread. Full: further ones are closed without a word.
const TURNED_AWAY: usize = 256;

/// What a closing listener's queue may still hold; more than that comes only while it is emptied.
const QUEUED: usize = 4096;

/// So long a connection waits at most for one more request when a successor serves, or its listener is gone: long enough
/// for a client in the middle of its work, which learns with the answer that it was the last.
const LULL: Duration = Duration::from_secs(5);

/// So long one has that has asked for nothing yet, when we stop.
const FIRST: Duration = Duration::from_secs(1);

/// A thread that has not ended so long after the end is not waited for.
const LATE: Duration = Duration::from_secs(1);

/// Connections that have ended are cleared away with the next one that comes, and so often if none does. Not at once:
/// that would wake who accepts for each of them.
const REAP: Duration = Duration::from_secs(1);

/// How often unused connections to upstreams are looked through, in ticks.
const SWEEP: u32 = 10;

/// What all threads share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) live: Arc<Live>,
    pub(super) metrics: ProxyMetrics,
    pub(super) log: AccessLog,
    pub(super) transfers: Arc<Transfers>,
    pub(super) decisions: Decisions,
    pub(super) names: Arc<Names>,
    pub(super) connections: Gate,
    /// Connections that there can be, whatever the config allows.
    pub(super) most: usize,
    pub(super) listeners: Arc<Listeners>,
    pub(super) ending: Arc<Ending>,
    /// Threads that do not accept yet.
    pub(super) starting: Arc<AtomicUsize>,
    /// Asked for when all do.
    pub(super) up: StopSource,
    /// `[proxy] zero_copy`.
    pub(super) zero_copy: bool,
}

impl Shared {
    /// Where requests are recorded.
    pub(super) fn records(&self) -> record::To<'_> {
        record::To { metrics: &self.metrics, log: &self.log, decisions: &self.decisions }
    }
}

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) shared: Shared,
    pub(super) timers: Arc<Timers>,
    pub(super) scratch: Scratch,
    pub(super) crypt: Arc<Crypt>,
    /// Those of its requests that are transfers.
    pub(super) transfers: Arc<List>,
    pools: Lanes<Mutex<Pool>>,
    own: Mutex<Own>,
    turned_away: Gate,
    told: Mutex<Option<Instant>>,
    stopping: AtomicBool,
    pub(super) complaints: Complaints,
}

/// What every request takes something of.
#[derive(Debug)]
struct Own {
    snapshot: Held,
    chance: SmallRng,
}

impl Worker {
    pub(super) fn new(shared: Shared) -> Arc<Self> {
        let own = Own { snapshot: Held::of(shared.live.load()), chance: SmallRng::from_os_rng() };
        let scratch = Scratch::new(shared.zero_copy, shared.metrics.zero_copy());
        Arc::new(Self {
            transfers: shared.transfers.list(),
            shared,
            timers: Arc::new(Timers::new()),
            crypt: Arc::new(Crypt::new()),
            scratch,
            pools: Lanes::default(),
            own: Mutex::new(own),
            turned_away: Gate::default(),
            told: Mutex::default(),
            stopping: AtomicBool::new(false),
            complaints: Complaints::default(),
        })
    }

    /// Whether a stop was asked for: every answer is then the last of its connection.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Whether the next answer on a connection is its last: we stop, or its listener closes.
    pub(super) fn is_last(&self, from: &From) -> bool {
        self.is_stopping() || from.door.ending.is_asked()
    }

    /// For how long a connection may go on to wait for its next request that was to have `patience`; none when that is
    /// over now.
    pub(super) fn patience(&self, from: &From, patience: Duration, first: bool) -> Option<Duration> {
        if self.shared.ending.is_at_once() {
            // One that has only just come out of the queue has sent its request already, mostly: it is not known yet.
            return first.then(|| patience.min(FIRST));
        }
        // A client that has only just connected has not been told anything yet.
        Some(if !first && self.is_last(from) { patience.min(LULL) } else { patience })
    }

    /// How long a connection that was told to ask no more has to hear of it, instead of `short`: where somebody else goes
    /// on, a request that comes late is still served.
    pub(super) fn farewell(&self, from: &From, short: Duration) -> Duration {
        if self.is_last(from) && !self.shared.ending.is_at_once() { LULL } else { short }
    }

    /// Unused connections to upstreams, of one lane.
    pub(super) fn pool(&self, lane: Lane) -> MutexGuard<'_, Pool> {
        // A pool that a panic left half changed is a pool with a connection less.
        self.pools.of(lane).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration for a request, and evenly spread bits, cheaply: nothing secret is made of them.
    pub(super) fn arrival(&self) -> (Held, u128) {
        // Neither can be left half changed.
        let own = &mut *self.own.lock().unwrap_or_else(PoisonError::into_inner);
        (self.shared.live.held(&mut own.snapshot), own.chance.random())
    }

    /// Says that hands could not be shaken with an upstream; not more often than anybody can read it.
    pub(super) fn tell_of_tls(&self, upstream: &UpstreamName, error: &std::io::Error) {
        let now = clock::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| now.duration_since(told) >= ACCEPT_TOLD) {
            *told = Some(now);
            warn!(upstream.name = %upstream, error = %error, "no handshake with an upstream");
        }
    }

    /// Serves what is this thread's of every listener until the end is asked for, then lets what runs go on until it is
    /// over.
    pub(super) async fn run(self: Arc<Self>, number: usize) {
        let ending = self.shared.ending.clone();
        let mut tasks = JoinSet::new();
        {
            let mut open = self.shared.listeners.follow();
            let (mut served, mut began) = (HashSet::new(), false);
            let (mut ticking, mut asked) = (pin!(self.keep_time()), pin!(ending.asked()));
            loop {
                let groups = open.borrow_and_update().clone();
                self.serve_new(&groups, number, &mut served, &mut tasks);
                drop(groups);
                if !std::mem::replace(&mut began, true)
                    && self.shared.starting.fetch_sub(1, Ordering::AcqRel) == 1
                {
                    self.shared.up.request();
                }
                tokio::select! {
                    () = &mut ticking => {}
                    () = &mut asked => break,
                    Ok(()) = open.changed() => {}
                    Some(ended) = tasks.join_next(), if !tasks.is_empty() => told(ended, "a listener's"),
                }
            }
        }
        self.stopping.store(true, Ordering::Relaxed);
        self.timers.wake_all();
        let ended = async { while tasks.join_next().await.is_some() {} };
        let late = async {
            ending.over().await;
            // Each waits for that by itself.
            tokio::time::sleep(LATE).await;
        };
        tokio::select! {
            () = self.keep_time() => {}
            () = ended => {}
            () = late => {}
        }
    }

    /// What a thread does by the clock; never ends.
    async fn keep_time(&self) {
        tokio::join!(self.tick(), self.scratch.turns.rounds());
    }

    async fn tick(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut until_sweep = SWEEP;
        loop {
            ticks.tick().await;
            self.timers.tick();
            // A configuration that was replaced must not live on because no request comes.
            drop(self.arrival());
            for lane in Lane::ALL {
                self.pool(lane).make_room();
            }
            until_sweep -= 1;
            if until_sweep == 0 {
                until_sweep = SWEEP;
                let snapshot = self.shared.live.load();
                let drained = snapshot.services.iter().flat_map(|service| &service.upstreams);
                for upstream in drained.filter(|upstream| upstream.ordered.is_drained()) {
                    Lane::ALL.into_iter().for_each(|lane| self.pool(lane).forget(upstream.id));
                }
                for lane in Lane::ALL {
                    self.pool(lane).sweep(clock::now());
                }
                self.scratch.pipes.sweep();
            }
        }
    }

    /// Accepts until the end is asked for, ours or the listener's, then waits for the connections.
    async fn accept(self: Arc<Self>, door: Arc<Door>, tcp: TcpListener) {
        let mut connections = JoinSet::new();
        let mut told_at: Option<Instant> = None;
        {
            let ending = self.shared.ending.clone();
            let (mut stop, mut closing) = (pin!(ending.asked()), pin!(door.ending.asked()));
            let mut reaping = tokio::time::interval(REAP);
            loop {
                let next = tokio::select! {
                    biased;
                    next = tcp.accept() => next,
                    _ = reaping.tick() => {
                        reap(&mut connections);
                        continue;
                    }
                    () = &mut stop => break,
                    () = &mut closing => break,
                };
                reap(&mut connections);
                match next {
                    Ok((tcp, peer)) => {
                        self.clone().serve_in(&mut connections, &door, tcp, peer);
                        // While more come than can be served, the end is never polled.
                        if self.is_stopping() || door.ending.is_asked() {
                            break;
                        }
                    }
                    Err(error) => {
                        let now = clock::now();
                        if told_at.is_none_or(|told| now.duration_since(told) >= ACCEPT_TOLD) {
                            warn!(error = %error, "connections could not be accepted");
                            told_at = Some(now);
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        for (tcp, peer) in queued(tcp) {
            self.clone().serve_in(&mut connections, &door, tcp, peer);
        }
        // Those that wait for a request look again whether they should.
        self.timers.wake_all();
        let late = tokio::select! {
            () = async { while connections.join_next().await.is_some() {} } => false,
            () = self.shared.ending.over() => true,
            () = door.ending.over() => true,
        };
        if late {
            let late = connections.len();
            warn!(
                connections = late,
                listener.name = door.listener,
                "connections were still busy at the end and were cut"
            );
            connections.shutdown().await;
        }
    }

    /// Begins to accept from what is new among the open listeners.
    fn serve_new(
        self: &Arc<Self>,
        groups: &[Arc<Group>],
        number: usize,
        served: &mut HashSet<u64>,
        tasks: &mut JoinSet<()>,
    ) {
        served.retain(|id| groups.iter().any(|group| group.id == *id));
        for group in groups {
            if !served.insert(group.id) {
                continue;
            }
            for socket in group.of_thread(number) {
                match TcpListener::from_std(socket) {
                    Ok(tcp) => drop(tasks.spawn(self.clone().accept(group.door.clone(), tcp))),
                    Err(error) => {
                        error!(error = %error, listener.name = group.door.listener, "a listener is not served by one of the threads");
                    }
                }
            }
        }
    }

    fn serve_in(
        self: Arc<Self>,
        tasks: &mut JoinSet<()>,
        door: &Arc<Door>,
        tcp: TcpStream,
        peer: SocketAddr,
    ) {
        match entry::enter(&self, door, peer) {
            Ok(entered) => {
                let from = From::new(door.clone(), peer, Some(entered));
                let opening = Box::pin(connection::open(self.clone(), from, tcp));
                tasks.spawn(async move { connection::serve(&self, opening).await });
            }
            Err(why) => match self.turned_away.enter(TURNED_AWAY) {
                Some(inside) => {
                    let from = From::new(door.clone(), peer, None);
                    tasks.spawn(async move {
                        entry::turn_away(&self, from, tcp, why).await;
                        drop(inside);
                    });
                }
                None => entry::closed(&self, door, peer, why.reason(), &why),
            },
        }
    }
}

/// Clears away what has ended.
fn reap(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        told(ended, "a connection's");
    }
}

fn told(ended: Result<(), tokio::task::JoinError>, whose: &str) {
    if let Err(error) = ended {
        warn!(error = %error, "{whose} task ended badly");
    }
}

/// What waits in the queue of a socket that is closed now: closing it would reset those. The queue may be shared with a
/// successor, who then has the rest.
fn queued(tcp: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let Ok(tcp) = tcp.into_std() else { return Vec::new() };
    let next = || {
        let (stream, peer) = tcp.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, peer))
    };
    std::iter::from_fn(next).take(QUEUED).collect()
}
