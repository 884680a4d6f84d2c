//! Whose account a request or a connection goes on, in every way that a client can come.

use std::time::Duration;

use switchyard::{
    clock,
    config::{
        bounds::{Bounds, By, Rate},
        proxy::{Kind, Network, Proxy},
    },
    model::{
        RouteClass,
        proxy_protocol::{Ends, Version, write},
    },
};

use crate::{
    front::{self, Front, eventually},
    h2::peer::{Ended, Peer, request, request_with},
    raw::{Answer, Wire, with_body},
    secure::Files,
    upstream::{Then, Upstream, ok},
};

/// So many at once, and no more for the time of a test.
fn rate(by: By, burst: u32) -> Option<Rate> {
    Some(Rate { by, requests: 1, per: Duration::from_secs(3600), burst })
}

fn network(address: &str, bits: u8) -> Network {
    Network { address: address.parse().unwrap(), bits }
}

fn config(upstream: &Upstream, bounds: Bounds) -> Proxy {
    let mut config = front::config(Kind::Controller, &[upstream.address]);
    config.listeners[0].limits.bounds = bounds;
    config
}

fn get(more: &str) -> String {
    format!("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\n{more}\r\n")
}

/// What each of these is answered, all on one connection.
fn statuses<'a>(wire: &mut Wire, requests: impl IntoIterator<Item = &'a str>) -> Vec<u16> {
    requests.into_iter().map(|more| wire.ask(&get(more)).unwrap().status()).collect()
}

