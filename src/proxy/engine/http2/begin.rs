//! Whether a client begins with HTTP/2: prior knowledge on a plain listener (RFC 9113 §3.3). The upgrade from HTTP/1.1
//! that older versions had is not offered.

use std::{
    future::poll_fn,
    task::{Poll, ready},
};

use super::super::{connection::Client, worker::Worker};
use crate::clock;

/// What such a client says first; of no use in any other protocol.
const SAYS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Read at once of what may be it. What is behind it waits in memory.
const READ: usize = 16 * 1024;

/// How a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy::engine) enum Begins {
    /// With HTTP/2.
    Http2,
    /// With anything else, or nobody asks.
    Other,
    /// It is over before that is known.
    Over,
}

/// Reads no more than it takes to know. What was read is read ahead.
pub(in crate::proxy::engine) async fn begins(worker: &Worker, client: &mut Client) -> Begins {
    if !client.from.door.look(&worker.shared.live, |listener| listener.http2).unwrap_or(false) {
        return Begins::Other;
    }
    let (began, patience) = (clock::now(), worker.shared.live.peek().limits.header_timeout);
    poll_fn(|cx| {
        loop {
            let known = client.wire.ahead.len().min(SAYS.len());
            if client.wire.ahead.get(..known) != SAYS.get(..known) {
                return Poll::Ready(Begins::Other);
            }
            if known == SAYS.len() {
                return Poll::Ready(Begins::Http2);
            }
            if let Poll::Ready(read) = client.wire.poll_ahead(cx, &worker.scratch, READ) {
                match read {
                    Ok(read) if read > 0 => continue,
                    // Who closes before it has said anything is served no worse for it.
                    _ => return Poll::Ready(Begins::Over),
                }
            }
            let waits = if client.wire.ahead.is_empty() {
                worker.patience(&client.from, patience, true)
            } else {
                Some(patience)
            };
            let Some(patience) = waits else { return Poll::Ready(Begins::Over) };
            ready!(client.slot.poll(cx, began + patience, clock::now()));
            return Poll::Ready(Begins::Over);
        }
    })
    .await
}
