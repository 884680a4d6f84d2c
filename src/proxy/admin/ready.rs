//! The proxy's own `/readyz`: it can serve while some upstream of some service passes its probes.

use std::sync::Arc;

use crate::{http::Readiness, proxy::snapshot::Live, wire::ready::Ready};

/// Read off the live snapshot at each probe.
pub(super) struct State(pub(super) Arc<Live>);

impl Readiness for State {
    fn ready(&self) -> Ready {
        let snapshot = self.0.load();
        let (mut able, mut why) = (false, Vec::new());
        for service in &snapshot.services {
            let up =
                service.upstreams.iter().filter(|u| u.prober.verdict().state == crate::health::State::Up);
            match up.count() {
                0 => {
                    why.push(format!("{}: none of {} upstreams is up", service.name, service.upstreams.len()))
                }
                _ => able = true,
            }
        }
        Ready { ready: able, why, ..Ready::default() }
    }
}
