//! What is refused, over a real connection, before anything reaches an upstream.

use std::time::Duration;

use switchyard::{
    clock,
    config::proxy::{Does, Kind, Rule},
};

use crate::{
    front::{self, Front, eventually},
    raw::{Wire, with_body},
    upstream::{Upstream, ok},
};

#[test]
fn ambiguous_requests_are_refused_and_the_connection_is_closed() {
    let a = Upstream::start(|_| ok(""));
    let front = Front::controllers(&[a.address]);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(200));
    for (bad, status) in [
        (
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("GET /a HTTP/1.1\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET http://b/a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", 400),
        ("GET /a HTTP/1.1\nHost: a\n\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", 400),
        ("GET /a HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405),
        ("GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (&long, 431),
        (&many, 431),
    ] {
        let mut wire = Wire::connect(front.address);
        // The proxy may answer before it has all of it.
        wire.send(bad).ok();
        let answer = wire.answer(false).unwrap_or_else(|error| panic!("{bad:.60}: {error}"));
        assert_eq!(answer.status(), status, "{bad:.60}");
        assert_eq!(answer.json()["status"], "FAIL");
        assert!(wire.closed(), "{bad:.60}");
    }
    assert_eq!(a.count(), 0);
    assert!(
        front
            .metrics()
            .contains(r#"switchyard_proxy_refused_total{listener="front",reason="both-lengths"} 1"#)
    );
}

#[test]
fn a_slow_head_is_cut_off_and_an_idle_connection_is_closed_without_a_word() {
    let a = Upstream::start(|_| ok(""));
    let mut config = front::config(Kind::Controller, &[a.address]);
    config.limits.header_timeout = Duration::from_millis(300);
    config.limits.keep_alive = Duration::from_secs(1);
    let front = Front::start(config);
    let mut slow = Wire::connect(front.address);
    slow.send("GET / HT").unwrap();
    assert_eq!(slow.answer(false).unwrap().status(), 408);
    let mut idle = Wire::connect(front.address);
    assert_eq!(idle.ask("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().status(), 200);
    let begun = clock::now();
    assert!(idle.closed());
    assert!(begun.elapsed() > Duration::from_millis(800), "{:?}", begun.elapsed());
}

#[test]
fn one_connection_too_many_is_told_so() {
    let a = Upstream::start(|_| ok(""));
    let mut config = front::config(Kind::Controller, &[a.address]);
    config.limits.connections = 2;
    let front = Front::start(config);
    let mut open: Vec<Wire> = (0..2).map(|_| Wire::connect(front.address)).collect();
    for wire in &mut open {
        assert_eq!(wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().status(), 200);
    }
    let answer = Wire::connect(front.address).answer(false).unwrap();
    assert_eq!((answer.status(), answer.head.get("retry-after").is_some()), (503, true));
    open.pop();
    eventually("there is room again", || front.get("/api/v1/vm").status() == 200);
}

#[test]
fn pipelined_requests_are_answered_in_turn() {
    let a = Upstream::start(|seen| {
        // The next one has arrived long before this answer.
        std::thread::sleep(Duration::from_millis(50));
        ok(&format!("{} {}", seen.path(), seen.body.len()))
    });
    let front = Front::controllers(&[a.address]);
    let mut wire = Wire::connect(front.address);
    let get = |n: u32| format!("GET /api/v1/vm?n={n} HTTP/1.1\r\nHost: a\r\n\r\n");
    let put = with_body("PUT", "/api/v1/vm?n=2", "", "hello");
    wire.send(get(1) + &put + &get(3)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    wire.send(get(4)).unwrap();
    for wanted in ["1 0", "2 5", "3 0", "4 0"] {
        assert_eq!(wire.answer(false).unwrap().text(), format!("/api/v1/vm?n={wanted}"));
    }
}

#[test]
fn the_path_that_is_decided_on_is_the_one_that_is_sent() {
    let a = Upstream::start(|_| ok(""));
    let front = Front::controllers(&[a.address]);
    for given in ["//api//v1/vm?x=//%2e", "/api/v1/%76m?x=//%2e", "http://front/api/v1/vm?x=//%2e"] {
        assert_eq!(front.get(given).status(), 200, "{given}");
    }
    for seen in a.seen.lock().unwrap().iter() {
        assert_eq!(seen.path(), "/api/v1/vm?x=//%2e");
    }
}

#[test]
fn a_body_that_stops_or_is_not_framed_as_it_says_is_refused() {
    let a = Upstream::start(|_| ok(""));
    let mut config = front::config(Kind::Registry, &[a.address]);
    config.services[0].timeouts.idle = Duration::from_millis(400);
    let front = Front::start(config);
    let head = "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\n";
    for (rest, status) in [
        ("Content-Length: 10\r\n\r\nfive!", 408),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nfive!\r\n", 408),
        ("Transfer-Encoding: chunked\r\n\r\nzz\r\nfive!\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\n-5\r\nfive!\r\n", 400),
    ] {
        let mut wire = Wire::connect(front.address);
        wire.send(format!("{head}{rest}")).unwrap();
        let answer = wire.answer(false).unwrap_or_else(|error| panic!("{rest}: {error}"));
        assert_eq!(answer.status(), status, "{rest}");
        assert!(wire.closed());
    }
    assert_eq!(a.count(), 0, "no upstream took one of them for whole");
}

#[test]
fn a_body_that_cannot_be_sent_again_is_not() {
    // It takes the whole body and says nothing: the route may be repeated, the body is gone.
    let (a, b) = (Upstream::start(|_| String::new()), Upstream::start(|_| String::new()));
    let front = Front::controllers(&[a.address, b.address]);
    let answer = front.ask(&with_body("DELETE", "/api/v1/vm", "", &"x".repeat(300_000)));
    assert_eq!((answer.status(), answer.head.get("connection")), (502, Some("close")));
    assert!(answer.text().contains("outcome is unknown"));
    assert_eq!(a.count() + b.count(), 1);
    let small = front.ask(&with_body("DELETE", "/api/v1/vm", "", &"x".repeat(30_000)));
    assert_eq!(small.status(), 502);
    let tried = front.lines(2)[1]["attempts"].as_array().unwrap().len();
    assert!(tried >= 2, "a small body is kept and sent to the other one, {tried}");
}

#[test]
fn what_a_rule_denies_reaches_nobody_and_is_told_in_the_form_of_whom_it_was_for() {
    let a = Upstream::start(|_| ok("{}"));
    let mut config = front::config(Kind::Registry, &[a.address]);
    let rule = |path: Option<&str>, does| Rule { host: None, path: path.map(Into::into), does };
    config.listeners[0].rules = vec![
        rule(Some("/v2/private"), Does::Forbid),
        rule(Some("/registry/log"), Does::Hide),
        rule(Some("/v2"), Does::Send(0)),
        rule(Some("/closed"), Does::Forbid),
        rule(Some("/registry"), Does::Send(0)),
    ];
    let front = Front::start(config);
    let probed = a.count();
    let mut wire = Wire::connect(front.address);
    let mut ask = |head: &str| wire.ask(&format!("{head} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    // One behind the other: the connection goes on.
    let answer = ask("GET /v2/private/x/tags/list");
    assert_eq!((answer.status(), answer.head.get("connection")), (403, None));
    assert_eq!(answer.json()["errors"][0]["code"], "DENIED");
    assert_eq!(answer.json()["errors"][0]["detail"]["code"], "denied-by-rule");
    let answer = ask("GET /v2//%70rivate/x/tags/list");
    assert_eq!(answer.status(), 403, "in any spelling");
    let answer = ask("GET /registry/log/x");
    assert_eq!(answer.status(), 404);
    assert!(answer.json()["message"].as_str().unwrap().contains("(code no-route, "), "{:?}", answer.text());
    assert_eq!(ask("GET /nowhere").json()["message"].as_str().unwrap().len(), {
        answer.json()["message"].as_str().unwrap().len()
    });
    let answer = ask("DELETE /closed");
    assert_eq!((answer.status(), answer.json()["status"].as_str()), (403, Some("FAIL")));
    let seen = |path: &str| a.seen.lock().unwrap().iter().any(|seen| seen.path() == path);
    assert!(!seen("/v2/private/x/tags/list") && !seen("/registry/log/x") && !seen("/closed"));
    assert_eq!(ask("GET /v2/privates/tags/list").status(), 200);
    assert!(a.count() > probed);
    let line = &front.lines(1)[0];
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(403), Some("denied-by-rule")));
    // A reload opens it, also for connections that are there.
    let mut open = front.config.clone();
    open.listeners[0].rules = vec![rule(None, Does::Send(0))];
    front.reload(&open).unwrap();
    assert_eq!(ask("GET /v2/private/x/tags/list").status(), 200);
}
