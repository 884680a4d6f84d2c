//! Which start is first: priority minus age times ageing, with a bonus for a template that is already there.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::model::{InstanceId, Timestamp};

/// A place in the queue; smaller is sooner. In millionths of a priority point.
///
/// Age grows alike for all that wait, so who is before whom never changes while they wait: the rank can be kept
/// as a sorted set, and no start waits for ever, because later ones come with larger numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order(i128);

/// One priority point.
const POINT: f64 = 1e6;

/// What a template already on the node is worth: as much as 50 priority points. Constant, so that a start
/// without it is overtaken only by those accepted soon after it.
pub const ON_NODE: Order = Order(50_000_000);

/// What nothing is worth.
pub const NO_BONUS: Order = Order(0);

/// The most that layers on the node are worth: less than the template.
const LAYERS: i128 = 40_000_000;

/// What a GiB of layers on the node is worth: what fetching it takes, by a line of a gigabit.
const OF_A_GIB: i128 = 8_000_000;

/// What so many bytes of a template's layers on the node are worth.
pub fn of_layers(bytes: u64) -> Order {
    Order(LAYERS.min((i128::from(bytes) * OF_A_GIB) >> 30))
}

/// The place of a start with this priority, accepted at `since`.
pub fn order(priority: u32, since: Timestamp, ageing_per_second: f64) -> Order {
    let seconds = since.unix_millis() as f64 / 1e3;
    Order((f64::from(priority) * POINT) as i128 + (seconds * ageing_per_second * POINT) as i128)
}

impl Order {
    /// This place, moved forward by a bonus.
    pub fn sooner_by(self, bonus: Self) -> Self {
        Self(self.0 - bonus.0)
    }
}

/// How many starts a poll looks at beyond the first that fits: a loser of a race takes another of them.
pub const BEST: usize = 10;

/// Which of these controllers tries a start first: the same one whoever asks (highest random weight), so that
/// a burst of starts is spread and not raced for.
pub fn first_choice<'a>(id: &InstanceId, members: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    members.max_by_key(|name| {
        // SipHash with fixed keys: the same in every process of the same build; a mixed fleet only races more.
        let mut hasher = DefaultHasher::new();
        (id.as_str(), *name).hash(&mut hasher);
        (hasher.finish(), *name)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_700_000_000 + seconds)
    }

    #[test]
    fn a_lower_priority_number_is_sooner_and_age_makes_up_for_it() {
        assert!(order(500, at(0), 1.0) < order(1000, at(0), 1.0));
        assert!(order(1000, at(0), 1.0) < order(500, at(501), 1.0), "501 s of waiting outweigh 500 points");
        assert!(
            order(1000, at(0), 0.0) > order(500, at(100_000), 0.0),
            "without ageing priority alone decides"
        );
        assert!(order(1000, at(0), 1.0) < order(1000, at(1), 1.0), "first come, first served");
    }

    #[test]
    fn a_template_on_the_node_is_worth_a_bounded_head_start() {
        let here = order(1000, at(40), 1.0).sooner_by(ON_NODE);
        assert!(here < order(1000, at(0), 1.0));
        let late = order(1000, at(60), 1.0).sooner_by(ON_NODE);
        assert!(late > order(1000, at(0), 1.0));
    }

    proptest! {
        #[test]
        fn layers_on_the_node_are_worth_more_the_more_they_are_and_less_than_the_template(
            some in any::<u64>(), more in any::<u64>(),
        ) {
            let (some, more) = (some.min(more), some.max(more));
            prop_assert!(NO_BONUS <= of_layers(some) && of_layers(some) <= of_layers(more));
            prop_assert!(of_layers(more) < ON_NODE);
        }

        #[test]
        fn with_ageing_every_start_is_first_in_the_end(
            mine in 1u32..=10_000, theirs in 1u32..=10_000, ageing in 0.01f64..100.0,
        ) {
            let wait = (10_000.0 / ageing) as i64 + 2;
            prop_assert!(order(mine, at(0), ageing) < order(theirs, at(wait), ageing));
        }
    }

    #[test]
    fn first_choices_are_spread_and_move_only_when_their_controller_goes() {
        let all = ["c1", "c2", "c3"];
        let mut count = HashMap::new();
        for n in 0..3000 {
            let id = InstanceId::parse(format!("i{n}")).unwrap();
            let first = first_choice(&id, all.into_iter()).unwrap();
            *count.entry(first).or_insert(0) += 1;
            let without_c3 = first_choice(&id, ["c2", "c1"].into_iter()).unwrap();
            assert!(first == "c3" || first == without_c3);
        }
        assert!(count.values().all(|n| (800..1200).contains(n)), "{count:?}");
    }
}
