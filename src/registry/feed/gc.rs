//! `GET gc` and `POST gc`: garbage, for the operator's command line.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{Feed, Refusal};
use crate::{registry::upkeep::gc::GcError, telemetry::chain};

/// What would be collected now.
pub(super) async fn look(State(feed): State<Feed>) -> Result<Response, Refusal> {
    collect(&feed, true).await
}

/// Collects now. The graces hold as ever: asking often takes nothing sooner.
pub(super) async fn run(State(feed): State<Feed>) -> Result<Response, Refusal> {
    collect(&feed, false).await
}

async fn collect(feed: &Feed, dry_run: bool) -> Result<Response, Refusal> {
    match feed.app.collector.collect(dry_run).await {
        Ok(collected) => Ok(Json(collected).into_response()),
        Err(error @ (GcError::Busy | GcError::Lost)) => {
            Err(Refusal { status: StatusCode::CONFLICT, code: "busy", error: error.to_string() })
        }
        Err(error @ (GcError::Unknown(_) | GcError::Unsure(_))) => Err(Refusal::not_now(error.to_string())),
        Err(GcError::Content(error)) => {
            Err(Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, code: "storage", error: chain(&error) })
        }
    }
}
