//! Of two drawn by weight, the one with fewer requests under way for its weight.
//!
//! Of two that are equally loaded it is the one drawn first, so that with nothing to do each still gets its part.

use super::{Entry, two_choices::two};

/// The chosen place; `None` of none. `draw` is any evenly spread number.
pub fn least_requests(entries: &[Entry], draw: u64) -> Option<usize> {
    let (first, second) = two(entries, draw)?;
    let (a, b) = (entries.get(first)?, entries.get(second)?);
    let crossed = |load: u64, other: u64| u128::from(load) * u128::from(other);
    let lighter = crossed(b.load, a.weight.get()) < crossed(a.load, b.weight.get());
    Some(if lighter { second } else { first })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::{Weight, mix};

    fn loaded(loads: &[u64]) -> Vec<Entry> {
        loads.iter().map(|load| Entry::plain(0, *load)).collect()
    }

    proptest! {
        #[test]
        fn the_most_loaded_is_never_chosen_when_another_has_less(loads in prop::collection::vec(0u64..5, 2..10), draw: u64) {
            let most = loads.iter().max().unwrap();
            let alone = loads.iter().filter(|l| *l == most).count() == 1;
            let chosen = least_requests(&loaded(&loads), draw).unwrap();
            prop_assert!(!alone || loads[chosen] < *most);
        }

        #[test]
        fn load_spreads_evenly(count in 2usize..8, seed: u64) {
            // Requests that never end: after many choices no place is far ahead of another.
            let mut entries = loaded(&vec![0; count]);
            for step in 0..count as u64 * 200 {
                let chosen = least_requests(&entries, mix(seed ^ step)).unwrap();
                entries[chosen].load += 1;
            }
            let loads: Vec<u64> = entries.iter().map(|entry| entry.load).collect();
            let (min, max) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            prop_assert!(max - min < 20, "{loads:?}");
        }

        #[test]
        fn load_spreads_by_weight(weights in prop::collection::vec(1u32..10, 2..6), seed: u64) {
            let mut entries: Vec<_> =
                weights.iter().map(|w| Entry { weight: Weight::of(*w), ..Entry::plain(0, 0) }).collect();
            let all = u64::from(weights.iter().sum::<u32>()) * 200;
            for step in 0..all {
                let chosen = least_requests(&entries, mix(seed ^ step)).unwrap();
                entries[chosen].load += 1;
            }
            for (entry, weight) in entries.iter().zip(&weights) {
                let each = entry.load as f64 / f64::from(*weight);
                prop_assert!((each - 200.0).abs() < 40.0, "{each} for each of weight {weight}");
            }
        }

        #[test]
        fn with_nothing_under_way_each_gets_its_part(weights in prop::collection::vec(1u32..10, 2..6), seed: u64) {
            let entries: Vec<_> =
                weights.iter().map(|w| Entry { weight: Weight::of(*w), ..Entry::plain(0, 0) }).collect();
            let mut seen = vec![0u32; weights.len()];
            for step in 0..4000u64 {
                seen[least_requests(&entries, mix(seed ^ step)).unwrap()] += 1;
            }
            let total: u32 = weights.iter().sum();
            for (count, weight) in seen.iter().zip(&weights) {
                let (part, wanted) = (f64::from(*count) / 4000.0, f64::from(*weight) / f64::from(total));
                prop_assert!((part - wanted).abs() < 0.06, "{part} of {wanted}");
            }
        }
    }

    #[test]
    fn of_none_there_is_no_next_and_of_one_it_is_that_one() {
        assert_eq!(least_requests(&[], 3), None);
        assert_eq!(least_requests(&loaded(&[9]), 3), Some(0));
    }
}
