//! In turn.

/// The place of the one whose turn it is among `count`; `None` of none.
///
/// `turn` counts up by one per choice and may wrap: one place is then favoured once in 2⁶⁴ choices.
pub fn round_robin(count: usize, turn: usize) -> Option<usize> {
    turn.checked_rem(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_place_has_its_turn_equally_often(count in 1usize..20, rounds in 1usize..20, from in 0usize..1000) {
            let mut seen = vec![0; count];
            for turn in from..from + count * rounds {
                seen[round_robin(count, turn).unwrap()] += 1;
            }
            prop_assert!(seen.iter().all(|n| *n == rounds));
        }
    }

    #[test]
    fn of_none_there_is_no_next() {
        assert_eq!(round_robin(0, 7), None);
    }
}
