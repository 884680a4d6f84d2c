//! Upstreams inside TLS: who is believed, and that nothing half is taken for whole.

use std::time::Duration;

use switchyard::{
    config::proxy::{Kind, Proxy},
    model::proxy_protocol::Version,
    tls::{self, Pair, UpstreamSetting},
};

use crate::{
    front::{self, Front, eventually},
    raw, registry,
    secure::{self, Ends, Files, SecureUpstream},
    upstream::Upstream,
};

fn config(setting: UpstreamSetting, upstreams: &[std::net::SocketAddr]) -> Proxy {
    let mut config = front::config(Kind::Controller, upstreams);
    config.services[0].tls = Some(tls::Upstream::load(setting).unwrap());
    config
}

fn plain_ok(body: &str) -> (String, Ends) {
    (crate::upstream::ok(body), Ends::Stays)
}

/// What the probes say of the only upstream.
fn evidence(front: &Front) -> String {
    front.view().services[0].upstreams[0].evidence.clone()
}

#[test]
fn requests_and_probes_go_inside_tls_over_connections_that_are_used_again() {
    let files = Files::new();
    let made = files.ca.leaf(&["127.0.0.1"]);
    let a = SecureUpstream::start(&made, None, |head, _| plain_ok(head.word(1)));
    let front = Front::start(config(files.upstream(), &[a.address]));
    front.wait_until("it is up", |view| view.services[0].upstreams[0].health == "up");
    for n in 0..20 {
        assert_eq!(front.get(&format!("/api/v1/vm?id={n}")).text(), format!("/api/v1/vm?id={n}"));
    }
    let reused = front.lines(20).iter().filter(|line| line["attempts"][0]["reused"] == true).count();
    assert!(reused >= 10, "{reused}");
}

