//! `[service.NAME]`.

use std::path::Path;

use super::{
    MASKED,
    listener::pair,
    path, secret, size, time,
    tree::{Keys, Node},
};
use crate::{
    config::proxy::{
        Balance, Bears, Cohorts, Discovery, Dns, Freshness, Health, HttpProbe, Key, Kind, Lists, Passive,
        ProbeKind, Service, Source, Sticky, Upstream, UpstreamTimeouts,
    },
    model::proxy_protocol::Version,
    tls::UpstreamSetting,
};

pub(super) fn written(service: &Service, from: &Path) -> Keys {
    let keys = Keys::default()
        .with("kind", service.kind.as_str())
        .with("balance", service.balance.as_str())
        .with("slow_start", time(service.slow_start))
        .with("retry_status", service.retry_status.iter().map(|status| u32::from(*status)).collect::<Node>())
        .with("attempts", service.attempts)
        .with("maintenance", service.maintenance)
        .with("max_ejected", service.passive.max_ejected)
        .with("panic_threshold", service.passive.panic_threshold)
        .with("cohorts", service.cohorts.is_some())
        .maybe("proxy_protocol", service.proxy_protocol.map(version));
    let keys = registries(bears(keys, service.bears), service, from);
    let hold = Keys::default().with("read", time(service.hold.read)).with("write", time(service.hold.write));
    let budget = service.retry_budget;
    let retries = Keys::default().with("ratio", budget.ratio).with("min", budget.min);
    let hash = (service.balance == Balance::ConsistentHash).then(|| hash(&service.hash));
    let upstreams = service.upstreams.iter().map(upstream);
    keys.maybe("hash", hash)
        .maybe("sticky", service.sticky.as_ref().map(sticky))
        .with("hold", hold)
        .with("retry_budget", retries)
        .maybe("cohort", service.cohorts.as_ref().map(cohort))
        .with("health", health(&service.health, service.tls.is_some()))
        .with("passive", passive(&service.passive))
        .with("timeouts", timeouts(&service.timeouts))
        .maybe("sign_key_file", service.sign.as_ref().map(|sign| path(from, &sign.file)))
        .maybe("tls", service.tls.as_ref().map(|tls| self::tls(tls.setting(), from)))
        .maybe("discovery", service.discovery.as_ref().map(|discovery| self::discovery(discovery, from)))
        .unless_empty("upstreams", upstreams.collect::<Node>())
}

/// What only registries are told; of it, what means something beside the rest.
fn registries(keys: Keys, service: &Service, from: &Path) -> Keys {
    if service.kind == Kind::Controller {
        return keys;
    }
    let writer = service.writer.and_then(|place| service.upstreams.get(place));
    let reads = service.reads;
    let follows = reads.freshness != Freshness::None;
    let keys = keys
        .with("storage", if writer.is_some() { "replicated" } else { "shared" })
        .maybe("writer", writer.map(|writer| writer.name.to_string()))
        .with("write_only", reads.write_only)
        .with("freshness", reads.freshness.as_str())
        .maybe("stale_reads", follows.then(|| reads.stale.as_str()))
        .maybe("fresh_wait", (reads.freshness == Freshness::Position).then(|| time(reads.fresh_wait)))
        .maybe("logs", service.vendor.logs.as_ref().map(ToString::to_string));
    let lists = (reads.freshness == Freshness::Catalogue).then(|| lists(&service.vendor.lists, from));
    let keys = match &service.authorization {
        Some(authorization) => secret(keys, authorization, "token_file", from),
        None => keys,
    };
    keys.maybe("catalogue", lists)
}

fn lists(lists: &Lists, from: &Path) -> Keys {
    let keys = Keys::default()
        .with("interval", time(lists.interval))
        .with("timeout", time(lists.timeout))
        .with("cache", time(lists.cache));
    match &lists.authorization {
        Some(authorization) => secret(keys, authorization, "authorization_file", from),
        None => keys,
    }
}

fn bears(keys: Keys, bears: Bears) -> Keys {
    let connections = Keys::default().maybe("control", bears.control).maybe("bulk", bears.bulk);
    keys.maybe("max_requests", bears.requests)
        .maybe("max_pending", bears.pending)
        .unless_empty("max_connections", connections)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::V1 => "v1",
        Version::V2 => "v2",
    }
}

fn hash(key: &Key) -> Keys {
    let name = match key {
        Key::Content | Key::Address => None,
        Key::Header(name) | Key::Cookie(name) => Some(name.as_str()),
    };
    Keys::default().with("by", key.by()).maybe("name", name)
}

fn sticky(sticky: &Sticky) -> Keys {
    let (by, name) = match sticky {
        Sticky::Address => ("address", None),
        Sticky::Header(name) => ("header", Some(name.as_str())),
        Sticky::Cookie(name) => ("cookie", Some(name.as_str())),
    };
    Keys::default().with("by", by).maybe("name", name)
}

