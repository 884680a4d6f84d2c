//! What one repository holds: its manifests and its versions. Pure: storages keep it, operations change it.

mod untagged;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    model::{Arch, Digest, Position, RepositoryName, Tag, TemplateId},
    wire::replication::{Patch, Stored, Version},
};

/// When each version was last pulled: Unix seconds by tag. Kept apart from the catalogue: it changes often and
/// may be lost.
pub type Pulls = BTreeMap<String, i64>;

/// Names a version of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one with the highest number.
    Newest,
    /// By tag.
    Tag(Tag),
    /// By number.
    Number(i64),
}

/// The template has no such version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the template has no such version")]
pub struct NoSuchVersion;

/// One generation of a repository.
///
/// A repository that lost everything keeps an empty catalogue, so that generations never start over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Version of this format.
    v: u32,
    /// Whose it is. On a storage that folds case, this tells two repositories apart.
    pub name: RepositoryName,
    /// From 1, one more with each change.
    pub generation: u64,
    /// The log's position of that change; zero for one that was made before there was a log.
    #[serde(default)]
    pub changed: Position,
    /// Decided by the first version, and kept while the template lives.
    pub template: Option<TemplateId>,
    /// Set by hand; holds until a push says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// The number of the next new tag.
    pub next_number: i64,
    /// By digest.
    pub manifests: BTreeMap<Digest, Stored>,
    /// By tag.
    pub tags: BTreeMap<Tag, Version>,
}

impl Catalogue {
    /// The format this code writes and reads.
    pub const FORMAT: u32 = 1;

    /// A repository without anything; generation 0 is never published.
    pub fn new(name: RepositoryName) -> Self {
        Self {
            v: Self::FORMAT,
            name,
            generation: 0,
            changed: Position::ZERO,
            template: None,
            arch: None,
            next_number: 0,
            manifests: BTreeMap::new(),
            tags: BTreeMap::new(),
        }
    }

    /// Says what is wrong with a catalogue that was read, if anything is.
    pub fn fault(&self, name: &RepositoryName) -> Option<String> {
        if self.v != Self::FORMAT {
            return Some(format!("format {} is not known to this version", self.v));
        }
        if self.name != *name {
            return Some(format!(
                "it is of `{}`; names that differ in case alone need another disk",
                self.name
            ));
        }
        (!self.holds()).then(|| "it contradicts itself".to_owned())
    }

    /// The change from `before` to this, as the log carries it.
    pub fn since(&self, before: &Self) -> Patch {
        Patch {
            generation: self.generation,
            changed: self.changed,
            template: self.template.clone(),
            arch: self.arch,
            next_number: self.next_number,
            manifests: difference(&before.manifests, &self.manifests),
            tags: difference(&before.tags, &self.tags),
        }
    }

    /// Takes a change over; says what is wrong with the result, if it contradicts itself. Taking over the same
    /// change again changes nothing.
    pub fn apply(&mut self, patch: &Patch) -> Result<(), String> {
        self.generation = patch.generation;
        self.changed = patch.changed;
        self.template.clone_from(&patch.template);
        self.arch = patch.arch;
        self.next_number = patch.next_number;
        take_over(&mut self.manifests, &patch.manifests);
        take_over(&mut self.tags, &patch.tags);
        if self.holds() {
            Ok(())
        } else {
            Err(format!("the change {} of `{}` contradicts it", patch.changed, self.name))
        }
    }

    /// Whether nothing is left: the APIs do not know such a repository.
    pub fn is_empty(&self) -> bool {
        self.manifests.is_empty()
    }

    /// Adds a manifest, or notes that it was pushed again.
    pub fn add(&mut self, digest: Digest, stored: Stored) {
        self.manifests.insert(digest, stored);
        debug_assert!(self.holds());
    }

    /// Points a tag to a manifest that is here. A new tag gets the next number, a known one keeps its own.
    pub fn tag(&mut self, tag: Tag, digest: Digest, now: i64) {
        debug_assert!(self.manifests.contains_key(&digest));
        let next = &mut self.next_number;
        let version = self.tags.entry(tag).or_insert_with(|| {
            let number = *next;
            *next += 1;
            Version { number, digest, created: now, pushed: now }
        });
        (version.digest, version.pushed) = (digest, now);
        debug_assert!(self.holds());
    }

