//! `[[listener]]` and its rules.

use std::net::{IpAddr, SocketAddr};

use super::bounds;
use crate::config::{
    proxy::{Does, Listener, ListenerLimits, Network, Rule, Service, covers},
    raw::{Raw, Table, quoted},
    report::Place,
    suggest,
    value::{Given, Wrong, flag, listen, named, text, whole},
};
use crate::model::ServiceName;

/// The services by name, as far as they were read; a name with faults of its own still counts as known.
pub(super) struct Known<'a> {
    pub(super) names: Vec<&'a str>,
    pub(super) services: &'a [Service],
}

/// A listener, and where its addresses stand in the file.
pub(super) struct Read {
    pub(super) listener: Listener,
    pub(super) places: Vec<Place>,
    pub(super) name_place: Place,
}

pub(super) fn listeners<'r>(raw: &'r Raw<'r>, known: &Known<'_>) -> Vec<Read> {
    let tables = raw.sections("listener");
    tables.iter().enumerate().map(|(index, table)| listener(table, index, known)).collect()
}

/// What cannot be read is left out; the fault is noted, and the rest is still compared with the others.
fn listener(table: &Table<'_>, index: usize, known: &Known<'_>) -> Read {
    let name = table.opt("name", |given| named::<ServiceName>(given).map(|name| name.as_str().to_owned()));
    let name_place = table.at("name");
    let bind = table.need_list("bind", "bind = [\"0.0.0.0:8090\"]", listen);
    let trusted = table.list("trusted", network).unwrap_or_default();
    let proxy_protocol = table.list("proxy_protocol", network).unwrap_or_default();
    let expose = table.list("expose", exposed).unwrap_or_default();
    let http2 = table.or("http2", false, flag);
    let tls = super::tls::server(table, http2);
    let limits = limits(&table.sub("limits"));
    let single = table.opt("service", |given| service(given, known));
    let rules = table.tables("rules", "{ service = \"controllers\" }");
    let rules = match (table.has("service"), table.has("rules")) {
        (true, true) => {
            table.fault("rules", "are given beside `listener.service`", "delete one of them");
            Vec::new()
        }
        (false, false) => {
            table.missing(
                "service",
                &format!("service = \"{}\"", known.names.first().unwrap_or(&"controllers")),
            );
            Vec::new()
        }
        (true, false) => {
            let rule = |service| Rule { host: None, path: None, does: Does::Send(service) };
            single.map(rule).into_iter().collect()
        }
        (false, true) if table.is_empty_list("rules") => {
            table.fault("rules", "are empty", "name at least one: `{ service = \"controllers\" }`");
            Vec::new()
        }
        (false, true) => read_rules(&rules, known),
    };
    let (bind, places) = bind.unwrap_or_default().into_iter().unzip();
    let first_service = rules.iter().find_map(Rule::service).and_then(|place| known.services.get(place));
    let default_name = || first_service.map_or_else(|| format!("listener-{index}"), |s| s.name.to_string());
    let listener = Listener {
        name: name.unwrap_or_else(default_name),
        bind,
        tls,
        rules,
        trusted: trusted.into_iter().map(|(network, _)| network).collect(),
        proxy_protocol: proxy_protocol.into_iter().map(|(network, _)| network).collect(),
        expose: expose.into_iter().map(|(path, _)| path).collect(),
        http2,
        limits,
    };
    Read { listener, places, name_place }
}

fn limits(table: &Table<'_>) -> ListenerLimits {
    let connections = table.opt("connections", whole(bounds::CONNECTIONS));
    ListenerLimits { connections, bounds: bounds::bounds(table, connections) }
}

