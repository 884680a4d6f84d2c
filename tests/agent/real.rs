//! The same agent with the product's own controller and registry, over the embedded store.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use switchyard::{
    agent::Agent,
    config::{
        Log, Server,
        controller::{self, Registries, StoreKind},
        registry::{self, Storage},
    },
    controller::Controller,
    model::{Digest, NodeId},
    registry::Registry,
    supervise::{Stage, Tree},
    wire::agent::OnScriptFailure,
};

use crate::{
    standin::SOON,
    support::{
        eventually::eventually,
        relay::{Relay, Wire},
    },
    world::{World, script},
};

/// Controller and registry of the product, and a client of both.
pub(crate) struct Cloud {
    pub(crate) controller: String,
    pub(crate) registry: String,
    /// Between nodes and the registry.
    pub(crate) wire: Relay,
    pub(crate) http: reqwest::Client,
}

fn server(name: &str) -> Server {
    let listen = "127.0.0.1:0".parse().unwrap();
    Server {
        listen,
        name: name.into(),
        grace: Duration::from_secs(5),
        address_file: None,
        advertise: None,
        zone: None,
        tls: None,
    }
}

impl Cloud {
    pub(crate) async fn start(world: &World, tree: &Tree) -> Self {
        let limits = registry::Limits { reserve: 1 << 20, ..registry::Limits::default() };
        let storage = Storage::Disk(world.place.dir().join("registry"));
        let config = registry::Registry {
            auth: Default::default(),
            server: server("r1"),
            log: Log::default(),
            access: switchyard::telemetry::Access::Off,
            storage,
            limits,
            upkeep: Default::default(),
            replication: Default::default(),
            members: None,
        };
        let role = Registry::open(config, tree.handle()).await.unwrap();
        let role_address = role.address();
        let registry = format!("http://{role_address}");
        tree.handle().start_vital(Stage::Store, "registry", |stop| role.run(stop));

        let address: switchyard::config::BaseUrl = registry.parse().unwrap();
        let wire = Relay::to(role_address).await;
        let node_address: switchyard::config::BaseUrl = format!("http://{}", wire.address()).parse().unwrap();
        let registries = Registries {
            push_address: Some(node_address.clone()),
            node_address,
            address,
            timeout: Duration::from_secs(5),
            tls: None,
        };
        let config = controller::Controller {
            auth: Default::default(),
            server: server("c1"),
            log: Log::default(),
            store: controller::Store {
                kind: StoreKind::Embedded(world.place.dir().join("store")),
                cluster: "main".into(),
                upkeep: Default::default(),
            },
            registries: Some(registries),
            timeouts: controller::Timeouts::default(),
            limits: controller::Limits::default(),
            events: Default::default(),
            mac_pool: Default::default(),
            web: Default::default(),
        };
        let role = Controller::open(config, tree.handle()).await.unwrap();
        let controller = format!("http://{}", role.address());
        tree.handle().start_vital(Stage::Edge, "controller", |stop| role.run(stop));
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        Self { controller, registry, wire, http }
    }

