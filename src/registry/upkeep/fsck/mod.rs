//! Looks through a directory that no registry uses, or that others share, explains what it finds, and mends what can be mended here.
//!
//! It opens the storage as a start does, so what an earlier run left unfinished is gone before it looks, and told.
//! Mending deletes nothing that is whole: what is bad is moved to the quarantine.

mod history;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use super::examine::{Fault, examine};
use crate::{
    config::registry::{Registry, Storage},
    model::{Digest, RepositoryName},
    registry::{
        content::{
            Catalogue, Content, ContentError, Duty, Leases, SILENCE,
            disk::{self, Cleaned, Disk},
            size,
            trash::PARTS,
        },
        log::LogError,
        repositories::needs,
    },
    telemetry::chain,
    wire::upkeep::{Checked, Finding, Trouble},
};
use history::{History, Newest};

/// Tags that a finding names.
const TAGS: usize = 20;

/// Why nothing was looked through.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The directory: a registry uses it, or it cannot be read.
    #[error(transparent)]
    Storage(#[from] disk::OpenError),
    /// Another registry deletes what is not needed meanwhile.
    #[error("another registry collects garbage in this directory at this moment; try again when it is done")]
    Collecting,
    /// It failed meanwhile.
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// Everything that is known so far.
struct Look<'c> {
    content: &'c dyn Content,
    repair: bool,
    /// Blobs that catalogues need: their size, and who needs them.
    needed: BTreeMap<Digest, (u64, BTreeSet<String>)>,
    /// Of each repository.
    needs: BTreeMap<RepositoryName, BTreeSet<Digest>>,
    /// Repositories of which it cannot be known what they need.
    unknown: BTreeSet<RepositoryName>,
    /// What it must have been given: without what lies elsewhere.
    own: BTreeMap<RepositoryName, BTreeSet<Digest>>,
    here: BTreeMap<Digest, u64>,
    done: Checked,
}

/// Looks through the storage of a config. `told` hears how far it has come.
pub async fn fsck(
    config: &Registry,
    repair: bool,
    mut told: impl FnMut(String),
) -> Result<Checked, FsckError> {
    let disk = Disk::open(disk::DiskSettings::of(config)).await?;
    disk.settle().await;
    // Others may go on in a directory that they share with this one: they add, and delete nothing meanwhile.
    let lease = disk.lease(Duty::Garbage, SILENCE).await?.ok_or(FsckError::Collecting)?;
    let log = match &config.storage {
        Storage::Disk(path) => Some(path.join("log")),
        Storage::Shared(_) => None,
    };
    let checked = tokio::select! {
        checked = look_through(&disk, log, repair, &mut told) => checked,
        lost = lease.keep() => Err(lost.into()),
    };
    lease.end().await?;
    checked
}

async fn look_through(
    disk: &Disk,
    log: Option<PathBuf>,
    repair: bool,
    told: &mut impl FnMut(String),
) -> Result<Checked, FsckError> {
    let cleaned = disk.cleaned();
    let mut look = Look {
        content: disk,
        repair,
        needed: BTreeMap::new(),
        needs: BTreeMap::new(),
        own: BTreeMap::new(),
        unknown: BTreeSet::new(),
        here: BTreeMap::new(),
        done: Checked::default(),
    };
    look.cleaned(cleaned);
    let is_kept = log.is_some();
    let history = match log.filter(|log| log.exists()) {
        Some(log) => Some(blocking(move || History::open(&log)).await.map(Arc::new)),
        None => None,
    };
    let readable = history.as_ref().and_then(|history| history.as_ref().ok());
    let catalogues = look.catalogues(readable).await?;
    look.blobs(told).await?;
    look.missing();
    look.given().await?;
    look.orphans().await?;
    look.strangers().await?;
    match history {
        Some(history) => look.log(history, &catalogues),
        None if is_kept && !catalogues.is_empty() => look.note(
            Trouble::Log,
            "log",
            "there is no change log: the next start begins one, and replicas copy everything anew",
        ),
        None => {}
    }
    Ok(look.done)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let read = tokio::task::spawn_blocking(work).await;
    read.unwrap_or_else(|gone| Err(LogError::Damaged(format!("reading it failed: {gone}"))))
}

