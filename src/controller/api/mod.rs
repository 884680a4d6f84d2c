//! The HTTP APIs of a controller.

use std::sync::Arc;

use axum::Router;

use super::App;
use crate::http::health_routes;

/// All routes.
pub fn router(app: App) -> Router {
    health_routes(Arc::new(app.health.clone()))
}
