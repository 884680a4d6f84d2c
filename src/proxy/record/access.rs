//! The access log: one JSON line per request.

use std::net::IpAddr;

use serde::Serialize;
use tokio::time::Instant;

use super::Bytes;
use crate::{
    model::{Position, RequestId, Timestamp},
    proxy::{answer::Answer, choose::Stale, ctx::Ctx},
};

#[derive(Serialize)]
struct Line<'a> {
    at: Timestamp,
    request: &'a str,
    /// Of the trace that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span: Option<String>,
    listener: &'a str,
    client: String,
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsLine<'a>>,
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    class: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    attempts: Vec<AttemptLine<'a>>,
    status: Option<u16>,
    answered_by: &'a str,
    end: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The word for an answer of ours, as in metrics and in its body.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<&'a str>,
    bytes_received: u64,
    bytes_sent: u64,
    held_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_ms: Option<f64>,
    total_ms: f64,
}

#[derive(Serialize)]
struct TlsLine<'a> {
    version: &'a str,
    resumed: bool,
    /// What became of the client's certificate, if it was asked for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    verify: Option<String>,
    /// Whose it says it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
}

#[derive(Serialize)]
struct AttemptLine<'a> {
    upstream: &'a str,
    why: String,
    end: &'a str,
    /// Over a connection that had been used before.
    reused: bool,
    /// Bytes of head and body that went out, and that came back.
    sent: u64,
    received: u64,
    /// The whole request went out.
    whole: bool,
}

/// The line of a request. Without the query: codes and tokens travel there.
pub fn line(ctx: &Ctx, bytes: Bytes, now: Instant, at: Timestamp) -> Vec<u8> {
    let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
    let last = ctx.attempts.last();
    let line = Line {
        at,
        request: ctx.request.as_str(),
        trace: ctx.trace.as_ref().map(|trace| format!("{:032x}", trace.id)),
        span: ctx.trace.as_ref().and_then(|trace| Some(format!("{:016x}", trace.span?))),
        listener: ctx.listener_name(),
        client: ctx.client.ip.to_string(),
        tls: ctx.secured.as_ref().map(|secured| TlsLine {
            version: secured.version,
            resumed: secured.resumed,
            verify: secured.peer.as_ref().map(|peer| peer.verify.value()),
            subject: secured.peer.as_ref().and_then(|peer| peer.subject.as_deref()),
        }),
        protocol: ctx.protocol.as_str(),
        method: ctx.method.as_str(),
        path: &ctx.path,
        service: ctx.service().map(|service| service.name.as_str()),
        class: ctx.route.class.as_str(),
        upstream: last.map(|note| ctx.upstream_name(note.place)),
        why: last.map(|note| note.why.to_string()),
        attempts: ctx
            .attempts
            .iter()
            .map(|note| AttemptLine {
                upstream: ctx.upstream_name(note.place),
                why: note.why.to_string(),
                end: note.end,
                reused: note.traffic.reused,
                sent: note.traffic.sent,
                received: note.traffic.received,
                whole: note.traffic.whole,
            })
            .collect(),
        status: ctx.status(),
        answered_by: match (&ctx.ours, ctx.status()) {
            (Some(_), _) => "proxy",
            (None, Some(_)) => "upstream",
            (None, None) => "nobody",
        },
        end: ctx.end.as_str(),
        error: ctx.ours.as_ref().map(ToString::to_string),
        reason: ctx.ours.as_ref().map(Answer::code),
        position: ctx.said.position.filter(|_| ctx.ours.is_none()),
        stale: ctx.stale.map(Stale::as_str),
        bytes_received: bytes.received,
        bytes_sent: bytes.sent,
        held_ms: u64::try_from(ctx.held.as_millis()).unwrap_or(u64::MAX),
        connect_ms: ctx.connect.map(|took| took.as_secs_f64() * 1000.0),
        first_byte_ms: ctx.first_byte.map(|first| ms(ctx.started, first)),
        total_ms: ms(ctx.started, now),
    };
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}

/// What never became a request: its head was refused, or its connection.
#[derive(Serialize)]
struct RefusedLine<'a> {
    at: Timestamp,
    request: &'a str,
    listener: &'a str,
    client: String,
    status: u16,
    answered_by: &'a str,
    end: &'a str,
    error: String,
    reason: &'a str,
}

/// The line of an answer of ours to what never became a request.
pub fn refused(
    listener: &str,
    client: IpAddr,
    answer: &Answer,
    request: &RequestId,
    at: Timestamp,
) -> Vec<u8> {
    let line = RefusedLine {
        at,
        request: request.as_str(),
        listener,
        client: client.to_canonical().to_string(),
        status: answer.status(),
        answered_by: "proxy",
        end: "refused",
        error: answer.to_string(),
        reason: answer.code(),
    };
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}
