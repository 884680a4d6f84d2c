//! One registry that blobs are asked of.

use std::time::Duration;

/// The first rest of a source that failed; each one after it is twice as long.
const FIRST_REST: Duration = Duration::from_millis(250);

/// No rest is longer.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What a chunk may take at first; twice as much each time that it was not enough, so that a slow line is not asked
/// for the same chunk for ever, and one that trickles does not keep a place for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// No chunk may take more than `2^this` times [`PATIENCE`].
const MOST_PATIENCE: u32 = 5;

#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    /// Not asked before then.
    pub(super) rests: Duration,
    /// In a row.
    failures: u32,
    flying: usize,
    /// Ever: ties go to whom was asked less.
    asked: u64,
    slow: u32,
}

impl Source {
    pub(super) fn flying(&self) -> usize {
        self.flying
    }

    /// The least loaded comes first.
    pub(super) fn load(&self) -> (usize, u64) {
        (self.flying, self.asked)
    }

    pub(super) fn patience(&self) -> Duration {
        PATIENCE * (1 << self.slow)
    }

    pub(super) fn asked(&mut self) {
        (self.flying, self.asked) = (self.flying + 1, self.asked + 1);
    }

    pub(super) fn landed(&mut self) {
        self.flying -= 1;
    }

    pub(super) fn grounded(&mut self) {
        self.flying = 0;
    }

    pub(super) fn answered(&mut self) {
        self.failures = 0;
    }

    pub(super) fn arrived(&mut self, took: Duration) {
        self.answered();
        if took * 4 < self.patience() {
            self.slow = self.slow.saturating_sub(1);
        }
    }

    pub(super) fn slow(&mut self) {
        self.slow = (self.slow + 1).min(MOST_PATIENCE);
    }

    /// Tells the rest that begins now. Asks that fail together count once.
    pub(super) fn failed(&mut self, now: Duration) -> Option<Duration> {
        if now < self.rests {
            return None;
        }
        let rest = FIRST_REST.saturating_mul(1 << self.failures.min(16)).min(LONGEST_REST);
        self.failures = self.failures.saturating_add(1);
        self.rests = now + rest;
        Some(rest)
    }
}
