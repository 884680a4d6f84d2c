//! A run's lease: the keys that end with the process hang on it.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{LeaseId, LeaseState, Store};
use crate::{clock, supervise::Stop};

/// How long a killed process stays a member and a leader. Short, because its duties wait for it; longer than an
/// etcd election, so that one does not cost the membership.
const TTL: Duration = Duration::from_secs(10);

/// Between two tries while the store is out of reach.
const RETRY: Duration = Duration::from_millis(500);

/// A lease and until when it may be counted on, by [`clock::boot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    lease: LeaseId,
    until: Duration,
}

/// Keeps one lease alive. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KeptLease {
    held: Arc<watch::Sender<Option<Held>>>,
}

impl Default for KeptLease {
    fn default() -> Self {
        Self::new()
    }
}

impl KeptLease {
    /// None yet.
    pub fn new() -> Self {
        Self { held: Arc::new(watch::Sender::new(None)) }
    }

    /// The lease, while it may be counted on: from when its last answered renewal was *sent*, its time runs.
    pub fn current(&self) -> Option<LeaseId> {
        self.held.borrow().filter(|held| clock::boot() < held.until).map(|held| held.lease)
    }

    /// Completes when it is another one, or none. Cancel-safe.
    pub async fn changed(&self) {
        let before = self.held.borrow().map(|held| held.lease);
        let mut follow = self.held.subscribe();
        // The sender is ours, so it is there.
        follow.wait_for(|held| held.map(|held| held.lease) != before).await.ok();
    }

    /// Takes a lease and renews it until `stop`, then ends it; takes another when it was lost.
    pub async fn keep(self, store: Arc<dyn Store>, stop: Stop) {
        while !stop.is_requested() {
            let sent = clock::boot();
            match store.lease_grant(TTL.as_secs() as u32).await {
                Ok(lease) => {
                    self.held.send_replace(Some(Held { lease, until: sent + TTL }));
                    self.renew(&*store, lease, &stop).await;
                    self.held.send_replace(None);
                    if stop.is_requested() {
                        // Its keys go at once, so that nobody waits for a controller that has ended.
                        store.lease_revoke(lease).await.ok();
                    }
                }
                Err(error) => {
                    tracing::debug!(error = %error, "lease was not granted");
                    pause(RETRY, &stop).await;
                }
            }
        }
    }

    /// Renews until it is lost or `stop`.
    async fn renew(&self, store: &dyn Store, lease: LeaseId, stop: &Stop) {
        let mut wait = TTL / 3;
        loop {
            pause(wait, stop).await;
            if stop.is_requested() {
                return;
            }
            let sent = clock::boot();
            match store.lease_keep_alive(lease).await {
                Ok(LeaseState::Alive) => {
                    self.held.send_replace(Some(Held { lease, until: sent + TTL }));
                    wait = TTL / 3;
                }
                Ok(LeaseState::Gone) => {
                    tracing::warn!("lease ran out; taking another");
                    return;
                }
                // It may live on in the store for longer than it may be counted on: keep asking.
                Err(error) => {
                    tracing::debug!(error = %error, "lease was not renewed");
                    wait = RETRY;
                }
            }
        }
    }
}

async fn pause(wait: Duration, stop: &Stop) {
    tokio::select! {
        () = stop.requested() => {}
        () = tokio::time::sleep(wait) => {}
    }
}
