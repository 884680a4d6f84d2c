//! Two controllers over one real store, driven through their operations, with faults of the store at will.

mod between;
mod bounds;
mod claims;
mod ends;
mod hostile;
mod kept;
mod reads;
mod resources;
mod silence;
mod starts;
mod together;

use std::{future::Future, sync::Arc, time::Duration};

use tempfile::TempDir;

use super::{
    Core,
    ops::{Caller, Ops, OpsError, Reach, templates::Resolved},
    records::{InstanceRecord, Phase},
};
use crate::{
    clock,
    config::{
        Log, Server,
        controller::{Controller as Config, Limits, Store as StoreConfig, StoreKind, Timeouts},
    },
    model::{Arch, Attempt, Digest, InstanceId, NodeId, Progress, RepositoryName, TemplateId},
    store::{
        Store,
        embedded::EmbeddedStore,
        faulty::{Faults, Faulty},
    },
    supervise::{Stop, StopSource, Tree},
    wire::{
        agent::{
            Claim, Heard, Heartbeat, Join, NodeFacts, NodeWish, Poll, SeenVm, StartTask, Tasks, VmPhase,
        },
        node::{CapacityMode, HypervisorVersion},
        vm::{StartVm, VmInfo},
    },
};

/// Longer than anything here takes; reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(20);

/// So long that on a busy machine none of them passes between two steps of a test.
const PATIENT: Duration = Duration::from_secs(60);

/// No claim and no silence ends anything meanwhile.
fn timeouts() -> Timeouts {
    Timeouts {
        node_active: PATIENT,
        instance_active: PATIENT,
        instance_visible: PATIENT,
        claim: PATIENT,
        poll: Duration::from_secs(5),
        store: Duration::from_secs(1),
        ..Timeouts::default()
    }
}

/// For tests of silence: short enough to be waited for.
fn soon_silent() -> Timeouts {
    Timeouts { node_active: Duration::from_secs(3), instance_active: Duration::from_secs(3), ..timeouts() }
}

/// For tests of offers that nobody claims.
fn soon_unclaimed() -> Timeouts {
    Timeouts { claim: Duration::from_secs(2), ..timeouts() }
}

fn config(name: &str, timeouts: Timeouts) -> Config {
    Config {
        server: Server {
            listen: ([127, 0, 0, 1], 0).into(),
            name: name.into(),
            grace: Duration::from_secs(1),
            address_file: None,
            advertise: None,
            zone: None,
            tls: None,
        },
        auth: Default::default(),
        log: Log::default(),
        store: StoreConfig {
            kind: StoreKind::Embedded("unused".into()),
            cluster: "main".into(),
            upkeep: Default::default(),
        },
        registries: None,
        timeouts,
        limits: Limits::default(),
        events: Default::default(),
        mac_pool: Default::default(),
        web: Default::default(),
    }
}

/// Several controllers over one store.
struct World {
    tree: Tree,
    cores: Vec<Core>,
    faults: Vec<Faults>,
    /// The store itself, without faults.
    store: Arc<dyn Store>,
    stop: StopSource,
    _dir: TempDir,
}

impl World {
    async fn new(controllers: usize) -> Self {
        Self::with(controllers, timeouts()).await
    }

    async fn with(controllers: usize, timeouts: Timeouts) -> Self {
        Self::limited(controllers, timeouts, Limits::default()).await
    }

    async fn limited(controllers: usize, timeouts: Timeouts, limits: Limits) -> Self {
        Self::of(controllers, |name| Config { limits: limits.clone(), ..config(name, timeouts.clone()) })
            .await
    }

    async fn of(controllers: usize, config: impl Fn(&str) -> Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new();
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir.path(), tree.handle()).await.unwrap());
        let mut world =
            Self { tree, cores: Vec::new(), faults: Vec::new(), store, stop: StopSource::new(), _dir: dir };
        for n in 0..controllers {
            let faults = Faults::new();
            let faulty = Arc::new(Faulty::new(world.store.clone(), faults.clone()));
            let config = config(&format!("c{n}"));
            world.cores.push(Core::start(config, faulty, &world.tree.handle(), format!("c{n}:1")).unwrap());
            world.faults.push(faults);
        }
        for core in &world.cores {
            until("every controller sees all members", || async {
                core.health.loaded()
                    && core.ops.lists().peek(|c| c.members("controller").count()) == controllers
            })
            .await;
        }
        world
    }

    fn ops(&self, n: usize) -> &Ops {
        &self.cores[n].ops
    }

    fn stop(&self) -> Stop {
        self.stop.stop()
    }

    /// A node that has joined and reported at the first controller.
    async fn node(&self, id: &str, capacity: u32) -> Node {
        let node = Node::new(id, capacity);
        node.join(self.ops(0)).await.unwrap();
        node.beat(self.ops(0), &[]).await.unwrap();
        node
    }

    async fn start(&self, n: usize, count: i64) -> Vec<InstanceId> {
        self.ops(n).start_resolved(ask(count), &Caller::default(), resolved()).await.unwrap()
    }

    async fn show(&self, n: usize, id: &InstanceId) -> InstanceRecord {
        self.ops(n).instance(id).await.unwrap().value
    }

    async fn end(self) {
        self.tree.shut_down(Duration::from_secs(5)).await;
    }
}

