//! One agent in this process, its cloud, and the VM processes it starts.

use std::{path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use switchyard::{
    agent::Agent,
    config::agent::{Agent as Config, Driver, ProcessDriver, Reserve},
    supervise::{Stage, Tree},
    wire::agent::{OnScriptFailure, Script},
};

use crate::{
    standin::{Cloud, node},
    support::{place::Place, process::BINARY, vms::Vms},
};

pub struct World {
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
    pub async fn prepare(name: &str) -> Self {
        let place = Place::new(name);
        let outside = Tree::new();
        let cloud = Cloud::start(&outside).await;
        let config = Config {
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
    pub async fn start(name: &str) -> Self {
        let mut world = Self::prepare(name).await;
        world.agent().await;
        world
    }

    /// Starts the agent, after a stop once more.
    pub async fn agent(&mut self) {
        self.tree = Tree::new();
        let agent = Agent::open(self.config.clone(), self.tree.handle()).await.unwrap();
        self.tree.handle().start_vital(Stage::Edge, "agent", |stop| agent.run(stop));
    }

    pub fn process(&mut self) -> &mut ProcessDriver {
        let Driver::Process(process) = &mut self.config.driver;
        process
    }

    pub async fn stop_agent(&self) {
        self.tree.shut_down(Duration::from_secs(15)).await;
    }

    pub async fn end(self) {
        self.stop_agent().await;
        self.vms.assert_never_two();
        assert!(self.vms.running().is_empty(), "VMs outlived their agent: {:?}", self.vms.running());
        self.outside.shut_down(Duration::from_secs(5)).await;
    }

    /// Names in the directory of VMs.
    pub fn vm_dirs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.config.data.join("vms")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }
}

/// A monitored script.
pub fn script(text: &str, timeout_seconds: u32, on_failure: OnScriptFailure) -> Option<Script> {
    Some(Script { body: STANDARD.encode(text), at_boot: false, monitored: true, timeout_seconds, on_failure })
}
