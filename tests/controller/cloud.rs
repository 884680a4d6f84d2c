//! Controllers over one embedded store, and a registry, in this process: real sockets, real disks.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use switchyard::{
    config::{
        self, BaseUrl, Log, Server,
        auth::Auth,
        controller::{
            Controller as ControllerConfig, Limits, MacPool, Registries, Store as StoreConfig, StoreKind,
            Timeouts, Web,
        },
        events::Events,
        registry::{Registry as RegistryConfig, Storage},
    },
    controller::Controller,
    registry::Registry,
    store::{
        Store,
        embedded::EmbeddedStore,
        faulty::{Faults, Faulty},
    },
    supervise::{Handle, Stage, Tree},
};
use tempfile::TempDir;

use crate::{
    push,
    support::{
        api::{Answer, Api},
        eventually::eventually,
    },
};

/// How long anything may take that is not the thing being timed: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a test may want otherwise than usual.
pub(crate) struct Plan {
    pub(crate) controllers: usize,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    /// Who may come in, at controllers and registry alike.
    pub(crate) auth: Auth,
    pub(crate) events: Events,
    pub(crate) mac_pool: MacPool,
    pub(crate) web: Web,
    /// The controllers' own TLS; they are not waited for.
    pub(crate) tls: Option<switchyard::tls::Server>,
    /// False: the controllers have no `[registries]`.
    pub(crate) registry: bool,
    /// Instead of a real registry: some address.
    pub(crate) registries_at: Option<BaseUrl>,
    /// Where nodes push to, if not to that one.
    pub(crate) push_address: Option<BaseUrl>,
    /// What goes wrong with the store.
    pub(crate) faults: Faults,
    /// False: the controllers are not waited for.
    pub(crate) until_ready: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            controllers: 1,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            auth: Auth::default(),
            events: Events::default(),
            mac_pool: MacPool::default(),
            web: Web::default(),
            tls: None,
            registry: true,
            registries_at: None,
            push_address: None,
            faults: Faults::new(),
            until_ready: true,
        }
    }
}

/// A running cloud.
pub(crate) struct Cloud {
    pub(crate) apis: Vec<Api>,
    pub(crate) registry: String,
    /// What the controllers keep everything in.
    pub(crate) store: Arc<dyn Store>,
    tree: Tree,
    _dir: TempDir,
}

impl Cloud {
    pub(crate) async fn start() -> Self {
        Self::planned(Plan::default()).await
    }

    pub(crate) async fn planned(plan: Plan) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new();
        let registry = match &plan.registries_at {
            None if plan.registry => start_registry(dir.path(), plan.auth.clone(), &tree).await,
            _ => String::new(),
        };
        let registries = match (plan.registry, plan.registries_at) {
            (false, _) => None,
            (true, Some(address)) => Some(address),
            (true, None) => Some(registry.parse().unwrap()),
        };
        let store = open_store(&dir.path().join("store"), tree.handle(), plan.faults.clone()).await;
        let mut apis = Vec::new();
        for number in 1..=plan.controllers {
            let config = ControllerConfig {
                server: Server { tls: plan.tls.clone(), ..server(&format!("c{number}")) },
                log: Log::default(),
                auth: plan.auth.clone(),
                events: plan.events.clone(),
                store: StoreConfig {
                    kind: StoreKind::Embedded(dir.path().join("store")),
                    cluster: "main".into(),
                    upkeep: Default::default(),
                },
                registries: registries.clone().map(|address| Registries {
                    tls: None,
                    node_address: address.clone(),
                    push_address: plan.push_address.clone(),
                    address,
                    timeout: Duration::from_secs(3),
                }),
                timeouts: plan.timeouts.clone(),
                limits: plan.limits.clone(),
                mac_pool: plan.mac_pool,
                web: plan.web.clone(),
            };
            let role = Controller::open_with(config, store.clone(), tree.handle()).await.unwrap();
            apis.push(Api::new(role.address()));
            tree.handle().start_vital(Stage::Edge, format!("controller c{number}"), |stop| role.run(stop));
        }
        let cloud = Self { apis, registry, store, tree, _dir: dir };
        for api in cloud.apis.iter().filter(|_| plan.until_ready && plan.tls.is_none()) {
            eventually(PATIENCE, "the controller is ready", async || {
                let ready = api.get("/readyz").await;
                if ready.status == 200 { Ok(()) } else { Err(ready) }
            })
            .await;
        }
        cloud
    }

    /// The first controller.
    pub(crate) fn api(&self) -> &Api {
        &self.apis[0]
    }

    /// Pushes a small template and gives its id.
    pub(crate) async fn template(&self, name: &str, tag: &str) -> String {
        push::image(&self.registry, name, tag, &[format!("{name} {tag}").as_bytes()]).await;
        let list = self.api().get("/api/v1/registry/vm").await.ok();
        let found = list.as_array().unwrap().iter().find(|template| template["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {list}"))["id"].as_str().unwrap().to_owned()
    }

    /// Starts one instance of a template and gives its id.
    pub(crate) async fn instance(&self, template: &str) -> String {
        let ids = self.api().post("/api/v1/vm", &json!({ "vmid": template })).await.ok();
        ids[0].as_str().unwrap().to_owned()
    }

    pub(crate) async fn stop(self) {
        self.tree.shut_down(Duration::from_secs(10)).await;
    }
}

pub(crate) fn server(name: &str) -> Server {
    Server {
        listen: "127.0.0.1:0".parse().unwrap(),
        name: name.into(),
        grace: config::DEFAULT_GRACE,
        address_file: None,
        advertise: None,
        zone: None,
        tls: None,
    }
}

async fn open_store(at: &Path, tasks: Handle, faults: Faults) -> Arc<dyn Store> {
    let store = EmbeddedStore::open(at, tasks).await.unwrap();
    Arc::new(Faulty::new(Arc::new(store), faults))
}

async fn start_registry(dir: &Path, auth: Auth, tree: &Tree) -> String {
    let limits = config::registry::Limits { reserve: 0, ..Default::default() };
    let storage = Storage::Disk(dir.join("registry"));
    let config = RegistryConfig {
        server: server("r1"),
        log: Log::default(),
        auth,
        access: switchyard::telemetry::Access::Off,
        storage,
        limits,
        upkeep: Default::default(),
        replication: Default::default(),
        members: None,
    };
    let role = Registry::open(config, tree.handle()).await.unwrap();
    let address = format!("http://{}", role.address());
    tree.handle().start_vital(Stage::Edge, "registry r1", |stop| role.run(stop));
    address
}

/// One instance, waited for until it is in this state.
pub(crate) async fn until_state(api: &Api, id: &str, state: &str) -> Value {
    eventually(PATIENCE, &format!("{id} is {state}"), async || {
        let answer = api.get(&format!("/api/v1/vm?id={id}")).await;
        let body = answer.json()["body"].clone();
        if body["instance_state"] == state { Ok(body) } else { Err(answer) }
    })
    .await
}

/// A call with a body that need not be JSON, and with headers.
pub(crate) async fn raw(api: &Api, method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let method: reqwest::Method = method.parse().unwrap();
    let mut request = api.http().request(method, format!("{}{path}", api.base())).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let since = switchyard::clock::now();
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Answer { status, headers, text: answer.text().await.unwrap(), took: switchyard::clock::now() - since }
}