fn read_rules(tables: &[Table<'_>], known: &Known<'_>) -> Vec<Rule> {
    let mut rules: Vec<(Rule, String)> = Vec::with_capacity(tables.len());
    for table in tables {
        let host = table.opt("host", host);
        let path = table.opt("path", prefix).flatten();
        let rule = Rule { host, path, does: does(table, known) };
        let shown = shown(&rule);
        if let Some((_, earlier)) = rules.iter().find(|(earlier, _)| covers(matched(earlier), matched(&rule)))
        {
            let what = format!("this rule ({shown}) can never match");
            let right =
                format!("a rule before it ({earlier}) takes all its requests: delete it or move it up");
            table.fault_at(table.place(), what, right);
        }
        rules.push((rule, shown));
    }
    // It would serve nobody, which a listener is not needed for.
    if let Some(last) = tables.last().filter(|_| rules.iter().all(|(rule, _)| rule.service().is_none())) {
        let right =
            "add one that sends what is left on: `{ service = \"controllers\" }`, or delete the listener";
        last.fault_at(last.place(), "every rule of this listener refuses, so that it serves nobody", right);
    }
    rules.into_iter().map(|(rule, _)| rule).collect()
}

/// What is wrong is noted, and no rule refuses for that; whom it shadows does not depend on it.
fn does(table: &Table<'_>, known: &Known<'_>) -> Does {
    let deny = table.opt("deny", deny);
    if !table.has("deny") {
        let service =
            table.need("service", "service = \"…\"` or `deny = 403", |given| service(given, known));
        return Does::Send(service.unwrap_or(usize::MAX));
    }
    if table.has("service") {
        let right = "delete one of them: a rule sends requests on or refuses them";
        table.fault("deny", "is given beside `service`", right);
    }
    deny.unwrap_or(Does::Send(usize::MAX))
}

fn deny(given: &Given<'_>) -> Result<Does, Wrong> {
    let right =
        "write the status that they are answered with: `403`, or `404` to hide that something is there";
    match whole(400..=599)(given) {
        Ok(403) => Ok(Does::Forbid),
        Ok(404) => Ok(Does::Hide),
        Ok(other) => Err(Wrong::new(format!("is `{other}`"), right)),
        Err(wrong) => Err(Wrong::new(wrong.what, right)),
    }
}

fn shown(rule: &Rule) -> String {
    match (&rule.host, &rule.path) {
        (None, None) => "everything".into(),
        (Some(host), None) => format!("host `{host}`"),
        (None, Some(path)) => format!("path `{path}`"),
        (Some(host), Some(path)) => format!("host `{host}`, path `{path}`"),
    }
}

fn matched(rule: &Rule) -> (Option<&str>, Option<&str>) {
    (rule.host.as_deref(), rule.path.as_deref())
}

fn service(given: &Given<'_>, known: &Known<'_>) -> Result<usize, Wrong> {
    let name = text(given)?;
    if let Some(index) = known.services.iter().position(|service| service.name.as_str() == name) {
        return Ok(index);
    }
    if known.names.contains(&name) {
        // Its own fault is reported where it is; this use of it is right.
        return Ok(usize::MAX);
    }
    let right = match suggest::nearest(name, known.names.iter().copied()) {
        _ if known.names.is_empty() => format!("add a table `[service.{name}]`"),
        Some(near) => format!("did you mean `{near}`? known: {}", quoted(&known.names)),
        None => format!("known: {}", quoted(&known.names)),
    };
    Err(Wrong::new(format!("names no service: there is no `[service.{name}]`"), right))
}

fn host(given: &Given<'_>) -> Result<String, Wrong> {
    let text = text(given)?;
    let right = || "write a host name without scheme, port or path, like `ci.example`".to_owned();
    if text.contains('_') {
        return Err(Wrong::new(format!("is `{text}`"), "a host name has no underscore"));
    }
    // The rule for host names is that of `host:port`.
    match format!("{text}:1").parse::<crate::config::Address>() {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_) => Err(Wrong::new(format!("is `{text}`"), right())),
    }
}

/// A path without its last slash; `/` is every path.
fn prefix(given: &Given<'_>) -> Result<Option<String>, Wrong> {
    let text = text(given)?;
    let wrong = |right: &str| Err(Wrong::new(format!("is `{text}`"), right));
    if !text.starts_with('/') {
        return Err(Wrong::new(format!("is `{text}`"), format!("begin it with a slash: `/{text}`")));
    }
    if text.contains(['*', '?', '#', '%']) {
        return wrong("write a plain path; everything below it matches, without wildcards or query");
    }
    if text.contains("//") || text.split('/').any(|part| part == "." || part == "..") {
        return wrong("write it without `//`, `.` and `..`");
    }
    let bare = text.trim_end_matches('/');
    Ok((!bare.is_empty()).then(|| bare.to_owned()))
}

fn exposed(given: &Given<'_>) -> Result<String, Wrong> {
    let text = text(given)?;
    if matches!(text, "/metrics" | "/replication/") {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("has `{text}`"), "what is hidden and can be exposed: `/metrics`, `/replication/`"))
}

pub(super) fn network(given: &Given<'_>) -> Result<Network, Wrong> {
    let text = text(given)?;
    let wrong = |right: String| Err(Wrong::new(format!("has `{text}`"), right));
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return wrong("write an address or a network, like `10.0.0.0/8`".into());
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits.map(str::parse::<u8>) {
        None => most,
        Some(Ok(bits)) if bits <= most => bits,
        Some(_) => return wrong(format!("use 0 to {most} behind the slash")),
    };
    let start = network_start(address, bits);
    if start != address {
        return wrong(format!("the network is `{start}/{bits}`; one address is `{address}`"));
    }
    Ok(Network { address, bits })
}

/// Whether all of `inner` is in `outer`.
pub(super) fn contains(outer: &Network, inner: &Network) -> bool {
    outer.bits <= inner.bits && outer.contains(inner.address)
}

fn network_start(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

/// Whether two sockets cannot both be opened.
pub(super) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_family && same_ip
}
