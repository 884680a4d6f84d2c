//! A stand-in for the vendor's controllers, over real sockets, that behaves as its documents say: all state is in a store
//! that they share, tasks of nodes come out of long polls, `/readyz` is there from 1.41.1 on, and before 1.39 both steps of a
//! handshake and its session live in one controller's memory. Bodies of its queue are made up, for the real ones are not
//! public; the secret of a handshake travels in plain text, for a proxy looks into neither.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use switchyard::clock;

use crate::upstream::{Seen, Upstream, ok};

/// What a client without a credential is told, to the byte.
const UNAUTHORIZED: &str = "{\"status\":\"FAIL\",\"message\":\"Authentication Required\"}\n";

/// What all controllers of a cloud see.
#[derive(Debug, Default)]
pub struct Shared {
    state: Mutex<State>,
    news: Condvar,
    number: AtomicU64,
}

/// What is in the store.
#[derive(Debug, Default)]
pub struct State {
    /// Each instance with how often a node was given its start.
    pub instances: BTreeMap<String, u32>,
    queue: VecDeque<String>,
    secrets: BTreeSet<String>,
    sessions: BTreeSet<String>,
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::SeqCst)
    }
}

/// How one controller is, and how it misbehaves.
#[derive(Debug, Clone)]
pub struct Manner {
    pub version: &'static str,
    /// `ANKA_QUERY_TASK_TIMEOUT`; a test may shorten it.
    pub poll: Duration,
    /// Before 1.41.1: nothing at `/readyz` and `/livez`.
    pub unready: bool,
    /// Before 1.39: secrets and sessions are in its memory.
    pub alone: bool,
    /// `ANKA_ENABLE_AUTH`: everything but health and handshakes needs the token or a session.
    pub token: Option<&'static str>,
    /// The store is slow for so long at each start.
    pub start_takes: Duration,
    /// It does what it is asked and closes the connection without a reply.
    pub mute: bool,
    /// Whether its status says that it runs.
    pub running: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            version: "1.50.1-5a0c77de",
            poll: Duration::from_millis(800),
            unready: false,
            alone: false,
            token: None,
            start_takes: Duration::ZERO,
            mute: false,
            running: true,
        }
    }
}

/// One controller. Dropping it is killing it.
pub struct Controller {
    pub upstream: Upstream,
    manner: Arc<Mutex<Manner>>,
}

impl Controller {
    /// At this address: one that was killed comes back where it was.
    pub fn at(address: SocketAddr, shared: &Arc<Shared>, manner: Manner) -> Self {
        let (shared, own) = (shared.clone(), Arc::new(Mutex::new(State::default())));
        let manner = Arc::new(Mutex::new(manner));
        let asked = manner.clone();
        let upstream = Upstream::at(address, move |seen| {
            let manner = asked.lock().unwrap().clone();
            answer(&shared, &own, &manner, seen)
        });
        let made = Self { upstream, manner };
        made.readiness();
        made
    }

    pub fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    /// It behaves otherwise from now on.
    pub fn set(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.manner.lock().unwrap());
        self.readiness();
    }

    /// Requests that came with this method to this path, whatever follows it.
    pub fn asked(&self, method: &str, path: &str) -> usize {
        let seen = self.upstream.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.method() == method && seen.path().starts_with(path)).count()
    }

    fn readiness(&self) {
        // What stands in the body is not public; probes look at the status.
        let unready = self.manner.lock().unwrap().unready;
        let (status, body) = if unready { (404, "404 page not found\n") } else { (200, "") };
        self.upstream.says(status, body);
    }
}

