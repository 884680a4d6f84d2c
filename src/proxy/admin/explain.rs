//! `POST /admin/v1/explain`: where a request would go.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{
    proxy::{
        explain::{Wrong, explain},
        snapshot::Live,
    },
    wire::explain::Ask,
};

/// Bytes of a question: more than any head that a listener takes by default, with what JSON adds to it.
pub(super) const LONGEST: usize = 256 * 1024;

/// A refusal is one line of plain text.
pub(super) fn answer(live: &Live, body: &[u8]) -> Response {
    let refuse = |status: StatusCode, why: String| (status, format!("{why}\n")).into_response();
    let ask: Ask = match serde_json::from_slice(body) {
        Ok(ask) => ask,
        Err(error) => {
            let right =
                r#"send `{"method":"GET","path":"/v2/"}`, and as you like `listener`, `headers`, `client`"#;
            return refuse(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}; {right}"));
        }
    };
    match explain(&live.load(), &ask) {
        Ok(explained) => Json(explained).into_response(),
        Err(wrong @ Wrong::Listener { .. }) => refuse(StatusCode::NOT_FOUND, wrong.to_string()),
        Err(wrong) => refuse(StatusCode::BAD_REQUEST, wrong.to_string()),
    }
}
