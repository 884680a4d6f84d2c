//! Where a reload finds its config, and the one that was taken last.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::reload::ReloadError;
use crate::{clock, config::proxy::Proxy, model::Timestamp};

/// Reads the config that a reload takes; the error is what `check` says about a bad one.
type Read = dyn Fn() -> Result<Proxy, String> + Send + Sync;

/// Where reloads that are asked for without a config find one.
#[derive(Default)]
pub(super) struct Source {
    read: OnceLock<Box<Read>>,
    /// Two at once must not read and put in turn: the older file could win.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("known", &self.read.get().is_some()).finish()
    }
}

impl Source {
    /// Names it. The first call counts.
    pub(super) fn is(&self, read: impl Fn() -> Result<Proxy, String> + Send + Sync + 'static) {
        // A second source would be a mistake of the caller that harms nobody.
        drop(self.read.set(Box::new(read)));
    }

    /// Held while what is read is put in place.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there now. Blocks while it reads.
    pub(super) fn read(&self) -> Result<Proxy, ReloadRefused> {
        self.read.get().ok_or(ReloadRefused::NoSource)?().map_err(ReloadRefused::Bad)
    }
}

/// Why a reload from the source was not taken. The old config goes on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadRefused {
    /// Standalone makes its config up.
    #[error("this proxy was not started from a file, so there is nothing to read again")]
    NoSource,
    /// Each fault, as `check` says it.
    #[error("{0}")]
    Bad(String),
    /// Valid in itself.
    #[error(transparent)]
    Refused(#[from] ReloadError),
}

/// The config that was taken last.
#[derive(Debug)]
pub(super) struct Taken(Mutex<Which>);

/// One that was taken.
#[derive(Debug, Clone)]
pub(super) struct Which {
    pub(super) config: Arc<Proxy>,
    /// 0 for that of the start.
    pub(super) generation: u64,
    pub(super) since: Timestamp,
}

impl Taken {
    /// That of the start.
    pub(super) fn first(config: &Proxy) -> Self {
        Self(Mutex::new(Which::now(config, 0)))
    }

    /// The next one is in place.
    pub(super) fn put(&self, config: &Proxy, generation: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Which::now(config, generation);
    }

    /// Which it is.
    pub(super) fn which(&self) -> Which {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Which {
    fn now(config: &Proxy, generation: u64) -> Self {
        Self { config: Arc::new(config.clone()), generation, since: clock::wall() }
    }
}
