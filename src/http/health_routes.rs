//! `/livez`, its alias `/healthz`, and `/readyz`.

use std::sync::Arc;

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::get};

use crate::wire::ready::Ready;

/// Tells what a server can do right now. Called for each probe: cheap, no waiting.
pub trait Readiness: Send + Sync + 'static {
    /// The body of `/readyz`.
    fn ready(&self) -> Ready;
}

/// The three routes over one source.
pub fn health_routes<R: Readiness>(source: Arc<R>) -> Router {
    let live = || async { "ok\n" };
    Router::new().route("/livez", get(live)).route("/healthz", get(live)).route(
        "/readyz",
        get(move || async move {
            let ready = source.ready();
            let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, Json(ready)).into_response()
        }),
    )
}
