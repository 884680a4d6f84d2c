//! Bodies of the OCI Distribution API v1.1: errors, tag lists, and as much of a manifest as we must read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    pub layers: Vec<Descriptor>,
    /// Other manifests (indexes).
    pub manifests: Vec<Descriptor>,
    /// The manifest this one is about.
    pub subject: Option<Descriptor>,
    /// Free.
    pub annotations: BTreeMap<String, String>,
}

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Of the content.
    #[serde(default)]
    pub media_type: String,
    /// Kept as text: a manifest may name algorithms that we do not store by.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// Free.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
