//! To upstreams that want to know the client.

use std::{
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::{
    config::proxy::{Kind, ProbeKind, Proxy},
    model::proxy_protocol::Version,
};

use super::{QUIT, behind_balancers, get, v2, v2_of};
use crate::{
    front::{self, Front, eventually},
    raw::Wire,
    upstream::{ABLE, ok},
};

/// A connection that came: the header it began with, and the paths it asked for.
#[derive(Debug, Clone, Default)]
struct Came {
    header: Vec<u8>,
    paths: Vec<String>,
}

/// An upstream that takes a header of one version from everybody, and writes down what comes. Keeps its connections.
struct Recorder {
    address: SocketAddr,
    came: Arc<Mutex<Vec<Came>>>,
    stop: Arc<AtomicBool>,
    accepting: Option<thread::JoinHandle<()>>,
}

impl Recorder {
    fn start(version: Option<Version>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (came, stop): (Arc<Mutex<Vec<Came>>>, Arc<AtomicBool>) = Default::default();
        let (noted, stopped) = (came.clone(), stop.clone());
        let accepting = thread::spawn(move || {
            while let Ok((tcp, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let noted = noted.clone();
                thread::spawn(move || serve(tcp, version, &noted));
            }
        });
        Self { address, came, stop, accepting: Some(accepting) }
    }

    fn all(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }

    /// The connections that were not probes'.
    fn asked(&self) -> Vec<Came> {
        let mut all = self.all();
        all.retain(|came| came.paths.iter().any(|path| path != "/readyz"));
        all
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).ok();
        if let Some(accepting) = self.accepting.take() {
            accepting.join().ok();
        }
    }
}

fn serve(mut tcp: TcpStream, version: Option<Version>, noted: &Mutex<Vec<Came>>) {
    let mut header = Vec::new();
    let read = |tcp: &mut TcpStream, header: &mut Vec<u8>, count: usize| {
        let from = header.len();
        header.resize(from + count, 0);
        tcp.read_exact(&mut header[from..])
    };
    let whole = match version {
        None => Ok(()),
        Some(Version::V1) => loop {
            match read(&mut tcp, &mut header, 1) {
                Ok(()) if header.ends_with(b"\n") => break Ok(()),
                Ok(()) => {}
                Err(error) => break Err(error),
            }
        },
        Some(Version::V2) => read(&mut tcp, &mut header, 16).and_then(|()| {
            let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
            read(&mut tcp, &mut header, length)
        }),
    };
    if whole.is_err() {
        return;
    }
    let place = {
        let mut noted = noted.lock().unwrap();
        noted.push(Came { header, paths: Vec::new() });
        noted.len() - 1
    };
    let mut wire = Wire::new(tcp);
    while let Ok(Some(head)) = wire.head() {
        noted.lock().unwrap()[place].paths.push(head.word(1).to_owned());
        let body = if head.word(1) == "/readyz" { ABLE } else { "{}" };
        if wire.send(ok(body)).is_err() {
            return;
        }
    }
}

fn config(version: Version, upstream: SocketAddr) -> Proxy {
    let mut config = front::config(Kind::Controller, &[upstream]);
    config.services[0].proxy_protocol = Some(version);
    config
}

fn header(version: Version, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.ip(), destination.ip());
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    match version {
        Version::V1 => {
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
        }
        Version::V2 => v2_of(&source.to_string(), &destination.to_string()),
    }
}

#[test]
fn an_upstream_is_told_the_client_and_no_connection_serves_two_requests() {
    for version in [Version::V1, Version::V2] {
        let upstream = Recorder::start(Some(version));
        let front = Front::start(config(version, upstream.address));
        let mut clients = [(); 3].map(|()| Wire::connect(front.address));
        let mut wanted = Vec::new();
        for n in 0..9 {
            let wire = &mut clients[n % 3];
            let path = format!("/api/v1/vm?id={n}");
            assert_eq!(wire.ask(&get(&path, "")).unwrap().status(), 200);
            let source = wire.tcp.local_addr().unwrap();
            wanted.push((header(version, source, front.address), vec![path]));
        }
        let asked: Vec<_> = upstream.asked().into_iter().map(|came| (came.header, came.paths)).collect();
        assert_eq!(asked, wanted);
        assert_eq!(front.lines(9).iter().filter(|line| line["attempts"][0]["reused"] == false).count(), 9);
    }
}

