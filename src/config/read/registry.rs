//! `registry.toml`.

use super::{auth, etcd, rules::network, server, tls, upkeep};
use crate::{
    config::{
        BaseUrl,
        raw::{Raw, Table},
        registry::{LOG_KEEP, Limits, Members, Registry, Replication, Role, Storage},
        value::{Given, Wrong, base_url, bytes, one_of, path, size, text, time, whole},
    },
    telemetry::Access,
};

/// Manifests are held in memory while they are checked.
const MANIFEST: std::ops::RangeInclusive<u64> = 64 * 1024..=64 * 1024 * 1024;

pub(in crate::config) fn registry<'r>(raw: &'r Raw<'r>) -> Option<Registry> {
    let server = server::server(raw, "listen = \"0.0.0.0:8089\"");
    let log_table = raw.section("log");
    let (log, access) = (server::log_of(&log_table), log_table.or("access", Access::Off, server::access));
    let auth = auth::of_registry(raw);
    let storage = raw.section("storage");
    let kind = kind(&storage);
    let limits = limits(raw);
    let upkeep = upkeep::upkeep(raw);
    let replicates = raw.section("replication");
    if storage.has("shared") && replicates.is_given() {
        let right = "delete `[replication]`: registries on one directory have nothing to copy from each other; or give \
                     each a `disk` of its own";
        let what = "`[replication]` is given beside `storage.shared`";
        replicates.fault_at(replicates.place(), what, right);
    }
    let replication = replication(&replicates);
    let members = members(&raw.section("members"));
    Some(Registry {
        server: server?,
        log,
        auth: auth?,
        access,
        storage: kind?,
        limits,
        upkeep,
        replication: replication?,
        members: members?,
    })
}

/// Which directory, and who uses it.
fn kind(table: &Table<'_>) -> Option<Storage> {
    let (disk, shared) = (table.opt("disk", path), table.opt("shared", path));
    match (table.has("disk"), table.has("shared")) {
        (true, true) => {
            let right = "`disk` is for a directory that this registry alone uses, `shared` for one that others use, too: delete \
                         one of them";
            table.fault("shared", "is given beside `storage.disk`", right);
            None
        }
        (false, true) => shared.map(Storage::Shared),
        (true, false) => disk.map(Storage::Disk),
        (false, false) => {
            table.missing("disk", "disk = \"/srv/registry\"");
            None
        }
    }
}

/// The outer `None` is a fault, the inner one the table's absence.
fn members(table: &Table<'_>) -> Option<Option<Members>> {
    let cluster = etcd::cluster(table);
    if !table.is_given() {
        // Asked for all the same, so that the variables that could set them are known.
        let _known = etcd::KEYS.map(|key| table.has(key));
        return Some(None);
    }
    Some(Some(Members { etcd: etcd::etcd(table)?, cluster }))
}

/// `None` when it is wrong.
fn replication(table: &Table<'_>) -> Option<Replication> {
    let log_keep = table.or("log_keep", LOG_KEEP, whole(MIN_LOG_KEEP..=100_000_000));
    let peers = table.list("peers", base_url);
    let peers: Vec<BaseUrl> = peers.unwrap_or_default().into_iter().map(|(peer, _)| peer).collect();
    let given_writer = table.has("writer");
    let writer = table.opt("writer", base_url);
    let tls = tls::towards(table, "replication_tls", writer.iter().chain(&peers).any(BaseUrl::is_secured));
    table.opt("write_ack", write_ack);
    if !table.is_given() {
        return Some(Replication::default());
    }
    let replica = table.need(
        "role",
        "role = \"replica\"` or `role = \"writer\"",
        one_of(&[("writer", false), ("replica", true)]),
    )?;
    let role = match (replica, writer) {
        (true, None) => {
            if !given_writer {
                table.missing("writer", "writer = \"http://10.0.1.4:8089\"");
            }
            return None;
        }
        (true, Some(writer)) => Role::Replica { writer, peers },
        (false, None) => Role::Writer { peers, alone: false },
        (false, Some(_)) => {
            table.fault(
                "writer",
                "is given for the writer itself",
                "delete it, or write `role = \"replica\"`",
            );
            return None;
        }
    };
    Some(Replication { role, log_keep, tls: tls? })
}

/// Fewer, and a replica that restarts would have to begin with a snapshot each time.
const MIN_LOG_KEEP: u64 = 16;

fn write_ack(given: &Given<'_>) -> Result<(), Wrong> {
    match text(given)? {
        "local" => Ok(()),
        word if word.starts_with("replicas:") => {
            let right = "use `local`: a push is acknowledged once the writer has it";
            Err(Wrong::new(format!("`{word}` is not supported by this version"), right))
        }
        word => Err(Wrong::new(format!("is `{word}`"), "use `local`")),
    }
}

fn limits<'r>(raw: &'r Raw<'r>) -> Limits {
    let default = Limits::default();
    let table = raw.section("limits");
    let trusted = table.list("trusted", network).unwrap_or_default();
    Limits {
        manifest: table.or("manifest", default.manifest, size(MANIFEST)),
        reserve: table.or("reserve", default.reserve, bytes),
        upload_idle: table.or("upload_idle", default.upload_idle, time),
        upload_age: table.or("upload_age", default.upload_age, time),
        body_idle: table.or("body_idle", default.body_idle, time),
        uploads: table.or("uploads", default.uploads, whole(1..=100_000)),
        uploads_per_client: table.opt("uploads_per_client", whole(1..=100_000)),
        trusted: trusted.into_iter().map(|(network, _)| network).collect(),
        verify_every: table.or("verify_every", default.verify_every, time),
    }
}
