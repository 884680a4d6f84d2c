//! How many requests a caller may make: the generic cell rate algorithm, for more callers than there is memory. Pure.
//!
//! What is kept of a caller is one moment: until when what it has used lasts at its rate. With it behind us it is as if it
//! had never asked, so nothing has to be kept of it; what is ahead of us is bounded by its burst.
//!
//! A [`Set`] keeps the few callers that fall into it. One more, when all of them have used something, takes the place of
//! the one that has used least, *and what that one had used*. So
//!
//! * nobody gets more than its rate by coming from many addresses at once: places change hands with their debt, and the
//!   moments in a set only ever grow, so who returns finds no less used than when it was put out;
//! * nobody is kept out as long as anybody in the set is below its limit: the least used place is its own.
//!
//! Callers are told apart by 64 bits of a keyed hash, so nobody can choose whom to share a place with.

/// Callers that a set can tell apart: with its lock it fills two cache lines, which are fetched together.
pub const WAYS: usize = 7;

/// How fast a caller may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds that one request uses.
    pub each: u64,
    /// Nanoseconds that may be used ahead.
    pub ahead: u64,
}

impl Pace {
    /// `requests` in `per` nanoseconds, and `burst` at once.
    pub fn new(requests: u64, per: u64, burst: u64) -> Self {
        let each = (per / requests.max(1)).max(1);
        Self { each, ahead: each.saturating_mul(burst.max(1)) }
    }

    /// The same for so many together.
    pub fn of_many(self, callers: u64) -> Self {
        Self { each: (self.each / callers.max(1)).max(1), ..self }
    }

    /// Until when it lasts after one more request, or the nanoseconds after which there may be one.
    pub fn after(self, until: u64, now: u64) -> Result<u64, u64> {
        let next = until.max(now).saturating_add(self.each);
        let used = next - now;
        if used <= self.ahead { Ok(next) } else { Err(used - self.ahead) }
    }
}

/// A few callers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set([Place; WAYS]);

/// One of them, and until when what it has used lasts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    caller: u64,
    until: u64,
}

impl Set {
    /// Whether the caller may make a request, or after how many nanoseconds it may.
    pub fn may(&self, caller: u64, pace: Pace, now: u64) -> Result<(), u64> {
        self.0.get(self.place(caller)).map_or(Ok(()), |place| pace.after(place.until, now).map(|_| ()))
    }

    /// The same, and it does make it.
    pub fn take(&mut self, caller: u64, pace: Pace, now: u64) -> Result<(), u64> {
        let at = self.place(caller);
        let before = *self;
        if let Some(place) = self.0.get_mut(at) {
            let until = pace.after(place.until, now)?;
            *place = Place { caller, until };
        }
        debug_assert!(self.holds(&before, at));
        Ok(())
    }

    /// The caller's own place, or that of the one that has used least.
    fn place(&self, caller: u64) -> usize {
        let own = self.0.iter().position(|place| place.caller == caller);
        own.unwrap_or_else(|| {
            let least = self.0.iter().enumerate().min_by_key(|(_, place)| place.until);
            least.map_or(0, |(at, _)| at)
        })
    }

