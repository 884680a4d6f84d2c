//! A pause in taking starts: after one was given back, it would be offered here again at once.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::backoff::Backoff;
use crate::clock;

/// The first pause, and the longest.
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(120);

/// Grows with each start given back in a row.
#[derive(Debug)]
pub(super) struct Pause(Mutex<(Option<Instant>, Backoff)>);

impl Default for Pause {
    fn default() -> Self {
        Self(Mutex::new((None, Backoff::new(FIRST, LONGEST))))
    }
}

impl Pause {
    fn lock(&self) -> MutexGuard<'_, (Option<Instant>, Backoff)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A start was given back.
    pub(super) fn begin(&self) {
        let mut pause = self.lock();
        let length = pause.1.pause(rand::random());
        pause.0 = Some(clock::now() + length);
    }

    /// A start went well.
    pub(super) fn end(&self) {
        let mut pause = self.lock();
        pause.0 = None;
        pause.1.reset();
    }

    /// Whether it is on.
    pub(super) fn holds(&self) -> bool {
        self.until().is_some_and(|until| clock::now() < until)
    }

    /// When it ends.
    pub(super) fn until(&self) -> Option<Instant> {
        self.lock().0
    }
}
