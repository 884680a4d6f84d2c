//! A writer, its replicas and the proxies before them, as separate processes that can be killed, frozen, cut off and
//! joined by new ones.

mod config;

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use switchyard::{
    model::Position,
    wire::replication::{self as wire, State},
};

use super::{
    api::Api,
    cloud::{SOON, Server},
    content::Content,
    eventually::eventually,
    place::Place,
    relay::{Relay, Wire},
};

/// Until hundreds of megabytes are copied on a loaded machine.
pub const COPIED: Duration = Duration::from_secs(180);

/// How many, and with which settings.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `r1`, the writer, and its replicas `r2`, `r3`, ….
    pub registries: usize,
    /// `p1`, `p2`, ….
    pub proxies: usize,
    /// Proxies reach the writer by wires that can be cut.
    pub wired: bool,
    /// A replica on a disk of this size that it alone sees, and lines for its config.
    pub small: Option<(&'static str, &'static str, &'static str)>,
    /// More lines for `[service.registries]`.
    pub service: String,
}

impl Default for Plan {
    fn default() -> Self {
        Self { registries: 3, proxies: 2, wired: false, small: None, service: String::new() }
    }
}

impl Plan {
    /// Every replica is asked for everything. By default each name has a replica of its own, and of the few names of a
    /// scenario another replica may have none.
    pub fn spread() -> Self {
        Self { service: "balance = \"least-requests\"".into(), ..Self::default() }
    }
}

/// One registry.
pub struct Registry {
    pub name: String,
    pub server: Server,
    /// Its storage, as it is called in its config.
    pub content: PathBuf,
    /// How it reaches the others.
    links: BTreeMap<String, Relay>,
}

/// One proxy.
pub struct Proxy {
    pub name: String,
    /// Its address is the admin one.
    pub server: Server,
    /// Its front.
    pub front: SocketAddr,
    /// Registries through it.
    pub api: Api,
    /// How it reaches the writer, if the plan has wires.
    wire: Option<Relay>,
    access: PathBuf,
}

/// All of them. Processes are dropped before their place.
pub struct Registries {
    pub proxies: Vec<Proxy>,
    all: Vec<Registry>,
    /// The name of the writer.
    pub writer: String,
    plan: Plan,
    pub place: Arc<Place>,
}

impl Registries {
    /// Starts all of it and waits until every replica has caught up and every proxy has its lease.
    pub async fn start(name: &str, plan: Plan) -> Self {
        let place = Arc::new(Place::new(name));
        let names: Vec<String> = (1..=plan.registries).map(|n| format!("r{n}")).collect();
        let mut cloud =
            Self { proxies: Vec::new(), all: Vec::new(), writer: "r1".into(), plan: plan.clone(), place };
        for name in &names {
            let registry = cloud.prepare(name);
            cloud.all.push(registry);
        }
        for name in &names {
            cloud.link(name).await;
            cloud.write_registry(name);
            cloud.registry_mut(name).server.restart().await;
        }
        for n in 1..=plan.proxies {
            let proxy = cloud.prepare_proxy(&format!("p{n}")).await;
            cloud.proxies.push(proxy);
        }
        cloud.write_proxies();
        for proxy in &mut cloud.proxies {
            proxy.server.restart().await;
        }
        cloud.ready().await;
        cloud
    }

    pub fn registry(&self, name: &str) -> &Registry {
        self.all.iter().find(|r| r.name == name).unwrap_or_else(|| panic!("no registry `{name}`"))
    }

    pub fn registry_mut(&mut self, name: &str) -> &mut Registry {
        self.all.iter_mut().find(|r| r.name == name).unwrap_or_else(|| panic!("no registry `{name}`"))
    }

    pub fn names(&self) -> Vec<String> {
        self.all.iter().map(|r| r.name.clone()).collect()
    }

