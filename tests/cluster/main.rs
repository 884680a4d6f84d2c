//! The whole cloud as real processes, and what its users see when a part of it dies: one test per promise, by
//! causing what the promise is about.
//!
//! Scenarios take turns, two at a time; those that load the machine have it to themselves. They print nothing when
//! they pass; when one fails, the ends of all logs of its processes are shown, and `SWITCHYARD_TEST_KEEP=1` keeps its
//! directory.

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../proxy/raw.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the proxy's tests use the rest of it"
)]
mod raw;
#[path = "../proxy/upstream.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the proxy's tests use the rest of it"
)]
mod upstream;
#[path = "../support/vendor/controllers.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the tests of conf/vendor.toml use the rest of it"
)]
mod controllers;

mod agent_dies;
mod chaos;
mod cohorts_agree;
mod contract;
mod controller_dies;
mod controllers_away;
mod discovery;
mod disk_full;
mod etcd_faults;
mod etcd_quorum;
mod fresh_reads;
mod front;
mod history_tools;
mod kills;
mod metrics;
mod mixed_versions;
mod mutual;
mod parked_polls;
mod proxies_die;
mod replica_dies;
mod secured;
mod slow_followers;
mod standalone;
mod tools;
mod whole_path;
mod writer_dies;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Scenarios that may run at once: they mostly wait, for timeouts and for servers that start.
const AT_ONCE: u32 = 2;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE as usize);

/// Waits for a place on the machine; hold it to the end of the scenario.
async fn turn() -> SemaphorePermit<'static> {
    PLACES.acquire().await.expect("it is never closed")
}

/// Waits for the machine, for a scenario that loads all of it.
async fn alone() -> SemaphorePermit<'static> {
    PLACES.acquire_many(AT_ONCE).await.expect("it is never closed")
}
