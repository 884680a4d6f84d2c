//! What every handler is given, and what `/readyz` says.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGaugeVec};

use super::{
    content::{Condition, Space, disk::Cleaned, size},
    journal::Journal,
    notes::Notes,
    quota::Quotas,
    repositories::Repositories,
    standing::Standing,
    upkeep::gc::Collector,
    writer::Writes,
};
use crate::{
    auth::files::Files,
    config::registry::Limits,
    http::{BodyRoom, Readiness},
    telemetry::{Metrics, MetricsError, names},
    wire::{ready::Ready, replication::Role},
};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct App {
    /// This registry's name.
    pub(super) name: String,
    /// What it is to the others.
    pub(super) role: Role,
    pub(super) standing: Standing,
    /// Entries of the change log to keep.
    pub(super) log_keep: u64,
    pub(super) repositories: Repositories,
    pub(super) limits: Limits,
    /// Of manifests that are being received.
    pub(super) bodies: BodyRoom,
    pub(super) collector: Collector,
    pub(super) quotas: Quotas,
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
    pub(super) uploads_refused: IntCounterVec,
    pub(super) uploads_expired: IntCounterVec,
    pub(super) free: Gauge,
    pub(super) broken: Gauge,
    pub(super) cleaned: IntGaugeVec,
    pub(super) position: IntGaugeVec,
    pub(super) lag_entries: Gauge,
    pub(super) lag_bytes: Gauge,
    pub(super) lag_seconds: Gauge,
    pub(super) claims: Gauge,
    pub(super) followers: IntGaugeVec,
    pub(super) aside: Gauge,
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
            uploads_refused: all.counters(names::REGISTRY_UPLOADS_REFUSED)?,
            uploads_expired: all.counters(names::REGISTRY_UPLOADS_EXPIRED)?,
            free: all.gauge(names::REGISTRY_FREE)?,
            broken: all.gauge(names::REGISTRY_BROKEN)?,
            cleaned: all.gauges(names::REGISTRY_CLEANED)?,
            position: all.gauges(names::REGISTRY_POSITION)?,
            lag_entries: all.gauge(names::REGISTRY_LAG_ENTRIES)?,
            lag_bytes: all.gauge(names::REGISTRY_LAG_BYTES)?,
            lag_seconds: all.gauge(names::REGISTRY_LAG_SECONDS)?,
            claims: all.gauge(names::REGISTRY_CLAIMS)?,
            followers: all.gauges(names::REGISTRY_FOLLOWERS)?,
            aside: all.gauge(names::REGISTRY_ASIDE)?,
            all,
        })
    }
}

impl RegistryMetrics {
    /// What the start removed.
    pub(super) fn removed(&self, cleaned: Cleaned) {
        let Cleaned { files, uploads, fills } = cleaned;
        for (what, count) in [("file", files), ("upload", uploads), ("fill", fills)] {
            self.cleaned.with_label_values(&[what]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

impl App {
    /// Everything, in Prometheus' text format. What is a state rather than an event is read off at each scrape.
    pub(super) fn metrics_text(&self) -> String {
        let state = self.standing.state(self);
        let metrics = &self.metrics;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let at = self.repositories.journal().at().position;
        metrics.position.with_label_values(&["epoch"]).set(number(at.epoch));
        metrics.position.with_label_values(&["seq"]).set(number(at.seq));
        metrics.lag_entries.set(state.lag.entries as f64);
        metrics.lag_bytes.set(state.lag.bytes as f64);
        metrics.lag_seconds.set(state.lag.seconds);
        metrics.claims.set(if state.position.is_some() { 1.0 } else { 0.0 });
        for kind in ["proxy", "replica"] {
            let count = state.followers.iter().filter(|follower| follower.kind == kind).count();
            metrics.followers.with_label_values(&[kind]).set(number(count as u64));
        }
        metrics.aside.set(state.aside.len() as f64);
        metrics.all.text()
    }
}

/// What the upkeep loop saw last, and what the journal says. A probe reads it and waits for nothing.
pub(super) struct Health {
    name: String,
    reserve: u64,
    seen: Mutex<(Result<Space, String>, Condition)>,
    journal: Journal,
    /// What the upkeep found.
    notes: Notes,
    /// The certificates that it has in use.
    files: Files,
}

impl Health {
    pub(super) fn new(
        name: String,
        reserve: u64,
        first: (Result<Space, String>, Condition),
        journal: Journal,
        (notes, files): (Notes, Files),
    ) -> Self {
        Self { name, reserve, seen: Mutex::new(first), journal, notes, files }
    }

    pub(super) fn saw(&self, space: Result<Space, String>, condition: Condition) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = (space, condition);
    }
}

impl Health {
    /// Why no position is claimed.
    pub(super) fn unclaimed(&self) -> String {
        let why = self.journal.at().claim.unknown().map(str::to_owned);
        why.unwrap_or_else(|| "it has not heard of its writer since its start".into())
    }

    /// What this registry can do, and each thing that is wrong. That a replica takes no writes is not.
    pub(super) fn can(&self) -> Can {
        let (space, condition) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut can = disk(&space, self.reserve);
        can.read &= condition.read.is_none();
        can.write &= condition.write.is_none();
        let mut why: Vec<String> = condition.read.into_iter().chain(condition.write).collect();
        why.dedup();
        // What the space already says need not be said again.
        if can.why.is_empty() {
            can.why = why;
        }
        if let Some(why) = self.journal.at().claim.unknown() {
            can.read = false;
            can.why.push(why.to_owned());
        }
        match self.journal.writer().writes() {
            Writes::Taken => {}
            Writes::Never(_) => can.write = false,
            Writes::NotNow(why) => {
                can.write = false;
                can.why.push(why);
            }
        }
        can.why.extend(self.notes.all());
        can
    }
}

impl Readiness for Health {
    fn ready(&self) -> Ready {
        let Can { read, write, mut why } = self.can();
        if let Writes::Never(never) = self.journal.writer().writes() {
            why.push(never);
        }
        why.extend(self.files.why());
        Ready {
            ready: read || write,
            read: Some(read),
            write: Some(write),
            why,
            name: Some(self.name.clone()),
            ..Ready::default()
        }
    }
}

/// What a registry can do.
pub(super) struct Can {
    pub(super) read: bool,
    pub(super) write: bool,
    /// One sentence for each thing that is wrong.
    pub(super) why: Vec<String>,
}

/// What the free space allows.
fn disk(seen: &Result<Space, String>, reserve: u64) -> Can {
    match seen {
        Err(why) => Can { read: false, write: false, why: vec![why.clone()] },
        Ok(space) if space.free < reserve => {
            let why = format!("{} free < {}", size(space.free), size(reserve));
            Can { read: true, write: false, why: vec![why] }
        }
        Ok(_) => Can { read: true, write: true, why: Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_space_takes_writes_away_and_says_how_little() {
        let gib = 1024 * 1024 * 1024;
        let little = disk(&Ok(Space { free: 21 * gib / 10, total: 100 * gib }), 50 * gib);
        assert_eq!((little.read, little.write), (true, false));
        assert_eq!(little.why, ["2.1 GiB free < 50.0 GiB"]);
        assert!(disk(&Ok(Space { free: 60 * gib, total: 100 * gib }), 50 * gib).write);
        assert!(!disk(&Err("disk gone".into()), 50 * gib).read);
    }
}
