//! The role's door: open, address, run.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{HistogramVec, IntCounterVec};
use tokio::net::TcpListener;

use super::{
    content::{Content, disk},
    oci,
    repositories::Repositories,
    state::{App, Health, RegistryMetrics},
    upkeep, vendor,
};
use crate::{
    clock,
    config::{self, registry::Storage},
    http::{BindError, BodyRoom, bind, health_routes, request_id, serve, write_address_file},
    model::OURS,
    supervise::{Handle, OnEnd, Stage, Stop},
    telemetry::{Metrics, MetricsError, names},
};

/// A loop that ended is started again after so long.
const RESTART: Duration = Duration::from_secs(1);

/// Bytes of manifests that are being received, all together. Full: 429, and the client tries again.
const MANIFESTS: usize = 64 * 1024 * 1024;

/// A manifest that takes longer to arrive is refused.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(60);

/// Upper bounds of the answer times, in seconds.
const BOUNDS: &[f64] = &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

/// Why a registry does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The storage.
    #[error(transparent)]
    Storage(#[from] disk::OpenError),
    /// The port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The file that scripts read the port from.
    #[error("cannot write the address file")]
    AddressFile(#[source] io::Error),
    /// A mistake of ours.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// A registry whose storage is locked and whose port is open.
pub struct Registry {
    listener: TcpListener,
    address: SocketAddr,
    app: App,
    http: HttpMetrics,
    grace: Duration,
    tasks: Handle,
}

impl Registry {
    /// Locks the storage and opens the port. Nothing is started yet.
    pub async fn open(config: config::registry::Registry, tasks: Handle) -> Result<Self, OpenError> {
        let Storage::Disk(path) = config.storage;
        let disk = disk::Disk::open(disk::DiskSettings {
            path,
            name: config.server.name,
            reserve: config.limits.reserve,
            upload_idle: config.limits.upload_idle,
            uploads: config.limits.uploads,
        })
        .await?;
        let space = disk.space().await.map_err(|error| error.to_string());
        let metrics = RegistryMetrics::new()?;
        let http = HttpMetrics::new(&metrics.all)?;
        let listener = bind(config.server.listen, "server.listen")?;
        let address = listener.local_addr().map_err(OpenError::AddressFile)?;
        if let Some(file) = &config.server.address_file {
            write_address_file(file, address).map_err(OpenError::AddressFile)?;
        }
        let app = App {
            repositories: Repositories::new(Arc::new(disk)),
            health: Arc::new(Health::new(config.limits.reserve, space)),
            bodies: BodyRoom::new(config.limits.manifest, MANIFESTS, MANIFEST_PATIENCE),
            limits: config.limits,
            metrics,
        };
        Ok(Self { listener, address, app, http, grace: config.server.grace, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until stopped; running transfers end within the grace.
    pub async fn run(self, stop: Stop) -> io::Result<()> {
        let app = self.app.clone();
        self.tasks.start(Stage::Loops, "registry upkeep", OnEnd::Restart(RESTART), move |stop| {
            upkeep::run(app.clone(), stop)
        });
        tracing::info!(address = %self.address, "registry serves");
        serve(self.listener, router(self.app, self.http), stop, self.grace).await
    }
}

fn router(app: App, http: HttpMetrics) -> Router {
    let metrics = app.metrics.all.clone();
    let oci = axum::routing::any(oci::serve);
    Router::new()
        .route("/v2", oci.clone())
        .route("/v2/", oci.clone())
        .route("/v2/{*rest}", oci)
        .merge(vendor::routes())
        .with_state(app.clone())
        .merge(health_routes(app.health))
        .route(
            "/metrics",
            get(move || async move { ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], metrics.text()) }),
        )
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(http, measure))
        .layer(middleware::from_fn(request_id))
}

/// As Go's default mux says it.
async fn unknown() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

#[derive(Clone)]
struct HttpMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl HttpMetrics {
    fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        let build = metrics.gauges(names::BUILD_INFO)?;
        build.with_label_values(&["registry", OURS]).set(1);
        Ok(Self {
            requests: metrics.counters(names::HTTP_REQUESTS)?,
            seconds: metrics.histograms(names::HTTP_SECONDS, BOUNDS)?,
        })
    }
}

async fn measure(State(metrics): State<HttpMetrics>, request: Request, next: Next) -> Response {
    let began = clock::now();
    let response = next.run(request).await;
    let class = match response.status().as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    metrics.requests.with_label_values(&["registry", class]).inc();
    metrics.seconds.with_label_values(&["registry"]).observe((clock::now() - began).as_secs_f64());
    response
}
