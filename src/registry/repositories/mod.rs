//! What repositories hold, and the only way to change it: both APIs call these operations.
//!
//! A change reads the newest catalogue, decides, and publishes the next generation; when somebody else was
//! faster it reads and decides again. That one call of `publish` is where a change becomes visible.

mod blobs;
mod manifest;
pub mod needs;
mod prune;
mod pulls;
mod templates;
mod whole;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio::sync::{Mutex as TurnMutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{
    apikeys::is_hidden,
    content::{Catalogue, Content, ContentError},
    journal::{Draft, Journal, JournalError, blob_ref},
    writer::Pending,
};
use crate::{
    clock,
    model::{Algorithm, Digest, Position, RepositoryName, Tag, TemplateId},
    wire::replication::{BlobRef, Change, Stored},
};

pub use manifest::{ManifestFault, Parsed, Role};
pub use templates::{Broken, Templates};

use manifest::Cache;
use pulls::PullTimes;
use templates::{Summaries, derived_id};

/// Turns for changes: pushes to one repository go beside each other, whatever takes something away goes alone.
const TURNS: usize = 64;

/// Attempts at one change while others are faster. Our own wait their turn, so more than one is rare.
const ATTEMPTS: usize = 16;

/// Manifests in one repository, and tags. More are refused: each change writes the whole catalogue.
const MANIFESTS: usize = 20_000;

/// Repositories. More are refused: every catalogue is kept in memory.
const REPOSITORIES: usize = 50_000;

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// No such repository.
    #[error("repository `{repository}` is not known")]
    NoRepository {
        /// Its name.
        repository: RepositoryName,
        /// The change by which it lost everything; zero if there was none.
        changed: Position,
    },
    /// No such manifest or tag in it.
    #[error("`{reference}` is not known in `{repository}`")]
    NoManifest {
        /// Where.
        repository: RepositoryName,
        /// The tag or digest.
        reference: String,
        /// The repository's last change.
        changed: Position,
    },
    /// The repository was not given this blob.
    #[error("blob {blob} is not in `{repository}`")]
    NoBlob {
        /// Which repository.
        repository: RepositoryName,
        /// Which blob.
        blob: Digest,
    },
    /// The blob cannot go.
    #[error("blob {blob} is needed by manifest {manifest} of this repository; delete that first")]
    Needed {
        /// Which blob.
        blob: Digest,
        /// One that needs it.
        manifest: Digest,
    },
    /// No template has this id.
    #[error("template `{0}` is not known")]
    NoTemplate(TemplateId),
    /// The template has no such version.
    #[error("{0}")]
    NoVersion(String),
    /// The manifest cannot be taken.
    #[error(transparent)]
    Manifest(#[from] ManifestFault),
    /// A bound is reached.
    #[error("{what}, which is the most this registry takes; delete some first")]
    Bound {
        /// What there is that much of.
        what: String,
    },
    /// The storage refused or failed.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The change could not be made.
    #[error(transparent)]
    Journal(JournalError),
    /// This registry does not know yet what it holds.
    #[error("this registry cannot answer for repositories yet: {0}")]
    NotYet(String),
}

impl From<JournalError> for RepositoryError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Content(error) => Self::Content(error),
            other => Self::Journal(other),
        }
    }
}

/// Names a manifest in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// By tag.
    Tag(Tag),
    /// By digest.
    Digest(Digest),
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A manifest that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its digest.
    pub digest: Digest,
    /// What the catalogue says of it.
    pub stored: Stored,
    /// When its repository last changed.
    pub changed: Position,
}

/// A manifest that was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Its digest.
    pub digest: Digest,
    /// The manifest it is about, if it says so.
    pub subject: Option<Digest>,
    /// The position of the change.
    pub position: Position,
}

/// The operations. Cheap to clone.
#[derive(Clone)]
pub struct Repositories {
    inner: Arc<Inner>,
}

struct Inner {
    content: Arc<dyn Content>,
    journal: Journal,
    manifests: Cache,
    summaries: Summaries,
    /// Where a template was seen: a hint, checked against the catalogue each time.
    ids: Mutex<HashMap<TemplateId, RepositoryName>>,
    pulls: PullTimes,
    /// Taken while a repository gets its template id, so that no two get the same.
    naming: TurnMutex<()>,
    turns: Vec<RwLock<()>>,
    /// Taken from the look at a catalogue to the place in the queue for what was decided on it.
    deciding: Vec<TurnMutex<()>>,
    broken: Mutex<Vec<Broken>>,
}

