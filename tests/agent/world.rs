//! One agent in this process, its cloud, and the VM processes it starts.

use std::{path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use switchyard::{
    agent::Agent,
    config::agent::{Agent as Config, Driver, ProcessDriver, Reserve},
    model::InstanceId,
    supervise::{Stage, Tree},
    wire::agent::{OnScriptFailure, Script},
};

use crate::{
    standin::{Cloud, node},
    support::{eventually::eventually, place::Place, process::BINARY, vms::Vms},
};

pub(crate) struct World {
    pub cloud: Cloud,
    pub vms: Vms,
    pub config: Config,
    /// The agent's tasks.
    pub tree: Tree,
    /// The stand-in's.
    pub outside: Tree,
    pub place: Place,
}

impl World {
    /// A cloud and a config; no agent yet.
    pub(crate) async fn prepare(name: &str) -> Self {
        let place = Place::new(name);
        let outside = Tree::new();
        let cloud = Cloud::start(&outside).await;
        let config = Config {
            authorization: None,
            api_key: None,
            update: None,
            tls: None,
            controllers: vec![cloud.url().parse().unwrap()],
            driver: Driver::Process(ProcessDriver {
                program: Some(PathBuf::from(BINARY)),
                ..ProcessDriver::default()
            }),
            data: place.dir().join("data"),
            node_id: Some(node()),
            name: "mini-07".into(),
            host: "10.20.30.41".into(),
            capacity: 2,
            capacity_mode: Default::default(),
            force_overrides: false,
            groups: Vec::new(),
            drain_mode: false,
            heartbeat: Duration::from_millis(300),
            request_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(2),
            reserve: Reserve::Bytes(0),
            vm_prefix: "mgmtManaged".into(),
            start_timeout: Duration::from_secs(30),
            log: Default::default(),
            grace: Duration::from_secs(15),
        };
        let vms = Vms::watch(&place);
        Self { cloud, vms, config, tree: Tree::new(), outside, place }
    }

    /// A cloud with an agent that runs.
    pub(crate) async fn start(name: &str) -> Self {
        let mut world = Self::prepare(name).await;
        world.agent().await;
        world
    }

    /// Starts the agent, after a stop once more.
    pub(crate) async fn agent(&mut self) {
        self.tree = Tree::new();
        let agent = Agent::open(self.config.clone(), self.tree.handle()).await.unwrap();
        self.tree.handle().start_vital(Stage::Edge, "agent", |stop| agent.run(stop));
    }

    pub(crate) fn process(&mut self) -> &mut ProcessDriver {
        let Driver::Process(process) = &mut self.config.driver;
        process
    }

    pub(crate) async fn stop_agent(&self) {
        self.tree.shut_down(Duration::from_secs(15)).await;
    }

    pub(crate) async fn end(self) {
        self.stop_agent().await;
        self.none_lives().await;
        self.vms.assert_never_two();
        self.outside.shut_down(Duration::from_secs(5)).await;
    }

    /// No VM process is left, a moment after its agent. (The watcher itself sees with a delay.)
    pub(crate) async fn none_lives(&self) {
        eventually(Duration::from_secs(5), "the VMs to end with their agent", || async {
            let running = self.vms.running();
            if running.is_empty() { Ok(()) } else { Err(format!("{running:?}")) }
        })
        .await;
    }

    /// The instance has one VM process.
    pub(crate) async fn one_lives(&self, instance: &InstanceId) {
        eventually(Duration::from_secs(5), "one VM process", || async {
            let found = self.vms.of(instance.as_str());
            if found.len() == 1 { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    /// Names in the directory of VMs.
    pub(crate) fn vm_dirs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.config.data.join("vms")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }
}

/// A monitored script.
pub(crate) fn script(text: &str, timeout_seconds: u32, on_failure: OnScriptFailure) -> Option<Script> {
    Some(Script { body: STANDARD.encode(text), at_boot: false, monitored: true, timeout_seconds, on_failure })
}
