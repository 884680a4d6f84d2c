//! Repositories as the vendor's API sees them: templates with ids and numbered versions.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;

use super::super::content::{Catalogue, Pulls, Which};
use super::manifest::read_small;
use super::{About, Parsed, Repositories, RepositoryError, Role};
use crate::{
    model::{Arch, Digest, Position, RepositoryName, Tag, TemplateId},
    wire::{
        replication::{Change, Version},
        template,
    },
};

/// Namespace of the ids that are derived from repository names (UUIDv5); part of the format, never to change.
const NAMESPACE: uuid::Uuid = uuid::uuid!("6f1c52d0-9f0b-5b5e-8f3e-0a6a4d1f7c11");

/// Largest config blob that is looked into.
const CONFIG_LIMIT: u64 = 1024 * 1024;

/// Layers that the versions of one template may name together; a template with more is not shown, so that one
/// answer, and what is kept for the next, stays at some ten megabytes.
const NAMED: usize = 250_000;

/// Indexes that list indexes are followed so deep.
const NESTED: usize = 3;

/// A template that cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its repository.
    pub repository: RepositoryName,
    /// What is wrong.
    pub why: String,
}

/// A list of templates, and what could not be listed.
pub struct Templates {
    /// In order of name.
    pub templates: Vec<template::TemplateSummary>,
    /// Those that were skipped.
    pub broken: Vec<Broken>,
}

/// What a push says of its template.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) id: Option<TemplateId>,
    pub(super) arch: Option<Arch>,
}

/// Templates without pull times, as long as their catalogue is the newest.
#[derive(Default)]
pub(super) struct Summaries {
    made: Mutex<HashMap<RepositoryName, (u64, Arc<template::Template>)>>,
}

/// The files of one version, each once.
#[derive(Default)]
struct Files {
    sizes: BTreeMap<Digest, u64>,
    images: Vec<String>,
    states: Vec<String>,
}

impl Repositories {
    /// Every template. A broken one is skipped and named, and never stops the others.
    pub async fn templates(&self) -> Result<Templates, RepositoryError> {
        self.check_known()?;
        let mut list = Templates { templates: Vec::new(), broken: Vec::new() };
        for name in self.shown_names().await? {
            match self.summary_of(&name).await {
                Ok(Some(summary)) => list.templates.push(summary),
                Ok(None) => {}
                Err(error) => list.broken.push(Broken { repository: name, why: error.to_string() }),
            }
        }
        let mut known = self.inner.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != list.broken {
            for broken in &list.broken {
                tracing::error!(repository = %broken.repository, error = %broken.why, "broken template was skipped");
            }
            known.clone_from(&list.broken);
        }
        Ok(list)
    }

