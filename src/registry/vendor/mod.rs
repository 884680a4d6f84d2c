//! The vendor's registry API under `/registry/`: templates and their versions (`reference/registry-api.md`).
//!
//! Every answer is the envelope; bodies are read whatever their Content-Type.

mod answer;
mod log;
mod revert;
mod status;
mod templates;
mod welcome;

use std::sync::Arc;

use axum::{
    Router,
    middleware::map_response,
    routing::{get, post},
};

use super::state::App;
use log::Rows;

/// All routes.
pub(super) fn routes() -> Router<App> {
    let rows = Arc::new(Rows::default());
    Router::new()
        .route("/", get(welcome::page))
        .route("/log", post(move |body| log::take(rows.clone(), body)))
        .route("/registry/status", get(status::status))
        .route("/registry/disk", get(status::disk))
        .route("/registry/vm", get(templates::v1).delete(templates::delete))
        .route("/registry/v2/vm", get(templates::v2))
        .route("/registry/vm/info", get(templates::info))
        .route("/registry/vm/arch", axum::routing::put(templates::arch))
        .route("/registry/revert", axum::routing::delete(revert::revert))
        .method_not_allowed_fallback(answer::wrong_method)
        .layer(map_response(answer::for_any_origin))
}
