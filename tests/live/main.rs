//! A proxy that is changed while it serves: listeners by reload, the binary by an upgrade, sockets from systemd; and
//! two proxies in front of the vendor's servers. Real processes, and clients that take every broken connection for a failure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test that waits for a real process waits on the real clock")]
#![allow(unreachable_pub, reason = "`pub` marks what the modules share; a test binary has no outside")]

#[path = "../proxy/raw.rs"]
#[allow(dead_code, reason = "the proxy's tests use the rest of it")]
mod raw;
#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../proxy/h2"]
#[allow(dead_code, reason = "the proxy's tests use the rest of it")]
mod h2 {
    pub mod hpack;
    pub mod peer;
}
#[path = "../support/mod.rs"]
mod support;
#[path = "../proxy/upstream.rs"]
#[allow(dead_code, reason = "the proxy's tests use the rest of it")]
mod upstream;

#[path = "../support/vendor/mod.rs"]
#[allow(dead_code, reason = "the proxy's tests use the rest of it")]
mod vendor_standin;
#[path = "../support/vendor/controllers.rs"]
mod controllers;

mod clients;
mod rig;
mod streams;
mod ways;

mod agreement;
mod drain;
mod failing;
mod knowledge;
mod limits;
#[cfg(target_os = "linux")]
mod pipes;
mod refusals;
mod reload;
mod silent;
mod systemd;
mod upgrade;
mod vendor;
