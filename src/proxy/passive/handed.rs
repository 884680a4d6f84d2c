//! Ejections that a successor is told of.

use std::time::Duration;

use tokio::time::Instant;

use super::Passive;
use crate::{
    balance::ejection::{Cause, Count, Failure, Out, Standing},
    clock,
    proxy::snapshot::{Service, Snapshot, Upstream},
    wire::handover::{Ejection, OutFor},
};

/// Told of at most. Of the rest the successor finds out by itself.
const MOST: usize = 4096;

/// Everybody who is out, or was lately.
pub(in crate::proxy) fn all(snapshot: &Snapshot) -> Vec<Ejection> {
    let now = clock::now();
    let of = |service: &Service| {
        let standings = service.passive.standings();
        let told = standings.iter().filter_map(|(upstream, standing)| told(service, upstream, standing, now));
        told.collect::<Vec<_>>()
    };
    snapshot.services.iter().flat_map(|service| of(service)).take(MOST).collect()
}

/// Takes over what a predecessor has told of the upstreams of this service.
pub(in crate::proxy) fn hand(passive: &Passive, all: &[Ejection]) {
    let now = clock::now();
    let mut watched = passive.watched();
    for place in 0..watched.upstreams.len() {
        let Some(upstream) = watched.upstreams.get(place) else { continue };
        let address = upstream.address.to_string();
        let of = |told: &&Ejection| {
            told.service == passive.service.as_str()
                && told.upstream == upstream.name.as_str()
                && told.address == address
        };
        if let Some(told) = all.iter().find(of) {
            watched.pool.hand(place, standing(told, now));
            watched.show(place);
        }
    }
}

fn told(service: &Service, upstream: &Upstream, standing: &Standing, now: Instant) -> Option<Ejection> {
    let (times, since, out) = match standing {
        Standing::Out(out) => (out.times, out.since, Some(out)),
        Standing::In { back: Some(back), times: times @ 1.., .. } => (*times, *back, None),
        Standing::In { .. } => return None,
    };
    let millis = |from: Instant, to: Instant| {
        u64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(u64::MAX)
    };
    Some(Ejection {
        service: service.name.to_string(),
        upstream: upstream.name.to_string(),
        address: upstream.address.to_string(),
        times,
        ago_ms: millis(since, now),
        out: out.map(|Out { until, cause, .. }| {
            let transfers = matches!(cause.count, Count::Transfers(_));
            let (failed, of) = match cause.count {
                Count::InARow(failed) | Count::Transfers(failed) => (u64::from(failed), None),
                Count::Of { failed, all } => (failed, Some(all)),
                Count::Trial => (0, None),
            };
            OutFor { left_ms: millis(now, *until), failed, of, transfers, last: last(cause.last) }
        }),
    })
}

fn standing(told: &Ejection, now: Instant) -> Standing {
    let times = told.times.clamp(1, 64);
    // A clock that has not run for so long yet knows no earlier moment than its first.
    let since = now.checked_sub(Duration::from_millis(told.ago_ms)).unwrap_or(now);
    let Some(out) = &told.out else { return Standing::In { back: Some(since), failures: 0, times } };
    let count = match (out.failed, out.of) {
        (0, _) => Count::Trial,
        (failed, Some(all)) => Count::Of { failed, all },
        (failed, None) => {
            let row = if out.transfers { Count::Transfers } else { Count::InARow };
            row(u32::try_from(failed).unwrap_or(u32::MAX))
        }
    };
    let until = now + Duration::from_millis(out.left_ms).min(LONGEST);
    let cause = Cause { count, last: failure(&out.last) };
    Standing::Out(Out { since, until, next: until, times, cause })
}

/// No config makes an ejection longer.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The label, or the status.
fn last(failure: Failure) -> String {
    match failure {
        Failure::Status(status) => status.to_string(),
        other => other.label().into(),
    }
}

fn failure(last: &str) -> Failure {
    let known = [Failure::Connect, Failure::TimedOut, Failure::TooSlow, Failure::Garbled];
    let known = known.into_iter().find(|failure| failure.label() == last);
    known.or_else(|| last.parse().ok().map(Failure::Status)).unwrap_or(Failure::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_its_word() {
        use Failure::{Closed, Connect, Garbled, Status, TimedOut, TooSlow};
        for one in [Connect, Closed, TimedOut, TooSlow, Garbled, Status(502)] {
            assert_eq!(failure(&last(one)), one);
        }
    }

    #[test]
    fn a_standing_goes_on_in_another_process() {
        let now = clock::now() + Duration::from_secs(3600);
        let told = |out| Ejection {
            service: "s".into(),
            upstream: "u".into(),
            address: "a:1".into(),
            times: 3,
            ago_ms: 4000,
            out,
        };
        let since = now - Duration::from_secs(4);
        let back = Standing::In { back: Some(since), failures: 0, times: 3 };
        assert_eq!(standing(&told(None), now), back);
        let until = now + Duration::from_secs(16);
        let check = |of, transfers, count| {
            let out = OutFor { left_ms: 16_000, failed: 7, of, transfers, last: "502".into() };
            let cause = Cause { count, last: Failure::Status(502) };
            let wanted = Standing::Out(Out { since, until, next: until, times: 3, cause });
            assert_eq!(standing(&told(Some(out)), now), wanted);
        };
        check(Some(9), false, Count::Of { failed: 7, all: 9 });
        check(None, false, Count::InARow(7));
        check(None, true, Count::Transfers(7));
    }
}
