//! `controller.toml`.

use std::time::Duration;

use super::{auth, etcd, server, tls};
use crate::config::{
    BaseUrl,
    controller::{Controller, Limits, MacPool, Registries, Store, StoreKind, Timeouts, Upkeep, Web},
    events::{Events, WebhookUrl},
    raw::{Raw, Table},
    value::{Wrong, base_url, duration_in, flag, fraction, path, size, text, time, webhook, whole},
};
use crate::model::MacRange;

/// Clients of the controller give up after 10 s; a call that waits longer for a registry answers nobody.
const CLIENTS_PATIENCE: Duration = Duration::from_secs(10);
/// An agent gives a request up after a minute (`--request-timeout`): a longer poll would never end well.
const LONGEST_POLL: Duration = Duration::from_secs(50);
/// Scripts come in the body, encoded; below this the clients' usual ones do not fit.
const BODY: std::ops::RangeInclusive<u64> = 64 * 1024..=256 * 1024 * 1024;
/// What etcd can be given: less holds no cloud, more it advises against.
const QUOTA: std::ops::RangeInclusive<u64> = 16 * 1024 * 1024..=64 * 1024 * 1024 * 1024;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(in crate::config) fn controller<'r>(raw: &'r Raw<'r>) -> Option<Controller> {
    let server = server::server(raw, "listen = \"0.0.0.0:8090\"");
    let log = server::log(raw);
    let auth = auth::of_controller(raw);
    let store = store(raw);
    let registries = registries(raw);
    let timeouts = timeouts(raw);
    let limits = limits(raw);
    let events = events(raw);
    let mac_pool = mac_pool(raw);
    let web = web(raw);
    Some(Controller {
        server: server?,
        log,
        auth: auth?,
        store: store?,
        registries: registries?,
        timeouts,
        limits,
        events: events?,
        mac_pool,
        web,
    })
}

fn store<'r>(raw: &'r Raw<'r>) -> Option<Store> {
    let table = raw.section("store");
    let cluster = etcd::cluster(&table);
    let upkeep = upkeep(&table);
    let kind = match (table.has("etcd"), table.has("embedded")) {
        (true, true) => {
            let right = "delete one of them: the state is in one place";
            table.fault("embedded", "is given beside `store.etcd`", right);
            return None;
        }
        (false, true) => {
            etcd::means_nothing(&table, "with `embedded`");
            StoreKind::Embedded(table.opt("embedded", path)?)
        }
        (true, false) => StoreKind::Etcd(etcd::etcd(&table)?),
        (false, false) => {
            etcd::means_nothing(&table, "without `etcd`");
            let what = "`[store]` does not say where the state is";
            let right = "add `etcd = [\"http://10.0.1.4:2379\"]` or `embedded = \"DIR\"`";
            table.fault_at(table.place(), what, right);
            return None;
        }
    };
    Some(Store { kind, cluster, upkeep })
}

fn upkeep(table: &Table<'_>) -> Upkeep {
    let default = Upkeep::default();
    let never_or = duration_in(Duration::ZERO..=DAY * 30);
    let upkeep = Upkeep {
        compact_every: table.or("compact_every", default.compact_every, &never_or),
        defragment_every: table.or("defragment_every", default.defragment_every, &never_or),
        quota: table.or("quota", default.quota, |given| size(QUOTA)(given).map(|quota| quota as u64)),
    };
    if table.has("embedded") {
        // The third one may be from an environment that was made for the vendor's controller.
        for key in ["compact_every", "quota"] {
            if table.has(key) {
                table.fault(key, "means nothing with `embedded`: that store looks after itself", "delete it");
            }
        }
    }
    upkeep
}

