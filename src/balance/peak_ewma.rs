//! Of two drawn by weight, the one that will have answered sooner: how long it takes, times what waits there already.
//!
//! How long it takes is a mean that follows bad news at once and good news slowly: a slower answer than expected is
//! believed as it is, and forgotten with time. Without any news what is known fades, so one that was slow is asked again.

use std::time::Duration;

use super::{Entry, two_choices::two};

/// Of what was known so long ago a third is left: long enough to ride out a pause of the garbage collector, and short
/// enough to give one that has recovered its part within half a minute.
const FADES: Duration = Duration::from_secs(10);

/// Differences below this are noise of the network, and no reason to prefer one.
const LEAST: f32 = 0.001;

/// What one is taken for that has requests under way and has never answered any: it must not draw a crowd.
const UNPROVEN: f32 = 1.0;

/// Parts of a weight of 1.
const WHOLE: f32 = 1024.0;

/// How fast one answers, as it is known at the moment of a choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// The mean when it was last known, in seconds; below zero if it never was.
    seconds: f32,
    /// How long ago that was, in milliseconds.
    age: u32,
}

impl Latency {
    /// It has not answered yet.
    pub const UNKNOWN: Self = Self { seconds: -1.0, age: 0 };

    /// What is left of the mean now, in seconds; `None` if it was never known.
    pub fn now(self) -> Option<f32> {
        (self.seconds >= 0.0).then(|| self.seconds * fade(self.age))
    }
}

fn fade(age: u32) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "of an age that is long over, nothing is left")]
    (-(age as f32) / FADES.as_millis() as f32).exp()
}

/// The mean of one upstream, in one word that threads can swap. Times are milliseconds since any moment, and may wrap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeakEwma {
    seconds: f32,
    at: u32,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self { seconds: Latency::UNKNOWN.seconds, at: 0 }
    }
}

impl PeakEwma {
    /// Takes in that an answer took so long.
    #[must_use]
    pub fn observe(self, took: Duration, at: u32) -> Self {
        let took = took.as_secs_f32();
        let known = self.latency(at);
        let seconds = match known.now() {
            None => took,
            // Bad news are believed at once.
            Some(mean) if took >= mean => took,
            Some(_) => {
                let old = fade(known.age);
                self.seconds * old + took * (1.0 - old)
            }
        };
        // Another thread may have been later: time does not go back.
        let at = if self.seconds >= 0.0 && known.age == 0 { self.at } else { at };
        Self { seconds, at }
    }

    /// What is known at this moment.
    pub fn latency(self, at: u32) -> Latency {
        let age = at.wrapping_sub(self.at);
        // More than half of all there is: it was a moment later.
        Latency { seconds: self.seconds, age: if age > u32::MAX / 2 { 0 } else { age } }
    }

    /// In one word.
    pub fn to_bits(self) -> u64 {
        (u64::from(self.seconds.to_bits()) << 32) | u64::from(self.at)
    }

    /// From that word.
    pub fn from_bits(bits: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "each half is a word of its own")]
        Self { seconds: f32::from_bits((bits >> 32) as u32), at: bits as u32 }
    }
}

/// The chosen place; `None` of none. `draw` is any evenly spread number.
pub fn peak_ewma(entries: &[Entry], draw: u64) -> Option<usize> {
    let (first, second) = two(entries, draw)?;
    Some(if cost(entries.get(second)?) < cost(entries.get(first)?) { second } else { first })
}

fn cost(entry: &Entry) -> f32 {
    let seconds = match entry.latency.now() {
        Some(seconds) => seconds.max(LEAST),
        None if entry.load > 0 => UNPROVEN,
        None => LEAST,
    };
    #[expect(clippy::cast_precision_loss, reason = "compared, not counted")]
    let (load, weight) = (entry.load as f32, entry.weight.get() as f32);
    // With nothing under way it is the time alone; what one drawn by weight has then is its part.
    seconds * (1.0 + load / weight * WHOLE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::mix;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn bad_news_are_believed_at_once_and_good_ones_slowly() {
        let fast = PeakEwma::default().observe(MS * 10, 0);
        let slow = fast.observe(MS * 900, 100);
        assert!(slow.latency(100).now().unwrap() > 0.89);
        let still = slow.observe(MS * 10, 200);
        assert!(still.latency(200).now().unwrap() > 0.8);
        let mut later = still;
        for second in 1..=30 {
            later = later.observe(MS * 10, 200 + second * 1000);
        }
        assert!(later.latency(30_200).now().unwrap() < 0.07);
    }

    #[test]
    fn what_is_known_fades_so_that_one_that_was_slow_is_asked_again() {
        let slow = PeakEwma::default().observe(Duration::from_secs(2), 0);
        assert!(slow.latency(60_000).now().unwrap() < 0.01);
        assert_eq!(PeakEwma::default().latency(5).now(), None);
    }

    #[test]
    fn time_may_wrap_and_threads_may_be_late() {
        let near = PeakEwma::default().observe(MS * 100, u32::MAX - 10);
        assert_eq!(near.latency(10).age, 21);
        assert_eq!(near.latency(u32::MAX - 20).age, 0);
        let late = near.observe(MS * 50, u32::MAX - 20);
        assert_eq!(late.at, near.at);
    }

    #[test]
    fn the_faster_one_is_preferred_until_it_has_more_to_do() {
        let known = |ms: u32, load| Entry {
            latency: PeakEwma::default().observe(MS * ms, 1).latency(1),
            ..Entry::plain(0, load)
        };
        let always = |entries: &[Entry]| -> Vec<usize> {
            let mut seen: Vec<_> = (0..64u64).map(|n| peak_ewma(entries, mix(n)).unwrap()).collect();
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        assert_eq!(always(&[known(10, 0), known(100, 0)]), [0]);
        assert_eq!(always(&[known(10, 30), known(100, 0)]), [1]);
        // One that was never heard of is tried, but not by a crowd.
        assert_eq!(always(&[known(50, 0), Entry::plain(0, 0)]), [1]);
        assert_eq!(always(&[known(50, 3), Entry::plain(0, 1)]), [0]);
        assert_eq!(peak_ewma(&[], 1), None);
    }

    proptest! {
        #[test]
        fn a_mean_is_never_above_the_worst_nor_below_zero(
            took in prop::collection::vec((0u64..5000, 0u32..20_000), 1..40),
        ) {
            let (mut mean, mut at) = (PeakEwma::default(), 1u32);
            let worst = took.iter().map(|(ms, _)| *ms).max().unwrap();
            for (ms, later) in took {
                at += later;
                mean = mean.observe(Duration::from_millis(ms), at);
                let now = mean.latency(at).now().unwrap();
                let most = worst as f32 / 1000.0 + 1e-4;
                prop_assert!((0.0..=most).contains(&now), "{now}");
                prop_assert_eq!(PeakEwma::from_bits(mean.to_bits()), mean);
            }
        }
    }
}
