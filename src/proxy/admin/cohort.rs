//! `POST /admin/v1/services/NAME/cohort`: an operator says which version agents are served from.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{
    model::ServerVersion,
    proxy::{cohort::Refused, role::Handle},
    telemetry,
    wire::upstreams::CohortOrder,
};

/// Answers with how it stands then. A refusal is one line of plain text.
pub(super) async fn order(handle: &Handle, name: &str, body: &[u8]) -> Response {
    let refuse = |status: StatusCode, why: String| (status, format!("{why}\n")).into_response();
    let order: CohortOrder = match serde_json::from_slice(body) {
        Ok(order) => order,
        Err(error) => {
            let right = r#"send `{"version":"1.51.2-5e6f"}`, or `{}` to go by the rule again"#;
            return refuse(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}; {right}"));
        }
    };
    let version = match order.version.as_deref().map(|text| (text, ServerVersion::parse(text))) {
        Some((text, None)) => {
            return refuse(StatusCode::BAD_REQUEST, format!("{text:?} is no version"));
        }
        Some((_, version)) => version,
        None => None,
    };
    let snapshot = handle.live.load();
    let Some(service) = snapshot.services.iter().find(|service| service.name.as_str() == name) else {
        return refuse(StatusCode::NOT_FOUND, format!("there is no service {name:?}"));
    };
    let Some(cohort) = &service.cohort else {
        return refuse(StatusCode::CONFLICT, format!("service `{name}` has no `cohorts = true`"));
    };
    match cohort.order(service, version, &handle.metrics).await {
        Ok(()) => Json(cohort.view(service)).into_response(),
        Err(nobody @ Refused::NobodyIs { .. }) => refuse(StatusCode::CONFLICT, nobody.to_string()),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, telemetry::chain(&error)),
    }
}
