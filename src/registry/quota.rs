//! How much may be stored, in all and by one template: pushes over it are refused before their bytes are taken.
//!
//! In all counts what takes space: every blob once, the trash included. A template counts what its manifests need, each
//! blob once, and what was pushed to it and no manifest names yet. Deleting frees a template's part at once, and the
//! whole when the garbage is gone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::Gauge;
use tokio::time::Instant;

use super::{
    content::{ContentError, size, trash::PARTS},
    notes::Notes,
    repositories::{Parsed, Repositories, RepositoryError, needs},
};
use crate::{
    clock,
    config::registry::Quota,
    model::{Digest, RepositoryName},
    telemetry::{Metrics, MetricsError, names},
};

/// What is stored is counted anew so often; what comes meanwhile is added, what goes is not taken off.
const COUNT_EVERY: Duration = Duration::from_secs(600);

/// A blob that no manifest names counts for its template for so long.
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// Templates that are remembered; more, and another one is counted anew.
const TEMPLATES: usize = 10_000;

/// Cheap to clone.
#[derive(Clone)]
pub struct Quotas {
    repositories: Repositories,
    config: Quota,
    notes: Notes,
    used: Gauge,
    state: Arc<Mutex<State>>,
    /// Held by who counts.
    counting: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    /// Bytes of all blobs; `None` until they were counted.
    stored: Option<u64>,
    counted: Option<Instant>,
    /// Blobs that came while they are being counted, and were not yet in what was.
    arrived: Option<HashMap<Digest, u64>>,
    /// Bytes that running uploads were admitted with.
    promised: u64,
    templates: HashMap<RepositoryName, Used>,
    /// What is nearly used up, and how that is told.
    nearly: BTreeMap<String, String>,
}

/// What one template uses.
#[derive(Clone, Default)]
struct Used {
    generation: u64,
    needed: Arc<BTreeMap<Digest, u64>>,
    pending: BTreeMap<Digest, (u64, Instant)>,
}

impl Used {
    fn bytes(&self) -> u64 {
        let needed = self.needed.values().fold(0u64, |sum, size| sum.saturating_add(*size));
        let pending = self.pending.iter().filter(|(blob, _)| !self.needed.contains_key(*blob));
        pending.fold(needed, |sum, (_, (size, _))| sum.saturating_add(*size))
    }
}

/// What one upload may bring. Dropped, its promise is given back.
pub struct Room {
    /// Bytes that the whole blob may have.
    pub most: u64,
    promised: u64,
    state: Option<Arc<Mutex<State>>>,
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(state) = &self.state {
            let mut state = lock(state);
            state.promised = state.promised.saturating_sub(self.promised);
        }
    }
}

impl Quotas {
    /// Over these repositories.
    pub fn new(
        repositories: Repositories,
        config: Quota,
        notes: Notes,
        metrics: &Metrics,
    ) -> Result<Self, MetricsError> {
        let used = metrics.gauge(names::REGISTRY_QUOTA)?;
        Ok(Self { repositories, config, notes, used, state: Arc::default(), counting: Arc::default() })
    }

    /// Whether a blob of which so many bytes are known to come may be pushed to this repository.
    pub async fn admit(&self, repository: &RepositoryName, bytes: u64) -> Result<Room, RepositoryError> {
        if self.config.total.is_none() && self.config.template.is_none() {
            return Ok(Room { most: u64::MAX, promised: 0, state: None });
        }
        let mut most = u64::MAX;
        if let Some(limit) = self.config.template {
            let used = self.of_template(repository).await?.bytes();
            most = left(&format!("`{repository}`"), used, bytes, limit)?;
        }
        // Later it is counted beside the pushes, which go by what was counted before.
        let never = lock(&self.state).stored.is_none();
        if never {
            self.count_if_due().await?;
        }
        let mut state = lock(&self.state);
        if let (Some(limit), Some(stored)) = (self.config.total, state.stored) {
            let used = stored.saturating_add(state.promised);
            most = most.min(left("this registry", used, bytes, limit)?);
        }
        state.promised = state.promised.saturating_add(bytes);
        drop(state);
        Ok(Room { most, promised: bytes, state: Some(self.state.clone()) })
    }

