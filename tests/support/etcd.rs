//! Real etcd on loopback: one member or three, which can be killed, frozen, thawed and started again.
//!
//! ```ignore
//! let mut etcd = Etcd::start(3).await;
//! let store = EtcdStore::connect(&etcd.urls(), Duration::from_secs(2))?;
//! let leader = etcd.leader().await;
//! etcd.kill(leader);           // SIGKILL, and gone when this returns
//! etcd.restart(leader).await;  // same data, same ports; answers again when this returns
//! ```
//!
//! Everything is torn down when the value is dropped: each member by its own process id, then the data.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use switchyard::{clock, config::BaseUrl};
use tempfile::TempDir;

use super::network::{self, Network, Side};

/// How long a cluster may take to start or to find a leader; generous, since other builds share the machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(30);
/// How often a start with other ports is tried when somebody else has taken one.
const TRIES: usize = 10;

/// A running etcd of one or several members.
pub struct Etcd {
    members: Vec<Member>,
    network: Option<Network>,
    http: reqwest::Client,
    // Behind the members, so that their processes are gone when it is deleted.
    _dir: TempDir,
}

struct Member {
    name: String,
    command: Vec<String>,
    arguments: Vec<String>,
    log: PathBuf,
    url: String,
    /// Inside TLS.
    secure: Option<String>,
    child: Option<Child>,
    frozen: bool,
}

/// Where a member is to be.
struct Home {
    host: Ipv4Addr,
    /// For clients and for the other members.
    ports: (u16, u16),
    command: Vec<String>,
}

impl Etcd {
    /// Starts so many members (1 or 3, say) and returns when they have a leader and answer.
    pub async fn start(members: usize) -> Self {
        Self::start_with(members, &[]).await
    }

    /// The same, with more arguments for every member, like `--quota-backend-bytes=16777216`.
    pub async fn start_with(members: usize, more: &[&str]) -> Self {
        for _ in 0..TRIES {
            let mut etcd = Self::prepare(on_loopback(members), more);
            for member in &mut etcd.members {
                member.spawn();
            }
            if etcd.wait_ready().await {
                return etcd;
            }
            // Somebody took a port between our look and etcd's bind: again with other ports.
        }
        panic!("etcd did not start on {TRIES} choices of ports");
    }

    /// The same, each member on a machine of its own: wires between them can be cut. Inside a namespace only
    /// ([`network::inside`]).
    pub async fn start_apart(members: usize, more: &[&str]) -> Self {
        let network = Network::new(members);
        let places = (0..members).map(|n| Home {
            host: network::address(Side::Machine(n)),
            // Nobody else has ports there.
            ports: (2379, 2380),
            command: network::on_machine(n, "etcd"),
        });
        let mut etcd = Self::prepare(places.collect(), more);
        etcd.network = Some(network);
        for member in &mut etcd.members {
            member.spawn();
        }
        assert!(etcd.wait_ready().await, "a member has ended");
        etcd
    }

