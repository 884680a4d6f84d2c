//! Bodies of the OCI Distribution API v1.1: errors, tag lists, and as much of a manifest as we must read.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Media type of an image manifest.
pub const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index.
pub const IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An error answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    /// At least one.
    pub errors: Vec<ErrorItem>,
}

/// One error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorItem {
    /// One of the specification's codes.
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// What else helps: cause, next step, request id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
}

/// `GET /v2/<name>/tags/list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagList {
    /// Repository.
    pub name: String,
    /// In lexical order.
    pub tags: Vec<String>,
}

/// `GET /v2/_catalog`, an older part of the API that clients still use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryList {
    /// In lexical order.
    pub repositories: Vec<String>,
}

/// `GET /v2/<name>/referrers/<digest>`: an index of descriptors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrers {
    /// 2.
    pub schema_version: u32,
    /// [`IMAGE_INDEX`].
    pub media_type: String,
    /// Manifests whose subject was asked for.
    pub manifests: Vec<Descriptor>,
}

/// Go writes `null` for what is empty.
fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// What we read of a manifest or an index; everything else in it is kept but not looked at.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Manifest {
    /// Its own media type.
    pub media_type: Option<String>,
    /// The kind of artifact.
    pub artifact_type: Option<String>,
    /// The config blob (image manifests).
    pub config: Option<Descriptor>,
    /// The layers (image manifests).
    #[serde(deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
    /// Other manifests (indexes).
    #[serde(deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
    /// The manifest this one is about.
    pub subject: Option<Descriptor>,
    /// Free.
    #[serde(deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Of the content.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub media_type: String,
    /// Kept as text: a manifest may name algorithms that we do not store by.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// Where else it can be fetched; it need not be in the registry then.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// The kind of artifact, in referrers lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
