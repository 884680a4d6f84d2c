//! Whether the wall clock may be believed: what was stored with it outlives every controller and is judged by it, and a clock
//! that jumps ahead would end all of that at once.

use std::time::Duration;

use crate::{clock, model::Timestamp};

/// So far a wall clock may be ahead of where it was, as counted by the one that does not jump.
const JUMP: i64 = 60;

/// So long a clock that jumped further is not believed: time to set it right.
const DOUBT: Duration = Duration::from_secs(600);

/// A wall clock, held against the one that does not jump.
pub(super) struct Steady {
    /// Seconds that it was ahead of the clock that does not jump, when it was last believed.
    ahead: i64,
    /// Since when it is not, by the other clock.
    doubted: Option<Duration>,
}

fn ahead(wall: Timestamp, boot: Duration) -> i64 {
    wall.unix_seconds().saturating_sub(i64::try_from(boot.as_secs()).unwrap_or(i64::MAX))
}

impl Default for Steady {
    fn default() -> Self {
        Self { ahead: ahead(clock::wall(), clock::boot()), doubted: None }
    }
}

impl Steady {
    /// The wall clock's time, unless it jumped ahead a short while ago.
    pub(super) fn wall(&mut self) -> Option<Timestamp> {
        let wall = clock::wall();
        self.believes(wall, clock::boot()).then_some(wall)
    }

    /// Whether what waits may be ended by the wall clock. One that goes back, or a little ahead, is believed at once.
    fn believes(&mut self, wall: Timestamp, boot: Duration) -> bool {
        let ahead = ahead(wall, boot);
        let jumped = ahead.saturating_sub(self.ahead);
        if jumped > JUMP {
            if self.doubted.is_none() {
                tracing::warn!(
                    seconds = jumped,
                    "this controller's clock jumped ahead; nothing is ended by it for {} minutes, unless it is set back",
                    DOUBT.as_secs() / 60
                );
            }
            if boot.saturating_sub(*self.doubted.get_or_insert(boot)) < DOUBT {
                return false;
            }
        }
        (self.ahead, self.doubted) = (ahead, None);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_ahead_ends_nothing_until_it_was_time_to_set_it_right() {
        let at = |wall: i64, boot: u64| (Timestamp::from_unix_seconds(wall), Duration::from_secs(boot));
        let mut clock = Steady { ahead: 1_000_000, doubted: None };
        let mut believes = |wall, boot| {
            let (wall, boot) = at(wall, boot);
            clock.believes(wall, boot)
        };
        assert!(believes(1_000_010, 10) && believes(1_000_075, 20), "it is corrected a little");
        assert!(!believes(1_100_000, 30) && !believes(1_100_590, 620), "a day ahead");
        assert!(believes(1_000_640, 640), "set back");
        assert!(
            !believes(1_200_000, 700) && !believes(1_200_599, 1299) && believes(1_200_600, 1300),
            "it stays so"
        );
        assert!(believes(1_200_700, 1400) && believes(1_000_000, 1500), "back is no danger");
    }
}
