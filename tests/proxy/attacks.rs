//! Requests made to confuse, and clients that leave at the worst moment.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::{clock, config::proxy::Kind};

use crate::{
    front::{self, Front},
    raw::{self, Wire, with_body},
    upstream::{Then, Upstream, ok},
};

/// What is wrong with the refusal of this request: it must be ours, in the clients' format, and the connection
/// closed after it.
fn fault(front: &Front, request: &[u8]) -> Option<String> {
    let mut wire = Wire::connect(front.address);
    wire.send(request).ok();
    let said = match wire.answer(false) {
        Err(error) => error.to_string(),
        Ok(answer) if !(400..=505).contains(&answer.status()) => answer.head.first,
        Ok(answer) if !answer.text().contains("\"FAIL\"") => format!("not ours: {}", answer.head.first),
        Ok(_) if !wire.closed() => "not closed".to_owned(),
        Ok(_) => return None,
    };
    Some(format!("{}: {said}", String::from_utf8_lossy(request)))
}

#[test]
fn whatever_is_refused_is_refused_by_us_in_the_clients_format() {
    let a = Upstream::start(|_| ok(""));
    let front = Front::controllers(&[a.address]);
    let faults: Vec<_> = [
        // Two spellings of one host: a parser behind us takes them for two.
        &b"GET http://A/api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"GET http://a:80/api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///api/v1/vm HTTP/1.1\r\nHost: \r\n\r\n",
        b"GET http://a:b/api/v1/vm HTTP/1.1\r\nHost: a:b\r\n\r\n",
        b"GET /api/v1/vm HTTP/1.1\r\nHost: a:b:c\r\n\r\n",
        b"GET /api/v1/vm HTTP/1.1\r\nHost: [::1\r\n\r\n",
        b"GET /api/v1/vm HTTP/1.1\r\nHOST: a\r\nhost: b\r\n\r\n",
        b"POST /api/v1/vm HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nabcde",
        b"POST /api/v1/vm HTTP/1.1\r\nHost: a\r\nContent-Length: 5,5\r\n\r\nabcde",
        b"POST /api/v1/vm HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nabcde",
        b"POST /api/v1/vm HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        b"POST /api/v1/vm HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        b"POST /api/v1/vm HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        b"POST /api/v1/vm HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /api/v1/vm HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET /v2/../metrics HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v2/..%2fmetrics HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
    ]
    .into_iter()
    .filter_map(|request| fault(&front, request))
    .collect();
    assert!(faults.is_empty(), "{faults:#?}");
    assert_eq!(a.count(), 0);
}

