//! `GET state`: how this registry stands.

use std::time::Duration;

use axum::{
    Json,
    extract::{Query, State as Given, rejection::QueryRejection},
    response::{IntoResponse, Response},
};

use super::{Feed, Refusal};
use crate::{clock, wire::replication::LogQuery};

/// Parked at most so long.
const PARKED: Duration = Duration::from_secs(30);

/// Answers at once, or, with `after`, once the claimed position is another one or the wait is over.
pub(super) async fn state(
    Given(feed): Given<Feed>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|error| Refusal::bad(error.body_text()))?;
    let mut follow = feed.app.repositories.journal().follow();
    if let Some(after) = query.after {
        let until = clock::now() + Duration::from_millis(query.wait.unwrap_or(0)).min(PARKED);
        while follow.borrow_and_update().claimed() == Some(after) {
            tokio::select! {
                changed = follow.changed() => if changed.is_err() { break },
                () = tokio::time::sleep_until(until) => break,
                () = feed.stop.requested() => break,
            }
        }
    }
    Ok(Json(feed.app.standing.state(&feed.app)).into_response())
}
