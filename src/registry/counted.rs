//! What is counted of every request: by API, by what it is, and, of those that were turned away, why.

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use prometheus::{HistogramVec, IntCounterVec};

use crate::{
    clock,
    model::OURS,
    telemetry::{Metrics, MetricsError, names},
};

/// Upper bounds of the answer times, in seconds.
const BOUNDS: &[f64] = &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

/// The counters. Cheap to clone.
#[derive(Clone)]
pub(super) struct HttpMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    of_api: IntCounterVec,
    seconds_of_api: HistogramVec,
    refused: IntCounterVec,
}

impl HttpMetrics {
    pub(super) fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        let build = metrics.gauges(names::BUILD_INFO)?;
        build.with_label_values(&["registry", OURS]).set(1);
        Ok(Self {
            requests: metrics.counters(names::HTTP_REQUESTS)?,
            seconds: metrics.histograms(names::HTTP_SECONDS, BOUNDS)?,
            of_api: metrics.counters(names::REGISTRY_REQUESTS)?,
            seconds_of_api: metrics.histograms(names::REGISTRY_SECONDS, BOUNDS)?,
            refused: metrics.counters(names::REGISTRY_REFUSED)?,
        })
    }

    fn answered(&self, (api, class): (&str, &str), status: StatusCode, seconds: f64) {
        let group = match status.as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.requests.with_label_values(&["registry", group]).inc();
        self.seconds.with_label_values(&["registry"]).observe(seconds);
        self.of_api.with_label_values(&[api, class, group]).inc();
        self.seconds_of_api.with_label_values(&[api, class]).observe(seconds);
        if let Some(reason) = refused(status) {
            self.refused.with_label_values(&[api, reason]).inc();
        }
    }
}

/// Counts a request when its answer begins; what a long body takes is not in it.
pub(super) async fn measure(State(metrics): State<HttpMetrics>, request: Request, next: Next) -> Response {
    let began = clock::now();
    let kind = kind(request.method(), request.uri().path());
    let response = next.run(request).await;
    metrics.answered(kind, response.status(), (clock::now() - began).as_secs_f64());
    response
}

/// The API, and what is done through it.
fn kind(method: &Method, path: &str) -> (&'static str, &'static str) {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let class = if reads { "read" } else { "write" };
    let below =
        |folder: &str| path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    if below("/v2") {
        // A session's `GET` is a part of its upload.
        let class = if path.contains("/blobs/uploads") {
            "upload"
        } else if path.contains("/blobs/") && reads {
            "blob"
        } else {
            class
        };
        ("oci", class)
    } else if below("/registry") || matches!(path, "/" | "/log") {
        ("vendor", class)
    } else if below("/replication") {
        ("replication", if path.contains("/blobs/") { "blob" } else { class })
    } else {
        ("other", class)
    }
}

/// Why a request was turned away. What is not there, or makes no sense, was answered and not refused.
fn refused(status: StatusCode) -> Option<&'static str> {
    Some(match status {
        StatusCode::FORBIDDEN => "denied",
        StatusCode::REQUEST_TIMEOUT => "slow",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        StatusCode::TOO_MANY_REQUESTS => "busy",
        StatusCode::SERVICE_UNAVAILABLE => "not_now",
        StatusCode::INSUFFICIENT_STORAGE => "full",
        status if status.is_server_error() => "failed",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_api_and_by_what_they_do() {
        for (method, path, expected) in [
            ("GET", "/v2/", ("oci", "read")),
            ("HEAD", "/v2/mac/sonoma/manifests/v1", ("oci", "read")),
            ("PUT", "/v2/mac/sonoma/manifests/v1", ("oci", "write")),
            ("GET", "/v2/mac/sonoma/blobs/sha256:00", ("oci", "blob")),
            ("DELETE", "/v2/mac/sonoma/blobs/sha256:00", ("oci", "write")),
            ("PATCH", "/v2/a/blobs/uploads/r1.x", ("oci", "upload")),
            ("GET", "/v2/a/blobs/uploads/r1.x", ("oci", "upload")),
            ("GET", "/registry/v2/vm", ("vendor", "read")),
            ("DELETE", "/registry/revert", ("vendor", "write")),
            ("POST", "/log", ("vendor", "write")),
            ("GET", "/replication/v1/log", ("replication", "read")),
            ("GET", "/replication/v1/blobs/sha256:00", ("replication", "blob")),
            ("GET", "/v2x", ("other", "read")),
            ("GET", "/readyz", ("other", "read")),
        ] {
            let method = method.parse().unwrap();
            assert_eq!(kind(&method, path), expected, "{method} {path}");
        }
    }
}
