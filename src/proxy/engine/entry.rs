//! Whether a connection is let in, as far as that can be known before it has said anything; and what becomes of one that
//! is not.
//!
//! A peer that passes on the connections or requests of others is not itself a client: of a balancer, the one that its
//! PROXY header names is, once that is read; behind a trusted proxy, the one that each request names.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::{net::TcpStream, time::Instant};

use super::{
    connection::{Client, From},
    listeners::Door,
    opening, respond,
    stream::Stream,
    worker::Worker,
};
use crate::{
    clock,
    config::proxy::Network,
    proxy::{
        answer::Answer,
        limit::{self, Turned, clients::Connected, gate::Inside},
        record::metrics::Open,
    },
};

/// How often a thread says of one reason that connections were closed for it: who sends one sends many.
const TOLD: Duration = Duration::from_secs(5);

/// The places that a connection has taken; it leaves them when dropped.
#[derive(Debug)]
pub(super) struct Entered {
    _open: Open,
    _all: Inside,
    _here: Option<Inside>,
    of_client: Option<Connected>,
}

/// Lets a connection in, or says why not.
pub(super) fn enter(worker: &Worker, door: &Door, peer: SocketAddr) -> Result<Entered, Turned> {
    let shared = &worker.shared;
    let most = shared.most.min(shared.live.peek().limits.connections);
    let entered = door.with(&shared.live, |snapshot, place| {
        let listener = snapshot.listeners.get(place)?;
        let has = |networks: &[Network]| networks.iter().any(|network| network.contains(peer.ip()));
        let is_client = !has(&listener.trusted) && !has(&listener.proxy_protocol);
        Some((|| {
            if is_client {
                limit::address(snapshot, listener, peer.ip())?;
            }
            let all = shared.connections.enter(most).ok_or(Turned::Connections)?;
            let here = limit::of_listener(snapshot, place)?;
            let of_client = if is_client { limit::of_client(snapshot, place, peer.ip())? } else { None };
            Ok(Entered { _open: door.open.open(), _all: all, _here: here, of_client })
        })())
    });
    // A listener that nobody knows has no bounds; what becomes of its connections is seen when they open.
    entered.flatten().unwrap_or_else(|| {
        let all = shared.connections.enter(most).ok_or(Turned::Connections)?;
        Ok(Entered { _open: door.open.open(), _all: all, _here: None, of_client: None })
    })
}

/// A PROXY header has named another client than the peer: lets that one in, or says why not.
pub(super) fn enter_named(worker: &Worker, from: &mut From) -> Result<(), Turned> {
    let ip = from.peer.ip();
    let of_client = from.door.with(&worker.shared.live, |snapshot, place| {
        let listener = snapshot.listeners.get(place)?;
        if listener.trusted.iter().any(|network| network.contains(ip)) {
            return None;
        }
        let entered = limit::address(snapshot, listener, ip);
        entered.and_then(|()| limit::of_client(snapshot, place, ip)).transpose()
    });
    if let (Some(of_client), Some(entered)) = (of_client.flatten().transpose()?, &mut from.entered) {
        entered.of_client = Some(of_client);
    }
    Ok(())
}

/// Tells a connection why it is not let in. Inside TLS it would take a handshake to say so: there it is closed.
pub(super) async fn turn_away(worker: &Worker, from: From, tcp: TcpStream, why: Turned) {
    if from.door.look(&worker.shared.live, |at| at.tls.is_some()).unwrap_or(true) {
        return closed(worker, &from.door, from.peer, why.reason(), &why);
    }
    let mut client = Client::new(Stream::Plain(tcp), Arc::new(from), worker.timers.slot());
    respond::refuse(worker, &mut client, &Answer::Turned(why)).await;
    client.wire.linger(&worker.scratch).await;
}

/// Counts a connection that is closed without an answer, and says so.
pub(super) fn closed(
    worker: &Worker,
    door: &Door,
    peer: SocketAddr,
    reason: &'static str,
    why: &dyn std::error::Error,
) {
    worker.shared.metrics.refused(&door.listener, reason);
    if worker.complaints.is_due(reason, clock::now()) {
        tracing::warn!(listener = door.listener, peer = %peer, reason, error = %why, "a connection was closed");
    }
}

/// When a thread complained last, for each reason.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<SmallVec<[(&'static str, Instant); 2]>>);

impl Complaints {
    /// Whether it is time for another one.
    fn is_due(&self, reason: &'static str, now: Instant) -> bool {
        // A time is never half written.
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match told.iter_mut().find(|(of, _)| *of == reason) {
            Some((_, told)) if now.duration_since(*told) < TOLD => return false,
            Some((_, told)) => *told = now,
            None => told.push((reason, now)),
        }
        true
    }
}

/// Whether a connection from there begins with a PROXY header, and reads it. `Ok(false)`: there was none that is good.
pub(super) async fn named(
    worker: &Worker,
    tcp: &TcpStream,
    slot: &super::timers::Slot,
    from: &mut From,
) -> Result<bool, Turned> {
    if !opening::is_due(worker, from) {
        return Ok(true);
    }
    let balancer = from.peer;
    if !opening::read(worker, tcp, slot, from).await {
        return Ok(false);
    }
    // One that speaks for itself is let in as what it is.
    if !from.unnamed && from.peer != balancer {
        enter_named(worker, from)?;
    }
    Ok(true)
}
