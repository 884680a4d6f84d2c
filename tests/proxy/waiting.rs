//! Requests that wait: in which order and how fast they go on, what they may hold, and what they see of a config that changes.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use switchyard::{clock, config::proxy::Kind};

use crate::{
    front::{self, Front},
    h2::peer::{CANCEL, Peer, RST_STREAM, frame, request_with},
    raw::{Wire, get, with_body},
    upstream::{Upstream, ok},
};

fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

const MIB: u64 = 1024 * 1024;

#[test]
fn what_held_requests_have_sent_is_bounded_in_bytes_too() {
    let at = nobody();
    let mut config = front::config(Kind::Controller, &[at]);
    config.limits.held_bytes = MIB;
    let front = Front::start(config);
    let body = "x".repeat(1_000_000);
    let wires: Vec<Wire> = (0..90)
        .map(|_| {
            let mut wire = Wire::connect(front.address);
            // As much of it as comes with its head; the rest stays in the sockets.
            wire.send(&with_body("POST", "/api/v1/vm", "", &body)[..60_000]).unwrap();
            wire
        })
        .collect();
    let refused = r#"switchyard_proxy_held_refused_total{reason="bytes",service="pool"}"#;
    front::eventually("there is no room for more", || front.metrics().contains(refused));
    front::eventually("all were taken in", || {
        let held = front.view().services[0].held;
        let metrics = front.metrics();
        let line = metrics.lines().find(|line| line.starts_with(refused)).unwrap();
        held + line.rsplit(' ').next().unwrap().parse::<u64>().unwrap() == 90
    });
    let view = front.view();
    let (held, bytes) = (view.services[0].held, view.services[0].held_bytes);
    assert!(bytes <= MIB && held >= 60, "{held} hold {bytes}");
    assert!(bytes > MIB - 17_000, "{held} hold {bytes}, and one more would have fitted");
    let line = front.lines(1)[0].to_string();
    assert!(line.contains("held-full"), "{line}");
    drop(wires);
    front.wait_until("all of it is given back", |view| {
        (view.services[0].held, view.services[0].held_bytes) == (0, 0)
    });
}

#[test]
fn over_http2_what_a_client_may_send_unasked_counts_and_a_cancelled_stream_gives_it_back() {
    let at = nobody();
    let mut config = front::config(Kind::Controller, &[at]);
    config.listeners[0].http2 = true;
    config.limits.held_bytes = MIB;
    let front = Front::start(config);
    let mut peer = Peer::connect(front.address);
    let large = request_with("POST", "/api/v1/vm", &[("content-length", "1000000")]);
    let begun: Vec<u32> = (0..20).map(|_| peer.begin(&large, false)).collect();
    // 64 KiB for each that is held.
    front.wait_until("as many as there is room for", |view| view.services[0].held == 15);
    let refused = |peer: &Peer| begun.iter().filter(|stream| peer.is_over(**stream)).count();
    peer.until("the others are refused", |peer| refused(peer) == 5);
    for stream in &begun[15..] {
        assert_eq!(peer.streams[stream].status(), 503);
        assert!(peer.streams[stream].text().contains("those that wait hold too much"));
    }
    // A small one is held all the same: its length is known.
    let small = peer.begin(&request_with("POST", "/api/v1/vm", &[("content-length", "2")]), false);
    front.wait_until("the small one is held", |view| view.services[0].held == 16);
    for stream in &begun[..15] {
        peer.send(&frame(RST_STREAM, 0, *stream, &CANCEL.to_be_bytes()));
    }
    front.wait_until("who was cancelled has left", |view| {
        view.services[0].held == 1 && view.services[0].held_bytes < 1000
    });
    let next = peer.begin(&large, false);
    front.wait_until("the next one has room", |view| view.services[0].held == 2);
    let back = Upstream::at(at, |_| ok("back"));
    peer.data(small, b"{}", true);
    peer.body(next, &vec![b'x'; 1_000_000]);
    assert_eq!(peer.finish(small).text(), "back");
    assert_eq!(peer.finish(next).text(), "back");
    assert!(back.seen.lock().unwrap().iter().any(|seen| seen.body.len() == 1_000_000));
}

