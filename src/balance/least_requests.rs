//! Power of two choices: of two picked by chance, the one with fewer requests under way.
//!
//! Nearly as even as looking at all of them, and several proxies that see only their own requests do not
//! all run to the same upstream.

/// The chosen place; `None` of none. `loads` are requests under way, `draw` is any evenly spread number.
pub fn least_requests(loads: &[u64], draw: u64) -> Option<usize> {
    let count = u64::try_from(loads.len()).ok().filter(|count| *count > 0)?;
    let first = draw % count;
    if count == 1 {
        return Some(0);
    }
    // The second is drawn among the others, so the two are never the same.
    let second = (first + 1 + (draw / count) % (count - 1)) % count;
    let place = |at: u64| usize::try_from(at).ok();
    let (first, second) = (place(first)?, place(second)?);
    Some(if loads.get(second)? < loads.get(first)? { second } else { first })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_most_loaded_is_never_chosen_when_another_has_less(loads in prop::collection::vec(0u64..5, 2..10), draw: u64) {
            let most = loads.iter().max().unwrap();
            let alone = loads.iter().filter(|l| *l == most).count() == 1;
            let chosen = least_requests(&loads, draw).unwrap();
            prop_assert!(!alone || loads[chosen] < *most);
        }

        #[test]
        fn load_spreads_evenly(count in 2usize..8, seed: u64) {
            // Requests that never end: after many choices no place is far ahead of another.
            let mut loads = vec![0u64; count];
            let mut draw = seed | 1;
            for _ in 0..count * 200 {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let chosen = least_requests(&loads, draw >> 16).unwrap();
                loads[chosen] += 1;
            }
            let (min, max) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            prop_assert!(max - min < 20, "{loads:?}");
        }
    }

    #[test]
    fn of_none_there_is_no_next_and_of_one_it_is_that_one() {
        assert_eq!(least_requests(&[], 3), None);
        assert_eq!(least_requests(&[9], 3), Some(0));
    }
}
