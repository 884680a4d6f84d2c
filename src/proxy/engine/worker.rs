//! What one thread shares among its connections; accepting them.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tracing::warn;

use super::{
    connection,
    lanes::{Lane, Lanes},
    opening::Complaints,
    pool::Pool,
    timers::{TICK, Timers},
    tls::Crypt,
    upstream::Names,
    wire::Scratch,
};
use crate::{
    clock,
    model::UpstreamName,
    proxy::{
        limit::Gate,
        record::{AccessLog, ProxyMetrics, metrics::Connections},
        snapshot::{Held, Live},
    },
    supervise::Stop,
};

/// After a failed accept (out of descriptors, mostly) it is tried again so much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// And it is said so often at most: while descriptors are short every attempt fails.
const ACCEPT_TOLD: Duration = Duration::from_secs(5);

/// Connections too many that are told so at once, by each thread. Full: further ones are closed without a word.
const TURNED_AWAY: usize = 256;

/// A thread that has not ended so long after the grace is not waited for.
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
    pub(super) names: Arc<Names>,
    pub(super) connections: Gate,
    pub(super) most: usize,
    pub(super) stop: Stop,
    pub(super) grace: Duration,
    /// `[proxy] zero_copy`.
    pub(super) zero_copy: bool,
}

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) shared: Shared,
    pub(super) timers: Arc<Timers>,
    pub(super) scratch: Scratch,
    pub(super) crypt: Arc<Crypt>,
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

/// One of a thread's listening sockets.
#[derive(Debug)]
pub(super) struct Socket {
    /// Place of its listener in the config.
    pub(super) listener: usize,
    pub(super) tcp: TcpListener,
    pub(super) open: Connections,
}

impl Worker {
    pub(super) fn new(shared: Shared) -> Arc<Self> {
        let own = Own { snapshot: Held::of(shared.live.load()), chance: SmallRng::from_os_rng() };
        let scratch = Scratch::new(shared.zero_copy, shared.metrics.zero_copy());
        Arc::new(Self {
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

    /// Serves until a stop is asked for, then lets what runs end within the grace.
    pub(super) async fn run(self: Arc<Self>, sockets: Vec<Socket>) {
        let mut tasks = JoinSet::new();
        for socket in sockets {
            tasks.spawn(self.clone().accept(socket));
        }
        let mut ticking = pin!(async { tokio::join!(self.tick(), self.scratch.turns.rounds()) });
        tokio::select! {
            _ = &mut ticking => {}
            () = self.shared.stop.requested() => {}
        }
        self.stopping.store(true, Ordering::Relaxed);
        self.timers.wake_all();
        let ended = async { while tasks.join_next().await.is_some() {} };
        tokio::select! {
            _ = ticking => {}
            // Each waits for the grace by itself.
            _ = tokio::time::timeout(self.shared.grace + LATE, ended) => {}
        }
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
            until_sweep -= 1;
            if until_sweep == 0 {
                until_sweep = SWEEP;
                for lane in Lane::ALL {
                    self.pool(lane).sweep(clock::now());
                }
                self.scratch.pipes.sweep();
            }
        }
    }

    /// Accepts until a stop is asked for, then waits for the connections.
    async fn accept(self: Arc<Self>, socket: Socket) {
        let mut connections = JoinSet::new();
        let mut told: Option<Instant> = None;
        {
            let mut stop = pin!(self.shared.stop.requested());
            let mut reaping = tokio::time::interval(REAP);
            loop {
                let next = tokio::select! {
                    biased;
                    next = socket.tcp.accept() => next,
                    _ = reaping.tick() => {
                        reap(&mut connections);
                        continue;
                    }
                    () = &mut stop => break,
                };
                reap(&mut connections);
                match next {
                    Ok((tcp, peer)) => {
                        self.clone().serve_in(&mut connections, &socket, tcp, peer);
                        // While more come than can be served, the stop is never polled.
                        if self.is_stopping() {
                            break;
                        }
                    }
                    Err(error) => {
                        let now = clock::now();
                        if told.is_none_or(|told| now.duration_since(told) >= ACCEPT_TOLD) {
                            warn!(error = %error, "connections could not be accepted");
                            told = Some(now);
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(socket);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(self.shared.grace, drained).await.is_err() {
            let late = connections.len();
            warn!(connections = late, "connections were still busy at the end of the grace and were cut");
            connections.shutdown().await;
        }
    }

    fn serve_in(self: Arc<Self>, tasks: &mut JoinSet<()>, socket: &Socket, tcp: TcpStream, peer: SocketAddr) {
        let listener = socket.listener;
        let most = self.shared.most.min(self.shared.live.peek().limits.connections);
        if let Some(inside) = self.shared.connections.enter(most) {
            let open = socket.open.open();
            tasks.spawn(async move {
                connection::serve(&self, listener, tcp, peer).await;
                drop((open, inside));
            });
        } else if let Some(inside) = self.turned_away.enter(TURNED_AWAY) {
            tasks.spawn(async move {
                connection::turn_away(&self, listener, tcp, peer).await;
                drop(inside);
            });
        }
    }
}

/// Clears away what has ended.
fn reap(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        if let Err(error) = ended {
            warn!(error = %error, "a connection's task ended badly");
        }
    }
}
