//! Everything a request may read of the configuration: loaded once at its start and kept to its end.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use arc_swap::ArcSwap;

use super::{
    choose::{Candidate, Fresh},
    follow::{Follow, Look},
    freshness::Standing,
    limit::Gate,
};
use crate::{
    config::{
        Address,
        proxy::{Balance, Health, Hold, Kind, Limits, Listener, Reads, UpstreamTimeouts},
    },
    health::Prober,
    model::{ServiceName, UpstreamName},
};

/// The live configuration: one swap, nothing beside it.
#[derive(Debug)]
pub struct Live {
    snapshot: ArcSwap<Snapshot>,
}

impl Live {
    /// Beginning with this one.
    pub fn new(first: Snapshot) -> Self {
        Self { snapshot: ArcSwap::from_pointee(first) }
    }

    /// Once per request.
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// `reload.rs` alone.
    pub(super) fn put(&self, next: Snapshot) {
        self.snapshot.store(Arc::new(next));
    }
}

/// One state of the configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts reloads.
    pub generation: u64,
    /// In config order; never changed in number or address by a reload.
    pub listeners: Vec<Listener>,
    /// In config order.
    pub services: Vec<Arc<Service>>,
    /// Bounds.
    pub limits: Limits,
}

/// A service with its upstreams.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// What its servers are.
    pub kind: Kind,
    /// How the next one is picked.
    pub balance: Balance,
    /// How long a request may wait for one.
    pub hold: Hold,
    /// Answers that a repeatable request is tried again for.
    pub retry_status: Vec<u16>,
    /// 503 for everything.
    pub maintenance: bool,
    /// Place of the write registry of replicated storage.
    pub writer: Option<usize>,
    /// Which registry may answer reads.
    pub reads: Reads,
    /// What is known of the registries' positions, if reads go by them; goes on over a reload.
    pub follow: Option<Arc<Follow>>,
    /// Towards upstreams.
    pub timeouts: UpstreamTimeouts,
    /// Most sends of one request.
    pub attempts: u32,
    /// In config order.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Counts choices.
    pub turn: AtomicUsize,
    /// Requests that wait; goes on over a reload.
    pub held: Gate,
}

impl Service {
    /// The upstreams as they stand now; `look` is what is known of what they have.
    pub fn candidates(&self, look: &Look) -> Vec<Candidate<'_>> {
        self.upstreams
            .iter()
            .enumerate()
            .map(|(place, upstream)| Candidate {
                name: &upstream.name,
                verdict: upstream.prober.verdict(),
                outstanding: upstream.outstanding(),
                standing: look.standings.get(place).copied().unwrap_or(Standing::Unclaimed),
            })
            .collect()
    }

    /// How freshness bears on requests to this service.
    pub fn fresh(&self, look: &Look) -> Option<Fresh> {
        self.follow.as_ref().map(|_| Fresh { lease: look.lease, stale: self.reads.stale })
    }

    /// The upstream that goes by this name: it says so itself, or the config does.
    pub fn named(&self, name: &str) -> Option<usize> {
        let itself = |upstream: &Arc<Upstream>| upstream.prober.verdict().name() == Some(name);
        let config = |upstream: &Arc<Upstream>| upstream.name.as_str() == name;
        self.upstreams.iter().position(itself).or_else(|| self.upstreams.iter().position(config))
    }
}

/// An upstream with its live state. Kept over a reload that does not touch it.
#[derive(Debug)]
pub struct Upstream {
    /// Its name.
    pub name: UpstreamName,
    /// Where it is.
    pub address: Address,
    /// How it is probed.
    pub health: Health,
    /// Its prober; ends with it.
    pub prober: Prober,
    outstanding: AtomicU64,
}

impl Upstream {
    /// A new one, with its prober running.
    pub fn new(name: UpstreamName, address: Address, health: Health, prober: Prober) -> Self {
        Self { name, address, health, prober, outstanding: AtomicU64::new(0) }
    }

    /// Requests under way.
    pub fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }
}

/// One request under way at an upstream; ends when dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<Upstream>);

impl UnderWay {
    /// Begins.
    pub fn at(upstream: Arc<Upstream>) -> Self {
        upstream.outstanding.fetch_add(1, Ordering::Relaxed);
        Self(upstream)
    }

    /// Where.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}