#[test]
fn large_bodies_go_both_ways_whole() {
    let files = Files::new();
    let body: String = (0..2_000_000u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    let says = body.clone();
    let a = SecureUpstream::start(&files.ca.leaf(&["127.0.0.1"]), None, move |_, _| plain_ok(&says));
    let front = Front::start(config(files.upstream(), &[a.address]));
    let answer = front.ask(&raw::with_body("POST", "/api/v1/node/config", "", &body));
    assert!(answer.status() == 200 && answer.text() == body);
}

#[test]
fn a_name_of_its_own_is_asked_for_and_checked() {
    let files = Files::new();
    let a = SecureUpstream::start(&files.ca.leaf(&["inner.example"]), None, |_, _| plain_ok("in"));
    let named = UpstreamSetting { server_name: Some("inner.example".into()), ..files.upstream() };
    let front = Front::start(config(named, &[a.address]));
    assert_eq!(front.get("/api/v1/vm").text(), "in");
    assert_eq!(a.seen.lock().unwrap()[0].get("host"), Some("front"));
}

#[test]
fn who_is_not_who_it_should_be_is_refused_and_it_is_said_why() {
    let files = Files::new();
    let check = |setting: UpstreamSetting, names: &[&str], ca: &crate::certificates::Authority, why: &str| {
        let a = SecureUpstream::start(&ca.leaf(names), None, |_, _| plain_ok("in"));
        let mut config = config(setting, &[a.address]);
        config.services[0].hold.read = Duration::from_millis(200);
        let front = Front::start(config);
        front.wait_until("it is down", |view| view.services[0].upstreams[0].health == "down");
        let said = evidence(&front);
        assert!(said.contains(why), "{why}: {said}");
        // And the same when there is nothing else to try.
        let answer = front.get("/api/v1/vm");
        assert_eq!(answer.status(), 503, "{}", answer.text());
        assert!(a.seen.lock().unwrap().is_empty(), "nothing was sent to it");
    };
    check(files.upstream(), &["other.example"], &files.ca, "not valid for name");
    check(files.upstream(), &["127.0.0.1"], &files.clients, "UnknownIssuer");
    let named = UpstreamSetting { server_name: Some("inner.example".into()), ..files.upstream() };
    check(named, &["127.0.0.1"], &files.ca, "not valid for name");
}

#[test]
fn requests_and_probes_say_whose_they_are_before_tls() {
    let files = Files::new();
    let a = SecureUpstream::behind(true, &files.ca.leaf(&["127.0.0.1"]), None, |_, _| plain_ok("in"));
    let mut config = config(files.upstream(), &[a.address]);
    config.services[0].proxy_protocol = Some(Version::V1);
    let front = Front::start(config);
    front.wait_until("it is up", |view| view.services[0].upstreams[0].health == "up");
    assert_eq!(front.get("/api/v1/vm").text(), "in");
    let openings = a.openings.lock().unwrap().clone();
    assert!(openings[0].starts_with("PROXY UNKNOWN"), "{openings:?}");
    assert!(openings.iter().any(|line| line.starts_with("PROXY TCP4 127.0.0.1 ")), "{openings:?}");
}

#[test]
fn without_verification_anybody_is_taken_and_only_then() {
    let files = Files::new();
    let a = SecureUpstream::start(&files.clients.leaf(&["other.example"]), None, |_, _| plain_ok("in"));
    let setting = UpstreamSetting { verify: false, ..UpstreamSetting::default() };
    assert_eq!(Front::start(config(setting, &[a.address])).get("/api/v1/vm").text(), "in");
}

#[test]
fn an_upstream_that_asks_for_a_certificate_gets_the_services() {
    let files = Files::new();
    files.clients.client("front").write(files.folder.path(), "identity");
    let a =
        SecureUpstream::start(&files.ca.leaf(&["127.0.0.1"]), Some(&files.clients), |_, _| plain_ok("in"));
    let Pair { cert, key } = files.pair("identity");
    let shows = UpstreamSetting { identity: Some(Pair { cert, key }), ..files.upstream() };
    assert_eq!(Front::start(config(shows, &[a.address])).get("/api/v1/vm").text(), "in");
    let mut without = config(files.upstream(), &[a.address]);
    without.services[0].hold.read = Duration::from_millis(200);
    let front = Front::start(without);
    front.wait_until("it is down", |view| view.services[0].upstreams[0].health == "down");
    assert!(front.get("/api/v1/vm").status() >= 500);
}

#[test]
fn a_plain_upstream_is_not_mistaken_for_one_inside_tls() {
    let files = Files::new();
    let a = Upstream::start(|_| crate::upstream::ok("plain"));
    let mut config = config(files.upstream(), &[a.address]);
    config.services[0].hold.read = Duration::from_millis(200);
    let front = Front::start(config);
    assert_eq!(front.get("/api/v1/vm").status(), 503);
    assert_eq!(a.count(), 0);
}

#[test]
fn a_body_that_ends_with_the_connection_is_whole_only_if_that_was_said() {
    let files = Files::new();
    let a = SecureUpstream::start(&files.ca.leaf(&["127.0.0.1"]), None, |head, _| {
        let ends = if head.word(1).contains("cut") { Ends::Breaks } else { Ends::Closes };
        ("HTTP/1.1 200 OK\r\n\r\nhalf of it".into(), ends)
    });
    let front = Front::start(config(files.upstream(), &[a.address]));
    assert_eq!(front.get("/api/v1/vm?id=whole").text(), "half of it");
    let mut wire = raw::Wire::connect(front.address);
    wire.send("GET /api/v1/vm?id=cut HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    // The client must see that it is not all of it.
    assert!(wire.answer(false).is_err());
    assert_eq!(front.lines(2)[1]["end"], "aborted");
}

#[test]
fn registries_are_followed_inside_tls() {
    let files = Files::new();
    let made = files.ca.leaf(&["registry.example"]);
    let (writer, one, _) = registry::cloud();
    let mut config = registry::config(&[&writer, &one]);
    let service = &mut config.services[0];
    for upstream in &mut service.upstreams {
        let plain = upstream.address.to_string().parse().unwrap();
        upstream.address.port = secure::relay(&made, plain).port();
    }
    let named = UpstreamSetting { server_name: Some("registry.example".into()), ..files.upstream() };
    service.tls = Some(tls::Upstream::load(named).unwrap());
    let front = registry::started(config);
    let pushed = writer.push("a");
    one.copies(pushed);
    writer.confirmed();
    registry::knows(&front, 1, pushed);
    assert_eq!(front.get("/v2/a/manifests/latest").text(), "r1");
}

#[test]
fn a_renewed_authority_is_taken_for_requests_and_probes() {
    let files = Files::new();
    let made = files.clients.leaf(&["127.0.0.1"]);
    let a = SecureUpstream::start(&made, None, |_, _| plain_ok("in"));
    let front = Front::start(config(files.upstream(), &[a.address]));
    front.wait_until("it is down", |view| view.services[0].upstreams[0].health == "down");
    files.put("ca.pem", &files.clients.cert());
    front.wait_until("it is up", |view| view.services[0].upstreams[0].health == "up");
    assert_eq!(front.get("/api/v1/vm").text(), "in");
    eventually("all is well", || front.metrics().contains(r#"tls_files_ok{kind="service",name="pool"} 1"#));
}
