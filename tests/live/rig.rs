//! A proxy as a process of its own, in front of one upstream that polls and transfers slowly.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use switchyard::{clock, wire::handover::Process as View};

use crate::{
    clients::Clients,
    raw::{self, Wire},
    support::{
        place::{MARK, Place},
        process::{BINARY, Process},
    },
    upstream::{Then, Upstream, ok},
    ways::Certificates,
};

/// Bytes of a blob.
pub const BLOB: usize = 2_000_000;

/// Pieces in which the upstream sends it, and the pause after each.
const PIECES: usize = 20;
const PAUSE: Duration = Duration::from_millis(60);

/// How long the upstream parks a poll.
pub const PARKED: Duration = Duration::from_millis(1500);

/// Longer than anything takes.
pub const SOON: Duration = Duration::from_secs(40);

pub fn blob_byte(at: usize) -> u8 {
    (at % 251) as u8
}

/// One proxy, whichever process it is.
pub struct Rig {
    pub place: Place,
    pub controllers: SocketAddr,
    pub registries: SocketAddr,
    pub admin: SocketAddr,
    /// A link to the binary: what an upgrade starts.
    pub binary: PathBuf,
    pub upstream: Upstream,
    /// Requests that came to it whole.
    saw: Arc<AtomicUsize>,
    pub first: Process,
    pub threads: usize,
    /// With listeners inside TLS too, and HTTP/2 on all: where those are, and who certifies them.
    pub secured: Option<Secured>,
    /// The certificate is in this file instead.
    pub more_cert: Option<PathBuf>,
    /// More listeners, whole tables; and more addresses for the controllers' one.
    pub more: String,
    pub beside: Vec<SocketAddr>,
}

/// Listeners inside TLS.
pub struct Secured {
    pub controllers: SocketAddr,
    pub registries: SocketAddr,
    pub certificates: Certificates,
}

impl Rig {
    pub fn start(name: &str) -> Self {
        let mut rig = Self::prepare(name);
        rig.first.spawn();
        rig.up();
        rig
    }

    /// The same, which speaks TLS as well, and HTTP/2.
    pub fn start_secured(name: &str) -> Self {
        let mut rig = Self::prepare(name);
        let controllers = rig.free(&[]);
        let registries = rig.free(&[controllers]);
        let certificates = Certificates::new(&rig.place);
        rig.secured = Some(Secured { controllers, registries, certificates });
        rig.write();
        rig.first.spawn();
        rig.up();
        rig
    }

    /// Clients of every kind that it serves besides plain HTTP/1.1.
    pub fn secured_clients(&self) -> Clients {
        let Secured { controllers, registries, certificates } = self.secured.as_ref().unwrap();
        Clients::start_secured(certificates, (self.controllers, self.registries), (*controllers, *registries))
    }

    /// The same, not started yet.
    pub fn prepare(name: &str) -> Self {
        let place = Place::new(name);
        let binary = place.path("bin/switchyard");
        std::os::unix::fs::symlink(BINARY, &binary).unwrap();
        let file = place.path("proxy.toml");
        let first = Process::prepare_by(&place, "proxy", text(&binary), &["proxy", "-c", text(&file)]);
        let controllers = place.address();
        let registries = another(&place, &[controllers]);
        let admin = another(&place, &[controllers, registries]);
        let saw = Arc::<AtomicUsize>::default();
        let count = saw.clone();
        let upstream = Upstream::raw(move |wire, head| serve(wire, head, &count));
        let (threads, more, beside, secured) = (2, String::new(), Vec::new(), None);
        let rig = Self {
            place,
            controllers,
            registries,
            admin,
            binary,
            upstream,
            saw,
            first,
            threads,
            secured,
            more_cert: None,
            more,
            beside,
        };
        rig.write();
        rig
    }

    pub fn file(&self) -> PathBuf {
        self.place.path("proxy.toml")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.place.dir().join("run")
    }

    /// An address that nobody has.
    pub fn free(&self, but: &[SocketAddr]) -> SocketAddr {
        let secured = self.secured.iter().flat_map(|secured| [secured.controllers, secured.registries]);
        let ours: Vec<SocketAddr> = secured.chain([self.controllers, self.registries, self.admin]).collect();
        another(&self.place, &[but, &ours].concat())
    }

    /// How many requests have come to the upstream whole.
    pub fn upstream_saw(&self) -> usize {
        self.saw.load(Ordering::SeqCst)
    }

    /// Writes the config as it should be now.
    pub fn write(&self) {
        self.write_with(&self.more);
    }

    /// The same, with these tables instead of `more`.
    pub fn write_with(&self, more: &str) {
        let Self { controllers, registries, admin, threads, .. } = self;
        let beside: String = self.beside.iter().map(|address| format!(", \"{address}\"")).collect();
        let (run_dir, log) = (self.run_dir(), self.place.path("access.log"));
        let (run_dir, log, upstream) = (run_dir.display(), log.display(), self.upstream.address);
        let http2 = self.secured.is_some();
        let secured: String = self.secured.iter().map(|secured| self.listeners_inside_tls(secured)).collect();
        let config = format!(
            r#"
[proxy]
threads = {threads}
run_dir = "{run_dir}"
[shutdown]
grace = "5s"
drain = "60s"
[log]
access = "{log}"
[admin]
listen = "{admin}"
[[listener]]
name = "controllers"
bind = ["{controllers}"{beside}]
service = "controllers"
http2 = {http2}
[[listener]]
name = "registries"
bind = ["{registries}"]
service = "registries"
http2 = {http2}
{secured}
{more}
[service.controllers]
upstreams = [{{ name = "u", address = "{upstream}" }}]
[service.registries]
storage = "shared"
upstreams = [{{ name = "u", address = "{upstream}" }}]
"#
        );
        fs::write(self.file(), config).unwrap();
    }