/// The outer `None` is a fault, the inner one the table's absence.
fn registries<'r>(raw: &'r Raw<'r>) -> Option<Option<Registries>> {
    let table = raw.section("registries");
    let patience = duration_in(Duration::from_millis(10)..=CLIENTS_PATIENCE - SECOND / 2);
    if !table.is_given() {
        // Asked for all the same, so that the variables that could set them are known.
        let _known = ["address", "node_address", "push_address", "timeout"].map(|key| table.has(key));
        tls::towards(&table, "registries_tls", false);
        return Some(None);
    }
    let address = table.need("address", "address = \"http://front:8089\"", base_url);
    let node_address = table.opt("node_address", base_url);
    let push_address = table.opt("push_address", base_url);
    let timeout = table.or("timeout", Duration::from_secs(5), patience);
    let secured = address.as_ref().is_some_and(BaseUrl::is_secured);
    let tls = tls::towards(&table, "registries_tls", secured);
    let (address, tls) = (address?, tls?);
    let node_address = node_address.unwrap_or_else(|| address.clone());
    Some(Some(Registries { node_address, push_address, address, timeout, tls }))
}

fn timeouts<'r>(raw: &'r Raw<'r>) -> Timeouts {
    let default = Timeouts::default();
    let table = raw.section("timeouts");
    Timeouts {
        node_active: table.or("node_active", default.node_active, duration_in(SECOND..=DAY)),
        instance_active: table.or("instance_active", default.instance_active, duration_in(SECOND..=DAY)),
        instance_visible: table.or("instance_visible", default.instance_visible, time),
        claim: table.or("claim", default.claim, duration_in(SECOND / 10..=SECOND * 60)),
        poll: table.or("poll", default.poll, duration_in(SECOND / 10..=LONGEST_POLL)),
        store: table.or("store", default.store, duration_in(SECOND / 10..=CLIENTS_PATIENCE - SECOND / 2)),
        start_memory: table.or("start_memory", default.start_memory, time),
        command: table.or("command", default.command, time),
        scheduling: table.or("scheduling", default.scheduling, duration_in(SECOND..=DAY * 30)),
        ageing_per_second: table.or("ageing_per_second", default.ageing_per_second, fraction(0.0..=10_000.0)),
        mass_absence: table.or("mass_absence", default.mass_absence, fraction(0.0..=1.0)),
    }
}

fn events<'r>(raw: &'r Raw<'r>) -> Option<Events> {
    let default = Events::default();
    let table = raw.section("events");
    let log = table.or("log", default.log, flag);
    let keep = table.or("keep", default.keep, duration_in(SECOND * 60..=DAY * 30));
    let given = table.has("url");
    let url = table.opt("url", webhook);
    if url.is_some() && !log {
        table.fault(
            "url",
            "is given, but `log` is `false`",
            "delete one of them: what is not written down is told to nobody",
        );
        return None;
    }
    // One that cannot be read is a fault already.
    let tls = tls::towards(&table, "events_tls", url.as_ref().is_some_and(WebhookUrl::secure));
    if given && url.is_none() {
        return None;
    }
    Some(Events { log, keep, url, tls: tls? })
}

fn mac_pool<'r>(raw: &'r Raw<'r>) -> MacPool {
    let table = raw.section("mac_pool");
    let manage = table.or("manage", false, flag);
    let range = table.opt("range", |given| {
        let text = text(given)?;
        text.parse::<MacRange>().map_err(|error| Wrong::new(format!("is `{text}`"), error.to_string()))
    });
    if range.is_some() && !manage {
        table.fault("range", "means nothing without `manage`", "add `manage = true`");
    }
    MacPool { manage, range }
}

fn web<'r>(raw: &'r Raw<'r>) -> Web {
    let table = raw.section("web");
    Web { allow_cors: table.or("allow_cors", false, flag), packages: table.opt("packages", path) }
}

fn limits<'r>(raw: &'r Raw<'r>) -> Limits {
    let default = Limits::default();
    let table = raw.section("limits");
    Limits {
        body: table.or("body", default.body, size(BODY)),
        count: table.or("count", default.count, whole(1..=Limits::COUNT)),
        attempts: table.or("attempts", default.attempts, whole(1..=100_000)),
        instances: table.or("instances", default.instances, whole(1..=10_000_000)),
        nodes: table.or("nodes", default.nodes, whole(1..=1_000_000)),
        unknown_vm_reports: table.or(
            "unknown_vm_reports",
            default.unknown_vm_reports,
            // One report may have been written down before the record was made.
            whole(2..=1_000_000),
        ),
        concurrency: table.or("concurrency", default.concurrency, whole(1..=1_000_000)),
    }
}
