//! How a connection opens that somebody passes on: the PROXY header, from balancers before us and to upstreams.
//!
//! Who sends one is a matter of the config alone. From those peers it is required, from others none is read: nothing is
//! guessed from what a connection begins with.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    task::{Poll, ready},
};

use rustix::net::RecvFlags;
use tokio::{io::Interest, net::TcpStream};

use super::{
    connection::{Client, From},
    entry,
    timers::Slot,
    worker::Worker,
};
use crate::{
    clock,
    config::proxy::Network,
    model::proxy_protocol::{self, Ends, Header, Malformed},
    proxy::snapshot::Upstream,
};

/// Looked at at once. Nearly every header is shorter.
const PIECE: usize = 512;

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
enum Bad {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the connection ended within its PROXY header")]
    Ended,
    #[error("the PROXY header was not complete in time")]
    Slow,
}

impl Bad {
    /// The label of metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(Malformed::Missing) => "no-proxy-header",
            Self::Malformed(_) | Self::Ended => "bad-proxy-header",
            Self::Slow => "proxy-header-too-slow",
        }
    }
}

/// Whether a connection from there begins with a header.
pub(super) fn is_due(worker: &Worker, from: &From) -> bool {
    let sends = |senders: &[Network]| senders.iter().any(|network| network.contains(from.peer.ip()));
    from.door.look(&worker.shared.live, |listener| sends(&listener.proxy_protocol)).unwrap_or(false)
}

/// Reads the header, and not a byte more: whatever follows is still in the socket, for TLS or for the first head. False:
/// there is no good one, and the connection is to be closed without an answer, for nobody knows what it speaks.
pub(super) async fn read(worker: &Worker, tcp: &TcpStream, slot: &Slot, from: &mut From) -> bool {
    match header(worker, tcp, slot, from).await {
        Ok(Some(Header { ends: Some(ends), .. })) => {
            from.is_of(ends);
            true
        }
        Ok(Some(Header { ends: None, .. })) => {
            from.unnamed = true;
            true
        }
        Ok(None) => false,
        Err(bad) => {
            entry::closed(worker, &from.door, from.peer, bad.reason(), &bad);
            false
        }
    }
}

/// Nothing: it was closed before its first byte, or we stop.
async fn header(worker: &Worker, tcp: &TcpStream, slot: &Slot, from: &From) -> Result<Option<Header>, Bad> {
    let patience = worker.shared.live.peek().limits.header_timeout;
    let began = clock::now();
    let mut held = Vec::new();
    poll_fn(|cx| {
        loop {
            match tcp.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(ended(&held)),
                Poll::Pending => {
                    let idle = held.is_empty();
                    let patience = worker.patience(from, patience, idle).unwrap_or(patience);
                    ready!(slot.poll(cx, began + patience, clock::now()));
                    let stopping = idle && worker.is_stopping();
                    return Poll::Ready(if stopping { Ok(None) } else { Err(Bad::Slow) });
                }
            }
            let mut room = [0; PIECE];
            let seen = match receive(tcp, &mut room, RecvFlags::PEEK) {
                Ok(0) => return Poll::Ready(ended(&held)),
                Ok(seen) => seen,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return Poll::Ready(ended(&held)),
            };
            let before = held.len();
            held.extend_from_slice(&room[..seen]);
            let header = proxy_protocol::read(&held)?;
            // All of it that was only looked at so far, and of what follows nothing.
            let taken = header.map_or(seen, |header| header.length - before);
            match receive(tcp, &mut room[..taken], RecvFlags::empty()) {
                Ok(received) if received == taken => {}
                _ => return Poll::Ready(Err(Bad::Ended)),
            }
            if header.is_some() {
                return Poll::Ready(Ok(header));
            }
        }
    })
    .await
}

fn ended(held: &[u8]) -> Result<Option<Header>, Bad> {
    if held.is_empty() { Ok(None) } else { Err(Bad::Ended) }
}

fn receive(tcp: &TcpStream, room: &mut [u8], how: RecvFlags) -> io::Result<usize> {
    tcp.try_io(Interest::READABLE, || Ok(rustix::net::recv(tcp, room, how)?.1))
}

/// What a connection to this upstream begins with: the client's address and where it connected to.
pub(super) fn to(upstream: &Upstream, client: &Client) -> io::Result<Option<Vec<u8>>> {
    let Some(version) = upstream.proxy_protocol else { return Ok(None) };
    let destination: SocketAddr = client.from.to.map_or_else(|| client.wire.stream.local(), Ok)?;
    let ends = Ends { source: client.from.peer, destination };
    Ok(Some(proxy_protocol::write(version, Some(ends))))
}