fn cohort(cohorts: &Cohorts) -> Keys {
    Keys::default()
        .with("quorum", cohorts.quorum)
        .with("settle", time(cohorts.settle))
        .with("fallback", time(cohorts.fallback))
}

/// Those that the file lists; where there are none it has `discovery`.
fn upstream(upstream: &Upstream) -> Keys {
    let keys = Keys::default()
        .with("name", upstream.name.to_string())
        .with("address", upstream.address.to_string())
        .with("weight", upstream.weight)
        .maybe("zone", upstream.zone.as_ref().map(ToString::to_string));
    bears(keys, upstream.bears)
}

fn discovery(discovery: &Discovery, from: &Path) -> Keys {
    let keys = match &discovery.source {
        Source::Etcd { etcd, cluster } => {
            let setting = etcd.tls.as_ref().map(crate::tls::Upstream::setting);
            let keys = Keys::default()
                .with("etcd", etcd.urls.iter().map(ToString::to_string).collect::<Node>())
                .with("cluster", cluster.as_str());
            let keys = match setting {
                Some(setting) => tls_keys(keys, setting, from),
                None => keys,
            };
            match &etcd.login {
                Some(login) => {
                    secret(keys.with("username", login.user.as_str()), &login.password, "password", from)
                }
                None => keys,
            }
        }
        Source::Dns(Dns { name, port, resolver }) => {
            let bare = name.trim_end_matches('.');
            let keys = match port {
                Some(port) => Keys::default().with("dns", format!("{bare}:{port}")),
                None => Keys::default().with("srv", bare),
            };
            keys.maybe("resolver", resolver.map(|resolver| resolver.to_string()))
        }
    };
    keys.with("most", discovery.most)
}

fn tls(setting: &UpstreamSetting, from: &Path) -> Keys {
    tls_keys(Keys::default(), setting, from)
}

fn tls_keys(keys: Keys, setting: &UpstreamSetting, from: &Path) -> Keys {
    let keys = keys
        .with("verify", setting.verify)
        .maybe("ca", setting.ca.as_deref().map(|ca| path(from, ca)))
        .maybe("server_name", setting.server_name.as_deref());
    match &setting.identity {
        Some(identity) => pair(keys, identity, from),
        None => keys,
    }
}

/// Probes go where requests go: inside TLS with them.
fn health(health: &Health, tls: bool) -> Keys {
    let keys = match &health.kind {
        ProbeKind::Tcp => Keys::default().with("kind", "tcp"),
        ProbeKind::Http(http) => {
            probe(Keys::default().with("kind", if tls { "https" } else { "http" }), http)
        }
    };
    keys.with("interval", time(health.interval))
        .with("timeout", time(health.timeout))
        .with("rise", health.rise)
        .with("fall", health.fall)
}

fn probe(keys: Keys, probe: &HttpProbe) -> Keys {
    // Their values may be passwords.
    let headers = probe.headers.iter();
    let headers = headers.fold(Keys::default(), |keys, (name, _)| keys.with(name.to_string(), MASKED));
    let json = probe.json.iter();
    let json = json.fold(Keys::default(), |keys, (pointer, value)| keys.with(pointer.clone(), scalar(value)));
    keys.with("method", probe.method.as_str())
        .with("path", probe.path.as_str())
        .maybe("host", probe.host.as_deref())
        .with("status", probe.status.iter().map(|status| u32::from(*status)).collect::<Node>())
        .maybe("text", probe.text.as_deref())
        .unless_empty("headers", headers)
        .unless_empty("json", json)
}

/// Readers take nothing else than these.
fn scalar(value: &serde_json::Value) -> Node {
    match value {
        serde_json::Value::Bool(flag) => (*flag).into(),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => Node::Whole(whole),
            None => Node::Number(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

fn passive(passive: &Passive) -> Keys {
    Keys::default()
        .with("failures", passive.failures)
        .with("ratio", passive.ratio)
        .with("requests", passive.requests)
        .with("window", time(passive.window))
        .with("ejection", time(passive.ejection))
        .with("longest", time(passive.longest))
}

fn timeouts(timeouts: &UpstreamTimeouts) -> Keys {
    let floor = timeouts.floor;
    Keys::default()
        .with("connect", time(timeouts.connect))
        .with("tls", time(timeouts.tls))
        .maybe("first_byte", timeouts.first_byte.map(time))
        .with("poll", time(timeouts.poll))
        .with("commit", time(timeouts.commit))
        .with("idle", time(timeouts.idle))
        .with("floor_rate", floor.map_or_else(|| "off".into(), |floor| format!("{}/s", size(floor.rate))))
        .maybe("floor_window", floor.map(|floor| time(floor.window)))
        .with("keep_alive", time(timeouts.keep_alive))
}
