//! Hands are shaken with a client before its first request: within the time that a head may take, and by the rules
//! that its listener has at that moment.

use std::{future::poll_fn, sync::Arc, task::Poll};

use rustls::{Error, HandshakeKind, InvalidMessage, ProtocolVersion};
use tokio::net::TcpStream;

use super::{
    connection::Client,
    listeners::Door,
    respond,
    stream::Stream,
    tls::{Failed, Tls},
    worker::Worker,
};
use crate::{
    clock,
    proxy::{answer::Answer, guard::Refusal, identify::Secured},
    tls::{Asks, Denied},
};

/// A connection before its first byte; and who says who the client is, if it is to be inside TLS. `None`: it cannot be
/// served.
pub(super) fn begin(worker: &Worker, door: &Door, tcp: TcpStream) -> Option<(Stream, Option<Asks>)> {
    let accepted = door.look(&worker.shared.live, |at| at.tls.as_ref().map(|server| server.accept()));
    // It is known by somebody, now or before; if not, then nothing is known of how it may be spoken to.
    let Some(accepted) = accepted? else { return Some((Stream::Plain(tcp), None)) };
    match accepted {
        Ok((session, asks)) => {
            let tls = Tls::server(tcp, session, worker.crypt.clone());
            Some((Stream::Tls(Box::new(tls)), Some(asks)))
        }
        Err(error) => {
            tracing::error!(error = %error, "a handshake could not begin");
            None
        }
    }
}

/// Shakes hands. `false`: the client is not served, and was told why as far as it can be.
pub(super) async fn shake(worker: &Worker, client: &mut Client, asks: &Asks) -> bool {
    let (began, most) = (clock::now(), worker.shared.live.peek().limits.header_timeout);
    let Client { wire, from, slot } = &mut *client;
    let Stream::Tls(tls) = &mut wire.stream else { return true };
    let shaken = poll_fn(|cx| match tls.poll_handshake(cx) {
        Poll::Ready(shaken) => Poll::Ready(Some(shaken)),
        Poll::Pending => {
            // At a stop it has only as long as a first request has.
            let patience = worker.patience(from, most, true).unwrap_or_default();
            slot.poll(cx, began + patience, clock::now()).map(|()| None)
        }
    });
    let why = match shaken.await {
        Some(Ok(())) => match asks.peer(tls.common()) {
            Ok(peer) => {
                let state = tls.common();
                let is_12 = state.protocol_version() == Some(ProtocolVersion::TLSv1_2);
                let resumed = state.handshake_kind() == Some(HandshakeKind::Resumed);
                let version = if is_12 { "1.2" } else { "1.3" };
                // Nobody has it yet but its connection.
                if let Some(from) = Arc::get_mut(from) {
                    from.secured = Some(Arc::new(Secured { version, resumed, peer }));
                }
                count(worker, &from.door, if resumed { Handshake::Resumed } else { Handshake::Full });
                return true;
            }
            Err(denied) => denied.reason(),
        },
        Some(Err(Failed::PlainHttp)) => {
            tls.give_up();
            Box::pin(respond::refuse(worker, client, &Answer::Refused(Refusal::PlainHttp))).await;
            return false;
        }
        Some(Err(failed)) => reason(&failed),
        None => "tls-too-slow",
    };
    tls.give_up();
    count(worker, &from.door, Handshake::Refused(why));
    tracing::debug!(client.address = %from.peer, reason = why, "no handshake with a client");
    false
}

/// How a handshake ended.
enum Handshake {
    Full,
    Resumed,
    Refused(&'static str),
}

fn count(worker: &Worker, door: &Door, ended: Handshake) {
    let name = door.listener.as_str();
    match ended {
        Handshake::Full => worker.shared.metrics.shaken(name, "full"),
        Handshake::Resumed => worker.shared.metrics.shaken(name, "resumed"),
        Handshake::Refused(why) => worker.shared.metrics.refused(name, why),
    }
}

/// The label of metrics and logs.
fn reason(failed: &Failed) -> &'static str {
    let error = match failed {
        Failed::Tls(error) => error,
        Failed::PlainHttp => return Refusal::PlainHttp.reason(),
        Failed::Strange => return "tls-strange",
        Failed::Gone => return "tls-gone",
    };
    if let Ok(denied) = Denied::try_from(error) {
        return denied.reason();
    }
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "tls-strange",
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => "tls-nothing-in-common",
        // It does not trust our certificate, mostly.
        Error::AlertReceived(_) => "tls-refused-by-client",
        _ => "tls-bad",
    }
}
