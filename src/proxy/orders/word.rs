//! What requests read of it: one word of each upstream, and one of the service.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::{balance::Weight, wire::orders::What};

/// The upper bit: it is drained. The others: its weight, 0 if nothing was said of that.
const DRAINED: u32 = 1 << 31;

/// What is said of one upstream.
#[derive(Debug, Default)]
pub struct OfUpstream(AtomicU32);

impl OfUpstream {
    /// Whether it takes nothing new.
    pub fn is_drained(&self) -> bool {
        self.0.load(Ordering::Relaxed) & DRAINED != 0
    }

    /// What was said of its weight.
    pub fn weight(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed) & !DRAINED).filter(|weight| *weight != 0)
    }

    /// The weight that it has: what was said, else this one.
    pub fn weight_or(&self, configured: Weight) -> Weight {
        self.weight().map_or(configured, Weight::of)
    }

    pub(super) fn set(&self, what: &[What]) {
        let word = |what: &What| match what {
            What::Drained => DRAINED,
            What::Weight(weight) => (*weight).min(Weight::MOST),
            What::Maintenance(_) => 0,
        };
        self.0.store(what.iter().map(word).fold(0, |all, one| all | one), Ordering::Relaxed);
    }
}

const NOTHING: u8 = 0;
const ON: u8 = 1;
const OFF: u8 = 2;

/// What is said of one service.
#[derive(Debug, Default)]
pub struct OfService(AtomicU8);

impl OfService {
    /// Whether it is in maintenance, if anything was said of that.
    pub fn maintenance(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            ON => Some(true),
            OFF => Some(false),
            _ => None,
        }
    }

    pub(super) fn set(&self, what: &[What]) {
        let word = what.iter().find_map(|what| match what {
            What::Maintenance(on) => Some(if *on { ON } else { OFF }),
            What::Drained | What::Weight(_) => None,
        });
        self.0.store(word.unwrap_or(NOTHING), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_was_said() {
        let word = OfUpstream::default();
        assert_eq!((word.is_drained(), word.weight()), (false, None));
        word.set(&[What::Weight(1000), What::Drained]);
        assert_eq!((word.is_drained(), word.weight()), (true, Some(1000)));
        word.set(&[What::Weight(7)]);
        assert_eq!((word.is_drained(), word.weight_or(Weight::of(1))), (false, Weight::of(7)));
        word.set(&[]);
        assert_eq!((word.is_drained(), word.weight_or(Weight::of(2))), (false, Weight::of(2)));
        let word = OfService::default();
        for said in [Some(true), Some(false), None] {
            word.set(&said.map(What::Maintenance).into_iter().collect::<Vec<_>>());
            assert_eq!(word.maintenance(), said);
        }
    }
}
