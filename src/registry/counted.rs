//! What is counted of every request: by API, by what it is, and, of those that were turned away, why.

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use prometheus::{HistogramVec, IntCounter, IntCounterVec};
use serde::Serialize;

use crate::{
    clock,
    http::{AccessLog, Peer, RequestIdLayerState},
    model::{OURS, Timestamp},
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
    log: AccessLog,
    dropped: IntCounter,
}

/// One line of the access log, in the words of the proxy's.
#[derive(Serialize)]
struct Line<'a> {
    at: Timestamp,
    request: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    /// Whom a proxy in front came for, in its words.
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded_for: Option<&'a str>,
    method: &'a str,
    /// Without the query: codes and tokens travel there.
    path: &'a str,
    api: &'a str,
    class: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// Of the bodies, as far as they were announced.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_sent: Option<u64>,
    first_byte_ms: f64,
}

impl HttpMetrics {
    pub(super) fn new(metrics: &Metrics, log: AccessLog) -> Result<Self, MetricsError> {
        let build = metrics.gauges(names::BUILD_INFO)?;
        build.with_label_values(&["registry", OURS]).set(1);
        Ok(Self {
            requests: metrics.counters(names::HTTP_REQUESTS)?,
            seconds: metrics.histograms(names::HTTP_SECONDS, BOUNDS)?,
            of_api: metrics.counters(names::REGISTRY_REQUESTS)?,
            seconds_of_api: metrics.histograms(names::REGISTRY_SECONDS, BOUNDS)?,
            refused: metrics.counters(names::REGISTRY_REFUSED)?,
            log,
            dropped: metrics.counters(names::REGISTRY_ACCESS_DROPPED)?.with_label_values(&[] as &[&str]),
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

/// Counts a request when its answer begins, and writes its line; what a long body takes is not in it.
pub(super) async fn measure(State(metrics): State<HttpMetrics>, request: Request, next: Next) -> Response {
    let began = clock::now();
    let (api, class) = kind(request.method(), request.uri().path());
    let asked = metrics.log.is_on().then(|| Asked::of(&request));
    let response = next.run(request).await;
    let took = (clock::now() - began).as_secs_f64();
    metrics.answered((api, class), response.status(), took);
    let Some(asked) = asked else { return response };
    let line = || {
        let line = Line {
            at: clock::wall(),
            request: &asked.id,
            client: asked.client,
            forwarded_for: asked.forwarded_for.as_deref(),
            method: asked.method.as_str(),
            path: &asked.path,
            api,
            class,
            status: response.status().as_u16(),
            reason: refused(response.status()),
            bytes_received: asked.length,
            bytes_sent: length(response.headers()),
            first_byte_ms: took * 1000.0,
        };
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        text
    };
    metrics.log.write(line, || metrics.dropped.inc());
    response
}

/// What its line says of a request, taken before the handler takes it.
struct Asked {
    id: String,
    client: Option<String>,
    forwarded_for: Option<String>,
    method: Method,
    path: String,
    length: Option<u64>,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let extensions = request.extensions();
        let peer = extensions.get::<ConnectInfo<Peer>>();
        let short = |text: &str| text.chars().take(PATH).collect::<String>();
        let forwarded = request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok());
        Self {
            id: extensions.get::<RequestIdLayerState>().map(|id| id.0.to_string()).unwrap_or_default(),
            client: peer.map(|peer| peer.0.address.ip().to_canonical().to_string()),
            forwarded_for: forwarded.map(short),
            method: request.method().clone(),
            path: short(request.uri().path()),
            length: length(request.headers()),
        }
    }
}

/// Characters of a path, or of a header, that a line has; names and tags of the longest kind fit.
const PATH: usize = 1024;

/// The body's length, as it was announced.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
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
