//! Answers of ours.

use std::{io::Write, time::Duration};

use super::{connection::Client, worker::Worker};
use crate::{
    clock,
    config::proxy::{Kind, Rule},
    model::RequestId,
    proxy::{
        answer::{self, Answer, Rendered},
        ctx::{Ctx, End},
        forward::{self, Then},
        record,
        snapshot::Held,
    },
};

/// Answers what never became a request. Best effort: the connection is closed after it anyway.
pub(super) async fn refuse(worker: &Worker, client: &mut Client, refused: &Answer) {
    let door = &client.from.door;
    let (snapshot, place) = door.find(Held::of(worker.shared.live.load()));
    let at = snapshot.listeners.get(place);
    let (peer, request, to) = (client.from.peer.ip(), RequestId::random(), worker.shared.records());
    record::refused(&door.listener, peer, refused, &request, &snapshot, to);
    let service = at.and_then(|at| at.rules.iter().rev().find_map(Rule::service));
    let service = service.and_then(|place| snapshot.services.get(place));
    let kind = service.map_or(Kind::Controller, |service| service.kind);
    let path = if kind == Kind::Registry { "/v2/" } else { "/" };
    let rendered = answer::render(refused, kind, path, &request);
    let bytes = whole(&rendered, Then::Close, false);
    if client.wire.stream.write_all(&bytes, snapshot.limits.header_timeout).await.is_err() {
        tracing::debug!(client.address = %client.from.peer, "client did not take its refusal");
    }
}

/// Answers a request. Gives the bytes of the body that went out.
pub(super) async fn respond(client: &mut Client, ctx: &mut Ctx, ours: Answer, then: Then) -> u64 {
    let rendered = answer::render(&ours, ctx.kind(), &ctx.path, &ctx.request);
    ctx.ours = Some(ours);
    ctx.first_byte = Some(clock::now());
    let bodiless = ctx.method == ::http::Method::HEAD;
    let bytes = whole(&rendered, then, bodiless);
    if client.wire.stream.write_all(&bytes, patience(ctx)).await.is_err() {
        ctx.end = End::ClientGone;
    }
    if bodiless { 0 } else { rendered.body.len() as u64 }
}

/// How long a client may take over a piece of an answer.
pub(super) fn patience(ctx: &Ctx) -> Duration {
    match ctx.service() {
        Some(service) => forward::limits(ctx.route, service.timeouts, None).write,
        None => ctx.snapshot.limits.header_timeout,
    }
}

fn whole(rendered: &Rendered, then: Then, bodiless: bool) -> Vec<u8> {
    let status = ::http::StatusCode::from_u16(rendered.status).ok();
    let reason = status.and_then(|status| status.canonical_reason()).unwrap_or("");
    let mut out = Vec::with_capacity(512 + rendered.body.len());
    // Writing to memory does not fail.
    drop(write!(out, "HTTP/1.1 {} {reason}\r\n", rendered.status));
    for (name, value) in &rendered.headers {
        drop(write!(out, "{name}: {value}\r\n"));
    }
    drop(write!(out, "content-length: {}\r\n", rendered.body.len()));
    if then == Then::Close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !bodiless {
        out.extend_from_slice(&rendered.body);
    }
    out
}
