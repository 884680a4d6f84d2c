//! Drives one connection: takes in what comes, lets its streams go on, ends it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, Stream as _};
use tokio::time::Instant;

use super::{
    super::{
        connection::{Client, From},
        exchange::{self, Begun},
        respond,
        stream::Stream,
        timers::Slot,
        wire::Wire,
        worker::Worker,
    },
    end::End,
    meter::Broken,
    mux::{Limits, Opened, Shared},
};
use crate::{
    clock,
    proxy::{
        answer::Answer,
        boxed::boxed,
        guard::{Refusal, head::HeadLimits},
        h2::frame::{Code, HEAD, Head, Kind, LARGEST, PREFACE},
        record::metrics::Open,
    },
};

/// Read at once at most.
const READ: usize = 64 * 1024;

/// Room that is kept for the beginning of a frame.
const KEPT: usize = 1024;

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

/// How long a client may take, from the config of when its connection began.
#[derive(Debug, Clone, Copy)]
struct Patience {
    header_timeout: Duration,
    keep_alive: Duration,
}

/// Serves a connection of HTTP/2 to its end.
pub(in crate::proxy::engine) async fn serve(worker: &Worker, client: Client) {
    let Client { wire: Wire { stream, ahead }, mut from, slot } = client;
    // A stream cannot say where the client has connected to.
    if let (Some(from), Ok(local)) = (Arc::get_mut(&mut from), stream.local()) {
        from.to.get_or_insert(local);
    }
    let (limits, patience) = {
        let snapshot = worker.shared.live.peek();
        let limits = &snapshot.limits;
        let head = HeadLimits { bytes: limits.header_bytes, fields: limits.headers };
        let patience = Patience { header_timeout: limits.header_timeout, keep_alive: limits.keep_alive };
        (Limits { head, streams: limits.streams }, patience)
    };
    let (under_way, now) = (worker.shared.metrics.streams(&from.door.listener), clock::now());
    let start = |end, begun| one(worker, from.clone(), under_way.open(), end, begun);
    let mut driven = Driven {
        worker,
        from: &from,
        slot: &slot,
        limits,
        patience,
        stream,
        // It was looked at to know what it is.
        ahead: ahead.get(PREFACE.len()..).unwrap_or_default().to_vec(),
        unread: true,
        amid: None,
        mux: Shared::new(limits, now),
        streams: FuturesUnordered::new(),
        phase: Phase::Open,
        ended: false,
        // As for the first head of HTTP/1.1.
        idle_until: now + patience.header_timeout,
    };
    drop(ahead);
    poll_fn(|cx| driven.poll(cx, &start)).await;
    let Driven { stream, ended, .. } = driven;
    // With unread input the connection would be reset, and what was said last lost with it.
    if !ended {
        Box::pin(Wire::new(stream).linger(&worker.scratch)).await;
    }
}

/// A connection and what is under way on it, in one task: a stream that has something to send and the connection that
/// sends it take one turn.
struct Driven<'a, F> {
    worker: &'a Worker,
    from: &'a Arc<From>,
    slot: &'a Slot,
    limits: Limits,
    patience: Patience,
    stream: Stream,
    /// The beginning of a frame that is not whole.
    ahead: Vec<u8>,
    /// It was not looked at yet.
    unread: bool,
    /// Since then a frame, or a block of fields, is not whole.
    amid: Option<Instant>,
    mux: Shared,
    streams: FuturesUnordered<F>,
    phase: Phase,
    /// The client has closed, or broke off.
    ended: bool,
    /// A connection without requests is kept until then.
    idle_until: Instant,
}

