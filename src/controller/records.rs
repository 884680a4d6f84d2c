//! What is stored: versioned JSON, `{"v":1,…}`, each at most [`store::MAX_VALUE`] encoded.
//!
//! A record of a version that this program does not know is never rewritten and never deleted by it: it is
//! shown as far as it can be read, and its writers are newer controllers. Every record carries the id of the
//! write that made it, by which a writer whose answer was lost knows its own.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    model::{
        Arch, Attempt, Digest, InstanceId, InstanceState, NodeId, Progress, RepositoryName, StartId,
        TemplateId, Timestamp,
    },
    store::MAX_VALUE,
    wire::{
        agent::{NodeFacts, NodeSettings, OnScriptFailure},
        node::CapacityMode,
        vm::{ScriptResult, VmInfo},
    },
};

/// The version that this program writes.
pub const VERSION: u32 = 1;

/// Why a value is not a record we can work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A newer controller wrote it: it is left alone.
    #[error("record has version {0}, this controller knows up to {VERSION}")]
    Newer(u32),
    /// Not what we write.
    #[error("record cannot be read: {0}")]
    Broken(String),
    /// Over [`MAX_VALUE`] once encoded.
    #[error("record has {0} bytes, the most is {MAX_VALUE}")]
    TooLarge(usize),
}

/// Names one write, so that a writer whose answer was lost knows its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriteId(pub String);

impl WriteId {
    /// A new random one.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }
}

#[derive(Serialize)]
struct Outgoing<'a, T> {
    v: u32,
    w: &'a WriteId,
    #[serde(flatten)]
    record: &'a T,
}

#[derive(Deserialize)]
struct Head {
    v: u32,
    #[serde(default)]
    w: WriteId,
}

/// Encodes a record for the store, marked with the write that makes it.
pub fn encode<T: Serialize>(record: &T, write: &WriteId) -> Result<Bytes, RecordError> {
    let bytes = serde_json::to_vec(&Outgoing { v: VERSION, w: write, record })
        .map_err(|error| RecordError::Broken(error.to_string()))?;
    if bytes.len() > MAX_VALUE {
        return Err(RecordError::TooLarge(bytes.len()));
    }
    Ok(bytes.into())
}

/// Reads a stored record.
pub fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordError> {
    let broken = |error: serde_json::Error| RecordError::Broken(error.to_string());
    let head: Head = serde_json::from_slice(value).map_err(broken)?;
    if head.v > VERSION {
        return Err(RecordError::Newer(head.v));
    }
    serde_json::from_slice(value).map_err(broken)
}

/// Which write made a stored value; empty when it cannot be told.
pub fn written_by(value: &[u8]) -> WriteId {
    serde_json::from_slice::<Head>(value).map(|head| head.w).unwrap_or_default()
}

/// What was asked for and never changes; the same for all instances of one start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Template id.
    pub template: TemplateId,
    /// Template name.
    pub template_name: String,
    /// Where nodes pull it from.
    pub repository: RepositoryName,
    /// The tag that was resolved.
    pub tag: String,
    /// Its number.
    pub version: i64,
    /// The manifest it stood for at the start.
    pub manifest: Digest,
    /// The template's architecture, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// Only on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Node group; empty when none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group_id: String,
    /// 1..=10000, lower is sooner.
    pub priority: u32,
    /// The VM's own name, as a pattern.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name_template: String,
    /// Virtual processors, if not the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u32>,
    /// Memory in MB, if not the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram: Option<u64>,
    /// MAC address; empty when none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    /// VLAN; empty when none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vlan: String,
    /// USB device; empty when none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub usb_device: String,
    /// The startup script, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptRef>,
}

/// A startup script in `bulk/`, and how to run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptRef {
    /// The folder of its chunks: not the start's id, or another body under the same key would overwrite it.
    pub at: StartId,
    /// How many chunks.
    pub chunks: usize,
    /// Of the whole script, decoded.
    pub digest: Digest,
    /// Run at boot instead of once the network is up.
    pub at_boot: bool,
    /// Its result is reported, and a non-zero exit fails the instance.
    pub monitored: bool,
    /// Only when monitored.
    pub timeout_seconds: u32,
    /// What to do with the VM when it fails.
    pub on_failure: OnScriptFailure,
}

