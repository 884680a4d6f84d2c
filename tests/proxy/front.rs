//! A proxy in this process, on ports of its own.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use switchyard::{
    clock,
    config::{
        Address, Log,
        proxy::{
            Access, Balance, DECISIONS, Does, Endings, Health, Kind, Limits, Listener, Proxy, Rule, Service,
            Upstream,
        },
    },
    model::{ServiceName, UpstreamName},
    proxy::{self, Handle, ReloadError},
    supervise::{Stage, Tree},
    wire::upstreams::Upstreams,
};

use crate::raw;

/// A running proxy. Stops when dropped.
pub struct Front {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub handle: Handle,
    pub config: Proxy,
    pub log: PathBuf,
    tree: Option<Tree>,
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

/// An upstream named `name`.
pub fn upstream(name: &str, address: SocketAddr) -> Upstream {
    let address = Address { host: address.ip().to_string(), port: address.port() };
    Upstream::plain(UpstreamName::parse(name).unwrap(), address)
}

/// One service behind one listener, with quick probes.
pub fn config(kind: Kind, addresses: &[SocketAddr]) -> Proxy {
    let any = "127.0.0.1:0".parse().unwrap();
    let upstreams = addresses.iter().enumerate().map(|(at, address)| upstream(&format!("u{at}"), *address));
    Proxy {
        threads: 2,
        zone: None,
        zero_copy: true,
        log: Log::default(),
        access: Access::Off,
        progress: Some(Proxy::PROGRESS),
        trace: None,
        admin: any,
        entry: Default::default(),
        decisions: DECISIONS,
        address_file: None,
        listeners: vec![Listener {
            name: "front".into(),
            bind: vec![any],
            tls: None,
            rules: vec![Rule { host: None, path: None, does: Does::Send(0) }],
            trusted: Vec::new(),
            proxy_protocol: Vec::new(),
            expose: Vec::new(),
            http2: false,
            limits: Default::default(),
        }],
        services: vec![Service {
            balance: Balance::RoundRobin,
            // Tests count.
            slow_start: Duration::ZERO,
            health: Health {
                interval: Duration::from_millis(200),
                timeout: Duration::from_secs(1),
                rise: 1,
                fall: 2,
                ..Health::default()
            },
            ..Service::plain(ServiceName::parse("pool").unwrap(), kind, upstreams.collect())
        }],
        limits: Limits::default(),
        endings: Endings { grace: Duration::from_secs(5), ..Endings::default() },
        run_dir: None,
    }
}

impl Front {
    /// Runs it, and waits until every upstream has a verdict.
    pub fn start(config: Proxy) -> Self {
        let front = Self::start_unproven(config);
        front.wait_until("every upstream was probed", |view| {
            view.services.iter().flat_map(|s| &s.upstreams).all(|u| u.health != "unknown")
        });
        front
    }

    /// Runs it.
    pub fn start_unproven(mut config: Proxy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("access.log");
        config.access = Access::File(log.clone());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let tree = Tree::new();
        let proxy = runtime.block_on(proxy::Proxy::open(config.clone(), tree.handle())).unwrap();
        let addresses = proxy.addresses();
        let handle = proxy.handle();
        runtime.block_on(async { tree.handle().start_vital(Stage::Edge, "proxy", |stop| proxy.run(stop)) });
        Self {
            address: addresses.listener("front").unwrap(),
            admin: addresses.admin,
            handle,
            config,
            log,
            tree: Some(tree),
            runtime,
            _dir: dir,
        }
    }

    /// A controllers' front over these.
    pub fn controllers(addresses: &[SocketAddr]) -> Self {
        Self::start(config(Kind::Controller, addresses))
    }

    /// A registries' front over these.
    pub fn registries(addresses: &[SocketAddr]) -> Self {
        Self::start(config(Kind::Registry, addresses))
    }

    pub fn get(&self, path: &str) -> raw::Answer {
        raw::get(self.address, path)
    }

    pub fn ask(&self, request: &str) -> raw::Answer {
        raw::ask(self.address, request)
    }

    /// Reloads as the command line would, inside the runtime.
    pub fn reload(&self, config: &Proxy) -> Result<(), ReloadError> {
        let _inside = self.runtime.enter();
        self.handle.reload(config)
    }

    pub fn view(&self) -> Upstreams {
        let answer =
            raw::ask(self.admin, "GET /admin/v1/upstreams HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        serde_json::from_slice(&answer.body).unwrap()
    }

    pub fn metrics(&self) -> String {
        raw::ask(self.admin, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").text()
    }

    pub fn wait_until(&self, what: &str, holds: impl Fn(&Upstreams) -> bool) {
        eventually(what, || holds(&self.view()));
    }

    /// The access lines so far, once there are `count` of them.
    pub fn lines(&self, count: usize) -> Vec<serde_json::Value> {
        // Without the one that is being written.
        let read = || {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            text.rsplit_once('\n').map(|(whole, _)| whole.to_owned()).unwrap_or_default()
        };
        eventually("the access lines are written", || read().lines().count() >= count);
        read().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Stops it as a signal would; how long it took.
    pub fn stop(&mut self) -> Duration {
        let begun = clock::now();
        if let Some(tree) = self.tree.take() {
            self.runtime.block_on(tree.shut_down(Duration::from_secs(20)));
        }
        begun.elapsed()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Polls a condition, with a deadline.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = clock::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
