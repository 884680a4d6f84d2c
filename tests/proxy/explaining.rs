//! What `explain` says of a request is what becomes of it.

use std::{
    net::SocketAddr,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use switchyard::{
    config::{
        bounds::{Bounds, By, Rate},
        proxy::{Balance, Does, Hold, Key, Kind, Network, Passive, Proxy, Rule, StaleReads, Sticky},
    },
    wire::{
        decisions::{Decision, Decisions},
        explain::{Ask, Explained, Way},
    },
};

use crate::{
    front::{self, Front, eventually},
    raw::{self, Answer, with_body},
    registry::{self, cloud, knows, started},
    upstream::{Upstream, ok},
};

/// A request, in both forms.
#[derive(Clone, Copy)]
struct One<'a> {
    method: &'a str,
    path: &'a str,
    fields: &'a [&'a str],
}

const READ: One<'_> = One { method: "GET", path: "/api/v1/vm", fields: &[] };
const START: One<'_> = One { method: "POST", path: "/api/v1/vm", fields: &["Content-Length: 0"] };
const POLL: One<'_> = One { method: "GET", path: "/switchyard/v1/tasks", fields: &[] };
const TAG: One<'_> = One { method: "GET", path: "/v2/a/manifests/latest", fields: &[] };
const PUT: One<'_> = One { method: "PUT", path: "/v2/a/manifests/latest", fields: &["Content-Length: 0"] };
const BLOB: One<'_> = One { method: "GET", path: "/v2/a/blobs/b", fields: &[] };
const LIST: One<'_> = One { method: "GET", path: "/v2/_catalog", fields: &[] };

fn post(front: &Front, body: &str) -> Answer {
    raw::ask(front.admin, &with_body("POST", "/admin/v1/explain", "Connection: close\r\n", body))
}

