//! What a registry does for its storage: `[gc]`.

use std::time::Duration;

use crate::config::{
    raw::Raw,
    registry::{Gc, Upkeep},
    value::{duration_in, flag},
};

/// A push that takes longer than both graces is refused at its end; shorter ones are for tests.
const GRACE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);

/// All of it.
pub(super) fn upkeep<'r>(raw: &'r Raw<'r>) -> Upkeep {
    Upkeep { gc: gc(raw) }
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
