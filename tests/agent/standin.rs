//! Controllers and a registry in one small server that speak the agents' protocol and misbehave as told: what
//! real ones never or seldom do is done here on purpose.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::StreamExt;
use serde_json::json;
use switchyard::{
    http,
    model::{Digest, InstanceId, NodeId, RepositoryName, TemplateId},
    supervise::{Stage, Tree},
    wire::{
        agent::{
            Claim, GiveBack, Granted, Heard, Heartbeat, Join, Joined, Leave, NodeSettings, Poll, Report,
            Script, SeenVm, StartTask, StopVm, Tasks, VmPhase,
        },
        node::CapacityMode,
    },
};
use tokio::sync::Notify;

use crate::support::eventually::eventually;

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What the controllers hold of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Queued,
    Offered,
    Claimed,
    Starting,
    Started,
    Failed,
    Terminating,
    Terminated,
}

#[derive(Debug)]
pub(crate) struct Instance {
    pub held: Held,
    pub attempt: u32,
    pub task: StartTask,
    /// Every attempt that was let to start.
    pub granted: Vec<u32>,
    /// The last that was said of it.
    pub last: Option<SeenVm>,
    /// Phases as they came, without repetitions.
    pub phases: Vec<VmPhase>,
    pub given_back: Vec<String>,
    /// The last script result that was told.
    pub script: Option<switchyard::wire::vm::ScriptResult>,
}

/// How it misbehaves.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Everything is answered 503.
    pub down: bool,
    /// So many calls of this path are done, and then answered 503: the answer is lost.
    pub lose: BTreeMap<&'static str, u32>,
    /// These steps are refused.
    pub refuse: BTreeSet<&'static str>,
    /// So many blobs are sent with wrong bytes.
    pub corrupt: u32,
    /// So many blobs break off in the middle.
    pub break_off: u32,
    /// Blobs stop in the middle and never go on.
    pub hang: bool,
    /// Starts are handed out to nodes that have no room.
    pub pushy: bool,
    /// Registry answers are 500.
    pub registry_down: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub known: bool,
    pub joins: Vec<Join>,
    pub heartbeats: Vec<Heartbeat>,
    pub instances: BTreeMap<InstanceId, Instance>,
    /// To be stopped though no instance says so.
    pub stops: Vec<StopVm>,
    pub gone: Vec<StopVm>,
    pub faults: Faults,
    /// Calls in the order they came.
    pub calls: Vec<String>,
    pub blobs_sent: u32,
    pub capacity: Option<u32>,
    version: u64,
    blobs: BTreeMap<Digest, Vec<u8>>,
    manifests: BTreeMap<Digest, Vec<u8>>,
}

#[derive(Clone)]
pub(crate) struct Cloud {
    pub address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    wake: Arc<Notify>,
}

