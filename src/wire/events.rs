//! The event log: `GET /switchyard/v1/events`, and what the receiver of `[events] url` is posted (`docs/events.md`).

use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum EventType {
    /// A call of the API.
    ApiAction,
    /// The cloud itself.
    SystemAction,
}

/// What was done, in the vendor's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum Action {
    /// Instances were asked for.
    StartVM,
    /// An instance was to be deleted.
    TerminateVM,
    /// Nodes were to pull a template.
    DistributeTemplateToNodes,
    /// A template, or versions of it, were deleted.
    DeleteRegistryVm,
    /// A node's settings were changed.
    ConfigNode,
    /// A node was forgotten.
    DeleteNode,
    /// An instance runs.
    VMStarted,
    /// An instance did not come to run.
    VMFailedToStart,
    /// An instance is deleted.
    VMTerminated,
    /// A node has pulled a template.
    TemplatePulled,
    /// A node has left.
    NodeUnregistered,
}

impl Action {
    /// Who does such a thing.
    pub fn of(self) -> EventType {
        match self {
            Self::StartVM
            | Self::TerminateVM
            | Self::DistributeTemplateToNodes
            | Self::DeleteRegistryVm
            | Self::ConfigNode
            | Self::DeleteNode => EventType::ApiAction,
            Self::VMStarted
            | Self::VMFailedToStart
            | Self::VMTerminated
            | Self::TemplatePulled
            | Self::NodeUnregistered => EventType::SystemAction,
        }
    }
}

/// One event. What it is not about is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Event {
    /// Its own; the same each time it is told.
    pub id: String,
    /// When.
    pub time: Timestamp,
    /// Who did it.
    #[serde(rename = "type")]
    pub of: EventType,
    /// What.
    pub action: Action,
    /// Instances, at most 100 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instance_ids: Vec<String>,
    /// How many instances, of a start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// The node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// The template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_id: Option<String>,
    /// Its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The free text of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// What more there is to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Event {
    /// One about nothing in particular yet.
    pub fn new(action: Action, time: Timestamp) -> Self {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        Self {
            // In the order of time, so that the store's keys are.
            id: format!("{:020}-{}", time.unix_nanos(), unique.get(..12).unwrap_or(&unique)),
            time,
            of: action.of(),
            action,
            instance_ids: Vec::new(),
            count: None,
            node_id: None,
            template_id: None,
            tag: None,
            external_id: None,
            message: String::new(),
        }
    }
}

/// An event with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Placed {
    /// The revision that it came with.
    pub revision: i64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Events {
    /// Up to where the first page of these saw everything: whoever watches from here on misses nothing.
    pub revision: i64,
    /// The oldest first.
    pub events: Vec<Placed>,
    /// `cursor` of the next page; left out on the last one. A page may be short, or empty, and not the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
