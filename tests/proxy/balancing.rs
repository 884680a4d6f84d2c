//! Which upstream takes a request: weights, zones, slow start, stickiness, limits; over real sockets.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use switchyard::{
    config::proxy::{Balance, Key, Kind, Proxy, Sticky},
    model::ZoneName,
};

use crate::{
    front::{self, Front, eventually},
    raw::{Answer, get},
    upstream::{Gate, Upstream, ok},
};

fn named(count: usize) -> Vec<Upstream> {
    let one = |at: usize| Upstream::start(move |_| ok(&format!("u{at}")));
    (0..count).map(one).collect()
}

fn config(kind: Kind, upstreams: &[Upstream]) -> Proxy {
    let addresses: Vec<SocketAddr> = upstreams.iter().map(|upstream| upstream.address).collect();
    front::config(kind, &addresses)
}

fn counts(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(Upstream::count).collect()
}

fn zone(name: &str) -> Option<ZoneName> {
    Some(ZoneName::parse(name).unwrap())
}

fn with(path: &str, field: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{field}\r\nConnection: close\r\n\r\n")
}

#[test]
fn weights_are_seen_in_counts_and_change_on_reload() {
    let upstreams = named(2);
    let mut config = config(Kind::Controller, &upstreams);
    config.services[0].upstreams[0].weight = 3;
    let front = Front::start(config);
    for _ in 0..80 {
        front.get("/api/v1/vm");
    }
    let before = counts(&upstreams);
    assert!((57..=63).contains(&before[0]), "{before:?}");
    let mut config = front.config.clone();
    config.services[0].upstreams[0].weight = 1;
    config.services[0].upstreams[1].weight = 3;
    front.reload(&config).unwrap();
    // The upstreams themselves went on: nobody was probed anew.
    assert!(front.view().services[0].upstreams.iter().all(|upstream| upstream.health == "up"));
    for _ in 0..80 {
        front.get("/api/v1/vm");
    }
    let after = counts(&upstreams)[1] - before[1];
    assert!((57..=63).contains(&after), "{after}");
}

