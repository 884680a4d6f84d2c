//! One client connection: read a raw head, check it, hand the request to Pingora, begin again.

use std::{net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use pingora_core::{
    apps::HttpServerApp,
    protocols::{Stream, http::ServerSession},
};
use pingora_proxy::HttpProxy;
use tokio::{net::TcpStream, sync::watch, time::timeout};

use super::{
    client::{Client, ClientStream, Kept},
    stock::{Handed, Stock},
};
use crate::{
    clock,
    config::proxy::{Kind, Limits},
    model::RequestId,
    proxy::{
        answer::{self, Answer},
        ctx::Arrival,
        guard::{
            Refusal,
            head::{self, Body, HeadLimits, Scan},
        },
        record::ProxyMetrics,
        snapshot::{Live, Snapshot},
    },
    supervise::Stop,
};

/// What every connection needs.
pub(super) struct Shared {
    pub(super) live: Arc<Live>,
    pub(super) app: Arc<HttpProxy<Stock>>,
    pub(super) metrics: ProxyMetrics,
    pub(super) stop: Stop,
    /// Pingora's own word for stopping; nobody ever sends on it, for a stop is seen between two requests.
    pub(super) running: watch::Receiver<bool>,
}

/// How reading a head ended.
enum Read {
    /// It is complete. So many bytes belong to it, with what came of the body already; the rest, if any,
    /// is the next request.
    Request { bytes: usize },
    /// The client closed, was idle for too long, or we stop: nothing to answer.
    Over,
    /// It is not to be served.
    Refused(Refusal),
}

/// Serves a connection to its end.
pub(super) async fn serve(shared: Arc<Shared>, listener: usize, tcp: TcpStream, peer: SocketAddr) {
    let client = Client::new(tcp, peer);
    let mut stream: Stream = Box::new(ClientStream::new(client.clone()));
    let mut first = true;
    let mut bytes = BytesMut::new();
    loop {
        let limits = shared.live.load().limits.clone();
        let read = read_head(&shared, &client, &mut bytes, &limits, first).await;
        // Loaded after the wait: a request is served under the configuration of its own time.
        let snapshot = shared.live.load();
        let request = match read {
            Read::Request { bytes: count } => bytes.split_to(count),
            Read::Over => return,
            Read::Refused(refusal) => {
                refuse(&shared, &snapshot, listener, &client, &Answer::Refused(refusal)).await;
                return client.finish().await;
            }
        };
        client.set_whole(false);
        let keep = snapshot.limits.keep_alive.as_secs();
        let arrival = Arrival { snapshot, listener, peer: client.peer(), started: clock::now() };
        let handed: Kept = Box::new(Handed { client: client.clone(), arrival });
        let mut session = ServerSession::new_http1(stream);
        session.set_pipelined_prefix(request);
        session.set_connection_user_context(Some(handed));
        session.set_keepalive(if shared.stop.is_requested() { None } else { Some(keep) });
        match shared.app.process_new_http(session, &shared.running).await {
            Some(reused) => stream = reused.consume().0,
            None => return client.finish().await,
        }
        first = false;
    }
}

/// Reads until the head is complete and checks it.
async fn read_head(
    shared: &Shared,
    client: &Client,
    bytes: &mut BytesMut,
    limits: &Limits,
    first: bool,
) -> Read {
    let head_limits = HeadLimits { bytes: limits.header_bytes, fields: limits.headers };
    // Between two requests a client may be idle for longer than it may take over a head.
    let patience = if first { limits.header_timeout } else { limits.keep_alive };
    loop {
        // RFC 9112 §2.2: an empty line before the request line is passed over. It begins no request.
        if bytes.starts_with(b"\r\n") {
            drop(bytes.split_to(2));
        }
        if !bytes.is_empty() {
            break;
        }
        let begun = tokio::select! {
            biased;
            begun = timeout(patience, client.read(bytes)) => begun,
            () = shared.stop.requested() => return Read::Over,
        };
        match begun {
            Ok(Ok(n)) if n > 0 => {}
            _ => return Read::Over,
        }
    }
    let rest = async {
        let mut scanned = 0;
        loop {
            match head::scan(bytes, scanned, head_limits) {
                Ok(Scan::Complete(end)) => {
                    let head = bytes.get(..end).unwrap_or_default();
                    return match head::check(head, head_limits) {
                        Ok(body) => Read::Request { bytes: end + at_hand(body, bytes.len() - end) },
                        Err(refusal) => Read::Refused(refusal),
                    };
                }
                Ok(Scan::More) => scanned = bytes.len(),
                Err(refusal) => return Read::Refused(refusal),
            }
            match client.read(bytes).await {
                Ok(n) if n > 0 => {}
                _ => return Read::Over,
            }
        }
    };
    timeout(limits.header_timeout, rest).await.unwrap_or(Read::Refused(Refusal::HeadTooSlow))
}

/// How many of the bytes behind the head belong to the body. Where chunks end is not known here: then all do.
fn at_hand(body: Body, behind: usize) -> usize {
    match body {
        Body::Bytes(length) => usize::try_from(length).map_or(behind, |length| length.min(behind)),
        Body::Chunks => behind,
    }
}

/// Answers what never became a request. Best effort: the connection is closed after it anyway.
pub(super) async fn refuse(
    shared: &Shared,
    snapshot: &Snapshot,
    listener: usize,
    client: &Client,
    answer: &Answer,
) {
    let at = snapshot.listeners.get(listener);
    shared.metrics.refused(at.map_or("", |at| &at.name), answer.code());
    let service = at.and_then(|at| at.rules.last()).and_then(|rule| snapshot.services.get(rule.service));
    let kind = service.map_or(Kind::Controller, |service| service.kind);
    let path = if kind == Kind::Registry { "/v2/" } else { "/" };
    let rendered = answer::render(answer, kind, path, &RequestId::random());
    let mut head = format!("HTTP/1.1 {} {}\r\n", rendered.status, reason(rendered.status));
    for (name, value) in &rendered.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", rendered.body.len()));
    let mut whole = head.into_bytes();
    whole.extend_from_slice(&rendered.body);
    let limit = snapshot.limits.header_timeout;
    if !matches!(timeout(limit, client.write_all(&whole)).await, Ok(Ok(()))) {
        tracing::debug!(client.address = %client.peer(), "client did not take its refusal");
    }
}

fn reason(status: u16) -> &'static str {
    ::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("")
}
