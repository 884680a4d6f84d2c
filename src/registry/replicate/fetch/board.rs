//! What is known of each blob that is wanted: who waits, whom it goes to, its fill, what is in its way.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{Fill, View, meter::Meter};
use crate::{
    config::BaseUrl,
    model::{Digest, RepositoryName},
    registry::{
        content::CHUNK,
        replicate::plan::{self, Plan, Priority},
    },
    wire::replication::{BlobRef, Fetching, Peer},
};

/// Blobs that a [`View`] lists; more are only counted.
pub(super) const SHOWN: usize = 100;

pub(super) struct Board {
    pub(super) plan: Plan,
    /// Those of the plan.
    blobs: HashMap<Digest, Known>,
    /// Repositories that wait for blobs, all together.
    links: usize,
    sources: Vec<Source>,
    needs: u64,
}

struct Known {
    blob: BlobRef,
    /// Waits for it.
    needs: BTreeSet<u64>,
    /// Whom it is given to once it is here.
    links: BTreeSet<RepositoryName>,
    fill: Option<Arc<dyn Fill>>,
    /// When there is no fill: as it last was.
    have: u64,
    why: String,
}

struct Source {
    url: String,
    meter: Meter,
    why: String,
}

impl Board {
    pub(super) fn new(sources: &[BaseUrl]) -> Self {
        let source =
            |url: &BaseUrl| Source { url: url.to_string(), meter: Meter::default(), why: String::new() };
        Self {
            plan: Plan::new(sources.len()),
            blobs: HashMap::new(),
            links: 0,
            sources: sources.iter().map(source).collect(),
            needs: 0,
        }
    }

    /// Nothing is under way: whoever asked was stopped.
    pub(super) fn again(&mut self) {
        self.plan.again();
        self.take_fills();
    }

    /// A number for one wait.
    pub(super) fn next_need(&mut self) -> u64 {
        self.needs += 1;
        self.needs
    }

    pub(super) fn need(&mut self, id: u64, blob: &BlobRef) {
        self.known(blob).needs.insert(id);
        self.want(blob, Priority::Needed);
    }

    pub(super) fn is_needed(&self, id: u64, blob: &Digest) -> bool {
        self.blobs.get(blob).is_some_and(|known| known.needs.contains(&id))
    }

    pub(super) fn need_no_more(&mut self, id: u64, blob: &Digest) {
        if let Some(known) = self.blobs.get_mut(blob)
            && known.needs.remove(&id)
            && known.needs.is_empty()
        {
            self.plan.lower(blob);
        }
    }

    pub(super) fn announce(&mut self, repository: RepositoryName, blob: &BlobRef) {
        let full = self.links >= plan::ANNOUNCED;
        let known = self.known(blob);
        if full {
            tracing::debug!(blob = %blob.digest, %repository, "blob is left to what needs it: too many wait");
        } else if known.links.insert(repository) {
            self.links += 1;
        }
        self.want(blob, Priority::Announced);
    }

    /// The repository is not given this blob any more, should it still be on its way.
    pub(super) fn withdraw(&mut self, repository: &RepositoryName, blob: &Digest) {
        if let Some(known) = self.blobs.get_mut(blob)
            && known.links.remove(repository)
        {
            self.links -= 1;
        }
    }

    fn known(&mut self, blob: &BlobRef) -> &mut Known {
        let known = self.blobs.entry(blob.digest).or_insert_with(|| Known {
            blob: *blob,
            needs: BTreeSet::new(),
            links: BTreeSet::new(),
            fill: None,
            have: 0,
            why: String::new(),
        });
        // Whoever knows the list's digest knows more.
        if blob.chunks.is_some() {
            known.blob = *blob;
        }
        known
    }

    fn want(&mut self, blob: &BlobRef, priority: Priority) {
        if let Some(dropped) = self.plan.want(blob.digest, blob.size > CHUNK, priority) {
            tracing::debug!(blob = %dropped, "announced blob was forgotten: too many wait");
            self.forget(&dropped);
        }
    }

    fn forget(&mut self, blob: &Digest) {
        if let Some(known) = self.blobs.remove(blob) {
            self.links -= known.links.len();
        }
    }

