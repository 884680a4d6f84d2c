//! One end of a connection, with what was read of it and not used yet.

use std::{
    future::poll_fn,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::{RecvFlags, SendFlags};
use tokio::{io::Interest, net::TcpStream, time::timeout};

/// Read at once at most.
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
        let read = ready!(poll_read(&self.tcp, cx, &mut room, most))?;
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
    pub(super) async fn write_all(&self, mut bytes: &[u8], idle: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = timeout(idle, poll_fn(|cx| poll_write(&self.tcp, cx, bytes))).await??;
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

    /// Takes [`Wire::cut`] back.
    pub(super) fn uncut(&self) {
        if let Err(error) = rustix::net::sockopt::set_socket_linger(&self.tcp, None) {
            tracing::debug!(error = %error, "connection could not be kept from being reset");
        }
    }

    /// Whether something has come, or the other side has closed, as far as the runtime knows: no system call, and no
    /// matter how much the task has done in its turn already.
    pub(super) fn is_readable(tcp: &TcpStream) -> bool {
        tcp.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    /// Closes after the last answer so that it is not lost: a connection that is closed with unread input is reset.
    pub(super) async fn linger(self, scratch: &Scratch) {
        if self.shut().is_err() {
            return;
        }
        let mut dropped = self.ahead.len();
        let drain = poll_fn(|cx| {
            while dropped < LINGER_BYTES {
                match ready!(poll_read(&self.tcp, cx, &mut scratch.lock(), SCRATCH)) {
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
///
/// Past the C library, whose wrappers check for the cancellation of threads: at two reads and two writes a request that
/// is felt.
pub(super) fn poll_read(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    room: &mut [u8],
    most: usize,
) -> Poll<io::Result<usize>> {
    let most = most.min(room.len());
    let room = &mut room[..most];
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        let mut short = None;
        let read = tcp.try_io(Interest::READABLE, || {
            let (_, read) = rustix::net::recv(tcp, &mut *room, RecvFlags::empty())?;
            if read > 0 && read < most {
                // There is no more: said so, the next read waits for an event instead of asking in vain.
                short = Some(read);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(read)
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(read) = short {
                    return Poll::Ready(Ok(read));
                }
            }
            other => return Poll::Ready(other),
        }
    }
}

/// A closed connection is an error, no signal. Where the flag is missing the process ignores that signal, as every Rust
/// program does from its start.
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::empty();

/// Writes once; how many bytes were taken.
pub(super) fn poll_write(tcp: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        let mut short = None;
        let written = tcp.try_io(Interest::WRITABLE, || {
            let written = rustix::net::send(tcp, bytes, SEND)?;
            if written > 0 && written < bytes.len() {
                short = Some(written);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(written)
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(written) = short {
                    return Poll::Ready(Ok(written));
                }
            }
            Ok(0) if !bytes.is_empty() => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            other => return Poll::Ready(other),
        }
    }
}
