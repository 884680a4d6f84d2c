//! A whole cloud of separate processes: etcd, controllers, registries, a proxy in front, agents behind it.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    api::{Answer, Api},
    etcd::Etcd,
    eventually::eventually,
    outside,
    place::Place,
    process::{BINARY, Process},
};

/// How long something that should happen soon may take on a loaded machine.
pub const SOON: Duration = Duration::from_secs(30);

/// How large, and with which settings.
pub struct Plan {
    pub etcd: usize,
    /// More arguments for etcd's members.
    pub etcd_more: Vec<&'static str>,
    /// Whether each member of etcd is a machine of its own, whose wires can be cut; inside a namespace only.
    pub apart: bool,
    pub controllers: usize,
    pub agents: usize,
    /// VMs per agent.
    pub capacity: u32,
    /// More lines for `controller.toml`: whole tables.
    pub controller: String,
    /// More lines for `registry.toml`.
    pub registry: String,
    /// More lines for `agent.toml`.
    pub agent: String,
    /// More lines for each `[service.NAME]` of `proxy.toml`.
    pub service: String,
    /// More lines for each `[service.NAME.health]`.
    pub health: String,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            etcd: 1,
            etcd_more: Vec::new(),
            apart: false,
            controllers: 2,
            agents: 2,
            capacity: 4,
            controller: String::new(),
            registry: "[limits]\nreserve = \"16MiB\"\n".into(),
            agent: String::new(),
            service: String::new(),
            health: String::new(),
        }
    }
}

/// A process that serves at one address for the whole scenario, restarts included.
pub struct Server {
    pub process: Process,
    pub address: SocketAddr,
    address_file: PathBuf,
}

impl Server {
    /// Of a process that writes `address_file` once it is open.
    pub fn new(process: Process, address: SocketAddr, address_file: PathBuf) -> Self {
        Self { process, address, address_file }
    }

    /// Starts it again after a kill, and waits until its port is open.
    pub async fn restart(&mut self) {
        // Else the file of the one before is taken for the new one's.
        drop(std::fs::remove_file(&self.address_file));
        self.process.spawn();
        self.up().await;
    }

    /// Waits until its port is open.
    pub async fn up(&mut self) {
        self.process.addresses(&self.address_file).await;
    }

    /// Calls straight to this process, past the proxy.
    pub fn api(&self) -> Api {
        Api::new(self.address)
    }
}

/// The whole cloud. Fields are dropped in order: clients of the store before the store, the place last.
pub struct Cloud {
    pub agents: Vec<Process>,
    pub proxy: Server,
    pub controllers: Vec<Server>,
    pub registry: Server,
    pub etcd: Etcd,
    pub controllers_front: SocketAddr,
    pub registries_front: SocketAddr,
    /// Controllers through the proxy.
    pub api: Api,
    /// The proxy's own door.
    pub admin: Api,
    pub place: Place,
}

impl Cloud {
    /// Starts all of it and waits until it serves: every upstream proven, every node Active.
    pub async fn start(name: &str, plan: &Plan) -> Self {
        let mut cloud = Self::start_without_agents(name, plan).await;
        for n in 1..=plan.agents {
            let front = cloud.controllers_front;
            let agent = cloud.start_agent(&format!("node-{n}"), front, plan);
            cloud.agents.push(agent);
        }
        cloud.nodes_are("Active", plan.agents).await;
        cloud
    }

    /// The same without agents, for scenarios that place them behind wires of their own.
    pub async fn start_without_agents(name: &str, plan: &Plan) -> Self {
        let cloud = Self::start_unproven(name, plan).await;
        cloud.upstreams_are("up").await;
        cloud
    }

