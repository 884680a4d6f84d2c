//! The role's door: open, run, reload.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio::net::TcpListener;

use super::{
    admin, certificates,
    engine::{Engine, EngineEnded},
    record::{AccessLog, ProxyMetrics, access::Writer},
    reload::{self, Fixtures, ReloadError},
    snapshot::Live,
};
use crate::{
    config::proxy::{self, Access},
    http::{BindError, bind, write_address_file},
    supervise::{Handle as Tasks, Stage, Stop},
    telemetry::MetricsError,
};

/// Why a proxy does not start or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The access log.
    #[error("access log `{path}` could not be opened")]
    AccessLog {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file for scripts.
    #[error("`{path}` could not be written")]
    AddressFile {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A mistake of ours.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A thread of the engine ended, and its connections with it.
    #[error("a thread of the engine ended although nobody asked it to")]
    Engine,
    /// The admin server ended.
    #[error("the admin server ended")]
    Admin(#[source] io::Error),
}

/// A proxy with its ports open.
pub struct Proxy {
    engine: Engine,
    admin: TcpListener,
    admin_address: SocketAddr,
    listeners: Vec<(String, SocketAddr)>,
    handle: Handle,
    log: AccessLog,
    grace: Duration,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("listeners", &self.listeners)
            .field("admin", &self.admin_address)
            .finish()
    }
}

/// Where a proxy is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Each listener's name and address, in config order; several of a name when it binds several.
    pub listeners: Vec<(String, SocketAddr)>,
    /// The admin listener.
    pub admin: SocketAddr,
}

impl Addresses {
    /// The first address of the listener of this name.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        self.listeners.iter().find(|(n, _)| n == name).map(|(_, address)| *address)
    }
}

impl Proxy {
    /// Opens ports and logs and begins probing. An error leaves nothing behind.
    pub async fn open(config: proxy::Proxy, tasks: Tasks) -> Result<Self, ProxyError> {
        let engine = Engine::bind(&config)?;
        let admin = bind(config.admin, "admin.listen")?;
        let unknown = |source| BindError::Other { address: config.admin, key: "admin.listen".into(), source };
        let admin_address = admin.local_addr().map_err(unknown)?;
        let metrics = ProxyMetrics::new()?;
        let (log, writer) = AccessLog::open(&config.access).await.map_err(|source| {
            let path = match &config.access {
                Access::File(path) => path.clone(),
                Access::Stdout | Access::Off => PathBuf::from("stdout"),
            };
            ProxyError::AccessLog { path, source }
        })?;
        if let Some(path) = &config.address_file {
            write_address_file(path, admin_address)
                .map_err(|source| ProxyError::AddressFile { path: path.clone(), source })?;
        }
        let name = |place: usize| config.listeners.get(place).map_or_else(String::new, |l| l.name.clone());
        let listeners =
            engine.addresses().into_iter().map(|(place, address)| (name(place), address)).collect();
        // Nothing fails any more: now tasks may begin.
        if let Some(writer) = writer {
            start_writer(&tasks, writer);
        }
        let live = Arc::new(Live::new(reload::snapshot(&config, None, &tasks, &metrics)));
        let fixtures = Arc::new(Fixtures::of(&config));
        let watched = live.clone();
        tasks.finish_at(Stage::Loops, "certificates", |stop| async move {
            tokio::select! {
                () = stop.requested() => {}
                () = certificates::watch(watched) => {}
            }
        });
        let handle = Handle { live, fixtures, metrics, log: log.clone(), tasks, source: Arc::default() };
        Ok(Self { engine, admin, admin_address, listeners, handle, log, grace: config.grace })
    }

    /// Where it is reached; port 0 is resolved here.
    pub fn addresses(&self) -> Addresses {
        Addresses { listeners: self.listeners.clone(), admin: self.admin_address }
    }

    /// For reloads and log rotation.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `stop`, then drains within the grace.
    pub async fn run(self, stop: Stop) -> Result<(), ProxyError> {
        let routes = admin::routes(self.handle.clone());
        let Handle { live, metrics, .. } = self.handle;
        let engine = self.engine.run(live, metrics, self.log, stop.clone(), self.grace);
        let admin = crate::http::serve(self.admin, routes, stop, self.grace);
        let (engine, admin) = tokio::join!(engine, admin);
        engine.map_err(|EngineEnded| ProxyError::Engine)?;
        admin.map_err(ProxyError::Admin)
    }
}

/// The last to stop: it writes the lines of the requests that end while everything else does.
fn start_writer(tasks: &Tasks, writer: Writer) {
    tasks.finish_at(Stage::Store, "access log", |stop| writer.run(stop));
}

/// Reads the config that a reload takes; the error is what `check` says about a bad one.
type Read = dyn Fn() -> Result<proxy::Proxy, String> + Send + Sync;

/// Where reloads that are asked for without a config find one.
#[derive(Default)]
struct Source {
    read: OnceLock<Box<Read>>,
    /// Two at once must not read and put in turn: the older file could win.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("known", &self.read.get().is_some()).finish()
    }
}

/// Why a reload from the source was not taken. The old config goes on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadRefused {
    /// Standalone makes its config up.
    #[error("this proxy was not started from a file, so there is nothing to read again")]
    NoSource,
    /// Each fault, as `check` says it.
    #[error("{0}")]
    Bad(String),
    /// Valid in itself.
    #[error(transparent)]
    Refused(#[from] ReloadError),
}

/// Acts on a running proxy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) live: Arc<Live>,
    fixtures: Arc<Fixtures>,
    pub(super) metrics: ProxyMetrics,
    log: AccessLog,
    tasks: Tasks,
    source: Arc<Source>,
}

impl Handle {
    /// Puts a checked config in place, whole. Running requests end under the one they began with.
    ///
    /// Errors leave the old config in place.
    pub fn reload(&self, config: &proxy::Proxy) -> Result<(), ReloadError> {
        let taken = reload::reload(&self.live, &self.fixtures, config, &self.tasks, &self.metrics);
        self.metrics.reloaded(taken.is_ok());
        match &taken {
            Ok(()) => tracing::info!(generation = self.live.load().generation, "config reloaded"),
            Err(error) => tracing::error!(error = %error, "config not taken, the old one goes on"),
        }
        taken
    }

    /// Names what [`Handle::reload_again`] reads. The first call counts.
    pub fn reads(&self, read: impl Fn() -> Result<proxy::Proxy, String> + Send + Sync + 'static) {
        // A second source would be a mistake of the caller that harms nobody.
        drop(self.source.read.set(Box::new(read)));
    }

    /// Reads the config anew and puts it in place, whole. Blocks while it reads.
    ///
    /// Errors leave the old config in place, and are logged.
    pub fn reload_again(&self) -> Result<(), ReloadRefused> {
        let _turn = self.source.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.source.read.get().ok_or(ReloadRefused::NoSource)?;
        match read() {
            Ok(config) => Ok(self.reload(&config)?),
            Err(faults) => {
                self.metrics.reloaded(false);
                tracing::error!(faults = %faults, "config refused: the old one serves on");
                Err(ReloadRefused::Bad(faults))
            }
        }
    }

    /// Opens the access log anew: it was moved away.
    pub fn reopen_logs(&self) {
        self.log.reopen();
    }
}
