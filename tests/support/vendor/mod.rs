//! A stand-in for the vendor's registry, over real sockets, that behaves as its documents say: lists come out of a cache of
//! 30 s (a test may shorten it), versions do not, a revert that is run twice takes two tags back, handshakes, sessions and
//! pushes live in one server's memory, keys and logs on its own disk. Paths of its transfer protocol are made up, for the
//! real ones are not public; what travels over them is as inferred: a question, one long body per file, a commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use switchyard::clock;
use tokio::time::Instant;

use crate::upstream::{Seen, Upstream, ok};

/// `ANKA_VM_LIST_CACHE_TTL`.
const CACHE: Duration = Duration::from_secs(30);

/// What a registry has and does.
#[derive(Debug)]
pub struct State {
    /// Tags of each template, each with when it was pushed.
    pub templates: BTreeMap<String, Vec<(String, i64)>>,
    pub files: BTreeMap<String, usize>,
    pub cache: Duration,
    cached: BTreeMap<String, (Instant, String)>,
    /// Every list closes the connection without a reply, as with a template that was copied by half.
    pub crashes: bool,
    /// Reverts run and are not answered.
    pub mute: bool,
    /// Before 1.41.1 and the newer list: no readiness, the older list, and an unknown tag is the newest.
    pub old: bool,
    /// Demanded of everything but readiness and handshakes.
    pub token: Option<String>,
    secrets: BTreeSet<String>,
    sessions: BTreeSet<String>,
    pushes: BTreeSet<String>,
    pub logs: Vec<String>,
    clock: i64,
}

pub struct Registry {
    pub upstream: Upstream,
    pub state: Arc<Mutex<State>>,
}

impl Registry {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State {
            templates: BTreeMap::new(),
            files: BTreeMap::new(),
            cache: CACHE,
            cached: BTreeMap::new(),
            crashes: false,
            mute: false,
            old: false,
            token: None,
            secrets: BTreeSet::new(),
            sessions: BTreeSet::new(),
            pushes: BTreeSet::new(),
            logs: Vec::new(),
            clock: 1_766_400_000,
        }));
        let serving = state.clone();
        let upstream = Upstream::start(move |seen| serving.lock().unwrap().answer(seen));
        Self { upstream, state }
    }

    pub fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub fn get<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock().unwrap())
    }

    /// A tag that came straight to it.
    pub fn has(&self, id: &str, tag: &str) {
        self.set(|state| state.publish(id, tag));
    }

    /// `rsync -a`: everything, dates too.
    pub fn copies(&self, from: &Self) {
        let (templates, files) = from.get(|state| (state.templates.clone(), state.files.clone()));
        self.set(|state| (state.templates, state.files) = (templates, files));
    }

    /// Requests that were no questions of the proxy's own.
    pub fn asked(&self, path: &str) -> usize {
        self.upstream.seen.lock().unwrap().iter().filter(|seen| seen.path().starts_with(path)).count()
    }
}