/// Waits until `condition` holds.
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let end = clock::now() + PATIENCE;
    while !condition().await {
        assert!(clock::now() < end, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn resolved() -> Resolved {
    Resolved {
        template: TemplateId::parse("t1").unwrap(),
        name: "sonoma".into(),
        repository: RepositoryName::parse("sonoma").unwrap(),
        tag: "v1".into(),
        version: 0,
        manifest: Digest::of(b"manifest"),
        arch: Some(Arch::Arm64),
        layers: Vec::new(),
    }
}

fn ask(count: i64) -> StartVm {
    StartVm { vmid: Some("t1".into()), count: Some(count), ..StartVm::default() }
}

fn keyed(key: &str) -> Caller {
    Caller { idempotency_key: Some(key.into()), ..Caller::default() }
}

/// An agent's side.
struct Node {
    id: NodeId,
    session: String,
    capacity: u32,
}

impl Node {
    fn new(id: &str, capacity: u32) -> Self {
        Self { id: NodeId::parse(id).unwrap(), session: format!("{id}-first"), capacity }
    }

    fn facts(&self) -> NodeFacts {
        NodeFacts {
            host_arch: Arch::Arm64,
            runs: vec![Arch::Arm64, Arch::Amd64],
            driver: "process".into(),
            hypervisor: HypervisorVersion::default(),
            agent_version: "1".into(),
            cpu_count: 8,
            memory: 16 << 30,
            disk_size: 100 << 30,
            disk_free: 50 << 30,
            disk_used: 0,
            templates: Vec::new(),
            layers: Default::default(),
            cpu_util: 0.1,
            ram_util: 0.1,
            usb_devices: Vec::new(),
            commands: Vec::new(),
        }
    }

    fn wish(&self) -> NodeWish {
        NodeWish {
            name: self.id.to_string(),
            host: "127.0.0.1".into(),
            capacity: self.capacity,
            capacity_mode: CapacityMode::Number,
            vcpu_override: 0,
            ram_override: 0,
            groups: Vec::new(),
            drain_mode: false,
            force_overrides: false,
        }
    }

    async fn join(&self, ops: &Ops) -> Result<(), OpsError> {
        ops.join(Join { node_id: self.id.clone(), wish: self.wish(), facts: self.facts() }).await.map(|_| ())
    }

    async fn beat(&self, ops: &Ops, vms: &[SeenVm]) -> Result<Heard, OpsError> {
        let beat = Heartbeat {
            node_id: self.id.clone(),
            session: self.session.clone(),
            facts: self.facts(),
            vms: vms.to_vec(),
            commands: Vec::new(),
        };
        ops.heartbeat(beat).await
    }

    fn poll(&self, seconds: u32) -> Poll {
        Poll { node: self.id.clone(), session: self.session.clone(), free: self.capacity, wait: seconds }
    }

    async fn tasks(&self, ops: &Ops, stop: Stop) -> Tasks {
        ops.poll(self.poll(5), stop).await.unwrap()
    }

    async fn offer(&self, world: &World, n: usize) -> StartTask {
        self.tasks(world.ops(n), world.stop()).await.start.expect("an offer")
    }

    fn claim(&self, task: &StartTask) -> Claim {
        Claim { node_id: self.id.clone(), instance: task.instance.clone(), attempt: task.attempt }
    }

    /// Polls, claims and starts; the VM is up, and reported.
    async fn run(&self, world: &World, n: usize) -> StartTask {
        let task = self.offer(world, n).await;
        assert!(world.ops(n).claim(self.claim(&task)).await.unwrap().granted);
        assert!(world.ops(n).starting(self.claim(&task)).await.unwrap().granted);
        self.beat(world.ops(n), &[vm(&task, VmPhase::Running)]).await.unwrap();
        task
    }
}

fn vm(task: &StartTask, phase: VmPhase) -> SeenVm {
    seen(&task.instance, task.attempt, phase)
}

fn seen(instance: &InstanceId, attempt: Attempt, phase: VmPhase) -> SeenVm {
    let info = (phase == VmPhase::Running).then(|| VmInfo {
        uuid: instance.to_string(),
        cpu_cores: 2,
        ram: "4G".into(),
        node_id: "n".into(),
        host_ip: "127.0.0.1".into(),
        ip: "10.0.0.1".into(),
        ..VmInfo::in_state("running")
    });
    SeenVm {
        instance: instance.clone(),
        attempt,
        phase,
        progress: Progress::NONE,
        info,
        script: None,
        message: String::new(),
    }
}
