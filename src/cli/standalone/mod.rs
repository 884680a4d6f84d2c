//! `switchyard standalone`: the whole cloud in one process, on one directory.
//!
//! It opens the same doors as the separate processes do, with configs made in code. The fronts are opened
//! first, so that a busy port is said before anything is touched; controllers must know the registries' front
//! and the proxy must know the controllers, so the proxy learns of them by a reload.

mod data;
mod plan;
mod sample;
mod table;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use super::{
    Failure, Printer,
    login::Credential,
    role::{self, Hooks, Setting},
};
use crate::{
    agent::Agent,
    config::{BaseUrl, DEFAULT_GRACE, Log},
    controller::Controller,
    http,
    proxy::{self, Proxy},
    registry::Registry,
    store::{Store, embedded::EmbeddedStore},
    supervise::{Stage, Tree},
    telemetry::{self, LogFormat},
};
use data::Data;
use table::Addresses;

/// Arguments of `standalone`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory for everything that must survive a restart [default: switchyard/standalone in $XDG_DATA_HOME,
    /// which is ~/.local/share if not set]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep the controllers' state in this etcd instead of the directory
    #[arg(long, value_name = "URL,…", value_delimiter = ',', value_parser = BaseUrl::plain)]
    etcd: Vec<BaseUrl>,
    /// Where clients and agents reach the controllers; 0.0.0.0:8090 lets other machines in, unauthenticated
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8090")]
    controllers_addr: SocketAddr,
    /// Where clients and agents reach the registries; 0.0.0.0:8089 lets other machines in, unauthenticated
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8089")]
    registries_addr: SocketAddr,
    /// The proxy's admin API and metrics
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9090")]
    admin_addr: SocketAddr,
    /// What the admin API asks for, at least 16 characters; `off` lets everybody in who can connect
    #[arg(long, value_name = "TOKEN", env = "SWITCHYARD_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    #[command(flatten)]
    shown: Credential,
    /// How many controllers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    controllers: u16,
    /// How many registries: the first takes pushes, the others copy from it and serve reads
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    registries: u16,
    /// How many agents, each a node with the `process` driver
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=64))]
    agents: u16,
    /// Write all addresses to this file, as JSON, once everything is open
    #[arg(long, value_name = "FILE")]
    address_file: Option<PathBuf>,
    /// What is logged: a tracing filter such as `info` or `switchyard::proxy=debug`
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
    /// Write one JSON line per request to this file, or to `stdout`
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
}

struct Running {
    proxy: proxy::Handle,
    /// Held as long as anything writes there.
    _data: Data,
}

impl Hooks for Running {
    fn reload(&mut self) {
        tracing::warn!("standalone has no config file; flags are read at start");
    }

    fn reopen_logs(&mut self) {
        self.proxy.reopen_logs();
    }
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let log = Log { format: LogFormat::Human, filter: args.log.clone() };
    let setting = Setting { log, notes: Vec::new(), grace: DEFAULT_GRACE, threads: None };
    role::run(&setting, printer, async |tree| {
        let (running, addresses) = open(args, &tree).await?;
        if let Some(file) = &args.address_file {
            addresses
                .write(file)
                .map_err(|error| Failure::runtime("the address file cannot be written", &error))?;
        }
        printer.data(table::table(&addresses, &running._data, args));
        Ok((tree, running))
    })
}

