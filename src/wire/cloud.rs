//! Our own views of the cloud: `/switchyard/v1/instances`, `…/nodes`, `…/watch` (`docs/instances.md`).

use serde::{Deserialize, Serialize};

use super::{command::CommandState, node::Node, vm::Vm};
use crate::model::{CommandId, InstanceState, NodeId, Progress, Timestamp};

/// A page of instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Instances {
    /// Up to where the first page of these saw everything: whoever watches from here on misses nothing.
    pub revision: i64,
    /// The oldest first.
    pub instances: Vec<Instance>,
    /// `cursor` of the next page; left out on the last one. A page may be short, or empty, and not the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A page of nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Nodes {
    /// Up to where the first page of these saw everything: whoever watches from here on misses nothing.
    pub revision: i64,
    /// In order of their ids.
    pub nodes: Vec<Node>,
    /// `cursor` of the next page; left out on the last one. A page may be short, or empty, and not the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An instance, with what only we know of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Instance {
    /// As the vendor's API shows it.
    #[serde(flatten)]
    pub vm: Vm,
    /// The template's name at the start.
    pub template_name: String,
    /// 1 to 10000, lower is sooner.
    pub priority: u32,
    /// The number of its newest offer; 0 before the first.
    pub attempt: u32,
}

/// The first event of a watch, `from`, and every `data` that speaks of a place alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Place {
    /// What follows has happened after this revision.
    pub revision: i64,
}

/// The last event of a watch, `end`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct End {
    /// Everything up to this revision was told: where to go on.
    pub revision: i64,
    /// `stopping`: this controller stops, another one goes on; `behind`: changes were taken too slowly, list anew.
    pub why: String,
}

/// The answer when changes from a revision are no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Gone {
    /// The newest revision.
    pub revision: i64,
    /// The oldest from which this controller can still tell.
    pub oldest: i64,
}

/// An event `instance` of a watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct InstanceChange {
    /// When it happened.
    pub revision: i64,
    /// Which.
    pub id: String,
    /// As it is then; `null` when it is gone.
    pub instance: Option<Instance>,
}

/// An event `node` of a watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NodeChange {
    /// When it happened.
    pub revision: i64,
    /// Which.
    pub id: String,
    /// As it is then or a little later; `null` when it is gone.
    pub node: Option<Node>,
}

/// Why an instance is where it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Why {
    /// The instance.
    pub instance_id: String,
    /// Its state.
    pub state: InstanceState,
    /// In one sentence.
    pub why: String,
    /// Its node, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// How often it was offered to a node.
    pub attempt: u32,
    /// Where it stands in the queue; left out when it does not wait for a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueuePlace>,
    /// Each node and what is in the way, the nearest to fitting first; empty when it does not wait for a node.
    pub nodes: Vec<NodeWhy>,
    /// Nodes in all: of more than 1000 only the first are listed.
    pub nodes_total: usize,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct QueuePlace {
    /// How many come first, whatever they ask for.
    pub ahead: usize,
    /// How many of those ask for the same: what they take, this one cannot have.
    pub ahead_of_its_kind: usize,
    /// How many wait, this one as well.
    pub waiting: usize,
    /// 1 to 10000, lower is sooner.
    pub priority: u32,
    /// When it was asked for.
    pub since: Timestamp,
    /// For how long it has waited.
    pub age_seconds: f64,
    /// Its priority now: each second of waiting makes it sooner.
    pub aged_priority: f64,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// A node, and why it does not take an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NodeWhy {
    /// Which.
    pub node_id: String,
    /// Its name.
    pub node_name: String,
    /// Nothing is in the way.
    pub fits: bool,
    /// `other-node`, `architecture`, `group`, `usb`, `silent`, `drained`, `full`, `updating`, `pulling`, `usb-busy`, `reserved` and so on; empty when it fits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same in words.
    pub why: String,
    /// It has the template on its disk.
    pub has_template: bool,
    /// Bytes of the template's layers that are on its disk; left out when none are known to be.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub layers_there: u64,
    /// It has given this instance back before.
    pub gave_back: bool,
}

/// What a node waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NodeWaits {
    /// Which.
    pub node_id: NodeId,
    /// Its name.
    pub node_name: String,
    /// It would take a start that suits it.
    pub takes_starts: bool,
    /// `silent`, `drained`, `full`, `updating`, `pulling`, `reserved`; empty when it takes starts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same in words.
    pub why: String,
    /// What it has to do beside starts and has not ended, the oldest first.
    pub commands: Vec<CommandWaits>,
}

/// What one command of a node waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct CommandWaits {
    /// Which.
    pub id: CommandId,
    /// `pull`, `remove`, `restart`, `save`, `update`.
    pub what: String,
    /// How far it is.
    pub state: CommandState,
    /// Of it.
    pub progress: Progress,
    /// When it was given.
    pub created: Timestamp,
    /// When it is given up, if the node comes no further with anything until then.
    pub given_up: Timestamp,
    /// What it waits for, in words.
    pub why: String,
}
