//! Takes over the writer's catalogue as a whole: for a new replica, for one that is too far behind, and for one whose
//! history is another. What is then no longer shown is set aside first, and never deleted.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{fetch::FetchHandle, status::Status};
use crate::{
    client::{
        ClientError,
        replication::{LogAnswer, Replication},
    },
    clock,
    model::{Digest, Position, RepositoryName},
    registry::{
        content::{Catalogue, Content, ContentError},
        journal::{At, Journal, JournalError},
        log::Read,
    },
    wire::replication::{Aside, BlobRef, Epoch, LogQuery, SnapshotHead, SnapshotRepository},
};

/// Why a snapshot is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The next entries are not kept any more, or there never were any.
    Compacted,
    /// A catalogue cannot be read or lacks changes, or a snapshot was cut off.
    Damaged,
    /// The own history is another than the writer's.
    Diverged {
        /// Nothing after this is common; `None` when that cannot be told.
        common: Option<Position>,
    },
}

/// Why it was not taken over. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdoptError {
    /// The writer.
    #[error("the snapshot could not be read")]
    Client(#[from] ClientError),
    /// The storage.
    #[error("the snapshot could not be taken over")]
    Content(#[from] ContentError),
    /// The journal.
    #[error("the snapshot could not be taken over")]
    Journal(#[from] JournalError),
    /// What came contradicts itself.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
}

pub(super) struct Adopt {
    pub(super) content: Arc<dyn Content>,
    pub(super) journal: Journal,
    pub(super) fetcher: FetchHandle,
    pub(super) status: Arc<Status>,
    pub(super) writer: Replication,
}

/// While blobs of a snapshot are waited for, the writer is asked so often whether its history is still the same.
const STILL_EVERY: Duration = Duration::from_secs(30);

/// Own history on its way aside: nothing is written before there is something.
struct Taken {
    folder: String,
    common: Option<Position>,
    upto: Position,
    repositories: BTreeSet<RepositoryName>,
}

impl Adopt {
    /// Takes a snapshot over. What a failure leaves is gone on with by the next call.
    pub(super) async fn run(&self, why: &Why) -> Result<(), AdoptError> {
        let own = self.journal.at();
        if let Why::Diverged { common: Some(common) } = why
            && own.position <= *common
            && own.claimed().is_some()
        {
            // Only what was read ahead is of another history. What is applied goes on to be right.
            return Ok(());
        }
        self.status.catching_up(true);
        let (head, mut snapshot) = self.writer.snapshot().await?;
        tracing::info!(position = %head.position, repositories = head.repositories, "snapshot begun");
        self.status.heard(head.position);
        let mut taken = match self.foreign(why, &head) {
            Some(common) => Some(self.disown(common, &own).await?),
            None => {
                // What is shown will be ahead of the own log: when this is cut off, the log must not go on by itself.
                self.journal.begin_snapshot().await?;
                None
            }
        };
        let mut known = BTreeSet::new();
        while let Some(next) = snapshot.next().await? {
            known.insert(next.repository.clone());
            if !self.repository(next, &head, taken.as_mut()).await? {
                // Who follows asks anew what is common with the history that there is now.
                tracing::error!(position = %head.position, "the writer's history was replaced, snapshot given up");
                let why = "it was taking over a catalogue that its writer does not have any more";
                self.journal.disown(why.into()).await?;
                return Ok(());
            }
        }
        for name in self.content.repositories().await? {
            if !known.contains(&name) {
                self.catalogue_aside(&name, None, taken.as_mut()).await?;
                self.journal.forget(&name).await?;
            }
        }
        if let Some(taken) = taken {
            let aside = taken.note(self.content.as_ref()).await?;
            tracing::error!(aside.path = %aside.path, upto = %aside.upto, repositories = ?aside.repositories,
                "own history was set aside");
            self.status.set_aside(aside);
        }
        self.journal.rebase(head.position, head.mark, head.epochs).await?;
        self.status.catching_up(false);
        tracing::info!(position = %head.position, "snapshot taken over");
        Ok(())
    }

    /// The last common position if the own history is another than the snapshot's; `Some(None)` if it is and that
    /// cannot be told.
    fn foreign(&self, why: &Why, head: &SnapshotHead) -> Option<Option<Position>> {
        if let Why::Diverged { common } = why {
            return Some(*common);
        }
        // The entries that would show it are not kept: the reigns are, for ever.
        let theirs = |own: &Epoch| head.epochs.iter().any(|epoch| epoch.id == own.id);
        (!self.journal.epochs().iter().all(theirs)).then_some(None)
    }

    /// Claims nothing from now on, and begins to set aside.
    async fn disown(&self, common: Option<Position>, own: &At) -> Result<Taken, AdoptError> {
        let reason = match common {
            Some(common) => {
                format!("its own history parts from its writer's after {common}; it is set aside")
            }
            None => "its own history is another than its writer's; it is set aside".to_owned(),
        };
        tracing::error!(position = %own.position, reason, "own history is not the writer's");
        self.journal.disown(reason).await?;
        // The same after a restart: what was begun is gone on with.
        let folder = format!("{}-{}", own.position, own.mark);
        let taken = Taken::begin(self.content.as_ref(), folder, common, own.position).await?;
        self.entries_aside(&taken).await?;
        taken.note(self.content.as_ref()).await?;
        Ok(taken)
    }

    /// Whether the writer's history is still the snapshot's.
    async fn repository(
        &self,
        next: SnapshotRepository,
        head: &SnapshotHead,
        taken: Option<&mut Taken>,
    ) -> Result<bool, AdoptError> {
        let SnapshotRepository { repository, patch, blobs } = next;
        let mut whole = Catalogue::new(repository.clone());
        whole.apply(&patch).map_err(AdoptError::Damaged)?;
        self.catalogue_aside(&repository, Some(&whole), taken).await?;
        if !self.need(&blobs, head).await {
            return Ok(false);
        }
        let given: BTreeSet<_> = blobs
            .iter()
            .map(|blob| blob.digest)
            .filter(|digest| !whole.manifests.contains_key(digest))
            .collect();
        for digest in &given {
            self.content.link(&repository, digest).await?;
        }
        self.journal.restore(whole).await?;
        // After the catalogue: until then they are needed by what is shown.
        for digest in self.content.links(&repository).await? {
            if !given.contains(&digest) {
                self.content.unlink(&repository, &digest).await?;
            }
        }
        Ok(true)
    }

    /// Waits until all are here. `false`: the writer's history is another by now, and they may be nowhere.
    async fn need(&self, blobs: &[BlobRef], head: &SnapshotHead) -> bool {
        let mut needed = pin!(self.fetcher.need(blobs));
        loop {
            tokio::select! {
                () = &mut needed => return true,
                () = tokio::time::sleep(STILL_EVERY) => {}
            }
            let query = LogQuery { after: Some(head.position), mark: Some(head.mark), ..LogQuery::default() };
            if matches!(self.writer.log(&query).await, Ok(LogAnswer::Diverged(_))) {
                return false;
            }
        }
    }

    /// The own entries behind the last common one.
    async fn entries_aside(&self, taken: &Taken) -> Result<(), AdoptError> {
        let oldest = self.journal.blocking(|log| Ok(log.history().base)).await?;
        let mut after = taken.common.map_or(oldest, |common| common.max(oldest));
        if self.journal.mark_at(after).await?.is_none() {
            // It is no position of the own history: all that is kept of that goes aside.
            after = oldest;
        }
        loop {
            match self.journal.read(after, None).await? {
                Read::Lines { lines, upto, .. } if !lines.is_empty() => {
                    // A page a file: what is in memory at once is bounded.
                    let text: Vec<u8> =
                        lines.into_iter().flat_map(|line| [line.as_ref(), b"\n"].concat()).collect();
                    let file = format!("entries-after-{after}.ndjson");
                    self.content.put_aside(&taken.folder, &file, text.into()).await?;
                    after = upto;
                }
                _ => return Ok(()),
            }
        }
    }

    /// The own catalogue of a repository, if something in it would no longer be shown.
    async fn catalogue_aside(
        &self,
        name: &RepositoryName,
        next: Option<&Catalogue>,
        taken: Option<&mut Taken>,
    ) -> Result<(), AdoptError> {
        let Some(taken) = taken else { return Ok(()) };
        if taken.repositories.contains(name) {
            // An earlier try did, and what is here since is the writer's.
            return Ok(());
        }
        // A damaged one cannot be read, and stays where it is until it is replaced.
        let Ok(Some(own)) = self.content.catalogue(name).await else { return Ok(()) };
        let common = taken.common.is_some_and(|common| own.changed <= common && own.changed > Position::ZERO);
        if common || next.is_some_and(|next| *next == *own) {
            return Ok(());
        }
        let text =
            serde_json::to_vec_pretty(&*own).map_err(|error| AdoptError::Damaged(error.to_string()))?;
        // The name itself is in it, and may be longer than a file's name.
        let file = format!("{}.json", Digest::of(name.as_str().as_bytes()).hex());
        self.content.put_aside(&taken.folder, &file, text.into()).await?;
        taken.repositories.insert(name.clone());
        taken.note(self.content.as_ref()).await?;
        Ok(())
    }
}

impl Taken {
    /// With what an earlier try has set aside already.
    async fn begin(
        content: &dyn Content,
        folder: String,
        common: Option<Position>,
        upto: Position,
    ) -> Result<Self, AdoptError> {
        let mut repositories = BTreeSet::new();
        for (path, text) in content.asides(ASIDE).await? {
            if path.ends_with(&folder)
                && let Ok(before) = serde_json::from_slice::<Aside>(&text)
            {
                repositories.extend(before.repositories);
            }
        }
        Ok(Self { folder, common, upto, repositories })
    }

    /// Writes down what was set aside so far.
    async fn note(&self, content: &dyn Content) -> Result<Aside, AdoptError> {
        let mut aside = Aside {
            path: self.folder.clone(),
            time: clock::wall().unix_seconds(),
            common: self.common,
            upto: self.upto,
            count: self.repositories.len() as u64,
            repositories: self.repositories.iter().cloned().collect(),
        };
        let text =
            serde_json::to_vec_pretty(&aside).map_err(|error| AdoptError::Damaged(error.to_string()))?;
        aside.path = content.put_aside(&self.folder, ASIDE, Bytes::from(text)).await?;
        Ok(aside)
    }
}

/// Names what was set aside.
pub(super) const ASIDE: &str = "aside.json";