async fn open(args: &Args, tree: &Tree) -> Result<(Running, Addresses), Failure> {
    let entry = plan::entry(args)?;
    let auth = plan::auth(args)?;
    let data = Data::open(args.data.clone(), !args.etcd.is_empty())?;
    ports_are_free(args)?;
    sample::write(&data.sample())
        .map_err(|error| Failure::runtime("the sample image cannot be written", &error))?;

    let mut registries: Vec<Registry> = Vec::new();
    for number in 1..=args.registries {
        let before: Vec<SocketAddr> = registries.iter().map(Registry::address).collect();
        let opened = Registry::open(plan::registry(number, &data, &before, &auth), tree.handle()).await;
        registries.push(opened.map_err(|e| not_started("registry", &e))?);
    }
    let registry: Vec<SocketAddr> = registries.iter().map(Registry::address).collect();
    let mut plan = plan::proxy(args, (entry, &auth), &registry);
    let proxy = Proxy::open(plan.clone(), tree.handle()).await.map_err(|e| not_started("proxy", &e))?;
    let fronts = proxy.addresses();
    let front = |name: &str| {
        fronts.listener(name).map(plan::reached_at).ok_or_else(|| Failure::Runtime {
            error: format!("the proxy has no listener `{name}`"),
            hint: None,
        })
    };
    let (controllers_front, registries_front) = (front(plan::CONTROLLERS)?, front(plan::REGISTRIES)?);

    let mut controllers = Vec::new();
    let shared: Option<Arc<dyn Store>> = match args.etcd.is_empty() {
        true => {
            let store = EmbeddedStore::open(&data.store(), tree.handle()).await;
            Some(Arc::new(store.map_err(|e| not_started("embedded store", &e))?))
        }
        false => None,
    };
    for number in 1..=args.controllers {
        let config = plan::controller(number, args, (&data, &auth), registries_front);
        let opened = match &shared {
            Some(store) => Controller::open_with(config, store.clone(), tree.handle()).await,
            None => Controller::open(config, tree.handle()).await,
        };
        controllers.push(opened.map_err(|e| not_started("controller", &e))?);
    }
    let addresses = Addresses {
        controllers: controllers_front,
        registries: registries_front,
        admin: fronts.admin,
        controller: controllers.iter().map(Controller::address).collect(),
        registry,
    };
    let tasks = tree.handle();
    let handle = proxy.handle();
    tasks.start_vital(Stage::Edge, "proxy", |stop| proxy.run(stop));
    for (registry, number) in registries.into_iter().zip(1..) {
        tasks.start_vital(Stage::Edge, format!("registry {number}"), |stop| registry.run(stop));
    }
    for (controller, number) in controllers.into_iter().zip(1..) {
        tasks.start_vital(Stage::Edge, format!("controller {number}"), |stop| controller.run(stop));
    }
    until_ready(&addresses.controller).await;
    plan::add_controllers(&mut plan, &addresses.controller);
    handle.reload(&plan).map_err(|e| not_started("proxy", &e))?;
    for number in 1..=args.agents {
        let config = plan::agent(number, &data, controllers_front, &auth);
        let agent = Agent::open(config, tree.handle()).await.map_err(|e| not_started("agent", &e))?;
        tasks.start_vital(Stage::Edge, format!("agent {number}"), |stop| agent.run(stop));
    }
    Ok((Running { proxy: handle, _data: data }, addresses))
}

/// How long the controllers may take to read their store before the proxy is told of them all the same.
const READY: Duration = Duration::from_secs(5);

/// Waits until each controller can serve, so that the proxy's first probe does not find them down.
async fn until_ready(controllers: &[SocketAddr]) {
    let all = async {
        let Ok(client) = crate::client::http_client(READY) else { return };
        for address in controllers {
            let ask = || client.get(format!("http://{address}/readyz")).send();
            while !ask().await.is_ok_and(|answer| answer.status().is_success()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    // Not ready in time: the proxy holds requests and says why, better than no start at all.
    if tokio::time::timeout(READY, all).await.is_err() {
        tracing::warn!(ready.seconds = READY.as_secs(), "controllers are not ready yet");
    }
}

fn not_started(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::runtime(&format!("the {what} did not start"), error)
}

/// Tries the ports before anything else is touched, so that the error names the flag and comes at once.
fn ports_are_free(args: &Args) -> Result<(), Failure> {
    let ports = [
        (args.controllers_addr, "--controllers-addr"),
        (args.registries_addr, "--registries-addr"),
        (args.admin_addr, "--admin-addr"),
    ];
    // Held together until all are tried, so that two flags with one port are found out too.
    let mut held = Vec::new();
    for (address, flag) in ports {
        let socket = http::bind(address, flag);
        held.push(socket.map_err(|error| Failure::Runtime { error: telemetry::chain(&error), hint: None })?);
    }
    Ok(())
}
