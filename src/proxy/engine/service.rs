//! Binding, accepting, draining.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tracing::{debug, info, warn};

use super::{
    client::Client,
    connection::{self, Shared},
    stock::Stock,
    upstream::Connect,
};
use crate::{
    config::proxy::Proxy,
    http::{BindError, bind},
    proxy::{
        answer::Answer,
        limit::Gate,
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

/// Descriptors that are not for connections: listeners, logs, probes, the store of names.
const DESCRIPTORS_KEPT: u64 = 128;

/// Open listeners, not yet served.
pub(in crate::proxy) struct Engine {
    sockets: Vec<(usize, TcpListener)>,
    connections: Gate,
    most: usize,
}

/// Binds what the config names.
impl Engine {
    /// Opens every listener. An error leaves none open.
    pub(in crate::proxy) fn bind(config: &Proxy) -> Result<Self, BindError> {
        let mut sockets = Vec::new();
        for (place, listener) in config.listeners.iter().enumerate() {
            for address in &listener.bind {
                sockets.push((place, bind(*address, &format!("listener `{}`, bind", listener.name))?));
            }
        }
        Ok(Self { sockets, connections: Gate::default(), most: descriptor_cap(config.limits.connections) })
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
                    let inside = self.connections.enter(most);
                    serve_in(&mut connections, shared.clone(), place, tcp, peer, inside);
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

#[expect(
    clippy::disallowed_methods,
    reason = "accepting tasks live in a set of this function and end with it"
)]
fn accept_on(
    tasks: &mut JoinSet<()>,
    place: usize,
    socket: TcpListener,
    accepted: tokio::sync::mpsc::Sender<(usize, tokio::net::TcpStream, SocketAddr)>,
    stop: Stop,
) {
    tasks.spawn(async move {
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
                    warn!(error = %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "connections live in a set that is drained with the edge stage"
)]
fn serve_in(
    tasks: &mut JoinSet<()>,
    shared: Arc<Shared>,
    place: usize,
    tcp: tokio::net::TcpStream,
    peer: SocketAddr,
    inside: Option<crate::proxy::limit::Inside>,
) {
    tasks.spawn(async move {
        let snapshot = shared.live.load();
        let name = snapshot.listeners.get(place).map_or("", |listener| &listener.name);
        let Some(_inside) = inside else {
            let client = Client::new(tcp, peer);
            connection::refuse(&shared, &snapshot, place, &client, &Answer::Busy).await;
            return client.finish().await;
        };
        shared.metrics.connection(name, 1);
        connection::serve(shared.clone(), place, tcp, peer).await;
        shared.metrics.connection(name, -1);
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
