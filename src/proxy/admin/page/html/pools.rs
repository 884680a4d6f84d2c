//! Services with their upstreams, and what registries have.

use std::time::Duration;

use maud::{Markup, html};

use super::{super::seen::Seen, light, time, words};
use crate::wire::{
    registries,
    replication::{Role, State},
    upstreams::{Service, Upstream},
};

pub(super) fn services(seen: &Seen) -> Markup {
    html! {
        section #services aria-labelledby="services-title" {
            h2 #services-title { "Services" }
            @for service in &seen.upstreams.services { (of_service(seen, service)) }
        }
    }
}

fn of_service(seen: &Seen, service: &Service) -> Markup {
    let rates = seen.rates.services.get(&service.name);
    html! {
        table {
            caption {
                strong { (service.name) }
                " " span .facts {
                    (if service.kind == "registry" { "registries" } else { "controllers" }) " · " (service.balance)
                    @if !service.sticky.is_empty() { " · sticky by " (service.sticky) }
                    " · " b { (words::rate(rates.map(|rate| rate.requests))) } " requests"
                    @if let Some(rate) = rates {
                        @if rate.failed > 0.0 { " · " b .bad { (words::rate(Some(rate.failed))) " failed" } }
                        " · " b { (words::speed(rate.down)) } " to clients · " b { (words::speed(rate.up)) } " to servers"
                    }
                    @if service.held > 0 { " · " b .bad { (service.held) " wait" } " (" (words::bytes(service.held_bytes)) ")" }
                    @if service.maintenance { " · " b .bad { "in maintenance" } }
                    @if service.panic { " · " b .bad { "ejections are ignored" } }
                    @if let Some(cohort) = &service.cohort {
                        " · agents from version " b { (cohort.version.as_deref().unwrap_or("none")) }
                    }
                    @if let Some(discovery) = &service.discovery { " · " (discovery.found) " found by " (discovery.from) }
                }
            }
            thead {
                tr {
                    th scope="col" { "Server" } th scope="col" { "State" } th scope="col" { "What shows it" }
                    th scope="col" .number { "Under way" } th scope="col" .number { "Answers" }
                    th scope="col" .number { "Failures" } th scope="col" .number { "Connections" }
                    th scope="col" .number { "Weight" }
                }
            }
            tbody {
                @for upstream in &service.upstreams { (of_upstream(seen, service, upstream)) }
                @if service.upstreams.is_empty() { tr { td colspan="8" { "none" } } }
            }
        }
    }
}

fn state(upstream: &Upstream) -> Markup {
    match (upstream.health.as_str(), &upstream.ejected) {
        ("up", _) if upstream.drained => light("off", "■", "drained"),
        ("up", None) => light("well", "✓", "up"),
        ("up", Some(_)) => light("warning", "⏏", "ejected"),
        ("down", _) => light("broken", "✗", "down"),
        (other, _) => light("warning", "?", other),
    }
}

fn of_upstream(seen: &Seen, service: &Service, upstream: &Upstream) -> Markup {
    let rates = seen.rates.upstreams.get(&(service.name.clone(), upstream.name.clone()));
    let failures = rates.map(|rate| rate.failures);
    let (open, unused) = (&upstream.connections, &upstream.unused);
    let since = upstream.ejected.as_ref().map_or(upstream.since, |ejected| ejected.since);
    html! {
        tr {
            th scope="row" {
                (upstream.name)
                @if upstream.writer { " " span .tag { "writer" } }
                @if upstream.drained { " " span .tag { "drained" } }
                @if upstream.found { " " span .tag { "found" } }
                @if let Some(zone) = &upstream.zone { " " span .tag { "zone " (zone) } }
                br; span .address { (upstream.address) }
                @if let Some(version) = &upstream.version { br; span .address { (version) } }
            }
            td data-label="State" {
                (state(upstream))
                br; span .since title=(since) { "for " (words::lasting(seen.at.since(since))) }
            }
            td .evidence data-label="What shows it" {
                @match &upstream.ejected {
                    Some(ejected) => { (ejected.why) "; tried again after " (time(ejected.until, seen.at)) }
                    None => (upstream.evidence),
                }
                @for class in service.refusals(upstream) {
                    br; span .bad { (class.class.as_str()) ": " (class.why) }
                }
            }
            td .number data-label="Under way" {
                (upstream.outstanding)
                @if let Some(most) = upstream.max_requests { " of " (most) }
                @if upstream.waiting > 0 { br; span .bad { (upstream.waiting) " wait" } }
            }
            td .number data-label="Answers" { (words::rate(rates.map(|rate| rate.answers))) }
            td .number.bad[failures.is_some_and(|rate| rate > 0.0)] data-label="Failures" { (words::rate(failures)) }
            td .number data-label="Connections" {
                (open.control + open.bulk)
                @if unused.control + unused.bulk > 0 { br; span .since { (unused.control + unused.bulk) " unused" } }
                @if !upstream.at_limit.is_empty() { br; span .bad { "at its limit" } }
            }
            td .number data-label="Weight" {
                (upstream.weight)
                @if (upstream.weight_now - f64::from(upstream.weight)).abs() > 0.005 {
                    br; span .since { "now " (format!("{:.2}", upstream.weight_now)) }
                }
            }
        }
    }
}

