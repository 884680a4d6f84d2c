//! What one run is to be: drawn from its seed, before anything happens.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};
use switchyard::{
    balance::ejection,
    config::proxy::{Balance, RetryBudget},
    proxy::cohort::core,
};

pub(super) const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Story {
    /// Many requests within a minute, and something goes wrong all the time.
    Crowd,
    /// Long trouble, and a longer peace after it.
    Siege,
    /// Controllers are upgraded one after the other, with blips, while agents poll.
    Upgrade,
    /// Controllers come and go as any version, and operators have their say.
    Unrest,
}

/// The rules of a run, the same at every proxy, and what is done to them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) story: Story,
    pub(super) servers: usize,
    pub(super) proxies: usize,
    pub(super) agents: usize,
    /// All servers have one weight.
    pub(super) even: bool,
    /// Servers take only so many requests.
    pub(super) limited: bool,
    pub(super) balance: Balance,
    pub(super) sticky: bool,
    pub(super) zoned: bool,
    pub(super) slow_start: Duration,
    pub(super) panic: f64,
    pub(super) rise: u32,
    pub(super) fall: u32,
    /// Between two probes.
    pub(super) interval: u64,
    /// Between two requests, at most.
    pub(super) pace: u64,
    pub(super) passive: ejection::Rules,
    pub(super) budget: RetryBudget,
    pub(super) cohorts: core::Rules,
    /// Until then there is trouble.
    pub(super) trouble: u64,
    /// And until then nothing more goes wrong.
    pub(super) end: u64,
}

/// So often one request is sent to anybody.
pub(super) const ATTEMPTS: u32 = 3;

impl Plan {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        let story = match rng.random_range(0..8) {
            0..3 => Story::Crowd,
            3..6 => Story::Siege,
            6 => Story::Upgrade,
            _ => Story::Unrest,
        };
        let quick = story == Story::Crowd;
        let versions = matches!(story, Story::Upgrade | Story::Unrest);
        let longest = SECOND * rng.random_range(20..150);
        let (trouble, end) = match story {
            Story::Crowd => (45_000, 45_000),
            Story::Siege => (300_000, 300_000 + 3 * longest.as_secs() * 1000),
            Story::Upgrade => (600_000, 620_000),
            Story::Unrest => (300_000, 300_000),
        };
        Self {
            story,
            servers: if versions { rng.random_range(2..8) } else { rng.random_range(1..12) },
            proxies: if story == Story::Upgrade { 2 } else { rng.random_range(1..4) },
            agents: if versions { 8 } else { 0 },
            even: rng.random_bool(0.4),
            limited: quick && rng.random_bool(0.3),
            balance: Balance::ALL[rng.random_range(0..Balance::ALL.len())],
            sticky: rng.random_bool(0.3),
            zoned: rng.random_bool(0.4),
            slow_start: MS * [0, 5_000, 60_000][rng.random_range(0..3)],
            panic: [0.0, 0.3, 0.5, 1.0][rng.random_range(0..4)],
            rise: if versions { 2 } else { rng.random_range(1..4) },
            fall: if versions { 3 } else { rng.random_range(1..5) },
            interval: if quick { 200 } else { 2000 },
            pace: if quick { 60 } else { 800 },
            passive: ejection::Rules {
                failures: rng.random_range(2..6),
                ratio: 0.5,
                requests: 20,
                window: 10 * SECOND,
                first: MS * rng.random_range(500..5000),
                longest,
                most: [0.0, 0.1, 0.34, 0.5, 1.0][rng.random_range(0..5)],
            },
            // Small ones, so that they are spent.
            budget: RetryBudget {
                ratio: [0.0, 0.02, 0.2][rng.random_range(0..3)],
                min: rng.random_range(0..3),
            },
            cohorts: core::Rules { quorum: 0.5, settle: 60 * SECOND, fallback: 30 * SECOND },
            trouble,
            end,
        }
    }
}
