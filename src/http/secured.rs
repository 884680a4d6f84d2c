//! Serving inside TLS. Hands are shaken beside the accepting, so that a client that is slow with it keeps nobody waiting.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::connect_info::Connected, serve::IncomingStream};
use prometheus::IntCounterVec;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    guarded::{GuardedIo, Patience},
    serve::{Peer, until_stop, within},
};
use crate::{
    supervise::Stop,
    telemetry::{Metrics, MetricsError, chain, names},
    tls::{SecuredStream, Server},
};

/// A client that takes longer has not been one: clients of ours wait as long for a connection.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes under way at once. More connections wait in the system's queue until one of them is over.
const HANDSHAKES: usize = 4096;

/// Connections that wait for the library's server to take them; it does so at once.
const SECURED: usize = 64;

/// The answer to whoever speaks plainly at such a port.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 39\r\nconnection: close\r\n\r\nThis port speaks TLS: write `https://`\n";

/// The TLS of one server's port. Cheap to clone.
#[derive(Clone)]
pub struct Secure {
    tls: Server,
    refused: IntCounterVec,
}

impl Secure {
    /// With these files; who was not let in is counted.
    ///
    /// # Errors
    /// A metric that exists already: this was called twice for one [`Metrics`].
    pub fn new(tls: Server, metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self { tls, refused: metrics.counters(names::TLS_REFUSED)? })
    }

    /// Serves until `stop`, then lets running requests end within `grace`.
    pub(super) async fn serve(
        self,
        patience: Patience,
        listener: TcpListener,
        router: Router,
        stop: Stop,
        grace: Duration,
    ) -> io::Result<()> {
        let address = listener.local_addr()?;
        let (secured, handed) = mpsc::channel(SECURED);
        let taken = Taken { handed, patience, address };
        let both = async {
            let ((), served) = tokio::join!(
                self.accept(listener, secured, stop.clone()),
                until_stop(taken, router, stop.clone())
            );
            served
        };
        within(both, stop.clone(), grace).await
    }

    /// Accepts until `stop`; what is not secured by then is closed.
    async fn accept(
        self,
        mut listener: TcpListener,
        secured: mpsc::Sender<(SecuredStream, Peer)>,
        stop: Stop,
    ) {
        let room = Arc::new(Semaphore::new(HANDSHAKES));
        let mut shaking = JoinSet::new();
        loop {
            let place = tokio::select! {
                () = stop.requested() => return,
                place = room.clone().acquire_owned() => place,
            };
            let (tcp, address) = loop {
                tokio::select! {
                    () = stop.requested() => return,
                    // Axum's own: waits a second when descriptors run out.
                    accepted = axum::serve::Listener::accept(&mut listener) => break accepted,
                    Some(ended) = shaking.join_next() => {
                        if let Err(error) = ended {
                            tracing::error!(error = %error, "a handshake's handler failed");
                        }
                    }
                }
            };
            let (this, secured) = (self.clone(), secured.clone());
            shaking.spawn(async move {
                let _place = place;
                if let Some(connection) = this.shake(tcp, address).await {
                    // Only at the stop there is nobody who takes it.
                    drop(secured.send(connection).await);
                }
            });
        }
    }

    async fn shake(&self, tcp: TcpStream, address: SocketAddr) -> Option<(SecuredStream, Peer)> {
        let shaken = tokio::time::timeout(HANDSHAKE, async {
            if is_plain(&tcp).await {
                return Err(("plain-http", Some(tcp)));
            }
            let secured = self.tls.secure(tcp).await;
            secured.map_err(|error| {
                tracing::debug!(client.address = %address, error = %chain(&error), "no handshake with a client");
                (error.reason(), None)
            })
        });
        let (reason, plain) = match shaken.await {
            Ok(Ok((stream, shown))) => return Some((stream, Peer { address, shown })),
            Ok(Err(why)) => why,
            Err(_) => ("tls-too-slow", None),
        };
        self.refused.with_label_values(&[reason]).inc();
        if let Some(mut tcp) = plain {
            // What has come is taken, or the system would say only that it was not. Whether it hears us is its own affair.
            tcp.try_read(&mut [0; 8 * 1024]).ok();
            tokio::time::timeout(HANDSHAKE, tcp.write_all(PLAIN)).await.ok();
        }
        None
    }
}

/// Whether what comes begins as a request of plain HTTP does; no handshake does (RFC 8446 §5.1).
async fn is_plain(tcp: &TcpStream) -> bool {
    let mut first = [0];
    matches!(tcp.peek(&mut first).await, Ok(1) if first[0].is_ascii_uppercase())
}

/// Connections on which hands were shaken.
struct Taken {
    handed: mpsc::Receiver<(SecuredStream, Peer)>,
    patience: Patience,
    address: SocketAddr,
}

impl axum::serve::Listener for Taken {
    type Io = GuardedIo<SecuredStream>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.handed.recv().await {
            Some((stream, peer)) => (GuardedIo::new(stream, self.patience), peer),
            // Nobody accepts any more: there will be none.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address.into())
    }
}

impl Connected<IncomingStream<'_, Taken>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Taken>) -> Self {
        stream.remote_addr().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_speaks_plainly_is_told_so_with_the_right_length() {
        let text = String::from_utf8_lossy(PLAIN);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head} {}", body.len());
    }
}