fn refused(front: &Front, reason: &str) -> u64 {
    let line = format!(r#"switchyard_proxy_refused_total{{listener="front",reason="{reason}"}} "#);
    let text = front.metrics();
    text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

#[test]
fn behind_a_trusted_proxy_each_client_has_its_own_account_and_outsiders_cannot_choose_one() {
    let a = Upstream::start(|_| ok("a"));
    let mut config = config(&a, Bounds { rate: rate(By::Address, 2), ..Bounds::default() });
    config.listeners[0].trusted = vec![network("127.0.0.1", 32)];
    let front = Front::start(config.clone());
    let of = |ip: &str| format!("X-Forwarded-For: {ip}\r\n");
    let (one, two) = (of("192.0.2.1"), of("192.0.2.2"));
    let (here, there) = (of("2001:db8:1:1::1"), of("2001:db8:1:1:ffff::2"));
    let mut wire = Wire::connect(front.address);
    let asked = [&one, &two, &one, &one, &two, &two, &here, &there, &here];
    let told = statuses(&mut wire, asked.map(String::as_str));
    assert_eq!(told, [200, 200, 200, 429, 200, 429, 200, 200, 429], "a /64 is one client");
    assert_eq!(
        statuses(&mut wire, [&*of("2001:db8:1:2::1"), ""]),
        [200, 200],
        "another one, and the proxy itself"
    );

    config.listeners[0].trusted = Vec::new();
    let front = Front::start(config);
    let mut wire = Wire::connect(front.address);
    assert_eq!(statuses(&mut wire, [&*one, &two, &here]), [200, 200, 429]);
}

#[test]
fn keys_have_accounts_of_their_own_and_made_up_ones_gain_nothing() {
    let a = Upstream::start(|_| ok("a"));
    let front = Front::start(config(&a, Bounds { rate: rate(By::Key, 2), ..Bounds::default() }));
    let mut wire = Wire::connect(front.address);
    let (one, two) = ("Authorization: Bearer one\r\n", "Authorization: Bearer two\r\n");
    assert_eq!(statuses(&mut wire, [one, one, one, two, two, two]), [200, 200, 429, 200, 200, 429]);
    assert_eq!(statuses(&mut wire, ["", "", ""]), [200, 200, 429], "without a key it is the address");
    // Of sixteen keys' worth four are spent.
    let made_up: Vec<String> = (0..100).map(|n| format!("Authorization: Bearer made-up-{n}\r\n")).collect();
    let told = statuses(&mut wire, made_up.iter().map(String::as_str));
    assert_eq!(told.iter().filter(|status| **status == 200).count(), 2 * 16 - 4);
    assert!(told[28..].iter().all(|status| *status == 429));
}

#[test]
fn certificates_have_accounts_of_their_own() {
    let (a, files) = (Upstream::start(|_| ok("a")), Files::new());
    let mut setting = files.setting();
    setting.client_auth = switchyard::tls::ClientAuth::Optional(files.trust(None));
    let mut config = files.front(setting, &[a.address]);
    config.listeners[0].limits.bounds.rate = rate(By::Certificate, 2);
    let front = Front::start(config);
    let (one, two) = (files.clients.client("one"), files.clients.client("two"));
    let ask = |shows: Option<&_>| files.client(shows).get(front.address, "").unwrap().status();
    assert_eq!(
        [ask(Some(&one)), ask(Some(&one)), ask(Some(&one))],
        [200, 200, 429],
        "on connections of their own"
    );
    assert_eq!([ask(Some(&two)), ask(None), ask(None), ask(None)], [200, 200, 200, 429]);
    assert_eq!(ask(Some(&two)), 200);
    let line = &front.lines(3)[2];
    assert_eq!((line["reason"].as_str(), line["tls"]["verify"].as_str()), (Some("rate"), Some("SUCCESS")));
}

#[test]
fn each_stream_of_http_2_is_a_request_and_all_of_them_are_one_connection() {
    let a = Upstream::start(|_| ok("a"));
    let bounds = Bounds { rate: rate(By::Address, 3), per_client: Some(1), ..Bounds::default() };
    let mut config = config(&a, bounds);
    config.listeners[0].http2 = true;
    config.limits.body = config.limits.body.with(RouteClass::ControllerApi, Some(1000));
    let front = Front::start(config);
    let mut peer = Peer::connect(front.address);
    let streams: Vec<u32> = (0..4).map(|_| peer.begin(&request("GET", "/api/v1/vm"), true)).collect();
    let mut told: Vec<u16> = streams.into_iter().map(|stream| peer.finish(stream).status()).collect();
    told.sort_unstable();
    assert_eq!(told, [200, 200, 200, 429]);
    let got = peer.get("/api/v1/vm");
    assert_eq!((got.status(), got.ended, got.get("retry-after").is_some()), (429, Ended::Whole, true));
    assert_eq!(Wire::connect(front.address).answer(false).unwrap().status(), 429, "a second connection");
    assert!(peer.is_alive());
    assert_eq!((refused(&front, "rate"), refused(&front, "too-many-of-client")), (2, 1));

    let mut free = front.config.clone();
    free.listeners[0].limits.bounds = Bounds::default();
    front.reload(&free).unwrap();
    assert_eq!(peer.get("/api/v1/vm").status(), 200);
    let big = peer.begin(&request_with("PUT", "/api/v1/vm", &[("content-length", "1001")]), false);
    assert_eq!(peer.finish(big).status(), 413);
    let before = a.count();
    let unknown = peer.begin(&request("PUT", "/api/v1/vm"), false);
    peer.data(unknown, &[b'x'; 900], false);
    peer.data(unknown, &[b'x'; 101], true);
    assert_eq!(peer.finish(unknown).status(), 413);
    let fits = peer.begin(&request("PUT", "/api/v1/vm"), false);
    peer.data(fits, &[b'x'; 1000], true);
    assert_eq!(peer.finish(fits).status(), 200);
    assert_eq!(a.count(), before + 1, "the server took neither of the others for whole");
}

#[test]
fn a_body_in_chunks_is_cut_where_it_passes_its_bound_and_the_connection_lingers() {
    let a = Upstream::start(|seen| ok(&seen.body.len().to_string()));
    let mut config = config(&a, Bounds::default());
    config.limits.body = config.limits.body.with(RouteClass::ControllerApi, Some(100_000));
    let front = Front::start(config);
    let head = "PUT /api/v1/vm HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 10_000, "x".repeat(10_000));
    let mut fits = Wire::connect(front.address);
    fits.send(format!("{head}{}0\r\n\r\n", chunk.repeat(10))).unwrap();
    assert_eq!(fits.answer(false).unwrap().text(), "100000");
    let mut over = Wire::connect(front.address);
    over.send(format!("{head}{}", chunk.repeat(10))).unwrap();
    over.send("1\r\nx\r\n0\r\n\r\n").unwrap();
    // What it had sent behind that does not cost it the answer.
    over.send(chunk.repeat(30)).ok();
    let answer = over.answer(false).unwrap();
    assert_eq!((answer.status(), answer.head.get("connection")), (413, Some("close")));
    assert!(answer.text().contains("limits.body"), "{}", answer.text());
    assert!(over.closed());
    assert_eq!(a.count(), 1);
    let line = front.lines(2).pop().unwrap();
    assert_eq!(
        (line["reason"].as_str(), line["attempts"][0]["end"].as_str()),
        (Some("body-too-large"), Some("body-too-large"))
    );
    eventually("nothing is under way", || front.view().services[0].upstreams[0].outstanding == 0);

    // By its length it is refused before anything is asked for.
    let mut waits = Wire::connect(front.address);
    let expects = "Expect: 100-continue\r\nContent-Length: 100001\r\n";
    waits.send(format!("PUT /api/v1/vm HTTP/1.1\r\nHost: a\r\n{expects}\r\n")).unwrap();
    assert_eq!(waits.head().unwrap().unwrap().status(), 413);
    assert_eq!(front.ask(&with_body("PUT", "/api/v1/vm", "", &"x".repeat(100_000))).text(), "100000");
    assert_eq!(refused(&front, "body-too-large"), 2);
}

#[test]
fn uploads_have_no_bound_and_small_classes_have_a_small_one() {
    let a = Upstream::raw(|wire, head| {
        let mut bytes = 0;
        match wire.body(&head, false, |piece| bytes += piece.len()) {
            Ok(_) if wire.send(ok(&bytes.to_string())).is_ok() => Then::KeepAlive,
            _ => Then::Close,
        }
    });
    let front = Front::registries(&[a.address]);
    let size = 3 * 1024 * 1024;
    let body = "x".repeat(size);
    for path in ["/v2/a/blobs/uploads/1", "/v2/a/manifests/v1"] {
        let method = if path.contains("manifests") { "PUT" } else { "PATCH" };
        assert_eq!(front.ask(&with_body(method, path, "", &body)).text(), size.to_string(), "{path}");
    }
    let answer =
        refusal(&front, &format!("GET /v2/_catalog HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"));
    assert_eq!(
        (answer.status(), answer.json()["errors"][0]["detail"]["code"].as_str()),
        (413, Some("body-too-large"))
    );
}

fn refusal(front: &Front, request: &str) -> Answer {
    let mut wire = Wire::connect(front.address);
    wire.send(request).unwrap();
    wire.answer(false).unwrap()
}

#[test]
fn a_registrys_client_is_told_in_its_own_format() {
    let a = Upstream::start(|_| ok("a"));
    let mut config = front::config(Kind::Registry, &[a.address]);
    config.listeners[0].limits.bounds.rate = rate(By::Address, 1);
    let front = Front::start(config);
    assert_eq!(front.get("/v2/").status(), 200);
    let answer = front.get("/v2/a/tags/list");
    assert_eq!(
        (answer.status(), answer.json()["errors"][0]["code"].as_str()),
        (429, Some("TOOMANYREQUESTS"))
    );
    let answer = front.get("/registry/status");
    assert_eq!((answer.status(), answer.json()["status"].as_str()), (429, Some("FAIL")));
    // So does a request for nothing that is here: who looks for holes is slowed down as well.
    assert_eq!(front.get("/metrics").status(), 429);
}

#[test]
fn what_no_rule_serves_counts_too() {
    let a = Upstream::start(|_| ok("a"));
    let front = Front::start(config(&a, Bounds { rate: rate(By::Address, 2), ..Bounds::default() }));
    assert_eq!([front.get("/metrics").status(), front.get("/metrics").status()], [404, 404]);
    assert_eq!(front.get("/api/v1/vm").status(), 429);
    assert_eq!(a.count(), 0);
}

#[test]
fn behind_a_balancer_it_is_whom_the_header_names() {
    let a = Upstream::start(|_| ok("a"));
    let bounds = Bounds { per_client: Some(2), deny: vec![network("198.51.100.0", 24)], ..Bounds::default() };
    let mut config = config(&a, bounds);
    config.listeners[0].proxy_protocol = vec![network("127.0.0.1", 32)];
    let front = Front::start(config);
    let from = |source: &str| {
        let ends = Ends { source: source.parse().unwrap(), destination: "203.0.113.1:443".parse().unwrap() };
        let mut wire = Wire::connect(front.address);
        wire.send(write(Version::V2, Some(ends))).unwrap();
        wire.send(get("")).ok();
        let status = wire.answer(false).unwrap().status();
        (wire, status)
    };
    let (one, two) = (from("192.0.2.1:1"), from("192.0.2.1:2"));
    assert_eq!((one.1, two.1), (200, 200));
    assert_eq!(from("192.0.2.1:3").1, 429);
    assert_eq!((from("192.0.2.2:1").1, from("198.51.100.9:1").1), (200, 403));
    assert_eq!(from("[2001:db8::1]:1").1, 200);
    drop(one);
    eventually("there is room", || from("192.0.2.1:4").1 == 200);
    // The balancer's own connections are nobody's.
    let own: Vec<Wire> = (0..5)
        .map(|_| {
            let mut wire = Wire::connect(front.address);
            wire.send(write(Version::V2, None)).unwrap();
            assert_eq!(wire.ask(&get("")).unwrap().status(), 200);
            wire
        })
        .collect();
    drop(own);

    // And an `allow` in which it is not keeps neither it nor those out whom it names.
    let mut next = front.config.clone();
    next.listeners[0].limits.bounds = Bounds { allow: vec![network("192.0.2.0", 24)], ..Bounds::default() };
    front.reload(&next).unwrap();
    assert_eq!((from("192.0.2.7:1").1, from("203.0.113.7:1").1), (200, 403));
    let mut wire = Wire::connect(front.address);
    wire.send(write(Version::V2, None)).unwrap();
    assert_eq!(wire.ask(&get("")).unwrap().status(), 200);
    assert_eq!(refused(&front, "denied"), 2);
}

#[test]
fn lists_are_for_whom_a_trusted_proxy_names_and_not_for_the_proxy() {
    let a = Upstream::start(|_| ok("a"));
    let bounds = Bounds { allow: vec![network("192.0.2.0", 24)], per_client: Some(1), ..Bounds::default() };
    let mut config = config(&a, bounds);
    config.listeners[0].trusted = vec![network("127.0.0.1", 32)];
    let front = Front::start(config);
    // More of them than one client may have: it carries those of many.
    let mut wires: Vec<Wire> = (0..3).map(|_| Wire::connect(front.address)).collect();
    for wire in &mut wires {
        assert_eq!(statuses(wire, ["X-Forwarded-For: 192.0.2.1\r\n"]), [200]);
    }
    let answer = wires[0].ask(&get("X-Forwarded-For: 203.0.113.1\r\n")).unwrap();
    assert_eq!((answer.status(), answer.head.get("connection")), (403, Some("close")));
    // Lines of several threads come in any order.
    assert!(front.lines(4).iter().any(|line| line["client"] == "203.0.113.1"));
}

#[test]
fn inside_tls_who_is_denied_is_closed_before_any_handshake() {
    let (a, files) = (Upstream::start(|_| ok("a")), Files::new());
    let mut config = files.front(files.setting(), &[a.address]);
    config.limits.bounds.deny = vec![network("127.0.0.1", 32)];
    let front = Front::start(config);
    assert!(files.client(None).connect(front.address).is_err());
    eventually("it is counted", || refused(&front, "denied") == 1);
    let handshakes = front.metrics();
    assert!(!handshakes.contains("tls_handshakes_total{"), "{handshakes}");
    let mut next = front.config.clone();
    next.limits.bounds.deny = Vec::new();
    front.reload(&next).unwrap();
    assert_eq!(files.client(None).get(front.address, "").unwrap().status(), 200);
}

#[test]
fn who_waits_as_told_is_let_in() {
    let a = Upstream::start(|_| ok("a"));
    let per_second = Rate { by: By::Address, requests: 4, per: Duration::from_secs(1), burst: 2 };
    let front = Front::start(config(&a, Bounds { rate: Some(per_second), ..Bounds::default() }));
    let mut wire = Wire::connect(front.address);
    let begun = clock::now();
    let mut let_in = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        match wire.ask(&get("")).unwrap() {
            answer if answer.status() == 200 => let_in += 1,
            answer => assert_eq!(answer.head.get("retry-after"), Some("1")),
        }
    }
    // Two at once, and four a second.
    let whole = usize::try_from(begun.elapsed().as_millis() / 250).unwrap();
    assert!((12..=whole + 2).contains(&let_in), "{let_in} within {:?}", begun.elapsed());
}
