//! `POST /admin/v1/reload`: what `SIGHUP` does, with an answer.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{
    proxy::{ReloadRefused, role::Handle},
    wire::orders::Reloaded,
};

/// Reads the file again. A refusal is plain text, the same that `check` prints.
///
/// The file is small and local, as for the signal, so it is read in place.
pub(super) fn now(handle: &Handle) -> Response {
    match handle.reload_again() {
        Ok(()) => Json(Reloaded { generation: handle.live.load().generation }).into_response(),
        Err(refused) => {
            let status = match refused {
                ReloadRefused::NoSource => StatusCode::CONFLICT,
                ReloadRefused::Bad(_) | ReloadRefused::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            };
            (status, format!("{refused}\n")).into_response()
        }
    }
}
