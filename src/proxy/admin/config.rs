//! `GET /admin/v1/config`: what the proxy goes by, as a file that would say all of it.

use std::path::Path;

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use crate::{
    config::{MASKED, written},
    model::OURS,
    proxy::role::Handle,
    wire::config::Config,
};

/// In which form.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    /// `toml`, the default, or `json`; without it `Accept` may say so.
    format: Option<String>,
}

/// The config in use. A refusal is one line of plain text.
pub(super) fn answer(handle: &Handle, form: &Form, fields: &HeaderMap) -> Response {
    let json = match form.format.as_deref() {
        Some("json") => true,
        Some("toml") => false,
        Some(other) => {
            let why = format!("there is no format {other:?}: ask for `toml` or `json`\n");
            return (StatusCode::BAD_REQUEST, why).into_response();
        }
        None => wants_json(fields),
    };
    let (config, in_use) = handle.in_use();
    // Paths of the file count from where the process was started.
    let from = std::env::current_dir().unwrap_or_else(|_| Path::new("").to_owned());
    let written = written(&config, &from);
    if !json {
        let head = format!(
            "# What this proxy goes by, defaults included: config {} of process {} ({OURS}), in use since {}.\n\
             # Where a secret would be stands \"{MASKED}\". What operators have said besides is not in it.\n\n",
            in_use.generation,
            std::process::id(),
            in_use.since,
        );
        return ([(header::CONTENT_TYPE, "application/toml")], format!("{head}{written}")).into_response();
    }
    match serde_json::to_value(&written) {
        Ok(config) => Json(Config { in_use, config }).into_response(),
        Err(error) => {
            tracing::error!(error = %error, "the config could not be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "the config could not be written\n").into_response()
        }
    }
}

/// Whoever says nothing, or takes anything, gets TOML.
fn wants_json(fields: &HeaderMap) -> bool {
    let accepts = fields.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepts
        .flat_map(|value| value.split(','))
        .map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    kinds
        .find(|kind| matches!(kind.as_str(), "application/json" | "application/toml"))
        .is_some_and(|kind| kind == "application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_for_those_who_name_it_first() {
        let wants =
            |accept: &str| wants_json(&[(header::ACCEPT, accept.parse().unwrap())].into_iter().collect());
        assert!(wants("application/json") && wants("text/html, Application/JSON;q=0.9, */*"));
        assert!(!wants("*/*") && !wants("application/toml, application/json") && !wants("text/plain"));
        assert!(!wants_json(&HeaderMap::new()));
    }
}
