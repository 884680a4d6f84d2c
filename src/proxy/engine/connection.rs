//! One client connection: read a raw head, check it, serve the request, begin again.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{net::TcpStream, time::Instant};

use super::{
    entry::{self, Entered},
    exchange::{self, Begun},
    http2::{self, Begins},
    listeners::Door,
    respond, secure,
    stream::Stream,
    timers::Slot,
    wire::{Scratch, Wire},
    worker::Worker,
};
use crate::{
    clock,
    model::proxy_protocol::Ends,
    proxy::{
        answer::Answer,
        boxed::boxed,
        guard::{
            Refusal,
            head::{self, HeadLimits, Scan},
        },
        identify::Secured,
    },
};

/// Read at once of a head. Most come whole.
const HEAD_READ: usize = 16 * 1024;

/// Empty lines before a request at most, at once.
const EMPTY_LINES: usize = 4;

/// So much of what a client sends before it has its answer is read, only to see whether it closes.
const WATCHED: usize = 4 * 1024;

/// The client's end.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) wire: Wire,
    pub(super) from: Arc<From>,
    pub(super) slot: Slot,
}

/// Where a connection comes from.
#[derive(Debug)]
pub(super) struct From {
    /// The other end, or whom the PROXY header names.
    pub(super) peer: SocketAddr,
    /// Its address, as every request of it is forwarded for.
    pub(super) address: String,
    /// There was a PROXY header and it named nobody.
    pub(super) unnamed: bool,
    /// Where the client connected to, if the PROXY header says so; else it is our end.
    pub(super) to: Option<SocketAddr>,
    /// Where it came in.
    pub(super) door: Arc<Door>,
    /// What its TLS says of the client.
    pub(super) secured: Option<Arc<Secured>>,
    /// What it has taken places of; nothing, if it was not let in.
    pub(super) entered: Option<Entered>,
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
    /// It is complete, and a request has begun.
    Begun(Begun),
    /// The client closed, was idle for too long, or we stop: nothing to answer.
    Over,
    /// It is not to be served.
    Refused(Refusal),
}

impl From {
    pub(super) fn new(door: Arc<Door>, peer: SocketAddr, entered: Option<Entered>) -> Self {
        let address = peer.ip().to_canonical().to_string();
        Self { peer, address, unnamed: false, to: None, door, secured: None, entered }
    }

    /// Somebody else than the one who connected.
    pub(super) fn is_of(&mut self, Ends { source, destination }: Ends) {
        let entered = self.entered.take();
        *self = Self { to: Some(destination), ..Self::new(self.door.clone(), source, entered) };
    }
}

impl Client {
    pub(super) fn new(stream: Stream, from: Arc<From>, slot: Slot) -> Self {
        Self { wire: Wire::new(stream), from, slot }
    }

    /// Completes when the client has closed while its answer is waited for. What it sends meanwhile is kept, as far as
    /// that is little; after that its closing is not seen.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> Poll<()> {
        if let Some(gone) = self.wire.stream.poll_refuses(cx) {
            return gone;
        }
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
        let more = self.wire.stream.is_readable() || !self.wire.ahead.is_empty();
        if more { After::Linger } else { After::Close }
    }
}

/// A connection that is open, and what is spoken on it.
#[derive(Debug)]
pub(super) enum Opened {
    /// One request after the other.
    Http1(Client),
    /// Many at a time.
    Http2(Client),
    /// Nothing: it is not served.
    Not,
}

/// Opens a connection: PROXY header, TLS, and what is spoken inside.
pub(super) async fn open(worker: Arc<Worker>, mut from: From, tcp: TcpStream) -> Opened {
    let (worker, slot) = (&*worker, worker.timers.slot());
    match entry::named(worker, &tcp, &slot, &mut from).await {
        Ok(true) => {}
        Ok(false) => return Opened::Not,
        Err(why) => {
            entry::turn_away(worker, from, tcp, why).await;
            return Opened::Not;
        }
    }
    let Some((stream, asks)) = secure::begin(worker, &from.door, tcp) else { return Opened::Not };
    let mut client = Client::new(stream, Arc::new(from), slot);
    if let Some(asks) = asks
        && !secure::shake(worker, &mut client, &asks).await
    {
        client.wire.linger(&worker.scratch).await;
        return Opened::Not;
    }
    match http2::begins(worker, &mut client).await {
        Begins::Other => Opened::Http1(client),
        Begins::Http2 => Opened::Http2(client),
        Begins::Over => Opened::Not,
    }
}

