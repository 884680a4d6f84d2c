//! What is refused without an answer of HTTP: each reason that the pages name for HTTP/2 and TLS, by causing it, with its
//! label in the metrics and its line in the log. A reason on a page without a case fails.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{
    certificates::Authority,
    h2::{
        hpack,
        peer::{
            CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, PROTOCOL_ERROR,
            Peer, RST_STREAM, frame, request, request_with,
        },
    },
    raw::Wire,
    rig::Rig,
};

/// What a page calls so, in backticks: words that begin with this, without those that merely name a setting.
fn reasons(page: &str, heading: &str, prefix: &str) -> Vec<String> {
    let (_, text) = page.split_once(heading).unwrap_or_else(|| panic!("no {heading}"));
    let (text, _) = text.split_once("\n## ").unwrap_or((text, ""));
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let words =
        rows.flat_map(|row| row.split('`').skip(1).step_by(2)).filter(|word| word.starts_with(prefix));
    let mut words: Vec<String> = words.map(str::to_owned).collect();
    words.sort();
    words.dedup();
    words
}

struct Fronts {
    rig: Rig,
    frames: SocketAddr,
    secure: SocketAddr,
}

impl Fronts {
    fn start() -> Self {
        let mut rig = Rig::prepare("silent");
        let (cert, key) = Authority::new("ca").leaf(&["front.example"]).write(rig.place.dir(), "front");
        let frames = rig.free(&[]);
        let secure = rig.free(&[frames]);
        rig.write_with(&format!(
            "[[listener]]\nname = \"frames\"\nbind = [\"{frames}\"]\nservice = \"controllers\"\nhttp2 = true\n\
             [[listener]]\nname = \"secure\"\nbind = [\"{secure}\"]\nservice = \"controllers\"\n\
             tls = {{ cert = \"{}\", key = \"{}\" }}\n\
             [limits]\nheader_timeout = \"600ms\"\nstreams = 4\n",
            cert.display(),
            key.display(),
        ));
        let plain = fs::read_to_string(rig.file()).unwrap();
        let told = plain.replace("[log]\n", "[log]\nfilter = \"info,switchyard::proxy=debug\"\n");
        fs::write(rig.file(), told).unwrap();
        rig.first.spawn();
        rig.up();
        Self { rig, frames, secure }
    }

    fn counted(&self, listener: &str, reason: &str) -> u64 {
        let line = format!("switchyard_proxy_refused_total{{listener=\"{listener}\",reason=\"{reason}\"}} ");
        let text = self.rig.admin("GET", "/metrics").text();
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    fn check(&self, listener: &str, reason: &str, provoke: impl FnOnce()) {
        let before = self.counted(listener, reason);
        provoke();
        self.rig.until(reason, || (self.counted(listener, reason) > before).then_some(()));
        let said = format!("\"reason\":\"{reason}\"");
        self.rig.until("its line in the log", || self.rig.log().contains(&said).then_some(()));
    }
}

fn get(path: &str) -> Vec<u8> {
    hpack::block(&request("GET", path))
}

/// Sends `piece` until the proxy ends the connection.
fn flood(at: SocketAddr, first: &[u8], mut piece: impl FnMut(u32) -> Vec<u8>) {
    let mut peer = Peer::connect(at);
    peer.send(first);
    peer.skip_to(1 << 30);
    for n in 0..20_000 {
        peer.send(&piece(n));
        if n % 50 == 0 {
            peer.idle(Duration::from_micros(100));
        }
        if peer.closed {
            return;
        }
    }
    peer.close();
}

fn frames(at: SocketAddr, reason: &str) {
    match reason {
        "h2-malformed" => {
            let mut peer = Peer::connect(at);
            peer.ask(&request_with("GET", "/api/v1/vm", &[("connection", "close")]));
            assert!(peer.is_alive(), "only the stream ends");
        }
        "h2-too-many-streams" => {
            let mut peer = Peer::connect(at);
            let polls: Vec<u32> =
                (0..8).map(|_| peer.begin(&request("GET", "/switchyard/v1/tasks"), true)).collect();
            polls.into_iter().for_each(|stream| drop(peer.finish(stream)));
        }
        "h2-protocol-error" => {
            let mut peer = Peer::connect(at);
            peer.send(&frame(DATA, 0, 0, b"of no stream"));
            assert_eq!(peer.close(), Some(PROTOCOL_ERROR));
        }
        "h2-preface" => {
            // By hand: a peer would say that it has seen the proxy's settings.
            let mut wire = TcpStream::connect(at).unwrap();
            wire.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            wire.write_all(PREFACE).unwrap();
            wire.read_to_end(&mut Vec::new()).unwrap();
        }
        "h2-resets" => flood(at, b"", |n| {
            let stream = 2 * n + 1;
            let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/api/v1/vm"));
            [head, frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat()
        }),
        "h2-idle-frames" => flood(at, b"", |_| frame(PING, 0, 0, &[0; 8])),
        "h2-flood" => {
            let mut field = Vec::new();
            hpack::literal(b"x-more", &[b'y'; 1000], &mut field);
            flood(at, &frame(HEADERS, END_STREAM, 1, &get("/api/v1/vm")), |_| {
                frame(CONTINUATION, 0, 1, &field)
            });
        }
        other => panic!("`{other}` stands on the page and has no case here"),
    }
}

#[test]
fn what_is_refused_without_an_answer_is_counted_and_said() {
    let fronts = Fronts::start();
    let page = include_str!("../../docs/http.md");
    let all = reasons(page, "\n## HTTP/2\n", "h2-");
    assert!(all.len() > 5, "{all:?}");
    for reason in all {
        fronts.check("frames", &reason, || frames(fronts.frames, &reason));
    }

    // Those inside TLS that need no certificate of a client; the others are tried by `tests/proxy/tls.rs`.
    let connect = || Wire::connect(fronts.secure).patience(Duration::from_secs(20));
    fronts.check("secure", "tls-strange", || {
        let mut wire = connect();
        wire.send(b"\0\x01 no protocol at all").unwrap();
        assert!(wire.closed());
    });
    fronts.check("secure", "tls-bad", || {
        let mut wire = connect();
        wire.send(b"\x16\x03\x01\0\x05hello").unwrap();
        wire.ended();
    });
    fronts.check("secure", "tls-too-slow", || assert!(connect().closed()));
    fronts.check("secure", "tls-gone", || drop(connect()));

    let get = "GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(Wire::connect(fronts.rig.controllers).ask(get).unwrap().status(), 200, "others are served");
}