#[test]
fn requests_stay_in_the_zone_and_leave_it_when_it_has_not_enough_left() {
    let mut upstreams = named(3);
    let mut config = config(Kind::Controller, &upstreams);
    config.zone = zone("a");
    for (upstream, name) in config.services[0].upstreams.iter_mut().zip(["a", "a", "b"]) {
        upstream.zone = zone(name);
    }
    let front = Front::start(config);
    for _ in 0..40 {
        front.get("/api/v1/vm");
    }
    assert_eq!(counts(&upstreams), [20, 20, 0]);
    drop(upstreams.remove(0));
    front.wait_until("it is down", |view| view.services[0].upstreams[0].health == "down");
    let before = upstreams[1].count();
    for _ in 0..100 {
        assert_eq!(front.get("/api/v1/vm").status(), 200);
    }
    // Half of the zone is left, and 1.4 times that stays.
    let left = upstreams[1].count() - before;
    assert!((12..=50).contains(&left), "{left}");
    assert!(front.metrics().contains(r#"switchyard_proxy_passed_over_total{service="pool",why="zone"}"#));
    let lines = front.lines(140);
    assert!(lines.iter().any(|line| line["why"].as_str().unwrap().contains("in other zones")));
}

#[test]
fn two_proxies_tie_each_client_to_the_same_upstream_until_it_fails() {
    let mut upstreams = named(4);
    let mut config = config(Kind::Controller, &upstreams);
    config.services[0].sticky = Some(Sticky::Header("x-client".into()));
    let one = Front::start(config.clone());
    // The other one lists them in another order, and is in a zone.
    config.services[0].upstreams.reverse();
    config.services[0].upstreams[0].zone = zone("b");
    config.zone = zone("b");
    let other = Front::start(config);
    let of = |front: &Front, client: usize| {
        front.ask(&with("/api/v1/vm", &format!("X-Client: team-{client}"))).text()
    };
    let owners: Vec<String> = (0..24).map(|client| of(&one, client)).collect();
    let mut all = owners.clone();
    all.sort();
    all.dedup();
    assert!(all.len() > 2, "{all:?}");
    for (client, owner) in owners.iter().enumerate() {
        for front in [&one, &other, &one] {
            assert_eq!(of(front, client), *owner);
        }
    }
    let at = upstreams[1].address;
    drop(upstreams.remove(1));
    let is_down = |front: &Front| {
        front.wait_until("it is down", |view| {
            view.services[0].upstreams.iter().any(|u| u.name == "u1" && u.health == "down")
        });
    };
    is_down(&one);
    is_down(&other);
    for (client, owner) in owners.iter().enumerate() {
        let now = of(&one, client);
        assert_eq!(now, of(&other, client), "they agree on who stands in");
        assert!(*owner == "u1" || now == *owner, "only its own clients move");
        assert!(now != "u1");
    }
    let _back = Upstream::at(at, |_| ok("u1"));
    for front in [&one, &other] {
        front.wait_until("it is back", |view| view.services[0].upstreams.iter().all(|u| u.health == "up"));
    }
    for (client, owner) in owners.iter().enumerate() {
        assert_eq!([of(&one, client), of(&other, client)], [owner.clone(), owner.clone()]);
    }
}

fn set_cookie(answer: &Answer) -> Option<String> {
    answer.head.get("set-cookie").map(str::to_owned)
}

#[test]
fn a_cookie_is_set_once_and_means_the_same_to_another_proxy() {
    let upstreams = named(4);
    let mut config = config(Kind::Controller, &upstreams);
    config.services[0].sticky = Some(Sticky::Cookie("lane".into()));
    let (one, other) = (Front::start(config.clone()), Front::start(config));
    let first = one.get("/api/v1/vm");
    let cookie = set_cookie(&first).unwrap();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    assert_eq!(pair.len(), "lane=".len() + 16, "{pair}");
    let field = format!("Cookie: theme=dark; {pair}; x=1");
    for front in [&one, &other] {
        for _ in 0..8 {
            let answer = front.ask(&with("/api/v1/vm", &field));
            assert_eq!(answer.text(), first.text());
            assert_eq!(set_cookie(&answer), None);
        }
    }
    // What the client sends arrives as it was sent.
    let at: usize = first.text()[1..].parse().unwrap();
    let seen = upstreams[at].seen.lock().unwrap();
    assert!(seen.iter().any(|seen| seen.head.get("cookie") == field.strip_prefix("Cookie: ")));
    // One that names nobody is replaced.
    assert!(set_cookie(&one.ask(&with("/api/v1/vm", "Cookie: lane=0123456789abcdef"))).is_some());
}

#[test]
fn handshakes_go_by_the_clients_address_whatever_the_service_says() {
    let upstreams = named(4);
    let front = Front::start(config(Kind::Controller, &upstreams));
    for path in ["/tap/v1/hand", "/tap/v1/shake"].repeat(6) {
        front.ask(&crate::raw::with_body("POST", path, "", "{}"));
    }
    let mut counts = counts(&upstreams);
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, 12]);
    // From the second one on the client belongs there.
    assert_eq!(front.lines(12)[0]["why"], "sticky by client address");
}

#[test]
fn each_blob_has_its_registry() {
    let upstreams = named(3);
    let mut config = config(Kind::Registry, &upstreams);
    (config.services[0].balance, config.services[0].hash) = (Balance::ConsistentHash, Key::Content);
    let (one, other) = (Front::start(config.clone()), Front::start(config));
    // What is still counted when its answer has come would be load, and move a key.
    let ask = |front: &Front, path: &str| {
        front.wait_until("nothing is under way", |view| {
            view.services[0].upstreams.iter().all(|upstream| upstream.outstanding == 0)
        });
        front.get(path).text()
    };
    let mut owners = Vec::new();
    for blob in 0..20 {
        let path = format!("/v2/a/blobs/sha256:{blob:064}");
        let owner = ask(&one, &path);
        assert_eq!([ask(&one, &path), ask(&other, &path)], [owner.clone(), owner.clone()]);
        owners.push(owner);
    }
    owners.sort();
    owners.dedup();
    assert_eq!(owners.len(), 3);
}

