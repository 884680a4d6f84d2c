//! Keys of session tickets, handed on, so that clients go on with their sessions over an upgrade.
//!
//! They go only to a listener that shows the same and asks clients for the same: a ticket speaks for a client whose
//! certificate was looked at by those rules.

use std::time::Duration;

use crate::{
    proxy::snapshot::Snapshot,
    tls::{Server, TicketKey},
    wire::handover::{Ticket, Tickets},
};

/// Those of all listeners.
pub(in crate::proxy) fn all(snapshot: &Snapshot) -> Vec<Tickets> {
    let of = snapshot.listeners.iter().filter_map(|listener| Some((&listener.name, listener.tls.as_ref()?)));
    of.map(|(listener, tls)| Tickets {
        listener: listener.to_string(),
        setting: setting(tls),
        keys: tls.ticket_keys().iter().map(told).collect(),
    })
    .collect()
}

/// Gives each listener its own.
pub(in crate::proxy) fn take(snapshot: &Snapshot, all: &[Tickets]) {
    for listener in &snapshot.listeners {
        let Some(tls) = &listener.tls else { continue };
        let same = |of: &&Tickets| of.listener == listener.name.as_str() && of.setting == setting(tls);
        let Some(given) = all.iter().find(same) else { continue };
        let keys: Option<Vec<TicketKey>> = given.keys.iter().map(heard).collect();
        match keys {
            Some(keys) => tls.take_ticket_keys(&keys),
            None => {
                tracing::warn!(listener.name = %listener.name, "keys of session tickets were handed over that are none");
            }
        }
    }
}

/// In words that need to mean nothing but themselves, as with verdicts.
fn setting(tls: &Server) -> String {
    format!("{:?}", tls.setting())
}

fn told(key: &TicketKey) -> Ticket {
    let made_ms = u64::try_from(key.made.as_millis()).unwrap_or(u64::MAX);
    Ticket { name: hex::encode(key.name), secret: hex::encode(key.secret), made_ms }
}

fn heard(key: &Ticket) -> Option<TicketKey> {
    let (mut name, mut secret) = ([0; 16], [0; 32]);
    hex::decode_to_slice(&key.name, &mut name).ok()?;
    hex::decode_to_slice(&key.secret, &mut secret).ok()?;
    Some(TicketKey { name, secret, made: Duration::from_millis(key.made_ms) })
}
