//! Reads every blob from time to time, at a bounded rate, and takes out of use what is bad.
//!
//! A bad blob is quarantined here alone: who asks for it is told that it is not here, as other registries are, and they
//! have it. Where this registry names others, it is fetched from them again. How far a pass has come is noted in the log
//! file, so that restarts do not keep the last blobs from ever being read. Of registries that share a directory one reads it for
//! all, and notes there how far it has come, for whoever goes on.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use prometheus::{Gauge, IntCounter, IntCounterVec};
use serde::{Deserialize, Serialize};

use super::examine::{Fault, Pace, examine};
use crate::{
    clock,
    config::registry::Scrub as Config,
    model::Digest,
    registry::{
        content::{Content, ContentError, Duty, Lease, SILENCE, trash::PARTS},
        journal::JournalError,
        log::Log,
        notes::Notes,
        replicate::fetch::FetchHandle,
        repositories::{Repositories, needs},
    },
    supervise::Stop,
    telemetry::{Metrics, MetricsError, chain, names},
    wire::replication::BlobRef,
};

/// The part of the upkeep, in notes of the log and in what it says.
const PART: &str = "scrub";

/// Parts after which it is noted how far the pass has come.
const NOTED: u16 = 16;

/// Tags that are named for a bad blob.
const TAGS: usize = 10;

/// After a storage that failed, and between two looks at what is still missing.
const AGAIN: Duration = Duration::from_secs(60);

/// Nothing is read in the first moments: a start has enough to do.
const FIRST: Duration = Duration::from_secs(30);

/// Reads, and has repaired. A clone shares everything.
#[derive(Clone)]
pub struct Scrubber {
    repositories: Repositories,
    config: Config,
    notes: Notes,
    healer: Option<FetchHandle>,
    counts: Arc<Counts>,
}

struct Counts {
    bytes: IntCounter,
    bad: IntCounterVec,
    repaired: IntCounter,
    missing: Gauge,
    missing_bytes: Gauge,
    last: Gauge,
}

/// How far a pass has come.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Cursor {
    /// Unix seconds at which the pass began.
    began: i64,
    /// The next part; [`PARTS`] when it is over.
    part: u16,
}

/// A blob that is out of use and needed.
struct Bad {
    size: u64,
    needed_by: Vec<String>,
}

impl Scrubber {
    /// Over these repositories; `healer` fetches from other registries, if there are any.
    pub fn new(
        repositories: Repositories,
        config: Config,
        notes: Notes,
        healer: Option<FetchHandle>,
        metrics: &Metrics,
    ) -> Result<Self, MetricsError> {
        let counter = |name| metrics.counters(name).map(|made| made.with_label_values(&[] as &[&str]));
        let counts = Counts {
            bytes: counter(names::REGISTRY_SCRUBBED)?,
            bad: metrics.counters(names::REGISTRY_SCRUB_BAD)?,
            repaired: counter(names::REGISTRY_SCRUB_REPAIRED)?,
            missing: metrics.gauge(names::REGISTRY_QUARANTINED)?,
            missing_bytes: metrics.gauge(names::REGISTRY_MISSING)?,
            last: metrics.gauge(names::REGISTRY_SCRUB_LAST)?,
        };
        Ok(Self { repositories, config, notes, healer, counts: Arc::new(counts) })
    }

    /// Reads and repairs until stopped.
    pub async fn run(self, stop: Stop) -> Result<(), Infallible> {
        let first = FIRST.min(self.config.every);
        tokio::select! {
            () = stop.requested() => {}
            // Both may be cut off anywhere: what they do is done by single steps of the storage.
            () = async {
                tokio::time::sleep(first).await;
                tokio::join!(self.passes(), self.repairs());
            } => {}
        }
        Ok(())
    }

    fn content(&self) -> &dyn Content {
        self.repositories.content()
    }

    /// As long as this registry is the one that reads.
    async fn passes(&self) {
        loop {
            match self.content().lease(Duty::Scrub, SILENCE).await {
                Ok(Some(lease)) => tokio::select! {
                    () = self.passes_under(lease.as_ref()) => {}
                    lost = lease.keep() => tracing::info!(error = %lost, "storage is scrubbed no more"),
                },
                Ok(None) => {}
                Err(error) => tracing::debug!(error = %chain(&error), "storage is not scrubbed yet"),
            }
            tokio::time::sleep(AGAIN.min(self.config.every)).await;
        }
    }