fn explain(front: &Front, one: One<'_>) -> Explained {
    let mut headers: Vec<String> = vec!["Host: front".into()];
    headers.extend(one.fields.iter().map(|field| (*field).to_owned()));
    let ask = Ask { method: one.method.into(), path: one.path.into(), headers, ..Ask::default() };
    let answer = post(front, &serde_json::to_string(&ask).unwrap());
    assert_eq!(answer.status(), 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

fn way(front: &Front, one: One<'_>) -> Way {
    let mut explained = explain(front, one);
    assert_eq!(explained.ways.len(), 1, "{explained:?}");
    explained.ways.remove(0)
}

/// Explains it, sends it, and compares with what the access log says. What was said.
fn agrees(front: &Front, one: One<'_>) -> Way {
    static SENT: AtomicUsize = AtomicUsize::new(0);
    let id = format!("asked-{}", SENT.fetch_add(1, Ordering::Relaxed));
    let said = way(front, one);
    let fields: String = one.fields.iter().map(|field| format!("{field}\r\n")).collect();
    let text =
        format!("{} {} HTTP/1.1\r\nHost: front\r\nX-Request-Id: {id}\r\n{fields}\r\n", one.method, one.path);
    let status = front.ask(&text).status();
    let line = || front.lines(0).into_iter().find(|line| line["request"] == id);
    eventually("its line is written", || line().is_some());
    let line = line().unwrap();
    let context = format!("{said:#?}\n{line:#}");
    if let Some(refused) = &said.refused {
        assert_eq!(status, refused.status, "{context}");
        assert_eq!(line["reason"], refused.code, "{context}");
        assert_eq!(line["error"], refused.error, "{context}");
        assert_eq!(line["attempts"].as_array().map_or(0, Vec::len), 0, "{context}");
        return said;
    }
    let (request, choice) = (said.request.as_ref().unwrap(), said.choice.as_ref().unwrap());
    assert_eq!(line["class"], request.class, "{context}");
    assert_eq!(line["service"], request.service, "{context}");
    assert_eq!(line["path"], *said.path.as_ref().unwrap(), "{context}");
    assert_eq!(line["client"], said.client, "{context}");
    let nobody = choice.nobody.as_ref();
    let pick = choice.pick.as_ref().or_else(|| nobody.and_then(|nobody| nobody.last_resort.as_ref()));
    let Some(pick) = pick else {
        let then = nobody.unwrap().then.as_ref().unwrap();
        assert_eq!((status, &line["reason"]), (then.status, &then.code.clone().into()), "{context}");
        return said;
    };
    let first = &line["attempts"][0];
    if pick.certain {
        assert_eq!(
            (&first["upstream"], &first["why"]),
            (&pick.upstream.clone().into(), &pick.why.clone().into()),
            "{context}"
        );
    } else {
        let may = |name: &serde_json::Value| {
            choice.upstreams.iter().any(|one| *name == one.name && one.eligible && one.share > 0.0)
        };
        assert!(may(&first["upstream"]), "{context}");
    }
    if line["attempts"].as_array().unwrap().len() == 1 {
        assert_eq!(line["stale"].as_str(), pick.stale.as_deref(), "{context}");
    }
    said
}

fn named(count: usize) -> Vec<Upstream> {
    (0..count).map(|at| Upstream::start(move |_| ok(&format!("u{at}")))).collect()
}

fn controllers(upstreams: &[Upstream]) -> Proxy {
    let addresses: Vec<SocketAddr> = upstreams.iter().map(|upstream| upstream.address).collect();
    front::config(Kind::Controller, &addresses)
}

fn code(way: &Way) -> &str {
    way.refused.as_ref().map_or("", |refused| &refused.code)
}

#[test]
fn a_turn_is_foretold_and_not_taken() {
    let upstreams = named(3);
    let front = Front::start(controllers(&upstreams));
    let mut picked = Vec::new();
    for _ in 0..6 {
        for _ in 0..3 {
            way(&front, READ);
        }
        let said = agrees(&front, READ);
        let choice = said.choice.unwrap();
        assert!(choice.upstreams.iter().all(|one| (one.share - 1.0 / 3.0).abs() < 0.01), "{choice:?}");
        picked.push(choice.pick.unwrap().upstream);
        agrees(&front, START);
        agrees(&front, POLL);
    }
    picked.sort();
    picked.dedup();
    assert_eq!(picked.len(), 1, "one of three requests: {picked:?}");
    assert!(upstreams.iter().all(|one| one.count() == 6), "nothing else was sent");
}

#[test]
fn what_ties_a_client_is_found() {
    let upstreams = named(4);
    let by = |sticky: Option<Sticky>, balance, hash| {
        let mut config = controllers(&upstreams);
        let service = &mut config.services[0];
        (service.sticky, service.balance, service.hash) = (sticky, balance, hash);
        Front::start(config)
    };
    let least = Balance::LeastRequests;
    let front = by(Some(Sticky::Address), least, Key::Address);
    for one in [READ, START, POLL] {
        assert_eq!(agrees(&front, one).choice.unwrap().tie, "sticky by client address");
    }
    let front = by(Some(Sticky::Header("x-team".into())), least, Key::Address);
    for team in ["x-team: a", "X-Team: b", "x-team: c", "x-other: c"] {
        agrees(&front, One { fields: &[team], ..READ });
    }
    let front = by(Some(Sticky::Cookie("server".into())), least, Key::Address);
    let given = front.get("/api/v1/vm");
    let cookie = given.head.get("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let said = agrees(&front, One { fields: &[&format!("Cookie: {cookie}")], ..READ });
    assert!(said.choice.unwrap().pick.unwrap().certain);
    assert!(!agrees(&front, READ).choice.unwrap().pick.unwrap().certain);
    let front = by(None, Balance::ConsistentHash, Key::Header("x-job".into()));
    for job in ["x-job: 1", "x-job: 2", "x-job: 3"] {
        let said = agrees(&front, One { fields: &[job], ..READ });
        assert!(said.choice.unwrap().pick.unwrap().certain);
    }
    for balance in [Balance::PeakEwma, least] {
        let front = by(None, balance, Key::Address);
        (0..4).for_each(|_| drop(agrees(&front, READ)));
    }
}

#[test]
fn who_is_down_ejected_or_cannot_write_is_named_with_its_reason() {
    let bad = Arc::new(AtomicBool::new(true));
    let is_bad = bad.clone();
    let mut upstreams = named(3);
    upstreams.push(Upstream::start(move |_| match is_bad.load(Ordering::SeqCst) {
        true => "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".into(),
        false => ok("u3"),
    }));
    upstreams[1].says(200, r#"{"ready":true,"read":true,"write":false,"why":["etcd: no leader"]}"#);
    upstreams[2].says(503, r#"{"ready":false,"why":["starts"]}"#);
    let mut config = controllers(&upstreams);
    config.services[0].passive = Passive {
        failures: 2,
        ejection: Duration::from_secs(60),
        panic_threshold: 0.0,
        ..Passive::default()
    };
    let front = Front::start(config);
    front.wait_until("one is down", |view| view.services[0].upstreams[2].health == "down");
    eventually("one is ejected", || {
        front.get("/api/v1/vm");
        front.view().services[0].upstreams[3].ejected.is_some()
    });
    let said = agrees(&front, START).choice.unwrap();
    assert_eq!(said.pick.unwrap().upstream, "u0");
    let whys: Vec<_> = said.upstreams.iter().map(|one| (one.eligible, one.why.as_str())).collect();
    assert_eq!(whys[0], (true, "a first choice"));
    assert_eq!(whys[1], (false, "etcd: no leader"));
    assert!(whys[2].1.starts_with("down, "), "{whys:?}");
    assert_eq!(whys[3], (false, "ejected, too many requests failed there"));
    for _ in 0..4 {
        agrees(&front, READ);
    }
    assert_eq!(front.view().services[0].upstreams[3].ejected.as_ref().map(|out| out.times), Some(1));
}

#[test]
fn a_trial_is_foretold_and_not_begun() {
    let bad = Upstream::start(|_| "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".into());
    let good = Upstream::start(|_| ok("good"));
    let mut config = front::config(Kind::Controller, &[bad.address, good.address]);
    config.services[0].passive =
        Passive { failures: 2, ejection: Duration::from_millis(300), ..Passive::default() };
    let front = Front::start(config);
    eventually("it is ejected", || {
        front.get("/api/v1/vm");
        front.view().services[0].upstreams[0].ejected.is_some()
    });
    let trial = |front: &Front| way(front, READ).choice.unwrap().upstreams[0].traffic == "trial";
    eventually("its trial is due", || trial(&front));
    assert!((0..20).all(|_| trial(&front)), "it waits for a request, not for an explanation");
    let before = bad.count();
    for _ in 0..2 {
        agrees(&front, READ);
    }
    assert_eq!(bad.count(), before + 1);
}

#[test]
fn what_is_turned_away_is_turned_away_with_the_same_words() {
    let upstreams = named(1);
    let mut config = controllers(&upstreams);
    config.listeners[0].rules = vec![
        Rule { host: Some("ci.example".into()), path: None, does: Does::Send(0) },
        Rule { host: None, path: Some("/api".into()), does: Does::Send(0) },
    ];
    let deny = |path: &str, does| Rule { host: None, path: Some(path.into()), does };
    config.listeners[0].rules.insert(1, deny("/api/private", Does::Forbid));
    config.listeners[0].rules.insert(2, deny("/api/secret", Does::Hide));
    let front = Front::start(config);
    let said = agrees(&front, READ);
    let rules: Vec<_> = said.rules.iter().map(|rule| (rule.matches, rule.why.as_str())).collect();
    let other = (false, "the path is `/api/v1/vm`");
    assert_eq!(rules, [(false, "the host is `front`"), other, other, (true, "the first that matches")]);
    let get = |path: &'static str| One { path, ..READ };
    let denied = agrees(&front, get("/api/private/x"));
    assert_eq!(code(&denied), "denied-by-rule");
    assert_eq!(denied.rules.last().unwrap().why, "the first that matches, and it denies with 403");
    assert_eq!(code(&agrees(&front, get("/api/secret"))), "no-route");
    assert_eq!(code(&agrees(&front, get("/other"))), "no-route");
    assert_eq!(code(&agrees(&front, get("/metrics"))), "no-route");
    assert_eq!(agrees(&front, get("//api/v1//vm")).path.unwrap(), "/api/v1/vm");
    assert_eq!(code(&agrees(&front, get("/api/../metrics"))), "ambiguous-path");
    let fields = |fields| One { fields, ..READ };
    // What never becomes a request is in another line.
    assert_eq!(
        code(&way(&front, fields(&["Content-Length: 1", "Transfer-Encoding: chunked"]))),
        "both-lengths"
    );
    assert_eq!(code(&way(&front, fields(&["Bad Name: x"]))), "bad-header-name");
    assert_eq!(code(&agrees(&front, fields(&["Content-Length: 99999999999"]))), "body-too-large");

    let mut config = front.config.clone();
    config.services[0].maintenance = true;
    front.reload(&config).unwrap();
    assert_eq!(code(&agrees(&front, READ)), "maintenance");
    assert_eq!(upstreams[0].count(), 2);
}

#[test]
fn one_that_is_drained_is_told_to_be() {
    let upstreams = named(2);
    let front = Front::start(controllers(&upstreams));
    let path = "/admin/v1/services/pool/upstreams/u0/drain";
    let answer = raw::ask(front.admin, &with_body("POST", path, "Connection: close\r\n", "{}"));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    for _ in 0..4 {
        let said = agrees(&front, READ).choice.unwrap();
        assert_eq!(said.upstreams[0].why, "drained by an operator");
        assert_eq!(said.pick.unwrap().upstream, "u1");
    }
}

#[test]
fn limits_are_looked_at_and_not_used_up() {
    let upstreams = named(1);
    let mut config = controllers(&upstreams);
    let rate = Rate { by: By::Address, requests: 1, per: Duration::from_secs(3600), burst: 2 };
    config.listeners[0].limits.bounds = Bounds { rate: Some(rate), ..Bounds::default() };
    let front = Front::start(config);
    for _ in 0..5 {
        assert_eq!(code(&way(&front, READ)), "");
    }
    for wanted in ["", "", "rate"] {
        let said = agrees_but_for_time(&front, READ);
        assert_eq!(code(&said), wanted);
    }
    let mut config = front.config.clone();
    let network = Network { address: "127.0.0.0".parse().unwrap(), bits: 8 };
    config.listeners[0].limits.bounds = Bounds { deny: vec![network], ..Bounds::default() };
    front.reload(&config).unwrap();
    assert_eq!(code(&way(&front, READ)), "denied");
    assert_eq!(front.get("/api/v1/vm").status(), 403);
    let ask = r#"{"method":"GET","path":"/api/v1/vm","client":"192.0.2.7"}"#;
    let other: Explained = serde_json::from_slice(&post(&front, ask).body).unwrap();
    assert_eq!((code(&other.ways[0]), other.ways[0].client.as_str()), ("", "192.0.2.7"));
}

/// The time after which one may come again goes by meanwhile.
fn agrees_but_for_time(front: &Front, one: One<'_>) -> Way {
    let said = way(front, one);
    let status = front.get(one.path).status();
    assert_eq!(status, said.refused.as_ref().map_or(200, |refused| refused.status));
    said
}

#[test]
fn registries_are_told_apart_by_what_they_have() {
    let (writer, one, two) = cloud();
    let mut config = registry::config(&[&writer, &one, &two]);
    config.services[0].reads.fresh_wait = Duration::from_millis(200);
    let front = started(config);
    let pushed = writer.push("a");
    one.copies(pushed);
    writer.confirmed();
    knows(&front, 1, pushed);
    let said = agrees(&front, TAG).choice.unwrap();
    assert_eq!(said.pick.unwrap().upstream, "u1");
    let fresh = said.freshness.unwrap();
    assert!(fresh.matters && fresh.known && fresh.needed == Some(pushed), "{fresh:?}");
    assert_eq!(said.upstreams[2].why, format!("has 1.0, and {pushed} is needed"));
    for one in [LIST, BLOB, PUT, One { method: "HEAD", ..BLOB }, One { method: "DELETE", ..TAG }] {
        agrees(&front, one);
    }
    let upload = |path| One { method: "PATCH", path, fields: &["Content-Length: 0"] };
    assert_eq!(
        agrees(&front, upload("/v2/a/blobs/uploads/r2.1b")).choice.unwrap().pick.unwrap().upstream,
        "u2"
    );

    // Nobody but the writer has it: waited for at first, and then not any more.
    writer.push("a");
    writer.confirmed();
    let said = agrees(&front, TAG).choice.unwrap();
    let nobody = said.nobody.expect("a replica is waited for");
    assert!(nobody.catches_up_ms.is_some_and(|ms| ms <= 200), "{nobody:?}");
    assert_eq!(nobody.last_resort.unwrap().upstream, "u0");
    let said = agrees(&front, TAG).choice.unwrap();
    assert_eq!(said.pick.unwrap().why, "the writer, no replica is fresh enough");
}

#[test]
fn without_the_writer_what_may_be_stale_is_marked() {
    let ways = [(StaleReads::WriterLost, ("u1", Some("unknown"))), (StaleReads::Never, ("u0", None))];
    for (stale, wanted) in ways {
        let (writer, one, _) = cloud();
        let mut config = registry::config(&[&writer, &one]);
        let short = Duration::from_millis(300);
        config.services[0].reads.stale = stale;
        config.services[0].hold = Hold { read: short, write: short };
        let front = started(config);
        drop(writer);
        front.wait_until("it is down", |view| view.services[0].upstreams[0].health == "down");
        eventually("the lease has run out", || !way(&front, TAG).choice.unwrap().freshness.unwrap().known);
        // Held at first, and tried at once when nobody has been well for longer than that.
        let last = |way: Way| {
            let choice = way.choice.unwrap();
            choice.pick.or_else(|| choice.nobody.and_then(|nobody| nobody.last_resort)).unwrap()
        };
        let read = last(agrees(&front, TAG));
        assert_eq!((read.upstream.as_str(), read.stale.as_deref()), wanted);
        agrees(&front, BLOB);
        let written = last(agrees(&front, PUT));
        assert_eq!(written.why, "tried although its probes fail, all others' do too");
    }
}

#[test]
fn what_nobody_is_fresh_enough_for_is_refused_as_was_said() {
    let (writer, one, _) = cloud();
    let mut config = registry::config(&[&writer, &one]);
    let reads = &mut config.services[0].reads;
    (reads.write_only, reads.stale) = (true, StaleReads::Never);
    reads.fresh_wait = Duration::from_millis(200);
    let front = started(config);
    writer.push("a");
    writer.confirmed();
    for wait in [true, false] {
        let nobody = agrees(&front, TAG).choice.unwrap().nobody.unwrap();
        assert_eq!((nobody.catches_up_ms.is_some(), nobody.held_ms), (wait, 0), "{nobody:?}");
        let then = nobody.then.unwrap();
        assert_eq!((then.status, then.code.as_str()), (503, "not-fresh"));
    }
}

#[test]
fn what_is_no_request_is_refused_in_words() {
    let upstreams = named(1);
    let front = Front::start(controllers(&upstreams));
    let refused = |body: &str| {
        let answer = post(&front, body);
        (answer.status(), answer.text())
    };
    let (status, text) = refused(r#"{"method":"GET","path":"/","listener":"other"}"#);
    assert_eq!((status, text.as_str()), (404, "there is no listener `other`; there is `front`\n"));
    for (body, says) in [
        ("{}", "missing field"),
        (r#"{"method":"GET","path":"/","hedaers":[]}"#, "unknown field"),
        (r#"{"method":"GET","path":""}"#, "`path` is empty"),
        (r#"{"method":"GET","path":"/","client":"me"}"#, "which is no IP address"),
        (r#"{"method":"GET","path":"/","headers":["a: b\r\nc: d"]}"#, "has a line end in it"),
    ] {
        let (status, text) = refused(body);
        assert!(status == 400 && text.contains(says), "{body}: {status} {text}");
    }
    let long = format!(r#"{{"method":"GET","path":"/{}"}}"#, "x".repeat(300_000));
    assert_eq!(refused(&long).0, 413);
    let long = format!(r#"{{"method":"GET","path":"/{}"}}"#, "x".repeat(40_000));
    let said: Explained = serde_json::from_slice(&post(&front, &long).body).unwrap();
    assert_eq!(code(&said.ways[0]), "head-too-long");
}

fn decided(front: &Front, path: &str) -> Result<Decisions, String> {
    let request = format!("GET /admin/v1/decisions{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = raw::ask(front.admin, &request);
    match answer.status() {
        200 => Ok(serde_json::from_slice(&answer.body).unwrap()),
        status => Err(format!("{status} {}", answer.text())),
    }
}

/// The one decision about this request, once it is over.
fn decision(front: &Front, id: &str) -> Decision {
    eventually("it is over", || decided(front, &format!("/{id}")).is_ok());
    let mut found = decided(front, &format!("/{id}")).unwrap().decisions;
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn what_was_decided_can_be_asked_for_by_request_id() {
    let closes = Upstream::start(|_| String::new());
    let good = Upstream::start(|_| ok("good"));
    let front = Front::start(front::config(Kind::Controller, &[closes.address, good.address]));
    // The first turn is that of the one that closes.
    let answer = front.ask("GET /api/v1/vm?secret=1 HTTP/1.1\r\nHost: a\r\nX-Request-Id: first\r\n\r\n");
    assert_eq!(answer.text(), "good");
    let one = decision(&front, "first");
    assert_eq!((one.method.as_str(), one.path.as_str(), one.status), ("GET", "/api/v1/vm", Some(200)));
    assert_eq!((one.service.as_deref(), one.class.as_deref()), (Some("pool"), Some("controller-api")));
    assert_eq!(
        (one.answered_by.as_str(), one.end.as_str(), one.client.as_str()),
        ("upstream", "done", "127.0.0.1")
    );
    let tries: Vec<_> =
        one.attempts.iter().map(|a| (a.upstream.as_str(), a.end.as_str(), a.why.as_str())).collect();
    assert_eq!(tries, [("u0", "closed", "round-robin among 2"), ("u1", "answered", "the only eligible one")]);
    let stood = |at: usize| -> Vec<_> {
        one.attempts[at].upstreams.iter().map(|s| (s.name.as_str(), s.eligible, s.why.as_str())).collect()
    };
    assert_eq!(stood(0), [("u0", true, "a first choice"), ("u1", true, "a first choice")]);
    assert_eq!(stood(1), [("u0", false, "tried already"), ("u1", true, "a first choice")]);
    let line = front.lines(1).remove(0);
    assert_eq!((&line["attempts"][0]["why"], &line["why"]), (&tries[0].2.into(), &tries[1].2.into()));

    let answer = front.ask("GET /nothing/../x HTTP/1.1\r\nHost: a\r\nX-Request-Id: odd\r\n\r\n");
    assert_eq!(answer.status(), 400);
    let one = decision(&front, "odd");
    assert_eq!((one.status, one.reason.as_deref()), (Some(400), Some("ambiguous-path")));
    // One that never became a request has the id that its client was told.
    let answer = front.ask("GET / HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n");
    let one = decision(&front, answer.head.get("x-request-id").unwrap());
    assert_eq!(
        (one.reason.as_deref(), one.end.as_str(), one.method.as_str()),
        (Some("bad-header-name"), "refused", "")
    );
    assert!(one.next.is_some());

    let of = |query: &str| -> Vec<String> {
        decided(&front, query).unwrap().decisions.into_iter().map(|one| one.request).collect()
    };
    assert_eq!(of("?limit=1&status=200"), ["first"]);
    assert_eq!(of("?upstream=u0&service=pool"), ["first"]);
    assert_eq!(of("").len(), 3);
    assert!(of("?service=other").is_empty());
    assert!(decided(&front, "?limt=1").unwrap_err().starts_with("400 "));
    let none = decided(&front, "/never").unwrap_err();
    assert!(none.contains("none of the last 1024 requests of each thread"), "{none}");
}

#[test]
fn so_many_decisions_are_kept_as_the_config_says_also_after_a_reload() {
    let upstreams = named(1);
    let mut config = controllers(&upstreams);
    (config.threads, config.decisions) = (1, 3);
    let front = Front::start(config);
    let mut config = front.config.clone();
    let ask =
        |id: &str| front.ask(&format!("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n"));
    let kept = || -> Vec<String> {
        decided(&front, "").unwrap().decisions.into_iter().map(|one| one.request).collect()
    };
    for id in ["a", "b", "c", "d"] {
        ask(id);
        eventually("it is kept", || kept().first().is_some_and(|last| last == id));
    }
    assert_eq!(kept(), ["d", "c", "b"]);
    config.decisions = 1;
    front.reload(&config).unwrap();
    ask("e");
    eventually("it is kept", || kept() == ["e"]);
    config.decisions = 0;
    front.reload(&config).unwrap();
    ask("f");
    eventually("none is kept", || kept().is_empty());
    assert!(decided(&front, "/f").unwrap_err().contains("`[admin] decisions` is 0"));
}

/// What `switchyard explain` prints, and what it says went wrong.
fn command(front: &Front, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.arg("explain").args(args).args(["--admin", &format!("http://{}", front.admin)]);
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_says_it_in_lines_and_in_json() {
    let (a, b) = (Upstream::start(|_| ok("a")), Upstream::start(|_| ok("b")));
    b.says(200, r#"{"ready":true,"read":true,"write":false,"why":["etcd: no leader"]}"#);
    let front = Front::start(front::config(Kind::Controller, &[a.address, b.address]));
    let args = ["POST", "/api/v1/vm", "--listener", "front", "-H", "Host: ci", "--client", "192.0.2.7"];
    let (status, out, err) = command(&front, &args);
    assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
    for line in [
        "POST /api/v1/vm at listener `front` from 192.0.2.7",
        "  rule      everything → `pool`: the first that matches",
        "  is        controller-api, a write; makes something new, may be sent again under its key",
        "  upstreams → u0  100 %  a first choice (up, 0 under way)",
        "              u1     no  etcd: no leader (up, 0 under way)",
        "  goes to   u0: the only eligible one",
    ] {
        assert!(out.lines().any(|printed| printed == line), "{line}\n{out}");
    }
    assert!(
        out.contains("no answer comes: the same upstream is tried once more, if the retry budget allows"),
        "{out}"
    );
    let (_, out, _) = command(&front, &["GET", "/api/v1/vm", "--output", "json"]);
    let explained: Explained = serde_json::from_str(&out).unwrap();
    assert_eq!(explained.ways[0].choice.as_ref().unwrap().upstreams.len(), 2);

    front.ask("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\nX-Request-Id: asked\r\n\r\n");
    decision(&front, "asked");
    let (status, out, _) = command(&front, &["--request", "asked"]);
    assert_eq!(status, Some(0));
    assert!(
        out.contains("try 1     u0: round-robin among 2\n            came of it: answered (new connection"),
        "{out}"
    );
    let (_, out, _) = command(&front, &["--request", "asked", "--output", "json"]);
    assert_eq!(serde_json::from_str::<Decisions>(&out).unwrap().decisions[0].request, "asked");

    let (status, out, err) = command(&front, &["--request", "never"]);
    assert_eq!((status, out.as_str()), (Some(1), ""));
    assert!(err.contains("requests of each thread has this id"), "{err}");
    let (status, _, err) = command(&front, &["GET", "/", "--listener", "other"]);
    assert!(status == Some(1) && err.contains("there is no listener `other`; there is `front`"), "{err}");
    for wrong in [&["GET"][..], &[], &["GET", "/", "--request", "x"], &["--request", "a b"]] {
        assert_eq!(command(&front, wrong).0, Some(2), "{wrong:?}");
    }
}
