//! Which templates go to make room: least recently used first, none that is in use, no more than needed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Digest, Timestamp};

/// A template as the plan sees it.
#[derive(Debug, Clone)]
pub(super) struct Cached {
    pub(super) manifest: Digest,
    pub(super) used: Timestamp,
    pub(super) pinned: bool,
    pub(super) layers: BTreeMap<Digest, u64>,
}

/// There is not enough, whatever goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    pub(super) needed: u64,
    /// With everything gone that may go, reserve kept.
    pub(super) available: u64,
}

/// The templates to remove, in order, so that `needed` bytes fit into what is free without touching `reserve`.
///
/// A layer is freed only when no template that stays has it and it is not itself `wanted`.
pub(super) fn plan(
    needed: u64,
    free: u64,
    reserve: u64,
    cached: &[Cached],
    wanted: &BTreeSet<Digest>,
) -> Result<Vec<Digest>, Short> {
    let fits = |freed: u64| free.saturating_add(freed).saturating_sub(reserve) >= needed;
    let mut staying: BTreeMap<Digest, usize> = BTreeMap::new();
    for layer in cached.iter().flat_map(|template| template.layers.keys()) {
        *staying.entry(*layer).or_default() += 1;
    }
    let mut candidates: Vec<&Cached> = cached.iter().filter(|template| !template.pinned).collect();
    candidates.sort_by_key(|template| (template.used, template.manifest));

    let (mut going, mut freed) = (Vec::new(), 0u64);
    for template in candidates {
        if fits(freed) {
            break;
        }
        let mut gain = 0u64;
        for (layer, size) in &template.layers {
            let holders = staying.entry(*layer).or_default();
            *holders = holders.saturating_sub(1);
            if *holders == 0 && !wanted.contains(layer) {
                gain = gain.saturating_add(*size);
            }
        }
        freed = freed.saturating_add(gain);
        going.push((template, gain));
    }
    if !fits(freed) {
        return Err(Short { needed, available: free.saturating_add(freed).saturating_sub(reserve) });
    }
    // One that turned out to bring nothing, or that the later ones made needless, stays.
    let mut spare: Vec<Digest> = Vec::new();
    for (template, gain) in &going {
        let shares = template.layers.keys().any(|layer| {
            going
                .iter()
                .any(|(other, _)| other.manifest != template.manifest && other.layers.contains_key(layer))
        });
        if !shares && fits(freed - gain) {
            freed -= gain;
            spare.push(template.manifest);
        }
    }
    Ok(going.iter().map(|(template, _)| template.manifest).filter(|m| !spare.contains(m)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn template(name: &str, used: i64, layers: &[(&str, u64)]) -> Cached {
        Cached {
            manifest: digest(name),
            used: Timestamp::from_unix_seconds(used),
            pinned: false,
            layers: layers.iter().map(|(layer, size)| (digest(layer), *size)).collect(),
        }
    }

    fn check(needed: u64, free: u64, reserve: u64, cached: &[Cached], expected: Result<&[&str], u64>) {
        let got = plan(needed, free, reserve, cached, &BTreeSet::new());
        let expected = expected
            .map(|names| names.iter().map(|name| digest(name)).collect::<Vec<_>>())
            .map_err(|available| Short { needed, available });
        assert_eq!(got, expected);
    }

    #[test]
    fn nothing_goes_while_there_is_room() {
        check(10, 30, 20, &[template("a", 1, &[("a1", 50)])], Ok(&[]));
    }

    #[test]
    fn the_least_recently_used_goes_first_and_only_as_much_as_needed() {
        let cached = [template("new", 9, &[("n", 50)]), template("old", 1, &[("o", 50)])];
        check(40, 0, 0, &cached, Ok(&["old"]));
        check(60, 0, 0, &cached, Ok(&["old", "new"]));
    }

    #[test]
    fn one_that_later_ones_made_needless_stays() {
        let cached = [template("small", 1, &[("s", 5)]), template("big", 2, &[("b", 100)])];
        check(80, 0, 0, &cached, Ok(&["big"]));
    }

    #[test]
    fn what_is_in_use_stays_and_the_shortfall_is_told() {
        let mut used = template("used", 1, &[("u", 50)]);
        used.pinned = true;
        let cached = [used, template("idle", 2, &[("i", 30)])];
        check(60, 0, 0, &cached, Err(30));
        check(60, 40, 20, &cached, Err(50));
    }

    #[test]
    fn a_shared_layer_is_freed_only_with_its_last_template() {
        let cached =
            [template("a", 1, &[("base", 100), ("a1", 5)]), template("b", 2, &[("base", 100), ("b1", 5)])];
        check(5, 0, 0, &cached, Ok(&["a"]));
        check(50, 0, 0, &cached, Ok(&["a", "b"]));
        check(111, 0, 0, &cached, Err(110));
    }

    #[test]
    fn a_layer_that_is_wanted_itself_brings_no_room() {
        let cached = [template("a", 1, &[("base", 100), ("a1", 5)])];
        let wanted = [digest("base")].into();
        assert_eq!(plan(6, 0, 0, &cached, &wanted), Err(Short { needed: 6, available: 5 }));
    }

    proptest! {
        #[test]
        fn a_plan_makes_enough_room_and_never_touches_what_is_in_use(
            needed in 0u64..400, free in 0u64..200, reserve in 0u64..100,
            spec in prop::collection::vec((0i64..5, any::<bool>(), prop::collection::btree_set(0u8..8, 1..4)), 0..7)
        ) {
            let cached: Vec<Cached> = spec
                .iter()
                .enumerate()
                .map(|(i, (used, pinned, layers))| Cached {
                    manifest: digest(&format!("m{i}")),
                    used: Timestamp::from_unix_seconds(*used),
                    pinned: *pinned,
                    layers: layers.iter().map(|l| (digest(&format!("l{l}")), u64::from(*l) * 10)).collect(),
                })
                .collect();
            let size = |keep: &dyn Fn(&Cached) -> bool| {
                let layers: BTreeMap<_, _> = cached.iter().filter(|t| keep(t)).flat_map(|t| &t.layers).collect();
                layers.values().map(|size| **size).sum::<u64>()
            };
            match plan(needed, free, reserve, &cached, &BTreeSet::new()) {
                Ok(going) => {
                    prop_assert!(cached.iter().all(|t| !(t.pinned && going.contains(&t.manifest))));
                    let freed = size(&|_| true) - size(&|t| !going.contains(&t.manifest));
                    prop_assert!((free + freed).saturating_sub(reserve) >= needed);
                }
                Err(short) => {
                    let most = size(&|_| true) - size(&|t| t.pinned);
                    prop_assert_eq!(short.available, (free + most).saturating_sub(reserve));
                    prop_assert!(short.available < needed);
                }
            }
        }
    }
}
