//! Two proxies stand before one cloud and are killed in turn, under load. Clients and agents know both. What was in flight
//! at the one that died is lost, and nothing else: no answer is wrong, no start is lost or doubled, no node is failed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use crate::{
    support::{
        api::{Answer, Api},
        cloud::{self, Front, Plan, SOON, Server, ids},
        etcd::Etcd,
        eventually::eventually,
        image::Image,
        place::Place,
        process::Process,
        scale::scaled,
        vms::Vms,
    },
    turn,
};

/// How often one of the two is killed.
fn kills() -> usize {
    scaled(4, 30)
}

/// Clients at work, and calls that have to come through between a kill and what comes next.
const CLIENTS: usize = 6;
const BETWEEN: usize = 150;

/// Nodes are failed after so long a silence: an agent that stayed with a dead proxy for longer would be noticed.
const SILENCE: &str = "[timeouts]\nnode_active = \"5s\"\ninstance_active = \"5s\"\npoll = \"2s\"\n\
                       instance_visible = \"20m\"\n";

/// For so long each of the two stays dead once.
const DEAD: Duration = Duration::from_secs(8);

/// A call that may be repeated is, at the other address, until then.
const PATIENCE: usize = 100;

/// A client with two addresses: it stays with the one that has answered last.
#[derive(Clone)]
struct Both {
    apis: [Api; 2],
    at: Arc<AtomicUsize>,
}

/// One call as its client saw it.
#[derive(Debug)]
struct Call {
    kind: &'static str,
    body: Option<Value>,
    /// Connections that broke before there was an answer.
    broken: usize,
    /// The answer; none, if it may not be repeated and was lost.
    answer: Option<Answer>,
}

impl Both {
    fn new(fronts: [SocketAddr; 2]) -> Self {
        Self { apis: fronts.map(Api::new), at: Arc::default() }
    }

