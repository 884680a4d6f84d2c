//! Serving a router on an open port until told to stop.

use std::{io, time::Duration};

use axum::Router;
use tokio::net::TcpListener;

use crate::supervise::Stop;

/// Serves until `stop`, then stops accepting and lets running requests end within `grace`.
///
/// Long polls must watch the same stop themselves, or they use the whole grace.
pub async fn serve(listener: TcpListener, router: Router, stop: Stop, grace: Duration) -> io::Result<()> {
    let asked = stop.clone();
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    let serving =
        axum::serve(listener, service).with_graceful_shutdown(async move { asked.requested().await });
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
