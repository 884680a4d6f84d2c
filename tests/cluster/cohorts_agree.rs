//! Two proxies before controllers of two versions: no agent that asks both sees the versions in turn, whatever becomes of
//! etcd and of the proxies meanwhile.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    controllers::{Controller, Manner, Shared},
    raw::Wire,
    support::{
        cloud::{SOON, Server},
        etcd::Etcd,
        eventually::{eventually, never},
        place::Place,
        process::Process,
        scale::scaled,
    },
    turn,
};

const OLD: &str = "1.50.1-5a0c77de";
const NEW: &str = "1.51.2-5e6f7a8b";

/// `settle` and `fallback` of the proxies.
const SETTLE: u64 = 3;

fn manner(version: &'static str) -> Manner {
    Manner { version, poll: Duration::from_millis(100), unready: true, ..Manner::default() }
}

/// One proxy.
struct Proxy {
    server: Server,
    front: SocketAddr,
}

struct Scene {
    place: Place,
    etcd: Etcd,
    shared: Arc<Shared>,
    controllers: Vec<Option<Controller>>,
    addresses: Vec<SocketAddr>,
    taken: Vec<SocketAddr>,
}

impl Scene {
    async fn new(name: &str, count: usize) -> Self {
        let place = Place::new(name);
        let shared = Arc::<Shared>::default();
        let etcd = Etcd::start(1).await;
        let mut scene =
            Self { place, etcd, shared, controllers: Vec::new(), addresses: Vec::new(), taken: Vec::new() };
        for _ in 0..count {
            let address = scene.free();
            scene.addresses.push(address);
            scene.controllers.push(Some(Controller::at(address, &scene.shared, manner(OLD))));
        }
        scene
    }

    fn free(&mut self) -> SocketAddr {
        loop {
            let address = self.place.address();
            if !self.taken.contains(&address) {
                self.taken.push(address);
                return address;
            }
        }
    }

    async fn proxy(&mut self, name: &str) -> Proxy {
        let (front, admin) = (self.free(), self.free());
        let file = self.place.path(&format!("{name}.address"));
        let run_dir = self.place.dir().join(format!("run-{name}"));
        let upstreams: String = (1..)
            .zip(&self.addresses)
            .map(|(n, address)| format!("{{ name = \"c{n}\", address = \"{address}\" }},\n"))
            .collect();
        let etcd = self.etcd.url(0);
        let text = format!(
            "[proxy]\nthreads = 1\nrun_dir = \"{}\"\naddress_file = \"{}\"\n[admin]\nlisten = \"{admin}\"\n\
             [log]\naccess = \"off\"\n[shutdown]\ngrace = \"5s\"\n[[listener]]\nbind = [\"{front}\"]\n\
             service = \"controllers\"\n[service.controllers]\nkind = \"controller\"\n\
             cohort = {{ settle = \"{SETTLE}s\", fallback = \"{SETTLE}s\" }}\n\
             upstreams = [\n{upstreams}]\ndiscovery = {{ etcd = [\"{etcd}\"] }}\n\
             [service.controllers.health]\npath = \"/api/v1/status\"\njson = {{ \"/body/status\" = \"Running\" }}\n\
             interval = \"500ms\"\ntimeout = \"400ms\"\n",
            run_dir.display(),
            file.display(),
        );
        let config = self.place.write(&format!("{name}.toml"), &text);
        let process = Process::start(&self.place, name, &["proxy", "-c", &config.display().to_string()]);
        let mut server = Server::new(process, admin, file);
        server.up().await;
        Proxy { server, front }
    }

    /// It comes back as another version, some seconds after it stopped.
    async fn upgrade(&mut self, place: usize, proxies: &[&Proxy]) {
        drop(self.controllers[place].take());
        for proxy in proxies {
            proxy
                .until("it is gone", |cohort| able(cohort, OLD).is_none_or(|able| able < 3 - place as u64))
                .await;
        }
        let next = Controller::at(self.addresses[place], &self.shared, manner(NEW));
        self.controllers[place] = Some(next);
        for proxy in proxies {
            proxy.until("it is back", |cohort| able(cohort, NEW) == Some(place as u64 + 1)).await;
        }
    }
}

/// How many of this version are able, as a proxy sees it.
fn able(cohort: &Value, version: &str) -> Option<u64> {
    let all = cohort["versions"].as_array()?;
    all.iter().find(|one| one["version"] == version)?["able"].as_u64()
}

impl Proxy {
    async fn cohort(&self) -> Result<Value, String> {
        let view = self.server.api().try_call("GET", "/admin/v1/upstreams", None).await?.json();
        Ok(view["services"][0]["cohort"].clone())
    }

    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        eventually(SOON, what, || async {
            let cohort = self.cohort().await?;
            if holds(&cohort) { Ok(()) } else { Err(cohort.to_string()) }
        })
        .await;
    }

    async fn serves(&self, version: &str) {
        self.until(version, |cohort| cohort["version"] == version).await;
    }
}

