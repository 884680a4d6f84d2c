//! What is held to be true of the upstreams, handed on.

use crate::{
    clock,
    config::proxy::{Health, Service, Upstream},
    model::proxy_protocol::Version,
    proxy::snapshot::Snapshot,
    wire::handover::{Cohort, Known, Verdict},
};

/// Upstreams whose verdicts are handed on at most. The rest begins unknown, as after a start.
const MOST: usize = 4096;

/// All that are known.
pub(in crate::proxy) fn all(snapshot: &Snapshot) -> Vec<Verdict> {
    let now = clock::now();
    let of = |service: &crate::proxy::snapshot::Service| {
        let known = service.upstreams.iter().filter_map(|upstream| {
            Some(Verdict {
                service: service.name.to_string(),
                upstream: upstream.name.to_string(),
                address: upstream.address.to_string(),
                probe: probe(&upstream.health, upstream.proxy_protocol, upstream.tls.is_some()),
                known: upstream.prober.verdict().known(now)?,
            })
        });
        known.collect::<Vec<_>>()
    };
    snapshot.services.iter().flat_map(|service| of(service)).take(MOST).collect()
}

/// From where the agents of each service are served.
pub(in crate::proxy) fn cohorts(snapshot: &Snapshot) -> Vec<Cohort> {
    let of = |service: &std::sync::Arc<crate::proxy::snapshot::Service>| {
        service.cohort.as_ref()?.known(service.name.as_str())
    };
    snapshot.services.iter().filter_map(of).collect()
}

/// That of one upstream, if it is asked in the same way as before.
pub(in crate::proxy) fn of<'a>(
    all: &'a [Verdict],
    service: &Service,
    upstream: &Upstream,
) -> Option<&'a Known> {
    let (address, probe) =
        (upstream.address.to_string(), probe(&service.health, service.proxy_protocol, service.tls.is_some()));
    let same = |verdict: &&Verdict| {
        verdict.service == service.name.as_str()
            && verdict.upstream == upstream.name.as_str()
            && verdict.address == address
            && verdict.probe == probe
    };
    all.iter().find(same).map(|verdict| &verdict.known)
}

/// How it is asked, in words that need to mean nothing but themselves: a version that has other ones begins unknown.
fn probe(health: &Health, proxy_protocol: Option<Version>, tls: bool) -> String {
    format!("{:?} {proxy_protocol:?} {tls}", health.kind)
}
