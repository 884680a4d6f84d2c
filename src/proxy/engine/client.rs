//! The client's end of a connection.
//!
//! Pingora owns the stream while a request runs, yet three things stay ours: when waiting for an answer must
//! end (Pingora times reads, not requests), whether the client has closed (while a request is held nobody
//! reads), and how the connection ends (cut, or lingering so that an early answer is not lost).

use std::{
    any::Any,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType, raw_connect::ProxyDigest,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

/// While a client has sent more than was read, its closing cannot be waited for, only looked for.
const LOOK: Duration = Duration::from_millis(100);

/// After an early answer, input is read and dropped for so long at most.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// And so much of it at most.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Room for one read of a head: nearly all heads come whole.
const READ: usize = 4 * 1024;

/// Shared by the connection's task and the stream that Pingora holds.
#[derive(Debug)]
pub(super) struct Client {
    tcp: TcpStream,
    peer: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    deadline: Option<Instant>,
    expired: bool,
    cut: bool,
    whole: bool,
}

impl Client {
    pub(super) fn new(tcp: TcpStream, peer: SocketAddr) -> Arc<Self> {
        Arc::new(Self { tcp, peer, state: Mutex::default() })
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// From now on, reading fails at `at`: so a wait for an answer ends, since Pingora watches the client
    /// meanwhile.
    pub(super) fn set_deadline(&self, at: Option<Instant>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.deadline, state.expired) = (at, false);
    }

    /// Whether reading failed because of the deadline.
    pub(super) fn expired(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).expired
    }

    /// The whole request was read (or a new one begins). What comes after it is the next request, and not
    /// for Pingora to see: it would take it for a fault of this one.
    pub(super) fn set_whole(&self, whole: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).whole = whole;
    }

    /// The connection is to be reset, not closed: half an answer must not look whole.
    pub(super) fn cut(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).cut = true;
    }

    /// Completes when the client has closed its side. Reads nothing.
    pub(super) async fn gone(&self) {
        loop {
            match self.tcp.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(LOOK).await,
                _ => return,
            }
        }
    }

    /// Reads what is there into `into`; 0 is the end.
    pub(super) async fn read(&self, into: &mut BytesMut) -> io::Result<usize> {
        loop {
            self.tcp.readable().await?;
            // Only now: a connection that waits costs no buffer.
            into.reserve(READ);
            match self.tcp.try_read_buf(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    /// Writes all of it.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.tcp.writable().await?;
            match self.tcp.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection after the last answer: cut if told so, else lingering until the client has closed.
    pub(super) async fn finish(&self) {
        let cut = self.state.lock().unwrap_or_else(PoisonError::into_inner).cut;
        if cut {
            // With this, dropping the socket resets the connection.
            if let Err(error) = self.tcp.set_zero_linger() {
                tracing::debug!(error = %error, "connection could not be reset");
            }
            return;
        }
        if self.shut_down().is_err() {
            return;
        }
        let drain = async {
            let mut scratch = BytesMut::with_capacity(64 * 1024);
            let mut dropped = 0;
            while dropped < LINGER_BYTES {
                scratch.clear();
                match self.read(&mut scratch).await {
                    Ok(n) if n > 0 => dropped += n,
                    _ => return,
                }
            }
        };
        // Late or not, the connection is closed now.
        drop(tokio::time::timeout(LINGER_TIME, drain).await);
    }

    fn shut_down(&self) -> io::Result<()> {
        rustix::net::shutdown(&self.tcp, rustix::net::Shutdown::Write).map_err(io::Error::from)
    }
}

/// The stream that Pingora reads and writes.
#[derive(Debug)]
pub(super) struct ClientStream {
    client: Arc<Client>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl ClientStream {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { client, timer: None }
    }

    /// Whether the deadline has passed; else wakes the task when it does.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.client.state.lock().unwrap_or_else(PoisonError::into_inner).deadline;
        let Some(deadline) = deadline else {
            self.timer = None;
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(cx));
        self.client.state.lock().unwrap_or_else(PoisonError::into_inner).expired = true;
        Poll::Ready(())
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.client.state.lock().unwrap_or_else(PoisonError::into_inner).whole {
            let mut byte = [0];
            let mut look = ReadBuf::new(&mut byte);
            match self.client.tcp.poll_peek(cx, &mut look) {
                // The client has closed.
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
            ready!(self.poll_deadline(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        loop {
            if let Poll::Ready(ready) = self.client.tcp.poll_read_ready(cx) {
                ready?;
                match self.client.tcp.try_read(buf.initialize_unfilled()) {
                    Ok(n) => {
                        buf.advance(n);
                        return Poll::Ready(Ok(()));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            ready!(self.poll_deadline(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.client.tcp.poll_write_ready(cx))?;
            match self.client.tcp.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.client.tcp.poll_write_ready(cx))?;
            match self.client.tcp.try_write_vectored(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.client.shut_down())
    }
}

#[async_trait::async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // The client may have reset it first; then there is nothing left to shut.
        drop(self.client.shut_down());
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        std::os::fd::AsRawFd::as_raw_fd(&self.client.tcp)
    }
}

impl Ssl for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for ClientStream {}

/// What Pingora keeps between two requests of a connection on our behalf.
pub(super) type Kept = Box<dyn Any + Send + Sync>;