impl Look<'_> {
    fn found(&mut self, trouble: Trouble, what: impl Into<String>, why: impl Into<String>) -> &mut Finding {
        self.done.findings.push(Finding {
            trouble,
            what: what.into(),
            why: why.into(),
            remedy: String::new(),
            needed_by: Vec::new(),
            repaired: false,
            harmless: false,
        });
        let last = self.done.findings.len() - 1;
        &mut self.done.findings[last]
    }

    fn note(&mut self, trouble: Trouble, what: impl Into<String>, why: impl Into<String>) {
        self.found(trouble, what, why).harmless = true;
    }

    fn cleaned(&mut self, cleaned: Cleaned) {
        let Cleaned { files, uploads, fills } = cleaned;
        for (count, what) in [
            (files, "files that were not whole yet"),
            (uploads, "upload sessions that could not be gone on with"),
            (fills, "copies of blobs that nobody will go on with"),
        ] {
            if count > 0 {
                self.note(
                    Trouble::Leftover,
                    what,
                    format!("{count} of them were removed, as each start does"),
                );
            }
        }
    }

    async fn catalogues(&mut self, history: Option<&Arc<History>>) -> Result<Vec<Arc<Catalogue>>, FsckError> {
        let mut whole = Vec::new();
        let mut names: BTreeSet<RepositoryName> = self.content.repositories().await?.into_iter().collect();
        // Also those whose catalogue is not there at all.
        names.extend(history.iter().flat_map(|history| history.changes.keys().cloned()));
        for name in names {
            let found = self.content.catalogue(&name).await;
            let there = match &found {
                Ok(Some(there)) => (**there).clone(),
                _ => Catalogue::new(name.clone()),
            };
            let behind = history
                .and_then(|history| history.changes.get(&name))
                .filter(|newest| there.generation < newest.to && !newest.is_made_good(there.generation));
            let why = match &found {
                Err(error) => Some(error.to_string()),
                Ok(None) => behind.map(|Newest { to, at, .. }| {
                    format!("it is not here, and the log has a change at {at} that makes generation {to}")
                }),
                Ok(Some(there)) => behind.map(|Newest { to, at, .. }| {
                    let there = there.generation;
                    format!("it is generation {there}, and the log has a change at {at} that makes generation {to}")
                }),
            };
            let catalogue = match (found, why) {
                (Ok(None), None) => continue,
                (Ok(Some(catalogue)), None) => catalogue,
                (found, Some(why)) => match (self.mend(&there, why, history).await?, found) {
                    (Some(mended), _) => mended,
                    (None, Ok(Some(catalogue))) => catalogue,
                    (None, _) => {
                        self.unknown.insert(name.clone());
                        continue;
                    }
                },
                (Err(error), None) => return Err(error.into()),
            };
            self.done.repositories += 1;
            let needs = needs::needs(self.content, &catalogue).await?;
            for (digest, size) in &needs.blobs {
                let entry = self.needed.entry(*digest).or_insert_with(|| (*size, BTreeSet::new()));
                if entry.1.len() <= TAGS {
                    let tags = needs::tags_that_need(&catalogue, &needs, digest);
                    entry.1.extend(tags.iter().take(TAGS).map(|tag| format!("{name}:{tag}")));
                    if tags.is_empty() {
                        entry.1.insert(name.to_string());
                    }
                }
            }
            if !needs.unread.is_empty() {
                self.unknown.insert(name.clone());
            }
            for unread in &needs.unread {
                self.found(
                    Trouble::Manifest,
                    format!("manifest {} of `{name}`", unread.manifest),
                    unread.why.clone(),
                )
                .remedy = "push the tag again, or delete it; what it needs cannot be known".into();
            }
            self.needs.insert(name.clone(), needs.blobs.keys().copied().collect());
            self.own.insert(name, needs.own);
            whole.push(catalogue);
        }
        Ok(whole)
    }

    /// Tells of a catalogue that cannot be used or lacks changes, and makes it anew from the log, if that has all of them.
    async fn mend(
        &mut self,
        there: &Catalogue,
        why: String,
        history: Option<&Arc<History>>,
    ) -> Result<Option<Arc<Catalogue>>, FsckError> {
        let newest = match history.cloned() {
            Some(history) => {
                let from = there.clone();
                // One that cannot be read is told of at the end.
                blocking(move || history.newest(&from)).await.unwrap_or_default()
            }
            None => None,
        };
        let can = newest.is_some();
        let mended = match newest.filter(|_| self.repair) {
            Some(newest) => match self.content.restore(newest).await {
                Ok(mended) => Some(mended),
                // Its place has another repository's.
                Err(ContentError::Damaged { .. }) => None,
                Err(error) => return Err(error.into()),
            },
            None => None,
        };
        let repaired = mended.is_some();
        let found = self.found(Trouble::Catalogue, format!("catalogue of `{}`", there.name), why);
        found.repaired = repaired;
        found.remedy = if can && !repaired {
            "`--repair` makes it anew: the log has every change that it lacks".into()
        } else {
            "the log does not have every change of it. A replica copies it anew from its writer when it starts, if `log/` is \
             moved away; at a writer, put the newest file back from a backup, or make a replica that has it the writer. While a \
             catalogue cannot be read nothing is known of its tags, and no garbage is collected"
                .into()
        };
        Ok(mended)
    }

    /// Every byte of every blob.
    async fn blobs(&mut self, told: &mut impl FnMut(String)) -> Result<(), FsckError> {
        for part in 0..PARTS {
            let stored = self.content.stored(part).await?;
            for blob in stored {
                self.blob(&blob.digest, blob.size).await?;
            }
            if part % 16 == 15 {
                let Checked { blobs, bytes, .. } = &self.done;
                told(format!(
                    "{} of {PARTS} parts looked through: {blobs} blobs, {}",
                    part + 1,
                    size(*bytes)
                ));
            }
        }
        for blob in self.content.discarded().await? {
            self.blob(&blob.digest, blob.size).await?;
        }
        Ok(())
    }

    async fn blob(&mut self, digest: &Digest, bytes: u64) -> Result<(), FsckError> {
        self.done.blobs += 1;
        self.done.bytes = self.done.bytes.saturating_add(bytes);
        let fault = examine(self.content, digest, |_| std::future::ready(())).await?;
        let what = format!("blob {digest}");
        match fault {
            None => drop(self.here.insert(*digest, bytes)),
            Some(Fault::List(list)) => {
                self.here.insert(*digest, bytes);
                let repaired = self.repair;
                if repaired {
                    self.content.relist(digest, &list).await?;
                }
                let found = self.found(
                    Trouble::ChunkList,
                    what,
                    "its bytes are right, and its list of chunks is missing or not its own: replicas could not check what they copy of it",
                );
                found.repaired = repaired;
                found.remedy = "`--repair` writes the list anew".into();
            }
            Some(Fault::Bytes { why }) => {
                let repaired = self.repair && self.content.quarantine(digest).await?;
                let needed_by = self.needed_by(digest);
                let found = self.found(Trouble::Blob, what, why);
                found.remedy = match needed_by.is_empty() {
                    true => "`--repair` moves it to the quarantine; nothing needs it".into(),
                    false => "`--repair` moves it to the quarantine; see below for what then lacks it".into(),
                };
                (found.needed_by, found.repaired) = (needed_by, repaired);
            }
        }
        Ok(())
    }

    fn needed_by(&self, digest: &Digest) -> Vec<String> {
        self.needed.get(digest).map(|(_, tags)| tags.iter().take(TAGS).cloned().collect()).unwrap_or_default()
    }

    /// What catalogues need and is not here whole, or has another size than they say.
    fn missing(&mut self) {
        let here = &self.here;
        let lacking = self.needed.iter().filter_map(|(digest, (size, _))| match here.get(digest) {
            Some(has) if has == size => None,
            has => Some((*digest, *size, has.copied())),
        });
        for (digest, said, has) in lacking.collect::<Vec<_>>() {
            let why = match has {
                None => format!("it is needed and is not here whole; it has {said} bytes"),
                Some(has) => format!("it has {has} bytes, and who needs it says {said}"),
            };
            let needed_by = self.needed_by(&digest);
            let found = self.found(Trouble::Missing, format!("blob {digest}"), why);
            found.remedy =
                "a registry that names other registries fetches it from them; else push one of these tags \
                            again, or delete them"
                    .into();
            found.needed_by = needed_by;
        }
    }

    /// Links and blobs must fit each other.
    async fn given(&mut self) -> Result<(), FsckError> {
        let none = BTreeSet::new();
        for name in self.content.receivers().await? {
            if self.unknown.contains(&name) {
                continue;
            }
            let needs = self.needs.get(&name).unwrap_or(&none).clone();
            for digest in self.content.links(&name).await? {
                if self.here.contains_key(&digest) || needs.contains(&digest) {
                    continue;
                }
                // In a directory that is shared it may have come since.
                if self.content.find(&digest).await?.is_some() {
                    continue;
                }
                if self.repair {
                    self.content.unlink(&name, &digest).await?;
                }
                let repaired = self.repair;
                let found = self.found(
                    Trouble::Link,
                    format!("blob {digest} of `{name}`"),
                    "the repository was given it, none of its manifests needs it, and it is not here",
                );
                found.remedy = "`--repair` forgets that it was given".into();
                found.repaired = repaired;
            }
        }
        for (name, own) in self.own.clone() {
            let given: BTreeSet<Digest> = self.content.links(&name).await?.into_iter().collect();
            for digest in own.difference(&given) {
                if !self.here.contains_key(digest) {
                    continue;
                }
                if self.repair {
                    self.content.link(&name, digest).await?;
                }
                let (repaired, needed_by) = (self.repair, self.needed_by(digest));
                let found = self.found(
                    Trouble::Link,
                    format!("blob {digest} of `{name}`"),
                    "it is here and needed, and its repository was not given it: pulls would not find it",
                );
                found.remedy = "`--repair` gives it".into();
                (found.repaired, found.needed_by) = (repaired, needed_by);
            }
        }
        Ok(())
    }

    /// Lists of chunks without their blobs: harmless, and nobody's to delete but ours.
    async fn orphans(&mut self) -> Result<(), FsckError> {
        let repaired = self.repair;
        for list in self.content.orphans(repaired).await? {
            let found = self.found(
                Trouble::Leftover,
                list,
                "a list of chunks whose blob is not beside it: a kill, or another registry, came between the two when the blob \
                 was moved or deleted",
            );
            found.remedy = "`--repair` removes it".into();
            (found.harmless, found.repaired) = (true, repaired);
        }
        Ok(())
    }

    async fn strangers(&mut self) -> Result<(), FsckError> {
        for path in self.content.strangers().await? {
            self.note(
                Trouble::Stranger,
                path,
                "this is not the storage's; it is left alone, and may be moved away while the registry is stopped",
            );
        }
        for digest in self.content.quarantined().await? {
            let why = match self.here.contains_key(&digest) {
                true => {
                    "a bad copy lies in the quarantine, and a good one is here: the bad one may be deleted"
                }
                false => "it was found bad and lies in the quarantine",
            };
            self.note(Trouble::Quarantined, format!("blob {digest}"), why);
        }
        Ok(())
    }

    /// The log and the catalogues tell the same story.
    fn log(&mut self, read: Result<Arc<History>, LogError>, catalogues: &[Arc<Catalogue>]) {
        let newest = match read {
            Ok(newest) => newest,
            Err(error) => {
                self.found(Trouble::Log, "log", chain(&error)).remedy =
                    "put `log/` back from a backup, or move it away: then the next start begins a new one, and replicas copy \
                     everything anew"
                        .into();
                return;
            }
        };
        for catalogue in catalogues {
            let what = format!("catalogue of `{}`", catalogue.name);
            if catalogue.changed > newest.head {
                let why =
                    format!("it was changed at {}, and the log ends at {}", catalogue.changed, newest.head);
                self.found(Trouble::Log, what, why).remedy =
                    "one of the two was put back from another day's backup. The next start of a writer begins its log anew \
                     behind both, and replicas copy everything; a replica takes a snapshot"
                        .into();
                continue;
            }
            let Some(change) = newest.changes.get(&catalogue.name) else { continue };
            let Newest { to: generation, at, .. } = change;
            // What is further behind is told of where it is mended.
            if change.is_made_good(catalogue.generation) {
                self.note(
                    Trouble::Log,
                    what,
                    format!(
                        "it is generation {}, and the log has a change at {at} that makes generation {generation}: a kill came \
                         between; the next start makes it good",
                        catalogue.generation
                    ),
                );
            }
        }
    }
}
