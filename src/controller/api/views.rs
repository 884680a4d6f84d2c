//! Records as the API shows them.

use serde::{Serialize, Serializer};

use crate::{
    controller::{ops::NodeView, records::InstanceRecord},
    wire::{
        node::Node,
        vm::{ListedVm, Vm},
    },
};

/// A gigabyte as the API counts memory.
const GB: u64 = 1 << 30;

/// One instance; `registry` is the address handed to nodes.
pub(super) fn vm(record: InstanceRecord, registry: &str) -> Vm {
    Vm {
        instance_state: record.state(),
        node_id: record.node().map(ToString::to_string).unwrap_or_default(),
        progress: record.progress(),
        instance_id: record.id.into(),
        message: record.message,
        anka_registry: registry.to_owned(),
        vmid: record.spec.template.into(),
        tag: record.spec.tag,
        version: Some(record.spec.version),
        vminfo: record.info,
        inflight_reqid: record.start.into(),
        ts: record.updated,
        cr_time: record.created,
        group_id: record.spec.group_id,
        name: record.name.unwrap_or_default(),
        external_id: record.external_id.unwrap_or_default(),
        metadata: record.metadata,
        mac_address: record.spec.mac_address,
        arch: record.spec.arch,
        vlan: record.spec.vlan,
        usb_device: record.spec.usb_device,
        startup_script: record.script,
    }
}

/// One element of the list: `external_id` and `name` stand beside `vm` as well as in it.
fn listed(record: InstanceRecord, registry: &str) -> ListedVm {
    ListedVm {
        instance_id: record.id.to_string(),
        external_id: record.external_id.clone(),
        name: record.name.clone(),
        vm: vm(record, registry),
    }
}

/// All instances, each turned into its view only while it is written: a long list is in memory once.
pub(super) struct Listed {
    all: Vec<InstanceRecord>,
    registry: String,
}

impl Listed {
    pub(super) fn new(all: Vec<InstanceRecord>, registry: String) -> Self {
        Self { all, registry }
    }
}

impl Serialize for Listed {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.all.iter().map(|record| listed(record.clone(), &self.registry)))
    }
}

/// One node.
pub(super) fn node(view: NodeView) -> Node {
    let NodeView { record, state, vm_count, vcpu_count, vram } = view;
    let (facts, settings) = (record.facts, record.settings);
    Node {
        node_id: record.id.into(),
        node_name: settings.name,
        cpu_count: facts.cpu_count,
        ram: facts.memory.saturating_add(GB / 2) / GB,
        vm_count,
        vcpu_count,
        vram,
        cpu_util: facts.cpu_util.clamp(0.0, 1.0),
        ram_util: facts.ram_util.clamp(0.0, 1.0),
        ip_address: settings.host,
        state,
        capacity: settings.capacity,
        // Groups are a resource of their own; what a node only wishes to be in is none.
        groups: Vec::new(),
        anka_version: facts.hypervisor,
        usb_devices: Vec::new(),
        capacity_mode: settings.capacity_mode,
        vcpu_override: record.vcpu_override,
        ram_override: record.ram_override,
        disk_size: facts.disk_size,
        free_disk_space: facts.disk_free,
        anka_disk_usage: facts.disk_used,
        host_arch: facts.host_arch,
        templates: facts.templates,
        last_updated: record.reported,
        timestamp: record.reported.unix_seconds(),
        agent_version: facts.agent_version,
    }
}
