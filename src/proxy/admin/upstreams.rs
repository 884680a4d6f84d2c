//! `GET /admin/v1/upstreams`.

use crate::{
    config::proxy::Kind,
    health::{Access, May, Verdict},
    model::RouteClass,
    proxy::snapshot::Snapshot,
    wire::upstreams::{ClassVerdict, Service, Upstream, Upstreams},
};

/// The pools as they stand now.
pub(super) fn view(snapshot: &Snapshot) -> Upstreams {
    let services = snapshot.services.iter().map(|service| Service {
        name: service.name.to_string(),
        kind: service.kind.as_str().into(),
        cohort: service.cohort.as_ref().map(|cohort| cohort.view(service)),
        held: u64::try_from(service.held.inside()).unwrap_or(u64::MAX),
        upstreams: service
            .upstreams
            .iter()
            .enumerate()
            .map(|(place, upstream)| {
                let verdict = upstream.prober.verdict();
                Upstream {
                    name: upstream.name.to_string(),
                    address: upstream.address.to_string(),
                    health: verdict.state.as_str().into(),
                    since: verdict.since_wall,
                    evidence: verdict.evidence.clone(),
                    classes: classes(service.kind, &verdict),
                    outstanding: upstream.outstanding(),
                    writer: service.writer == Some(place),
                    version: verdict.version().map(ToString::to_string),
                }
            })
            .collect(),
    });
    Upstreams { services: services.collect() }
}

/// What the upstream says of itself, for the classes that its kind of service has.
fn classes(kind: Kind, verdict: &Verdict) -> Vec<ClassVerdict> {
    use RouteClass as C;
    let of_kind: &[C] = match kind {
        Kind::Controller => &[C::ControllerApi, C::AgentPoll, C::AuthHandshake],
        Kind::Registry => &[C::RegistryRead, C::RegistryWrite, C::RegistryUpload, C::AuthHandshake],
    };
    let of = |class: &C| {
        let (read, write) = (verdict.may(*class, Access::Read), verdict.may(*class, Access::Write));
        let why = match (read, write) {
            (May::Yes, May::Yes) => String::new(),
            (May::No(why), May::No(_)) => why.clone(),
            (May::No(why), May::Yes) => format!("reads no: {why}"),
            (May::Yes, May::No(why)) => format!("writes no: {why}"),
        };
        ClassVerdict { class: *class, may: read.is_yes() || write.is_yes(), why }
    };
    of_kind.iter().map(of).collect()
}
