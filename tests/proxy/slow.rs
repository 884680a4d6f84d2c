//! Transfers that are too slow end, whoever is to blame for it; those that are merely slow do not.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType, sockopt};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use switchyard::{
    clock,
    config::proxy::{Balance, Floor, Kind, Passive, Proxy},
    tls::{Server, ServerSetting},
};

use crate::{
    front::{self, Front},
    h2::peer::{Ended, Peer, request},
    raw::{Head, Wire},
    secure::{self, Files},
    upstream::{Then, Upstream},
};

/// Bytes a second, at least.
const FLOOR: u64 = 40_000;

/// A trickle is a piece each…
const EACH: Duration = Duration::from_millis(100);

/// …that is of a quarter of the floor,…
const TOO_SLOW: usize = 1000;

/// …or of three times the floor.
const SLOW: usize = 12_000;

const SIZE: usize = 600_000;

/// A registry trickles from here on.
const FAST: usize = 100_000;

fn blob() -> Vec<u8> {
    (0..SIZE).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn path() -> String {
    format!("/v2/team/app/blobs/sha256:{}", hex::encode(Sha256::digest(blob())))
}

/// What connections are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// Bodies move without being copied.
    Spliced,
    /// They are copied.
    Copied,
    /// TLS on both sides.
    Secure,
}

const ALL: [Made; 3] = [Made::Spliced, Made::Copied, Made::Secure];

/// A front of this kind before registries.
struct Place {
    front: Front,
    made: Made,
    files: Files,
    _upstreams: Vec<Upstream>,
}

fn config(addresses: &[SocketAddr]) -> Proxy {
    let mut config = front::config(Kind::Registry, addresses);
    let timeouts = &mut config.services[0].timeouts;
    timeouts.idle = Duration::from_secs(20);
    timeouts.floor = Some(Floor { rate: FLOOR, window: Duration::from_secs(2) });
    config
}

impl Place {
    fn new(made: Made, upstreams: Vec<Upstream>) -> Self {
        Self::with(made, upstreams, |_| {})
    }

    fn with(made: Made, upstreams: Vec<Upstream>, change: impl FnOnce(&mut Proxy)) -> Self {
        let files = Files::new();
        let of = |upstream: &Upstream| match made {
            Made::Secure => secure::relay(&files.ca.leaf(&["127.0.0.1"]), upstream.address),
            Made::Spliced | Made::Copied => upstream.address,
        };
        let addresses: Vec<_> = upstreams.iter().map(of).collect();
        let mut config = config(&addresses);
        config.zero_copy = made == Made::Spliced;
        config.listeners[0].http2 = true;
        if made == Made::Secure {
            let setting = ServerSetting { http2: true, ..files.setting() };
            config.listeners[0].tls = Some(Server::load(setting).unwrap());
            config.services[0].tls = Some(switchyard::tls::Upstream::load(files.upstream()).unwrap());
        }
        change(&mut config);
        Self { front: Front::start(config), made, files, _upstreams: upstreams }
    }

    fn client(&self) -> Client {
        match self.made {
            Made::Spliced | Made::Copied => Client::plain(TcpStream::connect(self.front.address).unwrap()),
            Made::Secure => {
                let tls = self.files.client(None).connect(self.front.address).unwrap().tls;
                Client { tcp: tls.sock.try_clone().unwrap(), both: Box::new(tls) }
            }
        }
    }

    fn line(&self) -> Value {
        self.front.lines(1).pop().unwrap()
    }

    fn counts(&self, metric: &str, label: &str) -> bool {
        let metrics = self.front.metrics();
        let mut lines = metrics.lines().filter(|line| line.starts_with(metric) && line.contains(label));
        lines.any(|line| line.ends_with(" 1"))
    }
}

trait Both: Read + Write + Send {}
impl<T: Read + Write + Send> Both for T {}

/// One that reads and writes as slowly as it likes.
struct Client {
    tcp: TcpStream,
    both: Box<dyn Both>,
}