pub(super) fn registries(seen: &Seen) -> Markup {
    let known = seen.registries.services.iter().filter(|service| service.freshness != "none");
    let known: Vec<_> = known.collect();
    html! {
        section #registries aria-labelledby="registries-title" hidden[known.is_empty()] {
            h2 #registries-title { "What registries have" }
            @for service in known { (of_registries(service)) }
        }
    }
}

fn of_registries(service: &registries::Service) -> Markup {
    html! {
        table {
            caption {
                strong { (service.name) }
                " " span .facts {
                    "reads go by " (service.freshness)
                    @if let Some(newest) = &service.newest { " · newest change " b { (newest) } }
                    @match service.lease_ms {
                        Some(left) => { " · the writer's log is followed (" (left / 1000) " s left)" }
                        None if !service.lease_why.is_empty() => { " · " b .bad { (service.lease_why) } }
                        None => {}
                    }
                }
            }
            thead {
                tr {
                    th scope="col" { "Registry" } th scope="col" { "Position" } th scope="col" .number { "Behind by" }
                    th scope="col" { "Read from" } th scope="col" { "Copies" }
                }
            }
            tbody {
                @for upstream in &service.upstreams {
                    tr {
                        th scope="row" {
                            (upstream.name) " "
                            @match upstream.role {
                                Some(Role::Writer) => span .tag { "writer" },
                                Some(Role::Replica) => span .tag { "replica" },
                                _ => {}
                            }
                        }
                        td data-label="Position" {
                            @match &upstream.position { Some(at) => (at), None => "–" }
                        }
                        td .number data-label="Behind by" { (behind(upstream)) }
                        td .evidence data-label="Read from" {
                            @if upstream.reads { (light("well", "✓", "yes")) } @else { (light("off", "–", "no")) }
                            " " (upstream.why)
                        }
                        td .evidence data-label="Copies" {
                            @match &upstream.state { Some(state) => (copies(state)), None => "–" }
                        }
                    }
                }
            }
        }
    }
}

fn behind(upstream: &registries::Upstream) -> Markup {
    html! {
        @if let Some(catalogue) = &upstream.catalogue {
            (words::several(catalogue.differing, "template"))
        } @else if let Some(state) = &upstream.state {
            @if state.lag.entries == 0 { "nothing" } @else {
                (words::several(state.lag.entries, "change"))
                br; (words::bytes(state.lag.bytes))
                br; span .since { "for " (words::lasting(Duration::try_from_secs_f64(state.lag.seconds).unwrap_or_default())) }
            }
        } @else { "–" }
    }
}

fn copies(state: &State) -> Markup {
    let (have, size) =
        state.fetching.iter().fold((0, 0), |(have, size), blob| (have + blob.have, size + blob.size));
    html! {
        @if state.fetching.is_empty() { "nothing" } @else {
            (words::several(state.fetching.len() as u64, "blob")) ", " (words::bytes(have)) " of " (words::bytes(size))
        }
        @for why in &state.why { br; span .bad { (why) } }
    }
}