    async fn passes_under(&self, lease: &dyn Lease) {
        let mut cursor = self.cursor(lease).await;
        loop {
            let now = clock::wall().unix_seconds();
            let due =
                cursor.began.saturating_add(i64::try_from(self.config.every.as_secs()).unwrap_or(i64::MAX));
            if cursor.part >= PARTS && now < due {
                let wait = Duration::from_secs(u64::try_from(due - now).unwrap_or(0));
                tokio::time::sleep(wait.min(self.config.every)).await;
            }
            if cursor.part >= PARTS {
                cursor = Cursor { began: clock::wall().unix_seconds(), part: 0 };
            }
            match self.part(cursor.part).await {
                Ok(()) => cursor.part += 1,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "storage could not be scrubbed");
                    tokio::time::sleep(AGAIN).await;
                }
            }
            if cursor.part >= PARTS {
                self.counts.last.set(clock::wall().unix_seconds() as f64);
                tracing::info!("storage scrubbed");
            }
            if cursor.part % NOTED == 0 {
                self.note(lease, cursor).await;
            }
        }
    }

    async fn part(&self, part: u16) -> Result<(), ContentError> {
        let pace = std::sync::Mutex::new(Pace::new(self.config.rate));
        let began = clock::now();
        for blob in self.content().stored(part).await? {
            let paced = |bytes| {
                self.counts.bytes.inc_by(bytes);
                let mut pace = pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                tokio::time::sleep(pace.read(bytes, clock::now() - began))
            };
            match examine(self.content(), &blob.digest, paced).await? {
                None => {}
                Some(Fault::List(list)) => {
                    tracing::error!(blob = %blob.digest, "chunk list was missing or wrong, and is written anew");
                    self.counts.bad.with_label_values(&["list"]).inc();
                    self.content().relist(&blob.digest, &list).await?;
                }
                Some(Fault::Bytes { why }) => self.bad(&blob.digest, &why, paced).await?,
            }
        }
        Ok(())
    }

    /// Read once more, lest memory or a cable was at fault; then it is taken out of use.
    async fn bad<Wait: Future<Output = ()>>(
        &self,
        blob: &Digest,
        why: &str,
        paced: impl FnMut(u64) -> Wait,
    ) -> Result<(), ContentError> {
        let again = examine(self.content(), blob, paced).await?;
        let Some(Fault::Bytes { .. }) = again else {
            tracing::warn!(%blob, error = %why, "blob was read wrongly, and rightly when it was read again");
            self.counts.bad.with_label_values(&["unsteady"]).inc();
            return Ok(());
        };
        if self.content().quarantine(blob).await? {
            self.counts.bad.with_label_values(&["blob"]).inc();
            tracing::error!(%blob, error = %why, "blob is bad and was quarantined");
        }
        Ok(())
    }

    /// Looks from time to time for what lies in the quarantine and is needed, and fetches it.
    async fn repairs(&self) {
        let mut known: BTreeMap<Digest, Bad> = BTreeMap::new();
        loop {
            match self.missing().await {
                Ok(missing) => {
                    for (blob, _) in known.iter().filter(|(blob, _)| !missing.contains_key(*blob)) {
                        tracing::info!(%blob, "quarantined blob is here again, or nothing needs it any more");
                        self.counts.repaired.inc();
                    }
                    for (blob, bad) in missing.iter().filter(|(blob, _)| !known.contains_key(*blob)) {
                        tracing::error!(%blob, needed_by = ?bad.needed_by, "quarantined blob is needed");
                    }
                    known = missing;
                }
                Err(error) => tracing::debug!(error = %chain(&error), "quarantine was not looked through"),
            }
            self.counts.missing.set(known.len() as f64);
            self.counts.missing_bytes.set(known.values().map(|bad| bad.size as f64).sum());
            self.notes.say(PART, known.iter().map(|(blob, bad)| self.sentence(blob, bad)).collect());
            let pause = AGAIN.min(self.config.every);
            match &self.healer {
                Some(healer) if !known.is_empty() => {
                    let refs: Vec<BlobRef> = known
                        .iter()
                        .map(|(digest, bad)| BlobRef { digest: *digest, size: bad.size, chunks: None })
                        .collect();
                    // In time or late: it goes on by itself, and is looked at again.
                    drop(tokio::time::timeout(pause, healer.need(&refs)).await);
                }
                _ => tokio::time::sleep(pause).await,
            }
        }
    }

    /// What lies in the quarantine, is not here, and is needed.
    async fn missing(&self) -> Result<BTreeMap<Digest, Bad>, ContentError> {
        let mut gone = Vec::new();
        for blob in self.content().quarantined().await? {
            if self.content().find(&blob).await?.is_none() {
                gone.push(blob);
            }
        }
        let mut missing: BTreeMap<Digest, Bad> = BTreeMap::new();
        if gone.is_empty() {
            return Ok(missing);
        }
        for name in self.content().repositories().await? {
            let Ok(Some(catalogue)) = self.content().catalogue(&name).await else { continue };
            let needs = needs::needs(self.content(), &catalogue).await?;
            for blob in &gone {
                let Some(size) = needs.blobs.get(blob) else { continue };
                let bad = missing.entry(*blob).or_insert_with(|| Bad { size: *size, needed_by: Vec::new() });
                let tags = needs::tags_that_need(&catalogue, &needs, blob);
                let tags = tags.iter().map(|tag| format!("{name}:{tag}"));
                let left = TAGS.saturating_sub(bad.needed_by.len());
                bad.needed_by.extend(tags.take(left));
            }
        }
        Ok(missing)
    }

    fn sentence(&self, blob: &Digest, bad: &Bad) -> String {
        let tags = match bad.needed_by.as_slice() {
            [] => "a manifest without a tag".to_owned(),
            tags => tags.join(", "),
        };
        let what = match self.healer {
            Some(_) => "it is fetched from another registry",
            None => "push one of them again",
        };
        format!("blob {blob} was found damaged and is needed by {tags}; {what}")
    }

    async fn cursor(&self, lease: &dyn Lease) -> Cursor {
        // Without one, a pass begins at once.
        if self.content().is_shared() {
            return lease.noted().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        }
        let read = self.repositories.journal().blocking(|log| log.note(PART)).await;
        let read = read.ok().flatten().and_then(|text| serde_json::from_slice(&text).ok());
        read.unwrap_or_default()
    }

    async fn note(&self, lease: &dyn Lease, cursor: Cursor) {
        let Ok(text) = serde_json::to_string(&cursor) else { return };
        let noted = if self.content().is_shared() {
            lease.note(text).await.map_err(JournalError::from)
        } else {
            let journal = self.repositories.journal();
            journal.blocking(move |log: &Log| log.put_note(PART, Some(text.as_bytes()))).await
        };
        if let Err(error) = noted {
            tracing::debug!(error = %chain(&error), "progress of the scrub was not noted");
        }
    }
}
