//! One client connection: read a raw head, check it, serve the request, begin again.

use std::{
    future::poll_fn,
    net::SocketAddr,
    task::{Context, Poll, ready},
};

use tokio::{net::TcpStream, time::Instant};

use super::{
    exchange, respond,
    timers::Slot,
    wire::{Scratch, Wire},
    worker::Worker,
};
use crate::{
    clock,
    proxy::{
        answer::Answer,
        guard::{
            Refusal,
            head::{self, HeadLimits, Scan},
        },
        h1::Framing,
    },
};

/// Read at once of a head. Most come whole.
const HEAD_READ: usize = 16 * 1024;

/// So much of what a client sends before it has its answer is read, only to see whether it closes.
const WATCHED: usize = 4 * 1024;

/// The client's end.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) wire: Wire,
    pub(super) peer: SocketAddr,
    /// Place of the listener.
    pub(super) listener: usize,
    pub(super) slot: Slot,
}

/// How a connection goes on after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// With the next request.
    Next,
    /// It is closed.
    Close,
    /// It is closed once the client has taken the answer, although it may not have been listened to.
    Linger,
    /// It is reset.
    Cut,
}

/// How reading a head ended.
#[derive(Debug)]
enum Read {
    /// It is complete, and well.
    Head(Vec<u8>, Framing),
    /// The client closed, was idle for too long, or we stop: nothing to answer.
    Over,
    /// It is not to be served.
    Refused(Refusal),
}

impl Client {
    pub(super) fn new(worker: &Worker, listener: usize, tcp: TcpStream, peer: SocketAddr) -> Self {
        Self { wire: Wire::new(tcp), peer, listener, slot: worker.timers.slot() }
    }

    /// Completes when the client has closed while its answer is waited for. What it sends meanwhile is kept, as far as
    /// that is little; after that its closing is not seen.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> Poll<()> {
        while self.wire.ahead.len() < WATCHED {
            match ready!(self.wire.poll_ahead(cx, scratch, WATCHED)) {
                Ok(read) if read > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// How to close when the last answer is out: what is unread would reset the connection, and the answer with it.
    pub(super) fn close(&self) -> After {
        let readable =
            self.wire.tcp.poll_read_ready(&mut Context::from_waker(std::task::Waker::noop())).is_ready();
        if readable || !self.wire.ahead.is_empty() { After::Linger } else { After::Close }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(worker: &Worker, listener: usize, tcp: TcpStream, peer: SocketAddr) {
    let mut client = Client::new(worker, listener, tcp, peer);
    let mut first = true;
    loop {
        let after = match read_head(worker, &mut client, first).await {
            // Boxed: a connection that waits for its next request is small.
            Read::Head(head, framing) => Box::pin(exchange::run(worker, &mut client, head, framing)).await,
            Read::Over => After::Close,
            Read::Refused(refusal) => {
                Box::pin(respond::refuse(worker, &mut client, &Answer::Refused(refusal))).await;
                After::Linger
            }
        };
        match after {
            After::Next => first = false,
            After::Close => return,
            After::Linger => return Box::pin(client.wire.linger(&worker.scratch)).await,
            After::Cut => return client.wire.cut(),
        }
    }
}

/// Tells a connection too many that it is one.
pub(super) async fn turn_away(worker: &Worker, listener: usize, tcp: TcpStream, peer: SocketAddr) {
    let mut client = Client::new(worker, listener, tcp, peer);
    respond::refuse(worker, &mut client, &Answer::Busy).await;
    client.wire.linger(&worker.scratch).await;
}

/// Reads until a head is complete, and checks it.
async fn read_head(worker: &Worker, client: &mut Client, first: bool) -> Read {
    let (limits, header_timeout, patience) = {
        let snapshot = worker.shared.live.peek();
        let limits = &snapshot.limits;
        // Between two requests a client may be idle for longer than it may take over a head.
        let patience = if first { limits.header_timeout } else { limits.keep_alive };
        (HeadLimits { bytes: limits.header_bytes, fields: limits.headers }, limits.header_timeout, patience)
    };
    let mut scanned = 0;
    let mut idle: Option<Instant> = None;
    let mut late: Option<Instant> = None;
    poll_fn(|cx| {
        loop {
            // RFC 9112 §2.2: an empty line before the request line is passed over. It begins no request.
            while client.wire.ahead.starts_with(b"\r\n") {
                client.wire.used(2);
            }
            match head::scan(&client.wire.ahead, scanned, limits) {
                Ok(Scan::Complete(end)) => return Poll::Ready(complete(&mut client.wire, end, limits)),
                Ok(Scan::More) => scanned = client.wire.ahead.len(),
                Err(refusal) => return Poll::Ready(Read::Refused(refusal)),
            }
            match client.wire.poll_ahead(cx, &worker.scratch, HEAD_READ) {
                Poll::Ready(Ok(read)) if read > 0 => continue,
                Poll::Ready(_) => return Poll::Ready(Read::Over),
                Poll::Pending => {}
            }
            let now = clock::now();
            if client.wire.ahead.is_empty() {
                if worker.is_stopping() {
                    return Poll::Ready(Read::Over);
                }
                ready!(client.slot.poll(cx, *idle.get_or_insert(now + patience), now));
                return Poll::Ready(Read::Over);
            }
            ready!(client.slot.poll(cx, *late.get_or_insert(now + header_timeout), now));
            return Poll::Ready(Read::Refused(Refusal::HeadTooSlow));
        }
    })
    .await
}

fn complete(wire: &mut Wire, end: usize, limits: HeadLimits) -> Read {
    let mut head = std::mem::take(&mut wire.ahead);
    if end < head.len() {
        wire.ahead = head.split_off(end);
    }
    match head::check(&head, limits) {
        Ok(framing) => Read::Head(head, framing),
        Err(refusal) => Read::Refused(refusal),
    }
}
