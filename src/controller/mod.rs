//! CONTROL PLANE: keeps nothing; all it knows is in the store.
//!
//! `api` translates, `ops` does, `schedule` and `lists` decide; the store is the only memory. Kill any
//! controller at any time, and the next request to another one goes on.
//!
//! ```text
//!   api/*.rs ──▶ ops/{instances,nodes,agents,templates}.rs ──▶ store (one transaction per change)
//!                      │  reads                                    │ watch
//!                      └──────────── lists.rs (cache) ◀────────────┘
//!   duties/*.rs ──▶ the same ops, fenced by leader/<duty>
//! ```

//!
//! What each controller runs, and when it stops:
//!
//! ```text
//!   edge     the API's server, with its long polls
//!   loops    feed (the cache), probe, dispatch, listen, offers, the store's members, the duties
//!   leases   this run's lease: membership and leadership end with it
//! ```

mod absence;
mod clocks;
pub mod api;
mod core;
mod duties;
mod health;
pub mod lists;
mod members;
mod noted;
mod numbers;
pub mod ops;
mod reconcile;
pub mod records;
pub mod schedule;
mod standing;
mod writes;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

pub use self::core::Core;
pub use health::Health;

use crate::{
    auth::files::Files,
    config::controller::{Controller as Config, StoreKind},
    http::{self, BindError},
    store::{
        Store, StoreError,
        embedded::{EmbeddedStore, OpenError},
        etcd::EtcdStore,
    },
    supervise::{Handle, OnEnd, Stage, Stop},
    telemetry::{Metrics, MetricsError},
};

/// What every handler of `api` has.
#[derive(Clone)]
pub struct App {
    /// What can be done.
    pub ops: ops::Ops,
    /// What `/readyz` says.
    pub health: Health,
    /// For `/metrics` and the counters of requests.
    pub metrics: Metrics,
    /// The wish that this controller ends: long polls watch it.
    pub stop: Stop,
}

/// Why a controller did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Its port cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its store cannot be opened.
    #[error("store cannot be opened")]
    Store(#[from] StoreError),
    /// Its embedded store cannot be opened.
    #[error(transparent)]
    Embedded(#[from] OpenError),
    /// The client of the registries cannot be made.
    #[error("the client of the registries cannot be made")]
    Registries(#[from] reqwest::Error),
    /// A metric of the API cannot be made.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The address file cannot be written.
    #[error("address file `{path}` cannot be written")]
    AddressFile {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server broke.
    #[error("the API's server ended")]
    Serve(#[source] std::io::Error),
}

/// A controller with its port open, not yet serving.
pub struct Controller {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
    store: Arc<dyn Store>,
    tasks: Handle,
}

impl Controller {
    /// Opens its own store, then as [`Controller::open_with`].
    pub async fn open(config: Config, tasks: Handle) -> Result<Self, ControllerError> {
        // The port first: two controllers by mistake should hear of the port, not of the store's lock.
        let listener = http::bind(config.server.listen, "server.listen")?;
        let store: Arc<dyn Store> = match &config.store.kind {
            StoreKind::Etcd(etcd) => Arc::new(EtcdStore::open(etcd, config.timeouts.store).await?),
            StoreKind::Embedded(dir) => Arc::new(EmbeddedStore::open(dir, tasks.clone()).await?),
        };
        Self::with(config, listener, store, tasks)
    }

    /// Opens the port over a store that others may use too. Starts nothing yet.
    pub async fn open_with(
        config: Config,
        store: Arc<dyn Store>,
        tasks: Handle,
    ) -> Result<Self, ControllerError> {
        let listener = http::bind(config.server.listen, "server.listen")?;
        Self::with(config, listener, store, tasks)
    }

    fn with(
        config: Config,
        listener: TcpListener,
        store: Arc<dyn Store>,
        tasks: Handle,
    ) -> Result<Self, ControllerError> {
        let address = listener.local_addr().map_err(ControllerError::Serve)?;
        if let Some(path) = &config.server.address_file {
            http::write_address_file(path, address).map_err(|source| ControllerError::AddressFile {
                path: path.display().to_string(),
                source,
            })?;
        }
        Ok(Self { config, listener, address, store, tasks })
    }

    /// Where it listens; port 0 is resolved.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`. Everything but `/livez` answers 503 until the cache is loaded.
    pub async fn run(self, stop: Stop) -> Result<(), ControllerError> {
        let grace = self.config.server.grace;
        let reached = self.config.server.reached_at(self.address).to_string();
        let tls = self.config.server.tls.clone();
        let callers = self.config.auth.certificates.as_ref().map(|known| known.callers.clone());
        let name = format!("controller {}: certificates", self.config.server.name);
        let towards = [
            ("registries.tls", self.config.registries.as_ref().and_then(|registries| registries.tls.clone())),
            ("events.tls", self.config.events.tls.clone()),
        ];
        let core = Core::start(self.config, self.store, &self.tasks, reached)?;
        let files = Files::new(tls.clone(), callers, towards, &core.metrics)?;
        if !files.are_none() {
            core.health.set_files(files.clone());
            self.tasks.start(Stage::Loops, name, OnEnd::Restart(self::core::RESTART), move |stop| {
                files.clone().keep(stop)
            });
        }
        let tls = tls.map(|tls| http::Secure::new(tls, &core.metrics)).transpose()?;
        let app = App { ops: core.ops, health: core.health, metrics: core.metrics, stop: stop.clone() };
        let router = api::router(app)?;
        http::serve(self.listener, tls, router, stop, grace).await.map_err(ControllerError::Serve)
    }
}