    /// As a push is told that brought more than it may.
    pub fn over(&self, repository: &RepositoryName) -> RepositoryError {
        let limits = [("this registry", self.config.total), (repository.as_str(), self.config.template)];
        let quotas = limits.iter().filter_map(|(what, limit)| Some(format!("{what}: {}", size((*limit)?))));
        RepositoryError::Bound {
            what: format!("the push is over a quota ({})", quotas.collect::<Vec<_>>().join(", ")),
        }
    }

    /// Whether a manifest may be pushed: with what it needs, its template may not be over its quota.
    pub async fn admit_manifest(
        &self,
        repository: &RepositoryName,
        manifest: &[u8],
    ) -> Result<(), RepositoryError> {
        let Some(limit) = self.config.template else { return Ok(()) };
        // What is no manifest is refused by whoever takes it.
        let Ok(parsed) = Parsed::read(manifest) else { return Ok(()) };
        let used = self.of_template(repository).await?;
        let known = |blob: &Digest| used.needed.contains_key(blob) || used.pending.contains_key(blob);
        let new: BTreeMap<Digest, u64> = parsed
            .blobs()
            .filter(|blob| !blob.elsewhere && !known(&blob.digest))
            .map(|blob| (blob.digest, blob.size))
            .collect();
        let bytes = new.values().fold(manifest.len() as u64, |sum, size| sum.saturating_add(*size));
        left(&format!("`{repository}`"), used.bytes(), bytes, limit)?;
        // From now on they count as what the manifest needs, or, once that is deleted, not at all.
        if let Some(used) = lock(&self.state).templates.get_mut(repository) {
            used.pending.retain(|pending, _| !parsed.blobs().any(|blob| blob.digest == *pending));
        }
        Ok(())
    }

    /// A blob came to a repository.
    pub fn came(&self, repository: &RepositoryName, blob: Digest, size: u64, new: bool) {
        let mut state = lock(&self.state);
        if let Some(stored) = state.stored.as_mut().filter(|_| new) {
            *stored = stored.saturating_add(size);
        }
        if let Some(arrived) = state.arrived.as_mut().filter(|_| new) {
            arrived.insert(blob, size);
        }
        let of_template = state.templates.get_mut(repository).map(|used| {
            used.pending.insert(blob, (size, clock::now()));
            used.bytes()
        });
        if let (Some(used), Some(limit)) = (of_template, self.config.template) {
            self.tell(&mut state, format!("`{repository}`"), used, limit);
        }
        self.tell_total(&mut state);
    }

    /// Counts what is stored when that is due, and says what is nearly used up. For the upkeep, and before a push.
    pub async fn count_if_due(&self) -> Result<(), ContentError> {
        if self.config.total.is_none() {
            return Ok(());
        }
        // One counts. A push that has nothing to go by waits for it, others do not come here.
        let _counting = self.counting.lock().await;
        let began = clock::now();
        {
            let mut state = lock(&self.state);
            if state.counted.is_some_and(|counted| began - counted < COUNT_EVERY) {
                return Ok(());
            }
            state.arrived = Some(HashMap::new());
        }
        let counted = self.count().await;
        let mut state = lock(&self.state);
        let arrived = state.arrived.take().unwrap_or_default();
        state.stored = Some(arrived.values().fold(counted?, |sum, size| sum.saturating_add(*size)));
        state.counted = Some(began);
        self.tell_total(&mut state);
        Ok(())
    }

    /// Bytes of all blobs, those in the trash included.
    async fn count(&self) -> Result<u64, ContentError> {
        let content = self.repositories.content();
        let mut stored = 0u64;
        for part in 0..PARTS {
            let blobs = content.stored(part).await?;
            stored = blobs.iter().fold(stored, |sum, blob| sum.saturating_add(blob.size));
            if let Some(arrived) = &mut lock(&self.state).arrived {
                arrived.retain(|arrived, _| !blobs.iter().any(|blob| blob.digest == *arrived));
            }
        }
        let discarded = content.discarded().await?;
        stored = discarded.iter().fold(stored, |sum, blob| sum.saturating_add(blob.size));
        Ok(stored)
    }