    async fn call(
        &self,
        kind: &'static str,
        method: &str,
        path: &str,
        body: Option<Value>,
        key: Option<&str>,
    ) -> Call {
        let headers: Vec<(&str, &str)> = key.iter().map(|key| ("idempotency-key", *key)).collect();
        let mut broken = 0;
        loop {
            let at = self.at.load(Ordering::SeqCst) % 2;
            match self.apis[at].call_with(method, path, body.as_ref(), &headers).await {
                Ok(answer) => return Call { kind, body, broken, answer: Some(answer) },
                Err(error) => {
                    self.at.store(at + 1, Ordering::SeqCst);
                    let nothing_sent = error.contains("Connection refused");
                    if kind == "change" && !nothing_sent {
                        return Call { kind, body, broken, answer: None };
                    }
                    broken += usize::from(!nothing_sent);
                    assert!(broken < PATIENCE, "{kind} {path}: {error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

/// What all clients share.
#[derive(Clone)]
struct Work {
    template: String,
    blob: (String, u64),
    registries: [SocketAddr; 2],
    calls: Arc<Mutex<Vec<Call>>>,
    over: Arc<AtomicBool>,
    /// Pulls that ended whole, and how often one was gone on with elsewhere.
    pulled: Arc<AtomicUsize>,
    resumed: Arc<AtomicUsize>,
}

impl Work {
    fn so_far(&self) -> usize {
        self.calls.lock().expect("no holder panics").len()
    }

    /// Calls of every kind, one after the other.
    async fn client(self, number: usize, both: Both) {
        let (mut round, mut mine) = (0, Vec::<String>::new());
        while !self.over.load(Ordering::SeqCst) {
            let last = mine.last().cloned();
            let call = match (round % 12, last) {
                (0, _) => {
                    let job = format!("job/{number}/{round}");
                    let body = json!({ "vmid": self.template, "tag": "v1", "external_id": job });
                    let key = format!("start-{number}-{round}");
                    let call = both.call("start", "POST", "/api/v1/vm", Some(body), Some(&key)).await;
                    mine.extend(call.answer.as_ref().filter(|a| a.is_ok()).map(ids).unwrap_or_default());
                    call
                }
                (3, Some(id)) => {
                    let body = json!({ "metadata": { "seen": round } });
                    both.call("change", "PUT", &format!("/api/v1/vm?id={id}"), Some(body), None).await
                }
                (6, Some(id)) => both.call("show", "GET", &format!("/api/v1/vm?id={id}"), None, None).await,
                (8, Some(id)) => {
                    mine.pop();
                    both.call("end", "DELETE", "/api/v1/vm", Some(json!({ "id": id })), None).await
                }
                (n, _) if n % 2 == 0 => both.call("nodes", "GET", "/api/v1/node", None, None).await,
                _ => both.call("list", "GET", "/api/v1/vm", None, None).await,
            };
            self.calls.lock().expect("no holder panics").push(call);
            round += 1;
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }

    /// Pulls a layer again and again; what breaks off is gone on with at the other address, as real clients do.
    async fn puller(self) {
        let (digest, size) = &self.blob;
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut at = 0;
        while !self.over.load(Ordering::SeqCst) {
            let (mut hash, mut got) = (Sha256::new(), 0u64);
            while got < *size {
                let url = format!("http://{}/v2/small/blobs/{digest}", self.registries[at % 2]);
                let asked = http.get(url).header("range", format!("bytes={got}-")).send().await;
                let Ok(mut answer) = asked else {
                    at += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                assert_eq!(answer.status().as_u16(), 206, "{answer:?}");
                loop {
                    match answer.chunk().await {
                        Ok(Some(piece)) => {
                            hash.update(&piece);
                            got += piece.len() as u64;
                            // Slow enough that kills fall into it.
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Ok(None) => {
                            assert_eq!(got, *size, "half of it looked whole");
                            break;
                        }
                        Err(_) => {
                            self.resumed.fetch_add(1, Ordering::SeqCst);
                            at += 1;
                            break;
                        }
                    }
                }
            }
            assert_eq!(got, *size);
            assert_eq!(format!("sha256:{}", hex::encode(hash.finalize())), *digest);
            self.pulled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Looks at the nodes all the time, past the proxies: none may ever be anything but Active.
async fn watch_nodes(api: Api, count: usize, over: Arc<AtomicBool>) -> usize {
    let mut looks = 0;
    while !over.load(Ordering::SeqCst) {
        let nodes = api.get("/api/v1/node").await.ok();
        let states: Vec<&str> =
            nodes.as_array().into_iter().flatten().filter_map(|n| n["state"].as_str()).collect();
        assert!(states.len() == count && states.iter().all(|state| *state == "Active"), "{nodes}");
        looks += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    looks
}

/// The cloud behind two proxies. Fields are dropped in order.
struct Pair {
    _agents: Vec<Process>,
    proxies: [Server; 2],
    controllers: Vec<Server>,
    registry: Server,
    _etcd: Etcd,
    fronts: [SocketAddr; 2],
    registries: [SocketAddr; 2],
    place: Place,
}

impl Pair {
    async fn start() -> Self {
        let place = Place::new("pair");
        let plan = Plan { controller: SILENCE.into(), ..Plan::default() };
        let etcd = Etcd::start(1).await;
        let mut registry = cloud::registry(&place, "r1", &plan.registry);
        let members: Vec<String> = etcd.urls().iter().map(|url| format!("\"{url}\"")).collect();
        let store = format!("etcd = [{}]", members.join(", "));
        // Controllers have one address for registries. It is no proxy's here, for nobody moves it when that one dies.
        let mut controllers: Vec<Server> = (1..=2)
            .map(|n| cloud::controller(&place, &format!("c{n}"), &store, registry.address, &plan.controller))
            .collect();
        let [fronts, registries] = [[place.address(), place.address()], [place.address(), place.address()]];
        let mut proxies = [0, 1].map(|n| {
            let fronts = [
                Front {
                    service: "controllers",
                    kind: "controller",
                    bind: fronts[n],
                    upstreams: cloud::named("c", &controllers),
                },
                Front {
                    service: "registries",
                    kind: "registry",
                    bind: registries[n],
                    upstreams: vec![("r1".into(), registry.address)],
                },
            ];
            cloud::proxy(&place, &format!("proxy-{n}"), &fronts, &plan)
        });
        registry.up().await;
        for server in controllers.iter_mut().chain(&mut proxies) {
            server.up().await;
        }
        // Each begins with another one of the two.
        let agents = [("node-1", [fronts[0], fronts[1]]), ("node-2", [fronts[1], fronts[0]])];
        let agents = agents
            .map(|(name, fronts)| cloud::agent_of(&place, name, &fronts, scaled(200, 1500), &plan.agent))
            .into();
        let pair =
            Self { _agents: agents, proxies, controllers, registry, _etcd: etcd, fronts, registries, place };
        for proxy in 0..2 {
            pair.serves(proxy).await;
        }
        eventually(SOON, "both nodes to be active", || async {
            let nodes = pair.controllers[0].api().try_call("GET", "/api/v1/node", None).await?;
            let active = nodes.is_ok()
                && nodes
                    .ok()
                    .as_array()
                    .is_some_and(|all| all.len() == 2 && all.iter().all(|node| node["state"] == "Active"));
            if active { Ok(()) } else { Err(nodes.to_string()) }
        })
        .await;
        pair
    }

    /// Until this proxy finds everything behind it well.
    async fn serves(&self, proxy: usize) {
        let admin = self.proxies[proxy].api();
        eventually(SOON, "the proxy to be ready", || async {
            let view = admin.try_call("GET", "/admin/v1/upstreams", None).await?;
            let up = view.text.matches("\"health\":\"up\"").count();
            if up == 3 { Ok(()) } else { Err(view.to_string()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_killed_in_turn_lose_what_was_in_flight_and_nothing_else() {
    let _turn = turn().await;
    let mut pair = Pair::start().await;
    let vms = Vms::watch(&pair.place);
    let image = Image::write(&pair.place.path("image"), 77, 1, 8);
    cloud::push(&pair.place, pair.registry.address, &image, "small", "v1").await;
    let direct = pair.controllers[0].api();
    let work = Work {
        template: cloud::template_id(&direct, "small").await,
        blob: image.layers[0].clone(),
        registries: pair.registries,
        calls: Arc::default(),
        over: Arc::default(),
        pulled: Arc::default(),
        resumed: Arc::default(),
    };
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(work.clone().client(number, Both::new(pair.fronts)));
    }
    for _ in 0..3 {
        clients.spawn(work.clone().puller());
    }
    let mut nodes = JoinSet::new();
    nodes.spawn(watch_nodes(direct.clone(), 2, work.over.clone()));

    for kill in 0..kills() {
        let (before, which) = (work.so_far(), kill % 2);
        goes_on(&work, before + BETWEEN, Duration::ZERO, &mut clients, &mut nodes).await;
        pair.proxies[which].process.kill();
        let dead = work.so_far();
        let least = if kill < 2 { DEAD } else { Duration::ZERO };
        goes_on(&work, dead + BETWEEN, least, &mut clients, &mut nodes).await;
        pair.proxies[which].restart().await;
        // The next one must find somebody who serves.
        pair.serves(which).await;
    }
    let last = work.so_far();
    goes_on(&work, last + BETWEEN, Duration::ZERO, &mut clients, &mut nodes).await;
    work.over.store(true, Ordering::SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client met what it must not");
    }
    let looks = nodes.join_next().await.expect("one watcher").expect("no node was ever failed");
    assert!(looks > 0 && work.pulled.load(Ordering::SeqCst) > 0 && work.resumed.load(Ordering::SeqCst) > 0);

    let calls = std::mem::take(&mut *work.calls.lock().expect("no holder panics"));
    for call in &calls {
        assert!(call.answer.as_ref().is_none_or(Answer::is_ok), "a wrong answer: {call:?}");
    }
    // Each client has one call in flight when a proxy dies, and it is lost at most once.
    let lost = calls.iter().filter(|call| call.answer.is_none()).count();
    let broken: usize = lost + calls.iter().map(|call| call.broken).sum::<usize>();
    assert!(broken <= kills() * CLIENTS, "{broken} of {} calls were cut, {lost} of them lost", calls.len());
    println!(
        "{} kills, {} calls, {broken} cut, {lost} lost; {} pulls, {} of them gone on with elsewhere",
        kills(),
        calls.len(),
        work.pulled.load(Ordering::SeqCst),
        work.resumed.load(Ordering::SeqCst),
    );
    every_start_is_there_once(&direct, &calls, &vms).await;
}

/// Waits until so many calls are answered, and for so long at least; whoever has met what it must not says so at once.
async fn goes_on(
    work: &Work,
    calls: usize,
    least: Duration,
    clients: &mut JoinSet<()>,
    nodes: &mut JoinSet<usize>,
) {
    let begun = switchyard::clock::now();
    while work.so_far() < calls || begun.elapsed() < least {
        if let Some(ended) = clients.try_join_next() {
            ended.expect("no client met what it must not");
        }
        if let Some(ended) = nodes.try_join_next() {
            ended.expect("no node was failed");
        }
        assert!(begun.elapsed() < SOON, "{} calls of {calls}", work.so_far());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn every_start_is_there_once(api: &Api, calls: &[Call], vms: &Vms) {
    let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for vm in api.get("/api/v1/vm").await.ok().as_array().into_iter().flatten() {
        let text = |key: &str| vm[key].as_str().unwrap_or_default().to_owned();
        listed.entry(text("external_id")).or_default().push(text("instance_id"));
    }
    let of = |kind: &'static str| calls.iter().filter(move |call| call.kind == kind);
    let text = |call: &Call, key: &str| {
        call.body.as_ref().and_then(|b| b[key].as_str()).unwrap_or_default().to_owned()
    };
    let mut starts = 0;
    for call in of("start") {
        let told = ids(call.answer.as_ref().expect("it was repeated until it was answered"));
        assert_eq!(listed.get(&text(call, "external_id")), Some(&told), "{call:?}");
        starts += 1;
    }
    assert!(starts > CLIENTS, "{starts} starts");
    assert_eq!(listed.len(), starts, "nothing is there that nobody started");
    let ended: Vec<String> = of("end").map(|call| text(call, "id")).collect();
    assert!(!ended.is_empty());
    for id in listed.values().flatten() {
        if ended.contains(id) {
            cloud::reaches(api, id, &["Terminating", "Terminated"], SOON).await;
        } else {
            cloud::reaches(api, id, &["Started"], SOON).await;
            assert_eq!(vms.ever(id), 1, "{id} had one VM");
        }
    }
    vms.assert_never_two();
}
