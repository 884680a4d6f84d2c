//! `discovery` of a service.

use super::etcd;
use crate::config::{
    proxy::{Discovery, Kind, Source},
    raw::Table,
    value::whole,
};

/// Upstreams that are taken from a source, if nothing is said: several times what a cloud has.
const MOST: usize = 64;

const EXAMPLE: &str = "discovery = { etcd = [\"http://10.0.1.4:2379\"] }";

/// The outer `None` is a fault, the inner one the key's absence.
pub(super) fn read(table: &Table<'_>, kind: Option<Kind>) -> Option<Option<Discovery>> {
    let given = table.has("discovery");
    let keys = table.sub("discovery");
    if !given {
        return Some(None);
    }
    let most = keys.or("most", MOST, whole(1..=1024));
    let cluster = etcd::cluster(&keys);
    let source = match keys.has("etcd") {
        true => Source::Etcd { urls: etcd::urls(&keys)?, cluster },
        false => {
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
