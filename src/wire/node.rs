//! Nodes: `/api/v1/node` (`reference/controller-api.md` §5).

use serde::{Deserialize, Serialize};

use super::lenient;
use crate::model::{Arch, NodeState, Timestamp};

/// How a node's room is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum CapacityMode {
    /// At most so many VMs.
    #[default]
    Number,
    /// Virtual processors and memory.
    Resource,
}

/// A node as the API shows it. Counts are unsigned: one client decodes them so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Node {
    /// Its id.
    pub node_id: String,
    /// Its name.
    pub node_name: String,
    /// Cores.
    pub cpu_count: u32,
    /// Memory, GB.
    pub ram: u64,
    /// Running VMs.
    pub vm_count: u32,
    /// Their virtual processors.
    pub vcpu_count: u32,
    /// Their memory, MB.
    pub vram: u64,
    /// 0 to 1.
    pub cpu_util: f64,
    /// 0 to 1.
    pub ram_util: f64,
    /// IP or host name that CI clients dial.
    pub ip_address: String,
    /// Never empty.
    pub state: NodeState,
    /// Most VMs at once.
    pub capacity: u32,
    /// Node groups.
    pub groups: Vec<NodeGroup>,
    /// The hypervisor's own version.
    pub anka_version: HypervisorVersion,
    /// USB devices.
    pub usb_devices: Vec<UsbDevice>,
    /// How room is counted.
    pub capacity_mode: CapacityMode,
    /// 0 = default.
    pub vcpu_override: u32,
    /// 0 = default.
    pub ram_override: u64,
    /// Bytes.
    pub disk_size: u64,
    /// Bytes.
    pub free_disk_space: u64,
    /// Bytes that templates and VMs take.
    pub anka_disk_usage: u64,
    /// The machine's own architecture.
    pub host_arch: Arch,
    /// Templates on its disk.
    pub templates: Vec<NodeTemplate>,
    /// Last report.
    pub last_updated: Timestamp,
    /// Last report, Unix seconds.
    pub timestamp: i64,
    /// The agent's version.
    pub agent_version: String,
    /// Nothing of its log is to be sent to the controllers; left out if that was not asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disable_central_logging: bool,
}

/// A USB device on a node.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsbDevice {
    /// Its name.
    pub name: String,
    /// A VM has it.
    pub busy: bool,
}

/// How many devices of one name there are: a value of `GET /api/v1/usb`.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsbCount {
    /// That no VM has.
    pub available: usize,
    /// That VMs have.
    pub busy: usize,
}

/// A group a node is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NodeGroup {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Never null.
    pub description: String,
    /// `null` when none.
    pub fallback_group_id: Option<String>,
}

/// The hypervisor on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct HypervisorVersion {
    /// Its name.
    pub product: String,
    /// Its version.
    pub version: String,
    /// Its build.
    pub build: String,
    /// Its licence; empty if it has none.
    #[serde(default)]
    pub license: String,
    /// The day that ends it, as `17-aug-2027`; empty if none does.
    #[serde(default)]
    pub expires: String,
}

/// A template on a node's disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NodeTemplate {
    /// Template id.
    pub uuid: String,
    /// Template name.
    pub name: String,
    /// Tag.
    pub tag: String,
}

/// `POST /api/v1/node/config`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct NodeConfig {
    /// The node; required.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Most VMs at once.
    #[serde(deserialize_with = "lenient::integer", skip_serializing_if = "Option::is_none")]
    pub max_vm_count: Option<i64>,
    /// New name.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// New address for CI clients.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How room is counted.
    #[serde(deserialize_with = "lenient::maybe", skip_serializing_if = "Option::is_none")]
    pub capacity_mode: Option<CapacityMode>,
    /// 0 = default.
    #[serde(deserialize_with = "lenient::integer", skip_serializing_if = "Option::is_none")]
    pub vcpu_override: Option<i64>,
    /// GB; 0 = default.
    #[serde(deserialize_with = "lenient::integer", skip_serializing_if = "Option::is_none")]
    pub ram_override: Option<i64>,
    /// Nothing of its log is to be sent to the controllers: kept and handed to the agent, which sends nothing of it in any case.
    #[serde(deserialize_with = "lenient::flag", skip_serializing_if = "Option::is_none")]
    pub disable_central_logging: Option<bool>,
    /// Takes no new starts.
    #[serde(deserialize_with = "lenient::flag", skip_serializing_if = "Option::is_none")]
    pub drain_mode: Option<bool>,
}

/// `DELETE /api/v1/node`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct DeleteNode {
    /// The node; required.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
}

/// Body of the answer to `POST /switchyard/v1/nodes/confirm-absence`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Confirmed {
    /// How many held nodes are now taken to be gone.
    pub nodes: usize,
}
