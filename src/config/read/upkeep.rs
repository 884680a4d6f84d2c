//! What a registry does for its storage: `[gc]`, `[quota]`, `[scrub]`.

use std::time::Duration;

use crate::config::{
    raw::Raw,
    registry::{Gc, Quota, Scrub, Upkeep},
    value::{bytes, duration_in, flag, size, whole},
};

/// A push that takes longer than both graces is refused at its end; shorter ones are for tests.
const GRACE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);

/// All of it.
pub(super) fn upkeep<'r>(raw: &'r Raw<'r>) -> Upkeep {
    Upkeep { gc: gc(raw), quota: quota(raw), scrub: scrub(raw) }
}

fn gc<'r>(raw: &'r Raw<'r>) -> Gc {
    let default = Gc::default();
    let table = raw.section("gc");
    Gc {
        enabled: table.or("enabled", default.enabled, flag),
        every: table.or("every", default.every, duration_in(GRACE)),
        grace: table.or("grace", default.grace, duration_in(GRACE)),
        trash: table.or("trash", default.trash, duration_in(GRACE)),
        untagged: table.opt("untagged", duration_in(GRACE)),
    }
}

fn quota<'r>(raw: &'r Raw<'r>) -> Quota {
    let table = raw.section("quota");
    Quota {
        total: table.opt("total", bytes),
        template: table.opt("template", bytes),
        warn: table.or("warn", Quota::default().warn, whole(1..=100)),
    }
}

/// Slower, and the first blob of some clouds would not be read within a day; faster than any disk means nothing.
const RATE: std::ops::RangeInclusive<u64> = 1024 * 1024..=1024 * 1024 * 1024 * 1024;

fn scrub<'r>(raw: &'r Raw<'r>) -> Scrub {
    let default = Scrub::default();
    let table = raw.section("scrub");
    let rate = table.or("rate", usize::try_from(default.rate).unwrap_or(usize::MAX), size(RATE));
    Scrub {
        enabled: table.or("enabled", default.enabled, flag),
        rate: rate as u64,
        every: table.or("every", default.every, duration_in(GRACE)),
    }
}