    pub(super) fn of(&self, blob: &Digest) -> (Option<BlobRef>, Option<Arc<dyn Fill>>) {
        let known = self.blobs.get(blob);
        (known.map(|known| known.blob), known.and_then(|known| known.fill.clone()))
    }

    pub(super) fn opened(&mut self, blob: &Digest, fill: Arc<dyn Fill>) {
        if let Some(known) = self.blobs.get_mut(blob) {
            known.have = fill.have();
            known.fill = Some(fill);
        }
    }

    /// The fill that is to be closed, if more are open than should be.
    pub(super) fn close_surplus(&mut self) -> Option<Arc<dyn Fill>> {
        let blob = self.plan.surplus()?;
        self.plan.close(&blob);
        self.blobs.get_mut(&blob)?.close()
    }

    pub(super) fn take_fills(&mut self) -> Vec<Arc<dyn Fill>> {
        self.blobs.values_mut().filter_map(Known::close).collect()
    }

    /// All of it is here: its fill, and whom it goes to.
    pub(super) fn finish(&mut self, blob: &Digest) -> (Option<Arc<dyn Fill>>, BTreeSet<RepositoryName>) {
        let Some(known) = self.blobs.get_mut(blob) else { return (None, BTreeSet::new()) };
        (known.close(), known.links.clone())
    }

    /// It is a blob now, and these have it. Tells whether others wait for it meanwhile: finish it once more.
    pub(super) fn finished(&mut self, blob: &Digest, linked: &BTreeSet<RepositoryName>) -> bool {
        let Some(known) = self.blobs.get_mut(blob) else { return false };
        known.needs.clear();
        let waiting = known.links.len();
        known.links.retain(|repository| !linked.contains(repository));
        self.links -= waiting - known.links.len();
        if !known.links.is_empty() {
            return true;
        }
        self.plan.finished(blob);
        self.forget(blob);
        false
    }

    /// What is in the blob's way; empty for nothing.
    pub(super) fn stands(&mut self, blob: &Digest, why: String) {
        if let Some(known) = self.blobs.get_mut(blob) {
            if !why.is_empty() && known.why != why {
                tracing::warn!(%blob, error = %why, "blob could not be completed and is tried again");
            }
            known.why = why;
        }
    }

    pub(super) fn came(&mut self, source: usize, bytes: u64, now: Duration) {
        if let Some(source) = self.sources.get_mut(source) {
            source.meter.add(bytes, now);
        }
    }

    /// Whether the last that was heard of the source was no failure.
    pub(super) fn failed_first(&self, source: usize) -> bool {
        self.sources.get(source).is_some_and(|source| source.why.is_empty())
    }

    /// The source's last failure; empty after a success.
    pub(super) fn source_is(&mut self, source: usize, why: String) {
        if let Some(source) = self.sources.get_mut(source) {
            source.why = why;
        }
    }

    pub(super) fn view(&self, now: Duration) -> View {
        let mut view = View::default();
        for (priority, digest) in self.plan.in_order() {
            let Some(known) = self.blobs.get(digest) else { continue };
            let needed = priority == Priority::Needed;
            let have = known.fill.as_ref().map_or(known.have, |fill| fill.have());
            if needed {
                view.missing += known.blob.size.saturating_sub(have);
            }
            let begun = known.fill.is_some() || have > 0 || !known.why.is_empty();
            if (needed || begun) && view.fetching.len() < SHOWN {
                let why = match known.why.as_str() {
                    "" => self.plan.why(digest, now).unwrap_or_default().to_owned(),
                    why => why.to_owned(),
                };
                view.fetching.push(Fetching { digest: *digest, size: known.blob.size, have, why });
            }
        }
        let peer = |source: &Source| Peer {
            url: source.url.clone(),
            bytes: source.meter.bytes(),
            rate: source.meter.rate(now),
            why: source.why.clone(),
        };
        view.peers = self.sources.iter().map(peer).collect();
        view
    }
}

impl Known {
    fn close(&mut self) -> Option<Arc<dyn Fill>> {
        let fill = self.fill.take();
        if let Some(fill) = &fill {
            self.have = fill.have();
        }
        fill
    }
}
