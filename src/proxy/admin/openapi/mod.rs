//! `GET /admin/v1/openapi.json`: this API for programs that make clients of it.
//!
//! What is served is `docs/openapi.json`. A test writes it, from the types in `wire` and the table of calls beside it, and
//! compares it with what is checked in; another one compares it with the router and with real answers.

use axum::{http::header, response::IntoResponse};

const DOCUMENT: &str = include_str!("../../../../docs/openapi.json");

/// The document, as it is checked in.
pub(super) fn answer() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests;
