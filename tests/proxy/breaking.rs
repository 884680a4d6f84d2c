//! Servers at a limit of their connections: others are asked, or requests wait in their order; each lane for itself.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::{
    clock,
    config::proxy::{Bears, Kind},
};

use crate::{
    front::{self, Front, eventually},
    h2::peer::{CANCEL, Peer, RST_STREAM, frame, request},
    raw::{Wire, get, with_body},
    upstream::{ABLE, Gate, Upstream, ok},
};

fn control(most: u64) -> Bears {
    Bears { control: Some(most), ..Bears::default() }
}

/// A server that counts the connections over which requests come; probes have their own.
struct Counting {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    served: Arc<AtomicUsize>,
    /// More than this were open for longer than a close takes to be seen.
    beyond: Arc<AtomicUsize>,
}

impl Counting {
    fn start(most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let made = Self {
            address: listener.local_addr().unwrap(),
            open: Arc::default(),
            served: Arc::default(),
            beyond: Arc::default(),
        };
        let counts = [made.open.clone(), made.served.clone(), made.beyond.clone()];
        thread::spawn(move || {
            while let Ok((tcp, _)) = listener.accept() {
                let [open, served, beyond] = counts.clone();
                thread::spawn(move || {
                    let (mut wire, mut counted) = (Wire::new(tcp), false);
                    while let Ok(Some(head)) = wire.head() {
                        if head.word(1) == "/readyz" {
                            if wire.send(ok(ABLE)).is_err() {
                                break;
                            }
                            continue;
                        }
                        if !std::mem::replace(&mut counted, true) {
                            open.fetch_add(1, Ordering::SeqCst);
                            // One that was closed may not be noticed yet.
                            let begun = clock::now();
                            while open.load(Ordering::SeqCst) > most {
                                if begun.elapsed() > Duration::from_secs(2) {
                                    beyond.fetch_add(1, Ordering::SeqCst);
                                    break;
                                }
                                thread::sleep(Duration::from_millis(1));
                            }
                        }
                        thread::sleep(Duration::from_millis(5));
                        served.fetch_add(1, Ordering::SeqCst);
                        if wire.send(ok("done")).is_err() {
                            break;
                        }
                    }
                    if counted {
                        open.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        made
    }
}

#[test]
fn never_more_connections_than_the_limit_and_nobody_is_refused_while_they_take_turns() {
    const MOST: u64 = 3;
    let server = Counting::start(3);
    let mut config = front::config(Kind::Controller, &[server.address]);
    config.services[0].bears = control(MOST);
    let front = Front::start(config);
    let address = front.address;
    // Reads, and writes that a connection must have proved alive for; over connections to both threads.
    let clients: Vec<_> = (0..12)
        .map(|n| {
            thread::spawn(move || {
                for turn in 0..10 {
                    let answer = match (n + turn) % 2 {
                        0 => get(address, "/api/v1/vm"),
                        _ => crate::raw::ask(address, &with_body("POST", "/api/v1/vm", "", "{}")),
                    };
                    assert_eq!((answer.status(), answer.text().as_str()), (200, "done"));
                }
            })
        })
        .collect();
    let (mut seen, begun) = (0, clock::now());
    while clients.iter().any(|client| !client.is_finished()) {
        let view = front.view();
        let upstream = &view.services[0].upstreams[0];
        assert!(upstream.connections.control <= MOST, "{upstream:?}");
        seen += usize::from(upstream.at_limit == ["connections.control"]);
        thread::sleep(Duration::from_millis(5));
    }
    for client in clients {
        client.join().unwrap();
    }
    assert!(seen > 0, "the limit was never reached");
    // A fifth of a second; a call that is lost costs a quarter of one, each time.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!((server.served.load(Ordering::SeqCst), server.beyond.load(Ordering::SeqCst)), (120, 0));
    front.wait_until("nobody waits", |view| {
        view.services[0].held == 0 && view.services[0].upstreams[0].waiting == 0
    });
    let limited =
        r#"switchyard_proxy_upstream_limited_total{limit="connections",service="pool",upstream="u0"}"#;
    assert!(front.metrics().contains(limited));
}

#[test]
fn at_its_limit_another_is_asked_and_with_all_of_them_requests_wait_and_are_refused_in_the_end() {
    let gate = Arc::new(Gate::default());
    let servers: Vec<Upstream> = (0..2)
        .map(|_| {
            let gate = gate.clone();
            Upstream::start(move |seen| {
                if seen.path().ends_with("slow") {
                    gate.pass();
                }
                ok("done")
            })
        })
        .collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let mut config = front::config(Kind::Controller, &addresses);
    config.services[0].hold.read = Duration::from_millis(600);
    config.services[0].upstreams[0].bears = control(1);
    let front = Front::start(config);
    let address = front.address;
    let slow = thread::spawn(move || get(address, "/api/v1/vm?slow"));
    front.wait_until("it is under way", |view| view.services[0].upstreams.iter().any(|u| u.outstanding == 1));
    let mut slow = vec![slow];
    if front.view().services[0].upstreams[0].outstanding == 0 {
        slow.push(thread::spawn(move || get(address, "/api/v1/vm?slow")));
    }
    front.wait_until("the first is at its limit", |view| {
        view.services[0].upstreams[0].at_limit == ["connections.control"]
    });
    let before = servers[1].count();
    for _ in 0..6 {
        assert_eq!(front.get("/api/v1/vm?quick").text(), "done");
    }
    assert_eq!(servers[1].count() - before, 6);
    // Now the other one too, by a reload that leaves both as they are.
    let mut config = front.config.clone();
    config.services[0].bears = Bears { requests: Some(1), ..control(1) };
    front.reload(&config).unwrap();
    front.wait_until("the quick ones are over", |view| {
        view.services[0].upstreams.iter().map(|u| u.outstanding).sum::<u64>() == slow.len() as u64
    });
    while front.view().services[0].upstreams.iter().any(|upstream| upstream.outstanding == 0) {
        let count = slow.len() as u64;
        slow.push(thread::spawn(move || get(address, "/api/v1/vm?slow")));
        front.wait_until("one more is under way", |view| {
            view.services[0].upstreams.iter().map(|u| u.outstanding).sum::<u64>() > count
        });
    }
    let begun = clock::now();
    let refused = front.get("/api/v1/vm?refused");
    assert_eq!((refused.status(), refused.head.get("retry-after")), (503, Some("2")));
    assert!((500..2500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let message = refused.text();
    assert!(message.contains("code at-limit") && message.contains("u0: at its limit of 1"), "{message}");
    let waits = thread::spawn(move || get(address, "/api/v1/vm?waits"));
    front.wait_until("one waits", |view| view.services[0].held == 1);
    gate.open();
    assert_eq!(waits.join().unwrap().text(), "done");
    assert!(slow.into_iter().all(|one| one.join().unwrap().text() == "done"));
}

#[test]
fn a_limit_that_a_reload_raises_lets_those_that_wait_go_on() {
    let gate = Arc::new(Gate::default());
    let passed = gate.clone();
    let server = Upstream::start(move |seen| {
        if seen.path().ends_with("slow") {
            passed.pass();
        }
        ok("done")
    });
    let mut config = front::config(Kind::Controller, &[server.address]);
    config.services[0].bears = control(1);
    let front = Front::start(config);
    let address = front.address;
    let slow = thread::spawn(move || get(address, "/api/v1/vm?slow"));
    front.wait_until("it is under way", |view| view.services[0].upstreams[0].outstanding == 1);
    let waits = thread::spawn(move || get(address, "/api/v1/vm?waits"));
    front.wait_until("the other one waits", |view| view.services[0].upstreams[0].waiting == 1);
    let mut config = front.config.clone();
    config.services[0].bears = control(2);
    front.reload(&config).unwrap();
    assert_eq!(waits.join().unwrap().text(), "done");
    gate.open();
    assert_eq!(slow.join().unwrap().text(), "done");
}

#[test]
fn transfers_at_their_limit_keep_no_control_traffic_waiting() {
    let gate = Arc::new(Gate::default());
    let passed = gate.clone();
    let server = Upstream::start(move |seen| {
        if seen.method() == "PATCH" {
            passed.pass();
        }
        ok("done")
    });
    let mut config = front::config(Kind::Registry, &[server.address]);
    config.services[0].bears = Bears { bulk: Some(1), ..Bears::default() };
    let front = Front::start(config);
    let address = front.address;
    let push = || {
        thread::spawn(move || {
            crate::raw::ask(address, &with_body("PATCH", "/v2/a/blobs/uploads/1", "", "xyz"))
        })
    };
    let first = push();
    front.wait_until("the first is under way", |view| view.services[0].upstreams[0].outstanding == 1);
    let second = push();
    front.wait_until("the second waits", |view| view.services[0].upstreams[0].waiting == 1);
    for _ in 0..5 {
        let begun = clock::now();
        assert_eq!(front.get("/v2/").status(), 200);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(front.view().services[0].upstreams[0].at_limit, ["connections.bulk"]);
    gate.open();
    for push in [first, second] {
        assert_eq!(push.join().unwrap().text(), "done");
    }
}

/// A listener that passed its probe, and now takes nobody in: its queue is full.
struct Stuck {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Stuck {
    /// Bound, with the shortest queue there is.
    fn listener() -> TcpListener {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let listener = socket.listen(1).unwrap().into_std().unwrap();
            listener.set_nonblocking(false).unwrap();
            listener
        })
    }

    /// Answers the first probe, then nobody.
    fn after_a_probe(listener: TcpListener) -> Self {
        let (tcp, _) = listener.accept().unwrap();
        let mut wire = Wire::new(tcp);
        wire.head().unwrap();
        wire.send(ok(ABLE)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(tcp) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            queued.push(tcp);
            assert!(queued.len() < 16, "its queue has no end");
        }
        Self { listener, _queued: queued }
    }
}

fn stuck(others: &[SocketAddr], pending: u64) -> (Front, Stuck) {
    let listener = Stuck::listener();
    let mut addresses = vec![listener.local_addr().unwrap()];
    addresses.extend(others);
    let mut config = front::config(Kind::Controller, &addresses);
    config.listeners[0].http2 = true;
    let service = &mut config.services[0];
    // One probe that was good, and a connect that takes long to fail.
    (service.health.interval, service.health.fall) = (Duration::from_secs(60), 100);
    service.timeouts.connect = Duration::from_secs(20);
    service.upstreams[0].bears = Bears { pending: Some(pending), ..Bears::default() };
    let front = Front::start_unproven(config);
    let stuck = Stuck::after_a_probe(listener);
    front.wait_until("all are up", |view| view.services[0].upstreams.iter().all(|u| u.health == "up"));
    (front, stuck)
}

#[test]
fn of_a_server_that_accepts_nobody_few_wait_and_the_others_go_elsewhere() {
    let good = Upstream::start(|_| ok("good"));
    let (front, _stuck) = stuck(&[good.address], 2);
    let address = front.address;
    let wires: Vec<Wire> = (0..12)
        .map(|_| {
            let mut wire = Wire::connect(address);
            wire.send("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            wire
        })
        .collect();
    eventually("all but two are answered", || good.count() == 10);
    let view = front.view();
    let upstream = &view.services[0].upstreams[0];
    assert_eq!((upstream.pending, upstream.at_limit.as_slice()), (2, &["pending".to_owned()][..]));
    let metrics = front.metrics();
    assert!(
        metrics.contains(r#"switchyard_proxy_upstream_pending_connections{service="pool",upstream="u0"} 2"#)
    );
    assert!(metrics.contains(
        r#"switchyard_proxy_upstream_limited_total{limit="pending",service="pool",upstream="u0"}"#
    ));
    // Whose clients leave give their places back.
    drop(wires);
    front.wait_until("nothing is pending", |view| view.services[0].upstreams[0].pending == 0);
}

#[test]
fn a_stream_that_is_cancelled_while_it_connects_makes_room_for_the_next() {
    let (front, stuck) = stuck(&[], 1);
    let mut peer = Peer::connect(front.address);
    let first = peer.begin(&request("GET", "/api/v1/vm?first"), true);
    front.wait_until("it connects", |view| view.services[0].upstreams[0].pending == 1);
    let second = peer.begin(&request("GET", "/api/v1/vm?second"), true);
    front.wait_until("the next one waits", |view| view.services[0].upstreams[0].waiting == 1);
    peer.send(&frame(RST_STREAM, 0, first, &CANCEL.to_be_bytes()));
    front.wait_until("the next one connects", |view| {
        let upstream = &view.services[0].upstreams[0];
        (upstream.waiting, upstream.pending, upstream.outstanding) == (0, 1, 1)
    });
    // It takes them in again: those in its queue first, who say nothing.
    let answering = thread::spawn(move || {
        for tcp in stuck.listener.incoming() {
            let mut wire = Wire::new(tcp.unwrap());
            wire.tcp.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            if let Ok(Some(head)) = wire.head()
                && head.word(1).ends_with("second")
            {
                wire.send(ok("served")).unwrap();
                return;
            }
        }
    });
    assert_eq!(peer.finish(second).text(), "served");
    answering.join().unwrap();
}
