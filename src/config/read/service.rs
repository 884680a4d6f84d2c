//! `[service.NAME]`.

use std::time::Duration;

use super::{choosing, health, replicas, vendor};
use crate::{
    config::{
        proxy::{Freshness, Hold, Kind, ProbeKind, Reads, RetryBudget, Secret, Service, Upstream},
        raw::{Raw, Table},
        report::Place,
        value::{Given, Wrong, address, duration_in, flag, fraction, named, one_of, status, whole},
    },
    model::{ServiceName, UpstreamName, proxy_protocol::Version},
};

const EXAMPLE: &str = "{ name = \"c1\", address = \"10.0.1.4:8090\" }";
const MINUTE: Duration = Duration::from_secs(60);

/// The services that could be read, and where each address stands; the names are those of all.
pub(super) struct Services<'r> {
    pub(super) names: Vec<&'r str>,
    pub(super) services: Vec<Service>,
    pub(super) upstream_places: Vec<Vec<Place>>,
}

pub(super) fn services<'r>(raw: &'r Raw<'r>) -> Services<'r> {
    let mut found = Services { names: Vec::new(), services: Vec::new(), upstream_places: Vec::new() };
    for (name, place, table) in raw.named("service") {
        found.names.push(name);
        match ServiceName::parse(name) {
            Err(error) => {
                raw.fault(place, format!("`[service.{name}]` has no valid name"), error.to_string())
            }
            Ok(name) => {
                if let Some((service, places)) = service(&table, name) {
                    found.services.push(service);
                    found.upstream_places.push(places);
                }
            }
        }
    }
    found
}

fn service(table: &Table<'_>, name: ServiceName) -> Option<(Service, Vec<Place>)> {
    let kinds = one_of(&[("controller", Kind::Controller), ("registry", Kind::Registry)]);
    let kind = match kind_by_name(name.as_str()) {
        Some(default) => Some(table.or("kind", default, kinds)),
        None => table.need("kind", "kind = \"controller\"` or `kind = \"registry\"", kinds),
    };
    let choosing = choosing::read(table, kind, &name);
    let hold = hold(table);
    let retry_status = table.list("retry_status", retried);
    let retry_status = retry_status
        .map_or(Service::RETRY_STATUS.to_vec(), |all| all.into_iter().map(|(status, _)| status).collect());
    let maintenance = table.or("maintenance", false, flag);
    let discovery = super::discovery::read(table, kind);
    let upstreams = match discovery {
        // Whoever is found, then.
        Some(Some(_)) if !table.has("upstreams") => Some(Vec::new()),
        _ => upstreams(table, &name),
    };
    let (writer, reads) = replicas::read(table, kind, upstreams.as_deref());
    let authorization = authorization(table, kind);
    let vendor = vendor::read(table, kind, reads, upstreams.as_deref());
    let proxy_protocol = proxy_protocol(table, reads);
    let tls = super::tls::upstream(table);
    let sign = table.opt("sign_key_file", super::auth::signing);
    let mut health = health::health(&table.sub("health"), table.has("tls"));
    if let ProbeKind::Http(probe) = &mut health.kind {
        probe.sign = sign.as_ref().map(|sign| sign.key.clone());
    }
    let passive = health::passive(table);
    let timeouts = super::timeouts::timeouts(&table.sub("timeouts"));
    let attempts = table.or("attempts", Service::ATTEMPTS, whole(1..=10));
    let retry_budget = retry_budget(&table.sub("retry_budget"));
    let cohorts = super::cohorts::read(table, kind);
    let (upstreams, places) = upstreams?.into_iter().unzip();
    let kind = kind?;
    let service = Service {
        name,
        kind,
        balance: choosing.balance,
        hash: choosing.hash,
        sticky: choosing.sticky,
        slow_start: choosing.slow_start,
        bears: choosing.bears,
        hold,
        retry_status,
        maintenance,
        upstreams,
        proxy_protocol,
        tls,
        writer,
        reads,
        authorization,
        sign,
        vendor,
        health,
        passive,
        timeouts,
        attempts,
        retry_budget,
        cohorts,
        discovery: discovery?,
    };
    Some((service, places))
}

