//! Garbage collection: two marks around a trash.
//!
//! ```text
//!   unreferenced, untouched for `grace` ──▶ trash ── after `trash`, references read anew ──▶ deleted
//!                                             └── referenced, or wanted by a push ──▶ back
//! ```
//!
//! Each registry collects for itself, from what its own catalogues say; of those that share a directory one at a time, for all. A push marks every blob that it finds as wanted
//! and takes it out of the trash; once its tag is visible it looks once more, before it is acknowledged. Reads find
//! what is in the trash. So a collection may run beside anything, be cut off anywhere, and go on in another process.

mod collect;
mod mark;
mod offline;

use std::{convert::Infallible, sync::Arc, time::Duration};

use prometheus::{Gauge, IntCounterVec};

pub use collect::{GcError, collect};
pub use mark::Rules;
pub use offline::{OfflineError, offline};

use crate::{
    clock,
    config::registry::Gc,
    model::Digest,
    registry::{content::size, journal::JournalError, log::Log, notes::Notes, repositories::Repositories},
    supervise::Stop,
    telemetry::{Metrics, MetricsError, chain, names},
    wire::{
        replication::Entry,
        upkeep::{Collected, Sum, What},
    },
};

/// The first collection after a start: what clients were about to do when it ended has gone on by then.
const FIRST: Duration = Duration::from_secs(60);

/// Collects, by itself and when asked. Cheap to clone.
#[derive(Clone)]
pub struct Collector {
    repositories: Repositories,
    config: Gc,
    notes: Notes,
    counts: Arc<Counts>,
}

struct Counts {
    runs: IntCounterVec,
    blobs: IntCounterVec,
    bytes: IntCounterVec,
    seconds: Gauge,
    last: Gauge,
    stored: Gauge,
    trash: Gauge,
}

impl Collector {
    /// Over these repositories.
    pub fn new(
        repositories: Repositories,
        config: Gc,
        notes: Notes,
        metrics: &Metrics,
    ) -> Result<Self, MetricsError> {
        let counts = Counts {
            runs: metrics.counters(names::REGISTRY_GC_RUNS)?,
            blobs: metrics.counters(names::REGISTRY_GC_BLOBS)?,
            bytes: metrics.counters(names::REGISTRY_GC_BYTES)?,
            seconds: metrics.gauge(names::REGISTRY_GC_SECONDS)?,
            last: metrics.gauge(names::REGISTRY_GC_LAST)?,
            stored: metrics.gauge(names::REGISTRY_STORED)?,
            trash: metrics.gauge(names::REGISTRY_TRASH)?,
        };
        Ok(Self { repositories, config, notes, counts: Arc::new(counts) })
    }

