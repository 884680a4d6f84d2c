//! What this controller can do right now, learned from real calls to the store and a cheap periodic probe.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::standing::Findings;
use crate::{
    auth::files::Files,
    clock,
    http::Readiness,
    store::{StoreError, TxnAnswer},
    wire::ready::{Ready, SUPPORTS_IDEMPOTENCY},
};

/// So many failed calls in a row, without one that succeeded, and the store counts as out of reach: one may be a
/// connection that was just closed.
const DOWN_AFTER: u32 = 2;

/// What `/readyz` says. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    loaded: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    down: Option<(Instant, String)>,
    cache_behind: Option<String>,
    held_nodes: usize,
    unreadable: usize,
    store: Findings,
    /// Why the store took no write, the last time.
    full: Option<String>,
    files: Option<Files>,
}

impl Health {
    /// Whether the cache was loaded once. Before that everything but `/livez` answers 503.
    pub fn loaded(&self) -> bool {
        self.inner.loaded.load(Ordering::Acquire)
    }

    /// Whether the store answers, as far as is known.
    pub fn store_reachable(&self) -> bool {
        self.with(|state| state.down.is_none())
    }

    /// Why the store is out of reach, if it is.
    pub fn store_down(&self) -> Option<String> {
        self.with(|state| state.down.as_ref().map(|(_, why)| why.clone()))
    }

    pub(super) fn set_loaded(&self) {
        self.inner.loaded.store(true, Ordering::Release);
    }

    pub(super) fn set_unloaded(&self) {
        self.inner.loaded.store(false, Ordering::Release);
    }

    /// Learns from a call to the store.
    pub(super) fn note<T>(&self, result: &Result<T, StoreError>) {
        self.with(|state| match result {
            Err(StoreError::Unavailable { why } | StoreError::Unknown { why }) => {
                state.failures = state.failures.saturating_add(1);
                if state.failures >= DOWN_AFTER && state.down.is_none() {
                    tracing::warn!(error = %why, "store is out of reach");
                    state.down = Some((clock::now(), why.clone()));
                }
            }
            // A refusal is an answer too.
            Ok(_) | Err(_) => {
                state.failures = 0;
                if state.down.take().is_some() {
                    tracing::info!("store answers again");
                }
            }
        });
    }

    /// Learns from a write of the store. A store without room answers, and takes no write.
    pub(super) fn note_write(&self, result: &Result<TxnAnswer, StoreError>) {
        self.with(|state| match result {
            Err(StoreError::Full { why }) => {
                if state.full.replace(why.clone()).is_none() {
                    tracing::error!(error = %why, "store takes no writes: it has no room");
                }
            }
            Ok(answer) if answer.succeeded => {
                if state.full.take().is_some() {
                    tracing::info!("store takes writes again");
                }
            }
            Ok(_) | Err(_) => {}
        });
    }

    /// Whether the store took no write, the last time.
    pub(super) fn store_full(&self) -> bool {
        self.with(|state| state.full.is_some())
    }

    pub(super) fn set_cache(&self, behind: Option<String>) {
        self.with(|state| state.cache_behind = behind);
    }

    /// Whether the cache follows the store.
    pub(super) fn cache_live(&self) -> bool {
        self.loaded() && self.with(|state| state.cache_behind.is_none())
    }

    pub(super) fn set_held_nodes(&self, count: usize) {
        self.with(|state| state.held_nodes = count);
    }

    pub(super) fn set_unreadable(&self, count: usize) {
        self.with(|state| state.unreadable = count);
    }

    /// The certificates that it has in use.
    pub(super) fn set_files(&self, files: Files) {
        self.with(|state| state.files = Some(files));
    }

    /// What was found about the store's members.
    pub(super) fn set_store(&self, found: Findings) {
        self.with(|state| state.store = found);
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.inner.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Readiness for Health {
    fn ready(&self) -> Ready {
        let loaded = self.loaded();
        self.with(|state| {
            let mut why = Vec::new();
            if !loaded {
                why.push("the cache is not loaded".to_owned());
            }
            if let Some((since, text)) = &state.down {
                let seconds = clock::now().duration_since(*since).max(Duration::from_secs(1)).as_secs();
                why.push(format!("store: {text}, for {seconds} s"));
            }
            if let Some(text) = &state.cache_behind {
                why.push(format!("cache: {text}"));
            }
            if state.held_nodes > 0 {
                why.push(format!(
                    "{} nodes fell silent at once; nothing of theirs is failed until they return, are deleted \
                     (`DELETE /api/v1/node`) or are confirmed to be gone \
                     (`POST /switchyard/v1/nodes/confirm-absence`)",
                    state.held_nodes
                ));
            }
            if state.unreadable > 0 {
                why.push(format!("{} records cannot be read and are left alone", state.unreadable));
            }
            if let Some(text) = &state.full {
                why.push(format!("store: it takes no writes: {text}; make room where it is kept"));
            }
            why.extend(state.store.why.iter().cloned());
            why.extend(state.files.iter().flat_map(Files::why));
            // Nobody is helped by a write that the store will refuse.
            let write = loaded && state.down.is_none() && !state.store.full && state.full.is_none();
            Ready {
                ready: loaded,
                read: Some(loaded),
                write: Some(write),
                poll: Some(write),
                why,
                version: Some(crate::model::full_version()),
                supports: vec![SUPPORTS_IDEMPOTENCY.to_owned()],
                ..Ready::default()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> Result<(), StoreError> {
        Err(StoreError::Unavailable { why: "no leader".into() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_out_of_reach_takes_writes_and_polls_but_not_reads() {
        let health = Health::default();
        assert!(!health.ready().ready);
        health.set_loaded();
        assert_eq!(health.ready().write, Some(true));
        health.note(&down());
        assert_eq!(health.ready().write, Some(true), "one lost call is not an outage");
        health.note(&down());
        tokio::time::advance(Duration::from_secs(12)).await;
        let ready = health.ready();
        assert_eq!(
            (ready.ready, ready.read, ready.write, ready.poll),
            (true, Some(true), Some(false), Some(false))
        );
        assert_eq!(ready.why, ["store: no leader, for 12 s"]);
        health.note(&Ok(()));
        assert_eq!(health.ready().write, Some(true));
    }

    #[test]
    fn a_store_without_room_takes_no_writes_until_it_took_one() {
        let health = Health::default();
        health.set_loaded();
        let full = Err(StoreError::Full { why: "no space left on device".into() });
        health.note(&full);
        health.note_write(&full);
        let ready = health.ready();
        assert!(ready.ready && ready.read == Some(true) && health.store_reachable());
        assert_eq!((ready.write, ready.poll), (Some(false), Some(false)));
        assert!(ready.why[0].contains("it takes no writes: no space left on device"), "{ready:?}");
        let answer = |succeeded| Ok(TxnAnswer { succeeded, revision: 1, answers: Vec::new() });
        health.note_write(&answer(false));
        assert!(health.store_full(), "a comparison that failed wrote nothing");
        health.note_write(&answer(true));
        assert_eq!((health.ready().write, health.ready().why.len()), (Some(true), 0));
    }

    #[test]
    fn a_refusal_is_an_answer() {
        let health = Health::default();
        health.set_loaded();
        for _ in 0..5 {
            health.note::<()>(&Err(StoreError::LeaseGone));
        }
        assert!(health.store_reachable());
    }
}
