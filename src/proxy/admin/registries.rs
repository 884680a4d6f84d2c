//! `GET /admin/v1/registries`.

use ::http::Method;

use crate::{
    clock,
    config::proxy::{Kind, Reads},
    proxy::{
        catalogue::View,
        choose::{self, Candidates, Rank, Reason, Want},
        classify,
        follow::Look,
        snapshot::{self, Snapshot},
    },
    wire::{
        registries::{Catalogue, Registries, Service, Upstream},
        replication::Role,
    },
};

/// What every registry has, as it is known now.
pub(super) fn view(snapshot: &Snapshot) -> Registries {
    let registries = snapshot.services.iter().filter(|service| service.kind == Kind::Registry);
    Registries { services: registries.map(|service| of_service(service)).collect() }
}

fn of_service(service: &snapshot::Service) -> Service {
    let follow = service.follow.as_deref();
    let look = service.look_at_all();
    let survey = service.survey.as_deref();
    let left = follow.and_then(|follow| follow.core().lease_left(look.at));
    let Reads { freshness, write_only, stale, .. } = service.reads;
    Service {
        name: service.name.to_string(),
        storage: if service.writer.is_some() { "replicated" } else { "shared" }.into(),
        freshness: freshness.as_str().into(),
        writer: service.writer.and_then(|place| service.upstreams.get(place)).map(|u| u.name.to_string()),
        write_only,
        stale_reads: stale.as_str().into(),
        proxy: follow.map(|follow| follow.proxy().to_owned()),
        lease_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        lease_why: match (left, follow, survey) {
            (Some(_), ..) => String::new(),
            (None, Some(follow), _) => follow.trouble(),
            (None, None, Some(_)) if look.lease => String::new(),
            (None, None, Some(survey)) => {
                let view = service.writer.map(|writer| survey.core().view(writer, look.at));
                let trouble = view.and_then(|view| view.trouble);
                trouble.unwrap_or_else(|| "the writer's list was not answered yet".into())
            }
            (None, None, None) => "reads of this service do not go by positions".into(),
        },
        warnings: follow.and_then(|follow| follow.deposed()).into_iter().chain(service.twins()).collect(),
        floor: follow.and_then(|follow| follow.core().floor()),
        newest: look.needed,
        repositories: follow.map_or(0, |f| u64::try_from(f.core().repositories()).unwrap_or(u64::MAX)),
        written: survey.and_then(|survey| survey.core().written()).map(|count| count as u64),
        upstreams: upstreams(service, &look),
    }
}

fn upstreams(service: &snapshot::Service, look: &Look) -> Vec<Upstream> {
    let follow = service.follow.as_deref();
    let verdicts = service.verdicts();
    let mut candidates: Candidates<'_> = service.candidates(&verdicts, look, clock::now()).collect();
    let route = classify::route(Kind::Registry, &Method::GET, "/v2/_catalog");
    service.mark_ejected(&mut candidates, route, clock::now());
    let want = Want {
        writer: service.writer,
        logs: service.logs,
        deposed: look.deposed,
        write_only: service.reads.write_only,
        fresh: service.fresh(look),
        panic_threshold: service.panic_threshold,
        ..Want::plain(route)
    };
    let ranks = choose::ranks(&candidates, &want);
    let of = |(place, (upstream, rank)): (usize, (&std::sync::Arc<snapshot::Upstream>, _))| {
        let told = follow.and_then(|follow| follow.told(place));
        let (reads, why) = says(rank);
        Upstream {
            name: upstream.name.to_string(),
            address: upstream.address.to_string(),
            registry: upstream.prober.verdict().name().map(str::to_owned),
            role: service.writer.map(|writer| if writer == place { Role::Writer } else { Role::Replica }),
            position: follow.and_then(|follow| follow.core().have(place)),
            fresh: service.is_fresh(look, place),
            reads,
            why,
            told_seconds: told.as_ref().map(|told| look.at.saturating_sub(told.at).as_secs_f64()),
            state: told.map(|told| told.state.as_ref().clone()),
            catalogue: service.survey.as_ref().map(|survey| catalogue(survey.core().view(place, look.at))),
        }
    };
    service.upstreams.iter().zip(ranks).enumerate().map(of).collect()
}

fn catalogue(view: View) -> Catalogue {
    Catalogue {
        templates: view.templates.map(|count| count as u64),
        differing: view.differing as u64,
        named: view.named.iter().map(ToString::to_string).collect(),
        asked_seconds: view.age.map(|age| age.as_secs_f64()),
        why: view.trouble.unwrap_or_default(),
    }
}

fn says(rank: Result<Rank, Reason>) -> (bool, String) {
    match rank {
        Ok(rank) => (true, rank.text().into()),
        Err(reason) => (false, reason.to_string()),
    }
}