impl Cloud {
    pub(crate) async fn start(tree: &Tree) -> Self {
        let listener = http::bind("127.0.0.1:0".parse().unwrap(), "test").unwrap();
        let address = listener.local_addr().unwrap();
        let cloud = Self { address, inner: Arc::default(), wake: Arc::default() };
        let router = Router::new()
            .route("/switchyard/v1/join", post(join))
            .route("/switchyard/v1/heartbeat", post(heartbeat))
            .route("/switchyard/v1/report", post(report))
            .route("/switchyard/v1/tasks", get(tasks))
            .route("/switchyard/v1/claim", post(claim))
            .route("/switchyard/v1/starting", post(starting))
            .route("/switchyard/v1/giveback", post(give_back))
            .route("/switchyard/v1/leave", post(leave))
            .route("/api/v1/status", get(status))
            .route("/registry/status", get(registry_status))
            .route("/v2/{name}/manifests/{digest}", get(manifest))
            .route("/v2/{name}/blobs/{digest}", get(blob))
            .layer(axum::extract::DefaultBodyLimit::max(4 << 20))
            .with_state(cloud.clone());
        tree.handle().start_vital(Stage::Store, "stand-in", move |stop| {
            http::serve(listener, None, router, stop, Duration::ZERO)
        });
        cloud
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    /// Puts a template in the registry: its manifest.
    pub(crate) fn push(&self, layers: &[&[u8]]) -> Digest {
        let mut inner = self.lock();
        let described: Vec<_> = layers
            .iter()
            .map(|layer| {
                let digest = Digest::of(layer);
                inner.blobs.insert(digest, layer.to_vec());
                json!({"mediaType": "application/octet-stream", "digest": digest.to_string(), "size": layer.len()})
            })
            .collect();
        let manifest = json!({"schemaVersion": 2, "layers": described}).to_string().into_bytes();
        let digest = Digest::of(&manifest);
        inner.manifests.insert(digest, manifest);
        digest
    }

    /// Puts a start in the queue.
    pub(crate) fn run(&self, manifest: Digest, script: Option<Script>) -> InstanceId {
        let instance = InstanceId::random();
        let task = StartTask {
            instance: instance.clone(),
            attempt: 0,
            template: TemplateId::parse("c0ffee11").unwrap(),
            template_name: "sonoma".into(),
            repository: RepositoryName::parse("sonoma").unwrap(),
            tag: "v3+ssh".into(),
            manifest,
            registry: self.url(),
            vm_name: "sonoma-xcode".into(),
            vcpu: Some(3),
            vram: Some(6144),
            script,
            hardware: Default::default(),
        };
        let made = Instance {
            held: Held::Queued,
            attempt: 0,
            task,
            granted: Vec::new(),
            last: None,
            phases: Vec::new(),
            given_back: Vec::new(),
            script: None,
        };
        self.lock().instances.insert(instance.clone(), made);
        self.wake.notify_waiters();
        instance
    }

    pub(crate) fn terminate(&self, instance: &InstanceId) {
        if let Some(instance) = self.lock().instances.get_mut(instance) {
            instance.held = Held::Terminating;
        }
        self.wake.notify_waiters();
    }

    /// Takes an instance from its node, as after a long silence.
    pub(crate) fn requeue(&self, instance: &InstanceId) {
        if let Some(instance) = self.lock().instances.get_mut(instance) {
            instance.held = Held::Queued;
        }
        self.wake.notify_waiters();
    }

    pub(crate) fn of<T>(&self, instance: &InstanceId, look: impl FnOnce(&Instance) -> T) -> T {
        look(&self.lock().instances[instance])
    }

    pub(crate) async fn is(&self, instance: &InstanceId, held: Held) {
        eventually(SOON, &format!("{instance} to be {held:?}"), || async {
            self.of(instance, |i| if i.held == held { Ok(()) } else { Err(format!("{i:?}")) })
        })
        .await;
    }

    pub(crate) async fn until(&self, what: &str, look: impl Fn(&Inner) -> bool) {
        eventually(SOON, what, || async {
            let inner = self.lock();
            if look(&inner) {
                Ok(())
            } else {
                Err(format!("{:?}", inner.calls.iter().rev().take(20).collect::<Vec<_>>()))
            }
        })
        .await;
    }

    /// Whether the call goes through; it is noted.
    fn came(&self, call: String) -> Result<(), Response> {
        let mut inner = self.lock();
        inner.calls.push(call);
        if inner.faults.down { Err(down()) } else { Ok(()) }
    }

    /// The answer, unless it gets lost.
    fn answer<T: serde::Serialize>(&self, path: &'static str, body: T) -> Response {
        let mut inner = self.lock();
        match inner.faults.lose.get_mut(path) {
            Some(left) if *left > 0 => {
                *left -= 1;
                down()
            }
            _ => Json(body).into_response(),
        }
    }
}

fn down() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status":"FAIL","message":"no store"}))).into_response()
}

fn no_record() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({"status":"FAIL","message":"no such node"}))).into_response()
}

impl Inner {
    fn settings(&self) -> NodeSettings {
        let wish = self.joins.last().map(|join| join.wish.clone());
        NodeSettings {
            version: self.version,
            name: wish.as_ref().map_or_else(String::new, |w| w.name.clone()),
            host: wish.as_ref().map_or_else(String::new, |w| w.host.clone()),
            capacity: self.capacity.or(wish.map(|w| w.capacity)).unwrap_or(1),
            capacity_mode: CapacityMode::Number,
            drain_mode: false,
            disable_central_logging: false,
        }
    }

    pub(crate) fn set_capacity(&mut self, capacity: u32) {
        self.capacity = Some(capacity);
        self.version += 1;
    }

    /// Its record is deleted, with all that was set of it: the next one begins anew.
    pub(crate) fn forget_node(&mut self) {
        (self.known, self.capacity, self.version) = (false, None, 0);
    }

    /// The VMs of the last heartbeat.
    pub(crate) fn told(&self) -> &[SeenVm] {
        self.heartbeats.last().map_or(&[], |heartbeat| &heartbeat.vms)
    }

    /// Whether half of a pull was told.
    pub(crate) fn is_half_pulled(&self) -> bool {
        self.told().iter().any(|vm| vm.phase == VmPhase::Pulling && json!(vm.progress) == json!(0.5))
    }

