//! The agent's own protocol, `/switchyard/v1/…`. `docs/agent-protocol.md` tells it in words; this is its exact shape.
//!
//! Every call is idempotent: the agent repeats it until it has an answer. Errors are the vendor envelope.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    command::{Command, CommandReport},
    node::CapacityMode,
    node::HypervisorVersion,
    node::NodeTemplate,
    vm::ScriptResult,
    vm::VmInfo,
};
use crate::model::{
    Arch, Attempt, CommandId, Digest, InstanceId, LayerId, NodeId, Progress, RepositoryName, TemplateId,
};

/// Layers that a node tells of, at most.
pub const LAYERS: usize = 100;

/// `POST /switchyard/v1/join`: makes or renews a node's record. Answer: [`Joined`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Join {
    /// The agent keeps it in its data directory and uses it for ever.
    pub node_id: NodeId,
    /// What the operator asked for; a name, host or capacity set later by `POST /api/v1/node/config` wins.
    pub wish: NodeWish,
    /// What the node is.
    pub facts: NodeFacts,
}

/// What `agent join` flags ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NodeWish {
    /// Node name.
    pub name: String,
    /// Address published to CI clients.
    pub host: String,
    /// Most VMs at once.
    pub capacity: u32,
    /// How room is counted.
    #[serde(default)]
    pub capacity_mode: CapacityMode,
    /// 0 = default.
    #[serde(default)]
    pub vcpu_override: u32,
    /// GB; 0 = default.
    #[serde(default)]
    pub ram_override: u64,
    /// Node groups by name.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Join drained.
    #[serde(default)]
    pub drain_mode: bool,
    /// What a start asks of processors and memory counts when room is counted by resources.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force_overrides: bool,
}

/// What a node is and has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NodeFacts {
    /// The machine's own architecture.
    pub host_arch: Arch,
    /// What its driver can run; only these decide which templates it may get.
    pub runs: Vec<Arch>,
    /// The driver.
    pub driver: String,
    /// The driver's hypervisor.
    pub hypervisor: HypervisorVersion,
    /// The agent's version.
    pub agent_version: String,
    /// Cores.
    pub cpu_count: u32,
    /// Memory, bytes.
    pub memory: u64,
    /// Bytes of the disk that holds its data.
    pub disk_size: u64,
    /// Free bytes of it.
    pub disk_free: u64,
    /// Bytes that templates and VMs take.
    pub disk_used: u64,
    /// Templates on its disk, sorted.
    pub templates: Vec<NodeTemplate>,
    /// The largest layers on its disk and their sizes, at most [`LAYERS`]: what a template shares with them is not fetched.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub layers: BTreeMap<LayerId, u64>,
    /// 0 to 1.
    pub cpu_util: f64,
    /// 0 to 1.
    pub ram_util: f64,
    /// USB devices that its VMs can be given, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usb_devices: Vec<String>,
    /// The orders of commands that the agent knows; none: it is one from before there were any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// Answer to [`Join`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Joined {
    /// Registry address for pulls; empty when the cloud has none.
    pub registry: String,
    /// What holds for this node.
    pub config: NodeSettings,
}

/// A node's settings, whole and numbered. The agent applies the newest number it has seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NodeSettings {
    /// Counts up with each change.
    pub version: u64,
    /// Node name.
    pub name: String,
    /// Address published to CI clients.
    pub host: String,
    /// Most VMs at once.
    pub capacity: u32,
    /// How room is counted.
    pub capacity_mode: CapacityMode,
    /// Takes no new starts.
    pub drain_mode: bool,
    /// Nothing of its log is to be sent to the controllers. Agents send nothing of it in any case.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disable_central_logging: bool,
}

/// `POST /switchyard/v1/heartbeat`, every 5 s and at once when a VM changes. Answer: [`Heard`].
///
/// It tells the whole truth about the node: whatever instance is not in `vms` is not there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Heartbeat {
    /// The node.
    pub node_id: NodeId,
    /// A random text made at each start of the agent: two agents with one node id are seen by it.
    pub session: String,
    /// What the node is.
    pub facts: NodeFacts,
    /// Every VM on it that an agent started, running or not.
    pub vms: Vec<SeenVm>,
    /// Every command that the agent has and that was not noted as over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<CommandReport>,
}