#[test]
fn a_server_at_its_limit_is_asked_for_no_more_and_who_waits_goes_on_as_soon_as_there_is_room() {
    let gate = Arc::new(Gate::default());
    let (passed, most) = (gate.clone(), Arc::new(Mutex::new((0usize, 0usize))));
    let counted = most.clone();
    let upstream = Upstream::start(move |_| {
        {
            let mut count = counted.lock().unwrap();
            count.0 += 1;
            count.1 = count.1.max(count.0);
        }
        passed.pass();
        counted.lock().unwrap().0 -= 1;
        ok("done")
    });
    let mut config = config(Kind::Controller, std::slice::from_ref(&upstream));
    config.services[0].upstreams[0].bears.requests = Some(3);
    let front = Front::start(config);
    let address = front.address;
    let asked: Vec<_> = (0..12).map(|_| thread::spawn(move || get(address, "/api/v1/vm"))).collect();
    front.wait_until("three run and the rest waits", |view| {
        view.services[0].held == 9 && view.services[0].upstreams[0].outstanding == 3
    });
    gate.open();
    assert!(asked.into_iter().all(|one| one.join().unwrap().text() == "done"));
    assert_eq!(most.lock().unwrap().1, 3);
    front.wait_until("nobody waits", |view| view.services[0].held == 0);
}

#[test]
fn when_the_hold_ends_without_room_the_answer_names_the_limit() {
    let gate = Arc::new(Gate::default());
    let passed = gate.clone();
    let upstream = Upstream::start(move |_| {
        passed.pass();
        ok("done")
    });
    let mut config = config(Kind::Controller, std::slice::from_ref(&upstream));
    config.services[0].upstreams[0].bears.requests = Some(1);
    config.services[0].hold.read = Duration::from_millis(300);
    let front = Front::start(config);
    let address = front.address;
    let first = thread::spawn(move || get(address, "/api/v1/vm"));
    eventually("it is under way", || front.view().services[0].upstreams[0].outstanding == 1);
    let refused = front.get("/api/v1/vm");
    assert_eq!(refused.status(), 503);
    assert!(refused.text().contains("u0: at its limit of 1 requests"), "{}", refused.text());
    gate.open();
    assert_eq!(first.join().unwrap().text(), "done");
}

#[test]
fn a_server_that_comes_back_gets_its_part_step_by_step() {
    let upstreams = named(2);
    let mut config = config(Kind::Controller, &upstreams);
    config.services[0].slow_start = Duration::from_secs(3600);
    let front = Front::start(config);
    upstreams[1].says(500, "starting");
    front.wait_until("it is down", |view| view.services[0].upstreams[1].health == "down");
    upstreams[1].says(200, crate::upstream::ABLE);
    front.wait_until("it is up", |view| view.services[0].upstreams[1].health == "up");
    let view = front.view();
    let now = |at: usize| view.services[0].upstreams[at].weight_now;
    assert!(now(1) < 0.11 && now(0) < 0.11, "both began a moment ago: {} {}", now(0), now(1));
    // Without the window each has its part at once; it is the same upstream after a reload.
    let mut config = front.config.clone();
    config.services[0].slow_start = Duration::ZERO;
    front.reload(&config).unwrap();
    assert!(front.view().services[0].upstreams.iter().all(|upstream| upstream.weight_now > 0.99));
    config.services[0].slow_start = Duration::from_secs(3600);
    config.services[0].upstreams[0].weight = 1000;
    front.reload(&config).unwrap();
    let view = front.view();
    assert!(view.services[0].upstreams[1].weight_now < 0.11, "a reload does not end it");
}

#[test]
fn by_latency_the_slow_one_gets_less() {
    let slow = Upstream::start(|_| {
        thread::sleep(Duration::from_millis(60));
        ok("slow")
    });
    let fast = Upstream::start(|_| ok("fast"));
    let upstreams = [slow, fast];
    let mut config = config(Kind::Controller, &upstreams);
    config.services[0].balance = Balance::PeakEwma;
    let front = Front::start(config);
    for _ in 0..60 {
        front.get("/api/v1/vm");
    }
    let counts = counts(&upstreams);
    assert!(counts[0] < 12 && counts[1] > 48, "{counts:?}");
    assert!(front.view().services[0].upstreams[0].latency_seconds.unwrap() > 0.02);
}
