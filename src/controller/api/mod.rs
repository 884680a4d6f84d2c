//! The HTTP APIs of a controller: the vendor's, compatible to the letter, and our agents' own.
//!
//! A handler is a translation: extract, call one operation, wrap. What is answered to which failure stands in
//! one table, `answer.rs`; what a request passes before its handler, in `gate.rs`. Nothing here reads or writes
//! the store, and nothing decides.
//!
//! ```text
//!   request id → watch (count, log) → admit (room, cache loaded) → in time → who calls (auth) → may it (permit) → handler
//! ```
//!
//! `/livez`, `/healthz`, `/readyz` and `/metrics` stand outside the gate: they answer at any time.

mod absent;
mod answer;
mod extract;
mod gate;
mod agent;
mod auth;
mod cloud;
mod group;
mod image;
mod distribution;
mod mac;
mod node;
mod openapi;
mod packages;
mod permission;
mod permit;
mod registry;
mod status;
mod stream;
mod views;
mod vm;
mod welcome;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    middleware::{from_fn, from_fn_with_state},
    response::IntoResponse,
    routing::{any, delete, get, post, put},
};
use prometheus::{Gauge, Histogram, IntCounterVec, IntGauge};
use tokio::sync::Semaphore;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

use super::App;
use crate::{
    auth::{
        Auth, gate as entry,
        routes::{Manner, routes},
        signed,
    },
    config::auth::Authorization,
    http::{BodyRoom, health_routes, request_id},
    model,
    telemetry::{Metrics, MetricsError, names},
};

/// The route of the agents' long poll.
const POLL: &str = "/switchyard/v1/tasks";

/// Bytes of all request bodies in memory at once, as a multiple of the longest one.
const BODIES: usize = 32;

/// How long a request body may take. A proxy has read the whole head by then, and a script is small.
const BODY_PATIENCE: Duration = Duration::from_secs(8);

/// For so long a browser asks no second time whether it may call.
const PREFLIGHT: Duration = Duration::from_secs(600);

/// What handlers and the gate share. Cheap to clone.
#[derive(Clone)]
struct Api {
    app: App,
    room: BodyRoom,
    /// One for each request under way; none left: 503.
    places: Arc<Semaphore>,
    /// One for each watch that is open.
    streams: Arc<Semaphore>,
    /// One for each package that is being downloaded.
    downloads: Arc<Semaphore>,
    counts: Counts,
}

/// The counters of this room.
#[derive(Clone)]
struct Counts {
    requests: IntCounterVec,
    seconds: Histogram,
    refused: IntCounterVec,
    polls: Gauge,
    streams: IntGauge,
    streams_ended: IntCounterVec,
    events: IntCounterVec,
    events_waiting: IntGauge,
}

impl Counts {
    fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        const BOUNDS: &[f64] =
            &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let build = metrics.gauges(names::BUILD_INFO)?;
        build.with_label_values(&["controller", &model::full_version()]).set(1);
        Ok(Self {
            requests: metrics.counters(names::HTTP_REQUESTS)?,
            seconds: metrics.histograms(names::HTTP_SECONDS, BOUNDS)?.with_label_values(&["controller"]),
            refused: metrics.counters(names::CONTROLLER_REFUSED)?,
            streams: metrics.gauges(names::CONTROLLER_STREAMS)?.with_label_values::<&str>(&[]),
            events: metrics.counters(names::CONTROLLER_EVENTS)?,
            events_waiting: metrics.gauges(names::CONTROLLER_EVENTS_WAITING)?.with_label_values::<&str>(&[]),
            streams_ended: metrics.counters(names::CONTROLLER_STREAMS_ENDED)?,
            polls: metrics.gauge(names::CONTROLLER_POLLS)?,
        })
    }

    fn answered(&self, status: StatusCode, took: Option<Duration>) {
        let class = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let class = class.get(usize::from(status.as_u16() / 100).saturating_sub(1)).unwrap_or(&"5xx");
        self.requests.with_label_values(&["controller", class]).inc();
        if let Some(took) = took {
            self.seconds.observe(took.as_secs_f64());
        }
    }

    fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }
}

/// A poll that is parked; dropped when it is answered, and when its client goes away.
struct Parked(Gauge);

