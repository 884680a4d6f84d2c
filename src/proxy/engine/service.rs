//! Binding, accepting, draining.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::Instant,
};
use tracing::{debug, info, warn};

use super::{
    client::Client,
    connection::{self, Shared},
    stock::Stock,
    upstream::Connect,
};
use crate::{
    clock,
    config::proxy::Proxy,
    http::{BindError, bind},
    proxy::{
        answer::Answer,
        limit::{Gate, Inside},
        record::{AccessLog, ProxyMetrics},
        snapshot::Live,
    },
    supervise::Stop,
};

/// Unused upstream connections that are kept, over all upstreams.
const POOL: usize = 1024;

/// Pingora calls for another attempt at most so often. Its count is not ours: `retry` and `hold` end a
/// request long before.
const CALLS: usize = 10_000;

/// After a failed accept (out of descriptors, mostly) it is tried again so much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// And it is said so often at most: while descriptors are short every attempt fails.
const ACCEPT_TOLD: Duration = Duration::from_secs(5);

/// Descriptors that are not for connections: listeners, logs, probes, the store of names.
const DESCRIPTORS_KEPT: u64 = 128;

/// Connections too many that are told so at once. Full: further ones are closed without a word.
const TURNED_AWAY: usize = 256;

/// Open listeners, not yet served.
pub(in crate::proxy) struct Engine {
    sockets: Vec<(usize, TcpListener)>,
    connections: Gate,
    turned_away: Gate,
    most: usize,
}

impl Engine {
    /// Opens every listener. An error leaves none open.
    pub(in crate::proxy) fn bind(config: &Proxy) -> Result<Self, BindError> {
        let mut sockets = Vec::new();
        for (place, listener) in config.listeners.iter().enumerate() {
            for address in &listener.bind {
                sockets.push((place, bind(*address, &format!("listener `{}`, bind", listener.name))?));
            }
        }
        Ok(Self {
            sockets,
            connections: Gate::default(),
            turned_away: Gate::default(),
            most: descriptor_cap(config.limits.connections),
        })
    }

    /// Where it listens: place of the listener and address, in config order.
    pub(in crate::proxy) fn addresses(&self) -> Vec<(usize, SocketAddr)> {
        self.sockets.iter().filter_map(|(place, socket)| Some((*place, socket.local_addr().ok()?))).collect()
    }

    /// Serves until `stop`, then lets running requests end within `grace`.
    pub(in crate::proxy) async fn run(
        self,
        live: Arc<Live>,
        metrics: ProxyMetrics,
        log: AccessLog,
        stop: Stop,
        grace: Duration,
    ) {
        let conf =
            ServerConf { upstream_keepalive_pool_size: POOL, max_retries: CALLS, ..ServerConf::default() };
        let stock = Stock { metrics: metrics.clone(), log, connect: Connect::default(), stop: stop.clone() };
        let mut app = HttpProxy::new(stock, Arc::new(conf));
        app.handle_init_modules();
        // Kept to the end, so that the other side reads `false` and not a closed channel.
        let (_running, running) = watch::channel(false);
        let shared = Arc::new(Shared { live, app: Arc::new(app), metrics, stop: stop.clone(), running });
        let mut connections = JoinSet::new();
        let mut accepting = JoinSet::new();
        let (accepted, mut arrivals) = tokio::sync::mpsc::channel(64);
        for (place, socket) in self.sockets {
            let accepted = accepted.clone();
            accept_on(&mut accepting, place, socket, accepted, stop.clone());
        }
        drop(accepted);
        loop {
            tokio::select! {
                // Ends when every accepting task has seen the stop.
                arrival = arrivals.recv() => {
                    let Some((place, tcp, peer)) = arrival else { break };
                    let most = self.most.min(shared.live.load().limits.connections);
                    if let Some(inside) = self.connections.enter(most) {
                        serve_in(&mut connections, shared.clone(), place, tcp, peer, inside);
                    } else if let Some(inside) = self.turned_away.enter(TURNED_AWAY) {
                        turn_away(&mut connections, shared.clone(), place, tcp, peer, inside);
                    }
                }
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    if let Err(error) = ended {
                        warn!(error = %error, "a connection's task ended badly");
                    }
                }
            }
        }
        let open = connections.len();
        info!(connections = open, "proxy stopped accepting and drains");
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, drained).await.is_err() {
            warn!(
                connections = connections.len(),
                "connections were still busy at the end of the grace and were cut"
            );
            connections.shutdown().await;
        }
    }
}

fn accept_on(
    tasks: &mut JoinSet<()>,
    place: usize,
    socket: TcpListener,
    accepted: tokio::sync::mpsc::Sender<(usize, TcpStream, SocketAddr)>,
    stop: Stop,
) {
    tasks.spawn(async move {
        let mut told: Option<Instant> = None;
        loop {
            let next = tokio::select! {
                () = stop.requested() => return,
                next = socket.accept() => next,
            };
            match next {
                Ok((tcp, peer)) => {
                    if let Err(error) = tcp.set_nodelay(true) {
                        debug!(error = %error, "a new connection was gone already");
                    }
                    if accepted.send((place, tcp, peer)).await.is_err() {
                        return;
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
    });
}

fn serve_in(
    tasks: &mut JoinSet<()>,
    shared: Arc<Shared>,
    place: usize,
    tcp: TcpStream,
    peer: SocketAddr,
    inside: Inside,
) {
    let snapshot = shared.live.load();
    let open = shared.metrics.connection(snapshot.listeners.get(place).map_or("", |l| &l.name));
    tasks.spawn(async move {
        connection::serve(shared, place, tcp, peer).await;
        drop((open, inside));
    });
}

fn turn_away(
    tasks: &mut JoinSet<()>,
    shared: Arc<Shared>,
    place: usize,
    tcp: TcpStream,
    peer: SocketAddr,
    inside: Inside,
) {
    tasks.spawn(async move {
        let client = Client::new(tcp, peer);
        connection::refuse(&shared, &shared.live.load(), place, &client, &Answer::Busy).await;
        client.finish().await;
        drop(inside);
    });
}

/// The connections that the system's descriptor limit allows: each needs one, and one to an upstream.
fn descriptor_cap(wanted: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let Some(limit) = limit else { return wanted };
    let allowed = usize::try_from(limit.saturating_sub(DESCRIPTORS_KEPT) / 2).unwrap_or(wanted).max(1);
    if allowed < wanted {
        warn!(
            wanted,
            allowed,
            descriptors = limit,
            "fewer connections than configured: raise the descriptor limit"
        );
    }
    wanted.min(allowed)
}
