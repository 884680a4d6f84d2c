//! Two different ones, drawn by weight.
//!
//! Nearly as even as looking at all of them, and several proxies that see only their own requests do not all run to the same
//! upstream.

use super::{Entry, even, round_robin::scale, total_weight};

/// Two places, the first drawn by weight among all, the second among the others; twice the same of one alone. `draw` is any
/// evenly spread number.
pub(super) fn two(entries: &[Entry], draw: u64) -> Option<(usize, usize)> {
    match entries {
        [] => return None,
        [_] => return Some((0, 0)),
        _ => {}
    }
    // Each half is spread evenly by itself.
    let (first, second) = (draw, draw << 32);
    if even(entries) {
        let count = entries.len() as u64;
        let (a, b) = (scale(first, count), scale(second, count - 1));
        return Some((place(a), place(b + u64::from(b >= a))));
    }
    let total = total_weight(entries);
    let a = at(entries, scale(first, total), None)?;
    let rest = total - entries.get(a)?.weight.get();
    let b = at(entries, scale(second, rest), Some(a))?;
    Some((a, b))
}

fn at(entries: &[Entry], mut target: u64, but: Option<usize>) -> Option<usize> {
    for (place, entry) in entries.iter().enumerate().filter(|(place, _)| Some(*place) != but) {
        match target.checked_sub(entry.weight.get()) {
            Some(rest) => target = rest,
            None => return Some(place),
        }
    }
    None
}

fn place(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::Weight;

    proptest! {
        #[test]
        fn they_are_never_the_same_and_always_there(weights in prop::collection::vec(1u32..9, 2..10), draw: u64) {
            let entries: Vec<_> =
                weights.iter().map(|w| Entry { weight: Weight::of(*w), ..Entry::plain(0, 0) }).collect();
            let (a, b) = two(&entries, draw).unwrap();
            prop_assert!(a != b && a < entries.len() && b < entries.len());
        }
    }
}
