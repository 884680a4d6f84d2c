//! What is known of one connection: takes frames in, by the rules of RFC 9113 §5 and §6, and writes those that go out.
//! Knows no socket; who drives it gives it what comes, and writes what is there.

mod comes;
mod windows;
mod goes;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::{
    meter::Meter,
    streams::{Place, Streams, Waits},
};
use crate::proxy::{
    guard::{Refusal, head::HeadLimits},
    h2::{
        frame::{self, Code, LAST, WINDOW},
        hpack::{Reader, Writer},
        request::Request,
    },
};

/// What of all bodies of a connection may lie here.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// What a field costs beside its text, RFC 9113 §6.5.2.
const FIELD: usize = 32;

/// The ping behind the first good-bye.
const LAST_CALL: &[u8; 8] = b"last cal";

/// Room for what is to be written that is kept while there are no requests.
const KEPT_IDLE: usize = 1024;

/// Limits of a connection, from the config of when it began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) head: HeadLimits,
    pub(super) streams: usize,
}

impl Limits {
    /// What a client is told that its fields may be, by RFC 9113 §6.5.2.
    fn list(&self) -> usize {
        self.head.bytes + self.head.fields * FIELD
    }

    /// Bytes that a block may have. One that is longer than its fields may be is read, so that it can be answered.
    fn block(&self) -> usize {
        2 * self.list()
    }
}

/// A request has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    pub(super) place: Place,
    /// Its head is not to be looked at any further.
    pub(super) refused: Option<Refusal>,
    /// It is a `HEAD`.
    pub(super) bodiless: bool,
    /// It has no body.
    pub(super) ended: bool,
}

/// What was refused since it was last asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// Streams beyond those that may be under way.
    pub(super) too_many: u64,
    /// Streams that break the protocol.
    pub(super) malformed: u64,
}

/// Whether the client was told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// What is on its way is still served.
    Told,
    /// It has heard it; nothing more is taken.
    Heard,
}

/// A block of fields that is not whole.
#[derive(Debug)]
struct Block {
    stream: u32,
    ended: bool,
    of: Of,
    bytes: Vec<u8>,
    frames: usize,
}

/// Whose fields they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// A new request's.
    Request,
    /// Trailers, or of a stream that is no more.
    Stream,
    /// Nobody's: it came after the end.
    Nobody,
}

/// A connection, shared between who drives it and its streams, which are in one task.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<Mux>>);

/// The connection.
#[derive(Debug)]
pub(super) struct Mux {
    limits: Limits,
    pub(super) streams: Streams,
    pub(super) request: Request,
    reader: Reader,
    writer: Writer,
    block: Option<Block>,
    meter: Meter,
    /// To be written, from `out_at` on.
    out: Vec<u8>,
    out_at: usize,
    /// Streams whose heads wait for room in it; and whose data does, or for the connection's window.
    heads: VecDeque<u32>,
    bodies: VecDeque<u32>,
    /// What the client may send, and what of it was taken that it was not told of.
    window: i64,
    owed: u32,
    /// Promised to transfers beyond what every stream has.
    promised: u32,
    /// What the client allows: on the connection, and on a stream that begins.
    room: i64,
    first_room: i64,
    /// The last stream that the client has begun.
    last: u32,
    /// Its settings have come.
    begun: bool,
    leaving: Leaving,
    reset: VecDeque<u32>,
    refused: Refused,
}

impl Shared {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        let mut mux = Mux {
            limits,
            streams: Streams::default(),
            request: Request::default(),
            reader: Reader::default(),
            writer: Writer::default(),
            block: None,
            meter: Meter::new(now),
            out: Vec::new(),
            out_at: 0,
            heads: VecDeque::new(),
            bodies: VecDeque::new(),
            window: i64::from(CONNECTION_WINDOW),
            owed: 0,
            promised: 0,
            room: i64::from(WINDOW),
            first_room: i64::from(WINDOW),
            last: 0,
            begun: false,
            leaving: Leaving::No,
            reset: VecDeque::new(),
            refused: Refused::default(),
        };
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        frame::hello(&mut mux.out, number(limits.streams), number(limits.list()));
        frame::window(&mut mux.out, 0, CONNECTION_WINDOW - WINDOW);
        Self(Arc::new(Mutex::new(mux)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Mux> {
        // One thread has it, and nothing of it panics halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mux {
    /// RFC 9113 §6.8: the client is told to send no more, and again when it must have heard that.
    pub(super) fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Told;
            frame::go_away(&mut self.out, LAST, Code::NoError);
            frame::ping(&mut self.out, false, LAST_CALL);
        }
    }

    /// Whether the client has heard it.
    pub(super) fn is_left(&self) -> bool {
        self.leaving == Leaving::Heard
    }

    /// The client is told that it is cut off.
    pub(super) fn end(&mut self, code: Code) {
        frame::go_away(&mut self.out, self.last, code);
        self.over();
    }

    /// There is no connection any more: its streams are told.
    pub(super) fn over(&mut self) {
        for stream in self.streams.each() {
            stream.cut = true;
            stream.wake(Waits::End);
        }
    }

    /// Nothing is under way: what is kept is small.
    pub(super) fn idle(&mut self) {
        self.request.rest();
        if self.out.is_empty() && self.out.capacity() > KEPT_IDLE {
            self.out = Vec::new();
        }
        // All of them are gone.
        (self.heads, self.bodies) = (VecDeque::new(), VecDeque::new());
    }
}

#[cfg(test)]
mod tests;
