//! One collection: reads what is referenced, and does to each blob what [`super::mark`] says.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::mark::{self, Cut, Fate, Rules};
use crate::{
    clock,
    model::{Digest, RepositoryName},
    registry::{
        content::{Content, ContentError, Duty, Lease, SILENCE, trash::PARTS},
        repositories::needs,
    },
    wire::upkeep::{Collected, Moved, NAMED, Sum, What},
};

/// Why nothing was collected.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// Another collection runs, perhaps at another registry.
    #[error("garbage is being collected already")]
    Busy,
    /// It was not heard of for so long that another registry may collect.
    #[error(
        "another registry may collect garbage by now, for this one could not be heard of; what is left is for the next collection"
    )]
    Lost,
    /// What others reference may not be seen here.
    #[error("garbage is not collected now: {0}")]
    Unsure(String),
    /// What is referenced is not known.
    #[error("what is garbage cannot be known: {0}; `switchyard registry fsck` says what can be done")]
    Unknown(String),
    /// The storage failed.
    #[error(transparent)]
    Content(ContentError),
}

impl From<ContentError> for GcError {
    fn from(error: ContentError) -> Self {
        match error {
            damaged @ ContentError::Damaged { .. } => Self::Unknown(damaged.to_string()),
            ContentError::LeaseLost { .. } => Self::Lost,
            ContentError::Unsure(why) => Self::Unsure(why),
            error => Self::Content(error),
        }
    }
}

/// One collection that is under way.
struct Collection<'c> {
    content: &'c dyn Content,
    lease: &'c dyn Lease,
    cut: Cut,
    dry_run: bool,
    referenced: HashSet<Digest>,
    done: Collected,
}

/// When garbage was collected last, for whoever collects next in a storage that several have.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Last {
    /// By the storage's clock, Unix seconds.
    ended: u64,
}

/// Collects once. `roots` are referenced by changes that are logged and not shown yet. Where several registries collect, nothing
/// is done, and `None` told, if one of them did within `pause`.
///
/// Cancelling it leaves everything as it then is, which is right at every step.
pub async fn collect(
    content: &dyn Content,
    rules: &Rules,
    roots: Vec<Digest>,
    (dry_run, pause): (bool, Duration),
) -> Result<Option<Collected>, GcError> {
    // Nothing that one which fell silent did is purged before the next one may begin.
    let lease = content.lease(Duty::Garbage, SILENCE.min(rules.trash)).await?.ok_or(GcError::Busy)?;
    let last = lease.noted().and_then(|text| serde_json::from_str::<Last>(&text).ok());
    let now = content.now().await?;
    let done = match last {
        Some(last) if unix(now).saturating_sub(last.ended) < pause.as_secs() => None,
        _ => {
            let collecting = collect_as(content, lease.as_ref(), rules.at(now), roots, dry_run);
            let collected = tokio::select! {
                collected = collecting => collected?,
                lost = lease.keep() => return Err(lost.into()),
            };
            if !dry_run {
                let last = Last { ended: unix(content.now().await?) };
                // At worst another one collects sooner than it need.
                if let Ok(text) = serde_json::to_string(&last)
                    && let Err(error) = lease.note(text).await
                {
                    tracing::debug!(error = %error, "end of the collection was not noted");
                }
            }
            Some(collected)
        }
    };
    if let Err(error) = lease.end().await {
        tracing::debug!(error = %error, "others wait for the lease to run out");
    }
    Ok(done)
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

async fn collect_as(
    content: &dyn Content,
    lease: &dyn Lease,
    cut: Cut,
    roots: Vec<Digest>,
    dry_run: bool,
) -> Result<Collected, GcError> {
    let began = clock::now();
    let done = Collected { dry_run, ..Collected::default() };
    let referenced = roots.into_iter().collect();
    let mut collection = Collection { content, lease, cut, dry_run, referenced, done };
    // Listed before the references are read: what they show of these is the second mark.
    let discarded = content.discarded().await?;
    collection.read_references().await?;
    for blob in discarded {
        lease.check()?;
        let fate = mark::fate(&blob, &collection.referenced, &cut);
        let (what, moved) = match fate {
            Fate::Waits => {
                collection.done.waiting.add(blob.size);
                continue;
            }
            Fate::PutBack => (What::PutBack, dry_run || content.put_back(&blob.digest).await?),
            Fate::Purge => {
                (What::Purged, dry_run || content.purge(&blob.digest, cut.discarded_before).await?)
            }
        };
        if moved {
            collection.moved(what, blob.digest, blob.size);
        }
    }
    for part in 0..PARTS {
        for blob in content.stored(part).await? {
            lease.check()?;
            let goes = mark::goes(&blob, &collection.referenced, &cut);
            if goes && (dry_run || content.discard(&blob.digest, cut.untouched_since).await?) {
                collection.moved(What::Discarded, blob.digest, blob.size);
            } else {
                collection.done.kept.add(blob.size);
            }
        }
    }
    collection.done.seconds = (clock::now() - began).as_secs_f64();
    Ok(collection.done)
}

/// A kill came in the middle of a publication that took longer than both graces: what it needs is given once more.
async fn give_again(
    content: &dyn Content,
    name: &RepositoryName,
    own: &BTreeSet<Digest>,
) -> Result<(), ContentError> {
    let given: BTreeSet<Digest> = content.links(name).await?.into_iter().collect();
    for digest in own.difference(&given) {
        if content.keep(digest).await?.is_some() {
            content.link(name, digest).await?;
        }
    }
    Ok(())
}

impl Collection<'_> {
    /// What every repository needs; takes away what one was given and does not need.
    ///
    /// A catalogue that cannot be read ends it: nobody knows what that references.
    async fn read_references(&mut self) -> Result<(), GcError> {
        for name in self.content.repositories().await? {
            let Some(catalogue) = self.content.catalogue(&name).await? else { continue };
            let needs = needs::needs(self.content, &catalogue).await?;
            self.referenced.extend(needs.blobs.keys());
            if needs.unread.is_empty() {
                let needed = |blob: &Digest| needs.blobs.contains_key(blob);
                self.take_away(&name, needed).await?;
                if !self.dry_run {
                    give_again(self.content, &name, &needs.own).await?;
                }
            } else {
                // Layers that an unreadable manifest needs are among what its repository was given.
                self.referenced.extend(self.content.given(&name).await?.iter().map(|given| given.digest));
                self.done.unread.extend(needs.unread);
            }
        }
        for name in self.content.receivers().await? {
            if self.content.catalogue(&name).await?.is_none() {
                self.take_away(&name, |_| false).await?;
            }
        }
        Ok(())
    }

    async fn take_away(
        &mut self,
        name: &RepositoryName,
        needed: impl Fn(&Digest) -> bool,
    ) -> Result<(), GcError> {
        for given in self.content.given(name).await? {
            self.lease.check()?;
            let goes = mark::lost(&given, &needed, &self.cut);
            let since = self.cut.given_before;
            if goes && (self.dry_run || self.content.take_away(name, &given.digest, since).await?) {
                self.done.taken_away += 1;
            }
        }
        Ok(())
    }

    fn moved(&mut self, what: What, digest: Digest, size: u64) {
        let sum: &mut Sum = match what {
            What::Discarded => &mut self.done.discarded,
            What::Purged => &mut self.done.purged,
            What::PutBack => &mut self.done.put_back,
        };
        sum.add(size);
        if self.done.blobs.len() < NAMED {
            self.done.blobs.push(Moved { what, digest, size });
        }
    }
}