fn fail(status: u16, message: &str) -> String {
    let body = format!("{{\"status\":\"FAIL\",\"message\":\"{message}\"}}\n");
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn good(body: Value) -> String {
    ok(&json!({ "status": "OK", "message": "", "body": body }).to_string())
}

impl State {
    fn publish(&mut self, id: &str, tag: &str) {
        self.clock += 1;
        let pushed = self.clock;
        self.templates.entry(id.into()).or_default().push((tag.into(), pushed));
    }

    fn whole(id: &str, tags: &[(String, i64)]) -> Value {
        let version = |(number, (tag, pushed)): (usize, &(String, i64))| json!({ "number": number, "tag": tag, "images": [], "size": 5, "last_push": pushed });
        let versions: Vec<Value> = tags.iter().enumerate().map(version).collect();
        json!({ "id": id, "name": format!("name-{id}"), "versions": versions, "size": 5 * tags.len(), "arch": "arm64" })
    }

    fn list(&mut self, path: &str) -> String {
        let now = clock::now();
        if let Some((at, text)) = self.cached.get(path)
            && now < *at + self.cache
        {
            return text.clone();
        }
        let newer = |(id, tags): (&String, &Vec<(String, i64)>)| {
            let pushed = tags.iter().map(|(_, pushed)| pushed).max();
            json!({ "id": id, "name": format!("name-{id}"), "size": 5 * tags.len(), "arch": "arm64", "last_push": pushed })
        };
        let older = |(id, _): (&String, &Vec<(String, i64)>)| json!({ id: format!("name-{id}") });
        let listed: Vec<Value> = match path {
            "/registry/vm" => self.templates.iter().map(older).collect(),
            _ => self.templates.iter().map(newer).collect(),
        };
        let text = good(json!(listed));
        self.cached.insert(path.into(), (now, text.clone()));
        text
    }

    fn allows(&self, seen: &Seen) -> bool {
        let Some(token) = &self.token else { return true };
        let given = seen.head.get("authorization").unwrap_or_default();
        let session = given.strip_prefix("Bearer ").is_some_and(|session| self.sessions.contains(session));
        session || given == format!("Basic {token}")
    }

    fn answer(&mut self, seen: &Seen) -> String {
        let (path, query) = seen.path().split_once('?').unwrap_or((seen.path(), ""));
        let of = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let (id, tag) = (of("id"), of("tag"));
        match (seen.method(), path) {
            ("POST", "/tap/v1/hand") => {
                self.clock += 1;
                let secret = format!("s{:p}-{}", std::ptr::from_ref(self), self.clock);
                self.secrets.insert(secret.clone());
                return ok(&secret);
            }
            ("POST", "/tap/v1/shake") => {
                let secret = String::from_utf8_lossy(&seen.body).into_owned();
                if !self.secrets.remove(&secret) {
                    return fail(401, "Authentication Required");
                }
                self.sessions.insert(secret.clone());
                return ok(&secret);
            }
            _ if !self.allows(seen) => return fail(401, "Authentication Required"),
            _ => {}
        }
        let known = self.templates.get(id).cloned();
        match (seen.method(), path) {
            ("GET", "/registry/status") => good(json!({ "status": "Running", "version": "1.50.1-ab12cd34" })),
            ("GET", "/registry/v2/vm") if self.old => fail(404, "404 page not found"),
            ("GET", "/registry/vm" | "/registry/v2/vm") if self.crashes && id.is_empty() => String::new(),
            ("GET", "/registry/vm" | "/registry/v2/vm") if id.is_empty() => self.list(path),
            ("GET", "/registry/vm" | "/registry/v2/vm") => {
                known.map_or_else(|| fail(404, "Not found"), |tags| good(Self::whole(id, &tags)))
            }
            ("GET", "/registry/vm/info" | "/registry/pull") => {
                let tags = known.unwrap_or_default();
                let found = tags.iter().find(|(known, _)| known == tag || tag.is_empty());
                match found.or(tags.last().filter(|_| self.old)) {
                    Some((tag, _)) => good(json!({ "name": id, "tag": tag })),
                    None => fail(404, "Not found"),
                }
            }
            ("DELETE", "/registry/revert") => match self.templates.get_mut(id).and_then(Vec::pop) {
                Some(_) if self.mute => String::new(),
                Some(_) => good(Value::Null),
                None => fail(400, "Did not find any versions"),
            },
            ("POST", "/log") => {
                self.logs.push(String::from_utf8_lossy(&seen.body).into_owned());
                good(Value::Null)
            }
            // The push: what is begun here is known here alone.
            ("POST", "/registry/push") => {
                self.pushes.insert(format!("{id}:{tag}"));
                good(json!({ "missing": [] }))
            }
            ("PUT", _) if path.starts_with("/files/") => {
                let begun = !self.pushes.is_empty();
                self.files.insert(path.rsplit('/').next().unwrap_or_default().into(), seen.body.len());
                if begun { good(Value::Null) } else { fail(400, "no such upload") }
            }
            ("POST", "/registry/commit") if self.pushes.remove(&format!("{id}:{tag}")) => {
                self.publish(id, tag);
                good(Value::Null)
            }
            ("POST", "/registry/commit") => fail(400, "no such upload"),
            ("GET", _) if path.starts_with("/files/") => {
                match self.files.get(path.rsplit('/').next().unwrap_or_default()) {
                    Some(size) => ok(&"x".repeat(*size)),
                    None => fail(404, "Not found"),
                }
            }
            _ => fail(404, "404 page not found"),
        }
    }
}
