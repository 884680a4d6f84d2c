//! One that comes back is given its weight gradually: its caches are cold, and whatever brought it down may come again.

use std::time::Duration;

use super::Weight;

/// With so much of its weight it begins. Not with less: one that gets nothing never warms up.
pub const LEAST_SHARE: f64 = 0.1;

/// The weight of one that has been back for so long, of the `window` after which it has all of it.
pub fn slow_start(weight: Weight, back_for: Duration, window: Duration) -> Weight {
    if back_for >= window {
        return weight;
    }
    weight.part((back_for.as_secs_f64() / window.as_secs_f64()).max(LEAST_SHARE))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_grows_from_a_tenth_to_all_of_it() {
        let at = |seconds| slow_start(Weight::of(10), Duration::from_secs(seconds), Duration::from_secs(30));
        assert_eq!(
            [at(0), at(3), at(15), at(30), at(99)].map(|w| w.shown().round()),
            [1.0, 1.0, 5.0, 10.0, 10.0]
        );
        assert_eq!(slow_start(Weight::of(1), Duration::ZERO, Duration::ZERO), Weight::of(1));
    }

    proptest! {
        #[test]
        fn it_never_falls_and_never_passes_the_whole(weight in 1u32..1000, window in 1u64..100_000, a in 0u64..200_000, b in 0u64..200_000) {
            let at = |ms| slow_start(Weight::of(weight), Duration::from_millis(ms), Duration::from_millis(window));
            prop_assert!(at(a.min(b)) <= at(a.max(b)));
            prop_assert!(at(b) <= Weight::of(weight));
        }
    }
}