    fn listeners_inside_tls(&self, secured: &Secured) -> String {
        let cert = self.more_cert.clone().unwrap_or_else(|| self.place.path("front.pem"));
        let key = self.place.path("front.key");
        let tls = format!("{{ cert = \"{}\", key = \"{}\" }}", cert.display(), key.display());
        let one = |service: &str, address: SocketAddr| {
            format!(
                "[[listener]]\nname = \"secured-{service}\"\nbind = [\"{address}\"]\nservice = \"{service}\"\n\
                 http2 = true\ntls = {tls}\n"
            )
        };
        one("controllers", secured.controllers) + &one("registries", secured.registries)
    }

    /// Waits until it serves and finds its upstream well.
    pub fn up(&self) {
        self.until("the proxy is ready", || {
            let tried = std::net::TcpStream::connect(self.admin).ok()?;
            let answer = Wire::new(tried).ask("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
            (answer.status() == 200).then_some(())
        });
    }

    /// What the one that serves says of itself.
    pub fn view(&self) -> View {
        let answer = self.admin("GET", "/admin/v1/process");
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
    }

    pub fn admin(&self, method: &str, path: &str) -> raw::Answer {
        // The one that was asked may have just been replaced, and closes without an answer then: ask the other.
        self.until("the admin listener answers", || {
            let tcp = std::net::TcpStream::connect(self.admin).ok()?;
            Wire::new(tcp)
                .ask(&format!(
                    "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                ))
                .ok()
        })
    }

    /// Writes the config and reloads it; what was answered.
    pub fn reload(&self) -> raw::Answer {
        self.write();
        self.admin("POST", "/admin/v1/reload")
    }

    /// `switchyard upgrade`, to its end.
    pub fn upgrade(&self, more: &[&str]) -> Output {
        let file = self.file();
        let mut command = Command::new(BINARY);
        command.args(["upgrade", "-c", text(&file)]).args(more).env(MARK, self.place.dir());
        command.output().unwrap()
    }

    /// The same, which must work; the process that serves then.
    #[track_caller]
    pub fn upgraded(&self, more: &[&str]) -> u32 {
        let output = self.upgrade(more);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let after = said.split(' ').nth(1).and_then(|pid| pid.parse().ok()).unwrap();
        // Both accept on the admin listener for a moment.
        self.until("the successor answers", || (self.view().pid == after).then_some(()));
        after
    }

    pub fn signal(&self, pid: u32, signal: Signal) {
        kill_process(as_pid(pid), signal).unwrap();
    }

    pub fn lives(&self, pid: u32) -> bool {
        // The first is our child, and a zombie until it is waited for.
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        test_kill_process(as_pid(pid)).is_ok() && !state.contains(") Z ")
    }

    /// Processes of this proxy that live: they run the binary as a proxy and are of this place.
    pub fn processes(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.place.dir().display());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let ours = read("environ").split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
            ours && read("cmdline").split(|byte| *byte == 0).nth(1) == Some(b"proxy") && self.lives(*pid)
        })
        .collect()
    }

    pub fn log(&self) -> String {
        self.first.log()
    }

    /// Waits for it.
    #[track_caller]
    pub fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        until(what, look)
    }
}

/// Waits for it, and panics with `what` if it does not come.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = clock::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < SOON, "not within {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A free address that is none of these: the system may name one twice.
fn another(place: &Place, but: &[SocketAddr]) -> SocketAddr {
    until("another address", || Some(place.address()).filter(|address| !but.contains(address)))
}

fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn serve(wire: &mut Wire, head: raw::Head, saw: &AtomicUsize) -> Then {
    let mut received = 0;
    if wire.body(&head, false, |piece| received += piece.len()).is_err() {
        return Then::Close;
    }
    saw.fetch_add(1, Ordering::SeqCst);
    let sent = match head.word(1) {
        "/switchyard/v1/tasks" => {
            thread::sleep(PARKED);
            wire.send(ok("nothing yet"))
        }
        "/v2/a/blobs/slow" => slow(wire),
        "/v2/a/blobs/uploads/x" => {
            let text = received.to_string();
            wire.send(format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{text}", text.len()))
        }
        _ => wire.send(ok("well")),
    };
    if sent.is_ok() { Then::KeepAlive } else { Then::Close }
}

fn slow(wire: &mut Wire) -> std::io::Result<()> {
    let body: Vec<u8> = (0..BLOB).map(blob_byte).collect();
    wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BLOB}\r\n\r\n"))?;
    for piece in body.chunks(BLOB / PIECES) {
        wire.send(piece)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}
