//! What an upstream is to take of the requests, as it is configured, and how fast it takes them.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{choose, lane::Lanes, room::Most, snapshot::Apart};
use crate::{
    balance::{Latency, PeakEwma, Weight, slow_start},
    config::proxy::{Bears, Upstream},
    model::ZoneName,
};

/// What one upstream of a service is to take. Apart from the upstream itself, which goes on over a reload that changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its part, beside those of the others, as it is written.
    pub configured: u32,
    /// The same, for reckoning.
    pub weight: Weight,
    /// The zone that it is in.
    pub zone: Option<ZoneName>,
    /// And that is the proxy's own.
    pub local: bool,
    /// So many requests at once at most.
    pub most: Option<u64>,
    /// And so many connections.
    pub open: Most,
    /// Stands for its name in hashes.
    pub seed: u64,
}

impl Share {
    /// Of an upstream of a proxy in this zone; what it has no limit of its own for is the service's.
    pub fn of(upstream: &Upstream, own: Option<&ZoneName>, service: Bears) -> Self {
        let Bears { requests, control, bulk, pending } = upstream.bears.or(service);
        Self {
            configured: upstream.weight,
            weight: Weight::of(upstream.weight),
            zone: upstream.zone.clone(),
            local: own.is_some() && upstream.zone.as_ref() == own,
            most: requests,
            open: Most { connections: Lanes { control, bulk }, pending },
            seed: choose::seed(&upstream.name),
        }
    }

    /// What it has of this weight now, if it has been eligible since then: passes its probes and is not ejected.
    pub fn part_of(weight: Weight, since: Option<Instant>, window: Duration, now: Instant) -> Weight {
        let Some(since) = since.filter(|_| !window.is_zero()) else { return weight };
        slow_start(weight, now.saturating_duration_since(since), window)
    }

    /// What a cookie calls it.
    pub fn tag(&self) -> u64 {
        choose::tag(self.seed)
    }
}

/// How fast an upstream answers; kept by all threads together, in one word.
#[derive(Debug)]
pub struct Speed {
    mean: Apart<AtomicU64>,
    /// Times are reckoned from here.
    began: Instant,
}

impl Speed {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self { mean: Apart(AtomicU64::new(PeakEwma::default().to_bits())), began: now }
    }

    fn since(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.began).as_millis();
        // It wraps after 49 days, and whoever reckons with it knows that.
        #[expect(clippy::cast_possible_truncation, reason = "it may wrap")]
        let since = since as u32;
        since
    }

    /// What is known now.
    pub fn at(&self, now: Instant) -> Latency {
        PeakEwma::from_bits(self.mean.0.load(Ordering::Relaxed)).latency(self.since(now))
    }

    /// An answer has come, or was given up, after so long.
    pub fn observe(&self, took: Duration, now: Instant) {
        let at = self.since(now);
        let next = |bits| Some(PeakEwma::from_bits(bits).observe(took, at).to_bits());
        // A closure that always has a next value cannot fail.
        self.mean.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, config::Address, model::UpstreamName};

    fn upstream() -> Upstream {
        let address = Address { host: "10.0.0.1".into(), port: 80 };
        Upstream { weight: 10, ..Upstream::plain(UpstreamName::parse("u").unwrap(), address) }
    }

    #[test]
    fn one_is_local_only_when_both_are_in_the_same_zone() {
        let zone = |name| Some(ZoneName::parse(name).unwrap());
        let local = |its, own: Option<ZoneName>| {
            Share::of(&Upstream { zone: its, ..upstream() }, own.as_ref(), Bears::default()).local
        };
        assert!(local(zone("a"), zone("a")));
        assert!(!local(zone("b"), zone("a")) && !local(None, zone("a")));
        assert!(!local(zone("a"), None) && !local(None, None));
    }

    #[test]
    fn an_upstream_has_its_weight_back_step_by_step() {
        let share = Share::of(&upstream(), None, Bears::default());
        let now = clock::now();
        let window = Duration::from_secs(10);
        let at = |seconds| {
            Share::part_of(share.weight, Some(now), window, now + Duration::from_secs(seconds))
                .shown()
                .round()
        };
        assert_eq!([at(0), at(5), at(10)], [1.0, 5.0, 10.0]);
        assert_eq!(Share::part_of(share.weight, Some(now), Duration::ZERO, now), share.weight);
    }

    #[test]
    fn what_was_observed_is_known_from_then_on() {
        let now = clock::now();
        let speed = Speed::new(now);
        assert_eq!(speed.at(now).now(), None);
        speed.observe(Duration::from_millis(300), now + Duration::from_secs(1));
        let known = speed.at(now + Duration::from_secs(1)).now().unwrap();
        assert!((known - 0.3).abs() < 0.001, "{known}");
    }
}