impl Client {
    fn plain(tcp: TcpStream) -> Self {
        tcp.set_nodelay(true).unwrap();
        Self { both: Box::new(tcp.try_clone().unwrap()), tcp }
    }

    /// Reads at most so much within a time; `None`: nothing came.
    fn read(&mut self, most: usize, within: Duration) -> io::Result<Option<Vec<u8>>> {
        self.tcp.set_read_timeout(Some(within)).unwrap();
        let mut piece = vec![0; most];
        match self.both.read(&mut piece) {
            Ok(read) => {
                piece.truncate(read);
                Ok(Some(piece))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn get(&mut self) {
        write!(self.both, "GET {} HTTP/1.1\r\nHost: front\r\n\r\n", path()).unwrap();
    }

    /// Everything that comes until it is over, without the head, and whether it was all of a blob.
    fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut got = Vec::new();
        loop {
            let end = got.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
            match self.read(64 * 1024, Duration::from_secs(20)) {
                Ok(Some(piece)) if !piece.is_empty() => got.extend(piece),
                _ => return (got.split_off(end.unwrap_or(0)), false),
            }
            if let Some(end) = end
                && got.len() >= end + SIZE
            {
                return (got.split_off(end), true);
            }
        }
    }
}

/// Serves the blob and its ranges, and trickles in pieces of that size from [`FAST`] on if it is asked for all of it.
fn registry(piece: usize) -> Upstream {
    Upstream::raw(move |wire, head| serve(wire, &head, piece))
}

fn serve(wire: &mut Wire, head: &Head, piece: usize) -> Then {
    let range = head.get("range").and_then(|range| range.strip_prefix("bytes="));
    let first = range.and_then(|range| range.split('-').next()).and_then(|first| first.parse::<usize>().ok());
    let blob = blob();
    let (status, ranged) = match first {
        Some(first) => {
            ("206 Partial Content", format!("Content-Range: bytes {first}-{}/{SIZE}\r\n", SIZE - 1))
        }
        None => ("200 OK", String::new()),
    };
    let body = &blob[first.unwrap_or(0)..];
    let head = format!("HTTP/1.1 {status}\r\n{ranged}Content-Length: {}\r\n\r\n", body.len());
    if first.is_some() {
        return if wire.send(head).and_then(|()| wire.send(body)).is_ok() {
            Then::KeepAlive
        } else {
            Then::Close
        };
    }
    if wire.send(head).is_err() || wire.send(&body[..FAST]).is_err() {
        return Then::Close;
    }
    for piece in body[FAST..].chunks(piece) {
        thread::sleep(EACH);
        if wire.send(piece).is_err() {
            return Then::Close;
        }
    }
    Then::KeepAlive
}

fn attempts(line: &Value) -> Vec<&str> {
    line["attempts"].as_array().unwrap().iter().map(|attempt| attempt["end"].as_str().unwrap()).collect()
}

fn both_ways(check: impl Fn(Made) + Sync) {
    thread::scope(|scope| {
        for made in ALL {
            let check = &check;
            thread::Builder::new()
                .name(format!("{made:?}"))
                .spawn_scoped(scope, move || check(made))
                .unwrap();
        }
    });
}

#[test]
fn a_download_that_trickles_goes_on_from_another_registry() {
    both_ways(|made| {
        let (slow, good) = (registry(TOO_SLOW), registry(TOO_SLOW));
        let place = Place::new(made, vec![slow, good]);
        let mut client = place.client();
        client.get();
        let (got, whole) = client.rest();
        assert!(whole && got == blob(), "{made:?}: {} bytes", got.len());
        let line = place.line();
        assert_eq!(
            (attempts(&line), &line["end"]),
            (vec!["too-slow", "answered"], &"done".into()),
            "{made:?}: {line}"
        );
        assert!(place.counts("switchyard_proxy_upstream_failures_total", "too-slow"), "{made:?}");
    });
}

#[test]
fn a_registry_that_answers_every_head_and_trickles_is_ejected() {
    let slow = registry(TOO_SLOW);
    let good = Upstream::raw(|wire, head| serve(wire, &head, SIZE));
    let place = Place::with(Made::Spliced, vec![slow, good], |config| {
        let service = &mut config.services[0];
        service.balance = Balance::RoundRobin;
        service.passive = Passive { failures: 3, ..Passive::default() };
    });
    let round = || {
        thread::scope(|scope| {
            let get = || {
                let mut client = place.client();
                client.get();
                assert!(client.rest().1, "what broke off goes on from the other one");
            };
            (0..4).for_each(|_| drop(scope.spawn(get)));
        });
        place.front.view().services[0].upstreams[0].ejected.clone()
    };
    assert_eq!(round(), None, "two are no row of three");
    // Their heads have ended the row of failures, and not that of transfers.
    let ejected = (0..3).find_map(|_| round()).expect("it is ejected");
    assert!(ejected.why.ends_with("transfers in a row failed, the last: it was too slow"), "{ejected:?}");
    let metrics = place.front.metrics();
    let counted = "switchyard_proxy_ejections_total{failure=\"too-slow\",service=\"pool\",upstream=\"u0\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn a_download_that_is_slow_and_above_the_floor_goes_on() {
    both_ways(|made| {
        let slow = registry(SLOW);
        let place = Place::new(made, vec![slow]);
        let mut client = place.client();
        client.get();
        let (got, whole) = client.rest();
        assert!(whole && got == blob(), "{made:?}: {} bytes", got.len());
        assert_eq!(attempts(&place.line()), ["answered"], "{made:?}");
    });
}

#[test]
fn without_a_floor_a_trickle_goes_on() {
    let slow = Upstream::raw(|wire, _| {
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n").unwrap();
        for _ in 0..50 {
            thread::sleep(EACH);
            wire.send("x").unwrap();
        }
        Then::KeepAlive
    });
    let place = Place::with(Made::Copied, vec![slow], |config| config.services[0].timeouts.floor = None);
    assert_eq!(place.front.get(&path()).body.len(), 50);
}

#[test]
fn what_comes_when_it_happens_has_no_floor() {
    let log = Upstream::raw(|wire, _| {
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for _ in 0..50 {
            thread::sleep(EACH);
            wire.send("1\r\nx\r\n").unwrap();
        }
        wire.send("0\r\n\r\n").unwrap();
        Then::KeepAlive
    });
    let place = Place::new(Made::Copied, vec![log]);
    assert_eq!(place.front.get("/log/tail").body.len(), 50);
}

/// As much as is asked for, and more than lies in any buffer.
fn endless() -> Upstream {
    Upstream::raw(|wire, _| {
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").unwrap();
        while wire.send([7; 64 * 1024]).is_ok() {}
        Then::Close
    })
}

#[test]
fn a_client_that_reads_too_slowly_is_cut() {
    both_ways(|made| {
        let place = Place::new(made, vec![endless()]);
        let mut client = place.client();
        client.get();
        let begun = clock::now();
        let cut = loop {
            thread::sleep(EACH);
            match client.read(TOO_SLOW, Duration::from_secs(20)) {
                Ok(Some(piece)) if !piece.is_empty() => {}
                Ok(Some(_)) => break false,
                other => break other.is_err(),
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{made:?}: it goes on");
        };
        assert!(cut, "{made:?}: it ended cleanly");
        let line = place.line();
        assert_eq!(
            (attempts(&line), &line["end"]),
            (vec!["client-too-slow"], &"client-too-slow".into()),
            "{line}"
        );
        assert!(place.counts("switchyard_proxy_refused_total", "client-too-slow"), "{made:?}");
        assert!(!place.front.metrics().contains("switchyard_proxy_upstream_failures_total{"), "{made:?}");
    });
}

/// A socket whose receiver buffer is small, so that what it takes shows.
fn narrow(to: SocketAddr) -> TcpStream {
    let socket: OwnedFd = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 64 * 1024).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    socket.into()
}

/// The proxy's machine takes millions of bytes for the client, and then speaks up only when a third of them have gone:
/// longer than the window takes, and longer than a body may stand still.
#[test]
fn a_client_that_reads_slowly_and_above_the_floor_is_not_cut() {
    let seconds = Duration::from_secs;
    for (made, idle) in
        [(Made::Spliced, seconds(20)), (Made::Copied, seconds(20)), (Made::Spliced, seconds(2))]
    {
        let place = Place::with(made, vec![endless()], |config| config.services[0].timeouts.idle = idle);
        let mut client = Client::plain(narrow(place.front.address));
        client.get();
        let begun = clock::now();
        // Six times the floor.
        while begun.elapsed() < seconds(10) {
            thread::sleep(EACH);
            let got = client.read(24_000, seconds(20));
            let some = got.as_ref().is_ok_and(|got| got.as_ref().is_some_and(|got| !got.is_empty()));
            assert!(some, "{made:?}, after {:?}: {:?}", begun.elapsed(), got.err());
        }
        let lines = std::fs::read_to_string(&place.front.log).unwrap_or_default();
        assert_eq!(lines, "", "{made:?}");
    }
}

/// Sends a piece again and again until there is an answer; its head.
fn trickle(client: &mut Client, piece: usize, most: usize) -> io::Result<String> {
    let mut got = Vec::new();
    let mut left = most;
    let begun = clock::now();
    while begun.elapsed() < Duration::from_secs(30) {
        let now = piece.min(left);
        // After an answer nobody need take it.
        client.both.write_all(&vec![7; now]).ok();
        left -= now;
        match client.read(4096, EACH) {
            Ok(None) if got.is_empty() => {}
            Ok(Some(piece)) if !piece.is_empty() => got.extend(piece),
            _ if !got.is_empty() => return Ok(String::from_utf8_lossy(&got).into_owned()),
            Ok(_) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::TimedOut.into())
}

fn put(client: &mut Client, size: usize, more: &str) {
    let head =
        format!("PUT /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: front\r\n{more}Content-Length: {size}\r\n\r\n");
    client.both.write_all(head.as_bytes()).unwrap();
}

/// Takes a body, and says so.
fn takes() -> Upstream {
    Upstream::raw(|wire, head| {
        if head.get("expect").is_some() {
            // Longer than the window: the client waits for this, and is not to blame.
            thread::sleep(Duration::from_secs(4));
            wire.send("HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        }
        match wire.body(&head, false, |_| {}) {
            Ok(_) => wire.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").unwrap(),
            Err(_) => return Then::Close,
        }
        Then::KeepAlive
    })
}

#[test]
fn an_upload_whose_client_sends_too_slowly_is_refused() {
    both_ways(|made| {
        let place = Place::new(made, vec![takes()]);
        let mut client = place.client();
        put(&mut client, 9_000_000, "");
        client.both.write_all(&[7; 300_000]).unwrap();
        let got = trickle(&mut client, TOO_SLOW, 8_700_000).unwrap();
        assert!(got.starts_with("HTTP/1.1 408 ") && got.contains("body-too-slow"), "{made:?}: {got}");
        assert_eq!(attempts(&place.line()), ["body-too-slow"], "{made:?}");
        assert!(place.counts("switchyard_proxy_refused_total", "body-too-slow"), "{made:?}");
    });
}

#[test]
fn an_upload_that_is_slow_and_above_the_floor_goes_on() {
    both_ways(|made| {
        let place = Place::new(made, vec![takes()]);
        let mut client = place.client();
        put(&mut client, 500_000, "");
        let got = trickle(&mut client, SLOW, 500_000).unwrap();
        assert!(got.starts_with("HTTP/1.1 201 "), "{made:?}: {got}");
    });
}

#[test]
fn who_waits_to_be_told_to_go_on_is_not_too_slow() {
    let place = Place::new(Made::Copied, vec![takes()]);
    let mut client = place.client();
    put(&mut client, 100_000, "Expect: 100-continue\r\n");
    let got = trickle(&mut client, 0, 0).unwrap();
    assert!(got.starts_with("HTTP/1.1 100 "), "{got}");
    client.both.write_all(&[7; 100_000]).unwrap();
    let got = trickle(&mut client, 0, 0).unwrap();
    assert!(got.starts_with("HTTP/1.1 201 "), "{got}");
}

#[test]
fn an_upload_whose_registry_takes_too_little_is_answered() {
    both_ways(|made| {
        let creeps = Upstream::raw(|wire, _| {
            let mut piece = [0; TOO_SLOW];
            while wire.tcp.read(&mut piece).is_ok_and(|read| read > 0) {
                thread::sleep(EACH);
            }
            Then::Close
        });
        let place = Place::new(made, vec![creeps]);
        let mut client = place.client();
        put(&mut client, 900_000_000, "");
        let mut sends = Client { tcp: client.tcp.try_clone().unwrap(), both: Box::new(io::empty()) };
        let got = match made {
            Made::Secure => trickle(&mut client, 2_000_000, 900_000_000).unwrap(),
            Made::Spliced | Made::Copied => {
                let mut tcp = client.tcp.try_clone().unwrap();
                let sending = thread::spawn(move || while tcp.write_all(&[7; 64 * 1024]).is_ok() {});
                sends.both = client.both;
                let got = trickle(&mut sends, 0, 0).unwrap();
                sends.tcp.shutdown(std::net::Shutdown::Both).ok();
                sending.join().unwrap();
                got
            }
        };
        assert!(got.starts_with("HTTP/1.1 502 "), "{made:?}: {got}");
        assert_eq!(attempts(&place.line()), ["too-slow"], "{made:?}");
        assert!(place.counts("switchyard_proxy_upstream_failures_total", "too-slow"), "{made:?}");
    });
}

#[test]
fn it_is_the_same_over_http_2() {
    let (slow, good) = (registry(TOO_SLOW), registry(TOO_SLOW));
    let place = Place::new(Made::Copied, vec![slow, good]);
    let mut peer = Peer::connect(place.front.address);
    let got = peer.get(&path());
    assert!(got.ended == Ended::Whole && got.body == blob(), "{:?}, {} bytes", got.ended, got.body.len());
    assert_eq!(attempts(&place.line()), ["too-slow", "answered"]);

    let place = Place::new(Made::Copied, vec![endless()]);
    let mut peer = Peer::connect(place.front.address);
    (peer.greedy, peer.keep) = (false, false);
    let stream = peer.begin(&request("GET", &path()), true);
    let begun = clock::now();
    while !peer.is_over(stream) && begun.elapsed() < Duration::from_secs(20) {
        peer.idle(EACH);
        peer.open(0, TOO_SLOW);
        peer.open(stream, TOO_SLOW);
    }
    assert!(matches!(peer.streams[&stream].ended, Ended::Reset(_)), "{:?}", peer.streams[&stream].ended);
    assert_eq!(place.line()["end"], "client-too-slow");
    assert!(peer.is_alive(), "the other streams go on");

    let place = Place::new(Made::Copied, vec![takes()]);
    let mut peer = Peer::connect(place.front.address);
    let stream = peer.begin(&request("PUT", "/v2/a/blobs/uploads/x"), false);
    let begun = clock::now();
    while !peer.is_over(stream) && begun.elapsed() < Duration::from_secs(20) {
        peer.data(stream, &[7; TOO_SLOW], false);
        peer.idle(EACH);
    }
    assert_eq!(peer.streams[&stream].status(), 408);
    assert_eq!(attempts(&place.line()), ["body-too-slow"]);
}
