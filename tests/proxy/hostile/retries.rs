//! Design §4.4, row by row: what may be sent again is, and nothing else, for every kind of route.

use std::{thread, time::Duration};

use switchyard::{clock, config::proxy::Kind};

use super::{Act, Hosts, PATIENCE, Seen};
use crate::{
    front::{self, Front},
    raw::{Answer, Wire},
};

/// What becomes of a request that was sent and got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// Another upstream is asked.
    Repeated,
    /// A 502: it may have run.
    Unknown,
    /// A 502: it changed nothing.
    Unanswered,
}

use Lost::{Repeated, Unanswered, Unknown};

#[derive(Debug, Clone, Copy)]
struct Route {
    kind: Kind,
    method: &'static str,
    path: &'static str,
    body: &'static str,
    /// The upstreams declare that they know idempotency keys.
    keys: bool,
    lost: Lost,
}

const fn of(kind: Kind, method: &'static str, path: &'static str, body: &'static str, lost: Lost) -> Route {
    Route { kind, method, path, body, keys: true, lost }
}

const C: Kind = Kind::Controller;
const R: Kind = Kind::Registry;
const ROUTES: &[Route] = &[
    of(C, "GET", "/api/v1/vm", "", Repeated),
    of(C, "HEAD", "/api/v1/vm", "", Repeated),
    of(C, "GET", "/config/v1/auth", "", Repeated),
    of(C, "DELETE", "/api/v1/vm", "{\"id\":\"x\"}", Repeated),
    of(C, "POST", "/api/v1/vm", "{\"vmid\":\"t\"}", Repeated),
    Route { keys: false, ..of(C, "POST", "/api/v1/vm", "{\"vmid\":\"t\"}", Unknown) },
    of(C, "PUT", "/api/v1/vm", "{}", Unknown),
    of(C, "POST", "/api/v1/node/config", "{}", Unknown),
    of(C, "DELETE", "/api/v1/registry/revert", "", Unknown),
    of(C, "GET", "/switchyard/v1/tasks", "", Unknown),
    of(C, "GET", "/queue/v1/cmd/task", "", Unknown),
    of(C, "POST", "/switchyard/v1/heartbeat", "{}", Unknown),
    of(C, "POST", "/tap/v1/handshake", "{}", Unknown),
    of(C, "GET", "/pages/unknown", "", Unanswered),
    of(C, "POST", "/pages/unknown", "{}", Unknown),
    of(R, "GET", "/v2/a/manifests/x", "", Repeated),
    of(R, "GET", "/v2/_catalog", "", Repeated),
    of(R, "GET", "/v2/a/tags/list", "", Repeated),
    of(R, "GET", "/v2/a/blobs/sha256:0", "", Repeated),
    of(R, "HEAD", "/v2/a/blobs/sha256:0", "", Repeated),
    of(R, "GET", "/registry/vm", "", Repeated),
    of(R, "PUT", "/v2/a/manifests/x", "{}", Unknown),
    of(R, "DELETE", "/v2/a/manifests/x", "", Unknown),
    of(R, "POST", "/v2/a/blobs/uploads/", "", Unknown),
    of(R, "PATCH", "/v2/a/blobs/uploads/1", "some bytes", Unknown),
    of(R, "PUT", "/v2/a/blobs/uploads/1?digest=sha256:0", "the rest", Unknown),
    of(R, "DELETE", "/v2/a/blobs/sha256:0", "", Unknown),
    of(R, "DELETE", "/registry/revert?id=t", "", Unknown),
    of(R, "GET", "/registry/download/layer", "", Unanswered),
    of(R, "POST", "/registry/upload/layer", "{}", Unknown),
];