    /// Those that only copy.
    pub fn replicas(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| *name != self.writer).collect()
    }

    /// Calls straight to a registry, past the proxies.
    pub fn straight(&self, name: &str) -> Api {
        self.registry(name).server.api()
    }

    /// What every wire between registries does from now on.
    pub fn wires_are(&self, wire: Wire) {
        for link in self.all.iter().flat_map(|r| r.links.values()) {
            link.set(wire);
        }
    }

    /// The wire by which a proxy reaches the writer.
    pub fn wire(&self, proxy: usize) -> &Relay {
        self.proxies[proxy].wire.as_ref().expect("the plan has wires")
    }

    /// `kill -9`.
    pub fn kill(&mut self, name: &str) {
        self.registry_mut(name).server.process.kill();
    }

    /// Starts it again on what it has, with the config as it is now.
    pub async fn restart(&mut self, name: &str) {
        self.link(name).await;
        self.write_registry(name);
        self.registry_mut(name).server.restart().await;
    }

    /// Removes everything that a killed registry had.
    pub fn wipe(&self, name: &str) {
        let content = &self.registry(name).content;
        fs::remove_dir_all(content).unwrap_or_else(|error| panic!("{}: {error}", content.display()));
    }

    /// A new replica on an empty disk, which the proxies are told of by a reload.
    pub async fn add_replica(&mut self) -> String {
        let name = format!("r{}", self.all.len() + 1);
        let registry = self.prepare(&name);
        self.all.push(registry);
        self.restart(&name).await;
        self.reload();
        name
    }

    /// Another is the writer from its next start on, and for the proxies from now on.
    pub fn appoint(&mut self, name: &str) {
        self.writer = name.to_owned();
        self.reload();
    }

    /// More lines for `[service.registries]`, from now on.
    pub fn set_service(&mut self, lines: &str) {
        self.plan.service = lines.to_owned();
        self.reload();
    }

    /// Writes the proxies' configs and tells those that run.
    fn reload(&mut self) {
        self.write_proxies();
        for proxy in &mut self.proxies {
            if proxy.server.process.has_ended().is_none() {
                proxy.server.process.signal(Signal::HUP);
            }
        }
    }

    /// How a registry stands.
    pub async fn state(&self, name: &str) -> Result<State, String> {
        let answer = self.straight(name).try_call("GET", wire::STATE, None).await?;
        if answer.status != 200 {
            return Err(format!("{name}: {answer}"));
        }
        serde_json::from_str(&answer.text).map_err(|error| format!("{name}: {error}: {answer}"))
    }

    /// The position that a registry claims.
    pub async fn position(&self, name: &str) -> Result<Position, String> {
        let state = self.state(name).await?;
        state.position.ok_or_else(|| format!("{name} claims no position: {:?}", state.why))
    }

    /// Waits until everything serves as it should: all upstreams up, all replicas caught up, all leases given.
    pub async fn ready(&self) {
        self.upstreams_are_up().await;
        self.caught_up(&self.replicas(), SOON).await;
        self.leased(self.proxies.len()).await;
    }

    /// Waits until every proxy finds every registry well, the ones added by a reload as well.
    pub async fn upstreams_are_up(&self) {
        for proxy in &self.proxies {
            eventually(SOON, &format!("{} to find all registries up", proxy.name), || async {
                let view = proxy.upstreams().await?;
                let up = |name: &String| view.iter().any(|(known, health)| known == name && health == "up");
                if self.names().iter().all(up) { Ok(()) } else { Err(format!("{view:?}")) }
            })
            .await;
        }
    }

    /// Waits until these replicas have all that the writer has, blobs included.
    pub async fn caught_up(&self, replicas: &[String], within: Duration) {
        for name in replicas {
            eventually(within, &format!("{name} to catch up"), || async {
                let (head, state) = (self.position(&self.writer).await?, self.state(name).await?);
                let all = state.position == Some(head) && state.fetching.is_empty() && state.lag.bytes == 0;
                if all { Ok(()) } else { Err(format!("the writer is at {head}, and {state:?}")) }
            })
            .await;
        }
    }

    /// Waits until the writer has given leases to so many proxies.
    pub async fn leased(&self, proxies: usize) {
        eventually(SOON, &format!("{proxies} proxies to have their lease"), || async {
            let followers = self.state(&self.writer).await?.followers;
            let with = |f: &&wire::Follower| f.kind == "proxy" && f.standing.starts_with("lease");
            if followers.iter().filter(with).count() >= proxies {
                Ok(())
            } else {
                Err(format!("{followers:?}"))
            }
        })
        .await;
    }

    /// A path in a registry's storage.
    pub fn path(&self, name: &str, below: &str) -> PathBuf {
        self.seen(name).join(below)
    }

    /// What a registry has on its disk.
    pub fn content(&self, name: &str) -> Content {
        Content::of(&self.seen(name))
    }

    /// Waits until every replica holds what the writer holds, byte for byte.
    pub async fn same_everywhere(&self, within: Duration) {
        self.caught_up(&self.replicas(), within).await;
        for name in self.replicas() {
            // The last blobs of an upload that was broken off may still be under way.
            eventually(within, &format!("{name} to hold what {} holds", self.writer), || async {
                self.content(&self.writer).differs_from(&self.content(&name)).map_or(Ok(()), Err)
            })
            .await;
        }
        for name in self.names() {
            assert_eq!(self.content(&name).corrupt(), [""; 0], "on the disk of {name}");
        }
    }
}

impl Proxy {
    /// Name and health of each registry, as this proxy sees it.
    async fn upstreams(&self) -> Result<Vec<(String, String)>, String> {
        let view = self.server.api().try_call("GET", "/admin/v1/upstreams", None).await?.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let services = view["services"].as_array().into_iter().flatten();
        let upstreams = services.filter_map(|service| service["upstreams"].as_array()).flatten();
        Ok(upstreams.map(|u| (text(&u["name"]), text(&u["health"]))).collect())
    }

    /// How many requests it holds.
    pub async fn held(&self) -> Result<u64, String> {
        let view = self.server.api().try_call("GET", "/admin/v1/upstreams", None).await?.json();
        view["services"][0]["held"].as_u64().ok_or_else(|| view.to_string())
    }

    /// How many requests under this path a registry has answered well, by the access log.
    pub fn served_by(&self, registry: &str, path: &str) -> usize {
        let log = fs::read_to_string(&self.access).unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let good = |line: &Value| matches!(line["status"].as_u64(), Some(200 | 206));
        let under = |line: &Value| line["path"].as_str().is_some_and(|at| at.starts_with(path));
        lines.filter(|line| line["upstream"] == registry && good(line) && under(line)).count()
    }
}
