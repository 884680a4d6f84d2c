//! How fast those that wait go on when somebody is back: not all of them into one server that has only just come up, and
//! none of them so late that its hold is over.

use std::time::Duration;

/// So many go at once when a server is back: one that bears nobody is not up.
const FIRST: usize = 8;

/// The others go at this rate for each server that has its whole weight, and at its part of that for one that comes back
/// (`slow_start`): a hundred a second at first.
const EACH_SECOND: f64 = 1000.0;

/// Of what is left of a hold, those that wait are spread over so much, if they are too many for that rate.
const SPREAD: f64 = 0.9;

/// When one may go that has so many before and behind it and must have gone within `left`; `servers` is how many there
/// are that can take it, those that come back counted by the part that they have. `anew`: it has been told a time before,
/// and those that go at once have gone.
pub fn delay(before: usize, behind: usize, servers: f64, left: Duration, anew: bool) -> Duration {
    let Some(further) = before.checked_sub(if anew { 0 } else { FIRST }) else { return Duration::ZERO };
    let slow = (further + 1) as f64 / (EACH_SECOND * servers.max(f64::EPSILON));
    let share = (before + 1) as f64 / (before + behind + 1) as f64;
    let latest = left.as_secs_f64() * SPREAD * share;
    Duration::try_from_secs_f64(slow.min(latest)).unwrap_or(left)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEFT: Duration = Duration::from_secs(2);

    #[test]
    fn a_few_go_at_once_and_the_others_at_the_pace_of_slow_start() {
        assert_eq!(delay(FIRST - 1, 500, 0.1, LEFT, false), Duration::ZERO);
        assert_eq!(delay(FIRST, 5, 0.1, LEFT, false), Duration::from_millis(10));
        assert_eq!(delay(FIRST + 9, 5, 0.1, LEFT, false), Duration::from_millis(100));
        assert_eq!(delay(FIRST + 9, 5, 0.2, LEFT, false), Duration::from_millis(50));
        assert_eq!(delay(0, 5, 0.1, LEFT, true), Duration::from_millis(10));
    }

    #[test]
    fn too_many_for_that_pace_are_spread_over_what_is_left_of_their_hold() {
        assert_eq!(delay(999, 0, 0.1, LEFT, false), LEFT.mul_f64(SPREAD));
        assert!(delay(499, 500, 0.1, LEFT, false) < LEFT / 2);
    }

    proptest! {
        #[test]
        fn nobody_goes_before_those_before_it_nor_after_its_hold(before in 0usize..5000, behind in 1usize..5000, servers in 0.1f64..50.0, left in 0u64..10_000, anew: bool) {
            let left = Duration::from_millis(left);
            let (mine, next) = (delay(before, behind, servers, left, anew), delay(before + 1, behind - 1, servers, left, anew));
            prop_assert!(mine <= next && next <= left);
        }
    }
}
