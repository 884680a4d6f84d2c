//! Nothing is eligible: requests wait.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::{clock, config::proxy::Kind};

use crate::{
    front::{self, Front, eventually},
    raw::{Wire, get, with_body},
    upstream::{Upstream, ok},
};

fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_held_request_goes_on_when_an_upstream_comes_back() {
    let at = nobody();
    let front = Front::controllers(&[at]);
    let address = front.address;
    let read = thread::spawn(move || get(address, "/api/v1/vm"));
    let write = thread::spawn(move || crate::raw::ask(address, &with_body("POST", "/api/v1/vm", "", "{}")));
    front.wait_until("both are held", |view| view.services[0].held == 2);
    let _back = Upstream::at(at, |_| ok("back"));
    assert_eq!(read.join().unwrap().text(), "back");
    assert_eq!(write.join().unwrap().text(), "back");
    front.wait_until("nobody is held", |view| view.services[0].held == 0);
    assert!(front.lines(2).iter().all(|line| line["held_ms"].as_u64().unwrap() > 0));
}

#[test]
fn a_held_upload_is_not_read_and_then_arrives_whole() {
    let at = nobody();
    let front = Front::registries(&[at]);
    let address = front.address;
    let push = thread::spawn(move || {
        let body = "x".repeat(200_000);
        crate::raw::ask(address, &with_body("PATCH", "/v2/a/blobs/uploads/1", "", &body))
    });
    front.wait_until("it is held", |view| view.services[0].held == 1);
    let back = Upstream::at(at, |_| ok("back"));
    assert_eq!(push.join().unwrap().status(), 200);
    assert_eq!(back.one().body.len(), 200_000);
}

#[test]
fn no_more_than_the_limit_are_held() {
    let mut config = front::config(Kind::Controller, &[nobody()]);
    config.limits.held = 2;
    let front = Front::start(config);
    let address = front.address;
    let held: Vec<_> = (0..2).map(|_| thread::spawn(move || get(address, "/api/v1/vm"))).collect();
    front.wait_until("two are held", |view| view.services[0].held == 2);
    let begun = clock::now();
    let answer = front.get("/api/v1/vm");
    assert_eq!(answer.status(), 503);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(answer.json()["message"].as_str().unwrap().contains("held-full"));
    assert!(held.into_iter().all(|one| one.join().unwrap().status() == 503));
    assert!(
        front.metrics().contains(r#"switchyard_proxy_held_refused_total{reason="number",service="pool"} 1"#)
    );
}

#[test]
fn a_held_request_is_dropped_when_its_client_closes() {
    let front = Front::controllers(&[nobody()]);
    let mut wire = Wire::connect(front.address);
    wire.send(with_body("POST", "/api/v1/vm", "", "{}")).unwrap();
    front.wait_until("it is held", |view| view.services[0].held == 1);
    let begun = clock::now();
    drop(wire);
    front.wait_until("it is dropped", |view| view.services[0].held == 0);
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(front.lines(1)[0]["end"], "client-gone");
}

#[test]
fn a_restart_is_waited_for_even_while_its_verdict_is_still_good() {
    let upstream = Upstream::start(|_| ok("before"));
    let at = upstream.address;
    let mut config = front::config(Kind::Controller, &[at]);
    // Probes are too slow to see it.
    config.services[0].health.fall = 100;
    let front = Front::start(config);
    drop(upstream);
    let address = front.address;
    let waiting = thread::spawn(move || get(address, "/api/v1/vm"));
    front.wait_until("it is held", |view| view.services[0].held == 1);
    let _back = Upstream::at(at, |_| ok("after"));
    assert_eq!(waiting.join().unwrap().text(), "after");
}

#[test]
fn when_all_probes_fail_the_upstreams_are_tried_once_anyway() {
    // Its readyz is broken, it itself is not.
    let upstream = Upstream::start(|_| ok("still here"));
    upstream.says(500, "broken");
    let front = Front::controllers(&[upstream.address]);
    let answer = front.get("/api/v1/vm");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "still here"));
    let why = front.lines(1)[0]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("although its probes fail"), "{why}");
}

#[test]
fn a_word_of_no_is_never_overruled() {
    let upstream = Upstream::start(|_| ok("wrote"));
    upstream.says(
        200,
        r#"{"ready":true,"read":true,"write":false,"poll":true,"why":["etcd: no leader for 12 s"]}"#,
    );
    let mut config = front::config(Kind::Controller, &[upstream.address]);
    config.services[0].hold.write = Duration::from_millis(300);
    let front = Front::start(config);
    assert_eq!(front.get("/api/v1/vm").status(), 200);
    let answer = front.ask(&with_body("POST", "/api/v1/vm", "", "{}"));
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("etcd: no leader for 12 s"), "{}", answer.text());
    assert_eq!(upstream.count(), 1);
    upstream.says(200, crate::upstream::ABLE);
    eventually("writes go on", || front.ask(&with_body("POST", "/api/v1/vm", "", "{}")).status() == 200);
}