fn request(route: &Route, id: &str) -> String {
    let Route { method, path, body, .. } = route;
    format!(
        "{method} {path} HTTP/1.1\r\nHost: front\r\nX-Request-Id: {id}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Two upstreams and a front for this route.
fn stage(
    route: &Route,
    count: usize,
    change: impl FnOnce(&mut switchyard::config::proxy::Proxy),
) -> (Hosts, Front) {
    let hosts = Hosts::new(count);
    if !route.keys {
        hosts.upstreams.iter().for_each(|upstream| upstream.says(200, "ok"));
    }
    let mut config = front::config(route.kind, &hosts.addresses());
    change(&mut config);
    (hosts, Front::start(config))
}

/// The attempts of the access line of a request, as upstream and end.
fn attempts(front: &Front, id: &str) -> Vec<(String, String)> {
    let mine = |line: &serde_json::Value| line["request"] == id;
    let read = || -> Option<serde_json::Value> {
        let text = std::fs::read_to_string(&front.log).unwrap_or_default();
        // The last line may still be on its way.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).find(mine)
    };
    front::eventually("its access line is written", || read().is_some());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let line = read().unwrap();
    line["attempts"].as_array().unwrap().iter().map(|a| (text(&a["upstream"]), text(&a["end"]))).collect()
}

/// What an answer of ours says, in whichever format.
fn message(answer: &Answer) -> String {
    let body = answer.json();
    let oci = body["errors"][0]["message"].as_str().map(str::to_owned);
    oci.unwrap_or_else(|| {
        assert_eq!(body["status"], "FAIL");
        body["message"].as_str().unwrap_or_default().to_owned()
    })
}

/// The log names exactly the upstreams that saw the request, in order.
fn agrees(front: &Front, id: &str, seen: &[Seen], ends: &[&[&str]]) {
    let logged = attempts(front, id);
    let hosts: Vec<_> = seen.iter().map(|seen| format!("u{}", seen.host)).collect();
    let named: Vec<_> = logged.iter().map(|(upstream, _)| upstream.clone()).collect();
    assert_eq!(named, hosts, "{id}: the log and the upstreams disagree");
    for ((_, end), may) in logged.iter().zip(ends) {
        assert!(may.contains(&end.as_str()), "{id}: ended as {end}, not one of {may:?}");
    }
    assert_eq!(logged.len(), ends.len(), "{id}: {logged:?}");
}

/// Judges what came of a request whose first upstream failed as `act` says.
fn check(hosts: &Hosts, front: &Front, route: &Route, act: Act, ends: &[&str]) {
    let id = format!("{}-{act:.20?}", route.method).replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let what = format!("{} {} after {act:?}", route.method, route.path);
    hosts.will([act]);
    let begun = clock::now();
    let mut wire = Wire::connect(front.address).patience(PATIENCE);
    let answer = wire.ask(&request(route, &id)).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(begun.elapsed() < Duration::from_secs(2), "{what}: took {:?}", begun.elapsed());
    let seen = hosts.seen(&id);
    if route.lost == Repeated {
        assert_eq!((answer.status(), seen.len()), (200, 2), "{what}: {}", answer.text());
        assert_ne!(seen[0].host, seen[1].host, "{what}: asked the same again");
        assert_eq!(seen[1].body, route.body.as_bytes(), "{what}");
        let key = |seen: &Seen| seen.head.get("idempotency-key").map(str::to_owned);
        assert_eq!(key(&seen[0]), key(&seen[1]), "{what}");
        assert_eq!(key(&seen[0]).is_some(), route.method == "POST", "{what}");
        agrees(front, &id, &seen, &[ends, &["answered"]]);
        return;
    }
    assert_eq!((answer.status(), seen.len()), (502, 1), "{what}: {}", answer.text());
    let said = message(&answer);
    let wanted = if route.lost == Unknown { "outcome is unknown" } else { "nothing was changed" };
    assert!(said.contains(wanted) && said.contains(&format!("u{}", seen[0].host)), "{what}: {said}");
    if answer.head.get("connection").is_some_and(|connection| connection.eq_ignore_ascii_case("close")) {
        assert!(wire.ended(), "{what}");
    }
    agrees(front, &id, &seen, &[ends]);
}

#[test]
fn a_request_without_answer_is_sent_again_if_that_does_no_harm_and_else_said_to_be_lost() {
    let closed = &["closed"][..];
    let broken = &["closed", "garbled"][..];
    let garbled = &["garbled"][..];
    let one = |route: &Route| {
        let (hosts, front) = stage(route, 2, |_| {});
        for (act, ends) in [
            (Act::CloseAtHead, closed),
            (Act::Close, closed),
            (Act::CloseAfter(Duration::from_millis(150)), closed),
            (Act::ResetAtHead, closed),
            (Act::Reset, closed),
            (Act::Write("HTTP/1.1 20".into()), broken),
            (Act::Write("HTTP/1.1 200 OK\r\nContent-Le".into()), broken),
            (Act::WriteAndReset("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n".into()), broken),
            (Act::Write("SSH-2.0-OpenSSH\r\n\r\n".into()), garbled),
            (Act::Write("HTTP/1.1 100 Continue\r\n\r\n".into()), broken),
        ] {
            check(&hosts, &front, route, act, ends);
        }
    };
    // Several at once: each waits for much of its time.
    thread::scope(|scope| {
        for routes in ROUTES.chunks(6) {
            scope.spawn(move || routes.iter().for_each(one));
        }
    });
}

#[test]
fn an_answer_that_broke_off_is_cut_for_the_client_and_nobody_else_is_asked() {
    let one = |route: &Route| {
        let (hosts, front) = stage(route, 2, |_| {});
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegin";
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n";
        for (n, act) in [
            Act::Write(length.into()),
            Act::Write(chunks.into()),
            Act::WriteAndReset(length.into()),
            Act::WriteAndReset(chunks.into()),
        ]
        .into_iter()
        .enumerate()
        {
            let (id, what) =
                (format!("broken-{n}"), format!("{} {} after {act:?}", route.method, route.path));
            hosts.will([act]);
            let mut wire = Wire::connect(front.address).patience(PATIENCE);
            wire.send(request(route, &id)).unwrap();
            let head = wire.head().unwrap().unwrap_or_else(|| panic!("{what}: no head"));
            assert_eq!(head.status(), 200, "{what}");
            let mut got = Vec::new();
            let whole = wire.body(&head, true, |piece| got.extend_from_slice(piece));
            assert!(whole.is_err(), "{what}: ended cleanly with {got:?}");
            let seen = hosts.seen(&id);
            assert_eq!(seen.len(), 1, "{what}");
            agrees(&front, &id, &seen, &[&["broke-off"]]);
        }
        assert!(front.lines(4).iter().all(|line| line["end"] == "aborted"));
    };
    let (head, blob) =
        (|route: &Route| route.method == "HEAD", |route: &Route| route.path.contains("blobs/sha256"));
    let routes: Vec<_> = ROUTES.iter().filter(|route| !head(route) && !blob(route)).collect();
    thread::scope(|scope| {
        for routes in routes.chunks(6) {
            scope.spawn(move || routes.iter().for_each(|route| one(route)));
        }
    });
}

#[test]
fn an_answer_of_retry_status_is_asked_for_elsewhere_only_where_a_repeat_does_no_harm() {
    for route in ROUTES.iter().filter(|route| route.method != "HEAD") {
        let (hosts, front) = stage(route, 2, |_| {});
        for status in [502, 503, 504] {
            let busy = format!("HTTP/1.1 {status} Busy\r\nContent-Length: 4\r\nX-Mine: 1\r\n\r\nbusy");
            let (id, what) = (format!("busy-{status}"), format!("{} {} {status}", route.method, route.path));
            hosts.will([Act::Say(busy)]);
            let answer = front.ask(&request(route, &id));
            let seen = hosts.seen(&id);
            // A create goes under its key, the second time as the first.
            if route.lost == Repeated {
                assert_eq!((answer.status(), seen.len()), (200, 2), "{what}");
                agrees(&front, &id, &seen, &[&["retry-status"], &["answered"]]);
                let key = |at: usize| seen[at].head.get("idempotency-key");
                assert_eq!(key(0), key(1), "{what}");
                assert_eq!(key(0).is_some(), route.method == "POST", "{what}");
            } else {
                assert_eq!(
                    (answer.status(), answer.text().as_str(), seen.len()),
                    (status, "busy", 1),
                    "{what}"
                );
                assert_eq!(answer.head.get("x-mine"), Some("1"), "{what}");
                agrees(&front, &id, &seen, &[&["answered"]]);
            }
        }
        // Other errors are answers.
        for status in [400, 404, 409, 429, 500, 501, 507] {
            hosts.will([Act::Say(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"))]);
            let id = format!("answer-{status}");
            assert_eq!(front.ask(&request(route, &id)).status(), status, "{} {}", route.method, route.path);
            assert_eq!(hosts.seen(&id).len(), 1);
        }
    }
}

#[test]
fn what_could_not_be_sent_is_sent_elsewhere_whatever_it_is() {
    for route in ROUTES {
        let hosts = Hosts::new(1);
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [nobody.local_addr().unwrap(), hosts.addresses()[0]];
        let mut config = front::config(route.kind, &addresses);
        config.services[0].health.kind = switchyard::config::proxy::ProbeKind::Tcp;
        // Its verdict stays good.
        config.services[0].health.fall = 100_000;
        let front = Front::start(config);
        drop(nobody);
        for n in 0..4 {
            let id = format!("nobody-{n}");
            let answer = Wire::connect(front.address).patience(PATIENCE).ask(&request(route, &id)).unwrap();
            assert_eq!((answer.status(), hosts.seen(&id).len()), (200, 1), "{} {}", route.method, route.path);
            let ends: Vec<_> = attempts(&front, &id).into_iter().map(|(_, end)| end).collect();
            let (last, before) = ends.split_last().unwrap();
            assert!(last == "answered" && before.iter().all(|end| end == "connect-failed"), "{ends:?}");
        }
    }
}

#[test]
fn there_are_no_more_attempts_than_configured() {
    for (count, attempts, wanted) in [(3, 3, 3), (3, 2, 2), (3, 1, 1), (5, 3, 3), (2, 3, 3), (1, 3, 2)] {
        for route in [&ROUTES[0], &ROUTES[3], &ROUTES[4]] {
            let (hosts, front) = stage(route, count, |config| config.services[0].attempts = attempts);
            hosts.will(vec![Act::Close; 9]);
            let answer = front.ask(&request(route, "all"));
            let (seen, what) = (hosts.seen("all"), format!("{} {count} {attempts}", route.method));
            assert_eq!((answer.status(), seen.len()), (502, wanted), "{what}: {}", answer.text());
            let mut asked: Vec<_> = seen.iter().map(|seen| seen.host).collect();
            asked.sort_unstable();
            asked.dedup();
            assert_eq!(asked.len(), count.min(wanted), "{what}: others first");
            let mut keys: Vec<_> = seen.iter().map(|seen| seen.head.get("idempotency-key")).collect();
            keys.dedup();
            assert_eq!(keys.len(), 1, "{what}");
            agrees(&front, "all", &seen, &vec![&["closed"][..]; wanted]);
        }
    }
}

#[test]
fn a_create_is_not_carried_to_an_upstream_that_knows_no_keys() {
    let route = &ROUTES[4];
    let hosts = Hosts::new(2);
    hosts.upstreams[1].says(200, "ok");
    let front = Front::start(front::config(Kind::Controller, &hosts.addresses()));
    for n in 0..4 {
        let id = format!("create-{n}");
        hosts.will([Act::Close, Act::Close]);
        let answer = front.ask(&request(route, &id));
        let seen = hosts.seen(&id);
        assert_eq!(answer.status(), 502, "{}", answer.text());
        assert!(message(&answer).contains("outcome is unknown"));
        // Once where no keys are known; where they are, again there or not, but not on to the other.
        assert!(seen.iter().all(|other| other.host == seen[0].host), "{seen:?}");
        if seen[0].host == 1 {
            assert_eq!((seen.len(), seen[0].head.get("idempotency-key")), (1, None));
        }
    }
}

#[test]
fn the_clients_own_key_goes_with_every_attempt() {
    let route = &ROUTES[4];
    let (hosts, front) = stage(route, 2, |_| {});
    hosts.will([Act::Close]);
    let text = request(route, "mine").replace("Host:", "Idempotency-Key: of-the-client\r\nHost:");
    assert_eq!(front.ask(&text).status(), 200);
    let seen = hosts.seen("mine");
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.head.get("idempotency-key") == Some("of-the-client")));
    // To one that declares nothing it is passed on as the client's header, and not sent twice.
    let (hosts, front) = stage(&ROUTES[5], 2, |_| {});
    hosts.will([Act::Close]);
    assert_eq!(front.ask(&text).status(), 502);
    assert_eq!(hosts.seen("mine").len(), 1);
}

#[test]
fn a_request_that_failed_leaves_its_client_connection_usable_or_closed_as_said() {
    for route in ROUTES.iter().filter(|route| route.lost != Repeated) {
        let (hosts, front) = stage(route, 2, |_| {});
        hosts.will([Act::Close]);
        let mut wire = Wire::connect(front.address).patience(PATIENCE);
        let answer = wire.ask(&request(route, "lost")).unwrap();
        assert_eq!(answer.status(), 502);
        match answer.head.get("connection") {
            Some(connection) if connection.eq_ignore_ascii_case("close") => assert!(wire.ended()),
            _ => assert_eq!(wire.ask(&request(route, "next")).unwrap().status(), 200),
        }
    }
}

#[test]
fn many_requests_at_once_are_each_sent_as_often_as_they_may() {
    let (hosts, front) = stage(&ROUTES[0], 3, |_| {});
    // Two of three requests that arrive are dropped, whichever they are.
    let acts = (0..400).map(|n| if n % 3 == 0 { Act::Answer } else { Act::Close });
    hosts.will(acts);
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let address = front.address;
            thread::spawn(move || {
                for n in 0..12 {
                    let route = &ROUTES[if n % 2 == 0 { 0 } else { 6 }];
                    let answer =
                        Wire::connect(address).ask(&request(route, &format!("many-{client}-{n}"))).unwrap();
                    assert!(matches!(answer.status(), 200 | 502), "{}", answer.text());
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    for client in 0..8 {
        for n in 0..12 {
            let seen = hosts.seen(&format!("many-{client}-{n}"));
            let most = if n % 2 == 0 { 3 } else { 1 };
            assert!((1..=most).contains(&seen.len()), "{} of {most}", seen.len());
        }
    }
}