/// A VM on a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SeenVm {
    /// The instance.
    pub instance: InstanceId,
    /// Which offer of it.
    pub attempt: Attempt,
    /// Where it is.
    pub phase: VmPhase,
    /// How much of the template is there.
    #[serde(default)]
    pub progress: Progress,
    /// The VM, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<VmInfo>,
    /// How its monitored script ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptResult>,
    /// Why it failed, or what it waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How an agent's word begins that a VM is still there because it cannot be stopped or deleted.
pub const NOT_CLEARED: &str = "it could not be cleared away yet: ";

impl SeenVm {
    /// Whether it takes one of its node's places. The agent polls by it, and the controllers schedule by it.
    pub fn takes_room(&self) -> bool {
        match self.phase {
            VmPhase::Claimed | VmPhase::Pulling | VmPhase::Starting | VmPhase::Running => true,
            VmPhase::Failed => self.info.as_ref().is_some_and(|info| info.status == "running"),
            VmPhase::Gone => false,
        }
    }
}

/// Where a VM is, as its agent sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum VmPhase {
    /// Claimed; not yet pulled.
    Claimed,
    /// The template is being pulled.
    Pulling,
    /// The VM is being started, or its script runs.
    Starting,
    /// Up, script done.
    Running,
    /// It failed or vanished; the message says how. Nothing of it runs any more unless `info` says so.
    Failed,
    /// Stopped and deleted, as asked.
    Gone,
}

/// Answer to [`Heartbeat`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Heard {
    /// False: the node has no record (it was deleted): join again.
    pub known: bool,
    /// Registry address for pulls.
    pub registry: String,
    /// What holds for this node.
    pub config: Option<NodeSettings>,
    /// Stop and delete these, then report them [`VmPhase::Gone`]. Sent until they are.
    pub stop: Vec<StopVm>,
    /// The controller has noted these as gone or failed: forget them.
    pub forget: Vec<StopVm>,
    /// Commands for the node that the heartbeat did not name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Command>,
    /// Commands that are over: done, failed, or wanted no more. Give up what is under way of them, and forget them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noted: Vec<CommandId>,
}

/// A VM to stop, or one to forget.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct StopVm {
    /// The instance.
    pub instance: InstanceId,
    /// Which offer of it: an older attempt is stopped, a newer one is not touched.
    pub attempt: Attempt,
}

/// `GET /switchyard/v1/tasks?node=ID&session=S&free=N&wait=SECONDS`: parks until there is a task or the wait is
/// over (at most 10 s). Answer: [`Tasks`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Poll {
    /// The node.
    pub node: NodeId,
    /// As in [`Heartbeat`].
    pub session: String,
    /// How many more VMs it could take now.
    pub free: u32,
    /// Seconds to wait.
    pub wait: u32,
}

/// Answer to a poll; empty when the wait is over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Tasks {
    /// At most one start: an offer, not yet the right to act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartTask>,
    /// VMs to stop now.
    #[serde(default)]
    pub stop: Vec<StopVm>,
    /// Commands that the node may not have heard of yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Command>,
}

/// An offered start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct StartTask {
    /// The instance.
    pub instance: InstanceId,
    /// The offer's number.
    pub attempt: Attempt,
    /// The template.
    pub template: TemplateId,
    /// Its name.
    pub template_name: String,
    /// Where to pull it from: repository at the registry address.
    pub repository: RepositoryName,
    /// The tag, for names and reports.
    pub tag: String,
    /// The manifest to pull: a tag that moves meanwhile changes nothing.
    pub manifest: Digest,
    /// Registry address.
    pub registry: String,
    /// Full VM name, without the agent's prefix.
    pub vm_name: String,
    /// Virtual processors, if not the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u32>,
    /// Memory in MB, if not the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram: Option<u64>,
    /// The startup script, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Script>,
    /// What was asked of the VM's devices; left out when nothing was.
    #[serde(default, skip_serializing_if = "Hardware::is_empty")]
    pub hardware: Hardware,
}

