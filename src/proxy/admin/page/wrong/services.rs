//! What is wrong with services and their upstreams.

use std::time::Duration;

use super::{Level, Wrong};
use crate::{
    model::Timestamp,
    wire::{
        orders::{Order, What},
        upstreams::{ClassVerdict, Service, Upstream},
    },
};

/// A first probe that takes longer is worth a word.
const UNKNOWN: Duration = Duration::from_secs(10);

/// Upstreams that are named in one reason at most.
const NAMED: usize = 4;

/// Requests may be sent there, as far as probes, traffic and operators go.
pub(super) fn is_well(upstream: &Upstream) -> bool {
    upstream.health == "up" && upstream.ejected.is_none() && !upstream.drained
}

/// Who said it, and why.
fn said(order: &Order) -> String {
    let who = order.by.as_deref().or(order.from.as_deref()).unwrap_or("an operator");
    match &order.reason {
        Some(reason) => format!("{who} said so: {reason}"),
        None => format!("{who} said so"),
    }
}

pub(super) fn of(service: &Service, now: Timestamp, all: &mut Vec<Wrong>) {
    let name = &service.name;
    let order = service.orders.iter().find(|order| matches!(order.what, What::Maintenance(_)));
    if service.maintenance {
        let (why, remedy) = match order {
            Some(order) => {
                (said(order), format!("When the work is done: `switchyard maintenance {name} by-config`."))
            }
            None => (
                "`maintenance = true` in its config".to_owned(),
                format!("When the work is done, take `maintenance` out of `[service.{name}]` and reload."),
            ),
        };
        let what = format!("Service {name} is in maintenance: every request to it is answered 503");
        all.push(Wrong::new(Level::Warning, what, why, remedy));
    }
    let dead = !service.upstreams.iter().any(is_well);
    if dead {
        all.push(nobody(service));
    }
    if service.panic && !dead {
        all.push(Wrong::new(
            Level::Broken,
            format!("So few servers of {name} are well that ejected ones are used too"),
            named(service),
            "Bring back those that are named: start them, or read their logs for why requests fail.",
        ));
    }
    if service.held > 0 && !dead {
        all.push(Wrong::new(
            Level::Warning,
            format!("{} requests to {name} wait for a server", service.held),
            "no server may be asked for them now: none is fresh enough, allowed that kind of request, or has room",
            "See below which servers refuse which requests, and why. What waits for longer than `hold` is answered 503.",
        ));
    }
    for upstream in &service.upstreams {
        ordered(service, upstream, all);
        // Each is named in the reason already; and one that is drained may be down.
        if !dead && !upstream.drained {
            of_upstream(service, upstream, now, all);
        }
        classes(service, upstream, all);
        at_limit(service, upstream, all);
    }
    if let Some(discovery) = service.discovery.as_ref().filter(|discovery| !discovery.well) {
        let what = format!("Servers of {name} cannot be looked up: those known go on");
        let remedy = format!(
            "Bring back what is asked for them: {}. New and moved servers are not seen until then.",
            discovery.from
        );
        all.push(Wrong::new(Level::Warning, what, &discovery.why, remedy).since(discovery.since));
    }
    if let Some(cohort) = &service.cohort {
        if cohort.version.is_none() {
            let what = format!("No version is chosen from which agents of {name} are served");
            let remedy =
                "Agents wait. Bring servers of one version up, or name one: `switchyard cohort` has how.";
            all.push(Wrong::new(Level::Broken, what, &cohort.why, remedy).since(cohort.since));
        }
        if let Some(alone) = &cohort.alone {
            let what = format!("This proxy chooses the version for agents of {name} without the others");
            let remedy = "Bring etcd back: until then another proxy may serve agents from another version.";
            all.push(Wrong::new(Level::Warning, what, alone, remedy));
        }
    }
}

fn nobody(service: &Service) -> Wrong {
    let name = &service.name;
    let held = match service.held {
        0 => String::new(),
        held => format!(" {held} requests wait now."),
    };
    if service.upstreams.is_empty() {
        let what = format!("Service {name} has no servers");
        let remedy = format!(
            "List some as `upstreams` of `[service.{name}]` and reload, or start those that `discovery` is to find.{held}"
        );
        return Wrong::new(Level::Broken, what, "none is listed, and none was found", remedy);
    }
    let what = format!("No server of {name} can take requests");
    let remedy = format!(
        "Start them, or read their logs. Requests wait for a few seconds, then servers are tried anyway, then clients get \
         503.{held}"
    );
    let worst = Wrong::new(Level::Broken, what, named(service), remedy);
    match service.upstreams.iter().map(|upstream| upstream.since).max() {
        Some(last) => worst.since(last),
        None => worst,
    }
}

