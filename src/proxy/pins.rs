//! Requests of one client that belong together and must reach the same server, for only that server knows what they are
//! about: the two steps of a handshake and what the session is used for, and the steps of a push to registries that share
//! their storage. Where a client is sent first the balance says, and proxies agree on that; from then on it stays there,
//! also when other servers come and go, until it was idle.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    classify::Needs,
    ctx::Ctx,
    snapshot::{Service, Snapshot},
};
use crate::{clock, config::proxy::Kind, health::Access, model::RouteClass, wire::handover};

/// Clients that are kept. Past it the one that was idle for the longest goes where the balance says.
const CLIENTS: usize = 4096;

/// A client that was idle for so long belongs nowhere: longer than the sessions of the vendor's servers last (5 min).
const IDLE: Duration = Duration::from_secs(600);

/// Clients of all services that are handed on at most, those of the last moments first.
const HANDED: usize = 2 * CLIENTS;

/// Where clients belong at the servers of one service. Looked at by handshakes, pushes and what depends on them alone:
/// what everybody does takes no lock.
#[derive(Debug, Default)]
pub struct Pins {
    clients: Mutex<HashMap<IpAddr, Pin>>,
}

#[derive(Debug, Clone, Copy)]
struct Pin {
    /// The id of the upstream.
    upstream: u64,
    used: Instant,
}

/// What a pin is to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Nothing.
    None,
    /// It goes where its client belongs, if that is anywhere.
    Follow,
    /// And its client belongs where it went.
    Make,
}

impl Pins {
    /// The place where this request belongs; `now` is asked for only by those that belong anywhere.
    pub(super) fn place(&self, ctx: &Ctx, service: &Service, now: impl FnOnce() -> Instant) -> Option<usize> {
        if of(ctx, service) == Use::None {
            return None;
        }
        let pin = self.clients().get(&ctx.client.ip).copied();
        let upstream = pin.filter(|pin| now() < pin.used + IDLE)?.upstream;
        let place = service.upstreams.iter().position(|known| known.id == upstream)?;
        // What begins goes to one that takes it.
        let drained = service.upstreams.get(place).is_some_and(|known| known.ordered.is_drained());
        (!drained || !begins(ctx)).then_some(place)
    }

    /// It goes there.
    pub(super) fn chosen(&self, ctx: &Ctx, service: &Service, place: usize, now: Instant) {
        let Some(upstream) = service.upstreams.get(place).map(|upstream| upstream.id) else { return };
        match of(ctx, service) {
            Use::Make => self.keep(ctx.client.ip, upstream, now),
            Use::Follow => self.used(ctx.client.ip, upstream, now),
            Use::None => {}
        }
    }

    /// It is over: a push may have taken an hour, and its client was not idle meanwhile.
    pub(super) fn over(&self, ctx: &Ctx, now: Instant) {
        let Some(service) = ctx.service().filter(|service| of(ctx, service) != Use::None) else { return };
        if let Some(upstream) = ctx.attempts.last().and_then(|note| service.upstreams.get(note.place)) {
            self.used(ctx.client.ip, upstream.id, now);
        }
    }

