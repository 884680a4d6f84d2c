//! When each lease ends. Kept in memory alone: after a restart every lease has its full time again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use crate::store::{LeaseId, LeaseState};

struct Lease {
    ttl_seconds: u32,
    /// On the clock that runs through suspend.
    ends: Duration,
}

/// All leases of one store. Every method is told what time it is.
#[derive(Default)]
pub(super) struct Leases {
    by_id: Mutex<HashMap<LeaseId, Lease>>,
    /// Wakes whoever waits for the next end: an earlier one may have come.
    pub(super) changed: Notify,
}

/// A lease that was taken out, to be put back if its keys could not be deleted.
pub(super) struct Taken(LeaseId, u32);

impl Leases {
    fn by_id(&self) -> MutexGuard<'_, HashMap<LeaseId, Lease>> {
        // Each change is one call on the map, whole at every step.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on with its full time.
    pub(super) fn begin(&self, id: LeaseId, ttl_seconds: u32, now: Duration) {
        let ends = now + Duration::from_secs(ttl_seconds.into());
        self.by_id().insert(id, Lease { ttl_seconds, ends });
        self.changed.notify_one();
    }

    /// The full time again, unless it is over; `None` when it is over and the keys may still be there.
    pub(super) fn keep_alive(&self, id: LeaseId, now: Duration) -> Option<LeaseState> {
        match self.by_id().get_mut(&id) {
            None => Some(LeaseState::Gone),
            Some(lease) if lease.ends <= now => None,
            Some(lease) => {
                lease.ends = now + Duration::from_secs(lease.ttl_seconds.into());
                Some(LeaseState::Alive)
            }
        }
    }

    /// Takes a lease out before its keys are deleted, so that none is renewed meanwhile.
    pub(super) fn take(&self, id: LeaseId) -> Option<Taken> {
        self.by_id().remove(&id).map(|lease| Taken(id, lease.ttl_seconds))
    }

    /// The same, only if its time is over.
    pub(super) fn take_if_over(&self, id: LeaseId, now: Duration) -> Option<Taken> {
        let mut by_id = self.by_id();
        by_id
            .get(&id)
            .is_some_and(|lease| lease.ends <= now)
            .then(|| by_id.remove(&id))
            .flatten()
            .map(|lease| Taken(id, lease.ttl_seconds))
    }

    /// Its keys could not be deleted: over since `now`, to be tried again.
    pub(super) fn put_back(&self, taken: Taken, now: Duration) {
        self.by_id().insert(taken.0, Lease { ttl_seconds: taken.1, ends: now });
    }

    /// Those whose time is over, and when the next one's will be.
    pub(super) fn over(&self, now: Duration) -> (Vec<LeaseId>, Option<Duration>) {
        let by_id = self.by_id();
        let over = by_id.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        (over, by_id.values().map(|lease| lease.ends).filter(|ends| *ends > now).min())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_when_it_is_not_renewed_and_cannot_be_renewed_after_that() {
        let (leases, id) = (Leases::default(), LeaseId(7));
        let at = Duration::from_secs;
        leases.begin(id, 10, at(100));
        assert_eq!(leases.over(at(109)), (vec![], Some(at(110))));
        assert_eq!(leases.keep_alive(id, at(109)), Some(LeaseState::Alive));
        assert!(leases.take_if_over(id, at(118)).is_none(), "renewed meanwhile");
        assert_eq!(leases.over(at(119)), (vec![id], None));
        assert_eq!(leases.keep_alive(id, at(119)), None);
        let taken = leases.take_if_over(id, at(119)).unwrap();
        assert_eq!(leases.keep_alive(id, at(119)), Some(LeaseState::Gone));
        leases.put_back(taken, at(120));
        assert_eq!(leases.over(at(120)).0, [id], "tried again");
    }
}
