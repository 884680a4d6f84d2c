//! One end of a connection: what the engine asks of it, whatever it is made of. What it is made of is decided when the
//! connection is made, and matched on here alone.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::FutureExt;
use rustix::net::{RecvFlags, SendFlags};
use tokio::{io::Interest, net::TcpStream, time::timeout};

use super::{http2::End, tls::Tls};

/// While a client has sent more than was read, its closing cannot be waited for, only looked for.
const LOOK: Duration = Duration::from_millis(100);

/// A connection's end.
#[derive(Debug)]
pub(super) enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Inside TLS.
    Tls(Box<Tls>),
    /// One stream of an HTTP/2 connection; clients only.
    Http2(Box<End>),
}

/// How an unused connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing has come over it.
    Open,
    /// The other side has closed it.
    Closed,
    /// Something has come, which is the answer to nothing.
    Speaks,
}

impl Stream {
    /// Ready when [`Stream::poll_read`] is worth a try.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => tcp.poll_read_ready(cx),
            Self::Tls(tls) if tls.has_plain() => Poll::Ready(Ok(())),
            Self::Tls(tls) => tls.tcp().poll_read_ready(cx),
            Self::Http2(end) => end.poll_readable(cx),
        }
    }

    /// Reads once into `room`, `most` bytes at most; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
        most: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => poll_recv(tcp, cx, room, most),
            Self::Tls(tls) => tls.poll_read(cx, room, most),
            Self::Http2(end) => end.poll_read(cx, room, most),
        }
    }

    /// Writes once; how many bytes were taken. After [`Poll::Pending`] the next call must begin with the same bytes.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => poll_send(tcp, cx, bytes),
            Self::Tls(tls) => tls.poll_write(cx, bytes),
            Self::Http2(end) => end.poll_write(cx, bytes),
        }
    }

    /// Writes all of it, or fails when no byte is taken for `idle`.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8], idle: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = timeout(idle, poll_fn(|cx| self.poll_write(cx, bytes))).await??;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// No more is written; the other side is told.
    pub(super) fn poll_shut(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => {
                Poll::Ready(rustix::net::shutdown(tcp, rustix::net::Shutdown::Write).map_err(io::Error::from))
            }
            Self::Tls(tls) => tls.poll_shut(cx),
            // It ends with its answer.
            Self::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Completes when the other side has closed. Reads nothing.
    pub(super) async fn gone(&self) {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp(),
            Self::Http2(end) => return poll_fn(|cx| end.poll_reset(cx)).await,
        };
        loop {
            match tcp.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(LOOK).await,
                _ => return,
            }
        }
    }

    /// Completes when the other side will take no answer, if that can be known without reading what it sends.
    pub(super) fn poll_refuses(&self, cx: &mut Context<'_>) -> Option<Poll<()>> {
        match self {
            Self::Plain(_) | Self::Tls(_) => None,
            Self::Http2(end) => Some(end.poll_reset(cx)),
        }
    }

    /// The connection will be reset, not closed: half an answer must not look whole.
    pub(super) fn cut(&mut self) {
        if let Self::Tls(tls) = self {
            tls.set_cut(true);
        }
        // A stream of HTTP/2 is reset unless its answer was ended.
        let Some(tcp) = self.tcp() else { return };
        if let Err(error) = tcp.set_zero_linger() {
            tracing::debug!(error = %error, "connection could not be reset");
        }
    }

    /// Ends an answer that has no length, after [`Stream::cut`]: all of it was written. `trailers` are whole lines, of
    /// which HTTP/1 has no more here.
    pub(super) fn finish(&mut self, trailers: &[u8]) -> io::Result<()> {
        match self {
            Self::Http2(end) => return end.finish(trailers),
            Self::Tls(tls) => tls.set_cut(false),
            Self::Plain(_) => {}
        }
        if let Some(tcp) = self.tcp()
            && let Err(error) = rustix::net::sockopt::set_socket_linger(tcp, None)
        {
            tracing::debug!(error = %error, "connection could not be kept from being reset");
        }
        Ok(())
    }

    /// Whether something has come, or the other side has closed, as far as the runtime knows: no system call, and no
    /// matter how much the task has done in its turn already.
    pub(super) fn is_readable(&self) -> bool {
        // What is left of a stream's request disturbs no other.
        matches!(self, Self::Tls(tls) if tls.has_plain())
            || self.tcp().is_some_and(|tcp| tcp.try_io(Interest::READABLE, || Ok(())).is_ok())
    }

    /// How it stands while it is unused, as far as the runtime knows; the system is asked only if that has heard of
    /// something.
    pub(super) fn state(&self) -> State {
        if self.is_readable() { self.look() } else { State::Open }
    }

    /// How it stands at this moment; asks the system.
    pub(super) fn look(&self) -> State {
        match self {
            // What it said is that it closes.
            Self::Tls(tls) if tls.has_ended() || self.is_shut() => return State::Closed,
            Self::Tls(tls) if tls.has_plain() => return State::Speaks,
            _ => {}
        }
        // No stream is ever kept for later.
        let Some(tcp) = self.tcp() else { return State::Closed };
        match rustix::net::recv(tcp, &mut [0u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN) => State::Open,
            Ok((_, 0)) | Err(_) => State::Closed,
            Ok(_) => State::Speaks,
        }
    }

    /// What has come and lies in memory unread, or may come without being asked for. Of a connection of its own the
    /// system keeps it.
    pub(super) fn promised(&self) -> u64 {
        match self {
            Self::Plain(_) | Self::Tls(_) => 0,
            Self::Http2(end) => end.promised(),
        }
    }

    /// Our own address on it.
    pub(super) fn local(&self) -> io::Result<SocketAddr> {
        self.tcp().ok_or(io::ErrorKind::Unsupported)?.local_addr()
    }

    /// Whether the other side has closed, as far as the runtime knows.
    fn is_shut(&self) -> bool {
        let ready = self.tcp().and_then(|tcp| tcp.ready(Interest::READABLE).now_or_never());
        ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
    }

    /// The socket, if bytes go over it as they are.
    pub(super) fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(_) | Self::Http2(_) => None,
        }
    }

    /// The socket under it; a stream of HTTP/2 has none of its own.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.tcp()),
            Self::Http2(_) => None,
        }
    }
}

/// Past the C library, whose wrappers check for the cancellation of threads: at two reads and two writes a request that
/// is felt.
pub(super) fn poll_recv(
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

/// Sends once, and waits for nothing; how many bytes were taken.
pub(super) fn send_now(tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    rustix::net::send(tcp, bytes, SEND | SendFlags::DONTWAIT).map_err(io::Error::from)
}

pub(super) fn poll_send(tcp: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
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