#[test]
fn those_that_wait_go_on_little_by_little_in_the_order_in_which_they_came() {
    const ALL: usize = 80;
    let at = nobody();
    let mut config = front::config(Kind::Controller, &[at]);
    config.services[0].slow_start = Duration::from_secs(60);
    let front = Front::start(config);
    let address = front.address;
    let asked: Vec<_> = (0..ALL as u64)
        .map(|n| {
            // Writes, which may wait long enough.
            let post = with_body("POST", &format!("/api/v1/vm?id={n}"), "", "{}");
            let one = thread::spawn(move || crate::raw::ask(address, &post));
            front.wait_until("it is held", |view| view.services[0].held == n + 1);
            one
        })
        .collect();
    let came: Arc<Mutex<Vec<_>>> = Arc::default();
    let noted = came.clone();
    let _back = Upstream::at(at, move |seen| {
        let number: usize = seen.path().rsplit('=').next().unwrap().parse().unwrap();
        noted.lock().unwrap().push((number, clock::now()));
        ok("back")
    });
    assert!(asked.into_iter().all(|one| one.join().unwrap().text() == "back"));
    let came = came.lock().unwrap();
    assert_eq!(came.len(), ALL);
    let within = |time: Duration| came.iter().filter(|(_, at)| *at - came[0].1 <= time).count();
    // Eight at once, the others at a hundred a second.
    let (soon, all) = (within(Duration::from_millis(100)), came[ALL - 1].1 - came[0].1);
    assert!((8..=30).contains(&soon), "{soon} came within the first 100 ms");
    assert!(all >= Duration::from_millis(500), "all came within {all:?}");
    // Two threads, and those of the upstream, may pass each other by a few; in any order it would be 27 on the average.
    let off: usize = came.iter().enumerate().map(|(place, (number, _))| number.abs_diff(place)).sum();
    assert!(off / ALL <= 8, "{:?}", came.iter().map(|(number, _)| number).collect::<Vec<_>>());
}

#[test]
fn without_slow_start_they_go_on_at_once() {
    let at = nobody();
    let front = Front::controllers(&[at]);
    let address = front.address;
    let asked: Vec<_> = (0..60).map(|_| thread::spawn(move || get(address, "/api/v1/vm"))).collect();
    front.wait_until("all are held", |view| view.services[0].held == 60);
    let came: Arc<Mutex<Vec<_>>> = Arc::default();
    let noted = came.clone();
    let _back = Upstream::at(at, move |_| {
        noted.lock().unwrap().push(clock::now());
        ok("back")
    });
    assert!(asked.into_iter().all(|one| one.join().unwrap().text() == "back"));
    let came = came.lock().unwrap();
    let all = *came.iter().max().unwrap() - *came.iter().min().unwrap();
    assert!(all < Duration::from_millis(400), "{all:?}");
}

#[test]
fn nobody_who_comes_later_goes_past_those_that_wait_for_room() {
    let (order, next) = (Arc::new(Mutex::new(Vec::new())), mpsc::channel::<()>());
    let (noted, turn) = (order.clone(), Mutex::new(next.1));
    let upstream = Upstream::start(move |seen| {
        noted.lock().unwrap().push(seen.path().to_owned());
        turn.lock().unwrap().recv().unwrap();
        ok("done")
    });
    let mut config = front::config(Kind::Controller, &[upstream.address]);
    config.services[0].bears.requests = Some(1);
    let front = Front::start(config);
    let address = front.address;
    let ask = |n: u64| {
        let one = thread::spawn(move || get(address, &format!("/api/v1/vm?id={n}")).status());
        front.wait_until("it runs or is held", |view| {
            view.services[0].held + view.services[0].upstreams[0].outstanding == n
        });
        one
    };
    let asked: Vec<_> = (1..=6).map(ask).collect();
    let later: Vec<_> = (7..=9)
        .map(|n| {
            // Each comes in the moment in which another one makes room.
            next.0.send(()).unwrap();
            thread::spawn(move || get(address, &format!("/api/v1/vm?id={n}")).status())
        })
        .collect();
    for _ in 0..6 {
        next.0.send(()).unwrap();
    }
    assert!(asked.into_iter().chain(later).all(|one| one.join().unwrap() == 200));
    let first: Vec<String> = (1..=6).map(|n| format!("/api/v1/vm?id={n}")).collect();
    assert_eq!(order.lock().unwrap()[..6], first);
}

#[test]
fn a_held_request_goes_to_an_upstream_that_a_reload_has_added() {
    let front = Front::controllers(&[nobody()]);
    let address = front.address;
    let write = thread::spawn(move || crate::raw::ask(address, &with_body("POST", "/api/v1/vm", "", "{}")));
    front.wait_until("it is held", |view| view.services[0].held == 1);
    let added = Upstream::start(|_| ok("added"));
    let mut config = front.config.clone();
    let service = &mut config.services[0];
    service.upstreams.insert(0, front::upstream("added", added.address));
    front.reload(&config).unwrap();
    assert_eq!(write.join().unwrap().text(), "added");
    let line = &front.lines(1)[0];
    assert_eq!((line["upstream"].as_str(), line["service"].as_str()), (Some("added"), Some("pool")));
    front.wait_until("nobody is held", |view| view.services[0].held == 0);
}

#[test]
fn a_held_request_whose_service_is_gone_goes_on_under_the_config_that_it_came_under() {
    let at = nobody();
    let front = Front::controllers(&[at]);
    let address = front.address;
    let read = thread::spawn(move || get(address, "/api/v1/vm"));
    front.wait_until("it is held", |view| view.services[0].held == 1);
    let mut config = front.config.clone();
    config.services[0].name = "other".parse().unwrap();
    front.reload(&config).unwrap();
    let _back = Upstream::at(at, |_| ok("back"));
    assert_eq!(read.join().unwrap().text(), "back");
}
