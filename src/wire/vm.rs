//! Instances: `/api/v1/vm` (`reference/controller-api.md` §4).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::lenient;
use crate::model::{Arch, InstanceState, Progress, Timestamp};

/// `POST /api/v1/vm`. Unknown keys are ignored; empty strings and objects mean "not given". It is written too, in
/// one spelling, to tell whether two bodies under one idempotency key mean the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct StartVm {
    /// Template id; required.
    #[serde(deserialize_with = "lenient::text")]
    pub vmid: Option<String>,
    /// Version by tag; the latest if neither this nor `version` is given.
    #[serde(deserialize_with = "lenient::text")]
    pub tag: Option<String>,
    /// Version by number.
    #[serde(deserialize_with = "lenient::integer")]
    pub version: Option<i64>,
    /// Label; not unique.
    #[serde(deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// Free text; CI plugins put a job's address here.
    #[serde(deserialize_with = "lenient::text")]
    pub external_id: Option<String>,
    /// How many; 1 if not given.
    #[serde(deserialize_with = "lenient::integer")]
    pub count: Option<i64>,
    /// Only on this node.
    #[serde(deserialize_with = "lenient::text")]
    pub node_id: Option<String>,
    /// Base64; fed to a shell in the VM.
    #[serde(deserialize_with = "lenient::text")]
    pub startup_script: Option<String>,
    /// 0 = once the network is up, 1 = at boot.
    #[serde(deserialize_with = "lenient::integer")]
    pub startup_script_condition: Option<i64>,
    /// A non-zero exit puts the instance into Error.
    #[serde(deserialize_with = "lenient::flag")]
    pub script_monitoring: Option<bool>,
    /// Seconds, a week at most; only with monitoring.
    #[serde(deserialize_with = "lenient::integer")]
    pub script_timeout: Option<i64>,
    /// 0 stop, 1 keep running, 2 delete; only with monitoring.
    #[serde(deserialize_with = "lenient::integer")]
    pub script_fail_handler: Option<i64>,
    /// The VM's own name; `$template_name`, `$template_id`, `$instance_id`, `$node_id`, `$node_name` and `$ts` are filled
    /// in. Without `$ts` it ends in one.
    #[serde(deserialize_with = "lenient::text")]
    pub name_template: Option<String>,
    /// Permission group; only with resource management.
    #[serde(deserialize_with = "lenient::text")]
    pub group: Option<String>,
    /// Node group.
    #[serde(deserialize_with = "lenient::text")]
    pub group_id: Option<String>,
    /// 1..=10000, lower is sooner; 1000 if not given.
    #[serde(deserialize_with = "lenient::integer")]
    pub priority: Option<i64>,
    /// A USB device by name or location.
    #[serde(deserialize_with = "lenient::text")]
    pub usb_device: Option<String>,
    /// Virtual processors, if not the template's.
    #[serde(deserialize_with = "lenient::integer")]
    pub vcpu: Option<i64>,
    /// Memory in MB, if not the template's.
    #[serde(deserialize_with = "lenient::integer")]
    pub vram: Option<i64>,
    /// String keys; string, whole-number or boolean values. A value of `null` is not given.
    #[serde(deserialize_with = "lenient::notes")]
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub metadata: Option<Map<String, Value>>,
    /// A MAC address.
    #[serde(deserialize_with = "lenient::text")]
    pub mac_address: Option<String>,
    /// A VLAN.
    #[serde(deserialize_with = "lenient::text")]
    pub vlan_tag: Option<String>,
    /// `{size, skip_container_resize}`.
    #[serde(deserialize_with = "lenient::maybe")]
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub disk: Option<Map<String, Value>>,
    /// Replaces all rules of the template.
    #[serde(deserialize_with = "lenient::maybe")]
    #[cfg_attr(test, schema(value_type = Option<Vec<Object>>))]
    pub port_forwarding_override: Option<Vec<Map<String, Value>>>,
    /// `shared`, `host`, `bridge`, `disconnected`, `nat`.
    #[serde(deserialize_with = "lenient::text")]
    pub network_mode: Option<String>,
    // Keys from here on are left out where they are not given: what a controller before them wrote of the same body is
    // the same text.
    /// `fbuf`, `pg`.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub video_controller: Option<String>,
    /// `forceOn`, `forceOff`.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub hvapic: Option<String>,
    /// `forceOn`.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub csr_active_config: Option<String>,
    /// `forceOn`, `forceOff`.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub network_local: Option<String>,
    /// The serial number that the VM shows.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub hw_serial: Option<String>,
    /// The UUID that the VM shows.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub hw_uuid: Option<String>,
    /// Of the VM's screen.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub vnc_password: Option<String>,
}