    /// Nothing that was used is forgotten, and nobody else is touched.
    fn holds(&self, before: &Self, at: usize) -> bool {
        self.0
            .iter()
            .zip(&before.0)
            .enumerate()
            .all(|(place, (now, then))| if place == at { now.until > then.until } else { now == then })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// One request each millisecond, three at once.
    const PACE: Pace = Pace { each: 1_000, ahead: 3_000 };

    #[test]
    fn a_rested_caller_may_make_its_burst_and_then_goes_at_its_rate() {
        let mut set = Set::default();
        let taken: Vec<bool> = (0..5).map(|_| set.take(1, PACE, 10_000).is_ok()).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert_eq!(set.take(1, PACE, 10_400), Err(600));
        assert_eq!(set.may(1, PACE, 11_000), Ok(()));
        assert_eq!(set.take(1, PACE, 11_000), Ok(()));
        assert_eq!(set.take(1, PACE, 11_000), Err(1_000));
        let rested: usize = (0..9).filter(|_| set.take(1, PACE, 99_000).is_ok()).count();
        assert_eq!(rested, 3);
    }

    #[test]
    fn a_rate_is_what_it_says() {
        assert_eq!(Pace::new(100, 1_000_000_000, 20), Pace { each: 10_000_000, ahead: 200_000_000 });
        assert_eq!(
            Pace::new(100, 1_000_000_000, 20).of_many(10),
            Pace { each: 1_000_000, ahead: 200_000_000 }
        );
        // The longest that can be written does not overflow.
        let slow = Pace::new(1, 3_600_000_000_000, 1_000_000);
        assert_eq!(slow.after(0, u64::MAX / 2).map(|until| until > u64::MAX / 2), Ok(true));
    }

    #[test]
    fn one_more_than_there_are_places_gets_what_the_least_used_has_left() {
        let mut set = Set::default();
        for caller in 1..=WAYS as u64 {
            let times = if caller == 4 { 1 } else { 3 };
            (0..times).for_each(|_| set.take(caller, PACE, 0).unwrap());
        }
        assert_eq!((0..3).map(|_| set.take(99, PACE, 0).is_ok()).collect::<Vec<_>>(), [true, true, false]);
        // Who was put out has not gained by it, and a newcomer is not kept out once somebody is below its limit.
        assert!(set.take(4, PACE, 0).is_err());
        assert_eq!(set.take(4, PACE, 1_000), Ok(()));
    }

    proptest! {
        /// With places for all it is the plain algorithm, each caller by itself.
        #[test]
        fn callers_that_have_places_do_not_feel_each_other(
            asks in prop::collection::vec((1u64..=WAYS as u64, 0u64..2_500), 1..200),
        ) {
            let (mut set, mut alone, mut now) = (Set::default(), BTreeMap::new(), 0);
            for (caller, wait) in asks {
                now += wait;
                let until = alone.entry(caller).or_insert(0u64);
                let wanted = PACE.after(*until, now);
                prop_assert_eq!(set.may(caller, PACE, now), wanted.map(|_| ()));
                prop_assert_eq!(set.take(caller, PACE, now), wanted.map(|_| ()));
                if let Ok(next) = wanted {
                    *until = next;
                }
            }
        }

        /// However many there are, and however they come: no caller gets more than its burst and its rate in any time.
        #[test]
        fn nobody_gets_more_by_coming_with_many_others(
            // A few more than there are places, each asking for far more than its rate: they put each other out.
            asks in prop::collection::vec((1u64..12, 0u64..60), 1..400),
        ) {
            let (mut set, mut taken, mut now) = (Set::default(), BTreeMap::<u64, Vec<u64>>::new(), 0);
            for (caller, wait) in asks {
                now += wait;
                if set.take(caller, PACE, now).is_ok() {
                    taken.entry(caller).or_default().push(now);
                }
            }
            for times in taken.values() {
                for (from, first) in times.iter().enumerate() {
                    for (to, last) in times.iter().enumerate().skip(from) {
                        let (count, span) = ((to - from + 1) as u64, last - first);
                        prop_assert!(count * PACE.each <= PACE.ahead + span, "{count} within {span}");
                    }
                }
            }
        }

        /// Nobody is kept out unless every place is at its limit; and then the set lets in as much as its places may have.
        #[test]
        fn a_crowd_does_not_lock_everybody_out(
            asks in prop::collection::vec((1u64..1000, 0u64..60), 50..500),
        ) {
            let (mut set, mut now, mut let_in) = (Set::default(), 0, 0u64);
            for (caller, wait) in asks {
                now += wait;
                let full = set.0.iter().all(|place| PACE.after(place.until, now).is_err());
                let taken = set.take(caller, PACE, now);
                let_in += u64::from(taken.is_ok());
                // A known caller may be at its own limit.
                let known = set.0.iter().any(|place| place.caller == caller);
                prop_assert!(taken.is_ok() || full || known);
                if full {
                    prop_assert!(let_in * PACE.each >= WAYS as u64 * (PACE.ahead - PACE.each));
                }
            }
        }
    }
}
