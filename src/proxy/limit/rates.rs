//! Who has made how many requests lately, of all callers of one scope. Shared by all threads: each caller's set has a lock
//! of its own, which two threads want at once only for the same caller, and which is held for some comparisons.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    gcra::{Pace, Set},
    who::Account,
};
use crate::proxy::snapshot::Apart;

/// With seven places each: 57,344 callers that have used something at once, in 1 MiB. With more of them some share what
/// the least used has left (see [`super::gcra`]).
const SETS: usize = 8192;

/// The callers of one scope.
#[derive(Debug)]
pub struct Rates {
    sets: Box<[Apart<Mutex<Set>>]>,
    hash: RandomState,
    /// Moments are counted from then.
    since: Instant,
}

impl Rates {
    /// Nobody has asked for anything yet.
    pub fn new(since: Instant) -> Self {
        let sets = (0..SETS).map(|_| Apart::default()).collect();
        Self { sets, hash: RandomState::new(), since }
    }

    /// The caller's name in the table.
    pub fn hash(&self, account: Account<'_>) -> u64 {
        self.hash.hash_one(account)
    }

    /// Whether this one may make a request, or when.
    pub fn may(&self, caller: u64, pace: Pace, now: Instant) -> Result<(), Duration> {
        self.set(caller).may(caller, pace, self.moment(now)).map_err(Duration::from_nanos)
    }

    /// It makes one; it was asked before whether it may, and if another was quicker then it may not.
    pub fn take(&self, caller: u64, pace: Pace, now: Instant) -> Result<(), Duration> {
        self.set(caller).take(caller, pace, self.moment(now)).map_err(Duration::from_nanos)
    }

    fn set(&self, caller: u64) -> MutexGuard<'_, Set> {
        let at = usize::try_from(caller % SETS as u64).unwrap_or_default();
        // Moments have no state that could be left half changed.
        self.sets[at].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never before the first: then all places would be taken for used.
    fn moment(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.since).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{super::gcra::WAYS, *};
    use crate::clock;

    #[test]
    fn a_set_and_its_lock_are_two_lines_of_the_cache() {
        assert_eq!(size_of::<Apart<Mutex<Set>>>(), 128);
    }

    #[test]
    fn more_callers_than_places_still_get_something_and_nobody_more_than_its_rate() {
        let now = clock::now();
        let (rates, pace) = (Rates::new(now), Pace::new(1, 60_000_000_000, 2));
        let caller = |n: u32| rates.hash(Account::Address(Ipv4Addr::from(n).to_ipv6_mapped().to_bits()));
        let ask = |n: u32| rates.take(caller(n), pace, now).is_ok();
        let let_in = (0..200_000).filter(|n| ask(*n)).count();
        // Two for each place; by chance some sets have fewer callers than that.
        let nearly = |places: usize| places - places / 100..=places;
        assert!(nearly(2 * SETS * WAYS).contains(&let_in), "{let_in}");
        assert!(!ask(3) && !ask(199_999));
        let rested = now + Duration::from_secs(60);
        let again = (0..200_000).filter(|n| rates.take(caller(*n), pace, rested).is_ok()).count();
        assert!(nearly(3 * SETS * WAYS).contains(&(let_in + again)), "{let_in} and {again}");
    }
}