    /// Nor does it wait until the proxy finds its upstreams well.
    pub async fn start_unproven(name: &str, plan: &Plan) -> Self {
        let place = Place::new(name);
        let etcd = match plan.apart {
            false => Etcd::start_with(plan.etcd, &plan.etcd_more).await,
            true => Etcd::start_apart(plan.etcd, &plan.etcd_more).await,
        };
        let (controllers_front, registries_front) = (place.address(), place.address());

        let mut registry = registry(&place, "r1", &plan.registry);
        let members: Vec<String> = etcd.urls().iter().map(|url| format!("\"{url}\"")).collect();
        let store = format!("etcd = [{}]", members.join(", "));
        let mut controllers: Vec<Server> = (1..=plan.controllers)
            .map(|n| controller(&place, &format!("c{n}"), &store, registries_front, &plan.controller))
            .collect();
        let fronts = [
            Front {
                service: "controllers",
                kind: "controller",
                bind: controllers_front,
                upstreams: named("c", &controllers),
            },
            Front {
                service: "registries",
                kind: "registry",
                bind: registries_front,
                upstreams: vec![("r1".into(), registry.address)],
            },
        ];
        let mut proxy = proxy(&place, "proxy", &fronts, plan);
        registry.up().await;
        for controller in &mut controllers {
            controller.up().await;
        }
        proxy.up().await;

        let (api, admin) = (Api::new(controllers_front), proxy.api());
        Self {
            agents: Vec::new(),
            proxy,
            controllers,
            registry,
            etcd,
            controllers_front,
            registries_front,
            api,
            admin,
            place,
        }
    }

    /// Starts an agent that speaks to `controllers`; it is its caller's.
    pub fn start_agent(&self, name: &str, controllers: SocketAddr, plan: &Plan) -> Process {
        agent(&self.place, name, controllers, plan.capacity, &plan.agent)
    }

    /// Waits until so many nodes are in this state.
    pub async fn nodes_are(&self, state: &str, count: usize) {
        eventually(SOON, &format!("{count} nodes {state}"), || async {
            let nodes = self.api.try_call("GET", "/api/v1/node", None).await?;
            if !nodes.is_ok() {
                return Err(format!("{nodes}"));
            }
            let nodes = nodes.ok();
            let states: Vec<&str> =
                nodes.as_array().into_iter().flatten().filter_map(|n| n["state"].as_str()).collect();
            if states.iter().filter(|s| **s == state).count() == count {
                Ok(())
            } else {
                Err(format!("{states:?}"))
            }
        })
        .await;
    }

    /// Waits until every upstream is in this health.
    pub async fn upstreams_are(&self, health: &str) {
        self.upstreams_are_but(health, &[]).await;
    }

