//! What the page shows, as values: the same views as the API's, and what they lack.

use std::collections::BTreeMap;

pub(super) use crate::proxy::record::{OfService, OfUpstream, Totals};
use crate::{
    model::Timestamp,
    wire::{
        decisions::Decision, handover::Process, registries::Registries, transfers::Transfers,
        upstreams::Upstreams,
    },
};

/// Everything, as it is at one moment.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Which.
    pub(super) at: Timestamp,
    pub(super) upstreams: Upstreams,
    pub(super) registries: Registries,
    pub(super) transfers: Transfers,
    /// The latest requests that the proxy has answered itself.
    pub(super) refusals: Vec<Decision>,
    pub(super) process: Process,
    pub(super) certificates: Vec<Certificates>,
    /// Which config is in use: counts reloads.
    pub(super) config: u64,
    /// The last reload was refused: when, and why.
    pub(super) refused: Option<(Timestamp, String)>,
    /// The last upgrade came to nothing.
    pub(super) upgrade_failed: bool,
    pub(super) rates: Rates,
}

/// Those of one listener, or of a service towards its upstreams.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    /// Whose.
    pub(super) of: String,
    /// When the first of them ends; unknown of a service's.
    pub(super) until: Option<Timestamp>,
    /// What of it ends soon, or has ended.
    pub(super) ending: Vec<(&'static str, Timestamp)>,
    /// Why those that are on disk now are not in use; empty if they are.
    pub(super) refused: String,
}

/// So many a second, of late. Empty while there is nothing to compare with.
#[derive(Debug, Clone, Default)]
pub(super) struct Rates {
    pub(super) services: BTreeMap<String, OfService<f64>>,
    pub(super) upstreams: BTreeMap<(String, String), OfUpstream<f64>>,
}

/// What was counted in between, by the second. What was not there before has no rate yet.
pub(super) fn rates(before: &Totals, now: &Totals, seconds: f64) -> Rates {
    // Counters begin anew when what they count comes back.
    let per = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds.max(0.001);
    let services = now.services.iter().filter_map(|(name, now)| {
        let before = before.services.get(name)?;
        let rate = OfService {
            requests: per(before.requests, now.requests),
            failed: per(before.failed, now.failed),
            up: per(before.up, now.up),
            down: per(before.down, now.down),
        };
        Some((name.clone(), rate))
    });
    let upstreams = now.upstreams.iter().filter_map(|(name, now)| {
        let before = before.upstreams.get(name)?;
        let (answers, failures) = (per(before.answers, now.answers), per(before.failures, now.failures));
        Some((name.clone(), OfUpstream { answers, failures }))
    });
    Rates { services: services.collect(), upstreams: upstreams.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_came_since_and_what_begins_anew_is_no_negative_one() {
        let totals = |requests, answers| Totals {
            services: [("s".to_owned(), OfService { requests, ..OfService::default() })].into(),
            upstreams: [(("s".to_owned(), "u".to_owned()), OfUpstream { answers, failures: 1 })].into(),
        };
        let between = rates(&totals(10, 100), &totals(30, 40), 4.0);
        assert_eq!(between.services["s"].requests, 5.0);
        assert_eq!(between.upstreams[&("s".to_owned(), "u".to_owned())], OfUpstream::default());
        assert!(rates(&Totals::default(), &totals(1, 1), 1.0).services.is_empty(), "nothing to compare with");
    }
}