/// The kind of a service whose name says it.
/// For registries of ours that ask for a credential: their log and their states are for operators.
fn authorization(table: &Table<'_>, kind: Option<Kind>) -> Option<Secret> {
    let shown = table.opt("token_file", super::auth::shown);
    if kind == Some(Kind::Controller) && table.has("token_file") {
        table.fault(
            "token_file",
            "is given for controllers",
            "the proxy asks them nothing that needs one: delete it",
        );
    }
    shown
}

fn kind_by_name(name: &str) -> Option<Kind> {
    match name {
        "controller" | "controllers" => Some(Kind::Controller),
        "registry" | "registries" => Some(Kind::Registry),
        _ => None,
    }
}

fn retry_budget(table: &Table<'_>) -> RetryBudget {
    let default = RetryBudget::default();
    RetryBudget {
        ratio: table.or("ratio", default.ratio, fraction(0.0..=1.0)),
        min: table.or("min", default.min, whole(0..=1_000_000)),
    }
}

fn hold(table: &Table<'_>) -> Hold {
    let default = Hold::default();
    let hold = table.sub("hold");
    Hold {
        read: hold.or("read", default.read, duration_in(Duration::ZERO..=MINUTE)),
        write: hold.or("write", default.write, duration_in(Duration::ZERO..=MINUTE)),
    }
}

fn retried(given: &Given<'_>) -> Result<u16, Wrong> {
    let status = status(given)?;
    if status < 400 {
        return Err(Wrong::new(format!("has `{status}`"), "only errors are tried again: use 400 to 599"));
    }
    Ok(status)
}

fn upstreams(table: &Table<'_>, name: &ServiceName) -> Option<Vec<(Upstream, Place)>> {
    let tables = table.tables("upstreams", EXAMPLE);
    if !table.has("upstreams") {
        table.missing("upstreams", &format!("upstreams = [{EXAMPLE}]"));
        return None;
    }
    let mut found: Vec<(Upstream, Place)> = Vec::with_capacity(tables.len());
    let mut names: Vec<UpstreamName> = Vec::with_capacity(tables.len());
    let mut whole = true;
    for entry in &tables {
        let address = entry.need("address", "address = \"10.0.1.4:8090\"", address);
        let given_name = entry.opt("name", named::<UpstreamName>);
        if let Some(name) = &given_name {
            if names.contains(name) {
                entry.fault("name", format!("is `{name}` again"), "give each upstream a name of its own");
            }
            names.push(name.clone());
        }
        let part = choosing::part(entry);
        let Some(address) = address else {
            whole = false;
            continue;
        };
        // Without a name of its own it is called by its address.
        let default = || UpstreamName::parse(address.to_string().replace([':', '[', ']'], "-")).ok();
        let Some(upstream_name) = given_name.or_else(default) else {
            whole = false;
            continue;
        };
        if let Some((other, _)) = found.iter().find(|(other, _)| other.address == address) {
            let what = format!("is `{address}` again: it is `{}` already", other.name);
            entry.fault("address", what, "name each server once");
        }
        found.push((part.of(upstream_name, address), entry.at("address")));
    }
    let found_elsewhere = table.has("discovery");
    if tables.is_empty() && table.is_empty_list("upstreams") && !found_elsewhere {
        let what = format!("service `{name}` has no upstreams");
        table.fault_at(table.at("upstreams"), what, format!("name at least one, or delete [service.{name}]"));
    }
    (whole && (!found.is_empty() || found_elsewhere)).then_some(found)
}

fn proxy_protocol(table: &Table<'_>, reads: Reads) -> Option<Version> {
    let version = table.opt("proxy_protocol", one_of(&[("v1", Version::V1), ("v2", Version::V2)]))?;
    if reads.freshness != Freshness::None {
        let right = "delete it: registries of ours do not take it; or use `freshness = \"none\"`";
        table.fault("proxy_protocol", "is given, but the registries are followed without it", right);
    }
    Some(version)
}