#[test]
fn odd_bytes_in_the_target_are_refused_or_sent_as_one_uri() {
    let a = Upstream::start(|_| ok("seen"));
    let front = Front::controllers(&[a.address]);
    let mut faults = Vec::new();
    for odd in ["\"", "<", ">", "{", "}", "|", "^", "`", "\\", "[", "]", "'", ";a=b", "\u{fc}", "%", "%zz"] {
        for target in [format!("/api/v1/vm/{odd}"), format!("/api/v1/vm?q={odd}")] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            if front.ask(&request).status() != 200 {
                faults.extend(fault(&front, request.as_bytes()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    for seen in a.seen.lock().unwrap().iter() {
        assert!(seen.path().starts_with("/api/v1/vm") && seen.head.first.split(' ').count() == 3, "{seen:?}");
    }
}

#[test]
fn no_spelling_reaches_a_hidden_path() {
    let a = Upstream::start(|_| ok("secret"));
    let front = Front::controllers(&[a.address]);
    for target in [
        "/metrics",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/metrics?x",
        "/metric%73",
        "/metrics//",
        "http://front/metrics",
        "http://front//metrics",
        "/replication/v1/log",
        "/%72eplication/v1/log",
        "//replication//v1",
        "/replication",
    ] {
        let answer = front.get(target);
        assert_eq!(answer.status(), 404, "{target}");
    }
    assert_eq!(a.count(), 0);
}

#[test]
fn what_follows_a_chunked_body_is_never_part_of_it_nor_lost_silently() {
    let a = Upstream::start(|seen| ok(&format!("{} {}", seen.path(), seen.body.len())));
    let front = Front::registries(&[a.address]);
    let chunked = "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5;ext=\"GET / HTTP/1.1\"\r\nhello\r\n0\r\nX-Trailer: GET /v2/ HTTP/1.1\r\n\r\n";
    let mut wire = Wire::connect(front.address);
    wire.send(format!("{chunked}GET /v2/_catalog HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    assert_eq!(wire.answer(false).unwrap().text(), "/v2/a/blobs/uploads/1 5");
    // The next one is answered, or the connection closed: then a client knows to ask again.
    if let Ok(next) = wire.answer(false) {
        assert_eq!(next.text(), "/v2/_catalog 0");
    }
    let seen = a.seen.lock().unwrap();
    assert!(seen.len() <= 2 && seen[0].body == b"hello", "{seen:?}");
    assert!(seen[0].head.get("x-trailer").is_none());
}

#[test]
fn nothing_after_a_refused_request_is_served() {
    let a = Upstream::start(|_| ok("served"));
    let front = Front::controllers(&[a.address]);
    for bad in [
        "GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a HTTP/1.1\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ] {
        let mut wire = Wire::connect(front.address);
        wire.send(format!("{bad}DELETE /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n")).ok();
        assert_eq!(wire.answer(false).unwrap().status(), 400);
        assert!(wire.closed());
    }
    assert_eq!(a.count(), 0);
}

#[test]
fn headers_named_in_connection_cannot_take_framing_or_identity_away() {
    let a = Upstream::start(|_| ok(""));
    let front = Front::controllers(&[a.address]);
    front.ask(&with_body(
        "PUT",
        "/api/v1/vm",
        "Connection: close, Host, Content-Length, X-Forwarded-For, Switchyard-Deadline, X-Request-Id\r\n\
         X_Forwarded_For: 6.6.6.6\r\nssl-client_verify: SUCCESS\r\nSWITCHYARD_Deadline: 999999\r\n",
        "{}",
    ));
    let seen = a.one();
    assert_eq!((seen.head.get("host"), seen.body.as_slice()), (Some("front"), &b"{}"[..]));
    assert_eq!(seen.head.get("x-forwarded-for"), Some("127.0.0.1"));
    let left: u64 = seen.head.get("switchyard-deadline").unwrap().parse().unwrap();
    assert!(left <= 9000, "{left}");
    for (name, _) in &seen.head.fields {
        assert!(!name.contains('_'), "{name}");
    }
    let count =
        |wanted: &str| seen.head.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(wanted)).count();
    assert_eq!((count("x-forwarded-for"), count("switchyard-deadline"), count("content-length")), (1, 1, 1));
}

#[test]
fn an_old_client_is_kept_only_if_it_asks_for_it() {
    let a = Upstream::start(|_| ok("a"));
    let front = Front::controllers(&[a.address]);
    let mut wire = Wire::connect(front.address);
    assert_eq!(wire.ask("GET /api/v1/vm HTTP/1.0\r\n\r\n").unwrap().text(), "a");
    assert!(wire.closed());
    let mut wire = Wire::connect(front.address);
    for _ in 0..2 {
        let answer = wire.ask("GET /api/v1/vm HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        assert_eq!(answer.text(), "a");
        if !answer.head.get("connection").is_some_and(|c| c.eq_ignore_ascii_case("keep-alive")) {
            assert!(wire.closed());
            return;
        }
    }
}

#[test]
fn an_empty_line_between_two_requests_is_not_a_slow_head() {
    let a = Upstream::start(|_| ok("a"));
    let mut config = front::config(Kind::Controller, &[a.address]);
    config.limits.header_timeout = Duration::from_millis(300);
    let front = Front::start(config);
    let mut wire = Wire::connect(front.address);
    assert_eq!(wire.ask(&(with_body("PUT", "/api/v1/vm", "", "{}") + "\r\n")).unwrap().status(), 200);
    // Longer than a head may take, shorter than a connection may be idle.
    thread::sleep(Duration::from_millis(600));
    assert_eq!(wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().text(), "a");
}

#[test]
fn a_body_that_is_late_is_the_clients_fault_and_said_so() {
    let a = Upstream::start(|_| ok("a"));
    let front = Front::controllers(&[a.address]);
    let mut wire = Wire::connect(front.address);
    wire.send("DELETE /api/v1/vm HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n").unwrap();
    let mut drip = wire.tcp.try_clone().unwrap();
    let dripping = thread::spawn(move || {
        for _ in 0..22 {
            if std::io::Write::write_all(&mut drip, b" ").is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(500));
        }
    });
    let answer = wire.answer(false).unwrap();
    assert_eq!(answer.status(), 408, "{}", answer.text());
    assert_eq!(a.count(), 0);
    dripping.join().unwrap();
}

#[test]
fn a_client_that_leaves_in_any_phase_leaves_nothing_behind() {
    let go = Arc::new(AtomicBool::new(false));
    let (gone_on, begun) = (go.clone(), Arc::new(AtomicBool::new(false)));
    let a = Upstream::raw(move |wire, head| {
        let wait = || {
            while !gone_on.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
        };
        if head.word(1).contains("half") {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin").ok();
            begun.store(true, Ordering::SeqCst);
        }
        wait();
        Then::Close
    });
    let mut config = front::config(Kind::Registry, &[a.address]);
    config.limits.held = 4;
    let front = Front::start(config);
    let push = "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nsome";
    let poll = "GET /v2/_catalog HTTP/1.1\r\nHost: a\r\n\r\n";
    let pull = "GET /v2/half/blobs/sha256:0 HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunks =
        "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe";
    let upgrade = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let mut sent = 0;
    for reset in [false, true] {
        for request in [push, poll, pull, chunks, upgrade] {
            let mut wire = Wire::connect(front.address);
            wire.send(request).unwrap();
            front.wait_until("it is under way", |view| view.services[0].upstreams[0].outstanding == 1);
            if request == pull {
                assert_eq!(wire.head().unwrap().unwrap().status(), 200);
            }
            if reset {
                rustix::net::sockopt::set_socket_linger(&wire.tcp, Some(Duration::ZERO)).unwrap();
            }
            drop(wire);
            front.wait_until("it is over", |view| view.services[0].upstreams[0].outstanding == 0);
            sent += 1;
        }
    }
    // In the head, and before it.
    for part in ["", "GET /v2/ HT", "GET /v2/ HTTP/1.1\r\nHost: a\r\n"] {
        let mut wire = Wire::connect(front.address);
        wire.send(part).unwrap();
    }
    let lines = front.lines(sent);
    for line in &lines {
        assert!(line["end"] != "done", "{line}");
    }
    front::eventually("no connection is open", || {
        front.metrics().contains(r#"switchyard_proxy_connections{listener="front"} 0"#)
    });
    let view = front.view();
    assert_eq!((view.services[0].held, view.services[0].upstreams[0].outstanding), (0, 0));
    go.store(true, Ordering::SeqCst);
}

#[test]
fn an_upstream_that_floods_ends_in_a_clean_answer() {
    for flood in
        ["HTTP/1.1 100 Continue\r\n\r\n", "X-Endless: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"]
    {
        let a = Upstream::raw(move |wire, _| {
            let many = flood.repeat(200);
            if flood.starts_with('X') && wire.send("HTTP/1.1 200 OK\r\n").is_err() {
                return Then::Close;
            }
            let begun = clock::now();
            while begun.elapsed() < Duration::from_secs(20) && wire.send(&many).is_ok() {}
            Then::Close
        });
        let front = Front::controllers(&[a.address]);
        let begun = clock::now();
        // Of HTTP/1.0, so that no interim answer is passed on.
        let answer = raw::ask(front.address, "GET /api/v1/vm HTTP/1.0\r\n\r\n");
        assert_eq!(answer.status(), 502, "{flood}");
        assert!(begun.elapsed() < Duration::from_secs(6), "{flood}");
        front.wait_until("nothing is left", |view| view.services[0].upstreams[0].outstanding == 0);
    }
}

#[test]
fn a_create_that_asks_for_another_protocol_is_not_sent_twice() {
    let (a, b) = (Upstream::start(|_| String::new()), Upstream::start(|_| String::new()));
    let front = Front::controllers(&[a.address, b.address]);
    let request = with_body("POST", "/api/v1/vm", "Connection: upgrade\r\nUpgrade: x\r\n", "{}");
    assert_eq!(front.ask(&request).status(), 502);
    assert_eq!(a.count() + b.count(), 1);
}

#[test]
fn a_reload_leaves_held_requests_waiting_and_takes_them_on() {
    let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let front = Front::controllers(&[at]);
    let address = front.address;
    let waiting = thread::spawn(move || raw::get(address, "/api/v1/vm"));
    front.wait_until("it is held", |view| view.services[0].held == 1);
    let mut next = front.config.clone();
    next.services[0].attempts = 2;
    front.reload(&next).unwrap();
    assert_eq!(front.view().services[0].held, 1);
    let _back = Upstream::at(at, |_| ok("back"));
    assert_eq!(waiting.join().unwrap().text(), "back");
    front.wait_until("nobody is held", |view| view.services[0].held == 0);
}
