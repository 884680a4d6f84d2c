//! Two lanes: control traffic (heartbeats, polls, the API), which is small and due soon, and transfers. Apart in the
//! connections to upstreams, in what may be open of them, and in the time of a thread.

use super::classify::{Pace, Route};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Small, and soon.
    Control,
    /// Transfers.
    Bulk,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Control, Self::Bulk];

    /// Where a request belongs.
    pub fn of(route: Route) -> Self {
        match route.pace {
            Pace::Prompt | Pace::Parked => Self::Control,
            Pace::Bulk | Pace::Commit => Self::Bulk,
        }
    }

    /// The word of config, metrics and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
        }
    }
}

/// One for each lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lanes<T> {
    /// Of control traffic.
    pub control: T,
    /// Of transfers.
    pub bulk: T,
}

impl<T> Lanes<T> {
    /// That of this lane.
    pub fn of(&self, lane: Lane) -> &T {
        match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_and_the_api_are_control_and_what_moves_for_long_is_not() {
        let lane = |pace| Lane::of(Route { pace, ..crate::proxy::classify::UNROUTED });
        assert_eq!((lane(Pace::Prompt), lane(Pace::Parked)), (Lane::Control, Lane::Control));
        assert_eq!((lane(Pace::Bulk), lane(Pace::Commit)), (Lane::Bulk, Lane::Bulk));
    }
}
