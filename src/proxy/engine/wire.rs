//! One end of a connection, with what was read of it and not used yet.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::timeout,
};

/// Read at once at most. Larger reads were no faster for large bodies, smaller ones were.
pub(super) const SCRATCH: usize = 256 * 1024;

/// After an early answer, input is read and dropped for so long at most.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// And so much of it at most.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// While a client has sent more than was read, its closing cannot be waited for, only looked for.
const LOOK: Duration = Duration::from_millis(100);

/// The one buffer into which a thread reads: what comes is used before the next read, or copied to where it waits. So
/// a connection that waits has none.
#[derive(Debug)]
pub(super) struct Scratch(Mutex<Box<[u8]>>);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(Mutex::new(vec![0; SCRATCH].into_boxed_slice()))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Box<[u8]>> {
        // Bytes have no state that could be left half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket, and what was read beyond what was asked for.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) tcp: TcpStream,
    pub(super) ahead: Vec<u8>,
}

impl Wire {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, ahead: Vec::new() }
    }

    /// Reads once, `most` bytes at most, and keeps them in `ahead`; 0 is the end.
    pub(super) fn poll_ahead(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &Scratch,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let mut room = scratch.lock();
        let read = ready!(poll_read(&mut self.tcp, cx, &mut room, most))?;
        self.ahead.extend_from_slice(&room[..read]);
        Poll::Ready(Ok(read))
    }

    /// Gives up the first `count` bytes of what was read ahead.
    pub(super) fn used(&mut self, count: usize) {
        if count >= self.ahead.len() {
            // Not merely cleared: a connection that waits has no buffer.
            self.ahead = Vec::new();
        } else {
            self.ahead.drain(..count);
        }
    }

    /// Completes when the other side has closed. Reads nothing.
    pub(super) async fn gone(&self) {
        loop {
            match self.tcp.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(LOOK).await,
                _ => return,
            }
        }
    }

    /// Writes all of it, or fails when no byte is taken for `idle`.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8], idle: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = poll_fn(|cx| Pin::new(&mut self.tcp).poll_write(cx, bytes));
            let written = timeout(idle, write).await??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// No more is written.
    pub(super) fn shut(&self) -> io::Result<()> {
        rustix::net::shutdown(&self.tcp, rustix::net::Shutdown::Write).map_err(io::Error::from)
    }

    /// The connection will be reset, not closed: half an answer must not look whole.
    pub(super) fn cut(&self) {
        if let Err(error) = self.tcp.set_zero_linger() {
            tracing::debug!(error = %error, "connection could not be reset");
        }
    }

    /// Closes after the last answer so that it is not lost: a connection that is closed with unread input is reset.
    pub(super) async fn linger(mut self, scratch: &Scratch) {
        if self.shut().is_err() {
            return;
        }
        let mut dropped = self.ahead.len();
        let drain = poll_fn(|cx| {
            while dropped < LINGER_BYTES {
                match ready!(poll_read(&mut self.tcp, cx, &mut scratch.lock(), SCRATCH)) {
                    Ok(read) if read > 0 => dropped += read,
                    _ => break,
                }
            }
            Poll::Ready(())
        });
        // Late or not, the connection is closed now.
        drop(timeout(LINGER_TIME, drain).await);
    }
}

/// Reads once into `room`, `most` bytes at most; 0 is the end.
pub(super) fn poll_read(
    tcp: &mut TcpStream,
    cx: &mut Context<'_>,
    room: &mut [u8],
    most: usize,
) -> Poll<io::Result<usize>> {
    let most = most.min(room.len());
    let mut buf = ReadBuf::new(&mut room[..most]);
    ready!(Pin::new(tcp).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}