    fn see(&mut self, vm: &SeenVm) {
        let stop = StopVm { instance: vm.instance.clone(), attempt: vm.attempt };
        if vm.phase == VmPhase::Gone {
            self.gone.push(stop.clone());
            self.stops.retain(|s| *s != stop);
        }
        let Some(instance) = self.instances.get_mut(&vm.instance) else { return };
        if vm.attempt != instance.attempt {
            return;
        }
        if instance.phases.last() != Some(&vm.phase) {
            instance.phases.push(vm.phase);
        }
        if vm.script.is_some() {
            instance.script = vm.script.clone();
        }
        instance.last = Some(vm.clone());
        instance.held = match (instance.held, vm.phase) {
            (Held::Starting, VmPhase::Running) => Held::Started,
            (Held::Claimed | Held::Starting | Held::Started, VmPhase::Failed) => Held::Failed,
            (Held::Terminating, VmPhase::Gone) => Held::Terminated,
            (held, _) => held,
        };
    }

    fn heard(&self, told: &[SeenVm]) -> Heard {
        let mut stop = self.stops.clone();
        let mut forget = Vec::new();
        for vm in told {
            let this = StopVm { instance: vm.instance.clone(), attempt: vm.attempt };
            match self.instances.get(&vm.instance) {
                Some(i) if i.attempt == vm.attempt => match (i.held, vm.phase) {
                    (Held::Terminating, _) => stop.push(this),
                    (Held::Terminated, VmPhase::Gone) | (Held::Failed, VmPhase::Failed) => forget.push(this),
                    _ => {}
                },
                _ if vm.phase == VmPhase::Gone => forget.push(this),
                _ => stop.push(this),
            }
        }
        Heard {
            known: self.known,
            registry: String::new(),
            config: Some(self.settings()),
            stop,
            forget,
            commands: Vec::new(),
            noted: Vec::new(),
        }
    }
}

async fn join(State(cloud): State<Cloud>, Json(ask): Json<Join>) -> Response {
    if let Err(down) = cloud.came("join".into()) {
        return down;
    }
    let joined = {
        let mut inner = cloud.lock();
        inner.known = true;
        inner.version += 1;
        inner.joins.push(ask);
        Joined { registry: cloud.url(), config: inner.settings() }
    };
    cloud.answer("join", joined)
}

async fn heartbeat(State(cloud): State<Cloud>, Json(ask): Json<Heartbeat>) -> Response {
    if let Err(down) = cloud.came("heartbeat".into()) {
        return down;
    }
    let heard = {
        let mut inner = cloud.lock();
        ask.vms.iter().for_each(|vm| inner.see(vm));
        // What is not told is not there.
        for (id, instance) in &mut inner.instances {
            let told = ask.vms.iter().any(|vm| vm.instance == *id);
            if !told && instance.held == Held::Started {
                instance.held = Held::Failed;
            }
            if !told && instance.held == Held::Terminating {
                instance.held = Held::Terminated;
            }
        }
        let heard = inner.heard(&ask.vms);
        inner.heartbeats.push(ask);
        heard
    };
    cloud.answer("heartbeat", heard)
}

async fn report(State(cloud): State<Cloud>, Json(ask): Json<Report>) -> Response {
    if let Err(down) = cloud.came(format!("report {:?}", ask.vm.phase)) {
        return down;
    }
    let heard = {
        let mut inner = cloud.lock();
        inner.see(&ask.vm);
        inner.heard(&[ask.vm])
    };
    cloud.answer("report", heard)
}

async fn tasks(State(cloud): State<Cloud>, Query(ask): Query<Poll>) -> Response {
    if let Err(down) = cloud.came(format!("poll {}", ask.free)) {
        return down;
    }
    let end = tokio::time::sleep(Duration::from_secs(ask.wait.min(10).into()));
    tokio::pin!(end);
    loop {
        let woken = cloud.wake.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        let found = {
            let mut inner = cloud.lock();
            if !inner.known {
                return no_record();
            }
            let stop: Vec<StopVm> = inner
                .instances
                .iter()
                .filter(|(_, i)| i.held == Held::Terminating)
                .map(|(id, i)| StopVm { instance: id.clone(), attempt: i.attempt })
                .collect();
            let give = ask.free > 0 || inner.faults.pushy;
            let start = inner.instances.values_mut().find(|i| i.held == Held::Queued && give);
            let start = start.map(|instance| {
                instance.attempt += 1;
                instance.held = Held::Offered;
                StartTask { attempt: instance.attempt, ..instance.task.clone() }
            });
            Tasks { start, stop, commands: Vec::new() }
        };
        if found.start.is_some() || !found.stop.is_empty() {
            return cloud.answer("tasks", found);
        }
        tokio::select! {
            () = &mut woken => {}
            () = &mut end => return cloud.answer("tasks", Tasks::default()),
        }
    }
}

