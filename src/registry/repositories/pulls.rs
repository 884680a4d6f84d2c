//! When versions were last pulled: counted in memory, written from time to time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{super::content::Pulls, Reference, Repositories, RepositoryError};
use crate::{clock, model::RepositoryName};

#[derive(Default)]
pub(super) struct PullTimes {
    /// What was counted or read of each repository.
    known: Mutex<BTreeMap<RepositoryName, Known>>,
}

#[derive(Default)]
struct Known {
    /// Shared with the lists that are being made: a thousand templates have a hundred times each.
    times: Arc<Pulls>,
    unsaved: bool,
    /// When it was read last; never, if nobody else counts.
    read: Option<tokio::time::Instant>,
}

/// What other registries of a shared storage counted is read so often.
const READ_EVERY: Duration = Duration::from_secs(5);

impl Repositories {
    /// Counts a pull of a manifest: for its tag, or for every tag that points to the digest.
    ///
    /// A failure to read older times is logged; a download never fails for it.
    pub async fn count_pull(&self, repository: &RepositoryName, reference: &Reference) {
        let counted = async {
            let tags: Vec<_> = match reference {
                Reference::Tag(tag) => vec![tag.to_string()],
                Reference::Digest(digest) => {
                    let catalogue = self.catalogue(repository).await?;
                    let at = catalogue.tags.iter().filter(|(_, version)| version.digest == *digest);
                    at.map(|(tag, _)| tag.to_string()).collect()
                }
            };
            if tags.is_empty() {
                return Ok(());
            }
            self.pulls(repository).await?;
            let now = clock::wall().unix_seconds();
            let mut all = self.inner.pulls.known.lock().unwrap_or_else(PoisonError::into_inner);
            let known = all.entry(repository.clone()).or_default();
            Arc::make_mut(&mut known.times).extend(tags.into_iter().map(|tag| (tag, now)));
            known.unsaved = true;
            Ok::<_, RepositoryError>(())
        };
        if let Err(error) = counted.await {
            tracing::warn!(%repository, error = %error, "pull was not counted");
        }
    }

    /// When each version was last pulled.
    pub(super) async fn pulls(&self, repository: &RepositoryName) -> Result<Arc<Pulls>, RepositoryError> {
        let fresh = |known: &&Known| known.read.is_none_or(|at| clock::now() - at < READ_EVERY);
        let known = |all: &BTreeMap<RepositoryName, Known>| {
            all.get(repository).filter(fresh).map(|known| known.times.clone())
        };
        if let Some(times) = known(&self.inner.pulls.known.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(times);
        }
        let read = self.content().pulls(repository).await?;
        let at = self.content().is_shared().then(clock::now);
        let mut all = self.inner.pulls.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(repository.clone()).or_default();
        known.read = at;
        // The later one counts: of what was read, and of what was counted here and is not written yet.
        for (tag, at) in read {
            if known.times.get(&tag).is_none_or(|before| *before < at) {
                Arc::make_mut(&mut known.times).insert(tag, at);
            }
        }
        Ok(known.times.clone())
    }

    /// Writes what was counted since the last time; tags that are gone are forgotten.
    pub async fn save_pulls(&self) {
        let unsaved: Vec<RepositoryName> = {
            let mut all = self.inner.pulls.known.lock().unwrap_or_else(PoisonError::into_inner);
            let unsaved = |(repository, known): (&RepositoryName, &mut Known)| {
                std::mem::take(&mut known.unsaved).then(|| repository.clone())
            };
            all.iter_mut().filter_map(unsaved).collect()
        };
        for repository in unsaved {
            let there: BTreeSet<String> = match self.content().catalogue(&repository).await {
                Ok(Some(catalogue)) => catalogue.tags.keys().map(ToString::to_string).collect(),
                _ => BTreeSet::new(),
            };
            let times = {
                let mut all = self.inner.pulls.known.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(known) = all.get_mut(&repository) else { continue };
                Arc::make_mut(&mut known.times).retain(|tag, _| there.contains(tag));
                known.times.clone()
            };
            if let Err(error) = self.content().save_pulls(&repository, (*times).clone()).await {
                tracing::warn!(%repository, error = %error, "pull times were not saved");
            }
        }
    }
}