    /// Collects from time to time until stopped.
    pub async fn run(self, stop: Stop) -> Result<(), Infallible> {
        let mut pause = FIRST.min(self.config.every);
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            pause = self.config.every;
            tokio::select! {
                // Cut off, it has done less, and nothing wrong.
                () = stop.requested() => return Ok(()),
                collected = self.collect_after(false, self.config.every * 3 / 4) => match collected {
                    Ok(Some(_)) => {}
                    Ok(None) => tracing::debug!("another registry collected lately"),
                    Err(GcError::Busy) => tracing::debug!("somebody collects already"),
                    Err(error) => tracing::error!(error = %chain(&error), "garbage was not collected"),
                },
            }
        }
    }

    /// Collects now, or tells what would be collected.
    pub async fn collect(&self, dry_run: bool) -> Result<Collected, GcError> {
        Ok(self.collect_after(dry_run, Duration::ZERO).await?.unwrap_or_default())
    }

    /// Collects, unless another registry of a shared storage did within `pause`.
    async fn collect_after(&self, dry_run: bool, pause: Duration) -> Result<Option<Collected>, GcError> {
        let collected = self.collect_uncounted(dry_run, pause).await;
        if !dry_run {
            self.count(&collected);
        }
        collected
    }

    async fn collect_uncounted(&self, dry_run: bool, pause: Duration) -> Result<Option<Collected>, GcError> {
        let journal = self.repositories.journal();
        if let Some(why) = journal.at().claim.unknown() {
            return Err(GcError::Unknown(why.to_owned()));
        }
        let untagged = if dry_run { 0 } else { self.prune().await };
        let roots = match journal.blocking(Log::unapplied).await {
            Ok(entries) => roots(&entries),
            // Of registries on one storage: what is changed is shown at once.
            Err(JournalError::NoLog) => Vec::new(),
            Err(JournalError::Content(error)) => return Err(error.into()),
            Err(error) => return Err(GcError::Unknown(chain(&error))),
        };
        let rules = Rules { grace: self.config.grace, trash: self.config.trash };
        let collected = collect(self.repositories.content(), &rules, roots, (dry_run, pause)).await?;
        Ok(collected.map(|collected| Collected { untagged, ..collected }))
    }

    /// Removes untagged manifests, if the config says so and this registry may: replicas learn it from their writer.
    async fn prune(&self) -> u64 {
        let Some(age) = self.config.untagged.filter(|_| self.repositories.journal().check_writes().is_ok())
        else {
            return 0;
        };
        let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        let before = clock::wall().unix_seconds().saturating_sub(age);
        let mut gone = 0;
        for name in self.repositories.content().repositories().await.unwrap_or_default() {
            match self.repositories.prune(&name, before).await {
                Ok(count) => gone += count,
                Err(error) => {
                    tracing::warn!(repository = %name, error = %chain(&error), "untagged manifests were not removed");
                }
            }
        }
        gone
    }

    fn count(&self, collected: &Result<Option<Collected>, GcError>) {
        let counts = &self.counts;
        let outcome = match collected {
            Ok(Some(_)) => "done",
            Ok(None) | Err(GcError::Busy) => return,
            Err(GcError::Unknown(_) | GcError::Unsure(_)) => "unknown",
            Err(GcError::Content(_) | GcError::Lost) => "failed",
        };
        counts.runs.with_label_values(&[outcome]).inc();
        let said = match collected {
            Err(error @ GcError::Unknown(_)) => vec![format!("nothing is deleted: {error}")],
            _ => Vec::new(),
        };
        self.notes.say("garbage", said);
        let Ok(Some(done)) = collected else { return };
        for (what, sum) in
            [(What::Discarded, done.discarded), (What::Purged, done.purged), (What::PutBack, done.put_back)]
        {
            counts.blobs.with_label_values(&[what.as_str()]).inc_by(sum.blobs);
            counts.bytes.with_label_values(&[what.as_str()]).inc_by(sum.bytes);
        }
        counts.seconds.set(done.seconds);
        counts.last.set(clock::wall().unix_seconds() as f64);
        counts.stored.set(done.kept.bytes.saturating_add(done.put_back.bytes) as f64);
        counts.trash.set(done.waiting.bytes.saturating_add(done.discarded.bytes) as f64);
        for unread in &done.unread {
            tracing::error!(repository = %unread.repository, manifest = %unread.manifest, error = %unread.why,
                "manifest cannot be read; its repository keeps all that it was given");
        }
        let Collected { discarded, purged, put_back, waiting, taken_away, seconds, .. } = done;
        let quiet = [discarded, purged, put_back].iter().all(|sum| **sum == Sum::default());
        if quiet && *taken_away == 0 {
            tracing::debug!(waiting.blobs, seconds, "there was no garbage");
        } else {
            tracing::info!(
                discarded.blobs,
                discarded.size = size(discarded.bytes),
                purged.blobs,
                purged.size = size(purged.bytes),
                put_back.blobs,
                waiting.blobs,
                taken_away,
                seconds,
                "garbage collected"
            );
        }
    }
}

/// What changes that are in the log and perhaps not shown yet reference; an announced blob is no reference.
pub fn roots(entries: &[Entry]) -> Vec<Digest> {
    let shown = entries.iter().filter_map(|entry| Some((entry, entry.patch.as_ref()?)));
    shown
        .flat_map(|(entry, patch)| {
            let manifests = patch.manifests.iter().filter(|(_, stored)| stored.is_some());
            entry.blobs.iter().map(|blob| blob.digest).chain(manifests.map(|(digest, _)| *digest))
        })
        .collect()
}
