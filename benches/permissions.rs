//! What the check of permissions costs: `cargo bench --bench permissions`.
//!
//! `check` is the look alone, among a thousand groups: by the caller's only group, and by the last of a hundred. The calls are whole ones
//! of a session of an API key, from the router on, without a socket: a list of 200 nodes and a start, each with `authorization`
//! off, on, and with nodes and templates as resources of groups.

use std::{collections::BTreeMap, future::poll_fn, hint::black_box, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use switchyard::{
    auth::{keys::ApiKey, seal::Sealer},
    clock,
    config::{
        Log, Server,
        auth::{Auth, Authorization, RootToken},
        controller::{Controller as Config, Registries, Store as StoreConfig, StoreKind},
    },
    controller::{
        App, Core,
        api::router,
        lists::Cache,
        records::{self, PermissionRecord, WriteId},
    },
    model::{ApiKeyId, NodeId, Timestamp},
    store::{KeyValue, Store, Txn, embedded::EmbeddedStore, keys::Keys},
    supervise::{StopSource, Tree},
    wire::permission::{PERMISSIONS, ResourceType},
};
use tower_service::Service;

const TOKEN: &str = "0123456789abcdef";
const GROUPS: usize = 1000;
const NODES: usize = 200;
const TEAM: &str = "team";
const TEMPLATE: &str = "5d2b8f10-6a77-4c1e-81d9-0b7a3c9e4f12";

/// A group that may do everything, with all the nodes and the template.
fn group(name: &str) -> PermissionRecord {
    let rights = |kind: ResourceType| kind.rights().iter().map(|(name, _)| (*name).to_owned()).collect();
    let nodes = (0..NODES).map(|n| (format!("n{n}"), rights(ResourceType::Node)));
    PermissionRecord {
        name: name.into(),
        permissions: PERMISSIONS.iter().map(|(name, _)| (*name).to_owned()).collect(),
        nodes: nodes.collect(),
        templates: BTreeMap::from([(TEMPLATE.to_owned(), rights(ResourceType::Template))]),
    }
}

fn groups(keys: &Keys) -> Vec<(String, Bytes)> {
    let others =
        (0..GROUPS - 1).map(|n| PermissionRecord { nodes: BTreeMap::new(), ..group(&format!("g{n}")) });
    let all = others.chain([group(TEAM)]);
    let encoded = |record: PermissionRecord| {
        let value = records::encode(&record, &WriteId::default()).expect("it fits a record");
        (keys.permission_group(&record.name), value)
    };
    all.map(encoded).collect()
}

fn check(c: &mut Criterion) {
    let keys = Keys::new("main");
    let kv = |(n, (key, value)): (usize, (String, Bytes))| {
        let revision = n as i64 + 1;
        KeyValue { key, value, create_revision: revision, mod_revision: revision, version: 1, lease: None }
    };
    let kvs = groups(&keys).into_iter().enumerate().map(kv).collect();
    let cache = Cache::of(1.0, &keys, kvs, GROUPS as i64, clock::now());
    let strangers: Vec<String> = (0..99).map(|n| format!("stranger{n}")).collect();
    let many: Vec<&str> = strangers.iter().map(String::as_str).chain([TEAM]).collect();
    for (name, caller) in [("check/one group", &[TEAM][..]), ("check/a hundred groups", &many)] {
        c.bench_function(name, |b| {
            b.iter(|| assert!(cache.permissions().allow(black_box(caller), black_box("start_vm"))));
        });
    }
}

fn node(n: usize) -> Value {
    json!({
        "v": 1, "id": NodeId::parse(format!("n{n}")).ok(), "groups": [], "vcpu_override": 0, "ram_override": 0,
        "settings": { "version": 1, "name": "n", "host": "h", "capacity": 2, "capacity_mode": "number", "drain_mode": false },
        "facts": {
            "host_arch": "arm64", "runs": ["arm64"], "driver": "process", "agent_version": "1",
            "hypervisor": { "product": "", "version": "", "build": "" }, "cpu_count": 8, "memory": 0, "disk_size": 0,
            "disk_free": 0, "disk_used": 0, "cpu_util": 0.0, "ram_util": 0.0, "templates": [],
        },
        "joined": Timestamp::NEVER, "reported": Timestamp::NEVER,
    })
}

/// Answers whatever is asked with the one template.
async fn registry() -> String {
    let digest = format!("sha256:{}", "0".repeat(64));
    let version = json!({ "number": 0, "tag": "v1", "images": [], "size": 1, "digest": digest });
    let template =
        json!({ "id": TEMPLATE, "name": "sonoma", "repository": "sonoma", "size": 1, "versions": [version] });
    let body = json!({ "status": "OK", "message": "", "body": template }).to_string();
    let app = Router::new().fallback(get(async move || body.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::runtime::Handle::current().spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

fn config(authorization: Authorization, registry: &str) -> Config {
    let address: switchyard::config::BaseUrl = registry.parse().expect("an address");
    let root_token = RootToken::parse(TOKEN).ok();
    Config {
        server: Server {
            listen: ([127, 0, 0, 1], 0).into(),
            name: "c1".into(),
            grace: Duration::from_secs(1),
            address_file: None,
            advertise: None,
            zone: None,
            tls: None,
        },
        auth: Auth { enabled: true, root_token, api_keys: true, authorization, ..Auth::default() },
        log: Log::default(),
        store: StoreConfig {
            kind: StoreKind::Embedded("unused".into()),
            cluster: "main".into(),
            upkeep: Default::default(),
        },
        registries: Some(Registries {
            node_address: address.clone(),
            address,
            push_address: None,
            timeout: Duration::from_secs(5),
            tls: None,
        }),
        timeouts: Default::default(),
        limits: Default::default(),
        events: Default::default(),
        mac_pool: Default::default(),
        web: Default::default(),
    }
}

/// A controller's router over a filled store, and the credential of a caller.
struct World {
    router: Router,
    bearer: String,
    tree: Tree,
    _stop: StopSource,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(authorization: Authorization) -> Self {
        let (dir, tree) = (tempfile::tempdir().expect("a directory"), Tree::new());
        let store: Arc<dyn Store> =
            Arc::new(EmbeddedStore::open(dir.path(), tree.handle()).await.expect("an empty directory"));
        let keys = Keys::new("main");
        let ask = serde_json::from_value(json!({ "id": "ci", "ttl": 36_000, "groups": [TEAM] }));
        let generation = [1; 16];
        let key = ApiKey::new(&ask.expect("a key"), &[], generation, clock::wall()).expect("a key");
        let key = records::encode(&key, &WriteId::default()).expect("it fits a record");
        let nodes = (0..NODES).map(|n| {
            let id = NodeId::parse(format!("n{n}")).expect("an id");
            (keys.node(&id), Bytes::from(node(n).to_string()))
        });
        let of_key = (keys.api_key(&ApiKeyId::parse("ci").expect("an id")), key);
        let all: Vec<_> = nodes.chain(groups(&keys)).chain([of_key]).collect();
        for some in all.chunks(20) {
            let put = |txn: Txn, (key, value): &(String, Bytes)| txn.put(key.clone(), value.clone());
            store.txn(some.iter().fold(Txn::new(), put)).await.expect("it takes them");
        }
        let config = config(authorization, &registry().await);
        let core = Core::start(config, store, &tree.handle(), "c1:1".into()).expect("it starts");
        let stop = StopSource::new();
        let app = App { ops: core.ops, health: core.health, metrics: core.metrics, stop: stop.stop() };
        let router = router(app).expect("its own metrics");
        let seconds = clock::wall().unix_seconds().unsigned_abs();
        let token = Sealer::derive(TOKEN, "controller").token("ci", "s", &generation, seconds + 36_000);
        let session = json!({ "userName": "ci", "token": token, "sessionId": "s" }).to_string();
        let bearer = format!("Bearer {}", STANDARD.encode(session));
        let world = Self { router, bearer, tree, _stop: stop, _dir: dir };
        while world.call("GET", "/api/v1/node", String::new()).await.0 != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world
    }

    async fn call(&self, method: &str, path: &str, body: String) -> (StatusCode, Bytes) {
        let request = Request::builder().method(method).uri(path).header("authorization", &self.bearer);
        let request = request.body(Body::from(body)).expect("a request");
        let mut router = self.router.clone();
        poll_fn(|context| Service::<Request<Body>>::poll_ready(&mut router, context))
            .await
            .expect("never fails");
        let answer = router.call(request).await.expect("never fails");
        let status = answer.status();
        (status, answer.into_body().collect().await.expect("a body").to_bytes())
    }
}

fn calls(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let kinds =
        [("off", Authorization::Off), ("on", Authorization::Groups), ("resources", Authorization::Resources)];
    for (name, authorization) in kinds {
        let world = runtime.block_on(World::new(authorization));
        c.bench_function(&format!("list of {NODES} nodes/{name}"), |b| {
            b.iter(|| {
                let (status, body) = runtime.block_on(world.call("GET", "/api/v1/node", String::new()));
                assert_eq!(status, StatusCode::OK, "{body:?}");
                black_box(body)
            });
        });
        let group = (authorization == Authorization::Resources).then_some(TEAM);
        let ask = json!({ "vmid": TEMPLATE, "group": group }).to_string();
        c.bench_function(&format!("start/{name}"), |b| {
            b.iter(|| {
                let (status, body) = runtime.block_on(world.call("POST", "/api/v1/vm", ask.clone()));
                assert_eq!(status, StatusCode::OK, "{body:?}");
                black_box(body)
            });
        });
        runtime.block_on(world.tree.shut_down(Duration::from_secs(5)));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    targets = check, calls
}
criterion_main!(benches);
