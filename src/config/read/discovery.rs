//! `discovery` of a service.

use std::net::IpAddr;

use super::etcd;
use crate::config::{
    Address,
    proxy::{Discovery, Dns, Kind, Source},
    raw::Table,
    value::{Given, Wrong, address, listen, text, whole},
};

/// Upstreams that are taken from a source, if nothing is said: several times what a cloud has.
const MOST: usize = 64;

const EXAMPLE: &str = "discovery = { etcd = [\"http://10.0.1.4:2379\"] }";

/// `_service._tcp.name` (RFC 2782), or any name that has such records.
fn service_name(given: &Given<'_>) -> Result<String, Wrong> {
    let text = text(given)?;
    let bare = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(letters)
    };
    if bare.len() <= 250 && bare.split('.').all(label) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("is `{text}`, which is no name"), "write it like `_switchyard._tcp.example.com`"))
}

/// The outer `None` is a fault, the inner one the key's absence.
pub(super) fn read(table: &Table<'_>, kind: Option<Kind>) -> Option<Option<Discovery>> {
    let given = table.has("discovery");
    let keys = table.sub("discovery");
    if !given {
        return Some(None);
    }
    let most = keys.or("most", MOST, whole(1..=1024));
    let dns = keys.opt("dns", address);
    let srv = keys.opt("srv", service_name);
    let resolver = keys.opt("resolver", listen);
    let ways = ["etcd", "dns", "srv"].into_iter().filter(|key| keys.has(key)).collect::<Vec<_>>();
    if let [_, second, ..] = ways[..] {
        keys.fault(second, "is given besides another way to look", "use one of `etcd`, `dns` and `srv`");
        return None;
    }
    if keys.has("resolver") && ways == ["etcd"] {
        keys.fault("resolver", "means nothing with `etcd`", "delete it");
    }
    if keys.has("cluster") && ways != ["etcd"] {
        keys.fault("cluster", "means nothing without `etcd`", "delete it");
    }
    let cluster = etcd::cluster(&keys);
    if ways != ["etcd"] {
        etcd::means_nothing(&keys, "without `etcd`");
    }
    let whole_name = |name: String| format!("{}.", name.trim_end_matches('.'));
    let source = match ways.first() {
        Some(&"etcd") => Source::Etcd { etcd: etcd::etcd(&keys)?, cluster },
        Some(&"dns") => {
            let Address { host, port } = dns?;
            if host.parse::<IpAddr>().is_ok() {
                keys.fault("dns", "is an address already", "list it among the `upstreams`");
                return None;
            }
            Source::Dns(Dns { name: whole_name(host), port: Some(port), resolver })
        }
        Some(_) => Source::Dns(Dns { name: whole_name(srv?), port: None, resolver }),
        None => {
            let what = format!("`{}` does not say where to look", table.path_of("discovery"));
            keys.fault_at(keys.place(), what, format!("write it like `{EXAMPLE}`"));
            return None;
        }
    };
    if kind == Some(Kind::Registry) && !table.has("writer") && !table.has("storage") {
        let what = "finds registries, and neither `writer` nor `storage` says what they are";
        let right = "list the one that takes writes among the `upstreams` and name it, `writer = \"r1\"`, or, if all of \
                     them serve one directory, say `storage = \"shared\"`";
        table.fault("discovery", what, right);
    }
    Some(Some(Discovery { source, most }))
}