    async fn of_template(&self, repository: &RepositoryName) -> Result<Used, RepositoryError> {
        let catalogue = self.repositories.content().catalogue(repository).await?;
        let generation = catalogue.as_ref().map_or(0, |catalogue| catalogue.generation);
        let now = clock::now();
        let known = {
            let mut state = lock(&self.state);
            let used = state.templates.entry(repository.clone()).or_default();
            used.pending.retain(|_, (_, came)| now - *came < PENDING);
            used.clone()
        };
        let used = match catalogue {
            Some(catalogue) if generation != known.generation => {
                let needs = needs::needs(self.repositories.content(), &catalogue).await?;
                Used { generation, needed: Arc::new(needs.blobs), pending: known.pending }
            }
            _ => known,
        };
        let mut state = lock(&self.state);
        if state.templates.len() > TEMPLATES
            && let Some(any) = state.templates.keys().find(|name| *name != repository).cloned()
        {
            state.templates.remove(&any);
        }
        let kept = state.templates.entry(repository.clone()).or_default();
        (kept.generation, kept.needed) = (used.generation, used.needed.clone());
        if let Some(limit) = self.config.template {
            self.tell(&mut state, format!("`{repository}`"), used.bytes(), limit);
        }
        Ok(used)
    }

    fn tell_total(&self, state: &mut State) {
        if let (Some(limit), Some(stored)) = (self.config.total, state.stored) {
            self.used.set(stored as f64 / limit.max(1) as f64);
            self.tell(state, "this registry".into(), stored, limit);
        }
    }

    /// Says what is nearly used up: once in the log, and as long as it is so where readiness is told.
    fn tell(&self, state: &mut State, what: String, used: u64, limit: u64) {
        let from = u128::from(limit) * u128::from(self.config.warn) / 100;
        let said = if u128::from(used) >= from {
            let sentence = format!("{what} has {} of its quota of {}", size(used), size(limit));
            if !state.nearly.contains_key(&what) {
                tracing::warn!(quota = %sentence, "quota is nearly used up");
            }
            state.nearly.insert(what, sentence.clone()) != Some(sentence)
        } else {
            state.nearly.remove(&what).is_some()
        };
        if said {
            self.notes.say("quota", state.nearly.values().cloned().collect());
        }
    }
}

/// Bytes that one blob may have, or why it may not come at all.
fn left(what: &str, used: u64, bytes: u64, limit: u64) -> Result<u64, RepositoryError> {
    let left = limit.saturating_sub(used);
    if bytes <= left && left > 0 {
        return Ok(left);
    }
    let (has, of, more) = (size(used), size(limit), size(bytes));
    let what = format!("{what} has {has} of its quota of {of}, and {more} more were to come");
    Err(RepositoryError::Bound { what })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_let_in_and_what_does_not_is_told_why() {
        assert_eq!(left("`a`", 4096, 4096, 8192).unwrap(), 4096);
        assert_eq!(left("`a`", 0, 0, 1).unwrap(), 1);
        let text = left("`a`", 4096, 4097, 8192).unwrap_err().to_string();
        assert!(text.starts_with("`a` has 4.0 KiB of its quota of 8.0 KiB, and 4.0 KiB more"), "{text}");
        assert!(left("`a`", 9000, 0, 8192).is_err(), "and nothing of unknown length");
    }

    #[test]
    fn a_blob_that_is_needed_and_pending_counts_once() {
        let (blob, other) = (Digest::of(b"a"), Digest::of(b"b"));
        let mut used = Used { needed: Arc::new(BTreeMap::from([(blob, 10)])), ..Used::default() };
        used.pending.insert(blob, (10, clock::now()));
        used.pending.insert(other, (5, clock::now()));
        assert_eq!(used.bytes(), 15);
    }
}
