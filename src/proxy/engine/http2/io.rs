//! The connection under the frames, as the library reads and writes it: what passes is metered, and what is written in
//! pieces leaves in one.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::Meter;
use crate::{clock, proxy::engine::stream::Stream};

/// Read at once at most.
const READ: usize = 16 * 1024;

/// So much is gathered before it is written. Full: it is written first.
const GATHERED: usize = 64 * 1024;

/// A larger buffer is given back when it is empty: a connection that waits is small.
const KEPT: usize = 4 * 1024;

/// A connection, shared between the library and who drives it.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<Io>>);

/// The connection itself.
#[derive(Debug)]
pub(super) struct Io {
    pub(super) stream: Stream,
    pub(super) meter: Meter,
    /// The client has closed, or broke off.
    pub(super) ended: bool,
    /// Read before anybody knew what it was.
    first: Vec<u8>,
    out: Vec<u8>,
    out_at: usize,
}

impl Shared {
    pub(super) fn new(stream: Stream, first: Vec<u8>) -> Self {
        let meter = Meter::new(clock::now());
        let io = Io { stream, meter, ended: false, first, out: Vec::new(), out_at: 0 };
        Self(Arc::new(Mutex::new(io)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Io> {
        // One thread has it, and nothing of it panics halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection again, once the library has let go of it.
    pub(super) fn into_inner(self) -> Option<Io> {
        Some(Arc::into_inner(self.0)?.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Io {
    fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.meter.fault().is_some() {
            // No more of it is looked at; who drives the connection ends it.
            return Poll::Pending;
        }
        let room = to.initialize_unfilled_to(READ.min(to.remaining()));
        let read = if self.first.is_empty() {
            let most = room.len();
            let read = ready!(self.stream.poll_read(cx, room, most));
            self.ended = !matches!(read, Ok(1..));
            read?
        } else {
            let read = room.len().min(self.first.len());
            for (to, byte) in room.iter_mut().zip(self.first.drain(..read)) {
                *to = byte;
            }
            read
        };
        if self.meter.came(room.get(..read).unwrap_or_default(), clock::now()).is_err() {
            return Poll::Pending;
        }
        to.advance(read);
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.out.len() - self.out_at >= GATHERED {
            ready!(self.poll_flush(cx))?;
        }
        self.meter.went(bytes);
        self.out.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.get(self.out_at..).filter(|rest| !rest.is_empty()) {
            let written = ready!(self.stream.poll_write(cx, rest)).inspect_err(|_| self.ended = true)?;
            self.out_at += written;
        }
        self.out_at = 0;
        if self.out.capacity() > KEPT {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_read(cx, to)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.lock().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = self.lock();
        ready!(io.poll_flush(cx))?;
        io.stream.poll_shut(cx)
    }
}
