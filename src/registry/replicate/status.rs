//! How a replica stands: what its loops note, for state, log and metrics.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    clock,
    model::Position,
    wire::replication::{ASIDE_SHOWN, ASIDES_SHOWN, Aside, Lag},
};

/// What the loops have noted.
#[derive(Debug, Default)]
pub struct Status {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The newest position that the followed log told.
    head: Option<Position>,
    /// Entries that were read and are not applied.
    waiting: u64,
    /// Since when something waits.
    behind_since: Option<Duration>,
    /// Why the log cannot be followed; empty while it can.
    following: String,
    /// Why what was read cannot be applied; empty while it can.
    applying: String,
    /// A change did not fit the catalogue: only a snapshot leads on.
    broken: bool,
    asides: Vec<Aside>,
}

impl Status {
    /// The log answered: this is its head.
    pub fn heard(&self, head: Position) {
        let mut inner = self.lock();
        inner.head = Some(head);
        inner.following.clear();
    }

    /// The log cannot be followed. Logged once for each cause.
    pub fn lost(&self, why: String) {
        let mut inner = self.lock();
        if inner.following != why {
            tracing::warn!(error = %why, "log cannot be followed");
            inner.following = why;
        }
    }

    /// Entries were read.
    pub fn read(&self, entries: u64) {
        let mut inner = self.lock();
        inner.waiting += entries;
        inner.behind_since.get_or_insert_with(clock::boot);
    }

    /// Entries were applied.
    pub fn applied(&self, entries: u64) {
        let mut inner = self.lock();
        inner.waiting = inner.waiting.saturating_sub(entries);
        inner.applying.clear();
        if inner.waiting == 0 {
            inner.behind_since = None;
        }
    }

    /// What was read is thrown away and read again.
    pub fn forget(&self) {
        let mut inner = self.lock();
        (inner.waiting, inner.behind_since) = (0, None);
    }

    /// The snapshot is being taken over, or is.
    pub fn catching_up(&self, still: bool) {
        self.lock().behind_since = still.then(clock::boot);
    }

    /// What was read cannot be applied. Logged once for each cause.
    pub fn stuck(&self, why: String) {
        let mut inner = self.lock();
        if inner.applying != why {
            tracing::warn!(error = %why, "change could not be applied yet");
            inner.applying = why;
        }
    }

    /// A change did not fit the catalogue. The next run begins with a snapshot.
    pub fn broken(&self, why: String) {
        self.stuck(why);
        self.lock().broken = true;
    }

    /// Whether one did not fit, since this was last asked.
    pub fn was_broken(&self) -> bool {
        std::mem::take(&mut self.lock().broken)
    }

    /// History was set aside.
    pub fn set_aside(&self, aside: Aside) {
        self.lock().asides.push(aside);
    }

    /// The newest position that the followed log told.
    pub fn head(&self) -> Option<Position> {
        self.lock().head
    }

    /// How far behind from this position, with what is still to fetch.
    pub fn lag(&self, at: Position, bytes: u64) -> Lag {
        let inner = self.lock();
        let since = inner.behind_since.map(|since| clock::boot().saturating_sub(since));
        // Within one reign the numbers tell; over the border of two only what was read does.
        let to_head =
            inner.head.filter(|head| head.epoch == at.epoch).map(|head| head.seq.saturating_sub(at.seq));
        let entries = to_head.unwrap_or(0).max(inner.waiting);
        Lag { entries, bytes, seconds: since.unwrap_or_default().as_secs_f64() }
    }

    /// One sentence for each thing that is wrong.
    pub fn why(&self) -> Vec<String> {
        let inner = self.lock();
        [&inner.following, &inner.applying].into_iter().filter(|why| !why.is_empty()).cloned().collect()
    }

    /// What was set aside: as much as a state may name.
    pub fn asides(&self) -> Vec<Aside> {
        let inner = self.lock();
        let newest = inner.asides.iter().rev().take(ASIDES_SHOWN).rev();
        let short = |aside: &Aside| Aside {
            repositories: aside.repositories.iter().take(ASIDE_SHOWN).cloned().collect(),
            ..aside.clone()
        };
        newest.map(short).collect()
    }

    /// What a panicking holder left is whole at every step.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
