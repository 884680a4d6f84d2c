//! A stand-in for a registry of ours: it keeps no content, but speaks the log and the state as told to.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use switchyard::{
    clock,
    config::proxy::{Kind, Proxy, Reads},
    model::{Mark, Position, RepositoryName},
    wire::{
        registries::{Registries, Service},
        replication::{Changed, Diverged, Epoch, Lag, LogHead, Role, State},
    },
};

use crate::{
    front::{self, Front, eventually},
    raw,
    upstream::{Seen, Upstream},
};

/// What a registry says and does now.
pub struct Script {
    pub role: Role,
    /// What its state claims, and what its answers carry unless `answers_at` says otherwise.
    pub position: Option<Position>,
    pub answers_at: Option<Option<Position>>,
    /// The writer's log: every position is one change.
    pub log: Vec<RepositoryName>,
    /// Another number is another history.
    pub history: u8,
    /// The reign that its state and its log tell.
    pub epoch: u64,
    /// Milliseconds of lease that it gives; 0 for none.
    pub lease: u64,
    /// Blobs that it has, by the last segment of their paths.
    pub blobs: BTreeSet<&'static str>,
    /// It has no manifest.
    pub empty: bool,
    /// It accepts and answers nothing but probes.
    pub frozen: bool,
    /// `after` of each poll of a proxy, with the proxy's name.
    pub polls: Vec<(Position, String)>,
    /// Proxies that gave their lease up.
    pub released: Vec<String>,
}

struct Shared {
    script: Mutex<Script>,
    changed: Condvar,
}

pub struct Registry {
    pub upstream: Upstream,
    shared: Arc<Shared>,
}

pub fn at(seq: usize) -> Position {
    Position { epoch: 1, seq: seq as u64 }
}

impl Registry {
    pub fn start(name: &'static str, role: Role) -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), name, role)
    }