    /// Templates that the last listing skipped.
    pub fn broken(&self) -> Vec<Broken> {
        self.inner.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One template with all its versions.
    pub async fn template(&self, id: &TemplateId) -> Result<template::Template, RepositoryError> {
        let repository = self.repository_of(id).await?;
        let made = self.made(&repository).await?.ok_or_else(|| RepositoryError::NoTemplate(id.clone()))?;
        let pulls = self.pulls(&repository).await?;
        Ok(with_pulls(&made, &pulls))
    }

    /// The config of one version, as the JSON it was pushed as.
    pub async fn config(&self, id: &TemplateId, which: &Which) -> Result<Value, RepositoryError> {
        let repository = self.repository_of(id).await?;
        let catalogue = self.catalogue(&repository).await?;
        let (_, version) = catalogue.version(which).ok_or_else(|| no_version(which))?;
        let stored = &catalogue.manifests[&version.digest];
        let parsed = self.parsed(&version.digest, stored.size).await?;
        Ok(self
            .config_of(&repository, &parsed)
            .await?
            .unwrap_or_else(|| Value::Object(serde_json::Map::new())))
    }

    /// Removes a version and every later one. Removing the first removes the template.
    pub async fn revert(&self, id: &TemplateId, to: &Which) -> Result<(Position, Vec<Tag>), RepositoryError> {
        let repository = self.repository_of(id).await?;
        let reverted = self.change(&repository, About::plain(Change::Reverted), |catalogue| {
            still(catalogue, id)?;
            catalogue.revert(to).map_err(|_| no_version(to))
        });
        let (position, gone) = reverted.await?;
        tracing::info!(%repository, versions = gone.len(), "template reverted");
        Ok((position, gone))
    }

    /// Removes a template with all its versions. What other repositories share with it stays.
    pub async fn delete_template(&self, id: &TemplateId) -> Result<Position, RepositoryError> {
        let repository = self.repository_of(id).await?;
        let deleted = self.change(&repository, About::plain(Change::Cleared), |catalogue| {
            still(catalogue, id)?;
            catalogue.clear();
            Ok(())
        });
        let (position, ()) = deleted.await?;
        tracing::info!(%repository, "template deleted");
        Ok(position)
    }

    /// Corrects a template's architecture; holds until a push that says another.
    pub async fn set_arch(&self, id: &TemplateId, arch: Arch) -> Result<Position, RepositoryError> {
        let repository = self.repository_of(id).await?;
        let set = self.change(&repository, About::plain(Change::Arch), |catalogue| {
            still(catalogue, id)?;
            catalogue.arch = Some(arch);
            Ok(())
        });
        Ok(set.await?.0)
    }

    /// The repository with this template id.
    async fn repository_of(&self, id: &TemplateId) -> Result<RepositoryName, RepositoryError> {
        self.check_known()?;
        let hint = self.inner.ids.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Some(name) = hint
            && let Ok(Some(catalogue)) = self.content().catalogue(&name).await
            && catalogue.template.as_ref() == Some(id)
        {
            return Ok(name);
        }
        for name in self.shown_names().await? {
            // A damaged catalogue cannot tell its id; it must not hide the others.
            if let Ok(Some(catalogue)) = self.content().catalogue(&name).await
                && catalogue.template.as_ref() == Some(id)
            {
                let mut ids = self.inner.ids.lock().unwrap_or_else(PoisonError::into_inner);
                ids.insert(id.clone(), name.clone());
                return Ok(name);
            }
        }
        self.inner.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Err(RepositoryError::NoTemplate(id.clone()))
    }

    /// The id a repository gets with its first version: the one it carries if nobody has it, else its own.
    pub(super) async fn free_id(
        &self,
        repository: &RepositoryName,
        carried: Option<TemplateId>,
    ) -> Result<TemplateId, RepositoryError> {
        let derived = derived_id(repository);
        let Some(carried) = carried else { return Ok(derived) };
        let owner = match self.repository_of(&carried).await {
            // Another registry may be giving it away at this moment, on a storage that both write to.
            Err(RepositoryError::NoTemplate(_)) => self.content().name(&carried, repository).await?,
            owner => owner?,
        };
        if owner == *repository {
            return Ok(carried);
        }
        tracing::warn!(%repository, template = %carried, %owner,
            "template id is taken; the repository gets one from its name");
        Ok(derived)
    }

    /// What a manifest says of its template: its annotations, else its config blob.
    pub(super) async fn facts(
        &self,
        repository: &RepositoryName,
        parsed: &Parsed,
    ) -> Result<Facts, RepositoryError> {
        let note = |key: &str| parsed.annotations.get(key).map(String::as_str);
        let config = self.config_of(repository, parsed).await?;
        let written = |key: &str| config.as_ref().and_then(|config| config.get(key)).and_then(Value::as_str);
        let id = written(template::CONFIG_ID).or_else(|| note(template::ID));
        let arch = note(template::ARCH).or_else(|| written("architecture"));
        Ok(Facts { id: id.and_then(|id| TemplateId::parse(id).ok()), arch: arch.and_then(arch_word) })
    }

    /// The config blob, if it is a JSON object of reasonable size. One that may be fetched elsewhere was not
    /// checked by the push: it is read only if this repository has it, as another's is not this one's to show.
    async fn config_of(
        &self,
        repository: &RepositoryName,
        parsed: &Parsed,
    ) -> Result<Option<Value>, RepositoryError> {
        let Some(config) = parsed.config.as_ref().filter(|config| config.size <= CONFIG_LIMIT) else {
            return Ok(None);
        };
        if config.elsewhere {
            let here = self.content().linked(repository, &config.digest).await?;
            if !here || self.content().find(&config.digest).await? != Some(config.size) {
                return Ok(None);
            }
        }
        let bytes = read_small(self.content(), &config.digest, config.size).await?;
        Ok(serde_json::from_slice(&bytes).ok().filter(Value::is_object))
    }

    async fn summary_of(
        &self,
        repository: &RepositoryName,
    ) -> Result<Option<template::TemplateSummary>, RepositoryError> {
        let Some(made) = self.made(repository).await? else { return Ok(None) };
        let pulls = self.pulls(repository).await?;
        Ok(Some(template::TemplateSummary {
            id: made.id.clone(),
            name: made.name.clone(),
            size: made.size,
            arch: made.arch,
            last_pull: made.versions.iter().map(|version| pulled(version, &pulls)).max().unwrap_or(0),
            last_push: made.last_push,
        }))
    }

    /// A template without its pull times.
    async fn made(
        &self,
        repository: &RepositoryName,
    ) -> Result<Option<Arc<template::Template>>, RepositoryError> {
        let Some(catalogue) = self.content().catalogue(repository).await? else { return Ok(None) };
        let summaries = &self.inner.summaries.made;
        let Some(id) = catalogue.template.clone() else {
            summaries.lock().unwrap_or_else(PoisonError::into_inner).remove(repository);
            return Ok(None);
        };
        let known = summaries.lock().unwrap_or_else(PoisonError::into_inner).get(repository).cloned();
        if let Some((generation, made)) = known
            && generation == catalogue.generation
        {
            return Ok(Some(made));
        }
        let made = Arc::new(self.describe(&catalogue, id).await?);
        let mut all = summaries.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(repository.clone(), (catalogue.generation, made.clone()));
        Ok(Some(made))
    }

    async fn describe(
        &self,
        catalogue: &Catalogue,
        id: TemplateId,
    ) -> Result<template::Template, RepositoryError> {
        let mut all = BTreeMap::new();
        let mut versions = Vec::new();
        let mut named = 0;
        let mut in_order: Vec<(&Tag, &Version)> = catalogue.tags.iter().collect();
        in_order.sort_by_key(|(_, version)| version.number);
        for (tag, version) in in_order {
            let parsed = self.parsed(&version.digest, catalogue.manifests[&version.digest].size).await?;
            let files = self.files(catalogue, version.digest).await?;
            let size = total(&files.sizes);
            named += files.sizes.len().max(files.images.len() + files.states.len());
            if named > NAMED {
                let what = format!("the versions of `{}` name {NAMED} layers", catalogue.name);
                return Err(RepositoryError::Bound { what });
            }
            all.extend(files.sizes);
            versions.push(template::Version {
                number: version.number,
                tag: tag.to_string(),
                config_file: format!("{id}.yaml"),
                nvram: "nvram".into(),
                images: files.images,
                state_file: files.states.first().cloned().unwrap_or_default(),
                state_files: files.states,
                description: parsed.annotations.get(template::DESCRIPTION).cloned().unwrap_or_default(),
                size,
                arch: String::new(),
                last_pull: 0,
                last_push: version.pushed,
                creation_date: version.created,
                digest: Some(version.digest),
            });
        }
        Ok(template::Template {
            id: id.to_string(),
            name: catalogue.name.to_string(),
            size: total(&all),
            arch: self.arch_of(catalogue).await?,
            last_pull: 0,
            last_push: versions.iter().map(|version| version.last_push).max().unwrap_or(0),
            versions,
            repository: Some(catalogue.name.clone()),
        })
    }

    /// Set by hand, or of the newest push that says one.
    async fn arch_of(&self, catalogue: &Catalogue) -> Result<Option<Arch>, RepositoryError> {
        if catalogue.arch.is_some() {
            return Ok(catalogue.arch);
        }
        let newest = catalogue.tags.values().max_by_key(|version| (version.pushed, version.number));
        let Some(newest) = newest else { return Ok(None) };
        let parsed = self.parsed(&newest.digest, catalogue.manifests[&newest.digest].size).await?;
        Ok(self.facts(&catalogue.name, &parsed).await?.arch)
    }

    /// The blobs below a manifest, with the names the vendor's API shows.
    async fn files(&self, catalogue: &Catalogue, digest: Digest) -> Result<Files, RepositoryError> {
        let mut files = Files::default();
        let mut seen = HashSet::new();
        let mut ahead = vec![(digest, 0)];
        while let Some((digest, depth)) = ahead.pop() {
            let Some(stored) = catalogue.manifests.get(&digest).filter(|_| seen.insert(digest)) else {
                continue;
            };
            let parsed = self.parsed(&digest, stored.size).await?;
            files.sizes.extend(parsed.blobs().map(|blob| (blob.digest, blob.size)));
            // Ours is base first, as OCI wants; the vendor's lists are newest first.
            for layer in parsed.layers.iter().rev() {
                let name = format!("{}.ank", &layer.digest.hex()[..32]);
                match layer.role {
                    Role::Image => files.images.push(name),
                    Role::State => files.states.push(name),
                    Role::Nvram | Role::Config => {}
                }
            }
            if depth < NESTED {
                ahead.extend(parsed.children.iter().rev().map(|child| (child.digest, depth + 1)));
            }
        }
        Ok(files)
    }
}

/// Layers that lie elsewhere have whatever size their manifest says: the sum must not overflow.
fn total(sizes: &BTreeMap<Digest, u64>) -> u64 {
    let most = i64::MAX.unsigned_abs();
    sizes.values().fold(0u64, |sum, size| sum.saturating_add(*size)).min(most)
}

/// While a change waited for its turn, the template may have made room for another of the same name: that one
/// was not meant.
fn still(catalogue: &Catalogue, id: &TemplateId) -> Result<(), RepositoryError> {
    let same = catalogue.template.as_ref() == Some(id);
    same.then_some(()).ok_or_else(|| RepositoryError::NoTemplate(id.clone()))
}

/// The id of a repository that carries none.
pub(super) fn derived_id(repository: &RepositoryName) -> TemplateId {
    let derived = uuid::Uuid::new_v5(&NAMESPACE, repository.as_str().as_bytes()).to_string();
    TemplateId::parse(derived).unwrap_or_else(|_| TemplateId::random())
}

fn arch_word(text: &str) -> Option<Arch> {
    match text {
        "amd64" | "x86_64" => Some(Arch::Amd64),
        "arm64" | "aarch64" => Some(Arch::Arm64),
        _ => None,
    }
}

fn with_pulls(made: &template::Template, pulls: &Pulls) -> template::Template {
    let mut template = made.clone();
    for version in &mut template.versions {
        version.last_pull = pulled(version, pulls);
    }
    template.last_pull = template.versions.iter().map(|version| version.last_pull).max().unwrap_or(0);
    template
}

/// When a version was last pulled; 0 when never. An older pull was of a deleted version with the same tag.
fn pulled(version: &template::Version, pulls: &Pulls) -> i64 {
    let at = pulls.get(version.tag.as_str()).copied();
    at.filter(|at| *at >= version.creation_date).unwrap_or(0)
}

/// The command line prints this text and looks for its beginning (`reference/registry-api.md` §2.1).
fn no_version(which: &Which) -> RepositoryError {
    RepositoryError::NoVersion(match which {
        Which::Newest => "Did not find any versions".into(),
        Which::Tag(tag) => format!("Did not find any versions with tag {tag}"),
        Which::Number(number) => format!("Did not find any versions with number {number}"),
    })
}