impl<F: Future<Output = ()>> Driven<'_, F> {
    fn poll(&mut self, cx: &mut Context<'_>, start: &impl Fn(End, Result<Begun, Refusal>) -> F) -> Poll<()> {
        let mut busy = !self.streams.is_empty();
        loop {
            // First those that go on; then what they wrote goes out, and what came is taken in.
            while let Poll::Ready(Some(())) = Pin::new(&mut self.streams).poll_next(cx) {}
            self.flush(cx);
            let called = self.mux.lock().call();
            let came = self.receive(cx, start);
            if !(called || came) {
                break;
            }
            busy |= !self.streams.is_empty();
        }
        let now = clock::now();
        let idle = self.streams.is_empty();
        if idle {
            if busy {
                self.idle_until = now + self.patience.keep_alive;
            }
            self.mux.lock().idle();
        }
        self.look(now, idle);
        loop {
            self.flush(cx);
            let Some(until) = self.until(now) else { return Poll::Ready(()) };
            ready!(self.slot.poll(cx, until, now));
            if !self.late(now) {
                return Poll::Ready(());
            }
        }
    }

    /// Writes what is there to be written.
    fn flush(&mut self, cx: &mut Context<'_>) {
        if let Phase::Over(_) = self.phase {
            return;
        }
        let mux = &mut *self.mux.lock();
        while !mux.rest().is_empty() {
            match self.stream.poll_write(cx, mux.rest()) {
                Poll::Ready(Ok(written)) => mux.wrote(written),
                Poll::Ready(Err(_)) => {
                    self.ended = true;
                    mux.over();
                    self.phase = Phase::Over(clock::now() + OVER);
                    return;
                }
                Poll::Pending => return,
            }
        }
        let told = match self.phase {
            Phase::Ending(_) => true,
            Phase::Leaving(_) => mux.is_left() && self.streams.is_empty(),
            Phase::Open | Phase::Over(_) => false,
        };
        if told {
            self.phase = Phase::Over(clock::now() + OVER);
        }
    }

    /// Takes in what has come; whether there was anything.
    fn receive(&mut self, cx: &mut Context<'_>, start: &impl Fn(End, Result<Begun, Refusal>) -> F) -> bool {
        let takes = matches!(self.phase, Phase::Open | Phase::Leaving(_));
        if !takes || self.mux.lock().is_full() {
            return false;
        }
        if std::mem::take(&mut self.unread) && !self.ahead.is_empty() {
            let ahead = std::mem::take(&mut self.ahead);
            self.take(&ahead, start);
            return true;
        }
        if self.stream.poll_readable(cx).is_pending() {
            return false;
        }
        let mut room = self.worker.scratch.lock();
        let before = self.ahead.len();
        let Some((first, rest)) = room.split_at_mut_checked(before) else { return false };
        match self.stream.poll_read(cx, rest, READ) {
            Poll::Pending => return false,
            Poll::Ready(Ok(read @ 1..)) => {
                first.copy_from_slice(&self.ahead);
                self.take(room.get(..before + read).unwrap_or_default(), start);
            }
            Poll::Ready(_) => {
                self.ended = true;
                self.mux.lock().over();
                self.phase = Phase::Over(clock::now() + OVER);
            }
        }
        true
    }

    /// Takes in whole frames, and keeps what is left.
    fn take(&mut self, mut bytes: &[u8], start: &impl Fn(End, Result<Begun, Refusal>) -> F) {
        let (now, mut another) = (clock::now(), false);
        while let Some(head) = Head::read(bytes) {
            if head.length > LARGEST {
                return self.end(Broken::rule(Code::FrameSizeError), now);
            }
            let Some((frame, rest)) = bytes.split_at_checked(HEAD + head.length) else { break };
            bytes = rest;
            another |= head.kind != Kind::Continuation;
            let taken = self.mux.lock().take(head, frame.get(HEAD..).unwrap_or_default(), now);
            match taken {
                Ok(None) => {}
                Ok(Some(opened)) => self.begin(opened, start),
                Err(broken) => return self.end(broken, now),
            }
        }
        self.ahead.clear();
        if self.ahead.capacity() > KEPT {
            self.ahead = Vec::new();
        }
        self.ahead.extend_from_slice(bytes);
        // Data has its time from whom it is for.
        let begun = !bytes.is_empty() && Head::read(bytes).is_none_or(|head| head.kind != Kind::Data);
        if !(begun || self.mux.lock().is_amid()) {
            self.amid = None;
        } else if another || self.amid.is_none() {
            // It began only now, and has its time before it.
            self.amid = Some(now);
        }
    }

    /// A request has come.
    fn begin(&mut self, opened: Opened, start: &impl Fn(End, Result<Begun, Refusal>) -> F) {
        let Opened { place, refused, bodiless, ended } = opened;
        let begun = {
            let mux = &mut *self.mux.lock();
            let begun = match refused {
                Some(why) => Err(why),
                None => exchange::begin_stream(
                    self.worker,
                    self.from,
                    mux.request.text(),
                    self.limits.head,
                    ended,
                ),
            };
            if let Ok(begun) = &begun {
                mux.is_of(place, begun.lane());
            }
            begun
        };
        self.streams.push(start(End::new(self.mux.clone(), place, bodiless), begun));
    }

    /// Sees to what has happened.
    fn look(&mut self, now: Instant, idle: bool) {
        let refused = self.mux.lock().refused();
        for _ in 0..refused.too_many {
            self.fault("h2-too-many-streams");
        }
        for _ in 0..refused.malformed {
            self.fault("h2-malformed");
        }
        if self.phase == Phase::Open && self.worker.is_last(self.from) {
            self.leave(now);
        }
        if let Phase::Leaving(until) = &mut self.phase {
            let latest = now + self.worker.farewell(self.from, LEAVE);
            *until = idle.then(|| until.map_or(latest, |until| until.min(latest)));
        }
    }

    /// Until when nothing needs to be done; `None` if nothing is left to be done at all.
    fn until(&self, now: Instant) -> Option<Instant> {
        Some(match self.phase {
            Phase::Over(_) if self.streams.is_empty() => return None,
            Phase::Over(until) | Phase::Ending(until) | Phase::Leaving(Some(until)) => until,
            Phase::Open | Phase::Leaving(None) => {
                let idle = self.is_idle().then_some(self.idle_until);
                let amid = self.amid.map(|since| since + self.patience.header_timeout);
                [idle, amid].into_iter().flatten().min().unwrap_or(now + LONG)
            }
        })
    }

    /// Whether the client is only waited for.
    fn is_idle(&self) -> bool {
        self.phase == Phase::Open && self.streams.is_empty() && self.amid.is_none()
    }

    /// Time is up; whether there is still something to be done.
    fn late(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Over(_) | Phase::Ending(_) | Phase::Leaving(Some(_)) => return false,
            Phase::Open if !self.mux.lock().has_begun() => {
                self.fault("h2-preface");
                return false;
            }
            Phase::Open if self.is_idle() && self.idle_until <= now => self.leave(now),
            Phase::Open | Phase::Leaving(None) => {
                if self.amid.is_some_and(|since| since + self.patience.header_timeout <= now) {
                    let reason = Refusal::HeadTooSlow.reason();
                    self.end(Broken { code: Code::EnhanceYourCalm, reason }, now);
                }
            }
        }
        true
    }

    fn leave(&mut self, now: Instant) {
        self.mux.lock().leave();
        let latest = now + self.worker.farewell(self.from, LEAVE);
        self.phase = Phase::Leaving(self.streams.is_empty().then_some(latest));
    }

    /// The client does what it may not do to the end.
    fn end(&mut self, why: Broken, now: Instant) {
        let Broken { code, reason } = why;
        tracing::debug!(client.address = %self.from.peer, reason, ?code, "a connection of HTTP/2 was ended");
        self.count(reason);
        self.mux.lock().end(code);
        self.phase = Phase::Ending(now + LEAVE);
    }

    /// The same, but for one stream alone, or before anything was said.
    fn fault(&self, reason: &str) {
        tracing::debug!(client.address = %self.from.peer, reason, "a fault of HTTP/2 was answered");
        self.count(reason);
    }

    fn count(&self, reason: &str) {
        self.worker.shared.metrics.refused(&self.from.door.listener, reason);
    }
}

/// Serves one stream. No `async fn`: that would have what it is given twice, and all of it is moved to where streams are
/// kept.
fn one(
    worker: &Worker,
    from: Arc<From>,
    under_way: Open,
    end: End,
    begun: Result<Begun, Refusal>,
) -> impl Future<Output = ()> {
    let end = Box::new(end);
    async move {
        // By what came right behind it: this runs when all of that was taken in.
        let cut = end.is_cut();
        let mut client = Client::new(Stream::Http2(end), from, worker.timers.slot());
        // How the connection goes on is not the stream's to say; and what was not ended is reset. Boxed, for the same reason.
        match begun {
            Ok(begun) if cut => exchange::gone(worker, begun),
            Ok(begun) => drop(Box::into_pin(boxed(|| exchange::run(worker, &mut client, begun))).await),
            Err(refusal) => Box::pin(respond::refuse(worker, &mut client, &Answer::Refused(refusal))).await,
        }
        drop(under_way);
    }
}
