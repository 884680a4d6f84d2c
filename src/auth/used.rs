//! Secrets that were shown at this server: none is good twice. Bounded; time is an argument.

use std::collections::{HashSet, VecDeque};

use super::seal::Nonce;

/// Most that are remembered: a thousand handshakes a second, as long as a secret is good. More: the oldest is forgotten,
/// and would be good once more if somebody had read it on its way.
const MOST: usize = 180_000;

/// What was shown, and until when that matters.
#[derive(Debug, Default)]
pub(super) struct Used {
    known: HashSet<Nonce>,
    order: VecDeque<(u64, Nonce)>,
}

impl Used {
    /// Notes that this one is shown at `now` and would be good until `until`; tells whether it is the first time.
    pub(super) fn first(&mut self, nonce: Nonce, until: u64, now: u64) -> bool {
        while self.order.front().is_some_and(|(until, _)| *until < now) || self.order.len() >= MOST {
            let Some((_, old)) = self.order.pop_front() else { break };
            self.known.remove(&old);
        }
        let first = self.known.insert(nonce);
        if first {
            self.order.push_back((until, nonce));
        }
        debug_assert_eq!(self.known.len(), self.order.len(), "each is in both");
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_good_once_and_forgotten_when_it_would_be_late_anyway() {
        let mut used = Used::default();
        assert!(used.first([1; 8], 180, 0));
        assert!(!used.first([1; 8], 180, 0));
        assert!(!used.first([1; 8], 180, 180));
        assert!(used.first([2; 8], 400, 181));
        assert_eq!(used.order.len(), 1);
    }

    #[test]
    fn there_are_never_more_than_it_has_room_for() {
        let mut used = Used::default();
        for number in 0..MOST as u64 + 10 {
            assert!(used.first(number.to_be_bytes(), 180, 0));
        }
        assert_eq!(used.order.len(), MOST);
        assert!(!used.first((MOST as u64).to_be_bytes(), 180, 0), "the newest are known");
        assert!(used.first(0u64.to_be_bytes(), 180, 0), "the oldest is forgotten");
    }
}
