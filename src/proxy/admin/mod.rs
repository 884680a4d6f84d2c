//! The admin listener: the live view of the pools, metrics, and how the proxy itself is.

mod cohort;
mod ready;
mod reload;
mod upstreams;
mod registries;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::Path,
    http::header,
    response::IntoResponse,
    routing::{get, post},
};

use super::role::Handle;
use crate::{clock, http::health_routes, telemetry::Metrics};

/// All routes.
pub(super) fn routes(handle: Handle) -> Router {
    let (live, metrics) = (handle.live.clone(), handle.metrics.clone());
    let (pools, copies, numbers) = (live.clone(), live.clone(), live.clone());
    let ordered = handle.clone();
    let (shown, counted, listed) = (handle.clone(), handle.clone(), handle.clone());
    Router::new()
        .route("/admin/v1/process", get(async move || Json(shown.process())))
        .route("/admin/v1/reload", post(async move || reload::now(&handle)))
        .route(
            "/admin/v1/services/{name}/cohort",
            post(async move |Path(name): Path<String>, body: Bytes| {
                cohort::order(&ordered, &name, &body).await
            }),
        )
        .route("/admin/v1/upstreams", get(async move || Json(upstreams::view(&pools.load()))))
        .route("/admin/v1/transfers", get(async move || Json(listed.transfers.view(clock::now()))))
        .route("/admin/v1/registries", get(async move || Json(registries::view(&copies.load()))))
        .route(
            "/metrics",
            get(async move || {
                metrics.processes(&counted.process());
                metrics.transfers(&counted.transfers);
                let text = metrics.text(&numbers.load());
                ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response()
            }),
        )
        .merge(health_routes(Arc::new(ready::State(live))))
}
