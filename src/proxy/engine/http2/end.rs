//! One stream, as the engine sees it: a connection of one request. What is read is the request's body; what is written
//! is an answer of HTTP/1.1, which leaves as `HEADERS` and `DATA`.

use std::{
    io,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream, server::SendResponse};

use super::answer;
use crate::proxy::h1::{Framing, answer as h1};

/// Handed to the library at once of a body; it keeps that much of a stream, and no more.
pub(super) const PIECE: usize = 64 * 1024;

/// A stream.
#[derive(Debug)]
pub(in crate::proxy::engine) struct End {
    body: RecvStream,
    /// Of the body: came and was not taken yet.
    rest: Bytes,
    /// The body is over.
    whole: bool,
    /// Its request is a `HEAD`.
    bodiless: bool,
    /// Shared, for whoever waits for its end has no more than a look at it.
    answer: Mutex<Answer>,
}

/// How far the answer has come.
#[derive(Debug)]
enum Answer {
    /// Of its head there is this.
    Head(SendResponse<Bytes>, Vec<u8>),
    /// So much of the body is to come; `None`: until it is ended.
    Body(SendStream<Bytes>, Option<u64>),
    /// It is whole.
    Whole,
    /// It was given up.
    Cut,
}

fn broken(why: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, why)
}

impl End {
    pub(super) fn new(body: RecvStream, respond: SendResponse<Bytes>, bodiless: bool) -> Self {
        let whole = body.is_end_stream();
        let answer = Mutex::new(Answer::Head(respond, Vec::new()));
        Self { body, rest: Bytes::new(), whole, bodiless, answer }
    }

    /// Ready when the next piece of the body is there, or its end.
    pub(in crate::proxy::engine) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() && !self.whole {
            match ready!(self.body.poll_data(cx)) {
                Some(data) => self.rest = data.map_err(broken)?,
                None => self.whole = true,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once; 0 is the end of the body. The client may send so much more.
    pub(in crate::proxy::engine) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
        most: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(cx))?;
        let taken = self.rest.len().min(most).min(room.len());
        self.rest.copy_to_slice(room.get_mut(..taken).unwrap_or_default());
        if taken > 0 {
            self.body.flow_control().release_capacity(taken).map_err(broken)?;
        }
        Poll::Ready(Ok(taken))
    }

    /// Takes of an answer what the client's windows allow.
    pub(in crate::proxy::engine) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bodiless = self.bodiless;
        let answer = self.answer.get_mut().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Answer::Head(..) => Poll::Ready(head(answer, bytes, bodiless)),
            Answer::Body(to, left) => {
                let written = ready!(data(to, left, cx, bytes))?;
                if *left == Some(0) {
                    *answer = Answer::Whole;
                }
                Poll::Ready(Ok(written))
            }
            Answer::Whole | Answer::Cut => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Ends an answer that has no length.
    pub(in crate::proxy::engine) fn finish(&mut self, trailers: &[u8]) -> io::Result<()> {
        let answer = self.answer.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Answer::Body(to, None) = answer else { return Ok(()) };
        if trailers.is_empty() {
            to.send_data(Bytes::new(), true).map_err(broken)?;
        } else {
            let trailers = answer::trailers(trailers).map_err(|_| io::ErrorKind::InvalidData)?;
            to.send_trailers(trailers).map_err(broken)?;
        }
        *answer = Answer::Whole;
        Ok(())
    }

    /// Completes when the client has reset it, or its connection is gone.
    pub(in crate::proxy::engine) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.answer.lock().unwrap_or_else(PoisonError::into_inner) {
            Answer::Head(respond, _) => respond.poll_reset(cx).map(drop),
            Answer::Body(to, _) => to.poll_reset(cx).map(drop),
            Answer::Whole | Answer::Cut => Poll::Pending,
        }
    }
}

/// Half an answer must not look whole.
impl Drop for End {
    fn drop(&mut self) {
        let answer = self.answer.get_mut().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(answer, Answer::Cut) {
            Answer::Head(mut respond, _) => respond.send_reset(Reason::INTERNAL_ERROR),
            Answer::Body(mut to, _) => to.send_reset(Reason::INTERNAL_ERROR),
            Answer::Whole | Answer::Cut => {}
        }
    }
}

/// Takes the rest of a head; when it is whole, it is sent.
fn head(answer: &mut Answer, bytes: &[u8], bodiless: bool) -> io::Result<usize> {
    let Answer::Head(respond, text) = answer else { return Ok(0) };
    let garbled = || io::Error::from(io::ErrorKind::InvalidData);
    let before = text.len();
    // Nearly always it comes in one piece, and need not be kept.
    let (head, used) = match h1::end(bytes, 0) {
        Ok(Some(end)) if before == 0 => (bytes.get(..end).unwrap_or_default(), end),
        _ => {
            text.extend_from_slice(bytes);
            match h1::end(text, before).map_err(|_| garbled())? {
                Some(end) => (text.get(..end).unwrap_or_default(), end - before),
                None => return Ok(bytes.len()),
            }
        }
    };
    let answer::Head { response, body } = answer::read(head, bodiless).map_err(|_| garbled())?;
    if response.status().is_informational() {
        respond.send_informational(response).map_err(broken)?;
        text.clear();
        return Ok(used);
    }
    let left = match body {
        Framing::None => Some(0),
        Framing::Length(length) => Some(length),
        Framing::UntilClose => None,
        Framing::Chunked | Framing::Upgraded => return Err(garbled()),
    };
    let to = respond.send_response(response, left == Some(0)).map_err(broken)?;
    *answer = if left == Some(0) { Answer::Whole } else { Answer::Body(to, left) };
    Ok(used)
}

fn data(
    to: &mut SendStream<Bytes>,
    left: &mut Option<u64>,
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    let most = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
    let bytes = bytes.get(..bytes.len().min(PIECE).min(most)).unwrap_or_default();
    if bytes.is_empty() {
        return Poll::Ready(Ok(0));
    }
    to.reserve_capacity(bytes.len());
    let mut room = to.capacity();
    if room == 0 {
        room = match ready!(to.poll_capacity(cx)) {
            Some(room) => room.map_err(broken)?,
            None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        };
    }
    let bytes = bytes.get(..bytes.len().min(room)).unwrap_or_default();
    if let Some(left) = left {
        *left = left.saturating_sub(bytes.len() as u64);
    }
    to.send_data(Bytes::copy_from_slice(bytes), *left == Some(0)).map_err(broken)?;
    Poll::Ready(Ok(bytes.len()))
}