    /// Removes a tag; its manifest stays reachable by digest. Tells whether it was there.
    pub fn untag(&mut self, tag: &Tag) -> bool {
        let was = self.tags.remove(tag).is_some();
        self.settle();
        was
    }

    /// Points a tag to where it pointed before, or removes it if it was not there.
    pub fn untag_to(&mut self, tag: &Tag, before: Option<&Self>) {
        let was = before.and_then(|before| before.tags.get(tag));
        match was.filter(|was| self.manifests.contains_key(&was.digest)) {
            Some(was) => drop(self.tags.insert(tag.clone(), was.clone())),
            None => drop(self.tags.remove(tag)),
        }
        self.settle();
    }

    /// Removes a manifest and every tag that points to it. Tells whether it was there.
    pub fn remove(&mut self, digest: &Digest) -> bool {
        let was = self.manifests.remove(digest).is_some();
        self.tags.retain(|_, version| version.digest != *digest);
        self.settle();
        was
    }

    /// The version that is meant.
    pub fn version(&self, which: &Which) -> Option<(&Tag, &Version)> {
        match which {
            Which::Newest => self.tags.iter().max_by_key(|(_, version)| version.number),
            Which::Tag(tag) => self.tags.get_key_value(tag),
            Which::Number(number) => self.tags.iter().find(|(_, version)| version.number == *number),
        }
    }

    /// Removes a version and every later one, with the manifests that nothing else needs. Tells which tags went.
    pub fn revert(&mut self, to: &Which) -> Result<Vec<Tag>, NoSuchVersion> {
        let from = self.version(to).ok_or(NoSuchVersion)?.1.number;
        let (gone, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.tags).into_iter().partition(|(_, version)| version.number >= from);
        self.tags = kept;
        if self.tags.is_empty() {
            self.clear();
        } else {
            self.drop_unneeded(gone.values().map(|version| version.digest).collect());
        }
        self.settle();
        Ok(gone.into_keys().collect())
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.manifests.clear();
        self.tags.clear();
        self.settle();
    }

    /// Drops these manifests, what they list, and what refers to them, unless a tag or a manifest that
    /// stays needs it.
    fn drop_unneeded(&mut self, mut suspects: Vec<Digest>) {
        while let Some(suspect) = suspects.pop() {
            let tagged = self.tags.values().any(|version| version.digest == suspect);
            let listed = self.manifests.values().any(|stored| stored.children.contains(&suspect));
            if tagged || listed {
                continue;
            }
            let Some(gone) = self.manifests.remove(&suspect) else { continue };
            suspects.extend(gone.children);
            suspects.extend(self.referrers(&suspect).map(|(digest, _)| *digest));
        }
    }

    /// The manifests that are about this one.
    pub fn referrers(&self, subject: &Digest) -> impl Iterator<Item = (&Digest, &Stored)> {
        self.manifests.iter().filter(move |(_, stored)| stored.subject.as_ref() == Some(subject))
    }

    /// The next template of this name starts afresh.
    fn settle(&mut self) {
        if self.is_empty() {
            (self.next_number, self.arch) = (0, None);
        }
        if self.tags.is_empty() {
            self.template = None;
        }
        debug_assert!(self.holds());
    }

    /// Every tag has its manifest, numbers are below the next one, and no two tags share one.
    fn holds(&self) -> bool {
        let numbers: BTreeSet<i64> = self.tags.values().map(|version| version.number).collect();
        numbers.len() == self.tags.len()
            && numbers.iter().all(|number| (0..self.next_number).contains(number))
            && self.tags.values().all(|version| self.manifests.contains_key(&version.digest))
    }
}

/// What `after` has that `before` has not, and tombstones for what it has no more.
fn difference<K: Ord + Clone, V: Clone + PartialEq>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) -> BTreeMap<K, Option<V>> {
    let new = after.iter().filter(|(key, value)| before.get(key) != Some(value));
    let gone = before.keys().filter(|key| !after.contains_key(key));
    new.map(|(key, value)| (key.clone(), Some(value.clone())))
        .chain(gone.map(|key| (key.clone(), None)))
        .collect()
}

fn take_over<K: Ord + Clone, V: Clone>(into: &mut BTreeMap<K, V>, from: &BTreeMap<K, Option<V>>) {
    for (key, value) in from {
        match value {
            Some(value) => into.insert(key.clone(), value.clone()),
            None => into.remove(key),
        };
    }
}

#[cfg(test)]
mod tests;
