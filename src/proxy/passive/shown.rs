//! Where an upstream stands, as every request of every thread reads it: a few words, written only when that changes.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{balance::ejection::Standing, proxy::choose::Out};

/// For so long after an ejection its trial is a request that may be sent again elsewhere, so that nobody sees it fail;
/// after that any request will do.
const PICKY: Duration = Duration::from_secs(10);

/// Of one upstream. Moments are milliseconds since `base`, and 0 is none.
#[derive(Debug)]
pub struct Shown {
    base: Instant,
    /// It is out, and the next request may be sent there from then on.
    next: AtomicU64,
    /// Its ejection is over then.
    until: AtomicU64,
    /// It came back then.
    back: AtomicU64,
    /// The pool wants to hear of answers too: something failed since the last one, or it is out.
    troubled: AtomicBool,
}

impl Shown {
    /// Of one that is in.
    pub fn new(base: Instant) -> Self {
        Self {
            base,
            next: AtomicU64::new(0),
            until: AtomicU64::new(0),
            back: AtomicU64::new(0),
            troubled: AtomicBool::new(false),
        }
    }

    /// What it is to a request that may be sent again, or may not.
    pub fn now(&self, now: Instant, repeatable: bool) -> Out {
        let next = self.next.load(Ordering::Relaxed);
        if next == 0 {
            return Out::In;
        }
        let open = self.until.load(Ordering::Relaxed).saturating_add(millis(PICKY));
        let now = self.millis(now);
        if now >= next && (repeatable || now >= open) { Out::Trial } else { Out::Ejected }
    }

    /// When it last came back from an ejection.
    pub fn back(&self) -> Option<Instant> {
        match self.back.load(Ordering::Relaxed) {
            0 => None,
            back => Some(self.base + Duration::from_millis(back)),
        }
    }

    /// Whether it is ejected, or waits for its trial.
    pub fn is_out(&self) -> bool {
        self.next.load(Ordering::Relaxed) != 0
    }

    /// Whether the pool wants to hear of answers too.
    pub(super) fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
    }

    pub(super) fn show(&self, standing: &Standing) {
        let (next, until, back, troubled) = match standing {
            Standing::Out(out) => (self.millis(out.next), self.millis(out.until), None, true),
            Standing::In { back, failures, .. } => (0, 0, *back, *failures > 0),
        };
        self.until.store(until, Ordering::Relaxed);
        self.next.store(next, Ordering::Relaxed);
        if let Some(back) = back {
            self.back.store(self.millis(back), Ordering::Relaxed);
        }
        self.troubled.store(troubled, Ordering::Relaxed);
    }

    /// Never too early, and never 0.
    fn millis(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.base)).saturating_add(1)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        balance::ejection::{self, Cause, Count, Failure},
        clock,
    };

    #[test]
    fn a_trial_is_first_one_that_may_be_sent_again() {
        let base = clock::now();
        let shown = Shown::new(base);
        assert_eq!(shown.now(base, false), Out::In);
        let at = |seconds| base + Duration::from_secs(seconds);
        let cause = Cause { count: Count::InARow(5), last: Failure::TimedOut };
        let out = ejection::Out { since: base, until: at(5), next: at(5), times: 1, cause };
        shown.show(&Standing::Out(out));
        assert!(shown.is_troubled());
        assert_eq!(shown.now(at(4), true), Out::Ejected);
        assert_eq!([true, false].map(|repeatable| shown.now(at(6), repeatable)), [Out::Trial, Out::Ejected]);
        assert_eq!(shown.now(at(16), false), Out::Trial);
        // A trial is under way.
        shown.show(&Standing::Out(ejection::Out { next: at(20), ..out }));
        assert_eq!([true, false].map(|repeatable| shown.now(at(16), repeatable)), [Out::Ejected; 2]);
        shown.show(&Standing::In { back: Some(at(17)), failures: 0, times: 1 });
        assert_eq!(shown.now(at(17), false), Out::In);
        assert!(!shown.is_troubled());
        assert!(shown.back().unwrap() - at(17) <= Duration::from_millis(1));
    }
}
