//! Binding, and one single-threaded service of Pingora's per core.
//!
//! Each thread has sockets, connections and unused upstream connections of its own, so that no event of a connection
//! ever crosses threads.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use pingora_core::{
    server::{
        ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch,
        configuration::ServerConf,
    },
    services::Service,
};
use tokio::sync::{Mutex, mpsc};
use tracing::{info, warn};

use super::{
    splice,
    upstream::Names,
    worker::{Shared, Socket, Worker},
};
use crate::{
    config::proxy::Proxy,
    http::{BindError, bind_for_threads},
    proxy::{
        limit::Gate,
        record::{AccessLog, ProxyMetrics},
        snapshot::Live,
    },
    supervise::Stop,
};

/// Descriptors that are not for connections: listeners, logs, probes, the store of names.
const DESCRIPTORS_KEPT: u64 = 128;

/// A thread of the engine ended although nobody asked for a stop.
#[derive(Debug)]
pub(in crate::proxy) struct EngineEnded;

/// Open listeners, not yet served.
pub(in crate::proxy) struct Engine {
    /// By thread: place of the listener, and its socket.
    sockets: Vec<Vec<(usize, std::net::TcpListener)>>,
    most: usize,
    zero_copy: bool,
}

impl Engine {
    /// Opens every listener, once for each thread. An error leaves none open.
    pub(in crate::proxy) fn bind(config: &Proxy) -> Result<Self, BindError> {
        let threads = config.threads.max(1);
        let mut sockets: Vec<Vec<_>> = (0..threads).map(|_| Vec::new()).collect();
        for (place, listener) in config.listeners.iter().enumerate() {
            for address in &listener.bind {
                let key = format!("listener `{}`, bind", listener.name);
                let bound = bind_for_threads(*address, &key, threads)?;
                for (of_thread, socket) in sockets.iter_mut().zip(bound) {
                    of_thread.push((place, socket));
                }
            }
        }
        let most = descriptor_cap(config.limits.connections, threads);
        Ok(Self { sockets, most, zero_copy: config.zero_copy })
    }

    /// Where it listens: place of the listener and address, in config order.
    pub(in crate::proxy) fn addresses(&self) -> Vec<(usize, SocketAddr)> {
        let first = self.sockets.first().into_iter().flatten();
        first.filter_map(|(place, socket)| Some((*place, socket.local_addr().ok()?))).collect()
    }

    /// Serves until `stop`, then lets running requests end within `grace`.
    pub(in crate::proxy) async fn run(
        self,
        live: Arc<Live>,
        metrics: ProxyMetrics,
        log: AccessLog,
        stop: Stop,
        grace: Duration,
    ) -> Result<(), EngineEnded> {
        let shared = Shared {
            live,
            metrics,
            log,
            names: Arc::new(Names::default()),
            connections: Gate::default(),
            most: self.most,
            stop: stop.clone(),
            grace,
            zero_copy: self.zero_copy,
        };
        let conf = ServerConf { threads: 1, work_stealing: false, ..ServerConf::default() };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        let (alive, ends) = mpsc::channel(1);
        for (number, sockets) in self.sockets.into_iter().enumerate() {
            let (shared, alive) = (shared.clone(), Alive(alive.clone()));
            server.add_service(Thread { name: format!("proxy {number}"), sockets, shared, _alive: alive });
        }
        drop(alive);
        let ended = Ended { ends: Mutex::new(ends), stop: stop.clone() };
        let connections = shared.connections.clone();
        // It blocks its thread until all services have ended.
        let served =
            tokio::task::spawn_blocking(move || server.run(RunArgs { shutdown_signal: Box::new(ended) }));
        let told = async {
            stop.requested().await;
            info!(connections = connections.inside(), "proxy stopped accepting and drains");
            std::future::pending::<()>().await;
        };
        let joined = tokio::select! {
            joined = served => joined,
            () = told => Ok(()),
        };
        if let Err(error) = joined {
            warn!(error = %error, "the engine's threads ended badly");
        }
        if stop.is_requested() { Ok(()) } else { Err(EngineEnded) }
    }
}

/// What tells Pingora to end: every thread has, for our own drain is over then and Pingora's would sleep for its whole
/// length; or one has that should not.
struct Ended {
    ends: Mutex<mpsc::Receiver<()>>,
    stop: Stop,
}

#[async_trait]
impl ShutdownSignalWatch for Ended {
    async fn recv(&self) -> ShutdownSignal {
        let mut ends = self.ends.lock().await;
        while ends.recv().await.is_some() && self.stop.is_requested() {}
        ShutdownSignal::FastShutdown
    }
}

/// Held by a thread's service; says so when that ends, in whatever way.
struct Alive(mpsc::Sender<()>);

impl Drop for Alive {
    fn drop(&mut self) {
        if self.0.try_send(()).is_err() {
            // Full: it is known already that one has ended.
        }
    }
}

/// One thread, as Pingora runs it.
struct Thread {
    name: String,
    sockets: Vec<(usize, std::net::TcpListener)>,
    shared: Shared,
    _alive: Alive,
}

#[async_trait]
impl Service for Thread {
    async fn start_service(&mut self, _fds: Option<ListenFds>, _stop: ShutdownWatch, _tasks: usize) {
        match self.sockets() {
            Ok(sockets) => Worker::new(self.shared.clone()).run(sockets).await,
            Err(error) => tracing::error!(error = %error, "a listener could not be served"),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

impl Thread {
    /// Its sockets, known to its runtime.
    fn sockets(&mut self) -> std::io::Result<Vec<Socket>> {
        let snapshot = self.shared.live.load();
        let known = |(listener, socket): (usize, std::net::TcpListener)| {
            let name = snapshot.listeners.get(listener).map_or("", |listener| &listener.name);
            let (open, tcp) =
                (self.shared.metrics.connections(name), tokio::net::TcpListener::from_std(socket)?);
            Ok(Socket { listener, tcp, open })
        };
        std::mem::take(&mut self.sockets).into_iter().map(known).collect()
    }
}

/// The connections that the system's descriptor limit allows: each needs one, and one to an upstream; each thread some
/// for its pipes.
fn descriptor_cap(wanted: usize, threads: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let Some(limit) = limit else { return wanted };
    let kept = DESCRIPTORS_KEPT + (threads * 2 * splice::MOST) as u64;
    let allowed = usize::try_from(limit.saturating_sub(kept) / 2).unwrap_or(wanted).max(1);
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
