//! A node that exists only as its side of the agent's protocol, spoken over HTTP.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use switchyard::{
    model::{Arch, Attempt, CommandId, InstanceId, LayerId, NodeId, Progress, Timestamp},
    wire::{
        agent::{
            Claim, GiveBack, Granted, Heard, Heartbeat, Join, Joined, Leave, NodeFacts, NodeWish, Report,
            SeenVm, StartTask, StopVm, Tasks, VmPhase,
        },
        command::{CommandReport, CommandState, KNOWN},
        node::{CapacityMode, HypervisorVersion, NodeTemplate},
        vm::{PortRule, VmInfo},
    },
};

use crate::{
    cloud::PATIENCE,
    support::{
        api::{Answer, Api},
        eventually::eventually,
    },
};

/// The node.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) api: Api,
    pub(crate) id: NodeId,
    pub(crate) session: String,
    pub(crate) capacity: u32,
    pub(crate) groups: Vec<String>,
    /// The layers on its disk.
    pub(crate) layers: BTreeMap<LayerId, u64>,
    /// The USB devices on it.
    pub(crate) usb_devices: Vec<String>,
    /// The commands that its agent knows.
    pub(crate) commands: Vec<String>,
}

impl Node {
    /// A node of this id that has said nothing yet.
    pub(crate) fn new(api: &Api, id: &str) -> Self {
        let (id, session) = (id.parse().unwrap(), format!("{id}-s1"));
        Self {
            api: api.clone(),
            id,
            session,
            capacity: 2,
            groups: Vec::new(),
            layers: BTreeMap::new(),
            usb_devices: Vec::new(),
            commands: KNOWN.map(str::to_owned).to_vec(),
        }
    }

    /// A node that has joined and told that it has no VM.
    pub(crate) async fn joined(api: &Api, id: &str) -> Self {
        let node = Self::new(api, id);
        node.join().await;
        node.beat(Vec::new()).await;
        node
    }

    pub(crate) fn facts(&self) -> NodeFacts {
        NodeFacts {
            host_arch: Arch::Amd64,
            runs: vec![Arch::Amd64, Arch::Arm64],
            driver: "process".into(),
            hypervisor: HypervisorVersion {
                product: "process".into(),
                version: "1".into(),
                ..Default::default()
            },
            agent_version: "1.51.2-switchyard.0.1.0".into(),
            cpu_count: 8,
            memory: 17_179_869_184,
            disk_size: 500_000_000_000,
            disk_free: 400_000_000_000,
            disk_used: 21_000_000_000,
            templates: vec![NodeTemplate { uuid: "c0ffee11".into(), name: "old".into(), tag: "base".into() }],
            layers: self.layers.clone(),
            cpu_util: 0.0,
            ram_util: 1.0,
            usb_devices: self.usb_devices.clone(),
            commands: self.commands.clone(),
        }
    }

    pub(crate) async fn join(&self) -> Joined {
        let wish = NodeWish {
            name: format!("{}-name", self.id),
            host: "10.20.30.41".into(),
            capacity: self.capacity,
            capacity_mode: CapacityMode::Number,
            vcpu_override: 0,
            ram_override: 0,
            groups: self.groups.clone(),
            drain_mode: false,
            force_overrides: false,
        };
        self.done("join", &Join { node_id: self.id.clone(), wish, facts: self.facts() }).await
    }

    pub(crate) async fn beat(&self, vms: Vec<SeenVm>) -> Heard {
        self.done("heartbeat", &self.heartbeat(vms)).await
    }

    pub(crate) fn heartbeat(&self, vms: Vec<SeenVm>) -> Heartbeat {
        Heartbeat {
            node_id: self.id.clone(),
            session: self.session.clone(),
            facts: self.facts(),
            vms,
            commands: Vec::new(),
        }
    }

    /// Says how far it is with one command.
    pub(crate) async fn command(&self, id: &CommandId, state: CommandState, progress: f64) -> Heard {
        let message = if state == CommandState::Failed { "the disk is full".into() } else { String::new() };
        let report =
            CommandReport { id: id.clone(), state, progress: Progress::of(progress), message, script: None };
        self.done("heartbeat", &Heartbeat { commands: vec![report], ..self.heartbeat(Vec::new()) }).await
    }

    /// The path of a poll.
    pub(crate) fn tasks(&self, free: u32, wait: u32) -> String {
        format!("/switchyard/v1/tasks?node={}&session={}&free={free}&wait={wait}", self.id, self.session)
    }

