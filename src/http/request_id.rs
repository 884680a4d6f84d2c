//! Every request has an id: the caller's if it is a good one, else a new one. It is in logs and error bodies.

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};

use crate::{model::RequestId, wire::headers};

/// The request's id, in its extensions.
#[derive(Debug, Clone)]
pub struct RequestIdLayerState(pub RequestId);

/// Middleware: puts the id into the request's extensions and onto the answer.
pub async fn request_id(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(headers::REQUEST_ID).and_then(|v| v.to_str().ok());
    let id = given.and_then(|text| RequestId::parse(text).ok()).unwrap_or_else(RequestId::random);
    request.extensions_mut().insert(RequestIdLayerState(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().entry(HeaderName::from_static(headers::REQUEST_ID)).or_insert(value);
    }
    response
}