impl Repositories {
    /// Over this storage; changes go through this journal.
    pub fn new(content: Arc<dyn Content>, journal: Journal) -> Self {
        let inner = Inner {
            content,
            journal,
            manifests: Cache::default(),
            summaries: Summaries::default(),
            ids: Mutex::default(),
            pulls: PullTimes::default(),
            naming: TurnMutex::default(),
            turns: (0..TURNS).map(|_| RwLock::default()).collect(),
            deciding: (0..TURNS).map(|_| TurnMutex::default()).collect(),
            broken: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The storage below.
    pub fn content(&self) -> &dyn Content {
        self.inner.content.as_ref()
    }

    /// What changes go through.
    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    /// Nothing is said about repositories while this registry does not know what they hold.
    pub fn check_known(&self) -> Result<(), RepositoryError> {
        match self.journal().at().claim.unknown() {
            Some(why) => Err(RepositoryError::NotYet(why.to_owned())),
            None => Ok(()),
        }
    }

    /// A repository that has at least one manifest.
    pub async fn catalogue(&self, repository: &RepositoryName) -> Result<Arc<Catalogue>, RepositoryError> {
        self.check_known()?;
        match self.content().catalogue(repository).await? {
            Some(catalogue) if !catalogue.is_empty() => Ok(catalogue),
            gone => Err(RepositoryError::NoRepository {
                repository: repository.clone(),
                changed: gone.map_or(Position::ZERO, |gone| gone.changed),
            }),
        }
    }

    /// Names of all repositories that have a manifest, in order.
    pub async fn names(&self) -> Result<Vec<RepositoryName>, RepositoryError> {
        self.check_known()?;
        let mut names = Vec::new();
        for name in self.shown_names().await? {
            // A damaged one has a name, too.
            if self.content().catalogue(&name).await.map_or(true, |c| c.is_some_and(|c| !c.is_empty())) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Names of all repositories but that of the registries' own.
    pub(super) async fn shown_names(&self) -> Result<Vec<RepositoryName>, ContentError> {
        let mut names = self.content().repositories().await?;
        names.retain(|name| !is_hidden(name));
        Ok(names)
    }

    /// Finds a manifest by tag or digest.
    pub async fn find(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Found, RepositoryError> {
        let catalogue = self.catalogue(repository).await?;
        let digest = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => catalogue.tags.get(tag).map(|version| version.digest),
        };
        let found = digest.and_then(|digest| {
            catalogue.manifests.get(&digest).map(|stored| Found {
                digest,
                stored: stored.clone(),
                changed: catalogue.changed,
            })
        });
        found.ok_or_else(|| RepositoryError::NoManifest {
            repository: repository.clone(),
            reference: reference.to_string(),
            changed: catalogue.changed,
        })
    }

    /// The bytes of a manifest that was found, as they were pushed.
    pub async fn bytes(&self, found: &Found) -> Result<Bytes, RepositoryError> {
        Ok(manifest::read_small(self.content(), &found.digest, found.stored.size).await?)
    }

    /// Takes a manifest: checks it, that all it needs is here, stores it, and points the tag to it. Completes when
    /// every reader sees it.
    pub async fn put(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        media_type: Option<String>,
        bytes: Bytes,
    ) -> Result<Taken, RepositoryError> {
        let (pending, digest, subject) = self.publish(repository, reference, media_type, bytes).await?;
        // The turn is over: a reader that is slow to confirm holds up this push, and nothing that waits for it to be over.
        Ok(Taken { digest, subject, position: pending.acknowledged().await })
    }

    async fn publish(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        media_type: Option<String>,
        bytes: Bytes,
    ) -> Result<(Pending, Digest, Option<Digest>), RepositoryError> {
        let algorithm = match reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => Algorithm::default(),
        };
        let digest = algorithm.of(&bytes);
        if let Reference::Digest(expected) = reference
            && *expected != digest
        {
            return Err(ManifestFault::Digest { expected: *expected, got: digest }.into());
        }
        self.journal().check_writes()?;
        let parsed = Arc::new(Parsed::read(&bytes)?);
        let media_type = parsed.named(media_type)?;
        manifest::check_media_type(&media_type)?;
        // Nothing that it needs is taken away while this holds it.
        let _beside = self.beside(repository).await;
        let before = self.content().catalogue(repository).await?;
        parsed.check_needs(self.content(), repository, before.as_deref()).await?;
        let facts = self.facts(repository, &parsed).await?;
        self.content().put(algorithm, bytes.clone()).await?;
        self.inner.manifests.put(digest, parsed.clone());
        let stored = Stored {
            media_type,
            size: bytes.len() as u64,
            subject: parsed.subject,
            children: parsed.children.iter().map(|child| child.digest).collect(),
            pushed: 0,
        };
        if before.is_none() {
            self.check_room().await?;
        }
        let unnamed = before.as_ref().is_none_or(|before| before.template.is_none());
        let (_naming, id) = if unnamed && matches!(reference, Reference::Tag(_)) {
            let naming = self.inner.naming.lock().await;
            (Some(naming), Some(self.free_id(repository, facts.id.clone()).await?))
        } else {
            (None, None)
        };
        let about = About {
            change: Change::Published,
            digest: Some(digest),
            blobs: self.needed(repository, digest, &parsed).await?,
        };
        let (pending, before, ()) = self
            .change_in_turn(repository, about, On::Decided, |catalogue| {
                check_bounds(catalogue, digest, reference)?;
                parsed.check_children(Some(catalogue))?;
                let now = clock::wall().unix_seconds();
                catalogue.add(digest, Stored { pushed: now, ..stored.clone() });
                if let Reference::Tag(tag) = reference {
                    catalogue.tag(tag.clone(), digest, now);
                    // It has lost its id since that was looked for, if there is none now.
                    let new = || id.clone().unwrap_or_else(|| derived_id(repository));
                    catalogue.template = Some(catalogue.template.take().unwrap_or_else(new));
                    // What was set by hand corrected an older push.
                    catalogue.arch = catalogue.arch.filter(|_| facts.arch.is_none());
                }
                Ok(())
            })
            .await?;
        self.check_again(repository, reference, digest, &parsed, before.as_deref()).await?;
        tracing::info!(%repository, %reference, %digest, "manifest published");
        Ok((pending, digest, parsed.subject))
    }

    /// The blobs that must be where this manifest is shown, itself among them.
    async fn needed(
        &self,
        repository: &RepositoryName,
        manifest: Digest,
        parsed: &Parsed,
    ) -> Result<Vec<BlobRef>, RepositoryError> {
        let all: BTreeSet<Digest> = parsed.blobs().map(|blob| blob.digest).collect();
        let mut needed: Vec<BlobRef> = blob_ref(self.content(), &manifest).await?.into_iter().collect();
        for digest in all {
            // One that may be fetched elsewhere need not be here; another's is not this repository's to give.
            if self.content().linked(repository, &digest).await? {
                needed.extend(blob_ref(self.content(), &digest).await?);
            }
        }
        Ok(needed)
    }

    /// For one repository more.
    async fn check_room(&self) -> Result<(), RepositoryError> {
        let there = self.content().repositories().await?.len();
        if there < REPOSITORIES {
            return Ok(());
        }
        Err(RepositoryError::Bound { what: format!("there are {there} repositories") })
    }

    /// Removes a tag, or a manifest with every tag that points to it.
    pub async fn delete(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Position, RepositoryError> {
        self.catalogue(repository).await?;
        let about = match reference {
            Reference::Tag(_) => About::plain(Change::Untagged),
            Reference::Digest(digest) => About { digest: Some(*digest), ..About::plain(Change::Removed) },
        };
        let (position, ()) = self
            .change(repository, about, |catalogue| {
                let was = match reference {
                    Reference::Tag(tag) => catalogue.untag(tag),
                    Reference::Digest(digest) => catalogue.remove(digest),
                };
                if was {
                    Ok(())
                } else {
                    Err(RepositoryError::NoManifest {
                        repository: repository.clone(),
                        reference: reference.to_string(),
                        changed: catalogue.changed,
                    })
                }
            })
            .await?;
        tracing::info!(%repository, %reference, "manifest deleted");
        Ok(position)
    }

    /// A manifest as we read it; kept, because lists ask for it again and again.
    pub async fn parsed(&self, digest: &Digest, size: u64) -> Result<Arc<Parsed>, RepositoryError> {
        if let Some(parsed) = self.inner.manifests.get(digest) {
            return Ok(parsed);
        }
        let bytes = manifest::read_small(self.content(), digest, size).await?;
        let parsed = Arc::new(Parsed::read(&bytes)?);
        self.inner.manifests.put(*digest, parsed.clone());
        Ok(parsed)
    }

    /// For what takes something away: nothing else changes the repository meanwhile.
    async fn turn(&self, repository: &RepositoryName) -> RwLockWriteGuard<'_, ()> {
        self.inner.turns[turn_of(repository)].write().await
    }

    /// For pushes, beside each other. Who asked for a turn is not overtaken.
    async fn beside(&self, repository: &RepositoryName) -> RwLockReadGuard<'_, ()> {
        self.inner.turns[turn_of(repository)].read().await
    }

    /// Changes a catalogue: all of it, or nothing. Tells where in the log, once the change may be acknowledged.
    async fn change<T>(
        &self,
        repository: &RepositoryName,
        about: About,
        decide: impl FnMut(&mut Catalogue) -> Result<T, RepositoryError>,
    ) -> Result<(Position, T), RepositoryError> {
        let (pending, _, answer) = {
            let _turn = self.turn(repository).await;
            self.change_in_turn(repository, about, On::Made, decide).await?
        };
        Ok((pending.acknowledged().await, answer))
    }

    /// Tells also what it was decided on. Changes of one repository that are decided on each other are made together.
    async fn change_in_turn<T>(
        &self,
        repository: &RepositoryName,
        about: About,
        on: On,
        mut decide: impl FnMut(&mut Catalogue) -> Result<T, RepositoryError>,
    ) -> Result<(Pending, Option<Arc<Catalogue>>, T), RepositoryError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let deciding = self.inner.deciding[turn_of(repository)].lock().await;
            let now = match on {
                On::Decided => self.journal().newest(repository).await?,
                On::Made => self.content().catalogue(repository).await?,
            };
            let mut next = match &now {
                Some(now) => (**now).clone(),
                None => Catalogue::new(repository.clone()),
            };
            let answer = decide(&mut next)?;
            next.generation += 1;
            let About { change, digest, blobs } = about.clone();
            let queued = self.journal().queue(Draft { change, digest, blobs, next: next.into() }).await?;
            let deciding = (!self.journal().queues()).then_some(deciding);
            let made = queued.made().await;
            drop(deciding);
            match made {
                Ok(pending) => return Ok((pending, now, answer)),
                Err(JournalError::Content(ContentError::Conflict { .. })) if attempt < ATTEMPTS => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn turn_of(repository: &RepositoryName) -> usize {
    repository.as_str().bytes().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into())) % TURNS
}

/// Everything that a push can grow has a bound.
fn check_bounds(before: &Catalogue, digest: Digest, reference: &Reference) -> Result<(), RepositoryError> {
    let bound = |what: &str| {
        Err(RepositoryError::Bound { what: format!("`{}` has {MANIFESTS} {what}", before.name) })
    };
    let new_tag = matches!(reference, Reference::Tag(tag) if !before.tags.contains_key(tag));
    if before.manifests.len() >= MANIFESTS && !before.manifests.contains_key(&digest) {
        return bound("manifests");
    }
    if before.tags.len() >= MANIFESTS && new_tag {
        return bound("tags");
    }
    Ok(())
}

/// What a change is decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// The newest that was decided: it is made behind that, or decided anew.
    Decided,
    /// The newest that was made: what is decided may be told at once.
    Made,
}

/// What the log says of a change beside the change itself.
#[derive(Debug, Clone)]
struct About {
    change: Change,
    digest: Option<Digest>,
    blobs: Vec<BlobRef>,
}

impl About {
    fn plain(change: Change) -> Self {
        Self { change, digest: None, blobs: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
