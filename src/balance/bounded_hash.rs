//! One key, one place, as long as that place is not overloaded: rendezvous hashing with weights and bounded load.
//!
//! Everyone draws a number from the key and its own name, and they stand in line by it. The first takes the key; if it has
//! more than its bound under way, the next one in that key's line does. Nobody keeps a ring: proxies that know the same names
//! and weights agree, in whatever order they list them, and when one is missing only its own keys move.

use super::{Entry, even, mix, total_weight};

/// Nobody has more under way than this times its part, the request in question included, if that is above [`FLOOR`]. (Mirrokni, Thorup and Zadimoghaddam,
/// "Consistent Hashing with Bounded Loads": a quarter more costs few moves and keeps the fullest near the mean.)
pub const BOUND: f64 = BOUND_QUARTERS as f64 / 4.0;
const BOUND_QUARTERS: u64 = 5;

/// So many under way are no load, whatever the others have. Among three of which one has a request, a quarter above the mean
/// is still one: the next read of the same blob, which that one has just begun to read from its disk, would go to a cold cache.
/// (Of two proxies in wide use one has no such floor and one has the same, by letting in whoever is just at its bound.)
pub const FLOOR: u64 = 2;

/// Where a key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    /// The place.
    pub place: usize,
    /// The first of its line had no room.
    pub spilled: bool,
}

/// The first of the key's line, whatever its load; `None` of none.
pub fn first(entries: &[Entry], key: u64) -> Option<usize> {
    best(entries, key, |_| true)
}

/// The first of the key's line that has room; `None` of none.
pub fn bounded_hash(entries: &[Entry], key: u64) -> Option<Hashed> {
    let (load, weight) = (entries.iter().map(|entry| entry.load).sum(), total_weight(entries));
    let wanted = first(entries, key)?;
    if has_room(entries.get(wanted)?, load, weight) {
        return Some(Hashed { place: wanted, spilled: false });
    }
    // Not all can be above the mean.
    let place = best(entries, key, |entry| has_room(entry, load, weight))?;
    Some(Hashed { place, spilled: true })
}

/// Whether one more would leave it within its bound, of so much load and weight of all.
pub fn has_room(entry: &Entry, load: u64, weight: u64) -> bool {
    let bound = u128::from(BOUND_QUARTERS) * (u128::from(load) + 1) * u128::from(entry.weight.get());
    // `load + 1 <= ceil(bound)`, without the fraction.
    entry.load < FLOOR || 4 * u128::from(entry.load) * u128::from(weight) < bound
}

fn best(entries: &[Entry], key: u64, may: impl Fn(&Entry) -> bool) -> Option<usize> {
    let may = |(_, entry): &(usize, &Entry)| may(entry);
    let all = entries.iter().enumerate().filter(may);
    let draw = |entry: &Entry| mix(key ^ entry.seed);
    // Equal draws are settled by name, not by the order of a list; and by that only of two with one name.
    if even(entries) {
        return all.max_by_key(|(_, entry)| (draw(entry), entry.seed)).map(|(place, _)| place);
    }
    let cost = |entry: &Entry| {
        #[expect(clippy::cast_precision_loss, reason = "a draw, whose last bits decide nothing")]
        let (draw, weight) = ((draw(entry) as f64 + 1.0) / 2f64.powi(64), entry.weight.get() as f64);
        -draw.ln() / weight
    };
    let all = all.map(|(place, entry)| (place, cost(entry), entry.seed));
    all.min_by(|a, b| a.1.total_cmp(&b.1).then(b.2.cmp(&a.2))).map(|(place, ..)| place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::{Weight, hash};

    fn entries(weights: &[u32]) -> Vec<Entry> {
        let one = |(at, weight): (usize, &u32)| Entry {
            weight: Weight::of(*weight),
            ..Entry::plain(hash(format!("r{at}").as_bytes()), 0)
        };
        weights.iter().enumerate().map(one).collect()
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn bound(entry: &Entry, load: u64, weight: u64) -> u64 {
        ((BOUND * (load + 1) as f64 * entry.weight.get() as f64 / weight as f64).ceil() as u64).max(FLOOR)
    }

    proptest! {
        #[test]
        fn nobody_passes_its_bound_and_everybody_finds_a_place(
            weights in prop::collection::vec(1u32..6, 1..10),
            keys in prop::collection::vec(0u64..20, 1..400),
        ) {
            let mut entries = entries(&weights);
            for key in keys {
                let (load, weight) = (entries.iter().map(|e| e.load).sum::<u64>(), total_weight(&entries));
                let chosen = bounded_hash(&entries, mix(key)).unwrap();
                entries[chosen.place].load += 1;
                prop_assert!(entries[chosen.place].load <= bound(&entries[chosen.place], load, weight));
            }
        }

        #[test]
        fn a_list_in_another_order_gives_the_same_one(weights in prop::collection::vec(1u32..6, 2..10), by in 1usize..9, key: u64) {
            let entries = entries(&weights);
            let mut turned = entries.clone();
            turned.rotate_left(by % entries.len());
            let (a, b) = (first(&entries, key).unwrap(), first(&turned, key).unwrap());
            prop_assert_eq!(entries[a].seed, turned[b].seed);
        }

        #[test]
        fn only_the_keys_of_one_that_is_missing_move(weights in prop::collection::vec(1u32..6, 2..10), gone in 0usize..9, key: u64) {
            let mut entries = entries(&weights);
            let before = entries[first(&entries, key).unwrap()].seed;
            let gone = entries.remove(gone % weights.len()).seed;
            let after = entries[first(&entries, key).unwrap()].seed;
            prop_assert!(after == before || before == gone);
        }

        #[test]
        fn keys_spread_by_weight(weights in prop::collection::vec(1u32..6, 2..8), seed: u64) {
            let entries = entries(&weights);
            let mut seen = vec![0u32; weights.len()];
            for n in 0..4000u64 {
                seen[first(&entries, mix(seed ^ n)).unwrap()] += 1;
            }
            let total: u32 = weights.iter().sum();
            for (count, weight) in seen.iter().zip(&weights) {
                let (part, wanted) = (f64::from(*count) / 4000.0, f64::from(*weight) / f64::from(total));
                prop_assert!((part - wanted).abs() < 0.06, "{part} of {wanted}");
            }
        }
    }

    #[test]
    fn two_reads_of_one_thing_stay_together_and_a_third_does_not() {
        let mut entries = entries(&[1, 1, 1]);
        let wanted = first(&entries, 7).unwrap();
        for _ in 0..2 {
            let hashed = bounded_hash(&entries, 7).unwrap();
            assert_eq!(hashed, Hashed { place: wanted, spilled: false });
            entries[hashed.place].load += 1;
        }
        assert!(bounded_hash(&entries, 7).unwrap().spilled);
    }

    #[test]
    fn an_overloaded_one_hands_its_key_to_the_next_and_takes_it_back() {
        let mut entries = entries(&[1, 1, 1]);
        let wanted = first(&entries, 7).unwrap();
        entries[wanted].load = 9;
        let spilled = bounded_hash(&entries, 7).unwrap();
        assert!(spilled.spilled && spilled.place != wanted);
        entries[wanted].load = 0;
        assert_eq!(bounded_hash(&entries, 7), Some(Hashed { place: wanted, spilled: false }));
        assert_eq!(bounded_hash(&[], 7), None);
    }
}
