//! Drives one connection: takes in what comes, lets its streams go on, ends it.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream as _};
use h2::{
    Reason, RecvStream,
    server::{Connection, SendResponse},
};
use http::{Method, Request};
use tokio::time::Instant;

use super::{
    super::{
        connection::{Client, From},
        exchange, respond,
        stream::Stream,
        timers::Slot,
        wire::Wire,
        worker::Worker,
    },
    end::{End, PIECE},
    head,
    io::{Io, Shared},
};
use crate::{
    clock,
    proxy::{
        answer::Answer,
        guard::{Refusal, head::HeadLimits},
        record::metrics::Open,
    },
};

/// What a client may send of one request's body before it is taken. Full: it waits.
const STREAM_WINDOW: u32 = 512 * 1024;

/// And of all of a connection: so much of it may lie here. Streams whose upstreams take nothing hold up the others only
/// when there are several.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// The largest frame that is taken: the least that RFC 9113 §6.5.2 allows, which every client sends.
const FRAME: u32 = 16 * 1024;

/// What a field costs beside its text, RFC 9113 §6.5.2.
const FIELD: usize = 32;

/// A client that was told to go has so long to close once nothing is under way, unless somebody else goes on.
const LEAVE: Duration = Duration::from_secs(1);

/// When the connection is gone, its requests have so long to notice. Connecting to an upstream is not given up for it.
const OVER: Duration = Duration::from_secs(5);

/// While requests are under way, or nothing is waited for: looked at again.
const LONG: Duration = Duration::from_secs(3600);

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Requests are taken.
    Open,
    /// The client was told to send no more. What is under way ends, and then there is time until then, if it is known.
    Leaving(Option<Instant>),
    /// It was told that it is cut off, and has until then to hear it.
    Ending(Instant),
    /// There is no connection any more. What was under way has until then to notice.
    Over(Instant),
}

/// Limits of a connection, from the config of when it began.
#[derive(Debug, Clone, Copy)]
struct Limits {
    head: HeadLimits,
    streams: usize,
    header_timeout: Duration,
    keep_alive: Duration,
}

impl Limits {
    fn of(worker: &Worker) -> Self {
        let snapshot = worker.shared.live.peek();
        let limits = &snapshot.limits;
        Self {
            head: HeadLimits { bytes: limits.header_bytes, fields: limits.headers },
            streams: limits.streams,
            header_timeout: limits.header_timeout,
            keep_alive: limits.keep_alive,
        }
    }

    fn builder(&self) -> h2::server::Builder {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(number(self.streams))
            .max_header_list_size(number(self.head.bytes + self.head.fields * FIELD))
            .max_frame_size(FRAME)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(PIECE);
        builder
    }
}

/// Serves a connection of HTTP/2 to its end.
pub(in crate::proxy::engine) async fn serve(worker: &Worker, client: Client) {
    let Client { wire: Wire { stream, ahead }, mut from, slot } = client;
    // A stream cannot say where the client has connected to.
    if let (Some(from), Ok(local)) = (Arc::get_mut(&mut from), stream.local()) {
        from.to.get_or_insert(local);
    }
    let limits = Limits::of(worker);
    let io = Shared::new(stream, ahead);
    Serving { worker, from: &from, slot: &slot, limits, io: io.clone() }.run().await;
    let Some(Io { stream, ended, .. }) = io.into_inner() else { return };
    // With unread input the connection would be reset, and what was said last lost with it.
    if !ended {
        Box::pin(Wire::new(stream).linger(&worker.scratch)).await;
    }
}

struct Serving<'a> {
    worker: &'a Worker,
    from: &'a Arc<From>,
    slot: &'a Slot,
    limits: Limits,
    io: Shared,
}

impl Serving<'_> {
    async fn run(self) {
        let Some(connection) = self.handshake().await else { return };
        let under_way = self.worker.shared.metrics.streams(&self.from.door.listener);
        let start = |request, respond| {
            one(self.worker, self.from.clone(), self.limits.head, under_way.open(), request, respond)
        };
        let mut driven = Driven {
            serving: &self,
            connection,
            streams: FuturesUnordered::new(),
            phase: Phase::Open,
            // As for the first head of HTTP/1.1.
            idle_until: clock::now() + self.limits.header_timeout,
        };
        poll_fn(|cx| driven.poll(cx, &start)).await;
    }

    async fn handshake(&self) -> Option<Connection<Shared, Bytes>> {
        let mut handshake = pin!(self.limits.builder().handshake::<_, Bytes>(self.io.clone()));
        let until = clock::now() + self.limits.header_timeout;
        let made = poll_fn(|cx| {
            if let Poll::Ready(made) = handshake.as_mut().poll(cx) {
                return Poll::Ready(made.ok());
            }
            ready!(self.slot.poll(cx, until, clock::now()));
            Poll::Ready(None)
        });
        let made = made.await;
        if made.is_none() {
            self.count("h2-preface");
        }
        made
    }

    fn count(&self, reason: &str) {
        self.worker.shared.metrics.refused(&self.from.door.listener, reason);
    }
}

/// A connection and what is under way on it, in one task: a stream that has something to send and the connection that
/// sends it take one turn.
struct Driven<'a, F> {
    serving: &'a Serving<'a>,
    connection: Connection<Shared, Bytes>,
    streams: FuturesUnordered<F>,
    phase: Phase,
    /// A connection without requests is kept until then.
    idle_until: Instant,
}