    pub fn on(address: SocketAddr, name: &'static str, role: Role) -> Self {
        let shared = Arc::new(Shared {
            script: Mutex::new(Script {
                role,
                position: Some(at(0)),
                answers_at: None,
                log: Vec::new(),
                history: 0,
                epoch: 1,
                lease: 2000,
                blobs: BTreeSet::new(),
                empty: false,
                frozen: false,
                polls: Vec::new(),
                released: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let serving = shared.clone();
        let upstream = Upstream::at(address, move |seen| serving.answer(name, seen));
        upstream.says(200, &format!(r#"{{"ready":true,"read":true,"write":true,"name":"{name}"}}"#));
        Self { upstream, shared }
    }

    pub fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }

    pub fn get<T>(&self, read: impl FnOnce(&Script) -> T) -> T {
        read(&self.shared.lock())
    }

    /// The writer takes a push that comes straight to it; a position for it.
    pub fn push(&self, repository: &str) -> Position {
        let mut position = at(0);
        self.set(|script| {
            script.log.push(RepositoryName::parse(repository).unwrap());
            position = at(script.log.len());
            script.position = Some(position);
        });
        position
    }

    /// A replica has come so far.
    pub fn copies(&self, position: Position) {
        self.set(|script| script.position = Some(position));
    }

    /// It has this blob from now on.
    pub fn gives(&self, blob: &'static str) {
        self.set(|script| {
            script.blobs.insert(blob);
        });
    }

    /// Waits until every proxy knows of all that was pushed.
    pub fn confirmed(&self) {
        eventually("the proxy has confirmed the last change", || {
            self.get(|script| script.polls.last().is_some_and(|(after, _)| *after == at(script.log.len())))
        });
    }

    /// Requests so far that were not about replication.
    pub fn asked(&self) -> Vec<Seen> {
        let seen = self.upstream.seen.lock().unwrap();
        seen.iter().filter(|seen| !seen.path().starts_with("/replication/")).cloned().collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Parks until `ready` or the wait is over.
    fn park(&self, wait: u64, ready: impl Fn(&Script) -> bool) -> MutexGuard<'_, Script> {
        let end = clock::boot() + Duration::from_millis(wait);
        let mut script = self.lock();
        loop {
            let left = end.saturating_sub(clock::boot());
            if script.frozen || ready(&script) || left.is_zero() {
                return script;
            }
            script = self.changed.wait_timeout(script, left).unwrap().0;
        }
    }

    fn answer(&self, name: &str, seen: &Seen) -> String {
        if self.lock().frozen {
            std::thread::sleep(Duration::from_secs(8));
            return String::new();
        }
        let (path, query) = seen.path().split_once('?').unwrap_or((seen.path(), ""));
        let key = |key: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(k, _)| *k == key).map(|(_, v)| v.to_owned()).next_back()
        };
        let after = key("after").map(|after| after.parse::<Position>().unwrap());
        let wait = key("wait").map_or(0, |wait| wait.parse().unwrap());
        match path {
            "/replication/v1/log" => self.log(name, after, key("mark"), key("proxy"), wait),
            "/replication/v1/state" => {
                let script = self.park(wait, |script| after.is_none() || script.position != after);
                let state = State {
                    registry: name.into(),
                    role: script.role,
                    position: script.position,
                    unconfirmed: None,
                    head: script.position,
                    epoch: script.epoch,
                    lag: Lag { entries: 3, ..Lag::default() },
                    read: true,
                    write: script.role == Role::Writer,
                    why: Vec::new(),
                    fetching: Vec::new(),
                    peers: Vec::new(),
                    followers: Vec::new(),
                    aside: Vec::new(),
                };
                with(200, "", &serde_json::to_string(&state).unwrap())
            }
            "/replication/v1/lease" => {
                self.lock().released.push(key("proxy").unwrap_or_default());
                with(200, "", "")
            }
            _ => self.content(name, seen, path),
        }
    }

    fn log(
        &self,
        name: &str,
        after: Option<Position>,
        mark: Option<String>,
        proxy: Option<String>,
        wait: u64,
    ) -> String {
        let seq = |position: Position| usize::try_from(position.seq).unwrap();
        if let (Some(after), Some(proxy)) = (after, proxy) {
            self.lock().polls.push((after, proxy));
        }
        let history = mark.is_some().then(|| self.lock().history);
        let script = self.park(wait, |script| {
            after.is_none_or(|after| script.log.len() > seq(after)) || Some(script.history) != history
        });
        let head = at(script.log.len());
        let mark_of = |script: &Script| Mark::from_bytes([script.history; 16]);
        if mark.is_some_and(|mark| mark != mark_of(&script).to_string()) {
            let diverged = Diverged { error: "another history".into(), common: Some(at(0)), head };
            return with(409, "", &serde_json::to_string(&diverged).unwrap());
        }
        let from = after.map_or(script.log.len(), seq);
        let changes = (from..script.log.len())
            .map(|place| Changed { position: at(place + 1), repository: script.log[place].clone() });
        let lines: Vec<String> = changes.map(|change| serde_json::to_string(&change).unwrap()).collect();
        let head = LogHead {
            registry: name.into(),
            role: script.role,
            head,
            upto: head,
            mark: mark_of(&script),
            epochs: vec![Epoch { epoch: script.epoch, after: at(0), writer: name.into(), id: "i".into() }],
            lease: if after.is_some() { script.lease } else { 0 },
            lines: lines.len(),
        };
        let body = std::iter::once(serde_json::to_string(&head).unwrap()).chain(lines);
        with(200, "", &body.map(|line| line + "\n").collect::<String>())
    }

    fn content(&self, name: &str, seen: &Seen, path: &str) -> String {
        let script = self.lock();
        let position = script.answers_at.unwrap_or(script.position);
        let position = position.map_or_else(String::new, |at| format!("Switchyard-Position: {at}\r\n"));
        let last = path.rsplit('/').next().unwrap();
        let gone = match path {
            _ if path.contains("/blobs/uploads/") => false,
            _ if path.contains("/blobs/") => !script.blobs.contains(last),
            _ => script.empty && path.contains("/manifests/"),
        };
        let body = if seen.method() == "HEAD" { "" } else { name };
        with(if gone { 404 } else { 200 }, &position, body)
    }
}

fn with(status: u16, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// A writer `r0` and replicas `r1`, `r2`.
pub fn cloud() -> (Registry, Registry, Registry) {
    (
        Registry::start("r0", Role::Writer),
        Registry::start("r1", Role::Replica),
        Registry::start("r2", Role::Replica),
    )
}

/// A config in front of them; the first is the writer.
pub fn config(registries: &[&Registry]) -> Proxy {
    let addresses: Vec<_> = registries.iter().map(|registry| registry.upstream.address).collect();
    let mut config = front::config(Kind::Registry, &addresses);
    config.services[0].writer = Some(0);
    config.services[0].reads = Reads::REPLICATED;
    config
}

/// Runs it, and waits until it has a lease and knows what everybody has.
pub fn started(config: Proxy) -> Front {
    let front = Front::start(config);
    eventually("there is a lease and every position is known", || {
        let service = view(&front);
        service.lease_ms.is_some() && service.upstreams.iter().all(|upstream| upstream.position.is_some())
    });
    front
}

/// The admin view of the one service.
pub fn view(front: &Front) -> Service {
    let request = "GET /admin/v1/registries HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut all: Registries = serde_json::from_slice(&raw::ask(front.admin, request).body).unwrap();
    all.services.remove(0)
}

/// Waits until the proxy knows that this upstream has come so far.
pub fn knows(front: &Front, place: usize, position: Position) {
    eventually("the proxy knows the replica's position", || {
        view(front).upstreams[place].position == Some(position)
    });
}
