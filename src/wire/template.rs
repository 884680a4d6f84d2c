//! Templates: the registry's `/registry/…` and the controller's `/api/v1/registry/…`.

use serde::{Deserialize, Serialize};

use super::lenient;
use crate::model::{Arch, Digest, RepositoryName};

// How a template looks as an OCI artifact: `docs/template-format.md`.

/// Artifact type of a template's manifest.
pub const ARTIFACT: &str = "application/vnd.switchyard.template.v1";
/// Media type of a template's config blob.
pub const CONFIG: &str = "application/vnd.switchyard.template.config.v1+json";
/// Media type of a disk layer.
pub const IMAGE_LAYER: &str = "application/vnd.switchyard.template.image.v1";
/// Media type of a suspend state.
pub const STATE_LAYER: &str = "application/vnd.switchyard.template.state.v1";
/// Media type of the NVRAM.
pub const NVRAM_LAYER: &str = "application/vnd.switchyard.template.nvram.v1";
/// Layer annotation: `image`, `state`, `nvram` or `config`; stronger than the media type.
pub const ROLE: &str = "org.switchyard.template.role";
/// Manifest annotation, and key of the config blob's `switchyard.template.id`: the template's id.
pub const ID: &str = "org.switchyard.template.id";
/// Manifest annotation: `amd64` or `arm64`.
pub const ARCH: &str = "org.switchyard.template.arch";
/// Manifest annotation of the OCI specification: free text.
pub const DESCRIPTION: &str = "org.opencontainers.image.description";
/// Key of the template's id in the config blob.
pub const CONFIG_ID: &str = "switchyard.template.id";

/// `GET /registry/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct RegistryStatus {
    /// `Running`.
    pub status: String,
    /// Ours, with the compatibility level in front.
    pub version: String,
}

/// `GET /registry/disk` and the controller's copy of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Disk {
    /// Bytes.
    pub free: u64,
    /// Bytes.
    pub total: u64,
}

/// What a revert asks: the version and every later one go. Clients spell it in all these ways
/// (`reference/controller-api.md` §6).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct RevertTemplate {
    /// The template; required.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// By tag.
    #[serde(deserialize_with = "lenient::word", skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The same; an older client's spelling.
    #[serde(deserialize_with = "lenient::word", skip_serializing_if = "Option::is_none")]
    pub tag_name: Option<String>,
    /// By number.
    #[serde(deserialize_with = "lenient::integer", skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The same; a sample's spelling.
    #[serde(deserialize_with = "lenient::integer", skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
}

impl RevertTemplate {
    /// The keys that say which version; without any of them it is the newest.
    const WHICH: [&str; 4] = ["tag", "tag_name", "version", "number"];

    /// Whether it is beyond doubt which version is meant: that one and all later ones are deleted. A key that the query has
    /// with nothing behind it is as empty as one of the body.
    ///
    /// # Errors
    /// What is empty or contradicts what, for whoever has asked.
    pub fn beyond_doubt(&self, is_empty: impl Fn(&str) -> bool) -> Result<(), String> {
        let differ = |one: bool, other: bool, same: bool| one && other && !same;
        let tag = self.tag.is_some() || self.tag_name.is_some();
        let number = self.version.is_some() || self.number.is_some();
        let of_body = [("tag", &self.tag), ("tag_name", &self.tag_name)];
        let of_body = of_body.into_iter().find(|(_, tag)| tag.as_deref() == Some("")).map(|(key, _)| key);
        if let Some(key) = Self::WHICH.into_iter().find(|key| is_empty(key)).or(of_body) {
            return Err(format!("`{key}` is empty: say which version, or leave it out for the newest"));
        }
        let contradicts = if differ(self.tag.is_some(), self.tag_name.is_some(), self.tag == self.tag_name) {
            "`tag` and `tag_name` differ: give one of them"
        } else if differ(self.version.is_some(), self.number.is_some(), self.version == self.number) {
            "`version` and `number` differ: give one of them"
        } else if tag && number {
            "a tag and a number are given: give one of them"
        } else {
            return Ok(());
        };
        Err(contradicts.into())
    }
}

/// One element of `GET /registry/v2/vm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct TemplateSummary {
    /// Template id.
    pub id: String,
    /// Template name: its repository.
    pub name: String,
    /// Bytes of all its files, each once.
    #[serde(default)]
    pub size: u64,
    /// Of the newest push; left out when not known.
    #[serde(default, deserialize_with = "lenient::arch", skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// Unix seconds; 0 when never.
    #[serde(default)]
    pub last_pull: i64,
    /// Unix seconds.
    #[serde(default)]
    pub last_push: i64,
}

/// A whole template: `GET /registry/v2/vm?id=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Template {
    /// Template id.
    pub id: String,
    /// Template name: its repository.
    pub name: String,
    /// Oldest first.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub versions: Vec<Version>,
    /// Bytes of all its files, each once.
    #[serde(default)]
    pub size: u64,
    /// Of the newest push; left out when not known.
    #[serde(default, deserialize_with = "lenient::arch", skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// Unix seconds; 0 when never.
    #[serde(default)]
    pub last_pull: i64,
    /// Unix seconds.
    #[serde(default)]
    pub last_push: i64,
    /// The repository in the OCI API; only our own registries say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryName>,
}

/// One version of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Version {
    /// From 0, in the order of first publication.
    pub number: i64,
    /// Its tag; unique within the template.
    pub tag: String,
    /// `<template id>.yaml`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub config_file: String,
    /// `nvram`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub nvram: String,
    /// Layer file names, newest first.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub images: Vec<String>,
    /// Suspend-state file names.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub state_files: Vec<String>,
    /// The current one; empty when none.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub state_file: String,
    /// Free text.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub description: String,
    /// Bytes of this version's files.
    #[serde(default)]
    pub size: u64,
    /// Usually empty.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub arch: String,
    /// Unix seconds; 0 when never.
    #[serde(default)]
    pub last_pull: i64,
    /// Unix seconds.
    #[serde(default)]
    pub last_push: i64,
    /// Unix seconds.
    #[serde(default)]
    pub creation_date: i64,
    /// The manifest; only our own registries say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}