/// What a start asks of a VM's devices. A driver without such a device says so in its log and starts the VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Hardware {
    /// MAC address; empty when none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    /// VLAN; empty when none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vlan_tag: String,
    /// `shared`, `host`, `bridge`, `disconnected`, `nat`; empty: the template's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network_mode: String,
    /// USB device; empty when none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub usb_device: String,
    /// As given: `{size, skip_container_resize}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Map<String, Value>>,
    /// As given; replaces all rules of the template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_forwarding_override: Option<Vec<Map<String, Value>>>,
    /// `fbuf`, `pg`; empty: the template's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub video_controller: String,
    /// `forceOn`, `forceOff`; empty: the template's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hvapic: String,
    /// `forceOn`; empty: the template's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub csr_active_config: String,
    /// `forceOn`, `forceOff`; empty: the template's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network_local: String,
    /// Serial number; empty: the template's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hw_serial: String,
    /// UUID; empty: the template's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hw_uuid: String,
    /// Of the VM's screen; empty: the template's. Shown nowhere.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vnc_password: String,
}

impl Hardware {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What was asked for, by its name in the API.
    pub fn asked(&self) -> Vec<&'static str> {
        let all = [
            ("mac_address", !self.mac_address.is_empty()),
            ("vlan_tag", !self.vlan_tag.is_empty()),
            ("network_mode", !self.network_mode.is_empty()),
            ("disk", self.disk.is_some()),
            ("port_forwarding_override", self.port_forwarding_override.is_some()),
            ("video_controller", !self.video_controller.is_empty()),
            ("hvapic", !self.hvapic.is_empty()),
            ("csr_active_config", !self.csr_active_config.is_empty()),
            ("network_local", !self.network_local.is_empty()),
            ("hw_serial", !self.hw_serial.is_empty()),
            ("hw_uuid", !self.hw_uuid.is_empty()),
            ("vnc_password", !self.vnc_password.is_empty()),
        ];
        all.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name).collect()
    }
}

/// A startup script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Script {
    /// Base64 of its bytes.
    pub body: String,
    /// Run at boot instead of once the network is up.
    pub at_boot: bool,
    /// A non-zero exit fails the instance, and the result is reported.
    pub monitored: bool,
    /// Only when monitored.
    pub timeout_seconds: u32,
    /// What to do with the VM when it fails.
    pub on_failure: OnScriptFailure,
}

/// `script_fail_handler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnScriptFailure {
    /// 0: stop the VM.
    #[default]
    Stop,
    /// 1: keep it running.
    Keep,
    /// 2: delete it.
    Delete,
}

/// `POST /switchyard/v1/claim`, and `POST /switchyard/v1/starting` right before the VM is started. Answer: [`Granted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Claim {
    /// The node.
    pub node_id: NodeId,
    /// The instance.
    pub instance: InstanceId,
    /// The offer's number.
    pub attempt: Attempt,
}

/// Whether the step was granted. Repeating a granted step is granted again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Granted {
    /// False: it is no longer this node's. Stop what there is and forget it.
    pub granted: bool,
    /// Why not.
    #[serde(default)]
    pub why: String,
}

/// `POST /switchyard/v1/report`: one VM's change at once, instead of with the next heartbeat. Answer: [`Heard`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Report {
    /// The node.
    pub node_id: NodeId,
    /// The change.
    pub vm: SeenVm,
}

/// `POST /switchyard/v1/giveback`: a claimed start the node cannot do (no space, no capacity): it returns to the
/// queue. Only before `starting`. Answer: [`Granted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct GiveBack {
    /// What was claimed.
    pub claim: Claim,
    /// Why, for the instance's message.
    pub why: String,
}

/// `POST /switchyard/v1/leave`: the node goes for good; its record and presence are deleted.
/// Refused while instances run on it. Answer: [`Granted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Leave {
    /// The node.
    pub node_id: NodeId,
}