    /// Pushes a template by the OCI API; its id.
    pub(crate) async fn push(&self, name: &str, layers: &[&[u8]]) -> String {
        let config: &[u8] = br#"{"architecture":"arm64"}"#;
        for blob in layers.iter().chain([&config]) {
            let path = format!("/v2/{name}/blobs/uploads/?digest={}", Digest::of(blob));
            let url = format!("{}{path}", self.registry);
            let pushed = self.http.post(url).body(blob.to_vec()).send().await.unwrap();
            assert_eq!(pushed.status(), 201);
        }
        let part = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": part("application/vnd.oci.image.config.v1+json", config),
            "layers": layers.iter().map(|layer| part("application/octet-stream", layer)).collect::<Vec<_>>(),
        });
        let url = format!("{}/v2/{name}/manifests/v1", self.registry);
        let put = self.http.put(url).header("content-type", kind).body(manifest.to_string());
        assert_eq!(put.send().await.unwrap().status(), 201);
        let url = format!("{}/registry/v2/vm", self.registry);
        let listed: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        let found = listed["body"].as_array().unwrap().iter().find(|t| t["name"] == name).cloned();
        found.unwrap()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let request = self.http.request(method, format!("{}{path}", self.controller));
        let request = body.iter().fold(request, |request, body| request.json(body));
        request.send().await.unwrap().json().await.unwrap()
    }

    pub(crate) async fn is(&self, id: &str, state: &str) -> Value {
        eventually(SOON, &format!("{id} to be {state}"), || async {
            let shown = self.call(Method::GET, &format!("/api/v1/vm?id={id}"), None).await["body"].clone();
            if shown["instance_state"] == state { Ok(shown) } else { Err(shown.to_string()) }
        })
        .await
    }

    pub(crate) async fn run(&self, body: Value) -> String {
        let answer = eventually(SOON, "the start to be taken", || async {
            let answer = self.call(Method::POST, "/api/v1/vm", Some(body.clone())).await;
            if answer["status"] == "OK" { Ok(answer) } else { Err(answer.to_string()) }
        })
        .await;
        answer["body"][0].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_at_a_real_controller_runs_a_pulled_template_and_its_failure_is_shown() {
    let mut world = World::prepare("real").await;
    let tree = Tree::new();
    let cloud = Cloud::start(&world, &tree).await;
    world.config.controllers = vec![cloud.controller.parse().unwrap()];
    world.agent().await;
    let layer: Vec<u8> = (0..500_000u32).flat_map(u32::to_be_bytes).collect();
    let template = cloud.push("sonoma", &[&layer, b"top"]).await;

    let good = script("echo up", 30, OnScriptFailure::Stop).unwrap();
    let ask = json!({"vmid": template, "startup_script": good.body, "script_monitoring": true});
    // What its node waits for is shown, and not any more once it goes on.
    cloud.wire.set(Wire::Cut);
    let id = cloud.run(ask).await;
    let path = format!("/switchyard/v1/instances/{id}/why");
    eventually(SOON, "the pull to say what it waits for", || async {
        let why = cloud.call(Method::GET, &path, None).await;
        let said = why["why"].as_str().unwrap_or_default();
        if said.contains("waits for the registry") { Ok(()) } else { Err(why.to_string()) }
    })
    .await;
    let waits = cloud.is(&id, "Pulling").await;
    assert!(waits["message"].as_str().unwrap().starts_with("waits for the registry"), "{waits}");
    cloud.wire.set(Wire::Whole);
    let shown = cloud.is(&id, "Started").await;
    assert!(shown["message"].is_null(), "{shown}");
    assert_eq!((&shown["vminfo"]["status"], &shown["node_id"]), (&json!("running"), &json!("node-1")));
    assert_eq!(
        (&shown["startup_script"]["return_code"], &shown["startup_script"]["stdout"]),
        (&json!(0), &json!("up\n"))
    );
    assert_eq!(shown["vminfo"]["host_ip"], "10.20.30.41");

    let bad = script("echo why >&2; exit 7", 30, OnScriptFailure::Delete).unwrap();
    let ask = json!({"vmid": template, "startup_script": bad.body, "script_monitoring": true, "script_fail_handler": 2});
    let failing = cloud.run(ask).await;
    let shown = cloud.is(&failing, "Error").await;
    assert_eq!(
        (&shown["startup_script"]["return_code"], &shown["startup_script"]["stderr"]),
        (&json!(7), &json!("why\n"))
    );
    assert!(shown["message"].as_str().unwrap().contains("code 7"), "{shown}");
    assert_ne!(shown["vminfo"]["status"], "running");

    for id in [&id, &failing] {
        let ended = cloud.call(Method::DELETE, "/api/v1/vm", Some(json!({"id": id}))).await;
        assert_eq!(ended["status"], "OK");
        cloud.is(id, "Terminated").await;
    }
    assert!(world.vm_dirs().is_empty());
    assert_eq!(world.vms.ever(&id), 1);
    world.stop_agent().await;
    tree.shut_down(Duration::from_secs(10)).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_controller_hears_at_once_that_an_agent_was_stopped() {
    let mut world = World::prepare("real-stop").await;
    let tree = Tree::new();
    let cloud = Cloud::start(&world, &tree).await;
    world.config.controllers = vec![cloud.controller.parse().unwrap()];
    world.agent().await;
    let template = cloud.push("sonoma", &[b"layer"]).await;
    let id = cloud.run(json!({"vmid": template})).await;
    cloud.is(&id, "Started").await;
    world.stop_agent().await;
    let shown = cloud.is(&id, "Error").await;
    assert!(shown["message"].as_str().unwrap().contains("agent was stopped"), "{shown}");

    // The next run takes work again.
    world.agent().await;
    let next = cloud.run(json!({"vmid": template})).await;
    cloud.is(&next, "Started").await;
    world.stop_agent().await;
    tree.shut_down(Duration::from_secs(10)).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_failed_and_was_kept_takes_a_place_until_it_is_terminated() {
    let mut world = World::prepare("real-kept").await;
    let tree = Tree::new();
    let cloud = Cloud::start(&world, &tree).await;
    let group = async |body: Value| {
        let made = cloud.call(Method::POST, "/api/v1/group", Some(body)).await;
        made["body"]["id"].as_str().unwrap().to_owned()
    };
    let far = group(json!({ "name": "far" })).await;
    let near = group(json!({ "name": "near", "fallback_group_id": far })).await;
    world.config.controllers = vec![cloud.controller.parse().unwrap()];
    (world.config.capacity, world.config.groups) = (1, vec!["near".into()]);
    world.agent().await;
    let template = cloud.push("sonoma", &[b"layer"]).await;

    let bad = script("exit 3", 30, OnScriptFailure::Keep).unwrap();
    let ask = json!({
        "vmid": template, "group_id": near, "startup_script": bad.body, "script_monitoring": true, "script_fail_handler": 1,
    });
    let kept = cloud.run(ask).await;
    cloud.is(&kept, "Error").await;
    world.one_lives(&kept.parse().unwrap()).await;
    let node = cloud.call(Method::GET, "/api/v1/node?id=node-1", None).await;
    assert_eq!(node["body"][0]["vm_count"], 1, "{node}");

    // The full node is named, with what fills it.
    let second = cloud.run(json!({ "vmid": template, "group_id": near })).await;
    let path = format!("/switchyard/v1/instances/{second}/why");
    let why = eventually(SOON, "the start to be explained", || async {
        let why = cloud.call(Method::GET, &path, None).await;
        if why["nodes"][0]["reason"] == "full" { Ok(why) } else { Err(why.to_string()) }
    })
    .await;
    let said = why["nodes"][0]["why"].as_str().unwrap();
    assert!(said.contains("1 of 1 places are taken, 1 of them by failed instances"), "{said}");
    assert!(why["why"].as_str().unwrap().contains("has room"), "{why}");

    // The other group stands in for it.
    let fallback = Tree::new();
    let config = switchyard::config::agent::Agent {
        data: world.place.dir().join("data-2"),
        node_id: Some(NodeId::parse("node-2").unwrap()),
        name: "mini-08".into(),
        groups: vec!["far".into()],
        ..world.config.clone()
    };
    let agent = Agent::open(config, fallback.handle()).await.unwrap();
    fallback.handle().start_vital(Stage::Edge, "agent 2", |stop| agent.run(stop));
    assert_eq!(cloud.is(&second, "Started").await["node_id"], "node-2");

    // Its place is free again when it is gone.
    let third = cloud.run(json!({ "vmid": template, "group_id": near })).await;
    let ended = cloud.call(Method::DELETE, "/api/v1/vm", Some(json!({ "id": kept }))).await;
    assert_eq!(ended["status"], "OK");
    assert_eq!(cloud.is(&third, "Started").await["node_id"], "node-1");
    fallback.shut_down(Duration::from_secs(15)).await;
    world.stop_agent().await;
    tree.shut_down(Duration::from_secs(10)).await;
    world.end().await;
}
