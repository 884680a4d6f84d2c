//! One instance: what was asked for, and where it is in its life.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    model::{
        Arch, Attempt, Digest, ImageId, InstanceId, InstanceState, LayerId, NodeId, Progress, RepositoryName,
        StartId, TemplateId, Timestamp,
    },
    wire::{
        agent::{Hardware, OnScriptFailure},
        vm::{ScriptResult, VmInfo},
    },
};

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
    /// The layers that nodes are asked for: a node that has some of them has less to fetch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerId>,
    /// Only on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Node group; empty when none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group_id: String,
    /// Group of callers whose start it is, with resource management; empty without.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub permission_group: String,
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
    /// `shared`, `host` and so on; empty: the template's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network_mode: String,
    /// As given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Map<String, Value>>,
    /// As given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_forwarding_override: Option<Vec<Map<String, Value>>>,
    /// What else was asked of the VM's devices; what has a field above is empty in it.
    #[serde(default, skip_serializing_if = "Hardware::is_empty")]
    pub devices: Hardware,
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

/// All that a script has said, in `bulk/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRef {
    /// How many chunks.
    pub chunks: usize,
    /// Of all of them.
    pub digest: Digest,
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
        /// The VM runs there, or may: it takes a place until it is deleted. Once the node has said that it does not, it never
        /// does again. Controllers of an earlier version do not write this; the next report of the node mends it.
        #[serde(default = "until_heard")]
        running: bool,
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

fn until_heard() -> bool {
    true
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
    /// How its monitored script ended, with the end of its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptResult>,
    /// All that it has said, if that is more than `script` has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputRef>,
    /// It is being saved: as long as it is started, the API shows it as Pushing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saving: Option<ImageId>,
    /// Nodes that gave it back, newest last: they get it again only after a while. At most [`Self::REFUSERS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_by: Vec<NodeId>,
    /// Attempts that came to nothing: a node gave it back, or had taken it and lost it before its VM was started. An
    /// offer that was never claimed is none.
    #[serde(default, skip_serializing_if = "is_none")]
    pub attempts_failed: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_none(count: &u32) -> bool {
    *count == 0
}

impl InstanceSpec {
    /// What was asked of the VM's devices.
    pub fn hardware(&self) -> Hardware {
        Hardware {
            mac_address: self.mac_address.clone(),
            vlan_tag: self.vlan.clone(),
            network_mode: self.network_mode.clone(),
            usb_device: self.usb_device.clone(),
            disk: self.disk.clone(),
            port_forwarding_override: self.port_forwarding_override.clone(),
            ..self.devices.clone()
        }
    }
}

impl InstanceRecord {
    /// How many nodes that gave it back are remembered; the oldest is forgotten first.
    pub const REFUSERS: usize = 8;

    /// In how many chunks there is all that its script has said.
    pub fn output_chunks(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.chunks)
    }

    /// This one in another phase, changed now.
    pub fn in_phase(&self, phase: Phase, now: Timestamp) -> Self {
        Self { phase, updated: now, ..self.clone() }
    }

    /// Back in the queue, where it keeps its age.
    pub fn queued_again(&self, why: &str, now: Timestamp) -> Self {
        Self { message: why.to_owned(), ..self.in_phase(Phase::Queued { since: now }, now) }
    }

    /// Back in the queue, after a node that could have started it did not.
    pub fn attempt_failed(&self, why: &str, now: Timestamp) -> Self {
        Self { attempts_failed: self.attempts_failed.saturating_add(1), ..self.queued_again(why, now) }
    }

    /// Itself, unless it would wait for another attempt and `most` have come to nothing: then it has failed, for the
    /// reason of the last one.
    pub fn bounded(self, most: u32) -> Self {
        if !self.is_queued() || self.attempts_failed < most {
            return self;
        }
        let message = format!(
            "{} attempts to start it came to nothing, and no more are made (`limits.attempts`); the last one: {}",
            self.attempts_failed, self.message
        );
        Self { message, phase: Phase::Failed { node: None, running: false }, ..self }
    }

    /// Failed, because no node took it in time; nothing of it is anywhere. One that a node has taken is left alone.
    pub fn never_taken(&self, why: &str, now: Timestamp) -> Option<Self> {
        let waits = matches!(self.phase, Phase::Queued { .. } | Phase::Offered { .. });
        let failed = self.in_phase(Phase::Failed { node: None, running: false }, now);
        waits.then(|| Self { message: why.to_owned(), ..failed })
    }

    /// Failed, with what its node may still have of it; `running`: its VM may still run there.
    pub fn failed(&self, why: &str, running: bool, now: Timestamp) -> Self {
        let node = self.node().cloned();
        Self { message: why.to_owned(), ..self.in_phase(Phase::Failed { node, running }, now) }
    }

    /// Bytes that it holds, roughly.
    pub fn weight(&self) -> usize {
        const FIELDS: usize = 2 << 10;
        let script = self.script.as_ref().map_or(0, |script| {
            script.stdout.len() + script.stderr.len() + script.errors.iter().map(String::len).sum::<usize>()
        });
        let noted =
            self.metadata.iter().map(|(key, value)| 64 + key.len() + value.as_str().map_or(0, str::len));
        let said = [&self.name, &self.external_id].into_iter().flatten().map(String::len).sum::<usize>();
        let layers = self.spec.layers.len() * size_of::<LayerId>();
        FIELDS + script + noted.sum::<usize>() + said + self.message.len() + layers
    }

    /// What the API says of it.
    pub fn state(&self) -> InstanceState {
        match &self.phase {
            Phase::Queued { .. } | Phase::Offered { .. } | Phase::Starting { .. } => {
                InstanceState::Scheduling
            }
            Phase::Claimed { pulling: true, .. } => InstanceState::Pulling,
            Phase::Claimed { pulling: false, .. } => InstanceState::Scheduling,
            Phase::Started { .. } if self.saving.is_some() => InstanceState::Pushing,
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
            Phase::Failed { node, .. } | Phase::Terminating { node, .. } => node.as_ref(),
        }
    }

    /// How much of the template is pulled.
    pub fn progress(&self) -> Progress {
        match &self.phase {
            Phase::Claimed { progress, .. } => *progress,
            _ => Progress::NONE,
        }
    }

    /// Whether it waits for a node.
    pub fn is_queued(&self) -> bool {
        matches!(self.phase, Phase::Queued { .. })
    }

    /// Whether it is this offer, unclaimed.
    pub fn is_offer(&self, attempt: Attempt) -> bool {
        self.attempt == attempt && matches!(self.phase, Phase::Offered { .. })
    }

    /// Whether it takes one of its node's places.
    pub fn takes_room(&self) -> bool {
        matches!(
            self.phase,
            Phase::Offered { .. }
                | Phase::Claimed { .. }
                | Phase::Starting { .. }
                | Phase::Started { .. }
                | Phase::Failed { node: Some(_), running: true }
                | Phase::Terminating { node: Some(_), .. }
        )
    }

    /// Whether it takes a place although it has failed: its VM was kept, or nobody knows whether it runs.
    pub fn is_kept(&self) -> bool {
        self.takes_room() && matches!(self.phase, Phase::Failed { .. })
    }
}