impl<F: Future<Output = ()>> Driven<'_, F> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        start: &impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
    ) -> Poll<()> {
        let mut busy = !self.streams.is_empty();
        loop {
            // First those that go on; then what they wrote goes out, and what came is taken in.
            while let Poll::Ready(Some(())) = Pin::new(&mut self.streams).poll_next(cx) {}
            if !self.poll_accept(cx, start) {
                break;
            }
            busy = true;
        }
        let now = clock::now();
        if busy && self.streams.is_empty() {
            self.idle_until = now + self.serving.limits.keep_alive;
        }
        if self.look(now) {
            // What the client is told has to go out.
            cx.waker().wake_by_ref();
        }
        loop {
            let Some(until) = self.until(now) else { return Poll::Ready(()) };
            ready!(self.serving.slot.poll(cx, until, now));
            if !self.late(now) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
        }
    }

    /// Takes in what has come, and sends what is there to be sent. Whether a request has begun.
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        start: &impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
    ) -> bool {
        if matches!(self.phase, Phase::Over(_)) {
            return false;
        }
        let before = self.streams.len();
        while let Poll::Ready(next) = self.connection.poll_accept(cx) {
            match next {
                Some(Ok((request, respond))) => self.streams.push(start(request, respond)),
                ended => {
                    if let Some(Err(error)) = ended {
                        self.failed(&error);
                    }
                    self.phase = Phase::Over(clock::now() + OVER);
                    // They have to be told, each by itself.
                    return !self.streams.is_empty();
                }
            }
        }
        self.streams.len() > before
    }

    /// Sees to what has happened: something that may not be, or a stop. Whether the client is to be told.
    fn look(&mut self, now: Instant) -> bool {
        let (fault, refused) = {
            let meter = &mut self.serving.io.lock().meter;
            (meter.fault(), meter.refused())
        };
        for _ in 0..refused.too_many {
            self.serving.count("h2-too-many-streams");
        }
        for _ in 0..refused.malformed {
            self.serving.count("h2-malformed");
        }
        let told = match (self.phase, fault) {
            (Phase::Open | Phase::Leaving(_), Some(fault)) => {
                self.end(fault.reason(), fault.code(), now);
                true
            }
            (Phase::Open, None) if self.serving.worker.is_last(self.serving.from) => {
                self.leave();
                true
            }
            _ => false,
        };
        if let Phase::Leaving(until) = &mut self.phase {
            let idle = self.streams.is_empty() && !self.connection.has_streams();
            let latest = now + self.serving.worker.farewell(self.serving.from, LEAVE);
            *until = idle.then(|| until.map_or(latest, |until| until.min(latest)));
        }
        told
    }

    /// Until when nothing needs to be done; `None` if nothing is left to be done at all.
    fn until(&self, now: Instant) -> Option<Instant> {
        let amid =
            || self.serving.io.lock().meter.amid().map(|since| since + self.serving.limits.header_timeout);
        Some(match self.phase {
            Phase::Over(_) if self.streams.is_empty() => return None,
            Phase::Over(until) | Phase::Ending(until) | Phase::Leaving(Some(until)) => until,
            Phase::Open | Phase::Leaving(None) => {
                let idle = (self.streams.is_empty() && self.phase == Phase::Open).then_some(self.idle_until);
                [idle, amid()].into_iter().flatten().min().unwrap_or(now + LONG)
            }
        })
    }

    /// Time is up; whether there is still something to be done.
    fn late(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Over(_) | Phase::Ending(_) | Phase::Leaving(Some(_)) => return false,
            Phase::Open if self.streams.is_empty() && self.idle_until <= now => self.leave(),
            Phase::Open | Phase::Leaving(None) => {
                self.end(Refusal::HeadTooSlow.reason(), Reason::ENHANCE_YOUR_CALM, now);
            }
        }
        true
    }

    /// RFC 9113 §6.8: the client is told to send no more, and again when it must have heard that.
    fn leave(&mut self) {
        self.connection.graceful_shutdown();
        self.phase = Phase::Leaving(None);
    }

    /// The client does what it may not do to the end.
    fn end(&mut self, why: &str, code: Reason, now: Instant) {
        tracing::debug!(client.address = %self.serving.from.peer, why, "a connection of HTTP/2 was ended");
        self.serving.count(why);
        self.connection.abrupt_shutdown(code);
        self.phase = Phase::Ending(now + LEAVE);
    }

    /// The library has ended it.
    fn failed(&self, error: &h2::Error) {
        tracing::debug!(client.address = %self.serving.from.peer, error = %error, "a connection of HTTP/2 failed");
        if error.is_library() {
            let flood = error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
            self.serving.count(if flood { "h2-flood" } else { "h2-protocol-error" });
        }
    }
}

/// Serves one stream.
async fn one(
    worker: &Worker,
    from: Arc<From>,
    limits: HeadLimits,
    under_way: Open,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let (parts, body) = request.into_parts();
    let ended = body.is_end_stream();
    let end = End::new(body, respond, parts.method == Method::HEAD);
    let mut client = Client::new(Stream::Http2(Box::new(end)), from, worker.timers.slot());
    let begun = head::write(&parts, limits)
        .and_then(|head| exchange::begin_stream(worker, &client.from, &head, limits, ended));
    drop(parts);
    // How the connection goes on is not the stream's to say; and what was not ended is reset. Boxed: what is moved to
    // where streams are kept is small.
    match begun {
        Ok(begun) => drop(Box::pin(exchange::run(worker, &mut client, begun)).await),
        Err(refusal) => Box::pin(respond::refuse(worker, &mut client, &Answer::Refused(refusal))).await,
    }
    drop(under_way);
}
