//! What an operator says beside the config: over the API and by the command line.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::{
    config::{
        self,
        proxy::{Kind, Proxy},
    },
    wire::upstreams::Upstream as View,
};

use crate::{
    admin::{command, text},
    front::{self, Front},
    raw::{self, Wire, with_body},
    upstream::{Then, Upstream, ok},
};

/// How long a poll is parked.
const PARKED: Duration = Duration::from_secs(2);
const POLL: &str = "GET /switchyard/v1/tasks HTTP/1.1\r\nHost: a\r\n\r\n";

/// Answers with its name; polls after a while.
fn server(name: &'static str) -> Upstream {
    Upstream::raw(move |wire, head| {
        if wire.body(&head, false, |_| {}).is_err() {
            return Then::Close;
        }
        if head.word(1).starts_with("/switchyard/v1/tasks") {
            thread::sleep(PARKED);
        }
        if wire.send(ok(name)).is_ok() { Then::KeepAlive } else { Then::Close }
    })
}

fn say(front: &Front, method: &str, path: &str, body: &str) -> raw::Answer {
    let path = format!("/admin/v1/services/{path}");
    raw::ask(front.admin, &with_body(method, &path, "Connection: close\r\n", body))
}

#[track_caller]
fn said(front: &Front, method: &str, path: &str, body: &str) -> serde_json::Value {
    let answer = say(front, method, path, body);
    assert_eq!(answer.status(), 200, "{method} {path}: {}", answer.text());
    answer.json()
}

fn first(front: &Front) -> View {
    front.view().services[0].upstreams[0].clone()
}

/// Who answers of twenty requests, by name, with how many.
fn answers(front: &Front) -> (usize, usize) {
    let names: Vec<String> = (0..20).map(|_| front.get("/api/v1/vm").text()).collect();
    let count = |name: &str| names.iter().filter(|one| *one == name).count();
    assert_eq!(count("a") + count("b"), 20, "{names:?}");
    (count("a"), count("b"))
}

