//! Upstreams that were found beside those of the config: the pool that comes of both, and the loop that makes the next
//! snapshot when others are found, as a reload does.

use std::{sync::Arc, time::Duration};

use tracing::warn;

use super::{record::ProxyMetrics, reload, role::Handle, snapshot};
use crate::{
    config::proxy::{Listener, Service, Upstream},
    discovery::{Discovery, Found, merge::merge},
    supervise::Handle as Tasks,
    wire::handover,
};

/// How often it is looked whether others were found.
const LOOK: Duration = Duration::from_millis(100);

/// Upstreams of one service that are handed on at most.
const HANDED: usize = 1024;

/// What is found for one service, and which of it its pool was made of.
#[derive(Debug, Clone)]
pub struct Members {
    /// Goes on over a reload.
    pub discovery: Arc<Discovery>,
    /// [`Found::number`] of what the pool has.
    pub number: u64,
    /// How many of the pool are listed in the config: they come first.
    pub listed: usize,
}

/// The service as it is with what was found: its `upstreams` are all of the pool.
pub(super) fn pool(
    config: &Service,
    old: Option<&snapshot::Service>,
    listeners: &[Listener],
    tasks: &Tasks,
) -> (Service, Option<Members>) {
    let going = old.and_then(|old| old.members.as_ref()).map(|members| members.discovery.clone());
    let going = going.filter(|discovery| discovery.fits(config));
    let discovery = going.or_else(|| Discovery::start(tasks, config).map(Arc::new));
    let Some(discovery) = discovery else { return (config.clone(), None) };
    let Found { number, list } = discovery.now();
    let own = |address: &_| listeners.iter().any(|listener| listener.is_at(address));
    let (upstreams, refused) = merge(&config.upstreams, &list, own);
    for (one, why) in refused {
        let service = &config.name;
        warn!(service.name = %service, upstream.name = %one.name, upstream.address = %one.address, why, "an upstream that was found is not taken");
    }
    let members = Members { discovery, number, listed: config.upstreams.len() };
    (Service { upstreams, ..config.clone() }, Some(members))
}

/// Makes the next snapshot whenever others are found, until it is dropped.
pub(super) async fn keep(handle: Handle) {
    loop {
        tokio::time::sleep(LOOK).await;
        if handle.live.peek().services.iter().any(|service| is_behind(service)) {
            handle.refresh();
        }
    }
}

/// Whether others were found than its pool is made of.
pub(super) fn is_behind(service: &snapshot::Service) -> bool {
    service.members.as_ref().is_some_and(|members| members.discovery.now().number != members.number)
}

/// What was found, for a successor.
pub(super) fn known(snapshot: &snapshot::Snapshot) -> Vec<handover::Pool> {
    let of = |service: &Arc<snapshot::Service>| {
        let list = service.members.as_ref()?.discovery.now().list;
        let upstreams = list.iter().take(HANDED);
        let upstreams = upstreams.map(|one| (one.name.to_string(), one.address.to_string())).collect();
        Some(handover::Pool { service: service.name.to_string(), upstreams })
    };
    snapshot.services.iter().filter_map(of).collect()
}

/// Goes on with what a predecessor had found: a source may be away just now.
pub(super) fn handed(snapshot: &snapshot::Snapshot, pools: &[handover::Pool]) {
    for found in pools {
        let service = snapshot.services.iter().find(|service| service.name.as_str() == found.service);
        let Some(members) = service.and_then(|service| service.members.as_ref()) else { continue };
        let read = |(name, address): &(String, String)| {
            Some(Upstream::plain(name.parse().ok()?, address.parse().ok()?))
        };
        members.discovery.begin_with(found.upstreams.iter().filter_map(read).collect());
    }
}

/// The next snapshot, with what was found since. Nothing else of it is another.
pub(super) fn next(
    config: &crate::config::proxy::Proxy,
    before: &snapshot::Snapshot,
    found: Option<&super::handover::Found>,
    tasks: &Tasks,
    metrics: &ProxyMetrics,
) -> snapshot::Snapshot {
    let services = before.services.iter().map(|old| {
        let named = config.services.iter().find(|service| service.name == old.name);
        match named.filter(|_| is_behind(old)) {
            Some(named) => {
                // With the certificates that are in use: those in the config may have been renewed since it was read.
                let named = Service { tls: old.tls.clone(), ..named.clone() };
                let (zone, listeners) = (config.zone.as_ref(), &config.listeners);
                let made = reload::service(&named, zone, Some(old), found, listeners, tasks, metrics);
                Arc::new(made)
            }
            None => old.clone(),
        }
    });
    let next = snapshot::Snapshot {
        generation: before.generation,
        listeners: before.listeners.clone(),
        services: services.collect(),
        limits: before.limits.clone(),
        counts: before.counts.clone(),
        at_listener: before.at_listener.clone(),
        endings: before.endings,
        decisions: before.decisions,
        tracing: before.tracing.clone(),
        progress: before.progress,
        orders: before.orders.clone(),
    };
    next.orders.apply(&next);
    next
}
