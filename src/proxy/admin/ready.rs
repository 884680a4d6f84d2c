//! The proxy's own `/readyz`: it can serve while some upstream of some service passes its probes.

use std::sync::Arc;

use crate::{
    clock, health,
    http::Readiness,
    proxy::{
        certificates,
        snapshot::{Live, Snapshot},
    },
    tls::{self, Problem, Server},
    wire::ready::Ready,
};

/// Read off the live snapshot at each probe.
pub(super) struct State(pub(super) Arc<Live>);

impl Readiness for State {
    fn ready(&self) -> Ready {
        let snapshot = self.0.load();
        let (mut able, mut why) = (false, Vec::new());
        for service in &snapshot.services {
            let up = || service.upstreams.iter().filter(|u| u.prober.verdict().state == health::State::Up);
            let (name, all) = (&service.name, service.upstreams.len());
            match (up().count(), up().filter(|upstream| !upstream.ordered.is_drained()).count()) {
                (0, _) => why.push(format!("{name}: none of {all} upstreams is up")),
                (up, 0) => why.push(format!(
                    "{name}: of {all} upstreams {up} are up, and an operator has drained those"
                )),
                _ => able = true,
            }
        }
        why.extend(secured(&snapshot));
        Ready { ready: able, why, ..Ready::default() }
    }
}

/// What is wrong with certificates: nobody is turned away for it now, but somebody has to look.
fn secured(snapshot: &Snapshot) -> Vec<String> {
    let mut why = Vec::new();
    let mut refused = |of: String, problems: Vec<Problem>| {
        if !problems.is_empty() {
            why.push(format!("{of}: new certificates were refused: {}", tls::in_words(&problems)));
        }
    };
    for listener in &snapshot.listeners {
        if let Some(tls) = &listener.tls {
            refused(format!("listener {}", listener.name), tls.trouble());
        }
    }
    for service in &snapshot.services {
        if let Some(tls) = &service.tls {
            refused(service.name.to_string(), tls.trouble());
        }
    }
    for listener in &snapshot.listeners {
        let facts = listener.tls.iter().map(Server::facts);
        for (what, until) in facts.flat_map(|facts| certificates::ending(facts, clock::wall())) {
            why.push(format!("listener {}: the {what} ends, or has ended, at {until}", listener.name));
        }
    }
    why
}