    pub(crate) async fn poll(&self, free: u32, wait: u32) -> Tasks {
        bare(&self.api.get(&self.tasks(free, wait)).await)
    }

    /// Polls until there is a start, as an agent does.
    pub(crate) async fn offered(&self) -> StartTask {
        for _ in 0..10 {
            if let Some(start) = self.poll(1, 5).await.start {
                return start;
            }
        }
        panic!("{} was offered nothing", self.id);
    }

    pub(crate) fn claim_of(&self, task: &StartTask) -> Claim {
        Claim { node_id: self.id.clone(), instance: task.instance.clone(), attempt: task.attempt }
    }

    pub(crate) async fn claim(&self, task: &StartTask) -> Granted {
        self.done("claim", &self.claim_of(task)).await
    }

    pub(crate) async fn starting(&self, task: &StartTask) -> Granted {
        self.done("starting", &self.claim_of(task)).await
    }

    pub(crate) async fn give_back(&self, task: &StartTask, why: &str) -> Granted {
        self.done("giveback", &GiveBack { claim: self.claim_of(task), why: why.into() }).await
    }

    pub(crate) async fn report(&self, vm: SeenVm) -> Heard {
        self.done("report", &Report { node_id: self.id.clone(), vm }).await
    }

    pub(crate) async fn leave(&self) -> Granted {
        self.done("leave", &Leave { node_id: self.id.clone() }).await
    }

    /// Takes a start through to a running VM.
    pub(crate) async fn run(&self, task: &StartTask) -> SeenVm {
        assert_eq!(self.claim(task).await, granted());
        assert_eq!(self.starting(task).await, granted());
        let vm = self.vm(task, VmPhase::Running);
        self.report(vm.clone()).await;
        vm
    }

    /// A VM of this task as the node would tell of it.
    pub(crate) fn vm(&self, task: &StartTask, phase: VmPhase) -> SeenVm {
        let info = matches!(phase, VmPhase::Running).then(|| self.info(task));
        seen(&task.instance, task.attempt, phase, info)
    }

    fn info(&self, task: &StartTask) -> VmInfo {
        let at = Timestamp::parse("2026-01-04T09:25:42.100200-05:00").unwrap();
        VmInfo {
            uuid: format!("vm-{}", task.instance),
            name: format!("mgmtManaged-{}", task.vm_name),
            status: "running".into(),
            version: String::new(),
            creation_date: Some(at),
            access_date: None,
            start_date: Some(at),
            stop_date: Some(Timestamp::NEVER),
            timestamp: Some(at),
            cpu_cores: 4,
            ram: "8G".into(),
            node_id: self.id.to_string(),
            host_ip: "10.20.30.41".into(),
            ip: "192.168.64.7".into(),
            vnc_port: Some(5900),
            port_forwarding: vec![PortRule {
                guest_port: 22,
                host_port: 10002,
                protocol: "tcp".into(),
                name: "ssh".into(),
            }],
        }
    }

    /// A call whose answer may be anything.
    pub(crate) async fn call(&self, path: &str, body: &impl Serialize) -> Answer {
        let body = serde_json::to_value(body).unwrap();
        self.api.post(&format!("/switchyard/v1/{path}"), &body).await
    }

    async fn done<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> T {
        bare(&self.call(path, body).await)
    }
}

/// A bare answer of the agent's protocol: no envelope around it.
#[track_caller]
pub(crate) fn bare<T: DeserializeOwned>(answer: &Answer) -> T {
    assert_eq!(answer.status, 200, "{answer:?}");
    let value: Value = answer.json();
    assert!(value.get("body").is_none(), "no envelope: {value}");
    serde_json::from_value(value).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

pub(crate) fn granted() -> Granted {
    Granted { granted: true, why: String::new() }
}

pub(crate) fn seen(instance: &InstanceId, attempt: Attempt, phase: VmPhase, info: Option<VmInfo>) -> SeenVm {
    let (instance, message) = (instance.clone(), String::new());
    SeenVm { instance, attempt, phase, progress: Progress::NONE, info, script: None, message }
}

pub(crate) fn stop_of(task: &StartTask) -> StopVm {
    StopVm { instance: task.instance.clone(), attempt: task.attempt }
}

/// Waits until so many polls are parked.
pub(crate) async fn parked(api: &Api, count: usize) {
    let line = format!("switchyard_controller_polls {count}\n");
    eventually(PATIENCE, "polls are parked", async || {
        let metrics = api.get("/metrics").await.text;
        if metrics.contains(&line) { Ok(()) } else { Err(metrics) }
    })
    .await;
}