/// `PUT /api/v1/vm?id=`. A key that is given replaces; `metadata` is replaced whole (its one public client
/// sends its whole map). As everywhere, what is empty is not given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct UpdateVm {
    /// New label.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// New free text.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// New metadata, of the values that a start takes.
    #[serde(deserialize_with = "lenient::notes", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(value_type = Option<Object>))]
    pub metadata: Option<Map<String, Value>>,
}

/// `DELETE /api/v1/vm`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct TerminateVm {
    /// The instance; required.
    #[serde(deserialize_with = "lenient::text")]
    pub id: Option<String>,
}

/// One element of `GET /api/v1/vm` without `id`. `external_id` stands here and inside `vm`: clients filter on either.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ListedVm {
    /// The instance.
    pub instance_id: String,
    /// Free text; `null` when none.
    pub external_id: Option<String>,
    /// Label; `null` when none.
    pub name: Option<String>,
    /// Never null.
    pub vm: Vm,
}

/// An instance as the API shows it: `GET /api/v1/vm?id=`, and the `vm` of a listed one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Vm {
    /// The instance.
    pub instance_id: String,
    /// Where it is in its life.
    pub instance_state: InstanceState,
    /// Error text or the reason of a wait; left out when there is none, never null.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Registry address handed to nodes.
    pub anka_registry: String,
    /// Template id.
    pub vmid: String,
    /// Tag.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
    /// Template version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The VM as its node sees it; the key is left out before the start, never null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vminfo: Option<VmInfo>,
    /// Its node; shown for failed ones too.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_id: String,
    /// The start request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub inflight_reqid: String,
    /// Last update.
    pub ts: Timestamp,
    /// Creation.
    pub cr_time: Timestamp,
    /// Of the pull.
    pub progress: Progress,
    /// Node group; empty when none.
    pub group_id: String,
    /// Label.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_id: String,
    /// As given.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[cfg_attr(test, schema(value_type = Object))]
    pub metadata: Map<String, Value>,
    /// MAC address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    /// Left out when not known: any third word crashes one client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// VLAN; empty when none.
    pub vlan: String,
    /// USB device; empty when none.
    pub usb_device: String,
    /// Only for monitored scripts, once one has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_script: Option<ScriptResult>,
}

/// How a monitored script ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ScriptResult {
    /// Exit code; -1 after a timeout.
    pub return_code: i64,
    /// It ran out of time.
    pub did_timeout: bool,
    /// The last part of its output.
    pub stdout: String,
    /// The last part of its error output.
    pub stderr: String,
    /// What else went wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// A VM as its node sees it (`reference/controller-api.md` §4.4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct VmInfo {
    /// VM id on the node.
    pub uuid: String,
    /// VM name on the node.
    pub name: String,
    /// `running`, `stopped`, `suspended`, `failed`, `deleted`.
    pub status: String,
    /// Often empty.
    #[serde(default)]
    pub version: String,
    /// When it was cloned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_date: Option<Timestamp>,
    /// Last use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_date: Option<Timestamp>,
    /// Last start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_date: Option<Timestamp>,
    /// Last stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_date: Option<Timestamp>,
    /// When the node looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// Virtual processors.
    pub cpu_cores: u32,
    /// With its unit, `4G`.
    pub ram: String,
    /// The node.
    pub node_id: String,
    /// Where forwarded ports live.
    pub host_ip: String,
    /// Guest address; empty until its network is up.
    pub ip: String,
    /// VNC port, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnc_port: Option<u16>,
    /// Forwarded ports.
    #[serde(default)]
    pub port_forwarding: Vec<PortRule>,
}

#[cfg(test)]
impl VmInfo {
    /// One of which nothing but its state matters.
    pub fn in_state(status: &str) -> Self {
        Self {
            uuid: "u".into(),
            name: "vm".into(),
            status: status.into(),
            version: String::new(),
            creation_date: None,
            access_date: None,
            start_date: None,
            stop_date: None,
            timestamp: None,
            cpu_cores: 1,
            ram: "1G".into(),
            node_id: "n1".into(),
            host_ip: String::new(),
            ip: String::new(),
            vnc_port: None,
            port_forwarding: Vec::new(),
        }
    }
}

/// One forwarded port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct PortRule {
    /// In the VM.
    pub guest_port: u16,
    /// On the node.
    pub host_port: u16,
    /// `tcp`.
    pub protocol: String,
    /// Its name.
    pub name: String,
}
