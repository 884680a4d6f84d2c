//! Whether a request stays in its proxy's own zone.

/// A zone is built with so much to spare that it takes all of its requests while no more than the rest is missing: with 1.4
/// that is until less than 71 % of it is left. Below that it keeps the same part of its requests per server, and what it
/// cannot take goes elsewhere; so nothing jumps when one server more is missing.
pub const SPARE: f64 = 1.4;

/// Whether it stays. `now` is the weight of what can take the request in the zone, `whole` the weight of what could if nothing
/// were missing there; `draw` is evenly spread, and the same draw gives the same answer.
pub fn stays(now: u64, whole: u64, draw: u64) -> bool {
    if now == 0 {
        return false;
    }
    #[expect(clippy::cast_precision_loss, reason = "a chance, not a count")]
    let (left, chance) = (now as f64 * SPARE / whole.max(1) as f64, draw as f64 / u64::MAX as f64);
    left >= 1.0 || chance < left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_zone_with_enough_left_keeps_everything() {
        assert!(stays(10, 10, u64::MAX));
        assert!(stays(8, 11, u64::MAX), "73 % is enough");
        assert!(!stays(7, 10, u64::MAX), "70 % times 1.4 is 98 %");
        assert!(stays(7, 10, u64::MAX / 100 * 97));
        assert!(!stays(0, 10, 0));
    }

    proptest! {
        #[test]
        fn it_keeps_no_more_than_it_can_take(now in 1u64..1000, missing in 0u64..1000, seed: u64) {
            let whole = now + missing;
            let kept = (0..2000u64).filter(|at| stays(now, whole, super::super::mix(seed ^ at))).count();
            let (kept, wanted) = (kept as f64 / 2000.0, (now as f64 * SPARE / whole as f64).min(1.0));
            prop_assert!((kept - wanted).abs() < 0.07, "{kept} of {wanted}");
        }
    }
}
