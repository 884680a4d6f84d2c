//! One stream, as the engine sees it: a connection of one request. What is read is the request's body; what is written
//! is an answer of HTTP/1.1, which leaves as `HEADERS` and `DATA`.

use std::{
    io,
    task::{Context, Poll, ready},
};

use super::{
    mux::{Mux, Shared},
    streams::{Place, Waits},
};
use crate::proxy::{
    h1::{Framing, answer as h1},
    h2::answer::{Garbled, Told},
};

/// A stream.
#[derive(Debug)]
pub(in crate::proxy::engine) struct End {
    mux: Shared,
    place: Place,
    /// Its request is a `HEAD`.
    bodiless: bool,
    answer: Answer,
}

/// How far the answer has come.
#[derive(Debug)]
enum Answer {
    /// Of its head there is this.
    Head(Vec<u8>),
    /// So much of the body is to come; `None`: until it is ended.
    Body(Option<u64>),
    /// It is whole.
    Whole,
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl From<Garbled> for io::Error {
    fn from(_: Garbled) -> Self {
        io::ErrorKind::InvalidData.into()
    }
}

impl End {
    pub(super) fn new(mux: Shared, place: Place, bodiless: bool) -> Self {
        Self { mux, place, bodiless, answer: Answer::Head(Vec::new()) }
    }

    /// Whether it is over already.
    pub(super) fn is_cut(&self) -> bool {
        self.mux.lock().streams.get(self.place).is_none_or(|stream| stream.cut)
    }

    /// Bytes of the request's body that lie here, and that its client may still send.
    pub(in crate::proxy::engine) fn promised(&self) -> u64 {
        self.mux.lock().streams.get(self.place).map_or(0, |stream| stream.promised())
    }

    /// Ready when the next piece of the body is there, or its end.
    pub(in crate::proxy::engine) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_body(&mut self.mux.lock(), self.place, cx)
    }

    /// Reads once; 0 is the end of the body. The client may send so much more.
    pub(in crate::proxy::engine) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let mux = &mut *self.mux.lock();
        ready!(poll_body(mux, self.place, cx))?;
        let most = most.min(room.len());
        Poll::Ready(Ok(mux.take_body(self.place, room.get_mut(..most).unwrap_or_default())))
    }

    /// Takes of an answer what the client's windows allow.
    pub(in crate::proxy::engine) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mux = &mut *self.mux.lock();
        if mux.streams.get(self.place).is_none_or(|stream| stream.cut) {
            return Poll::Ready(Err(broken()));
        }
        let mut used = 0;
        if let Answer::Head(text) = &mut self.answer {
            ready!(mux.poll_head(self.place, cx));
            let head = head(mux, self.place, self.bodiless, text, bytes)?;
            used = head.0;
            match head.1 {
                Some(Told { interim: false, body }) => self.answer = Answer::of(body),
                _ => return Poll::Ready(Ok(used)),
            }
        }
        let rest = bytes.get(used..).unwrap_or_default();
        match &mut self.answer {
            Answer::Body(left) if !rest.is_empty() => {
                // What is beyond the length is nobody's.
                let most = left.map_or(rest.len(), |left| {
                    usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()))
                });
                let whole = left.is_some_and(|left| left == most as u64);
                let sent = mux.poll_send(self.place, rest.get(..most).unwrap_or_default(), whole, cx);
                let Poll::Ready(sent) = sent else {
                    return if used > 0 { Poll::Ready(Ok(used)) } else { Poll::Pending };
                };
                used += sent;
                if let Some(left) = left {
                    *left -= sent as u64;
                }
                if whole && sent == most {
                    self.answer = Answer::Whole;
                }
                Poll::Ready(Ok(used))
            }
            Answer::Whole if used == 0 && !rest.is_empty() => {
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
            _ => Poll::Ready(Ok(used)),
        }
    }

    /// Ends an answer that has no length.
    pub(in crate::proxy::engine) fn finish(&mut self, trailers: &[u8]) -> io::Result<()> {
        let Answer::Body(None) = self.answer else { return Ok(()) };
        let mux = &mut *self.mux.lock();
        if mux.streams.get(self.place).is_none_or(|stream| stream.cut) {
            return Err(broken());
        }
        mux.finish(self.place, trailers)?;
        self.answer = Answer::Whole;
        Ok(())
    }

    /// Completes when the client has reset it, or its connection is gone.
    pub(in crate::proxy::engine) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Answer::Whole = self.answer {
            return Poll::Pending;
        }
        match self.mux.lock().streams.get(self.place) {
            Some(stream) if !stream.cut => {
                stream.wait(cx, Waits::End);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }
}

impl Answer {
    fn of(body: Framing) -> Self {
        match body {
            Framing::Length(length) if length > 0 => Self::Body(Some(length)),
            Framing::UntilClose => Self::Body(None),
            _ => Self::Whole,
        }
    }
}

/// Half an answer must not look whole.
impl Drop for End {
    fn drop(&mut self) {
        let whole = matches!(self.answer, Answer::Whole);
        self.mux.lock().close(self.place, whole);
    }
}

fn poll_body(mux: &mut Mux, place: Place, cx: &Context<'_>) -> Poll<io::Result<()>> {
    match mux.streams.get(place) {
        Some(stream) if !stream.cut => {
            if stream.there() > 0 || stream.ended {
                return Poll::Ready(Ok(()));
            }
            stream.wait(cx, Waits::Body);
            Poll::Pending
        }
        _ => Poll::Ready(Err(broken())),
    }
}

/// Takes the rest of a head; when it is whole, it is sent. How much of `bytes` was used.
fn head(
    mux: &mut Mux,
    place: Place,
    bodiless: bool,
    text: &mut Vec<u8>,
    bytes: &[u8],
) -> io::Result<(usize, Option<Told>)> {
    // Nearly always it comes in one piece, and need not be kept.
    if text.is_empty()
        && let Ok(Some(end)) = h1::end(bytes, 0)
    {
        return Ok((end, Some(mux.head(place, bodiless, bytes.get(..end).unwrap_or_default())?)));
    }
    let before = text.len();
    text.extend_from_slice(bytes);
    match h1::end(text, before).map_err(|h1::Garbled| Garbled)? {
        None => Ok((bytes.len(), None)),
        Some(end) => {
            let told = mux.head(place, bodiless, text.get(..end).unwrap_or_default())?;
            text.clear();
            Ok((end.saturating_sub(before), Some(told)))
        }
    }
}