#[test]
fn an_unproven_upstream_is_not_used_while_a_proven_one_exists() {
    // The second accepts and never answers a probe.
    let good = Upstream::start(|_| ok("good"));
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let front =
        Front::start_unproven(front::config(Kind::Controller, &[good.address, mute.local_addr().unwrap()]));
    for _ in 0..10 {
        assert_eq!(front.get("/api/v1/vm").text(), "good");
    }
    assert!(front.lines(10).iter().all(|line| line["upstream"] == "u0"));
}

#[test]
fn when_nothing_has_passed_for_long_upstreams_are_tried_without_waiting() {
    let upstream = Upstream::start(|_| ok("still here"));
    upstream.says(500, "broken");
    let mut config = front::config(Kind::Controller, &[upstream.address]);
    config.services[0].hold.read = Duration::from_millis(1500);
    let front = Front::start(config);
    thread::sleep(Duration::from_millis(1600));
    let begun = clock::now();
    assert_eq!(front.get("/api/v1/vm").status(), 200);
    assert!(begun.elapsed() < Duration::from_millis(1200), "{:?}", begun.elapsed());
}

#[test]
fn of_upstreams_that_start_anew_together_the_one_that_is_ready_answers() {
    // Their probes have not come by yet: both were away, and one of them has not loaded what it needs.
    let starting =
        Upstream::start(|_| "HTTP/1.1 503 Soon\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n".into());
    let ready = Upstream::start(|_| ok("ready"));
    for upstream in [&starting, &ready] {
        upstream.says(500, "broken");
    }
    let mut config = front::config(Kind::Controller, &[starting.address, ready.address]);
    config.services[0].hold.read = Duration::from_millis(200);
    let front = Front::start(config);
    // The first of them was held, the others are not.
    for _ in 0..8 {
        let answer = front.get("/api/v1/vm");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ready"));
    }
    assert!(starting.count() > 0, "both were asked");
}

/// A controller of ours that is not ready yet, as its verdict does not say.
const STARTING: &str =
    "HTTP/1.1 503 Soon\r\nRetry-After: 1\r\nSwitchyard-Not-Done: starting\r\nContent-Length: 4\r\n\r\nsoon";

#[test]
fn what_a_controller_that_starts_has_not_done_another_one_does() {
    let (starting, ready) = (Upstream::start(|_| STARTING.into()), Upstream::start(|_| ok("done")));
    let front = Front::controllers(&[starting.address, ready.address]);
    // Nothing of this may be sent again by itself.
    for _ in 0..6 {
        let answer = front.ask(&with_body("DELETE", "/api/v1/group", "", "{}"));
        assert_eq!((answer.status(), answer.text().as_str()), (200, "done"));
    }
    assert!(starting.count() > 0, "it was asked");
    assert_eq!(ready.count(), 6);
    assert!(front.metrics().contains("why=\"not-done\""), "{}", front.metrics());
}

#[test]
fn a_controller_that_starts_is_waited_for_and_not_for_ever() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = Upstream::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => STARTING.into(),
        _ => ok("done"),
    });
    let front = Front::controllers(&[upstream.address]);
    let answer = front.ask(&with_body("DELETE", "/api/v1/group", "", "{}"));
    assert_eq!((answer.status(), answer.text().as_str()), (200, "done"));

    // Its probes say that it is well, so it is asked each time that the hold looks.
    let upstream = Upstream::start(|_| STARTING.into());
    let mut config = front::config(Kind::Controller, &[upstream.address]);
    config.services[0].hold.write = Duration::from_millis(400);
    let front = Front::start(config);
    let answer = front.ask(&with_body("DELETE", "/api/v1/group", "", "{}"));
    assert_eq!(answer.status(), 503, "{}", answer.text());
    assert!((2..20).contains(&upstream.count()), "{} times", upstream.count());
}

#[test]
fn a_plain_connect_is_a_probe_too() {
    let upstream = Upstream::start(|_| ok("fine"));
    upstream.says(500, "broken");
    let mut config = front::config(Kind::Controller, &[upstream.address]);
    config.services[0].health.kind = switchyard::config::proxy::ProbeKind::Tcp;
    let front = Front::start(config);
    assert_eq!(front.view().services[0].upstreams[0].health, "up");
    drop(upstream);
    front.wait_until("it is down", |view| view.services[0].upstreams[0].health == "down");
}