/// Serves a connection to its end. What it takes to open it is `opening`, boxed, and gone when it is open: a connection
/// that waits is small.
pub(super) async fn serve(worker: &Worker, opening: Pin<Box<impl Future<Output = Opened>>>) {
    let mut client = match opening.await {
        Opened::Http1(client) => client,
        // Boxed: what such a connection carries is large.
        Opened::Http2(client) => return Box::pin(http2::serve(worker, client)).await,
        Opened::Not => return,
    };
    let mut first = true;
    loop {
        let after = match read_head(worker, &mut client, first).await {
            // Boxed: a connection that waits for its next request is small.
            Read::Begun(begun) => Box::into_pin(boxed(|| exchange::run(worker, &mut client, begun))).await,
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
            After::Cut => return client.wire.stream.cut(),
        }
    }
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
            let empty = client.wire.ahead.chunks(2).take_while(|pair| *pair == b"\r\n").count();
            if empty > EMPTY_LINES {
                return Poll::Ready(Read::Refused(Refusal::BadRequestLine));
            }
            if empty > 0 {
                client.wire.used(empty * 2);
            }
            match head::scan(&client.wire.ahead, scanned, limits) {
                Ok(Scan::Complete(end)) => return Poll::Ready(ahead(worker, client, end, limits)),
                Ok(Scan::More) => scanned = client.wire.ahead.len(),
                Err(refusal) => return Poll::Ready(Read::Refused(refusal)),
            }
            let mut room = worker.scratch.lock();
            match client.wire.stream.poll_read(cx, &mut room, HEAD_READ) {
                Poll::Ready(Ok(read)) if read > 0 => {
                    // Nearly every head comes whole, and then needs no place to wait in.
                    if client.wire.ahead.is_empty()
                        && let Ok(Scan::Complete(end)) = head::scan(&room[..read], 0, limits)
                        && !room.starts_with(b"\r\n")
                    {
                        client.wire.ahead.extend_from_slice(&room[end..read]);
                        return Poll::Ready(begun(worker, client, &room[..end], limits));
                    }
                    client.wire.ahead.extend_from_slice(&room[..read]);
                    continue;
                }
                Poll::Ready(_) => return Poll::Ready(Read::Over),
                Poll::Pending => {}
            }
            drop(room);
            let now = clock::now();
            if client.wire.ahead.is_empty() {
                let Some(patience) = worker.patience(&client.from, patience, first) else {
                    return Poll::Ready(Read::Over);
                };
                ready!(client.slot.poll(cx, *idle.get_or_insert(now) + patience, now));
                return Poll::Ready(Read::Over);
            }
            ready!(client.slot.poll(cx, *late.get_or_insert(now + header_timeout), now));
            return Poll::Ready(Read::Refused(Refusal::HeadTooSlow));
        }
    })
    .await
}

/// Begins the request whose head is read ahead.
fn ahead(worker: &Worker, client: &mut Client, end: usize, limits: HeadLimits) -> Read {
    let ahead = std::mem::take(&mut client.wire.ahead);
    let (head, rest) = ahead.split_at_checked(end).unwrap_or((&ahead, &[]));
    client.wire.ahead.extend_from_slice(rest);
    begun(worker, client, head, limits)
}

fn begun(worker: &Worker, client: &Client, head: &[u8], limits: HeadLimits) -> Read {
    match exchange::begin(worker, &client.from, head, limits) {
        Ok(begun) => Read::Begun(begun),
        Err(refusal) => Read::Refused(refusal),
    }
}
