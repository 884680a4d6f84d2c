//! The saving of a VM as a version of a template.

use serde::{Deserialize, Serialize};

use crate::{
    model::{CommandId, ImageId, InstanceId, NodeId, TemplateId, Timestamp},
    wire::{image::ImageStatus, vm::ScriptResult},
};

/// One saving. Its node's part is a [`super::CommandRecord`] with the same id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Its id.
    pub id: ImageId,
    /// The instance.
    pub instance: InstanceId,
    /// Its node.
    pub node: NodeId,
    /// The VM on it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vm: String,
    /// Where it is pushed to.
    pub registry: String,
    /// The template that gets the version; none: one of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TemplateId>,
    /// The new template's name; empty with a target.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub new_template_name: String,
    /// The version's tag.
    pub tag: String,
    /// Shown with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// As asked.
    pub suspend: bool,
    /// As asked.
    #[serde(default)]
    pub do_suspend_test: bool,
    /// As asked.
    #[serde(default)]
    pub revert_before_push: bool,
    /// As asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revert_tag: String,
    /// As asked.
    #[serde(default)]
    pub cancel_on_script_failure: bool,
    /// How it stands.
    pub status: ImageStatus,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// How the script ended, with the end of its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptResult>,
    /// Chunks of all of the output, in `bulk/`.
    #[serde(default)]
    pub output_chunks: usize,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
}

impl ImageRecord {
    /// What its node's part is known by.
    pub fn command(&self) -> Result<CommandId, crate::model::IdError> {
        CommandId::parse(self.id.as_str())
    }
}