#[test]
fn a_drain_under_load_breaks_nothing_and_polls_end_at_their_moment() {
    let (a, b) = (server("a"), server("b"));
    let front = Front::controllers(&[a.address, b.address]);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, stop) = (front.address, stop.clone());
            thread::spawn(move || {
                let mut wire = Wire::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(
                        wire.ask(&with_body("POST", "/api/v1/node/config", "", "{}")).unwrap().status(),
                        200
                    );
                }
            })
        })
        .collect();
    let poll = |to: SocketAddr| thread::spawn(move || Wire::connect(to).ask(POLL).unwrap().text());
    let parked: Vec<_> = (0..6).map(|_| poll(front.address)).collect();
    front.wait_until("polls are parked at both", |view| {
        view.services[0].upstreams.iter().all(|upstream| upstream.outstanding >= 2)
    });
    let begun = switchyard::clock::now();
    let done = said(&front, "POST", "pool/upstreams/u0/drain", r#"{"reason":"a new disk","by":"alice"}"#);
    assert_eq!((done["changed"].as_bool(), done["warnings"].as_array().map(Vec::len)), (Some(true), Some(0)));
    assert!(done["outstanding"].as_u64().unwrap() > 0, "{done}");
    assert!(begun.elapsed() < PARKED, "it waits for nobody");
    let answered: Vec<String> = parked.into_iter().map(|poll| poll.join().unwrap()).collect();
    assert!(answered.contains(&"a".to_owned()) && answered.contains(&"b".to_owned()), "{answered:?}");
    front.wait_until("nothing is under way there, and no connection is kept to it", |view| {
        let upstream = &view.services[0].upstreams[0];
        upstream.outstanding == 0 && upstream.connections.control == 0
    });
    for _ in 0..6 {
        assert_eq!(
            raw::ask(front.address, &POLL.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).text(),
            "b"
        );
    }
    stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    let view = first(&front);
    assert!(view.drained && view.health == "up" && view.failures == 0 && view.ejected.is_none(), "{view:?}");
    let order = &view.orders[0];
    assert_eq!((order.reason.as_deref(), order.by.as_deref()), (Some("a new disk"), Some("alice")));
    assert_eq!((order.from.as_deref(), order.differs), (Some("127.0.0.1"), true));
    let metrics = front.metrics();
    assert!(metrics.contains(r#"switchyard_proxy_upstream_drained{service="pool",upstream="u0"} 1"#));
    assert!(metrics.contains(r#"switchyard_proxy_orders{service="pool"} 1"#));
    assert_eq!(answers(&front), (0, 20));
    let back = said(&front, "POST", "pool/upstreams/u0/undrain", "");
    assert_eq!((back["changed"].as_bool(), back["orders"].as_array().map(Vec::len)), (Some(true), Some(0)));
    assert_eq!(answers(&front), (10, 10));
    assert_eq!(said(&front, "POST", "pool/upstreams/u0/undrain", "{}")["changed"], false);
}

#[test]
fn what_was_said_goes_on_over_a_reload_also_of_one_that_comes_back() {
    let (a, b) = (server("a"), server("b"));
    let front = Front::controllers(&[a.address, b.address]);
    said(&front, "POST", "pool/upstreams/u0/drain", "");
    said(&front, "PUT", "pool/upstreams/u1/weight", r#"{"weight":7}"#);
    let mut without = front.config.clone();
    without.services[0].upstreams.remove(0);
    front.reload(&without).unwrap();
    let service = front.view().services[0].clone();
    assert_eq!(
        service.orders[0].upstream.as_deref(),
        Some("u0"),
        "what is said of one that is not there is shown"
    );
    let other = Proxy { threads: front.config.threads, ..front.config.clone() };
    front.reload(&other).unwrap();
    front.wait_until("it was probed anew", |view| view.services[0].upstreams[0].health == "up");
    assert!(first(&front).drained);
    assert_eq!(answers(&front), (0, 20));
    assert!((front.view().services[0].upstreams[1].weight_now - 7.0).abs() < 0.01);
    // It can be taken back while its upstream is gone.
    front.reload(&without).unwrap();
    assert_eq!(said(&front, "POST", "pool/upstreams/u0/undrain", "")["changed"], true);
    assert_eq!(say(&front, "POST", "pool/upstreams/u0/drain", "").status(), 404);
}

#[test]
fn the_last_one_may_be_drained_with_a_warning_and_those_that_wait_go_on_when_it_is_back() {
    let a = server("a");
    let mut config = front::config(Kind::Controller, &[a.address]);
    config.services[0].hold =
        config::proxy::Hold { read: Duration::from_millis(300), write: Duration::from_secs(8) };
    let front = Front::start(config);
    let done = said(&front, "POST", "pool/upstreams/u0/drain", "");
    assert!(done["warnings"][0].as_str().unwrap().contains("nobody else of `pool`"), "{done}");
    let answer = front.get("/api/v1/vm");
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("drained by an operator"), "{}", answer.text());
    let ready = raw::get(front.admin, "/readyz");
    assert_eq!(ready.status(), 503);
    assert!(ready.text().contains("an operator has drained"), "{}", ready.text());
    let address = front.address;
    let held = thread::spawn(move || {
        raw::ask(address, &with_body("POST", "/api/v1/vm", "Connection: close\r\n", "{}"))
    });
    front.wait_until("it is held", |view| view.services[0].held == 1);
    said(&front, "POST", "pool/upstreams/u0/undrain", "");
    assert_eq!(held.join().unwrap().text(), "a");
}

#[test]
fn a_weight_takes_effect_at_once_and_the_config_s_comes_back() {
    let (a, b) = (server("a"), server("b"));
    let front = Front::controllers(&[a.address, b.address]);
    assert_eq!(answers(&front), (10, 10));
    let done = said(&front, "PUT", "pool/upstreams/u1/weight", r#"{"weight":9}"#);
    assert_eq!(
        (done["orders"][0]["what"]["weight"].as_u64(), done["orders"][0]["differs"].as_bool()),
        (Some(9), Some(true))
    );
    let (few, many) = answers(&front);
    assert!(few <= 4 && many >= 16, "{few} {many}");
    said(&front, "DELETE", "pool/upstreams/u1/weight", "");
    assert_eq!(answers(&front), (10, 10));
}

#[test]
fn maintenance_is_said_beside_the_config() {
    let a = server("a");
    let front = Front::controllers(&[a.address]);
    said(&front, "POST", "pool/maintenance", r#"{"on":true,"reason":"etcd"}"#);
    assert_eq!(front.get("/api/v1/vm").status(), 503);
    assert!(front.view().services[0].maintenance);
    let mut closed = front.config.clone();
    closed.services[0].maintenance = true;
    front.reload(&closed).unwrap();
    said(&front, "POST", "pool/maintenance", r#"{"on":false}"#);
    assert_eq!(front.get("/api/v1/vm").text(), "a", "what was said goes before the config");
    said(&front, "DELETE", "pool/maintenance", "");
    assert_eq!(front.get("/api/v1/vm").status(), 503);
}

#[test]
fn names_that_nobody_has_and_words_that_mean_nothing_are_refused() {
    let a = server("a");
    let front = Front::controllers(&[a.address]);
    let refused = |method: &str, path: &str, body: &str, status: u16, word: &str| {
        let answer = say(&front, method, path, body);
        assert_eq!(answer.status(), status, "{method} {path} {body}: {}", answer.text());
        assert!(answer.text().contains(word), "{word} is not in: {}", answer.text());
    };
    refused("POST", "nobody/upstreams/u0/drain", "", 404, "there are `pool`");
    refused("POST", "pool/upstreams/u9/drain", "", 404, "it has `u0`");
    refused("POST", "pool/upstreams/u9/undrain", "", 404, "it has `u0`");
    refused("POST", "nobody/maintenance", r#"{"on":true}"#, 404, "there are `pool`");
    refused("POST", "pool/upstreams/u0/drain", r#"{"resaon":"x"}"#, 400, "resaon");
    refused(
        "POST",
        "pool/upstreams/u0/drain",
        &format!(r#"{{"reason":"{}"}}"#, "x".repeat(300)),
        400,
        "300 characters",
    );
    refused("POST", "pool/upstreams/u0/drain", r#"{"by":"a\nb"}"#, 400, "line end");
    refused("PUT", "pool/upstreams/u0/weight", "", 400, r#"send `{"weight":10}`"#);
    refused("PUT", "pool/upstreams/u0/weight", r#"{"weight":0}"#, 400, "or drain it");
    refused("PUT", "pool/upstreams/u0/weight", r#"{"weight":1001}"#, 400, "1 to 1000");
    refused("POST", "pool/maintenance", "{}", 400, "on");
    assert!(!first(&front).drained);
}

#[test]
fn the_command_line_drains_waits_weighs_and_shows_it() {
    let (a, b) = (server("a"), server("b"));
    let front = Front::controllers(&[a.address, b.address]);
    let run = |args: &[&str]| {
        let output = command(&front, args, &[("USER", "bob")]);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let mut parked = Wire::connect(front.address);
    parked.send(POLL).unwrap();
    front
        .wait_until("it is parked", |view| view.services[0].upstreams.iter().any(|one| one.outstanding == 1));
    let place = front.view().services[0].upstreams.iter().position(|one| one.outstanding == 1).unwrap();
    let target = format!("pool/u{place}");
    let (code, out, err) = run(&["drain", &target, "--wait", "--reason", "a new disk"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains(&format!("{target} takes nothing new; nothing is under way there")), "{out}");
    assert!(err.contains("1 request is under way there"), "{err}");
    parked.answer(false).unwrap();
    let (code, out, err) = run(&["status"]);
    assert_eq!(code, Some(0), "{err}");
    for part in
        ["service pool (controller)", "drained", "by bob from 127.0.0.1: a new disk", "listener front on"]
    {
        assert!(out.contains(part), "{part} is not in: {out}");
    }
    let (_, out, _) = run(&["status", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["services"][0]["upstreams"][place]["drained"], true);
    assert_eq!(json["process"]["pid"], std::process::id());
    assert_eq!(run(&["undrain", &target]).1, format!("{target} takes requests again\n"));
    assert_eq!(run(&["weight", &target, "5"]).1, format!("{target} has weight 5\n"));
    assert_eq!(
        run(&["weight", &target, "--by-config"]).1,
        format!("{target} has the weight of the config\n")
    );
    assert_eq!(run(&["maintenance", "pool", "on"]).1, "pool: everything is answered 503\n");
    assert!(run(&["status"]).1.contains("IN MAINTENANCE"));
    assert_eq!(run(&["maintenance", "pool", "by-config"]).0, Some(0));
    let (code, _, err) = run(&["drain", "pool/u7"]);
    assert!(code == Some(1) && err.contains("it has `u0`, `u1`"), "{err}");
    let (code, _, err) = run(&["drain", "pool"]);
    assert!(code == Some(2) && err.contains("SERVICE/UPSTREAM"), "{err}");
    let (code, _, err) = run(&["reload"]);
    assert!(code == Some(1) && err.contains("not started from a file"), "{err}");
}

#[test]
fn a_refused_reload_says_what_check_says() {
    let a = server("a");
    let front = Front::controllers(&[a.address]);
    front.handle.reads(|| Err("error: `attempts` is `0`\n --> proxy.toml:7:12".into()));
    let output = command(&front, &["reload"], &[]);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err.contains("error: `attempts` is `0`\n --> proxy.toml:7:12")
            && err.contains("old config serves on"),
        "{err}"
    );
}