    /// The network of members that are apart.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("its members are apart")
    }

    /// The same, with a second door that is inside TLS: `folder` has `etcd.pem`, `etcd.key` and `ca.pem`, from which
    /// its clients' certificates must be.
    pub async fn start_secured(members: usize, folder: &Path, more: &[&str]) -> Self {
        let in_folder = |name: &str| folder.join(name).display().to_string();
        let tls = [
            format!("--cert-file={}", in_folder("etcd.pem")),
            format!("--key-file={}", in_folder("etcd.key")),
            format!("--trusted-ca-file={}", in_folder("ca.pem")),
            "--client-cert-auth=true".to_owned(),
        ];
        let all: Vec<&str> = tls.iter().map(String::as_str).chain(more.iter().copied()).collect();
        for _ in 0..TRIES {
            let mut etcd = Self::prepare(on_loopback(members), &all);
            for member in &mut etcd.members {
                member.add_secure_door();
                member.spawn();
            }
            if etcd.wait_ready().await {
                return etcd;
            }
        }
        panic!("etcd did not start on {TRIES} choices of ports");
    }

    fn prepare(homes: Vec<Home>, more: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("switchyard-etcd-").tempdir().expect("a temp dir");
        let peer_of = |home: &Home| format!("http://{}:{}", home.host, home.ports.1);
        let peers: Vec<String> =
            homes.iter().enumerate().map(|(n, home)| format!("m{n}={}", peer_of(home))).collect();
        let members = homes
            .into_iter()
            .enumerate()
            .map(|(n, home)| {
                let name = format!("m{n}");
                let url = format!("http://{}:{}", home.host, home.ports.0);
                let peer = peer_of(&home);
                let mut arguments = vec![
                    format!("--name={name}"),
                    format!("--data-dir={}", dir.path().join(&name).display()),
                    format!("--listen-client-urls={url}"),
                    format!("--advertise-client-urls={url}"),
                    format!("--listen-peer-urls={peer}"),
                    format!("--initial-advertise-peer-urls={peer}"),
                    format!("--initial-cluster={}", peers.join(",")),
                    format!("--initial-cluster-token={}", dir.path().display()),
                    "--initial-cluster-state=new".to_owned(),
                    "--logger=zap".to_owned(),
                    "--log-outputs=stderr".to_owned(),
                ];
                arguments.extend(more.iter().map(|m| (*m).to_owned()));
                let log = dir.path().join(format!("{name}.log"));
                Member {
                    name,
                    command: home.command,
                    arguments,
                    log,
                    url,
                    secure: None,
                    child: None,
                    frozen: false,
                }
            })
            .collect();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            // A frozen member must not leave its connection to the next look.
            .pool_max_idle_per_host(0)
            .build()
            .expect("a client");
        Self { members, network: None, http, _dir: dir }
    }

    /// False when a member ended by itself (a port was taken); panics with the logs when it merely takes too long.
    async fn wait_ready(&mut self) -> bool {
        let deadline = clock::now() + PATIENCE;
        for n in 0..self.members.len() {
            while !self.healthy(n).await {
                if self.members[n].has_ended() {
                    return false;
                }
                assert!(clock::now() < deadline, "etcd {n} not healthy:\n{}", self.log(n));
                tokio::time::sleep(LOOK).await;
            }
        }
        true
    }

    /// How many members there are, dead ones included.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// The client URLs of all members, dead ones included.
    pub fn urls(&self) -> Vec<BaseUrl> {
        (0..self.members.len()).map(|n| self.url(n)).collect()
    }

    /// The client URL of one member.
    pub fn url(&self, member: usize) -> BaseUrl {
        self.members[member].url.parse().expect("a base url")
    }

    /// The client URLs inside TLS, of a secured one.
    pub fn secure_urls(&self) -> Vec<BaseUrl> {
        let port = |url: &String| url.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let of = |member: &Member| {
            BaseUrl::https("127.0.0.1", member.secure.as_ref().and_then(port).expect("a port"))
        };
        self.members.iter().map(of).collect()
    }

    /// Calls etcd's JSON API at one member, with a token if there is one; the answer must be a success.
    pub async fn call(
        &self,
        member: usize,
        path: &str,
        body: serde_json::Value,
        token: Option<&str>,
    ) -> serde_json::Value {
        let url = format!("{}/v3/{path}", self.members[member].url);
        let mut request = self.http.post(url).body(body.to_string());
        if let Some(token) = token {
            request = request.header("Authorization", token);
        }
        let answer = request.send().await.expect("etcd answers");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// From now on it asks who its clients are: `root` is one, and `user`, who may read and write below `prefix`.
    pub async fn ask_who(&self, user: &str, password: &str, prefix: &str) {
        let encoded = |text: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix") += 1;
        let permission = serde_json::json!({
            "permType": "READWRITE", "key": encoded(prefix.as_bytes()), "range_end": encoded(&end),
        });
        self.call(0, "auth/role/add", serde_json::json!({ "name": "theirs" }), None).await;
        let grant = serde_json::json!({ "name": "theirs", "perm": permission });
        self.call(0, "auth/role/grant", grant, None).await;
        for (name, role) in [("root", "root"), (user, "theirs")] {
            let add = serde_json::json!({ "name": name, "password": password });
            self.call(0, "auth/user/add", add, None).await;
            let grant = serde_json::json!({ "user": name, "role": role });
            self.call(0, "auth/user/grant", grant, None).await;
        }
        self.call(0, "auth/enable", serde_json::json!({}), None).await;
    }

    /// A token of root's, to call with once it asks.
    pub async fn root(&self, password: &str) -> String {
        let who = serde_json::json!({ "name": "root", "password": password });
        let answer = self.call(0, "auth/authenticate", who, None).await;
        answer["token"].as_str().expect("a token").to_owned()
    }

    /// What a member has logged so far.
    pub fn log(&self, member: usize) -> String {
        std::fs::read_to_string(&self.members[member].log).unwrap_or_default()
    }

    /// `kill -9`; the process is gone when this returns.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Freezes a member: its sockets stay open and it answers nothing, like a cut-off machine.
    pub fn freeze(&mut self, member: usize) {
        self.members[member].signal(Signal::STOP);
        self.members[member].frozen = true;
    }

    /// Lets a frozen member go on.
    pub fn thaw(&mut self, member: usize) {
        self.members[member].signal(Signal::CONT);
        self.members[member].frozen = false;
    }

    /// Starts a killed member again on its data and ports, without waiting for anything: with too few members
    /// there is nothing to wait for.
    pub fn spawn(&mut self, member: usize) {
        self.members[member].spawn();
    }

    /// Starts a killed member again and returns when it answers, which needs a majority.
    pub async fn restart(&mut self, member: usize) {
        self.spawn(member);
        self.healthy_again(member).await;
    }

    /// Returns when this member answers linearizable reads. Starts it again if it could not have its port.
    pub async fn healthy_again(&mut self, member: usize) {
        let deadline = clock::now() + PATIENCE;
        while !self.healthy(member).await {
            assert!(clock::now() < deadline, "etcd {member} not healthy:\n{}", self.log(member));
            if self.members[member].has_ended() {
                self.spawn(member);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether this member answers a linearizable read: it knows a leader that has a majority.
    pub async fn healthy(&self, member: usize) -> bool {
        let url = format!("{}/health", self.members[member].url);
        match self.http.get(url).send().await {
            Ok(answer) => answer.status().is_success(),
            Err(_) => false,
        }
    }

    /// Which member leads now; waits until running members agree on one that is not frozen or dead.
    pub async fn leader(&self) -> usize {
        let deadline = clock::now() + PATIENCE;
        loop {
            if let Some(leader) = self.leader_now().await {
                return leader;
            }
            assert!(clock::now() < deadline, "no leader:\n{}", self.log(0));
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Any running member that does not lead.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        (0..self.len()).find(|n| *n != leader && self.members[*n].runs()).expect("a running follower")
    }

    /// Returns when another member than this one, which is not asked, says that it leads.
    pub async fn another_leads(&self, than: usize) {
        let deadline = clock::now() + PATIENCE;
        loop {
            for (_, member) in
                self.members.iter().enumerate().filter(|(n, member)| *n != than && member.runs())
            {
                if self.standing(member).await.is_some_and(|(id, leader)| id == leader) {
                    return;
                }
            }
            assert!(clock::now() < deadline, "nobody leads instead:\n{}", self.log(than));
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The id of a member and of whom it takes for the leader.
    async fn standing(&self, member: &Member) -> Option<(String, String)> {
        let url = format!("{}/v3/maintenance/status", member.url);
        let answer = self.http.post(url).body("{}").send().await.ok()?;
        let status: serde_json::Value = answer.json().await.ok()?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        Some((text(&status["header"]["member_id"])?, text(&status["leader"])?))
    }

    async fn leader_now(&self) -> Option<usize> {
        let mut ids = vec![String::new(); self.len()];
        let mut leaders = Vec::new();
        for (n, member) in self.members.iter().enumerate() {
            if !member.runs() {
                continue;
            }
            let (id, leader) = self.standing(member).await?;
            ids[n] = id;
            leaders.push(leader);
        }
        let leader = leaders.first()?;
        if leaders.iter().any(|l| l != leader) {
            return None;
        }
        ids.iter().position(|id| id == leader)
    }
}

impl Member {
    fn runs(&self) -> bool {
        self.child.is_some() && !self.frozen
    }

    fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).expect("a log file");
        let (program, before) = self.command.split_first().expect("a program");
        let child = Command::new(program)
            .args(before.iter().chain(&self.arguments))
            // Settings of the machine must not leak in, and 3.4 on arm64 wants to be asked twice.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("ETCD_UNSUPPORTED_ARCH", "arm64")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("`etcd` did not start ({error}); it comes with etcd-server"));
        self.child = Some(child);
        self.frozen = false;
    }

    fn add_secure_door(&mut self) {
        let (port, held) = free_port();
        drop(held);
        let secure = format!("https://127.0.0.1:{port}");
        for argument in &mut self.arguments {
            if argument.starts_with("--listen-client-urls=") {
                argument.push_str(&format!(",{secure}"));
            }
        }
        self.secure = Some(secure);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} runs", self.name));
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("our own child can be signalled");
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only when it has ended already.
            drop(child.kill());
            drop(child.wait());
        }
        self.frozen = false;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// So many members on loopback, with ports that nobody listens on just now.
fn on_loopback(members: usize) -> Vec<Home> {
    let held: Vec<_> = (0..members).map(|_| (free_port(), free_port())).collect();
    let home = |((client, _), (peer, _)): &((u16, TcpListener), (u16, TcpListener))| Home {
        host: Ipv4Addr::LOCALHOST,
        ports: (*client, *peer),
        command: vec!["etcd".to_owned()],
    };
    held.iter().map(home).collect()
}

/// A port nobody listens on, and the listener that holds it until etcd is about to bind.
///
/// Below the range from which the system takes ports for outgoing connections: a client that keeps dialling a
/// dead member's port inside that range can end up connected to itself and hold the port against its return.
fn free_port() -> (u16, TcpListener) {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end =
        range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32768_u16).max(12_000);
    for _ in 0..1000 {
        let port = rand::rng().random_range(10_000..end);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return (port, listener);
        }
    }
    panic!("no free port");
}
