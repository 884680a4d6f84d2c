//! A node's settings and last report, and its presence.

use serde::{Deserialize, Serialize};

use crate::{
    model::{GroupId, NodeId, Timestamp},
    wire::agent::{NodeFacts, NodeSettings},
};

/// One node: its settings and its last full report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id.
    pub id: NodeId,
    /// What holds for it.
    pub settings: NodeSettings,
    /// 0 = default.
    pub vcpu_override: u32,
    /// GB; 0 = default.
    pub ram_override: u64,
    /// Groups that its agent names.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Groups that an operator has put it into; one that is gone counts for nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_ids: Vec<GroupId>,
    /// Groups of its agent's credential; noted while resource management is on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caller_groups: Vec<String>,
    /// What a start asks of processors and memory counts for this node's room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force_overrides: bool,
    /// Settings that were set by `POST /api/v1/node/config`: a later join does not undo them.
    #[serde(default)]
    pub fixed: Fixed,
    /// What it is.
    pub facts: NodeFacts,
    /// When it was first seen.
    pub joined: Timestamp,
    /// Its last report that was written down, for one that says nothing new is not; of a silent node when it was last
    /// heard.
    pub reported: Timestamp,
    /// It is taken to be gone, or would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absence: Option<Absence>,
    /// An operator has said that it is gone for good: nothing of it runs. Its next report takes that back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirmed: bool,
}

/// Which settings an operator has set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fixed {
    /// The name.
    pub name: bool,
    /// The address.
    pub host: bool,
    /// Capacity.
    pub capacity: bool,
    /// How room is counted.
    pub capacity_mode: bool,
    /// Processor override.
    pub vcpu_override: bool,
    /// Memory override.
    pub ram_override: bool,
    /// Drain mode.
    pub drain_mode: bool,
    /// Its groups.
    pub groups: bool,
}

/// What was decided about a silent node. Its next report clears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Absence {
    /// Too many fell silent at once: the fault is taken to be ours, nothing of it is failed.
    Held,
    /// Its instances are failed or given to others.
    Lost,
}

/// A node is there: a key under the node's lease, shared by all controllers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The lease, so that any controller can keep it alive.
    pub lease: i64,
    /// The agent's session that speaks for the node.
    pub session: String,
    /// Sessions before this one, newest last: one that comes back is a second agent with the same node id.
    #[serde(default)]
    pub former: Vec<String>,
    /// Counts its offers: each offer is a write here too, so that two controllers cannot both fill its last place.
    #[serde(default)]
    pub offers: u64,
}
