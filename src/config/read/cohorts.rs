//! `cohorts` and `cohort` of a service. The table alone turns them on.

use std::{ops::RangeInclusive, time::Duration};

use crate::config::{
    proxy::{Cohorts, Kind},
    raw::Table,
    value::{duration_in, flag, fraction},
};

/// Below a second a version would be judged by less than one probe; above a day nobody waits for an upgrade.
const TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

pub(super) fn read(table: &Table<'_>, kind: Option<Kind>) -> Option<Cohorts> {
    // Who says how wants it.
    let given = table.has("cohort");
    let on = table.or("cohorts", given, flag);
    let rules = table.sub("cohort");
    let default = Cohorts::default();
    let cohorts = Cohorts {
        quorum: rules.or("quorum", default.quorum, fraction(0.0..=1.0)),
        settle: rules.or("settle", default.settle, duration_in(TIMES)),
        fallback: rules.or("fallback", default.fallback, duration_in(TIMES)),
    };
    if on && kind == Some(Kind::Registry) {
        let right = "delete it: agents ask registries for content, whatever their version";
        table.fault("cohorts", "is on for registries", right);
    }
    on.then_some(cohorts)
}
