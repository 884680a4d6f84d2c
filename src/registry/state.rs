//! What every handler is given, and what `/readyz` says.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{Gauge, IntCounter};

use super::{
    content::{Space, size},
    repositories::Repositories,
};
use crate::{
    config::registry::Limits,
    http::{BodyRoom, Readiness},
    telemetry::{Metrics, MetricsError, names},
    wire::ready::Ready,
};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct App {
    pub(super) repositories: Repositories,
    pub(super) limits: Limits,
    /// Of manifests that are being received.
    pub(super) bodies: BodyRoom,
    pub(super) metrics: RegistryMetrics,
    pub(super) health: Arc<Health>,
}

/// The registry's own metrics.
#[derive(Clone)]
pub(super) struct RegistryMetrics {
    pub(super) all: Metrics,
    pub(super) received: IntCounter,
    pub(super) sent: IntCounter,
    pub(super) manifests: IntCounter,
    pub(super) uploads: Gauge,
    pub(super) free: Gauge,
    pub(super) broken: Gauge,
}

impl RegistryMetrics {
    pub(super) fn new() -> Result<Self, MetricsError> {
        let all = Metrics::new();
        let counter = |name| all.counters(name).map(|made| made.with_label_values(&[] as &[&str]));
        Ok(Self {
            received: counter(names::REGISTRY_RECEIVED)?,
            sent: counter(names::REGISTRY_SENT)?,
            manifests: counter(names::REGISTRY_MANIFESTS)?,
            uploads: all.gauge(names::REGISTRY_UPLOADS)?,
            free: all.gauge(names::REGISTRY_FREE)?,
            broken: all.gauge(names::REGISTRY_BROKEN)?,
            all,
        })
    }
}

/// What the upkeep loop saw last. A probe reads it and waits for nothing.
pub(super) struct Health {
    reserve: u64,
    seen: Mutex<Result<Space, String>>,
}

impl Health {
    pub(super) fn new(reserve: u64, first: Result<Space, String>) -> Self {
        Self { reserve, seen: Mutex::new(first) }
    }

    pub(super) fn saw(&self, space: Result<Space, String>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = space;
    }
}

impl Readiness for Health {
    fn ready(&self) -> Ready {
        let (read, write, why) = match &*self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
            Err(why) => (false, false, vec![why.clone()]),
            Ok(space) if space.free < self.reserve => {
                (true, false, vec![format!("{} free < {}", size(space.free), size(self.reserve))])
            }
            Ok(_) => (true, true, Vec::new()),
        };
        Ready { ready: read || write, read: Some(read), write: Some(write), why, ..Ready::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_space_takes_writes_away_and_says_how_little() {
        let gib = 1024 * 1024 * 1024;
        let health = Health::new(50 * gib, Ok(Space { free: 21 * gib / 10, total: 100 * gib }));
        let ready = health.ready();
        assert_eq!((ready.ready, ready.read, ready.write), (true, Some(true), Some(false)));
        assert_eq!(ready.why, ["2.1 GiB free < 50.0 GiB"]);
        health.saw(Ok(Space { free: 60 * gib, total: 100 * gib }));
        assert_eq!(health.ready().write, Some(true));
        health.saw(Err("disk gone".into()));
        assert!(!health.ready().ready);
    }
}
