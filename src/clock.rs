//! The only reader of time.
//!
//! Three clocks, because three questions are asked. [`now`] times waits inside one process and can be
//! paused by tests. [`boot`] is monotonic and runs through suspend: leases are counted on it, so a laptop
//! lid or a frozen VM cannot stretch one. [`wall`] is for people and for records; nothing is decided by it
//! but what has to outlive every process, as the time that a start may wait.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::model::Timestamp;

/// The moment on tokio's clock: for timers and latencies. Paused by `start_paused` tests.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since boot, suspend included: for leases and anything that must not outlive one.
pub fn boot() -> Duration {
    #[cfg(target_os = "linux")]
    let id = ClockId::Boottime;
    // macOS counts suspended time in its monotonic clock.
    #[cfg(not(target_os = "linux"))]
    let id = ClockId::Monotonic;
    let t = clock_gettime(id);
    let since_boot = Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0));
    as_paused(since_boot)
}

/// In a test that pauses time, leases stand still and jump with everything else.
#[cfg(debug_assertions)]
#[expect(clippy::disallowed_methods, reason = "the difference of the two clocks is what a test has paused")]
fn as_paused(since_boot: Duration) -> Duration {
    let (shown, real) = (Instant::now().into_std(), std::time::Instant::now());
    (since_boot + shown.saturating_duration_since(real)).saturating_sub(real.saturating_duration_since(shown))
}

#[cfg(not(debug_assertions))]
fn as_paused(since_boot: Duration) -> Duration {
    since_boot
}

/// The wall clock, for records and people.
pub fn wall() -> Timestamp {
    Timestamp::from_utc(time::OffsetDateTime::now_utc())
}
