//! Records as the API shows them.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::answer::{Done, Fail, as_json};
use crate::{
    controller::{
        ops::{NodeView, Shown},
        records::InstanceRecord,
    },
    wire::{
        cloud::Instance,
        node::Node,
        template::{Template, Version},
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

/// One instance, with what only our own API says of it.
pub(super) fn instance(record: &InstanceRecord, registry: &str) -> Instance {
    Instance {
        template_name: record.spec.template_name.clone(),
        priority: record.spec.priority,
        attempt: record.attempt,
        vm: vm(record.clone(), registry),
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

/// Instances that are written at once, each some 700 bytes. What is longer goes out piece by piece: a list of
/// everything must neither be in memory twice nor keep a thread from other requests while it is written.
const PIECE: usize = 256;

/// All instances. Each is turned into its view only when it is written.
pub(super) struct Listed {
    all: Vec<Shown>,
    registry: String,
}

impl Listed {
    pub(super) fn new(all: Vec<Shown>, registry: String) -> Self {
        Self { all, registry }
    }

    /// The elements from `from` on, at most a piece of them, with commas between them and before all but the first.
    fn piece(&self, from: usize) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = Vec::new();
        for (at, Shown { record, why }) in self.all.iter().enumerate().skip(from).take(PIECE) {
            if at > 0 {
                bytes.push(b',');
            }
            let mut record = InstanceRecord::clone(record);
            if let Some(why) = why {
                record.message = why.as_ref().to_owned();
            }
            serde_json::to_writer(&mut bytes, &listed(record, &self.registry))?;
        }
        Ok(bytes)
    }
}

impl IntoResponse for Done<Listed> {
    fn into_response(self) -> Response {
        const HEAD: &[u8] = br#"{"status":"OK","message":"","body":["#;
        const TAIL: &[u8] = b"]}\n";
        let Self(list) = self;
        let body = if list.all.len() <= PIECE {
            match list.piece(0) {
                Ok(piece) => Body::from([HEAD, &piece, TAIL].concat()),
                Err(error) => return Fail::ours(&error).into_response(),
            }
        } else {
            let (count, head, tail) = (list.all.len(), Ok(HEAD.to_vec()), Ok(TAIL.to_vec()));
            let pieces = (0..count).step_by(PIECE).map(move |from| list.piece(from));
            Body::from_stream(stream::iter([head].into_iter().chain(pieces).chain([tail])))
        };
        let mut response = Response::new(body);
        as_json(&mut response);
        response
    }
}

/// One template, without what only our own registries say of it and only our nodes need.
pub(super) fn template(template: &Template) -> Template {
    let versions = template.versions.iter().map(|version| Version { digest: None, ..version.clone() });
    Template { repository: None, versions: versions.collect(), ..template.clone() }
}

/// One node.
pub(super) fn node(view: NodeView) -> Node {
    let NodeView { record, state, heard, vm_count, vcpu_count, vram, groups, usb_devices } = view;
    let (facts, settings) = (record.facts, record.settings);
    Node {
        node_id: record.id.into(),
        node_name: settings.name,
        disable_central_logging: settings.disable_central_logging,
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
        groups,
        anka_version: facts.hypervisor,
        usb_devices,
        capacity_mode: settings.capacity_mode,
        vcpu_override: record.vcpu_override,
        ram_override: record.ram_override,
        disk_size: facts.disk_size,
        free_disk_space: facts.disk_free,
        anka_disk_usage: facts.disk_used,
        host_arch: facts.host_arch,
        templates: facts.templates,
        last_updated: heard,
        timestamp: heard.unix_seconds(),
        agent_version: facts.agent_version,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt;

    use super::*;
    use crate::{
        controller::records::{InstanceSpec, Phase},
        model::{Arch, Digest, InstanceId, InstanceState, NodeId, Progress, StartId, Timestamp},
        wire::envelope::Envelope,
    };

    fn record(id: &str, phase: Phase) -> InstanceRecord {
        let at = Timestamp::parse("2026-01-04T09:18:03.9-05:00").unwrap();
        InstanceRecord {
            id: InstanceId::parse(id).unwrap(),
            start: StartId::parse("s-1").unwrap(),
            phase,
            attempt: 1,
            message: String::new(),
            name: None,
            external_id: Some("job/1187".into()),
            metadata: serde_json::Map::new(),
            created: at,
            updated: at,
            spec: InstanceSpec {
                template: "c0ffee11".parse().unwrap(),
                template_name: "sonoma".into(),
                repository: "sonoma".parse().unwrap(),
                tag: "v3+ssh".into(),
                version: 1,
                manifest: Digest::of(b"x"),
                arch: Some(Arch::Arm64),
                layers: Vec::new(),
                node: None,
                group_id: String::new(),
                permission_group: String::new(),
                priority: 1000,
                name_template: String::new(),
                vcpu: None,
                vram: None,
                mac_address: String::new(),
                vlan: String::new(),
                usb_device: String::new(),
                network_mode: String::new(),
                disk: None,
                port_forwarding_override: None,
                devices: Default::default(),
                script: None,
            },
            info: None,
            script: None,
            saving: None,
            output: None,
            refused_by: Vec::new(),
            attempts_failed: 0,
        }
    }

    #[test]
    fn an_instance_before_its_start_has_exactly_these_keys() {
        let at = Timestamp::parse("2026-01-04T14:18:03.9Z").unwrap();
        let shown =
            serde_json::to_value(vm(record("i-1", Phase::Queued { since: at }), "http://reg:8089")).unwrap();
        let expected = serde_json::json!({
            "instance_id": "i-1", "instance_state": "Scheduling", "anka_registry": "http://reg:8089",
            "vmid": "c0ffee11", "tag": "v3+ssh", "version": 1, "inflight_reqid": "s-1",
            "ts": "2026-01-04T14:18:03.9Z", "cr_time": "2026-01-04T14:18:03.9Z", "progress": 0, "group_id": "",
            "external_id": "job/1187", "arch": "arm64", "vlan": "", "usb_device": "",
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_pull_shows_its_progress_and_its_node() {
        let node = NodeId::parse("n-1").unwrap();
        let pulling =
            |share| Phase::Claimed { node: node.clone(), pulling: true, progress: Progress::of(share) };
        let shown = vm(record("i-1", pulling(0.25)), "");
        assert_eq!((shown.instance_state, shown.node_id.as_str()), (InstanceState::Pulling, "n-1"));
        let progress =
            |share| serde_json::to_string(&vm(record("i-1", pulling(share)), "").progress).unwrap();
        assert_eq!((progress(0.25).as_str(), progress(1.0).as_str()), ("0.25", "1"));
    }

    #[tokio::test]
    async fn a_list_of_any_length_is_one_whole_envelope() {
        let since = Timestamp::NEVER;
        for count in [0, 1, PIECE, PIECE + 1, 3 * PIECE] {
            let why: Arc<str> = "no room".into();
            let one = |at| Shown {
                record: Arc::new(record(&format!("i-{at}"), Phase::Queued { since })),
                why: Some(why.clone()),
            };
            let all = (0..count).map(one).collect();
            let response = Done(Listed::new(all, "http://reg:8089".into())).into_response();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            let read: Envelope<Vec<ListedVm>> = serde_json::from_slice(&bytes).unwrap();
            let read = read.body.unwrap();
            assert!(read.iter().all(|listed| listed.vm.message == "no room"));
            let ids: Vec<_> = read.into_iter().map(|vm| vm.instance_id).collect();
            assert_eq!(ids, (0..count).map(|at| format!("i-{at}")).collect::<Vec<_>>());
        }
    }
}