fn step(cloud: &Cloud, path: &'static str, ask: &Claim, from: &[Held], to: Held) -> Response {
    if let Err(down) = cloud.came(format!("{path} {}", ask.attempt)) {
        return down;
    }
    let granted = {
        let mut inner = cloud.lock();
        if !inner.known {
            return no_record();
        }
        let refused = inner.faults.refuse.contains(path);
        let held = inner.instances.get_mut(&ask.instance);
        match held.filter(|i| i.attempt == ask.attempt && from.contains(&i.held) && !refused) {
            Some(instance) => {
                instance.held = to;
                if to == Held::Starting && !instance.granted.contains(&ask.attempt) {
                    instance.granted.push(ask.attempt);
                }
                Granted { granted: true, why: String::new() }
            }
            None => Granted { granted: false, why: "not yours".into() },
        }
    };
    cloud.answer(path, granted)
}

async fn claim(State(cloud): State<Cloud>, Json(ask): Json<Claim>) -> Response {
    step(&cloud, "claim", &ask, &[Held::Offered, Held::Claimed], Held::Claimed)
}

async fn starting(State(cloud): State<Cloud>, Json(ask): Json<Claim>) -> Response {
    step(&cloud, "starting", &ask, &[Held::Claimed, Held::Starting], Held::Starting)
}

async fn give_back(State(cloud): State<Cloud>, Json(ask): Json<GiveBack>) -> Response {
    let answer = step(&cloud, "giveback", &ask.claim, &[Held::Claimed], Held::Queued);
    if let Some(instance) = cloud.lock().instances.get_mut(&ask.claim.instance) {
        instance.given_back.push(ask.why);
    }
    answer
}

async fn leave(State(cloud): State<Cloud>, Json(_): Json<Leave>) -> Response {
    let busy = cloud.lock().instances.values().any(|i| i.held == Held::Started);
    if !busy {
        cloud.lock().known = false;
    }
    let why = if busy { "instances run on it" } else { "" };
    Json(Granted { granted: !busy, why: why.into() }).into_response()
}

async fn status(State(cloud): State<Cloud>) -> Response {
    if let Err(down) = cloud.came("status".into()) {
        return down;
    }
    let body = json!({"status":"Running","version":"1.51.2","registry_address":cloud.url(),"license":"enterprise plus"});
    Json(json!({"status":"OK","message":"","body":body})).into_response()
}

async fn registry_status(State(cloud): State<Cloud>) -> Response {
    if cloud.lock().faults.registry_down {
        return down();
    }
    Json(json!({"status":"OK","message":"","body":{"status":"Running","version":"1.51.2"}})).into_response()
}

async fn manifest(State(cloud): State<Cloud>, Path((_, digest)): Path<(String, String)>) -> Response {
    let inner = cloud.lock();
    if inner.faults.registry_down {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    match Digest::parse(&digest).ok().and_then(|digest| inner.manifests.get(&digest)) {
        Some(bytes) => bytes.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn blob(
    State(cloud): State<Cloud>,
    Path((_, digest)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let mut inner = cloud.lock();
    inner.calls.push(format!("blob {}", &digest[7..15]));
    if inner.faults.registry_down {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let Some(mut bytes) = Digest::parse(&digest).ok().and_then(|digest| inner.blobs.get(&digest).cloned())
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    inner.blobs_sent += 1;
    let range = headers
        .get("range")
        .and_then(|r| r.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let total = bytes.len();
    let from: usize = range.unwrap_or(0);
    bytes.drain(..from.min(total));
    if inner.faults.corrupt > 0 {
        inner.faults.corrupt -= 1;
        bytes.iter_mut().for_each(|b| *b ^= 1);
    }
    let half = Bytes::copy_from_slice(&bytes[..bytes.len() / 2]);
    let mut pieces: VecDeque<Result<Bytes, std::io::Error>> = [Ok(half)].into();
    let mut for_ever = false;
    if inner.faults.break_off > 0 {
        inner.faults.break_off -= 1;
        pieces.push_back(Err(std::io::Error::other("broken off")));
    } else if inner.faults.hang {
        for_ever = true;
    } else {
        pieces.push_back(Ok(Bytes::copy_from_slice(&bytes[bytes.len() / 2..])));
    }
    let body = futures_util::stream::iter(pieces);
    let body = if for_ever {
        Body::from_stream(body.chain(futures_util::stream::pending()))
    } else {
        Body::from_stream(body)
    };
    let mut response = Response::builder().header("content-length", total - from);
    if from > 0 {
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header("content-range", format!("bytes {from}-{}/{total}", total - 1));
    }
    response.body(body).unwrap()
}

/// The node a stand-in knows, for those who look.
pub(crate) fn node() -> NodeId {
    NodeId::parse("node-1").unwrap()
}
