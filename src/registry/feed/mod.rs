//! `/replication/v1/…`: what replicas and proxies follow (`docs/replication.md`). Handlers translate.

mod blobs;
mod gc;
mod log;
mod snapshot;
mod state;

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use serde_json::json;

use super::{content::ContentError, journal::JournalError, state::App};
use crate::{
    supervise::Stop,
    telemetry::chain,
    wire::{replication as wire, upkeep},
};

/// What the handlers are given.
#[derive(Clone)]
pub(super) struct Feed {
    pub(super) app: App,
    /// Parked requests end with it.
    pub(super) stop: Stop,
}

/// All routes.
pub(super) fn routes(app: App, stop: Stop) -> Router {
    let one = |path: &str| format!("{}/{{digest}}{path}", wire::BLOBS);
    Router::new()
        .route(wire::LOG, get(log::log))
        .route(wire::LEASE, delete(log::release))
        .route(wire::SNAPSHOT, get(snapshot::snapshot))
        .route(wire::STATE, get(state::state))
        .route(upkeep::GC, get(gc::look).post(gc::run))
        .route(&one(""), get(blobs::blob))
        .route(&one("/chunks"), get(blobs::chunks))
        .with_state(Feed { app, stop })
}

/// Why a follower was not answered: a stable code, and words.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    error: String,
}

impl Refusal {
    fn bad(error: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "bad-request", error: error.into() }
    }

    fn missing(error: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: "not-here", error: error.into() }
    }

    fn not_now(error: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: "not-now", error: error.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %self.error, "follower could not be answered");
        }
        let body = Json(json!({ "code": self.code, "error": self.error }));
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::NotNow(_)
            | JournalError::Never(_)
            | JournalError::NoLog
            | JournalError::Stopping => Self::not_now(error.to_string()),
            JournalError::Content(error) => error.into(),
            JournalError::Log(error) => {
                Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "log", error: chain(&error) }
            }
        }
    }
}

impl From<ContentError> for Refusal {
    fn from(error: ContentError) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "storage", error: chain(&error) }
    }
}
