//! `upstream` blocks.

use std::time::Duration;

use super::{Walk, checks, parse::Directive};
use crate::import::{
    At,
    plan::{Rows, quoted},
    report::{Outcome, changed, guessed, kept, lost},
    units, words,
};

/// An `upstream` block: servers, and how one is chosen.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) at: At,
    pub(super) servers: Vec<Rows>,
    /// Their names and ports, to guess their kind from.
    pub(super) hosts: Vec<String>,
    pub(super) ports: Vec<u16>,
    /// Keys of the service.
    pub(super) rows: Rows,
    pub(super) passive: Rows,
    pub(super) health: Rows,
    /// The directive that hashes what is asked for, which only registries can.
    pub(super) hashed: Option<(At, String)>,
    /// Something is sent to it.
    pub(super) used: bool,
}

impl Walk {
    pub(super) fn group(&mut self, block: &Directive) {
        let mut group = Group {
            name: block.arg(0).to_owned(),
            at: block.at.clone(),
            servers: Vec::new(),
            hosts: Vec::new(),
            ports: Vec::new(),
            rows: Rows::default(),
            passive: Rows::default(),
            health: Rows::default(),
            hashed: None,
            used: false,
        };
        for directive in block.block.as_deref().unwrap_or_default() {
            let outcome = match directive.name.as_str() {
                "server" => server(directive, &mut group),
                name => choice(name, directive, &mut group),
            };
            self.note(directive, outcome);
        }
        if group.rows.get("balance").is_none() && group.servers.len() > 1 {
            group.rows.set("balance", quoted("round-robin"));
        }
        self.groups.insert(group.name.clone(), group);
    }
}

/// How one of the servers is chosen.
fn choice(name: &str, directive: &Directive, group: &mut Group) -> Outcome {
    match name {
        "least_conn" | "least_time" => {
            let word = if name == "least_conn" { "least-requests" } else { "peak-ewma" };
            group.rows.set("balance", quoted(word));
            kept(format!("balance = \"{word}\""))
        }
        "random" => {
            group.rows.set("balance", quoted("least-requests"));
            changed("balance = \"least-requests\": of two picked by chance the one with fewer")
        }
        "ip_hash" => {
            group.rows.set("sticky", "{ by = \"address\" }".into());
            kept("sticky by the client's address")
        }
        "hash" => hash(directive, group),
        "sticky" if directive.arg(0) == "cookie" && words::is_token(directive.arg(1)) => {
            group.rows.set("sticky", format!("{{ by = \"cookie\", name = {} }}", quoted(directive.arg(1))));
            changed("sticky by a cookie of ours with this name")
        }
        "sticky" => lost("sticky is by address, header or cookie"),
        "keepalive" | "keepalive_requests" | "keepalive_timeout" | "keepalive_time" | "zone" | "state"
        | "ntlm" | "queue" => kept("not needed: connections are kept and health is shared by all threads"),
        "check"
        | "check_http_send"
        | "check_http_expect_alive"
        | "check_keepalive_requests"
        | "check_shm_size" => checks::check(name, directive, group),
        "resolver" | "resolver_timeout" => kept("names are resolved as the system resolves them"),
        _ => lost("not known here"),
    }
}

/// `hash KEY [consistent]`.
fn hash(directive: &Directive, group: &mut Group) -> Outcome {
    let key = directive.arg(0);
    let by = match key {
        "$remote_addr" | "$binary_remote_addr" => "{ by = \"address\" }".to_owned(),
        "$request_uri" | "$uri" | "$scheme$proxy_host$request_uri" | "$scheme$proxy_host$uri" => {
            group.hashed = Some((directive.at.clone(), directive.shown()));
            "{ by = \"content\" }".to_owned()
        }
        _ => match (key.strip_prefix("$http_"), key.strip_prefix("$cookie_")) {
            (Some(field), _) if words::is_token(field) && field != "cookie" => {
                format!("{{ by = \"header\", name = {} }}", quoted(&field.replace('_', "-")))
            }
            (_, Some(cookie)) if words::is_token(cookie) => {
                format!("{{ by = \"cookie\", name = {} }}", quoted(cookie))
            }
            _ => {
                return lost(
                    "an address, a header, a cookie or what a registry is asked for is hashed: nothing else",
                );
            }
        },
    };
    group.rows.set("balance", quoted("consistent-hash"));
    group.rows.set("hash", by.clone());
    let says = format!("balance = \"consistent-hash\", hash = {by}");
    match (by.contains("content"), directive.arg(1)) {
        (true, _) => changed(format!("{says}: the blob or template, not the whole path")),
        (_, "consistent") => kept(says),
        _ => changed(format!("{says}: a server more or less moves few keys")),
    }
}

fn server(directive: &Directive, group: &mut Group) -> Outcome {
    let address = match words::server(directive.arg(0), Some(80)) {
        Ok(address) => address,
        Err(why) => return lost(why),
    };
    if group.servers.iter().any(|other| other.get("address") == Some(quoted(&address.to_string()).as_str())) {
        return kept("named already");
    }
    let mut rows = Rows::default();
    // An address without a name of its own is called by itself.
    rows.set("address", quoted(&address.to_string()));
    let (mut fate, mut left) = (kept(format!("upstream `{address}`")), Vec::new());
    for option in directive.args.iter().skip(1) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match (key, value.parse::<u32>()) {
            ("weight", Ok(weight)) if weight > 0 => rows.set("weight", weight.min(1000).to_string()),
            ("max_conns", Ok(most)) if most > 0 => rows.set("max_requests", most.min(1_000_000).to_string()),
            ("max_fails", Ok(0)) => {
                group.rows.set("max_ejected", "0.0".into());
                fate = changed(format!(
                    "upstream `{address}`; failures eject none of the service (`max_ejected`)"
                ));
            }
            ("max_fails", Ok(fails)) => group.passive.set("failures", fails.clamp(1, 10_000).to_string()),
            ("fail_timeout", _) => match units::nginx_time(value) {
                Some(time) => {
                    let time = time.clamp(Duration::from_millis(100), Duration::from_secs(3600));
                    group.passive.set("ejection", quoted(&units::ours(time)));
                    if time > Duration::from_secs(300) {
                        group.passive.set("longest", quoted(&units::ours(time)));
                    }
                }
                None => left.push(option.as_str()),
            },
            ("slow_start", _) => match units::nginx_time(value) {
                Some(time) => {
                    group.rows.set("slow_start", quoted(&units::ours(time.min(Duration::from_secs(3600)))))
                }
                None => left.push(option.as_str()),
            },
            ("down", _) => return changed("left out: it is marked as down"),
            ("resolve", _) => {
                fate = changed("names are resolved when a connection is opened; `discovery` follows them")
            }
            ("backup", _) => {
                fate =
                    guessed("one of all: there are no backups, for a server that is up can as well be used");
            }
            _ => left.push(option.as_str()),
        }
    }
    group.hosts.push(address.host.clone());
    group.ports.push(address.port);
    group.servers.push(rows);
    if left.is_empty() { fate } else { changed(format!("{}; not {}", fate.1, left.join(" "))) }
}
