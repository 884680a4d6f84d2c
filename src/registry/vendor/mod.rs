//! The vendor's registry API under `/registry/`: templates and their versions (`reference/registry-api.md`).
//!
//! Every answer is the envelope; bodies are read whatever their Content-Type.

mod answer;
mod revert;
mod status;
mod templates;

use axum::{Router, routing::get};

use super::state::App;

/// All routes.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/registry/status", get(status::status))
        .route("/registry/disk", get(status::disk))
        .route("/registry/vm", get(templates::v1).delete(templates::delete))
        .route("/registry/v2/vm", get(templates::v2))
        .route("/registry/vm/info", get(templates::info))
        .route("/registry/vm/arch", axum::routing::put(templates::arch))
        .route("/registry/revert", axum::routing::delete(revert::revert))
        .method_not_allowed_fallback(answer::wrong_method)
}
