//! Serving a router on an open port until told to stop.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, extract::connect_info::Connected, serve::IncomingStream};
use tokio::net::TcpListener;

#[cfg(target_os = "linux")]
use super::guarded::GuardedIo;
use super::{
    guarded::{Guarded, PATIENCE, Patience},
    secured::Secure,
};
use crate::{supervise::Stop, tls::Shown};

/// Who has connected; an `axum::extract::ConnectInfo` of every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// From where.
    pub address: SocketAddr,
    /// With which certificate, where this server has TLS of its own and asks for one.
    pub shown: Option<Shown>,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self { address, shown: None }
    }
}

impl Connected<IncomingStream<'_, Guarded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Guarded>) -> Self {
        Self::from(*stream.remote_addr())
    }
}

/// Serves until `stop`, then stops accepting and lets running requests end within `grace`.
///
/// Long polls must watch the same stop themselves, or they use the whole grace. A client that stops reading its
/// answer is cut off after a minute. Everything goes inside TLS, where there is some.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Secure>,
    router: Router,
    stop: Stop,
    grace: Duration,
) -> io::Result<()> {
    match tls {
        Some(tls) => tls.serve(PATIENCE, listener, router, stop, grace).await,
        None => serve_with(PATIENCE, listener, router, stop, grace).await,
    }
}

/// As [`serve`]. Below `paths`, plain requests for what lies in files are answered without copying it
/// ([`super::with_parts`]), where the system can do that and there is no TLS.
pub async fn serve_files(
    listener: TcpListener,
    tls: Option<Secure>,
    router: Router,
    paths: &'static [&'static str],
    stop: Stop,
    grace: Duration,
) -> io::Result<()> {
    if tls.is_some() {
        return serve(listener, tls, router, stop, grace).await;
    }
    #[cfg(target_os = "linux")]
    {
        serve_files_with(PATIENCE, listener, router, paths, stop, grace).await
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _copied = paths;
        serve(listener, None, router, stop, grace).await
    }
}

/// Connections that wait for the library's server to take them; it does so at once.
#[cfg(target_os = "linux")]
const HANDED_OVER: usize = 64;

#[cfg(target_os = "linux")]
pub(super) async fn serve_files_with(
    patience: Patience,
    listener: TcpListener,
    router: Router,
    paths: &'static [&'static str],
    stop: Stop,
    grace: Duration,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let (others, handed) = tokio::sync::mpsc::channel(HANDED_OVER);
    let direct = super::direct::Direct { router: router.clone(), paths, patience, others };
    let over = HandedOver { handed, patience, address };
    let both = async {
        let ((), served) =
            tokio::join!(direct.run(listener, stop.clone()), until_stop(over, router, stop.clone()));
        served
    };
    within(both, stop.clone(), grace).await
}

/// Connections on which something was asked that is not for files.
#[cfg(target_os = "linux")]
struct HandedOver {
    handed: tokio::sync::mpsc::Receiver<(tokio::net::TcpStream, SocketAddr)>,
    patience: Patience,
    address: SocketAddr,
}

#[cfg(target_os = "linux")]
impl axum::serve::Listener for HandedOver {
    type Io = GuardedIo<tokio::net::TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.handed.recv().await {
            Some((stream, peer)) => (GuardedIo::new(stream, self.patience), peer),
            // Nobody accepts any more: there will be none.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

#[cfg(target_os = "linux")]
impl Connected<IncomingStream<'_, HandedOver>> for Peer {
    fn connect_info(stream: IncomingStream<'_, HandedOver>) -> Self {
        Self::from(*stream.remote_addr())
    }
}

async fn serve_with(
    patience: Patience,
    listener: TcpListener,
    router: Router,
    stop: Stop,
    grace: Duration,
) -> io::Result<()> {
    within(until_stop(Guarded { listener, patience }, router, stop.clone()), stop, grace).await
}

/// Stops accepting with the stop, and ends with the last answer.
pub(super) async fn until_stop<L>(listener: L, router: Router, stop: Stop) -> io::Result<()>
where
    L: axum::serve::Listener<Addr: std::fmt::Debug>,
    Peer: for<'a> Connected<IncomingStream<'a, L>>,
{
    let service = router.into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, service)
        .with_graceful_shutdown(async move { stop.requested().await })
        .into_future()
        .await
}

/// Cuts what is still running at the end of the grace.
pub(super) async fn within(
    serving: impl Future<Output = io::Result<()>>,
    stop: Stop,
    grace: Duration,
) -> io::Result<()> {
    let late = async {
        stop.requested().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        ended = serving => ended,
        () = late => {
            tracing::warn!("requests were still running at the end of the grace and were cut");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{body::Body, routing::get};
    use bytes::Bytes;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::{clock, supervise::StopSource};

    #[tokio::test]
    async fn a_download_that_nobody_reads_does_not_hold_what_it_reads_from() {
        let held = Arc::new(());
        let source = held.clone();
        let endless = move || {
            let source = source.clone();
            let pieces = futures_util::stream::repeat_with(move || {
                let _held = &source;
                Ok::<_, io::Error>(Bytes::from_static(&[0; 65536]))
            });
            async move { Body::from_stream(pieces) }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Patience { stalled: Duration::from_millis(300), ..PATIENCE };
        let router = Router::new().route("/", get(endless));
        let stopping = StopSource::new();
        let serving = serve_with(patience, listener, router, stopping.stop(), Duration::ZERO);
        let idle = Arc::strong_count(&held);
        let client = async {
            let mut raw = tokio::net::TcpStream::connect(address).await.unwrap();
            raw.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let until = clock::now() + Duration::from_secs(20);
            let (mut began, mut ended) = (false, false);
            while !ended && clock::now() < until {
                let open = Arc::strong_count(&held) > idle;
                (began, ended) = (began || open, began && !open);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(began && ended, "the body is still held");
            stopping.request();
        };
        let (served, ()) = tokio::join!(serving, client);
        served.unwrap();
    }
}
