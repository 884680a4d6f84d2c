//! A group of callers, and what it may do.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::wire::permission::ResourceType;

/// One group. Callers are in it by what their certificate or API key says, whether it has a record or not; without one
/// it may do nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionRecord {
    /// Its name.
    pub name: String,
    /// What it may do, by names: one that this controller does not know is kept.
    #[serde(default)]
    pub permissions: BTreeSet<String>,
    /// What it may do with which nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, BTreeSet<String>>,
    /// What it may do with which templates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub templates: BTreeMap<String, BTreeSet<String>>,
}

impl PermissionRecord {
    /// Its resources of this type.
    pub fn of(&self, kind: ResourceType) -> &BTreeMap<String, BTreeSet<String>> {
        match kind {
            ResourceType::Node => &self.nodes,
            ResourceType::Template => &self.templates,
        }
    }
}
