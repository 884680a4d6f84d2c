//! Which member of the cluster to ask, and how long to be patient. Pure: it is told of time and failures.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The members, by number. All are equal, so there is no way back: whoever answers is kept.
#[derive(Debug)]
pub(super) struct Members {
    count: usize,
    preferred: AtomicUsize,
    /// Since when no member answers anything.
    down_since: Mutex<Option<Instant>>,
}

impl Members {
    /// So many (at least 1), the first choice being `first`: drawn, so that clients spread over the members.
    pub(super) fn new(count: usize, first: usize) -> Self {
        let count = count.max(1);
        Self { count, preferred: AtomicUsize::new(first % count), down_since: Mutex::new(None) }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// All members, the preferred one first.
    pub(super) fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.preferred.load(Ordering::Relaxed), self.count);
        (0..count).map(move |n| (first + n) % count)
    }

    /// This member failed or is slow: others are asked first from now on.
    pub(super) fn avoid(&self, member: usize) {
        // Only if it still is the preferred one: of many requests that it failed, the first one moves on.
        let next = (member + 1) % self.count;
        self.preferred.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed).ok();
    }

    /// A member answered, even if with a refusal: the store is there.
    pub(super) fn answered(&self) {
        *self.down_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// No member could be asked just now. Says whether to try them all again: an election or a restart is
    /// waited for, but once the store has been down for `patience`, callers are told at once.
    pub(super) fn all_failed(&self, now: Instant, patience: Duration) -> bool {
        let mut since = self.down_since.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(*since.get_or_insert(now)) < patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn order(members: &Members) -> Vec<usize> {
        members.order().collect()
    }

    #[test]
    fn a_failing_member_is_asked_last() {
        let members = Members::new(3, 4);
        assert_eq!(order(&members), [1, 2, 0]);
        members.avoid(1);
        assert_eq!(order(&members), [2, 0, 1]);
        members.avoid(1);
        assert_eq!(order(&members), [2, 0, 1], "a second failure of the same member changes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_when_the_store_stays_down_and_begins_anew_when_it_answered() {
        let members = Members::new(1, 0);
        let patience = Duration::from_secs(5);
        let start = clock::now();
        assert!(members.all_failed(start, patience));
        assert!(members.all_failed(start + Duration::from_secs(4), patience));
        assert!(!members.all_failed(start + Duration::from_secs(5), patience));
        members.answered();
        assert!(members.all_failed(start + Duration::from_secs(6), patience));
    }
}
