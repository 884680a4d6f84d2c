//! Who is next among the eligible. Pure: weight, load, turn, time and chance come in as numbers, a place comes out.
//!
//! A choice is made among a slice of [`Entry`]s. None of them keeps anything between two choices: the turn is a number
//! that the caller counts up, so threads and proxies need no lock, and the slice may be another one each time.

pub mod ejection;
pub mod retry_budget;
mod weight;
mod slow_start;
mod zone;
mod round_robin;
mod two_choices;
mod least_requests;
mod peak_ewma;
mod hash;
mod bounded_hash;

pub use bounded_hash::{BOUND, FLOOR, Hashed, bounded_hash, first, has_room};
pub use hash::{hash, mix};
pub use least_requests::least_requests;
pub use peak_ewma::{Latency, PeakEwma, peak_ewma};
pub use round_robin::round_robin;
pub use slow_start::{LEAST_SHARE, slow_start};
pub use weight::Weight;
pub use zone::{SPARE, stays};

/// One of those that a choice is among.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// Its part of the whole.
    pub weight: Weight,
    /// Requests under way.
    pub load: u64,
    /// How fast it answers; read by [`peak_ewma()`] alone.
    pub latency: Latency,
    /// Stands for it in hashes: the same wherever it has the same name.
    pub seed: u64,
}

impl Entry {
    /// One of weight 1 with so many requests under way.
    pub fn plain(seed: u64, load: u64) -> Self {
        Self { weight: Weight::of(1), load, latency: Latency::UNKNOWN, seed }
    }
}

/// Whether all have the same weight, so that nobody has to reckon with it.
fn even(entries: &[Entry]) -> bool {
    entries.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight))
}

fn total_weight(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.weight.get()).sum()
}
