//! Step 4: who is let in, and how much of it. Asked when a connection comes, when a PROXY header has named another
//! client, and for each request; each refusal has a status, a label and a text of its own.

pub mod gate;
pub mod clients;
pub mod gcra;
pub mod who;
pub mod rates;

use std::{net::IpAddr, sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::time::Instant;

use self::{
    clients::{Clients, Connected},
    gate::{Gate, Inside},
    gcra::Pace,
    rates::Rates,
    who::{Caller, accounts, client},
};
use super::snapshot::Snapshot;
use crate::config::{
    bounds::{Bounds, Rate},
    proxy::Listener,
};

/// An address gets so many times the rate of one key for all keys that it comes with: nobody here knows a good key from
/// one that was made up.
const KEYS: u64 = 16;

/// Why a connection or a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Turned {
    /// `deny` has its address, or `allow` has it not.
    #[error("this address may not come here")]
    Denied,
    /// `limits.connections`.
    #[error("too many connections are open")]
    Connections,
    /// `connections` of the listener.
    #[error("too many connections are open at this listener")]
    OfListener,
    /// `per_client`.
    #[error("this client has too many connections open")]
    OfClient,
    /// `rate`.
    #[error("this client sends more requests than it may")]
    Rate {
        /// Then it may send another one.
        wait: Duration,
    },
    /// `deny = 403` of a rule of the listener.
    #[error("this path may not be asked for here")]
    ByRule,
}

impl Turned {
    /// The status to answer with.
    pub fn status(self) -> u16 {
        match self {
            Self::Denied | Self::ByRule => 403,
            Self::Connections | Self::OfListener => 503,
            Self::OfClient | Self::Rate { .. } => 429,
        }
    }

    /// The label of metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Connections => "too-many-connections",
            Self::OfListener => "too-many-at-listener",
            Self::OfClient => "too-many-of-client",
            Self::Rate { .. } => "rate",
            Self::ByRule => "denied-by-rule",
        }
    }

    /// What the caller can do.
    pub fn next(self) -> &'static str {
        match self {
            Self::Denied => "ask the operator whether this address should be let in",
            Self::Connections | Self::OfListener => "try again shortly",
            Self::OfClient => "use fewer connections at once",
            Self::Rate { .. } => "wait as long as Retry-After says",
            Self::ByRule => "ask the operator whether this path should be served",
        }
    }

    /// Seconds after which it may be tried again, if that is known.
    pub fn retry_after(self) -> Option<u64> {
        match self {
            Self::Rate { wait } => Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
            _ => None,
        }
    }

    /// Whether a connection goes on after it: a client that waits as it is told, or asks for something else, need not come
    /// anew.
    pub fn keeps_connection(self) -> bool {
        matches!(self, Self::Rate { .. } | Self::ByRule)
    }
}

/// What a request is to what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// One more.
    One,
    /// Nothing: it is only asked what would become of one.
    None,
}

/// What is counted in one scope. Goes on over a reload.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Connections by client.
    clients: Clients,
    /// Requests by caller, as long as there is a rate.
    rates: Option<Arc<Rates>>,
}

impl Counts {
    /// Of a scope with these bounds; `old` is what was counted in it before.
    pub fn after(old: Option<&Self>, bounds: &Bounds, now: Instant) -> Self {
        let known = old.and_then(|old| old.rates.clone());
        let rates = bounds.rate.map(|_| known.unwrap_or_else(|| Arc::new(Rates::new(now))));
        Self { clients: old.map(|old| old.clients.clone()).unwrap_or_default(), rates }
    }
}

/// What is counted of one listener.
#[derive(Debug, Clone, Default)]
pub struct AtListener {
    /// Its connections.
    connections: Gate,
    counts: Counts,
}

impl AtListener {
    /// Of a listener of this config.
    pub fn after(old: Option<&Self>, listener: &Listener, now: Instant) -> Self {
        let connections = old.map(|old| old.connections.clone()).unwrap_or_default();
        Self { connections, counts: Counts::after(old.map(|old| &old.counts), &listener.limits.bounds, now) }
    }

    /// Its connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.inside()
    }
}

/// Whether the client at this address may connect to the listener of this place.
pub fn address(snapshot: &Snapshot, listener: &Listener, ip: IpAddr) -> Result<(), Turned> {
    let scopes = [&snapshot.limits.bounds, &listener.limits.bounds];
    if scopes.iter().all(|bounds| bounds.admits(ip)) { Ok(()) } else { Err(Turned::Denied) }
}

