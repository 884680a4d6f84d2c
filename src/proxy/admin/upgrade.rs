//! `POST /admin/v1/upgrade`: what `SIGUSR2` does, with an answer.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{
    proxy::{handover::UpgradeError, role::Handle},
    telemetry::chain,
};

/// Replaces the process by the binary now on disk. Answers once the successor serves, or with why none does: one line of
/// plain text, as the log has it.
///
/// Who asks may go: the upgrade goes on.
pub(super) async fn now(handle: &Handle) -> Response {
    match handle.upgrade_now().await {
        Ok(upgraded) => Json(upgraded).into_response(),
        Err(error) => {
            let status = match error {
                // It may work later.
                UpgradeError::UnderWay | UpgradeError::TooManyOld(_) => StatusCode::SERVICE_UNAVAILABLE,
                UpgradeError::NoRunDir | UpgradeError::Ending => StatusCode::CONFLICT,
                UpgradeError::Start { .. }
                | UpgradeError::Ended { .. }
                | UpgradeError::Late
                | UpgradeError::Mute
                | UpgradeError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, format!("no upgrade: {}\n", chain(&error))).into_response()
        }
    }
}