    fn keep(&self, client: IpAddr, upstream: u64, now: Instant) {
        let mut clients = self.clients();
        if clients.len() >= CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, pin| now < pin.used + IDLE);
            let oldest = clients.iter().min_by_key(|(_, pin)| pin.used).map(|(client, _)| *client);
            if let Some(oldest) = oldest.filter(|_| clients.len() >= CLIENTS) {
                clients.remove(&oldest);
            }
        }
        clients.insert(client, Pin { upstream, used: now });
    }

    fn used(&self, client: IpAddr, upstream: u64, now: Instant) {
        if let Some(pin) = self.clients().get_mut(&client).filter(|pin| pin.upstream == upstream) {
            pin.used = now;
        }
    }

    /// Of each client where it belongs, and since when it was idle.
    fn known(&self, now: Instant) -> Vec<(IpAddr, Pin)> {
        let clients = self.clients();
        clients.iter().filter(|(_, pin)| now < pin.used + IDLE).map(|(client, pin)| (*client, *pin)).collect()
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, Pin>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where clients belong, for a successor: it would send the second half of a handshake where the balance says.
pub(super) fn all(snapshot: &Snapshot) -> Vec<handover::Pin> {
    let now = clock::now();
    let of = |service: &Service| {
        let told = service.pins.known(now).into_iter().filter_map(|(client, pin)| {
            let upstream = service.upstreams.iter().find(|upstream| upstream.id == pin.upstream)?;
            let idle = now.saturating_duration_since(pin.used);
            Some(handover::Pin {
                service: service.name.to_string(),
                client: client.to_string(),
                upstream: upstream.name.to_string(),
                address: upstream.address.to_string(),
                idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
            })
        });
        told.collect::<Vec<_>>()
    };
    let mut all: Vec<_> = snapshot.services.iter().flat_map(|service| of(service)).collect();
    all.sort_by_key(|pin| pin.idle_ms);
    all.truncate(HANDED);
    all
}

/// Goes on with what a predecessor knew, where that upstream still is.
pub(super) fn hand(snapshot: &Snapshot, all: &[handover::Pin]) {
    let now = clock::now();
    for service in &snapshot.services {
        for pin in all.iter().filter(|pin| pin.service == service.name.as_str()) {
            let same = service.upstreams.iter().find(|upstream| {
                upstream.name.as_str() == pin.upstream && upstream.address.to_string() == pin.address
            });
            let used = now.checked_sub(Duration::from_millis(pin.idle_ms));
            if let (Some(upstream), Some(used), Ok(client)) = (same, used, pin.client.parse()) {
                service.pins.keep(client, upstream.id, used);
            }
        }
    }
}

/// Whether it is the first step of a handshake: nothing of before matters to it.
fn begins(ctx: &Ctx) -> bool {
    ctx.route.class == RouteClass::AuthHandshake && ctx.path.ends_with("/hand")
}

fn of(ctx: &Ctx, service: &Service) -> Use {
    if service.upstreams.len() < 2 {
        return Use::None;
    }
    if ctx.route.class == RouteClass::AuthHandshake {
        return Use::Make;
    }
    if service.kind == Kind::Controller {
        // Before 1.39 a session is known to the controller that shook hands.
        let session = ctx.concerns.as_ref().is_some_and(|concerns| concerns.session);
        return if session { Use::Follow } else { Use::None };
    }
    // Where one registry takes the writes, that one is where a push and its session are.
    if service.writer.is_some() {
        return Use::None;
    }
    // Upload sessions of the OCI API say where they are.
    if &*ctx.path == "/v2" || ctx.path.starts_with("/v2/") {
        return Use::None;
    }
    let asks = ctx.route.to_writer && ctx.route.access == Access::Read && !ctx.route.repeatable;
    match ctx.route.class {
        RouteClass::RegistryUpload => Use::Make,
        _ if asks => Use::Make,
        _ if ctx.route.needs == Needs::Unsaid => Use::Follow,
        _ if ctx.concerns.as_ref().is_some_and(|concerns| concerns.session) => Use::Follow,
        _ => Use::None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::clock;

    #[test]
    fn the_longest_idle_goes_when_there_are_too_many() {
        let (pins, now) = (Pins::default(), clock::now());
        let client = |at: usize| IpAddr::V4(Ipv4Addr::from(u32::try_from(at).unwrap()));
        for at in 0..CLIENTS {
            pins.keep(client(at), 1, now + Duration::from_millis(at as u64));
        }
        pins.used(client(0), 1, now + Duration::from_secs(60));
        pins.used(client(1), 2, now + Duration::from_secs(60));
        pins.keep(client(CLIENTS), 1, now + Duration::from_secs(61));
        let clients = pins.clients();
        assert_eq!(clients.len(), CLIENTS);
        assert!(clients.contains_key(&client(0)) && !clients.contains_key(&client(1)));
    }
}