impl Parked {
    fn at(counts: &Counts) -> Self {
        counts.polls.inc();
        Self(counts.polls.clone())
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// All routes.
///
/// # Errors
/// A metric that exists already: this was called twice for one [`Metrics`].
pub fn router(app: App) -> Result<Router, MetricsError> {
    let limits = &app.ops.config().limits;
    packages::look(app.ops.config().web.packages.as_deref());
    let door = entry::Gate::new(
        Auth::new(&app.ops.config().auth, "controller", Arc::new(app.ops.clone())),
        &app.metrics,
    )?;
    let api = Api {
        room: BodyRoom::new(limits.body, limits.body.saturating_mul(BODIES), BODY_PATIENCE),
        places: Arc::new(Semaphore::new(limits.concurrency.min(Semaphore::MAX_PERMITS))),
        streams: Arc::new(Semaphore::new(stream::STREAMS)),
        downloads: Arc::new(Semaphore::new(packages::DOWNLOADS)),
        counts: Counts::new(&app.metrics)?,
        app,
    };
    let gated = Router::new()
        .route("/api/v1/status", get(status::show))
        .route("/api/v1/stats", get(status::stats))
        .route("/api/v1/vm", post(vm::start).get(vm::read).put(vm::update).delete(vm::terminate))
        .route("/api/v1/rpc/vm/restart", post(image::restart))
        .route("/api/v1/usb", get(node::usb))
        .route("/api/v1/image", post(image::save).get(image::read))
        .route("/api/v1/node", get(node::read).delete(node::delete))
        .route("/api/v1/group", post(group::make).get(group::read).put(group::change).delete(group::delete))
        .route("/api/v1/macaddr", get(mac::read).put(mac::refill).delete(mac::refill))
        .route("/api/v1/vlan", get(mac::vlans))
        .route("/api/v1/node/group", post(group::attach).delete(group::detach))
        .route("/api/v1/node/update", put(node::update))
        .route("/v1/node/update", put(node::update))
        .route("/api/v1/node/config", post(node::configure))
        .route("/api/v1/registry/vm", get(registry::templates).delete(registry::delete))
        .route("/api/v1/registry/revert", delete(registry::revert))
        .route("/api/v1/registry/disk", get(registry::disk))
        .route("/config/v1/auth", get(auth::ways))
        .route("/api/v1/registry/vm/remove", delete(distribution::remove))
        .route(
            "/api/v1/registry/vm/distribute",
            post(distribution::distribute).get(distribution::read).delete(distribution::cancel),
        )
        .route("/switchyard/v1/join", post(agent::join))
        .route("/switchyard/v1/heartbeat", post(agent::heartbeat))
        .route(POLL, get(agent::poll))
        .route("/switchyard/v1/claim", post(agent::claim))
        .route("/switchyard/v1/starting", post(agent::starting))
        .route("/switchyard/v1/report", post(agent::report))
        .route("/switchyard/v1/giveback", post(agent::give_back))
        .route("/switchyard/v1/leave", post(agent::leave))
        .route("/switchyard/v1/nodes/commands", get(distribution::commands))
        .route("/switchyard/v1/instances", get(cloud::instances))
        .route("/switchyard/v1/instances/{id}/why", get(cloud::why))
        .route("/switchyard/v1/nodes", get(cloud::nodes))
        .route("/switchyard/v1/nodes/{id}/why", get(cloud::node_why))
        .route("/switchyard/v1/events", get(cloud::events))
        .route("/switchyard/v1/watch", get(stream::watch))
        .route("/switchyard/v1/nodes/confirm-absence", post(node::confirm_absence))
        .route("/switchyard/v1/permissions", get(permission::all))
        .route("/switchyard/v1/permission-groups", get(permission::groups))
        .route("/switchyard/v1/permission-groups/{name}", put(permission::set).delete(permission::delete))
        .route("/queue/v1/{*call}", any(absent::queue))
        .route(permission::CATALOGUE, get(permission::catalogue))
        .route(permission::OTHER_CATALOGUE, get(permission::catalogue))
        .route(permission::RESOURCES, get(permission::resources).post(permission::set_resources))
        .route(permission::OTHER_RESOURCES, get(permission::resources).post(permission::set_resources))
        .merge(routes(&door, Manner::Controller, "/api/v1/apikey"))
        .method_not_allowed_fallback(gate::wrong_method)
        .fallback(gate::unknown_route);
    let gated = if api.app.ops.config().auth.authorization >= Authorization::Groups {
        gated.layer(from_fn_with_state(api.clone(), permit::check))
    } else {
        gated
    };
    let gated = gated
        .layer(from_fn_with_state(door.clone(), entry::admit))
        .layer(from_fn_with_state(api.clone(), gate::in_time))
        .layer(from_fn_with_state(api.clone(), gate::admit))
        .layer(from_fn_with_state(api.clone(), gate::watch))
        .with_state(api.clone());
    // Without a credential, and not within the time of a call: a package is as large as it is.
    let open = Router::new()
        .route("/", get(welcome::page))
        .route("/pkg/{name}", get(packages::download))
        .route("/oidc/v1/callback", any(absent::identity))
        .method_not_allowed_fallback(gate::wrong_method)
        .layer(from_fn_with_state(api.clone(), gate::watch))
        .with_state(api.clone());
    let ungated = Router::new()
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi::answer))
        .route("/openapi", get(openapi::page))
        .with_state(api.clone());
    let health = health_routes(Arc::new(api.app.health.clone()));
    let all = gated.merge(open).merge(ungated).merge(health).layer(from_fn_with_state(door, signed::look));
    let all = if api.app.ops.config().web.allow_cors { all.layer(cors()) } else { all };
    Ok(all.layer(from_fn(request_id)))
}

/// Pages of any origin may call the API, and are shown what they would be in a shell (`ANKA_ALLOW_CORS`).
fn cors() -> CorsLayer {
    // Headers that the page names: `*` would leave `Authorization` out.
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods(Any)
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(Any)
        .max_age(PREFLIGHT)
}

async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    // Counted where they are told, which knows no metrics.
    let pushed = api.app.ops.pushed();
    for (outcome, count) in [("sent", &pushed.sent), ("failed", &pushed.failed), ("lost", &pushed.lost)] {
        let counter = api.counts.events.with_label_values(&[outcome]);
        counter.inc_by(count.load(Ordering::Relaxed).saturating_sub(counter.get()));
    }
    api.counts.events_waiting.set(pushed.waiting.load(Ordering::Relaxed));
    api.app.ops.count();
    ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], api.app.metrics.text())
}
