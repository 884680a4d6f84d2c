//! The admin listener: the live view of the pools, metrics, how the proxy itself is, and what an operator tells it.
//!
//! [`entry`] says who may come in. A refusal is one line of plain text; what is answered well is JSON, and its types are
//! in `wire`. [`page`] shows both to people.

mod entry;
mod cohort;
mod config;
mod decisions;
mod explain;
mod listeners;
mod openapi;
mod orders;
mod page;
mod ready;
mod reload;
mod upgrade;
mod upstreams;
mod registries;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, header},
    middleware::from_fn_with_state,
    response::IntoResponse,
    routing::{get, post},
};

use super::role::Handle;
use crate::{clock, http::health_routes, telemetry::Metrics};

/// Bytes of a body that are read, where nothing else is said. What is longer is 413.
const BODY: usize = 64 * 1024;

/// All routes.
pub(super) fn routes(handle: Handle) -> Router {
    let live = handle.live.clone();
    Router::new()
        .merge(views())
        .merge(commands())
        .merge(orders::routes())
        .with_state(handle.clone())
        .merge(page::routes(handle.clone()))
        .merge(health_routes(Arc::new(ready::State(live))))
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn_with_state(handle, entry::check))
}

/// How things are.
fn views() -> Router<Handle> {
    type Of = State<Handle>;
    Router::new()
        .route("/admin/v1/process", get(async |State(handle): Of| Json(handle.process())))
        .route("/admin/v1/listeners", get(async |State(handle): Of| Json(listeners::view(&handle))))
        .route(
            "/admin/v1/config",
            get(async |State(handle): Of, Query(form): Query<config::Form>, fields: HeaderMap| {
                config::answer(&handle, &form, &fields)
            }),
        )
        .route(
            "/admin/v1/upstreams",
            get(async |State(handle): Of| Json(upstreams::view(&handle.live.load()))),
        )
        .route(
            "/admin/v1/registries",
            get(async |State(handle): Of| Json(registries::view(&handle.live.load()))),
        )
        .route(
            "/admin/v1/transfers",
            get(async |State(handle): Of| Json(handle.transfers.view(clock::now()))),
        )
        .route(
            "/admin/v1/decisions",
            get(async |State(handle): Of, Query(which): Query<decisions::Which>| {
                decisions::last(&handle, &which)
            }),
        )
        .route(
            "/admin/v1/decisions/{request}",
            get(async |State(handle): Of, Path(request): Path<String>| decisions::of(&handle, &request)),
        )
        .route(
            "/admin/v1/explain",
            post(async |State(handle): Of, body: Bytes| explain::answer(&handle.live, &body))
                .layer(DefaultBodyLimit::max(explain::LONGEST)),
        )
        .route("/admin/v1/openapi.json", get(async || openapi::answer()))
        .route(
            "/metrics",
            get(async |State(handle): Of| {
                handle.metrics.processes(&handle.process());
                handle.metrics.transfers(&handle.transfers);
                let text = handle.metrics.text(&handle.live.load());
                ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response()
            }),
        )
}

/// What is to be done.
fn commands() -> Router<Handle> {
    type Of = State<Handle>;
    Router::new()
        .route("/admin/v1/reload", post(async |State(handle): Of| reload::now(&handle)))
        .route("/admin/v1/upgrade", post(async |State(handle): Of| upgrade::now(&handle).await))
        .route(
            "/admin/v1/services/{service}/cohort",
            post(async |State(handle): Of, Path(name): Path<String>, body: Bytes| {
                cohort::order(&handle, &name, &body).await
            }),
        )
}