    /// Waits until every upstream but these is in this health.
    pub async fn upstreams_are_but(&self, health: &str, but: &[&str]) {
        eventually(SOON, &format!("upstreams {health}"), || async {
            let seen = self.upstreams().await?;
            let good = seen.iter().all(|(name, h, _)| h == health || but.contains(&name.as_str()));
            if good { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }

    /// How many requests the proxy holds for a service.
    pub async fn held(&self, service: &str) -> Result<u64, String> {
        let view = self.admin.try_call("GET", "/admin/v1/upstreams", None).await?.json();
        let service = view["services"].as_array().into_iter().flatten().find(|s| s["name"] == service);
        service.and_then(|s| s["held"].as_u64()).ok_or_else(|| view.to_string())
    }

    /// Name, health and evidence of every upstream, as the proxy sees them.
    pub async fn upstreams(&self) -> Result<Vec<(String, String, String)>, String> {
        let answer = self.admin.try_call("GET", "/admin/v1/upstreams", None).await?;
        if answer.status != 200 {
            return Err(answer.to_string());
        }
        let view = answer.json();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let upstreams = view["services"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|s| s["upstreams"].as_array())
            .flatten();
        Ok(upstreams.map(|u| (text(&u["name"]), text(&u["health"]), text(&u["evidence"]))).collect())
    }

    /// Names of the upstreams that are ejected for what became of requests, with the reason.
    pub async fn ejected(&self) -> Result<Vec<(String, String)>, String> {
        let view = self.admin.try_call("GET", "/admin/v1/upstreams", None).await?.json();
        let all = view["services"].as_array().into_iter().flatten();
        let all = all.flat_map(|service| service["upstreams"].as_array()).flatten();
        let out = all.filter(|upstream| !upstream["ejected"].is_null());
        Ok(out.map(|u| (u["name"].to_string(), u["ejected"]["why"].to_string())).collect())
    }

    /// Pushes an image through the registries' front; gives the template id that the controllers know it by.
    pub async fn push(&self, image: &super::image::Image, repository: &str, tag: &str) -> String {
        push(&self.place, self.registries_front, image, repository, tag).await;
        template_id(&self.api, repository).await
    }

    /// Starts instances and gives their ids.
    pub async fn run(&self, body: Value) -> Vec<String> {
        ids(&self.api.post("/api/v1/vm", &body).await)
    }

    pub async fn show(&self, instance: &str) -> Value {
        self.api.get(&format!("/api/v1/vm?id={instance}")).await.ok()
    }

    pub async fn list(&self) -> Vec<Value> {
        self.api.get("/api/v1/vm").await.ok().as_array().cloned().expect("a list")
    }

    /// Waits until an instance is in one of these states; gives what was shown.
    pub async fn reaches(&self, instance: &str, states: &[&str], within: Duration) -> Value {
        reaches(&self.api, instance, states, within).await
    }

    pub async fn terminate(&self, instance: &str) -> Answer {
        self.api.delete("/api/v1/vm", &json!({ "id": instance })).await
    }
}

/// Pushes with the real client; panics with what it said if it fails.
pub async fn push(
    place: &Place,
    front: SocketAddr,
    image: &super::image::Image,
    repository: &str,
    tag: &str,
) {
    let said = outside::push(place, &image.layout, &format!("{front}/{repository}:{tag}")).await;
    assert!(said.ok, "skopeo: {}{}", said.out, said.err);
}

/// The id under which controllers know a repository.
pub async fn template_id(api: &Api, repository: &str) -> String {
    let templates = api.get("/api/v1/registry/vm").await.ok();
    let found = templates.as_array().into_iter().flatten().find(|t| t["name"] == repository);
    let found = found.unwrap_or_else(|| panic!("`{repository}` was pushed and is not listed: {templates}"));
    found["id"].as_str().expect("an id").to_owned()
}

/// The ids in the answer to a start.
#[track_caller]
pub fn ids(answer: &Answer) -> Vec<String> {
    let body = answer.ok();
    let ids = body.as_array().unwrap_or_else(|| panic!("a start answers with a list: {answer:?}"));
    ids.iter().map(|id| id.as_str().expect("an id is a text").to_owned()).collect()
}

/// Waits until an instance is in one of these states; gives what was shown.
pub async fn reaches(api: &Api, instance: &str, states: &[&str], within: Duration) -> Value {
    eventually(within, &format!("{instance} to be {states:?}"), || async {
        let answer = api.try_call("GET", &format!("/api/v1/vm?id={instance}"), None).await?;
        if !answer.is_ok() {
            return Err(answer.to_string());
        }
        let shown = answer.ok();
        let state = shown["instance_state"].as_str().unwrap_or_default();
        if states.contains(&state) { Ok(shown) } else { Err(shown.to_string()) }
    })
    .await
}

/// One listener of a proxy, and the service behind it.
pub struct Front<'a> {
    pub service: &'a str,
    pub kind: &'a str,
    pub bind: SocketAddr,
    pub upstreams: Vec<(String, SocketAddr)>,
}

/// Each with its place behind `prefix` as its name.
pub fn named(prefix: &str, servers: &[Server]) -> Vec<(String, SocketAddr)> {
    servers.iter().enumerate().map(|(n, server)| (format!("{prefix}{}", n + 1), server.address)).collect()
}

/// `[server]` at an address of the place, and the file in which it says that it is open.
fn server_table(place: &Place, name: &str) -> (SocketAddr, PathBuf, String) {
    let (address, file) = (place.address(), place.path(&format!("{name}.address")));
    let text = format!(
        "[server]\nlisten = \"{address}\"\nname = \"{name}\"\naddress_file = \"{}\"\n[shutdown]\ngrace = \"5s\"\n",
        file.display()
    );
    (address, file, text)
}

/// Starts a registry on a directory of the place.
pub fn registry(place: &Place, name: &str, more: &str) -> Server {
    let (address, address_file, config) =
        registry_config(place, name, &place.path(&format!("{name}/content")), more);
    let process = Process::start(place, name, &["registry", "-c", &config.display().to_string()]);
    Server { process, address, address_file }
}

/// Starts a registry on a disk of this size, which it alone sees: a tmpfs in a mount namespace of its own.
pub fn registry_on_small_disk(place: &Place, name: &str, size: &str, more: &str) -> Server {
    let disk = place.path(&format!("{name}/disk"));
    std::fs::create_dir_all(&disk).expect("a directory to mount on");
    let (address, address_file, config) = registry_config(place, name, &disk.join("content"), more);
    let (disk, config) = (disk.display().to_string(), config.display().to_string());
    let script = "mount -t tmpfs -o size=$0 tmpfs $1 && shift && exec \"$@\"";
    let arguments = ["-Urm", "sh", "-c", script, size, &disk, BINARY, "registry", "-c", &config];
    let process = Process::start_by(place, name, "unshare", &arguments);
    Server { process, address, address_file }
}

fn registry_config(place: &Place, name: &str, disk: &Path, more: &str) -> (SocketAddr, PathBuf, PathBuf) {
    let (address, address_file, mut text) = server_table(place, name);
    writeln!(text, "[storage]\ndisk = \"{}\"\n{more}", disk.display()).expect("a text takes all");
    (address, address_file, place.write(&format!("{name}.toml"), &text))
}

/// Starts a controller over `store`, the line of `[store]` that says where.
pub fn controller(place: &Place, name: &str, store: &str, registries: SocketAddr, more: &str) -> Server {
    let (address, address_file, mut text) = server_table(place, name);
    writeln!(text, "[store]\n{store}\n[registries]\naddress = \"http://{registries}\"\n{more}")
        .expect("a text takes all");
    let config = place.write(&format!("{name}.toml"), &text);
    let process = Process::start(place, name, &["controller", "-c", &config.display().to_string()]);
    Server { process, address, address_file }
}

/// Starts a proxy; its address is the admin one.
pub fn proxy(place: &Place, name: &str, fronts: &[Front<'_>], plan: &Plan) -> Server {
    let (address, address_file) = (place.address(), place.path(&format!("{name}.address")));
    let mut text = format!(
        "[proxy]\nthreads = 2\naddress_file = \"{}\"\n[admin]\nlisten = \"{address}\"\n[log]\naccess = \"{}\"\n\
         [shutdown]\ngrace = \"5s\"\n",
        address_file.display(),
        place.path(&format!("{name}-access.log")).display(),
    );
    for front in fronts {
        let upstreams: Vec<String> = front
            .upstreams
            .iter()
            .map(|(name, address)| format!("{{ name = \"{name}\", address = \"{address}\" }}"))
            .collect();
        write!(
            text,
            "[[listener]]\nname = \"{0}\"\nbind = [\"{1}\"]\nservice = \"{0}\"\n\
             [service.{0}]\nkind = \"{2}\"\nupstreams = [{3}]\n{4}\n\
             [service.{0}.health]\ninterval = \"500ms\"\ntimeout = \"500ms\"\n{5}\n",
            front.service,
            front.bind,
            front.kind,
            upstreams.join(", "),
            plan.service,
            plan.health,
        )
        .expect("a text takes all");
    }
    let config = place.write(&format!("{name}.toml"), &text);
    let process = Process::start(place, name, &["proxy", "-c", &config.display().to_string()]);
    Server { process, address, address_file }
}

/// Starts an agent with a data directory of its own; its node id is its name.
pub fn agent(place: &Place, name: &str, controllers: SocketAddr, capacity: u32, more: &str) -> Process {
    agent_of(place, name, &[controllers], capacity, more)
}

/// The same, which knows several addresses.
pub fn agent_of(place: &Place, name: &str, controllers: &[SocketAddr], capacity: u32, more: &str) -> Process {
    let urls: Vec<String> = controllers.iter().map(|address| format!("\"http://{address}\"")).collect();
    let controllers = urls.join(", ");
    let text = format!(
        "[agent]\ncontrollers = [{controllers}]\ndriver = \"process\"\ndata = \"{}\"\nnode_id = \"{name}\"\n\
         name = \"{name}\"\nhost = \"127.0.0.1\"\ncapacity = {capacity}\nheartbeat = \"500ms\"\nreserve = \"64MiB\"\n{more}\n",
        place.path(&format!("{name}/data")).display(),
    );
    let config = place.write(&format!("{name}.toml"), &text);
    Process::start(place, name, &["agent", "run", "-c", &config.display().to_string()])
}
