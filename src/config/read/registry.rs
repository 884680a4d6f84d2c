//! `registry.toml`.

use super::server;
use crate::config::{
    raw::Raw,
    registry::{Limits, Registry, Storage},
    value::{bytes, path, size, time, whole},
};

/// Manifests are held in memory while they are checked.
const MANIFEST: std::ops::RangeInclusive<u64> = 64 * 1024..=64 * 1024 * 1024;

pub(in crate::config) fn registry<'r>(raw: &'r Raw<'r>) -> Option<Registry> {
    let server = server::server(raw, "listen = \"0.0.0.0:8089\"");
    let log = server::log(raw);
    let storage = raw.section("storage");
    let disk = storage.need("disk", "disk = \"/srv/registry\"", path);
    let limits = limits(raw);
    Some(Registry { server: server?, log, storage: Storage::Disk(disk?), limits })
}

fn limits<'r>(raw: &'r Raw<'r>) -> Limits {
    let default = Limits::default();
    let table = raw.section("limits");
    Limits {
        manifest: table.or("manifest", default.manifest, size(MANIFEST)),
        reserve: table.or("reserve", default.reserve, bytes),
        upload_idle: table.or("upload_idle", default.upload_idle, time),
        uploads: table.or("uploads", default.uploads, whole(1..=100_000)),
    }
}