/// Counts a connection of the client at this address, unless it has too many.
pub fn of_client(snapshot: &Snapshot, place: usize, ip: IpAddr) -> Result<Option<Connected>, Turned> {
    let Some((at, listener)) = snapshot.at_listener.get(place).zip(snapshot.listeners.get(place)) else {
        return Ok(None);
    };
    let most = |bounds: &Bounds| bounds.per_client.unwrap_or(usize::MAX);
    let scopes = [
        (&snapshot.counts.clients, most(&snapshot.limits.bounds)),
        (&at.counts.clients, most(&listener.limits.bounds)),
    ];
    let client = client(ip, snapshot.limits.ipv6_prefix);
    Connected::enter(client, scopes).map(Some).ok_or(Turned::OfClient)
}

/// Counts a connection of the listener of this place, unless it has too many.
pub fn of_listener(snapshot: &Snapshot, place: usize) -> Result<Option<Inside>, Turned> {
    let Some((at, listener)) = snapshot.at_listener.get(place).zip(snapshot.listeners.get(place)) else {
        return Ok(None);
    };
    let most = listener.limits.connections.unwrap_or(usize::MAX);
    at.connections.enter(most).map(Some).ok_or(Turned::OfListener)
}

/// Whether the listener of this place would let one more connection in; `client` is whose it is, if its peer does not speak
/// for others. Counts nothing.
pub fn look(snapshot: &Snapshot, place: usize, client: Option<IpAddr>) -> Result<(), Turned> {
    let Some((at, listener)) = snapshot.at_listener.get(place).zip(snapshot.listeners.get(place)) else {
        return Ok(());
    };
    if let Some(ip) = client {
        address(snapshot, listener, ip)?;
    }
    if listener.limits.connections.is_some_and(|most| at.connections.inside() >= most) {
        return Err(Turned::OfListener);
    }
    let Some(client) = client.map(|ip| self::client(ip, snapshot.limits.ipv6_prefix)) else { return Ok(()) };
    let scopes = [
        (&snapshot.counts.clients, snapshot.limits.bounds.per_client),
        (&at.counts.clients, listener.limits.bounds.per_client),
    ];
    let full =
        |(clients, most): &(&Clients, Option<usize>)| most.is_some_and(|most| clients.of(client) >= most);
    if scopes.iter().any(full) { Err(Turned::OfClient) } else { Ok(()) }
}

/// Whether a request may go on. `named`: the address is a client's; that of a balancer that speaks for itself is let by.
pub fn request(
    snapshot: &Snapshot,
    place: usize,
    caller: &Caller<'_>,
    named: bool,
    takes: Takes,
    now: Instant,
) -> Result<(), Turned> {
    let Some((at, listener)) = snapshot.at_listener.get(place).zip(snapshot.listeners.get(place)) else {
        return Ok(());
    };
    let (of_all, here) = (&snapshot.limits.bounds, &listener.limits.bounds);
    if of_all.is_open() && here.is_open() {
        return Ok(());
    }
    if named {
        // The lists may have changed since it connected, and who stands behind a proxy is known only now.
        address(snapshot, listener, caller.client.ip)?;
    }
    let prefix = snapshot.limits.ipv6_prefix;
    let mut accounts = SmallVec::<[(&Rates, u64, Pace); 4]>::new();
    for (bounds, counts) in [(of_all, &snapshot.counts), (here, &at.counts)] {
        if let (Some(rate), Some(rates)) = (bounds.rate, counts.rates.as_deref()) {
            add(&mut accounts, rate, rates, caller, prefix);
        }
    }
    // All are asked before anything is taken: who is refused on one account has used nothing of the others, and leaves no
    // trace in any table.
    for (rates, caller, pace) in &accounts {
        rates.may(*caller, *pace, now).map_err(|wait| Turned::Rate { wait })?;
    }
    for (rates, caller, pace) in accounts.iter().filter(|_| takes == Takes::One) {
        rates.take(*caller, *pace, now).map_err(|wait| Turned::Rate { wait })?;
    }
    Ok(())
}

fn add<'t>(
    to: &mut SmallVec<[(&'t Rates, u64, Pace); 4]>,
    rate: Rate,
    rates: &'t Rates,
    caller: &Caller<'_>,
    prefix: u8,
) {
    let pace = Pace::new(
        u64::from(rate.requests),
        u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX),
        u64::from(rate.burst),
    );
    let (account, beside) = accounts(caller, rate.by, prefix);
    to.push((rates, rates.hash(account), pace));
    if let Some(beside) = beside {
        to.push((rates, rates.hash(beside), pace.of_many(KEYS)));
    }
}