/// Where an instance is in its life; each phase holds what only it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Phase {
    /// Waits for a node.
    Queued {
        /// Since when.
        since: Timestamp,
    },
    /// Put before a node; not yet its right to act.
    Offered {
        /// The node.
        node: NodeId,
    },
    /// The node has taken it; nothing runs yet.
    Claimed {
        /// The node.
        node: NodeId,
        /// It pulls the template.
        #[serde(default)]
        pulling: bool,
        /// Of the pull.
        #[serde(default)]
        progress: Progress,
    },
    /// The node may start the VM: from here on no other node ever gets it.
    Starting {
        /// The node.
        node: NodeId,
    },
    /// Up.
    Started {
        /// The node.
        node: NodeId,
    },
    /// Failed; the record's message says why.
    Failed {
        /// The node that still has, or may have, something of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
    },
    /// To be deleted.
    Terminating {
        /// The node that has to confirm it; none when no node had it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
        /// Since when.
        since: Timestamp,
    },
    /// Deleted by its node.
    Terminated {
        /// The node it was on.
        node: NodeId,
        /// Since when.
        since: Timestamp,
    },
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its id.
    pub id: InstanceId,
    /// The start that made it.
    pub start: StartId,
    /// Where it is in its life.
    pub phase: Phase,
    /// The number of its newest offer; 0 before the first.
    pub attempt: Attempt,
    /// Error text, or why it waits; empty when there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// As given.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// When the start was accepted.
    pub created: Timestamp,
    /// Last change.
    pub updated: Timestamp,
    /// What was asked for.
    pub spec: InstanceSpec,
    /// The VM as its node saw it last; kept when the instance fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<VmInfo>,
    /// How its monitored script ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptResult>,
}

impl InstanceRecord {
    /// What the API says of it.
    pub fn state(&self) -> InstanceState {
        match &self.phase {
            Phase::Queued { .. } | Phase::Offered { .. } | Phase::Starting { .. } => {
                InstanceState::Scheduling
            }
            Phase::Claimed { pulling: true, .. } => InstanceState::Pulling,
            Phase::Claimed { pulling: false, .. } => InstanceState::Scheduling,
            Phase::Started { .. } => InstanceState::Started,
            Phase::Failed { .. } => InstanceState::Error,
            Phase::Terminating { .. } => InstanceState::Terminating,
            Phase::Terminated { .. } => InstanceState::Terminated,
        }
    }

    /// The node it is, was or may be on.
    pub fn node(&self) -> Option<&NodeId> {
        match &self.phase {
            Phase::Queued { .. } => None,
            Phase::Offered { node }
            | Phase::Claimed { node, .. }
            | Phase::Starting { node }
            | Phase::Started { node }
            | Phase::Terminated { node, .. } => Some(node),
            Phase::Failed { node } | Phase::Terminating { node, .. } => node.as_ref(),
        }
    }

    /// How much of the template is pulled.
    pub fn progress(&self) -> Progress {
        match &self.phase {
            Phase::Claimed { progress, .. } => *progress,
            _ => Progress::NONE,
        }
    }

    /// Whether it takes one of its node's places.
    pub fn takes_room(&self) -> bool {
        matches!(
            self.phase,
            Phase::Offered { .. }
                | Phase::Claimed { .. }
                | Phase::Starting { .. }
                | Phase::Started { .. }
                | Phase::Terminating { node: Some(_), .. }
        )
    }
}

/// One start request: everything that is needed to make its instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartRecord {
    /// Of the body as understood, so that the same key with another body is told.
    pub body: Digest,
    /// All ids, in the order of the answer.
    pub ids: Vec<InstanceId>,
    /// How many of them, from the front, are made.
    pub made: usize,
    /// When it was accepted.
    pub created: Timestamp,
    /// Not forgotten before; extended while its instances wait.
    pub expires: Timestamp,
    /// Label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// As given.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// What was asked for.
    pub spec: InstanceSpec,
}

impl StartRecord {
    /// An instance as it is made: what lists show of one that is not made yet.
    pub fn instance(&self, start: &StartId, id: &InstanceId) -> InstanceRecord {
        InstanceRecord {
            id: id.clone(),
            start: start.clone(),
            phase: Phase::Queued { since: self.created },
            attempt: 0,
            message: String::new(),
            name: self.name.clone(),
            external_id: self.external_id.clone(),
            metadata: self.metadata.clone(),
            created: self.created,
            updated: self.created,
            spec: self.spec.clone(),
            info: None,
            script: None,
        }
    }

    /// The ids whose instances are not made yet.
    pub fn unmade(&self) -> &[InstanceId] {
        self.ids.get(self.made..).unwrap_or_default()
    }
}

/// A pending start: only what ordering needs, the rest is in the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// 1..=10000, lower is sooner.
    pub priority: u32,
    /// When the start was accepted: an instance that comes back to the queue keeps its age.
    pub since: Timestamp,
}

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
    /// Node groups by name.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Kept and handed to the agent.
    #[serde(default)]
    pub disable_central_logging: bool,
    /// Settings that were set by `POST /api/v1/node/config`: a later join does not undo them.
    #[serde(default)]
    pub fixed: Fixed,
    /// What it is.
    pub facts: NodeFacts,
    /// When it was first seen.
    pub joined: Timestamp,
    /// Its last report that was written down; not each one is.
    pub reported: Timestamp,
    /// It is taken to be gone, or would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absence: Option<Absence>,
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

impl NodeRecord {
    /// How its room is counted.
    pub fn capacity_mode(&self) -> CapacityMode {
        self.settings.capacity_mode
    }
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

/// A live server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where it listens.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Made at each start, so that a name taken twice is seen.
    pub run: String,
}

/// Who runs a duty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The member's name.
    pub name: String,
    /// The member's run.
    pub run: String,
}
