//! The low-water mark of a sender's socket (`SO_RCVLOWAT`): below it the system does not speak up. Pure.
//!
//! A sender that is faster than the thread's turns would wake it for each piece that comes, of 64 KiB or of 1.5; with a
//! mark it is woken for a quarter of a MiB. A sender that is slower must not be made to wait for that: the mark is set
//! only for one that has brought [`PROOF`] within [`PROVED_IN`], and one that stays below it for [`PATIENCE`] is
//! listened to from the first byte on until it has proved itself again. Near the end of the body the mark is what is
//! left of it.

use std::time::Duration;

use tokio::time::Instant;

/// The mark for a fast sender.
const MARK: u64 = 256 * 1024;

/// That much, …
const PROOF: u64 = 1024 * 1024;

/// … in so short a time, makes one: 20 MB/s, with which the mark is reached within 13 ms.
const PROVED_IN: Duration = Duration::from_millis(50);

/// Below its mark for so long, a sender is fast no more. The timers add a tick of theirs at most.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

/// A socket to which nothing was done.
const NONE: u64 = 1;

/// What one sender's mark is, and why.
#[derive(Debug)]
pub(super) struct Mark {
    /// As the system knows it.
    set: u64,
    fast: bool,
    /// Brought since.
    brought: u64,
    since: Option<Instant>,
    /// It has been below its mark since.
    below: Option<Instant>,
}

impl Default for Mark {
    fn default() -> Self {
        Self { set: NONE, fast: false, brought: 0, since: None, below: None }
    }
}

impl Mark {
    /// What it should be with so much left.
    pub(super) fn of(&self, rest: u64) -> u64 {
        if self.fast { rest.clamp(NONE, MARK) } else { NONE }
    }

    /// So much came, `rest` is left; gives the mark if the system is to be told of another one.
    pub(super) fn moved(&mut self, bytes: u64, rest: u64, now: Instant) -> Option<u64> {
        self.below = None;
        if !self.fast {
            let began = *self.since.get_or_insert(now);
            self.brought += bytes;
            if now.saturating_duration_since(began) > PROVED_IN {
                (self.since, self.brought) = (Some(now), bytes);
            }
            self.fast = self.brought >= PROOF;
        }
        let wanted = if rest == 0 { NONE } else { self.of(rest) };
        (std::mem::replace(&mut self.set, wanted) != wanted).then_some(wanted)
    }

    /// Nothing above the mark is there.
    pub(super) fn waits(&mut self, now: Instant) {
        if self.set > NONE {
            self.below.get_or_insert(now);
        }
    }

    /// When there is no more patience.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.below.map(|below| below + PATIENCE)
    }

    /// Whether there is no more patience.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.look_at().is_some_and(|at| at <= now)
    }

    /// The sender has to prove itself anew; gives the mark if the system is to be told of another one.
    pub(super) fn reset(&mut self) -> Option<u64> {
        let before = std::mem::take(self);
        (before.set != NONE).then_some(NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MS: Duration = Duration::from_millis(1);
    const MIB: u64 = 1024 * 1024;

    fn fast(now: Instant) -> Mark {
        let mut mark = Mark::default();
        assert_eq!(mark.moved(MIB, 100 * MIB, now), Some(MARK));
        mark
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_proves_itself_before_it_has_a_mark() {
        let mut now = clock::now();
        let mut mark = Mark::default();
        for _ in 0..100 {
            assert_eq!(mark.moved(MIB / 8, 100 * MIB, now), None, "2.5 MB/s is not fast");
            mark.waits(now);
            assert_eq!(mark.look_at(), None, "without a mark every byte is heard of");
            now += 51 * MS;
        }
        for _ in 0..7 {
            now += MS;
            assert_eq!(mark.moved(MIB / 8, 100 * MIB, now), None);
        }
        assert_eq!(mark.moved(MIB / 8, 100 * MIB, now + MS), Some(MARK));
        assert_eq!(mark.moved(MIB / 8, 100 * MIB, now + MS), None, "it is told once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_falls_behind_is_listened_to_again() {
        let now = clock::now();
        let mut mark = fast(now);
        mark.waits(now + MS);
        mark.waits(now + 40 * MS);
        assert_eq!(mark.look_at(), Some(now + MS + PATIENCE));
        assert!(!mark.is_late(now + 50 * MS));
        assert!(mark.is_late(now + 51 * MS));
        assert_eq!(mark.reset(), Some(NONE));
        assert_eq!(mark.reset(), None);
        assert_eq!(mark.moved(MARK, 9 * MIB, now + 60 * MS), None, "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn the_mark_is_never_above_what_is_left() {
        let now = clock::now();
        let mut mark = fast(now);
        assert_eq!(mark.of(MARK + 1), MARK);
        assert_eq!(mark.moved(MIB, 1000, now), Some(1000));
        assert_eq!(mark.moved(999, 1, now), Some(1));
        assert_eq!(mark.moved(1, 0, now), None, "the next request finds the socket as it was");
        let mut mark = fast(now);
        assert_eq!(mark.moved(MIB, 0, now), Some(NONE));
    }
}
