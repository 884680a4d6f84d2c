//! `GET /admin/v1/upstreams`.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::{
    balance::ejection::{Out, Standing},
    clock,
    config::proxy::Kind,
    health::{Access, May, Verdict},
    model::RouteClass,
    proxy::{
        lane::Lane,
        orders::Orders,
        share::Share,
        snapshot::{self, Snapshot},
    },
    wire::upstreams::{
        ClassVerdict, Connections, Discovery, Ejected, MaxConnections, Service, Upstream, Upstreams,
    },
};

/// The pools as they stand now.
pub(super) fn view(snapshot: &Snapshot) -> Upstreams {
    Upstreams { services: snapshot.services.iter().map(|service| of(service, &snapshot.orders)).collect() }
}

/// The limits that an upstream is at.
fn at_limit(upstream: &snapshot::Upstream, share: &Share) -> Vec<String> {
    let (room, most) = (&upstream.room, &share.open);
    let limits = [
        ("requests", upstream.outstanding(), share.most),
        ("connections.control", room.open(Lane::Control), most.connections.control),
        ("connections.bulk", room.open(Lane::Bulk), most.connections.bulk),
        ("pending", room.pending(), most.pending),
    ];
    let at = limits.into_iter().filter(|(_, count, most)| most.is_some_and(|most| *count >= most));
    at.map(|(name, ..)| name.to_owned()).collect()
}

fn of(service: &snapshot::Service, orders: &Orders) -> Service {
    let now = clock::now();
    let standings = service.passive.standings();
    let standings: BTreeMap<u64, Standing> =
        standings.into_iter().map(|(upstream, standing)| (upstream.id, standing)).collect();
    let upstreams =
        service.upstreams.iter().zip(&service.shares).enumerate().map(|(place, (upstream, share))| {
            let verdict = upstream.prober.verdict();
            let (failures, ejected) = passive(standings.get(&upstream.id));
            Upstream {
                name: upstream.name.to_string(),
                address: upstream.address.to_string(),
                health: verdict.state.as_str().into(),
                since: verdict.since_wall,
                evidence: verdict.evidence.clone(),
                classes: classes(service.kind, &verdict),
                ejected,
                failures,
                drained: upstream.ordered.is_drained(),
                orders: orders.of(service, Some(upstream.name.as_str())),
                outstanding: upstream.outstanding(),
                max_requests: share.most,
                connections: Connections {
                    control: upstream.room.open(Lane::Control),
                    bulk: upstream.room.open(Lane::Bulk),
                },
                unused: Connections {
                    control: upstream.room.unused(Lane::Control),
                    bulk: upstream.room.unused(Lane::Bulk),
                },
                max_connections: MaxConnections {
                    control: share.open.connections.control,
                    bulk: share.open.connections.bulk,
                },
                pending: upstream.room.pending(),
                max_pending: share.open.pending,
                waiting: upstream.room.waiting(),
                at_limit: at_limit(upstream, share),
                weight: share.configured,
                weight_now: upstream.part(share, upstream.eligible_since(), service.slow_start, now).shown(),
                zone: share.zone.as_ref().map(ToString::to_string),
                local: share.local,
                latency_seconds: upstream.speed.at(now).now(),
                writer: service.writer == Some(place),
                found: service.members.as_ref().is_some_and(|members| place >= members.listed),
                version: verdict.version().map(ToString::to_string),
            }
        });
    let (held, held_bytes) = service.line.inside();
    Service {
        name: service.name.to_string(),
        kind: service.kind.as_str().into(),
        discovery: service.members.as_ref().map(|members| {
            let standing = members.discovery.standing();
            Discovery {
                from: members.discovery.source().describe(),
                well: standing.well,
                why: standing.why,
                since: standing.since,
                found: members.discovery.now().list.len() as u64,
            }
        }),
        cohort: service.cohort.as_ref().map(|cohort| cohort.view(service)),
        held: u64::try_from(held).unwrap_or(u64::MAX),
        held_bytes,
        maintenance: service.is_closed(),
        orders: orders.of(service, None).into_iter().chain(orders.of_absent(service)).collect(),
        balance: service.balance.as_str().into(),
        sticky: service.sticky.as_ref().map(ToString::to_string).unwrap_or_default(),
        panic: service.panics(),
        upstreams: upstreams.collect(),
    }
}

/// What became of requests there: failures in a row, and the ejection.
fn passive(standing: Option<&Standing>) -> (u32, Option<Ejected>) {
    match standing {
        Some(Standing::In { failures, .. }) => (*failures, None),
        Some(Standing::Out(out)) => {
            let (now, wall) = (clock::now(), clock::wall());
            let at = |moment: Instant| match moment.checked_duration_since(now) {
                Some(ahead) => wall.plus(ahead),
                None => wall.minus(now.saturating_duration_since(moment)),
            };
            let Out { since, until, times, cause, .. } = out;
            let (since, until) = (at(*since), at(*until));
            (0, Some(Ejected { since, until, times: *times, why: cause.to_string() }))
        }
        None => (0, None),
    }
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
