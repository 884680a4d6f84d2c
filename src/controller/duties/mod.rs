//! Singleton duties, one file each: a pass looks at what is wanted and what is, and moves it one step closer.
//!
//! A duty runs at one controller at a time as far as leases can tell; each of its writes compares the leader's
//! key, so a leader that lost it without knowing writes nothing more. A pass takes no message saying what
//! changed: restart, failover and normal running are one path.

mod absence;
mod events;
mod commands;
mod expiry;
mod mac_pool;
mod images;
mod offers;
mod scheduling;
mod starts;
mod upkeep;

use std::time::Duration;

pub(super) use offers::Offers;

use super::{
    members::Membership,
    ops::{Ops, OpsError},
    writes::Fence,
};
use crate::{clock, supervise::Stop};

/// Between two passes. What a wait costs is a second of an expiry; what a pass costs is a look at the cache.
const EVERY: Duration = Duration::from_secs(1);

/// Changes of one pass, at most: the rest waits for the next, so that no pass goes on for ever.
const MOST: usize = 500;

/// A duty.
pub(super) trait Pass: Send + Sync {
    /// Its name: under `leader/`, in logs.
    const NAME: &'static str;

    /// One step closer. Answers how much was done.
    fn pass(&mut self, ops: &Ops, held: &Fence) -> impl Future<Output = Result<usize, OpsError>> + Send;
}

/// The duties of a controller.
pub(super) fn expiry() -> impl Pass {
    expiry::Expiry::default()
}

/// The same, that looks so often for scripts that no start points to.
#[cfg(test)]
pub(super) fn expiry_looking(every: Duration) -> impl Pass {
    expiry::Expiry::looking(every)
}

/// See [`mod@expiry`].
pub(super) fn starts() -> impl Pass {
    starts::Starts
}

/// See [`mod@scheduling`].
pub(super) fn scheduling() -> impl Pass {
    scheduling::Scheduling::default()
}

/// See [`mod@expiry`].
pub(super) fn absence() -> impl Pass {
    absence::Absences
}

/// See [`mod@commands`].
pub(super) fn commands() -> impl Pass {
    commands::Commands::default()
}

/// See [`mod@images`].
pub(super) fn images() -> impl Pass {
    images::Images
}

/// See [`mod@events`].
pub(super) fn events() -> impl Pass {
    events::Events::default()
}

/// See [`mod@mac_pool`].
pub(super) fn mac_pool() -> impl Pass {
    mac_pool::MacPool
}

/// See [`mod@upkeep`].
pub(super) fn upkeep() -> impl Pass {
    upkeep::Upkeep::default()
}

/// Runs a duty whenever this controller leads it, until `stop`.
pub(super) async fn run<P: Pass>(mut duty: P, member: Membership, stop: Stop) {
    loop {
        let jitter = EVERY.mul_f64(rand::random_range(0.8..1.2));
        tokio::select! {
            () = stop.requested() => return,
            () = tokio::time::sleep(jitter) => {}
        }
        // A leader without a live cache would decide on what was.
        if !member.ops.inner.health.cache_live() || !member.ops.inner.health.store_reachable() {
            continue;
        }
        let (held, numbers) = (member.lead(P::NAME).await, &member.ops.inner.numbers);
        numbers.leads(P::NAME, held.is_some());
        let Some(held) = held else { continue };
        let began = clock::now();
        let passed = duty.pass(&member.ops, &held).await;
        numbers.passed(P::NAME, began.elapsed(), passed.as_ref().ok().copied());
        match passed {
            Ok(0) => {}
            Ok(count) => {
                tracing::debug!(duty = P::NAME, count, seconds = began.elapsed().as_secs_f64(), "pass done")
            }
            // Lost races and outages: the next pass sees what is then.
            Err(error) => tracing::debug!(duty = P::NAME, error = %error, "pass was cut short"),
        }
    }
}
