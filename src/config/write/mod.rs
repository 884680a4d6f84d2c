//! From a checked config back to a file: everything that it goes by, defaults included, with the keys that it is read by.
//!
//! What is written reads again as the same config, except that no secret is written: where one would be there is the file
//! that it is from, and [`MASKED`] where there is none. Keys that would mean nothing beside the others, and that a reader
//! therefore refuses, are left out.

mod listener;
mod service;
mod tree;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, Serializer};

use self::tree::{Keys, Node};
use super::{
    bounds::{Bounds, By, Rate},
    proxy::{Access, Entry, Limits, Proxy, Secret, Trace},
};
use crate::{model::RouteClass, telemetry::LogFormat};

/// Stands where a secret would.
pub const MASKED: &str = "(secret)";

/// A config as it would be written: [`fmt::Display`] is TOML, [`Serialize`] whatever is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Written(Keys);

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml::to_string(&self.0).map_err(|_| fmt::Error)?)
    }
}

/// Of a proxy; paths that are not absolute count from `from`.
pub fn written(config: &Proxy, from: &Path) -> Written {
    let own = Keys::default()
        .with("threads", config.threads)
        .maybe("zone", config.zone.as_ref().map(ToString::to_string))
        .with("zero_copy", config.zero_copy)
        .maybe("run_dir", config.run_dir.as_deref().map(|dir| path(from, dir)))
        .maybe("address_file", config.address_file.as_deref().map(|file| path(from, file)));
    let shutdown =
        Keys::default().with("grace", time(config.endings.grace)).with("drain", time(config.endings.drain));
    let format = match config.log.format {
        LogFormat::Json => "json",
        LogFormat::Human => "human",
    };
    let access = match &config.access {
        Access::Off => "off".into(),
        Access::Stdout => "stdout".into(),
        Access::File(file) => path(from, file),
    };
    let log = Keys::default()
        .with("format", format)
        .with("filter", config.log.filter.as_str())
        .with("access", access)
        .with("progress", config.progress.map_or_else(|| "off".into(), time));
    let name = |place: usize| config.services.get(place).map(|service| service.name.to_string());
    let listeners = config.listeners.iter().map(|one| listener::written(one, from, &name));
    let services = config
        .services
        .iter()
        .fold(Keys::default(), |all, one| all.with(one.name.to_string(), service::written(one, from)));
    Written(
        Keys::default()
            .with("proxy", own)
            .with("shutdown", shutdown)
            .with("log", log)
            .with("trace", trace(config.trace.as_ref()))
            .with("admin", admin(config, from))
            .with("limits", limits(&config.limits))
            .with("listener", listeners.collect::<Node>())
            .with("service", services),
    )
}

fn trace(trace: Option<&Trace>) -> Keys {
    let Some(trace) = trace else { return Keys::default().with("context", "pass") };
    Keys::default()
        .with("context", "join")
        .with("sample", trace.sample)
        .maybe("otlp", trace.otlp.as_ref().map(ToString::to_string))
        .with("service", trace.service.as_str())
}

fn admin(config: &Proxy, from: &Path) -> Keys {
    let keys = Keys::default().with("listen", config.admin.to_string());
    let keys = match &config.entry {
        Entry::Local => keys,
        Entry::Anybody => keys.with("token", "off"),
        Entry::Token(token) => secret(keys, token, "token", from),
    };
    keys.with("decisions", config.decisions)
}

/// A secret under the key that it was read by, as the name of its file; under `otherwise`, masked, if it is from none.
fn secret(keys: Keys, secret: &Secret, otherwise: &'static str, from: &Path) -> Keys {
    match secret.file() {
        Some((key, file)) => keys.with(key, path(from, file)),
        None => keys.with(otherwise, MASKED),
    }
}

fn limits(limits: &Limits) -> Keys {
    let body = RouteClass::ALL.into_iter().fold(Keys::default(), |keys, class| {
        keys.with(class.as_str(), limits.body.of(class).map_or_else(|| "none".into(), size))
    });
    let keys = Keys::default()
        .with("connections", limits.connections)
        .with("header_bytes", size(limits.header_bytes as u64))
        .with("headers", limits.headers)
        .with("header_timeout", time(limits.header_timeout))
        .with("keep_alive", time(limits.keep_alive))
        .with("held", limits.held)
        .with("held_bytes", size(limits.held_bytes))
        .with("streams", limits.streams)
        .with("ipv6_prefix", u32::from(limits.ipv6_prefix));
    bounds(keys, &limits.bounds).with("body", body)
}

/// What `[limits]` and `limits` of a listener have in common.
fn bounds(keys: Keys, bounds: &Bounds) -> Keys {
    let networks = |all: &[super::proxy::Network]| all.iter().map(ToString::to_string).collect::<Node>();
    keys.maybe("per_client", bounds.per_client)
        .with("allow", networks(&bounds.allow))
        .with("deny", networks(&bounds.deny))
        .maybe("rate", bounds.rate.as_ref().map(rate))
}

fn rate(rate: &Rate) -> Keys {
    let by = match rate.by {
        By::Address => "address",
        By::Certificate => "certificate",
        By::Key => "key",
    };
    Keys::default().with("requests", rate.to_string()).with("burst", rate.burst).with("by", by)
}

/// A length of time as it is read: `1m 30s`.
fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// A size as it is read, exactly.
fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = |(bits, _): &&(u32, &str)| bytes != 0 && bytes.trailing_zeros() >= *bits;
    match units.iter().find(whole) {
        Some((bits, unit)) => format!("{}{unit}", bytes >> bits),
        None => format!("{bytes}B"),
    }
}

fn path(from: &Path, path: &Path) -> String {
    let whole: PathBuf = from.join(path);
    whole.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_written_exactly_and_read_again() {
        for bytes in [0, 1, 1023, 1024, 4096, 65_535, 1 << 20, 45_000_000_000, 1 << 40, (1 << 40) + 1] {
            assert_eq!(size(bytes).parse::<bytesize::ByteSize>().unwrap().as_u64(), bytes, "{}", size(bytes));
        }
        for millis in [0, 1, 999, 1000, 90_000, 3_600_000, 86_400_000, 31_622_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(humantime::parse_duration(&time(duration)).unwrap(), duration, "{}", time(duration));
        }
    }

    #[test]
    fn paths_are_those_of_who_runs_it() {
        assert_eq!(path(Path::new("/srv"), Path::new("a/b.pem")), "/srv/a/b.pem");
        assert_eq!(path(Path::new("/srv"), Path::new("/etc/b.pem")), "/etc/b.pem");
    }
}
