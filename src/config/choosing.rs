//! How the next upstream is picked.

use std::fmt;

use super::proxy::Kind;

/// What one upstream bears at once; `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Bears {
    /// `max_requests`: requests under way, parked polls included.
    pub requests: Option<u64>,
    /// `max_connections.control`: connections for everything but transfers, used or not.
    pub control: Option<u64>,
    /// `max_connections.bulk`: connections for transfers.
    pub bulk: Option<u64>,
    /// `max_pending`: connections that are being made.
    pub pending: Option<u64>,
}

impl Bears {
    /// What it does not say of itself, as another one says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            requests: self.requests.or(other.requests),
            control: self.control.or(other.control),
            bulk: self.bulk.or(other.bulk),
            pending: self.pending.or(other.pending),
        }
    }
}

/// How the next upstream is picked among the eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// The one with fewer requests of two picked by chance.
    LeastRequests,
    /// Of two picked by chance the one that will have answered sooner.
    PeakEwma,
    /// The one that the request's key belongs to, unless it is overloaded.
    ConsistentHash,
}

impl Balance {
    /// Every way.
    pub const ALL: [Self; 4] = [Self::RoundRobin, Self::LeastRequests, Self::PeakEwma, Self::ConsistentHash];

    /// The default of a kind of servers. Registries each keep other layers in their page cache.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Controller => Self::LeastRequests,
            Kind::Registry => Self::ConsistentHash,
        }
    }

    /// The word of config, logs and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastRequests => "least-requests",
            Self::PeakEwma => "peak-ewma",
            Self::ConsistentHash => "consistent-hash",
        }
    }
}

/// What of a request stands for it, or for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The blob or template that it is about; only registries have them.
    Content,
    /// The client's address.
    Address,
    /// A header of this name, lower case.
    Header(String),
    /// A cookie of this name.
    Cookie(String),
}

impl Key {
    /// The word of config and the admin API.
    pub fn by(&self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Address => "address",
            Self::Header(_) => "header",
            Self::Cookie(_) => "cookie",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content | Self::Address => f.write_str(self.by()),
            Self::Header(name) | Self::Cookie(name) => write!(f, "{} {name}", self.by()),
        }
    }
}

/// What ties a client to one upstream, for as long as that can take its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// Its address.
    Address,
    /// What it says in a header of this name, lower case.
    Header(String),
    /// A cookie of ours of this name, which names the upstream.
    Cookie(String),
}

impl fmt::Display for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("address"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Cookie(name) => write!(f, "cookie {name}"),
        }
    }
}
