//! Binding, and one single-threaded service of Pingora's per core.
//!
//! Each thread has sockets, connections and unused upstream connections of its own, so that no event of a connection
//! ever crosses threads.

use std::sync::{Arc, atomic::AtomicUsize};

use async_trait::async_trait;
use pingora_core::{
    server::{
        ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch,
        configuration::ServerConf,
    },
    services::Service,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Mutex, mpsc};
use tracing::{info, warn};

use super::{
    ending::Ending,
    listeners::{Listeners, Taken},
    splice,
    upstream::Names,
    worker::{Shared, Worker},
};
use crate::{
    config::proxy::Proxy,
    http::{AccessLog, BindError},
    proxy::{
        limit::gate::Gate,
        record::{Decisions, ProxyMetrics},
        snapshot::Live,
        transfers::Transfers,
    },
    supervise::{Stop, StopSource},
};

/// Descriptors that are not for connections: listeners, logs, probes, the store of names.
const DESCRIPTORS_KEPT: u64 = 128;

/// A thread of the engine ended although nobody asked for a stop.
#[derive(Debug)]
pub(in crate::proxy) struct EngineEnded;

/// Open listeners, not yet served.
pub(in crate::proxy) struct Engine {
    listeners: Arc<Listeners>,
    threads: usize,
    zero_copy: bool,
    connections: Gate,
    up: StopSource,
}

/// What a running engine is followed and ended by. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Running {
    /// Its listeners.
    pub(in crate::proxy) listeners: Arc<Listeners>,
    /// Its end.
    pub(in crate::proxy) ending: Arc<Ending>,
    /// Its connections.
    pub(in crate::proxy) connections: Gate,
    /// Asked for when every thread accepts.
    pub(in crate::proxy) up: Stop,
}

impl Engine {
    /// Opens every listener, once for each thread; what was `taken` over is open already. An error leaves none open.
    pub(in crate::proxy) fn bind(
        config: &Proxy,
        taken: Vec<Taken>,
        metrics: &ProxyMetrics,
    ) -> Result<Self, BindError> {
        let threads = config.threads.max(1);
        let listeners = Arc::new(Listeners::open(&config.listeners, threads, taken, metrics)?);
        raise_descriptors();
        tell_if_short(config.limits.connections, threads);
        let (connections, up) = (Gate::default(), StopSource::new());
        Ok(Self { listeners, threads, zero_copy: config.zero_copy, connections, up })
    }

    /// To follow it by and to end it.
    pub(in crate::proxy) fn handle(&self) -> Running {
        let (listeners, connections) = (self.listeners.clone(), self.connections.clone());
        Running { listeners, connections, ending: Arc::default(), up: self.up.stop() }
    }

    /// Serves until the end is asked for, then lets what runs go on until it is over.
    pub(in crate::proxy) async fn run(
        self,
        live: Arc<Live>,
        metrics: ProxyMetrics,
        (log, decisions): (AccessLog, Decisions),
        transfers: Arc<Transfers>,
        ending: Arc<Ending>,
    ) -> Result<(), EngineEnded> {
        let shared = Shared {
            live,
            metrics,
            log,
            transfers,
            decisions,
            names: Arc::new(Names::default()),
            connections: self.connections,
            most: descriptors_allow(self.threads),
            listeners: self.listeners.clone(),
            ending: ending.clone(),
            starting: Arc::new(AtomicUsize::new(self.threads)),
            up: self.up,
            zero_copy: self.zero_copy,
        };
        let conf = ServerConf { threads: 1, work_stealing: false, ..ServerConf::default() };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        let (alive, ends) = mpsc::channel(1);
        for number in 0..self.threads {
            let (shared, alive) = (shared.clone(), Alive(alive.clone()));
            server.add_service(Thread { name: format!("proxy {number}"), number, shared, _alive: alive });
        }
        drop(alive);
        let ended = Ended { ends: Mutex::new(ends), ending: ending.clone() };
        let connections = shared.connections.clone();
        // It blocks its thread until all services have ended.
        let served =
            tokio::task::spawn_blocking(move || server.run(RunArgs { shutdown_signal: Box::new(ended) }));
        let told = async {
            ending.asked().await;
            self.listeners.let_go();
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
        if ending.is_asked() { Ok(()) } else { Err(EngineEnded) }
    }
}

/// What tells Pingora to end: every thread has, for our own drain is over then and Pingora's would sleep for its whole
/// length; or one has that should not.
struct Ended {
    ends: Mutex<mpsc::Receiver<()>>,
    ending: Arc<Ending>,
}

#[async_trait]
impl ShutdownSignalWatch for Ended {
    async fn recv(&self) -> ShutdownSignal {
        let mut ends = self.ends.lock().await;
        while ends.recv().await.is_some() && self.ending.is_asked() {}
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
    number: usize,
    shared: Shared,
    _alive: Alive,
}

#[async_trait]
impl Service for Thread {
    async fn start_service(&mut self, _fds: Option<ListenFds>, _stop: ShutdownWatch, _tasks: usize) {
        Worker::new(self.shared.clone()).run(self.number).await;
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// Most systems let an ordinary process open a thousand files, for the sake of programs from before there were more; it may
/// raise that itself.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(error = %error, "the descriptor limit stays as it is");
    }
}

/// The connections that the system's descriptor limit allows: each needs one, and one to an upstream; each thread some
/// for its pipes.
fn descriptors_allow(threads: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let kept = DESCRIPTORS_KEPT + (threads * 2 * splice::MOST) as u64;
    let allowed = limit.map(|limit| limit.saturating_sub(kept) / 2);
    allowed.map_or(usize::MAX, |allowed| usize::try_from(allowed).unwrap_or(usize::MAX).max(1))
}

/// Warns of a config that wants more connections than there can be.
pub(in crate::proxy) fn tell_if_short(wanted: usize, threads: usize) {
    let allowed = descriptors_allow(threads);
    if allowed < wanted {
        warn!(wanted, allowed, "fewer connections than configured: raise the descriptor limit");
    }
}
