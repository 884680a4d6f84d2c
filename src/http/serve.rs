//! Serving a router on an open port until told to stop.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, extract::connect_info::Connected, serve::IncomingStream};
use tokio::net::TcpListener;

use super::guarded::{Guarded, PATIENCE, Patience};
use crate::supervise::Stop;

/// Who has connected; an `axum::extract::ConnectInfo` of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, Guarded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Guarded>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Serves until `stop`, then stops accepting and lets running requests end within `grace`.
///
/// Long polls must watch the same stop themselves, or they use the whole grace. A client that stops reading its
/// answer is cut off after a minute.
pub async fn serve(listener: TcpListener, router: Router, stop: Stop, grace: Duration) -> io::Result<()> {
    serve_with(PATIENCE, listener, router, stop, grace).await
}

async fn serve_with(
    patience: Patience,
    listener: TcpListener,
    router: Router,
    stop: Stop,
    grace: Duration,
) -> io::Result<()> {
    let asked = stop.clone();
    let service = router.into_make_service_with_connect_info::<Peer>();
    let serving = axum::serve(Guarded { listener, patience }, service)
        .with_graceful_shutdown(async move { asked.requested().await });
    let late = async {
        stop.requested().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        ended = serving.into_future() => ended,
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
