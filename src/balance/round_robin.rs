//! In turn, by weight.
//!
//! The usual smooth weighted round robin keeps a running sum for each of them, which threads would have to share, and which
//! means little once the eligible are others than a moment ago. Here the turn alone decides: it is multiplied by the golden
//! ratio, and what is behind the point says who it is. No other way of going round spreads so evenly from any beginning, so
//! after any number of turns everyone is within a few of its part, and one of great weight is not asked many times in a row.

use super::{Entry, even, total_weight};

/// 2⁶⁴ times the golden ratio's part behind the point.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The place of the one whose turn it is; `None` of none.
///
/// `turn` counts up by one per request and may wrap: one place is then favoured once in 2⁶⁴ choices.
pub fn round_robin(entries: &[Entry], turn: usize) -> Option<usize> {
    if even(entries) {
        return turn.checked_rem(entries.len());
    }
    let point = (turn as u64).wrapping_mul(GOLDEN);
    let mut target = scale(point, total_weight(entries));
    for (place, entry) in entries.iter().enumerate() {
        match target.checked_sub(entry.weight.get()) {
            Some(rest) => target = rest,
            None => return Some(place),
        }
    }
    None
}

/// `most` times a number below 1, given in parts of 2⁶⁴.
pub(super) fn scale(part: u64, most: u64) -> u64 {
    ((u128::from(part) * u128::from(most)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::Weight;

    fn entries(weights: &[u32]) -> Vec<Entry> {
        weights.iter().map(|w| Entry { weight: Weight::of(*w), ..Entry::plain(0, 0) }).collect()
    }

    proptest! {
        #[test]
        fn every_place_has_its_turn_equally_often(count in 1usize..20, rounds in 1usize..20, from in 0usize..1000) {
            let entries = entries(&vec![3; count]);
            let mut seen = vec![0; count];
            for turn in from..from + count * rounds {
                seen[round_robin(&entries, turn).unwrap()] += 1;
            }
            prop_assert!(seen.iter().all(|n| *n == rounds));
        }

        #[test]
        fn by_weight_nobody_is_far_from_its_part_after_any_number_of_turns(
            weights in prop::collection::vec(1u32..50, 2..10),
            turns in 1usize..3000,
            from in 0usize..1_000_000,
        ) {
            let entries = entries(&weights);
            let mut seen = vec![0usize; weights.len()];
            for turn in from..from + turns {
                seen[round_robin(&entries, turn).unwrap()] += 1;
            }
            let total: u32 = weights.iter().sum();
            for (weight, count) in weights.iter().zip(seen) {
                let part = turns as f64 * f64::from(*weight) / f64::from(total);
                prop_assert!((count as f64 - part).abs() <= 4.0, "{count} of {part}");
            }
        }
    }

    #[test]
    fn one_of_great_weight_is_not_asked_many_times_in_a_row() {
        let entries = entries(&[3, 1]);
        let turns: String = (0..16).map(|turn| round_robin(&entries, turn).unwrap().to_string()).collect();
        assert!(!turns.contains("0000000") && !turns.contains("11"), "{turns}");
    }

    #[test]
    fn of_none_there_is_no_next() {
        assert_eq!(round_robin(&[], 7), None);
    }
}
