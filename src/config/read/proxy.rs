//! `proxy.toml`.

use std::{net::SocketAddr, num::NonZero, time::Duration};

use super::{
    admin, bounds,
    rules::{self, Known, Read},
    server,
    service::{self, Services},
    trace,
};
use crate::config::{
    Address,
    proxy::{Endings, Entry, Limits, Listener, Proxy},
    raw::{Raw, Table},
    report::Place,
    value::{Given, Wrong, duration_in, flag, named, path, size, text, whole},
};
use crate::{model::ZoneName, telemetry::Access};

/// Below it real requests with certificates in their heads do not fit; above it one head is a memory attack.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 4 * 1024..=1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);

pub(in crate::config) fn proxy<'r>(raw: &'r Raw<'r>) -> Option<Proxy> {
    let own = raw.section("proxy");
    let threads = own.opt("threads", whole(1..=1024));
    let zero_copy = own.or("zero_copy", true, flag);
    let zone = own.opt("zone", named::<ZoneName>);
    let address_file = own.opt("address_file", path);
    let log_table = raw.section("log");
    let access = log_table.or("access", Access::Stdout, server::access);
    let progress = log_table.or("progress", Some(Proxy::PROGRESS), progress);
    let log = server::log_of(&log_table);
    let trace = trace::read(raw, &raw.section("trace"));
    let run_dir = own.opt("run_dir", path);
    let shutdown = raw.section("shutdown");
    let endings = Endings {
        grace: server::grace_of(&shutdown),
        drain: shutdown.or("drain", Endings::default().drain, duration_in(Duration::ZERO..=DAY)),
    };
    let admin = admin::read(&raw.section("admin"));
    let limits = limits(&raw.section("limits"));

    let found = service::services(raw);
    if found.names.is_empty() {
        let right = "add a table `[service.controllers]` with `upstreams = […]`";
        raw.fault(Place::File, "there is no `[service.NAME]`", right);
    }
    let read = rules::listeners(raw, &Known { names: found.names.clone(), services: &found.services });
    one_name_each(raw, &read);
    one_socket_each(raw, &read, admin.listen, admin.place);
    no_loops(raw, &read, &found);

    let listeners: Vec<Listener> = read.into_iter().map(|read| read.listener).collect();
    let default_threads = || std::thread::available_parallelism().map_or(1, NonZero::get);
    (!listeners.is_empty() && !found.services.is_empty()).then(|| Proxy {
        threads: threads.unwrap_or_else(default_threads),
        zone,
        zero_copy,
        log,
        access,
        progress,
        trace,
        admin: admin.listen,
        entry: match admin.token {
            Some(token) => Entry::Token(token),
            None if admin.tokenless => Entry::Anybody,
            None => Entry::Local,
        },
        decisions: admin.decisions,
        address_file,
        listeners,
        services: found.services,
        limits,
        endings,
        run_dir,
    })
}

/// A length of time, or `"off"`.
fn progress(given: &Given<'_>) -> Result<Option<Duration>, Wrong> {
    if matches!(text(given), Ok("off")) {
        return Ok(None);
    }
    let wrong = |wrong: Wrong| Wrong::new(wrong.what, format!("{}, or `\"off\"`", wrong.right));
    duration_in(SECOND..=DAY)(given).map(Some).map_err(wrong)
}

fn limits(table: &Table<'_>) -> Limits {
    let default = Limits::default();
    let connections = table.or("connections", default.connections, whole(bounds::CONNECTIONS));
    // Less has no room for what one request may bring with it.
    let held_bytes = |given: &Given<'_>| size(1024 * 1024..=1 << 40)(given).map(|size| size as u64);
    Limits {
        connections,
        header_bytes: table.or("header_bytes", default.header_bytes, size(HEADER_BYTES)),
        headers: table.or("headers", default.headers, whole(16..=256)),
        header_timeout: table.or(
            "header_timeout",
            default.header_timeout,
            duration_in(SECOND / 10..=SECOND * 600),
        ),
        keep_alive: table.or("keep_alive", default.keep_alive, duration_in(Duration::ZERO..=DAY)),
        held: table.or("held", default.held, whole(0..=1_000_000)),
        held_bytes: table.or("held_bytes", default.held_bytes, held_bytes),
        streams: table.or("streams", default.streams, whole(1..=1000)),
        bounds: bounds::bounds(table, Some(connections)),
        ipv6_prefix: table.or("ipv6_prefix", default.ipv6_prefix, whole(16..=128)),
        body: bounds::body(table),
    }
}

fn one_name_each(raw: &Raw<'_>, read: &[Read]) {
    for (index, one) in read.iter().enumerate() {
        let name = &one.listener.name;
        if read.iter().take(index).any(|other| other.listener.name == *name) {
            let what = format!("`listener.name` is `{name}` again");
            raw.fault(one.name_place.clone(), what, "give each listener a name of its own");
        }
    }
}

fn one_socket_each(raw: &Raw<'_>, read: &[Read], admin: SocketAddr, admin_place: Place) {
    let mut seen: Vec<(SocketAddr, String)> = Vec::new();
    for one in read {
        for (address, place) in one.listener.bind.iter().zip(&one.places) {
            if let Some((taken, by)) = seen.iter().find(|(taken, _)| rules::collide(*taken, *address)) {
                let what = format!("`listener.bind` has `{address}`, which collides with `{taken}` of {by}");
                raw.fault(place.clone(), what, "use another port or address");
            }
            seen.push((*address, format!("listener `{}`", one.listener.name)));
        }
    }
    if let Some((taken, by)) = seen.iter().find(|(taken, _)| rules::collide(*taken, admin)) {
        let what = format!("`admin.listen` is `{admin}`, which collides with `{taken}` of {by}");
        raw.fault(admin_place, what, "use another port, like `127.0.0.1:9091`");
    }
}

/// A proxy whose upstream is one of its own listeners would forward to itself until it runs out of sockets.
fn no_loops(raw: &Raw<'_>, read: &[Read], found: &Services<'_>) {
    let own = |address: &Address| read.iter().find(|one| one.listener.is_at(address));
    for (service, places) in found.services.iter().zip(&found.upstream_places) {
        for (upstream, place) in service.upstreams.iter().zip(places) {
            if let Some(one) = own(&upstream.address) {
                let name = &one.listener.name;
                let what = format!("upstream `{}` is this proxy's own listener `{name}`", upstream.name);
                raw.fault(place.clone(), what, "name the server behind the proxy");
            }
        }
    }
}
