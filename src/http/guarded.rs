//! Connections that nothing moves on are closed. Whoever stops reading a download would otherwise hold its file,
//! its socket and a buffer for as long as it likes, and a handler cannot see that: it is just never asked for more.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep},
};

use crate::clock;

/// How long a connection may stand still.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Its peer takes no byte of what we want to send.
    pub(super) stalled: Duration,
    /// No byte moves either way, while nothing waits to be sent. Longer than any answer may take.
    pub(super) quiet: Duration,
}

/// What every server of ours gives.
pub(super) const PATIENCE: Patience =
    Patience { stalled: Duration::from_secs(60), quiet: Duration::from_secs(15 * 60) };

/// Accepts guarded connections.
pub(super) struct Guarded {
    pub(super) listener: TcpListener,
    pub(super) patience: Patience,
}

impl axum::serve::Listener for Guarded {
    type Io = GuardedIo<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // Axum's own: waits a second when descriptors run out.
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        (GuardedIo::new(stream, self.patience), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection.
pub(super) struct GuardedIo<S> {
    stream: S,
    patience: Patience,
    moved: Instant,
    /// Since when the peer takes nothing.
    stalled: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<S> GuardedIo<S> {
    pub(super) fn new(stream: S, patience: Patience) -> Self {
        let moved = clock::now();
        let timer = Box::pin(tokio::time::sleep_until(moved + patience.quiet));
        Self { stream, patience, moved, stalled: None, timer }
    }

    /// Notes how a write went; fails when writes have waited too long.
    fn wrote<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            (self.stalled, self.moved) = (None, clock::now());
            return poll;
        }
        self.stalled.get_or_insert_with(clock::now);
        ready!(self.watch(cx))
    }

    /// Fails at the end of the patience; until then the task is woken when it would end.
    fn watch<T>(&mut self, cx: &mut Context<'_>) -> Poll<Poll<io::Result<T>>> {
        let end = match self.stalled {
            Some(since) => since + self.patience.stalled,
            None => self.moved + self.patience.quiet,
        };
        if clock::now() >= end {
            return Poll::Ready(Poll::Ready(Err(io::ErrorKind::TimedOut.into())));
        }
        if self.timer.deadline() != end {
            self.timer.as_mut().reset(end);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Poll::Ready(Err(io::ErrorKind::TimedOut.into())));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if poll.is_ready() {
            self.moved = clock::now();
            return poll;
        }
        ready!(self.watch(cx))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(poll, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(poll, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pair() -> (GuardedIo<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1000);
        (GuardedIo::new(ours, PATIENCE), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_cut_and_a_slow_one_is_not() {
        let (mut ours, mut theirs) = pair();
        let began = clock::now();
        let slow = async {
            let mut piece = [0; 100];
            for _ in 0..10 {
                tokio::time::sleep(PATIENCE.stalled - SECOND).await;
                theirs.read_exact(&mut piece).await.unwrap();
            }
        };
        let (cut, ()) = tokio::join!(ours.write_all(&[0; 3000]), slow);
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(
            began.elapsed().as_secs(),
            (PATIENCE.stalled.as_secs() - 1) * 10 + PATIENCE.stalled.as_secs()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_byte_is_closed_and_one_with_some_is_not() {
        let (mut ours, mut theirs) = pair();
        let began = clock::now();
        let some = async {
            for _ in 0..3 {
                tokio::time::sleep(PATIENCE.quiet - SECOND).await;
                theirs.write_all(b"x").await.unwrap();
            }
        };
        let reading = async {
            let mut all = Vec::new();
            ours.read_to_end(&mut all).await
        };
        let (closed, ()) = tokio::join!(reading, some);
        assert_eq!(closed.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), PATIENCE.quiet * 4 - SECOND * 3);
    }
}
