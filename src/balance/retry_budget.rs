//! How many retries a service bears: a share of its requests, and a few more.
//!
//! Without a bound an outage makes itself worse: each request that fails becomes two or three, and what could have
//! served half of them serves none. Counted over a window of ten seconds, second by second.

/// Seconds that are counted.
pub const SECONDS: u64 = 10;

/// What was counted in each of the last seconds. Seconds come in as numbers that grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    slots: [(u64, u64); SECONDS as usize],
}

impl Window {
    /// One more in this second. One that is older than the window is not counted.
    pub fn add(&mut self, second: u64) {
        let Some(slot) = self.slots.get_mut((second % SECONDS) as usize) else { return };
        match slot.0 {
            known if known == second => slot.1 += 1,
            known if known < second => *slot = (second, 1),
            _ => {}
        }
    }

    /// How many there were in the window that ends with this second.
    pub fn sum(&self, second: u64) -> u64 {
        let within = |(at, _): &&(u64, u64)| *at <= second && second - at < SECONDS;
        self.slots.iter().filter(within).map(|(_, count)| count).sum()
    }
}

/// Whether one more retry is borne: after it they are at most `ratio` of the requests, and `min` a second besides.
pub fn allows(requests: u64, retries: u64, ratio: f64, min: u32) -> bool {
    // Both are far below 2^53, where floats would lose ones.
    let most = requests as f64 * ratio + f64::from(min) * SECONDS as f64;
    retries as f64 + 1.0 <= most
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_window_forgets_what_is_older() {
        let mut window = Window::default();
        for second in [0, 0, 3, 9] {
            window.add(second);
        }
        assert_eq!((window.sum(9), window.sum(10), window.sum(13), window.sum(19)), (4, 2, 1, 0));
        // Its place belongs to a later second now.
        window.add(20);
        window.add(10);
        assert_eq!(window.sum(20), 1);
    }

    #[test]
    fn a_quiet_service_has_its_least_and_a_busy_one_its_share() {
        assert!(allows(0, 99, 0.2, 10));
        assert!(!allows(0, 100, 0.2, 10));
        assert!(allows(10_000, 2099, 0.2, 10));
        assert!(!allows(10_000, 2100, 0.2, 10));
        assert!(!allows(10_000, 0, 0.0, 0));
    }

    proptest! {
        /// How many are under way at once has no bound of its own, and needs none: each ends before the window does, so those
        /// under way are among those of one window. A burst of failures is the worst case, and is cut off by the same sum.
        #[test]
        fn those_under_way_at_once_stay_within_the_bound_of_one_window(
            steps in prop::collection::vec((0u64..3000, 0u64..60, prop::collection::vec(0u64..=9000, 0..60)), 1..60),
            ratio in 0.0f64..1.0,
            min in 0u32..20,
        ) {
            let (mut requests, mut retries) = (Window::default(), Window::default());
            let (mut now, mut most) = (100_000, f64::from(min) * SECONDS as f64);
            let mut ends: Vec<u64> = Vec::new();
            for (pause, asked, failed) in steps {
                now += pause;
                (0..asked).for_each(|_| requests.add(now / 1000));
                let sum = requests.sum(now / 1000);
                most = most.max(sum as f64 * ratio + f64::from(min) * SECONDS as f64);
                ends.retain(|end| *end > now);
                for takes in failed {
                    if allows(sum, retries.sum(now / 1000), ratio, min) {
                        retries.add(now / 1000);
                        ends.push(now + takes);
                    }
                }
                prop_assert!(ends.len() as f64 <= most, "{} under way, and {most} are borne", ends.len());
            }
        }

        /// What is asked for in any order of seconds that grow: never above the bound over any window, and never refused
        /// below the least.
        #[test]
        fn retries_stay_within_the_bound_of_every_window(
            steps in prop::collection::vec((0u64..4, 0u64..40, 0u64..40), 1..60),
            ratio in 0.0f64..1.0,
            min in 0u32..20,
        ) {
            let (mut requests, mut retries) = (Window::default(), Window::default());
            let mut second = 1;
            let mut all: Vec<(u64, u64, u64)> = Vec::new();
            for (pause, asked, failed) in steps {
                second += pause;
                (0..asked).for_each(|_| requests.add(second));
                let mut borne = 0;
                for _ in 0..failed {
                    if allows(requests.sum(second), retries.sum(second), ratio, min) {
                        retries.add(second);
                        borne += 1;
                    } else {
                        let within = all.iter().filter(|(at, ..)| second - at < SECONDS);
                        let before: u64 = within.map(|(_, _, borne)| borne).sum();
                        prop_assert!(before + borne + 1 > u64::from(min) * SECONDS);
                    }
                }
                all.push((second, asked, borne));
                let within = || all.iter().filter(|(at, ..)| second - at < SECONDS);
                let asked: u64 = within().map(|(_, asked, _)| asked).sum();
                let borne: u64 = within().map(|(_, _, borne)| borne).sum();
                // Requests of a second that has left the window since had earned what was spent beside it.
                let earned: u64 = all.iter().filter(|(at, ..)| second - at < 2 * SECONDS).map(|(_, asked, _)| asked).sum();
                prop_assert!(borne as f64 <= earned as f64 * ratio + f64::from(min) * SECONDS as f64, "{borne} of {asked}");
            }
        }
    }
}