/// Those that are not well, each with what shows it.
fn named(service: &Service) -> String {
    let ill: Vec<&Upstream> = service.upstreams.iter().filter(|upstream| !is_well(upstream)).collect();
    let mut sentences: Vec<String> = ill
        .iter()
        .take(NAMED)
        .map(|upstream| match &upstream.ejected {
            _ if upstream.drained => format!("{} is drained by an operator", upstream.name),
            Some(ejected) => format!("{} is ejected: {}", upstream.name, ejected.why),
            None => format!("{} is {}: {}", upstream.name, upstream.health, upstream.evidence),
        })
        .collect();
    if ill.is_empty() {
        sentences.push("each of them was well when this was looked at, so it is over in a moment".into());
    }
    if ill.len() > NAMED {
        sentences.push(format!("and {} more", ill.len() - NAMED));
    }
    sentences.join("; ")
}

/// What operators have said of it.
fn ordered(service: &Service, upstream: &Upstream, all: &mut Vec<Wrong>) {
    let (name, pool) = (&upstream.name, &service.name);
    for order in &upstream.orders {
        let (what, remedy) = match order.what {
            What::Drained if upstream.outstanding > 0 => (
                format!(
                    "{name} of {pool} is drained; {} requests are still under way there",
                    upstream.outstanding
                ),
                format!(
                    "They end in their own time. When the work is done: `switchyard undrain {pool}/{name}`."
                ),
            ),
            What::Drained => (
                format!("{name} of {pool} is drained, and nothing is under way there"),
                format!("It may be stopped. When the work is done: `switchyard undrain {pool}/{name}`."),
            ),
            What::Weight(weight) => (
                format!("{name} of {pool} has weight {weight}, whatever the config says"),
                format!("`switchyard weight {pool}/{name} --by-config` takes that back."),
            ),
            What::Maintenance(_) => continue,
        };
        all.push(Wrong::new(Level::Note, what, said(order), remedy).since(order.since));
    }
}

fn of_upstream(service: &Service, upstream: &Upstream, now: Timestamp, all: &mut Vec<Wrong>) {
    let (name, pool) = (&upstream.name, &service.name);
    match upstream.health.as_str() {
        "down" if upstream.writer => {
            let what = format!("The writer of {pool}, {name}, is down");
            let remedy = "Start it: what was acknowledged is on its disk. Until then pushes wait and fail, and reads may miss the \
                          last pushes. If it is gone for good, make a replica the writer (docs/operating.md).";
            all.push(Wrong::new(Level::Broken, what, &upstream.evidence, remedy).since(upstream.since));
        }
        "down" => {
            let what = format!("{name} of {pool} is down");
            let remedy = format!(
                "Start it, or read its log; it is asked again every few seconds at {}. The others serve.",
                upstream.address
            );
            all.push(Wrong::new(Level::Warning, what, &upstream.evidence, remedy).since(upstream.since));
        }
        "unknown" if now.since(upstream.since) > UNKNOWN => {
            let what = format!("Nothing is known of {name} of {pool} yet");
            let remedy = format!("Its probe has not ended: can this machine reach {}?", upstream.address);
            all.push(Wrong::new(Level::Warning, what, &upstream.evidence, remedy).since(upstream.since));
        }
        _ => {}
    }
    if let Some(ejected) = &upstream.ejected {
        let what = format!("{name} of {pool} is ejected: requests to it failed");
        let remedy = format!(
            "Read its log: it passes its probes and fails requests. One request tries it again after {}; when that goes well, \
             it is back.",
            ejected.until
        );
        all.push(Wrong::new(Level::Warning, what, &ejected.why, remedy).since(ejected.since));
    }
}

/// It is up and may not be sent some kind of request.
fn classes(service: &Service, upstream: &Upstream, all: &mut Vec<Wrong>) {
    if upstream.health != "up" {
        return;
    }
    let refused: Vec<&ClassVerdict> = service.refusals(upstream).collect();
    let mut told: Vec<&str> = Vec::new();
    for class in &refused {
        // One reason for several kinds is one thing that is wrong.
        if told.contains(&class.why.as_str()) {
            continue;
        }
        told.push(&class.why);
        let same = refused.iter().filter(|other| other.why == class.why);
        let kinds: Vec<&str> = same.map(|other| other.class.as_str()).collect();
        let part = if class.may { "takes only a part of" } else { "takes no" };
        let what = format!("{} of {} {part} {}", upstream.name, service.name, kinds.join(", "));
        let remedy = "Cure what it says; it is asked again every few seconds. Until then the others are sent these requests.";
        all.push(Wrong::new(Level::Warning, what, &class.why, remedy));
    }
}

fn at_limit(service: &Service, upstream: &Upstream, all: &mut Vec<Wrong>) {
    if upstream.at_limit.is_empty() || upstream.health != "up" {
        return;
    }
    let what =
        format!("{} of {} is at its limit of {}", upstream.name, service.name, upstream.at_limit.join(", "));
    let why = format!(
        "{} requests are under way there and {} wait for room",
        upstream.outstanding, upstream.waiting
    );
    let remedy = "Nothing, while none wait for long: others are asked, else requests wait in their order. If it lasts, add a \
                  server or raise the limit.";
    let level = if upstream.waiting > 0 { Level::Warning } else { Level::Note };
    all.push(Wrong::new(level, what, why, remedy));
}