/// Agents that ask one proxy and then the other.
struct Agents {
    over: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Agents {
    fn start(fronts: [SocketAddr; 2]) -> Self {
        let over = Arc::<AtomicBool>::default();
        let agent = |n: usize| {
            let over = over.clone();
            thread::spawn(move || {
                let mut seen: Vec<String> = Vec::new();
                for front in fronts.into_iter().cycle().skip(n) {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    // One that is just started again refuses connections, and closes those that it had.
                    let Ok(tcp) = TcpStream::connect(front) else { continue };
                    let mut wire = Wire::new(tcp);
                    for path in ["/api/v1/status", "/queue/v1/cmd/task"] {
                        let asked = wire.ask(&format!("GET {path} HTTP/1.1\r\nHost: front\r\n\r\n"));
                        let Ok(answer) = asked else { break };
                        if answer.status() != 200 {
                            break;
                        }
                        let version = answer.json()["body"]["version"].as_str().unwrap_or("none").to_owned();
                        if seen.last() != Some(&version) {
                            seen.push(version);
                        }
                    }
                    thread::sleep(Duration::from_millis(20));
                }
                seen
            })
        };
        let threads = (0..6).map(agent).collect();
        Self { over, threads }
    }

    /// What each has seen.
    fn end(self) -> Vec<Vec<String>> {
        self.over.store(true, Ordering::SeqCst);
        self.threads.into_iter().map(|agent| agent.join().expect("an agent that ends")).collect()
    }
}

/// Both go on with this version as long as both versions are there: at full size ten minutes, in two halves.
async fn stays(proxies: &[&Proxy], version: &str, when: &str) {
    never(Duration::from_secs(scaled(2 * SETTLE, 300)), when, || async {
        for proxy in proxies {
            let cohort = proxy.cohort().await?;
            if cohort["version"] != version {
                return Err(cohort.to_string());
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_move_agents_together_with_etcd_away_in_the_middle_and_one_of_them_restarted() {
    let _turn = turn().await;
    let mut scene = Scene::new("agree", 3).await;
    let a = scene.proxy("a").await;
    a.serves(OLD).await;
    // Late: one of three is upgraded by then.
    scene.upgrade(0, &[&a]).await;
    let mut b = scene.proxy("b").await;
    b.serves(OLD).await;
    b.until("it was told", |cohort| cohort["agreed"] == true).await;
    let agents = Agents::start([a.front, b.front]);

    scene.etcd.kill(0);
    for proxy in [&a, &b] {
        proxy
            .until("etcd is missed", |cohort| cohort["agreed"] == false && cohort["alone"].is_string())
            .await;
    }
    // The higher version is at the quorum now, and has settled: but nobody can be told, so the choice stays.
    scene.upgrade(1, &[&a, &b]).await;
    b.server.process.kill();
    b.server.restart().await;
    b.serves(OLD).await;
    stays(&[&a, &b], OLD, "while etcd is away").await;
    let path = "/admin/v1/services/controllers/cohort";
    let (api, order) = (b.server.api(), serde_json::json!({ "version": NEW }));
    let refused = api.try_call("POST", path, Some(&order)).await.expect("an answer");
    assert_eq!(refused.status, 503, "an order that the other cannot hear: {refused}");

    scene.etcd.restart(0).await;
    for proxy in [&a, &b] {
        proxy.serves(NEW).await;
    }
    stays(&[&a, &b], NEW, "while one controller is still of the old version").await;
    scene.upgrade(2, &[&a, &b]).await;
    let seen = agents.end();
    for agent in &seen {
        assert_eq!(*agent, [OLD, NEW], "one change and no other: {seen:?}");
    }

    // What an operator says to one goes for both.
    drop(scene.controllers[0].take());
    scene.controllers[0] = Some(Controller::at(scene.addresses[0], &scene.shared, manner(OLD)));
    for proxy in [&a, &b] {
        proxy.until("it was taken back", |cohort| able(cohort, OLD) == Some(1)).await;
    }
    let order = serde_json::json!({ "version": OLD });
    let answer = api.try_call("POST", path, Some(&order)).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer}");
    for proxy in [&a, &b] {
        proxy.until("it was ordered", |cohort| cohort["version"] == OLD && cohort["ordered"] == OLD).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_etcd_away_and_nobody_left_of_their_version_agents_go_to_whoever_there_is() {
    let _turn = turn().await;
    let mut scene = Scene::new("deserted", 3).await;
    let (a, b) = (scene.proxy("a").await, scene.proxy("b").await);
    for proxy in [&a, &b] {
        proxy.serves(OLD).await;
        proxy.until("it was told", |cohort| cohort["agreed"] == true).await;
    }
    let agents = Agents::start([a.front, b.front]);
    scene.etcd.kill(0);
    for place in 0..3 {
        scene.upgrade(place, &[&a, &b]).await;
    }
    for proxy in [&a, &b] {
        proxy.serves(NEW).await;
    }
    scene.etcd.restart(0).await;
    for proxy in [&a, &b] {
        proxy.until("it is told again", |cohort| cohort["agreed"] == true && cohort["version"] == NEW).await;
    }
    let seen = agents.end();
    for agent in &seen {
        assert!(*agent == [OLD, NEW] || *agent == [NEW], "one change and no other: {seen:?}");
    }
}