fn plain(status: u16, kind: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn fail(status: u16, message: &str) -> String {
    plain(status, "application/json", &json!({ "status": "FAIL", "message": message }).to_string())
}

fn good(body: Value) -> String {
    let body = json!({ "status": "OK", "message": "", "body": body }).to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn answer(shared: &Shared, own: &Mutex<State>, manner: &Manner, seen: &Seen) -> String {
    let given = act(shared, own, manner, seen);
    // Health goes on: it is what it is asked to do that it dies of.
    if manner.mute && seen.path() != "/api/v1/status" { String::new() } else { given }
}

fn act(shared: &Shared, own: &Mutex<State>, manner: &Manner, seen: &Seen) -> String {
    let (path, query) = seen.path().split_once('?').unwrap_or((seen.path(), ""));
    let id = query.split('&').find_map(|pair| pair.strip_prefix("id=")).unwrap_or_default();
    let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    let keys = if manner.alone { own } else { &shared.state };
    match (seen.method(), path) {
        ("GET", "/livez") if !manner.unready => return ok(""),
        ("GET", "/livez") => return plain(404, "text/plain", "404 page not found\n"),
        ("POST", "/tap/v1/hand") => {
            let secret = format!("secret-{}-{:x}", shared.next(), seen.body.len());
            keys.lock().unwrap().secrets.insert(secret.clone());
            // Bare text, without a line's end.
            return plain(200, "text/plain", &secret);
        }
        ("POST", "/tap/v1/shake") => {
            let secret = body["secret"].as_str().unwrap_or_default();
            let mut keys = keys.lock().unwrap();
            // Void after one try.
            if !keys.secrets.remove(secret) {
                return plain(401, "application/json", UNAUTHORIZED);
            }
            let session = format!("session-{}", shared.next());
            keys.sessions.insert(session.clone());
            let data = json!({ "userName": body["id"], "token": secret, "sessionId": session });
            return plain(200, "application/json", &json!({ "id": body["id"], "data": data }).to_string());
        }
        _ => {}
    }
    if let Some(token) = manner.token {
        let credential = seen.head.get("authorization").unwrap_or_default();
        let session = credential.strip_prefix("Bearer ");
        let session = session.is_some_and(|session| keys.lock().unwrap().sessions.contains(session));
        if !session && credential != format!("Basic {token}") {
            return plain(401, "application/json", UNAUTHORIZED);
        }
    }
    match (seen.method(), path) {
        ("GET", "/api/v1/status") => good(json!({
            "status": if manner.running { "Running" } else { "Starting" }, "version": manner.version,
            "registry_address": "http://front.example:8089", "registry_status": "Running", "license": "enterprise plus",
        })),
        ("GET", "/queue/v1/cmd/task") => {
            let until = clock::now() + manner.poll;
            let mut state = shared.state();
            loop {
                if let Some(id) = state.queue.pop_front() {
                    *state.instances.entry(id.clone()).or_default() += 1;
                    return good(json!({ "task": "start", "instance": id, "version": manner.version }));
                }
                let left = until.saturating_duration_since(clock::now());
                if left.is_zero() {
                    return good(json!({ "task": null, "version": manner.version }));
                }
                state = shared.news.wait_timeout(state, left).unwrap().0;
            }
        }
        ("POST", "/queue/v1/controller/task") => good(Value::Null),
        ("POST", "/api/v1/vm") => {
            std::thread::sleep(manner.start_takes);
            let id = format!("1a2b3c4d-0000-0000-54dc-{:012x}", shared.next());
            let mut state = shared.state();
            state.instances.insert(id.clone(), 0);
            state.queue.push_back(id.clone());
            shared.news.notify_one();
            good(json!([id]))
        }
        ("GET", "/api/v1/vm") if !id.is_empty() => match shared.state().instances.contains_key(id) {
            true => good(json!({ "instance_id": id, "instance_state": "Scheduling" })),
            false => fail(200, "Not found"),
        },
        ("GET", "/api/v1/vm") => {
            let ids: Vec<_> =
                shared.state().instances.keys().map(|id| json!({ "instance_id": id })).collect();
            good(json!(ids))
        }
        ("DELETE", "/api/v1/vm") => {
            let id = body["id"].as_str().unwrap_or_default();
            let mut state = shared.state();
            state.queue.retain(|queued| queued != id);
            match state.instances.remove(id) {
                Some(_) => good(Value::Null),
                None => fail(200, "Not found"),
            }
        }
        ("GET", "/pkg/AnkaAgentArm.pkg" | "/pkg/AnkaAgent.pkg") => ok(manner.version),
        ("GET", "/config/v1/auth") => good(json!({})),
        _ => plain(404, "text/plain", "404 page not found\n"),
    }
}
