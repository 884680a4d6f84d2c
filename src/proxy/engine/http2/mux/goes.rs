//! What goes: heads and data of answers, gathered until they are written.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use super::{
    super::streams::{Place, Stream, Waits},
    Mux,
};
use crate::proxy::h2::{
    answer::{self, Garbled, To, Told},
    frame::{self, Code, END_STREAM, LARGEST, WINDOW},
};

/// So much waits to be written before data waits for it to go. For heads twice as much is there.
const GATHERED: usize = 64 * 1024;

/// With so much waiting, nothing more is read: who takes no answers gets none.
const FULL: usize = 4 * GATHERED;

/// Room for it that is kept while requests are under way.
const KEPT: usize = 16 * 1024;

/// Of those that wait for room so many are called at once.
const CALLED: usize = 4;

impl Mux {
    /// What is to be written.
    pub(in crate::proxy::engine::http2) fn rest(&self) -> &[u8] {
        self.out.get(self.out_at..).unwrap_or_default()
    }

    /// So much of it was.
    pub(in crate::proxy::engine::http2) fn wrote(&mut self, bytes: usize) {
        self.out_at += bytes;
        if self.out_at < self.out.len() {
            // It may never be empty while more comes.
            if self.out_at >= GATHERED {
                self.out.drain(..self.out_at);
                self.out_at = 0;
            }
            return;
        }
        self.out_at = 0;
        if self.out.capacity() > KEPT {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
    }

    fn waits(&self) -> usize {
        self.out.len() - self.out_at
    }

    /// Whether so much waits to be written that nothing more is to be read.
    pub(in crate::proxy::engine::http2) fn is_full(&self) -> bool {
        self.waits() >= FULL
    }

    /// Ready when there is room for a head.
    pub(in crate::proxy::engine::http2) fn poll_head(&mut self, place: Place, cx: &Context<'_>) -> Poll<()> {
        if self.waits() < 2 * GATHERED {
            return Poll::Ready(());
        }
        if let Some(stream) = self.streams.get(place) {
            stream.wait(cx, Waits::Room);
            stand(&mut self.heads, stream.id);
        }
        Poll::Pending
    }

    /// Calls some of those that wait for room, if there is any; whether somebody was called.
    pub(in crate::proxy::engine::http2) fn call(&mut self) -> bool {
        let mut called = 0;
        while called < CALLED && self.waits() < GATHERED {
            let next = match self.heads.pop_front() {
                None if self.room > 0 => self.bodies.pop_front(),
                next => next,
            };
            let Some(id) = next else { break };
            if let Some(stream) = self.streams.find(id).and_then(|place| self.streams.get(place)) {
                stream.wake(Waits::Room);
                called += 1;
            }
        }
        called > 0
    }

    /// Writes the head of an answer.
    pub(in crate::proxy::engine::http2) fn head(
        &mut self,
        place: Place,
        bodiless: bool,
        text: &[u8],
    ) -> Result<Told, Garbled> {
        let stream = self.streams.get(place).map_or(0, |stream| stream.id);
        answer::head(text, To { stream, bodiless, largest: LARGEST }, &mut self.writer, &mut self.out)
    }

    /// Ends an answer, with trailers if there are any.
    pub(in crate::proxy::engine::http2) fn finish(
        &mut self,
        place: Place,
        trailers: &[u8],
    ) -> Result<(), Garbled> {
        let stream = self.streams.get(place).map_or(0, |stream| stream.id);
        if trailers.is_empty() {
            frame::write(&mut self.out, frame::Kind::Data, END_STREAM, stream, &[]);
            return Ok(());
        }
        let to = To { stream, bodiless: false, largest: LARGEST };
        answer::trailers(trailers, to, &mut self.writer, &mut self.out)
    }

    /// Writes what may be written of a body; `last`: its end is that of the answer.
    pub(in crate::proxy::engine::http2) fn poll_send(
        &mut self,
        place: Place,
        bytes: &[u8],
        last: bool,
        cx: &Context<'_>,
    ) -> Poll<usize> {
        let (most, mut room) = (GATHERED, self.room);
        let Some(stream) = self.streams.get(place) else { return Poll::Ready(0) };
        if stream.room <= 0 {
            stream.wait(cx, Waits::Room);
            return Poll::Pending;
        }
        let waits = self.out.len() - self.out_at;
        if room <= 0 || waits >= most {
            stream.wait(cx, Waits::Room);
            stand(&mut self.bodies, stream.id);
            return Poll::Pending;
        }
        let mut sent = 0;
        self.out.reserve(bytes.len().min(most) + frame::HEAD);
        while sent < bytes.len() && self.out.len() - self.out_at < most {
            let window = usize::try_from(room.min(stream.room)).unwrap_or(0);
            let size = (bytes.len() - sent).min(window).min(LARGEST);
            if size == 0 {
                break;
            }
            let flags = if last && sent + size == bytes.len() { END_STREAM } else { 0 };
            let piece = bytes.get(sent..sent + size).unwrap_or_default();
            frame::write(&mut self.out, frame::Kind::Data, flags, stream.id, piece);
            sent += size;
            stream.room -= size as i64;
            room -= size as i64;
        }
        self.room = room;
        self.meter.went(sent);
        Poll::Ready(sent)
    }

    /// A stream's holder lets go of it; `whole`: its answer was ended.
    pub(in crate::proxy::engine::http2) fn close(&mut self, place: Place, whole: bool) {
        let Some(mut stream) = self.streams.close(place) else { return };
        self.promised -= stream.target - WINDOW;
        let dropped = stream.drop_body();
        self.owe(u32::try_from(dropped).unwrap_or(u32::MAX));
        let Stream { id, cut, ended, .. } = stream;
        match (cut, whole) {
            (false, false) => self.send_reset(id, Code::InternalError),
            // RFC 9113 §8.1: the rest of the request is not wanted.
            (false, true) if !ended => self.send_reset(id, Code::NoError),
            _ => {}
        }
    }
}

/// Stands in a line, once.
fn stand(line: &mut VecDeque<u32>, id: u32) {
    if !line.contains(&id) {
        line.push_back(id);
    }
}