#[test]
fn what_a_balancer_said_is_said_on() {
    for version in [Version::V1, Version::V2] {
        let upstream = Recorder::start(Some(version));
        let mut config = config(version, upstream.address);
        config.listeners = behind_balancers(&[]).listeners;
        let front = Front::start(config);
        let pairs = [("192.0.2.7:4711", "203.0.113.1:443"), ("[2001:db8::7]:4711", "[2001:db8::1]:443")];
        for (source, destination) in pairs {
            let mut wire = Wire::connect(front.address);
            wire.send(v2_of(source, destination)).unwrap();
            assert_eq!(wire.ask(&get("/api/v1/vm", "")).unwrap().status(), 200);
            let wanted = header(version, source.parse().unwrap(), destination.parse().unwrap());
            assert_eq!(upstream.asked().last().unwrap().header, wanted);
        }
        // The balancer's own connection is one like any other to those behind us.
        let mut wire = Wire::connect(front.address);
        wire.send(v2(0x20, 0, &[])).unwrap();
        assert_eq!(wire.ask(&get("/api/v1/vm", "")).unwrap().status(), 200);
        let wanted = header(version, wire.tcp.local_addr().unwrap(), front.address);
        assert_eq!(upstream.asked().last().unwrap().header, wanted);
    }
}

#[test]
fn probes_say_that_they_are_nobody_elses() {
    for version in [Version::V1, Version::V2] {
        for tcp in [false, true] {
            let upstream = Recorder::start(Some(version));
            let mut config = config(version, upstream.address);
            if tcp {
                config.services[0].health.kind = ProbeKind::Tcp;
            }
            let front = Front::start(config);
            front.wait_until("it is up", |view| view.services[0].upstreams[0].health == "up");
            let own = match version {
                Version::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
                Version::V2 => [QUIT, &[0x20, 0, 0, 0]].concat(),
            };
            eventually("several probes came", || upstream.all().len() >= 4);
            // The last one may not have asked yet.
            for came in upstream.all().into_iter().take(3) {
                assert_eq!(came.header, own);
                assert_eq!(came.paths.iter().any(|path| path == "/readyz"), !tcp);
            }
        }
    }
}

#[test]
fn a_probe_says_what_an_upstream_answered() {
    // It takes the header for a request line.
    let upstream =
        crate::upstream::Upstream::start(|_| "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n".into());
    upstream.says(503, r#"{"ready":false,"why":["no store"]}"#);
    let front = Front::start(config(Version::V1, upstream.address));
    front.wait_until("it is down, and why", |view| {
        let upstream = &view.services[0].upstreams[0];
        upstream.health == "down" && upstream.evidence.contains("503: no store")
    });
}

#[test]
fn a_reload_that_asks_for_the_header_leaves_the_old_connections_alone() {
    // It takes the line for the beginning of a request, and goes on as if it were not there.
    let upstream = Recorder::start(None);
    let front = Front::start(front::config(Kind::Controller, &[upstream.address]));
    let ask = |path: &str| assert_eq!(front.get(path).status(), 200);
    (0..8).for_each(|_| ask("/api/v1/vm?before"));
    let before = upstream.asked();
    assert!(before.len() < 8, "connections are used again");
    let mut next = front.config.clone();
    next.services[0].proxy_protocol = Some(Version::V1);
    front.reload(&next).unwrap();
    (0..8).for_each(|_| ask("/api/v1/vm?after"));
    let after = upstream.asked();
    assert_eq!(after.len(), before.len() + 8);
    for came in after {
        let paths: std::collections::BTreeSet<_> = came.paths.iter().collect();
        assert_eq!(paths.len(), 1, "{came:?}");
    }
}
