//! The proxy over real sockets, between raw clients and raw upstreams that misbehave on purpose.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]
#![allow(unreachable_pub, reason = "`pub` marks what the modules share; a test binary has no outside")]

mod alone;
mod front;
mod raw;
mod registry;
mod secure;
mod upstream;
mod vendor;

#[path = "../support/browser.rs"]
mod browser;
#[path = "../support/not_run.rs"]
mod not_run;
#[path = "../support/dns.rs"]
mod dns;
#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../support/vendor/mod.rs"]
mod vendor_standin;

mod admin;
mod attacks;
mod balancing;
mod breaking;
mod cohorts;
mod corpus;
mod dashboard;
mod discovery;
mod drained;
mod early;
mod errors;
mod explaining;
mod failures;
mod forged;
mod forwarding;
mod freshness;
mod guarding;
mod guide_rows;
mod h2;
mod holding;
mod hostile;
mod limits;
mod openapi;
mod operating;
mod orders;
mod passive;
mod proxy_protocol;
mod shown;
mod signed;
mod slow;
mod steps;
mod streaming;
mod strict;
mod tls;
mod tracing;
mod transfers;
mod tls_upstream;
mod two_proxies;
mod waiting;
mod zero_copy;
