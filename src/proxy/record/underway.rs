//! Lines of the access log about what is not over yet: transfers that go on for long.

use serde::Serialize;

use crate::{model::Timestamp, wire::transfers::Transfer};

#[derive(Serialize)]
struct Line<'a> {
    at: Timestamp,
    /// The line of a request that is over has none.
    event: &'a str,
    request: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    listener: &'a str,
    client: &'a str,
    method: &'a str,
    path: &'a str,
    service: &'a str,
    class: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    direction: &'a str,
    bytes_received: u64,
    bytes_sent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    rate: u64,
    waits_for: &'a str,
    total_ms: f64,
}

/// The line of a transfer: `event` is `start` or `progress`.
pub fn line(event: &str, transfer: &Transfer, trace: Option<u128>, at: Timestamp) -> Vec<u8> {
    let line = Line {
        at,
        event,
        request: &transfer.request,
        trace: trace.map(|trace| format!("{trace:032x}")),
        listener: &transfer.listener,
        client: &transfer.client,
        method: &transfer.method,
        path: &transfer.path,
        service: &transfer.service,
        class: transfer.class.as_str(),
        upstream: transfer.upstream.as_deref(),
        direction: &transfer.direction,
        bytes_received: transfer.bytes_received,
        bytes_sent: transfer.bytes_sent,
        length: transfer.length,
        rate: transfer.rate,
        waits_for: &transfer.waits_for,
        total_ms: transfer.seconds * 1000.0,
    };
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}
