//! Upstreams that fail in every way, and what the client sees of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use switchyard::{
    clock,
    config::proxy::{Kind, RetryBudget},
};

use crate::{
    front::{self, Front},
    raw::{Wire, with_body},
    upstream::{Seen, Then, Upstream, ok},
};

/// One that fails with `failure` on every request, and one that is well.
fn pair(failure: &'static str) -> (Upstream, Upstream, Front) {
    let bad = Upstream::start(move |_| failure.to_owned());
    let good = Upstream::start(|_| ok("good"));
    let front = Front::controllers(&[bad.address, good.address]);
    (bad, good, front)
}

/// Answers that are none.
const NO_ANSWERS: [&str; 4] = ["", "HTTP/1.1 20", "HTTP/1.1 200 OK\r\nContent-Le", "nonsense\r\n\r\n"];

#[test]
fn a_read_that_got_no_answer_is_answered_by_another_upstream() {
    for failure in NO_ANSWERS {
        // What is no whole head must also not wait for more of it.
        let bad = Upstream::raw(move |wire, _| {
            wire.send(failure).unwrap();
            Then::Close
        });
        let good = Upstream::start(|_| ok("good"));
        let front = Front::controllers(&[bad.address, good.address]);
        for _ in 0..6 {
            let answer = front.get("/api/v1/vm");
            assert_eq!((answer.status(), answer.text().as_str()), (200, "good"), "{failure:?}");
        }
        assert!(front.lines(6).iter().any(|line| line["attempts"].as_array().unwrap().len() == 2));
    }
}

#[test]
fn a_terminate_may_be_repeated_and_nothing_else_that_deletes() {
    let (bad, good, front) = pair("");
    for _ in 0..4 {
        assert_eq!(front.ask(&with_body("DELETE", "/api/v1/vm", "", "{}")).status(), 200);
    }
    assert!(bad.count() > 0);
    let (before, after) = (bad.count() + good.count(), 6);
    let mut statuses = Vec::new();
    for _ in 0..after {
        let answer = front.ask(&with_body("DELETE", "/api/v1/registry/revert?id=t", "", ""));
        statuses.push(answer.status());
        if answer.status() == 502 {
            assert!(answer.json()["message"].as_str().unwrap().contains("outcome is unknown"));
        }
    }
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
    // Each revert was sent exactly once.
    assert_eq!(bad.count() + good.count(), before + after);
}

#[test]
fn a_start_is_not_sent_twice_to_servers_that_know_no_keys() {
    let (bad, good, front) = pair("");
    for upstream in [&bad, &good] {
        upstream.says(200, "ok");
    }
    front.wait_until("both were asked again", |_| true);
    std::thread::sleep(Duration::from_millis(500));
    let starts = 6;
    let mut unknown = 0;
    for _ in 0..starts {
        let answer = front.ask(&with_body("POST", "/api/v1/vm", "", r#"{"vmid":"t"}"#));
        unknown += usize::from(answer.status() == 502);
    }
    assert!(unknown > 0);
    assert_eq!(bad.count() + good.count(), starts);
    assert!(good.seen.lock().unwrap().iter().all(|seen| seen.head.get("idempotency-key").is_none()));
}

#[test]
fn a_start_goes_on_under_one_key_where_keys_are_known() {
    let (bad, good, front) = pair("");
    for n in 0..6 {
        let answer = front.ask(&with_body("POST", "/api/v1/vm", "", &format!(r#"{{"n":{n}}}"#)));
        assert_eq!(answer.status(), 200);
    }
    let key = |seen: &Seen| (seen.body.clone(), seen.head.get("idempotency-key").unwrap().to_owned());
    let (bad, good) = (bad.seen.lock().unwrap(), good.seen.lock().unwrap());
    assert!(!bad.is_empty());
    for lost in bad.iter().map(key) {
        assert!(good.iter().map(key).any(|kept| kept == lost), "same body under the same key");
    }
    let mut keys: Vec<_> = good.iter().map(key).map(|(_, key)| key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 6, "each start has a key of its own");
}

#[test]
fn a_clients_own_key_is_the_one_that_is_used() {
    let (_bad, good, front) = pair("");
    for _ in 0..2 {
        front.ask(&with_body("POST", "/api/v1/vm", "Idempotency-Key: mine\r\n", "{}"));
    }
    assert!(good.seen.lock().unwrap().iter().all(|seen| seen.head.get("idempotency-key") == Some("mine")));
}

#[test]
fn a_refused_connect_is_tried_elsewhere_whatever_the_route() {
    let good = Upstream::start(|_| ok("good"));
    let bad = Upstream::start(|_| ok("bad"));
    let front = Front::controllers(&[bad.address, good.address]);
    drop(bad);
    for n in 0..8 {
        let answer = front.ask(&with_body("POST", "/api/v1/node/config", "", &n.to_string()));
        assert_eq!((answer.status(), answer.text().as_str()), (200, "good"));
    }
    assert_eq!(good.count(), 8);
}

#[test]
fn an_answer_of_retry_status_is_asked_for_elsewhere_and_the_last_one_is_passed_on() {
    const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nX-Which: bad\r\n\r\nbusy";
    let (_bad, _good, front) = pair(BUSY);
    for _ in 0..6 {
        assert_eq!(front.get("/api/v1/vm").text(), "good");
    }
    let (one, other) = (Upstream::start(|_| BUSY.to_owned()), Upstream::start(|_| BUSY.to_owned()));
    let front = Front::controllers(&[one.address, other.address]);
    let answer = front.get("/api/v1/vm");
    assert_eq!(
        (answer.status(), answer.text().as_str(), answer.head.get("x-which")),
        (503, "busy", Some("bad"))
    );
    assert_eq!((one.count(), other.count()), (1, 1));
    // It may have run: the answer of a write is passed on at once.
    assert_eq!(front.ask(&with_body("POST", "/api/v1/image", "", "{}")).status(), 503);
    assert_eq!(one.count() + other.count(), 3);
}

#[test]
fn an_answer_that_breaks_off_is_never_ended_cleanly() {
    for head in ["Content-Length: 1000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n64\r\n"] {
        let bad = Upstream::raw(move |wire, _| {
            wire.send(format!("HTTP/1.1 200 OK\r\n{head}begin")).unwrap();
            Then::Close
        });
        let good = Upstream::start(|_| ok("good"));
        let front = Front::controllers(&[bad.address]);
        let mut wire = Wire::connect(front.address);
        wire.send("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let head = wire.head().unwrap().unwrap();
        assert_eq!(head.status(), 200);
        let mut got = Vec::new();
        assert!(wire.body(&head, false, |piece| got.extend_from_slice(piece)).is_err());
        assert!(b"begin".starts_with(&got[..]));
        assert_eq!(front.lines(1)[0]["end"], "aborted");
        drop(good);
    }
}

#[test]
fn an_upstream_that_never_answers_ends_in_a_502_before_clients_give_up() {
    let mute = Upstream::raw(|_, _| {
        std::thread::sleep(Duration::from_secs(30));
        Then::Close
    });
    let front = Front::controllers(&[mute.address]);
    for (request, least, most) in [
        ("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 4.0, 5.0),
        (with_body("POST", "/api/v1/vm", "", "{}"), 8.5, 10.0),
    ] {
        let begun = clock::now();
        let answer = front.ask(&request);
        let took = begun.elapsed().as_secs_f64();
        assert_eq!(answer.status(), 502, "{}", answer.text());
        assert!(took > least && took < most, "{took}");
    }
    let lines = front.lines(2);
    assert_eq!(lines[0]["attempts"][0]["end"], "timed-out");
    assert!(lines[0]["error"].as_str().unwrap().contains("nothing was changed"));
    assert!(lines[1]["error"].as_str().unwrap().contains("outcome is unknown"));
}

#[test]
fn with_one_upstream_a_read_is_asked_again_there_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = count.clone();
    let flaky =
        Upstream::start(
            move |_| {
                if asked.fetch_add(1, Ordering::SeqCst) == 0 { String::new() } else { ok("second") }
            },
        );
    let front = Front::controllers(&[flaky.address]);
    assert_eq!(front.get("/api/v1/vm").text(), "second");
    let always = Upstream::start(|_| String::new());
    let front = Front::controllers(&[always.address]);
    assert_eq!(front.get("/api/v1/vm").status(), 502);
    assert_eq!(always.count(), 2);
}

#[test]
fn a_killed_upstream_costs_no_repeatable_call() {
    let mut config = front::config(Kind::Controller, &[]);
    let good = Upstream::start(|_| ok("good"));
    let doomed = Upstream::start(|_| ok("doomed"));
    config.services[0].upstreams =
        vec![front::upstream("g", good.address), front::upstream("d", doomed.address)];
    let front = Front::start(config);
    let address = front.address;
    let calls = std::thread::spawn(move || {
        let mut wire = Wire::connect(address);
        let begun = clock::now();
        let mut count = 0;
        while begun.elapsed() < Duration::from_secs(2) {
            let answer = wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            assert_eq!(answer.status(), 200);
            count += 1;
        }
        count
    });
    std::thread::sleep(Duration::from_millis(500));
    let at = doomed.address;
    drop(doomed);
    std::thread::sleep(Duration::from_millis(700));
    let _back = Upstream::at(at, |_| ok("back"));
    assert!(calls.join().unwrap() > 100);
    front.wait_until("it is up again", |view| view.services[0].upstreams.iter().all(|u| u.health == "up"));
}

#[test]
fn an_error_of_ours_says_that_the_connection_ends_with_it() {
    let always = Upstream::start(|_| String::new());
    let front = Front::controllers(&[always.address]);
    let mut wire = Wire::connect(front.address);
    let answer = wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((answer.status(), answer.head.get("connection")), (502, Some("close")));
    assert!(wire.closed());
}

/// Passes its probes, takes every request and never answers one.
fn frozen() -> Upstream {
    Upstream::raw(|_, _| {
        std::thread::sleep(Duration::from_secs(30));
        Then::Close
    })
}

#[test]
fn a_frozen_upstream_leaves_time_for_another_to_answer() {
    let (frozen, good) = (frozen(), Upstream::start(|_| ok("good")));
    let front = Front::controllers(&[frozen.address, good.address]);
    let start = with_body("POST", "/api/v1/vm", "", "{}");
    for (request, most) in [("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n", 3.0), (&start, 6.0)] {
        // Of two in turn, at least one goes to the frozen one.
        for _ in 0..2 {
            let begun = clock::now();
            let answer = front.ask(request);
            let took = begun.elapsed().as_secs_f64();
            assert_eq!((answer.status(), answer.text().as_str()), (200, "good"));
            assert!(took < most, "{took}");
        }
    }
    let lines = front.lines(4);
    let ends: Vec<_> = lines.iter().map(|line| line["attempts"][0]["end"].as_str().unwrap()).collect();
    // A choice for the second attempt is a turn as well.
    assert!(ends.iter().filter(|end| **end == "timed-out").count() >= 2, "{ends:?}");
}

#[test]
fn a_frozen_upstream_is_waited_for_to_the_end_where_a_repeat_could_do_harm() {
    let (frozen, good) = (frozen(), Upstream::start(|_| ok("good")));
    let front = Front::controllers(&[frozen.address, good.address]);
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let begun = clock::now();
        let answer = front.ask(&with_body("PUT", "/api/v1/vm", "", "{}"));
        assert!(answer.status() == 200 || begun.elapsed() > Duration::from_secs(8));
        statuses.push(answer.status());
    }
    statuses.sort_unstable();
    assert_eq!((statuses, good.count()), (vec![200, 502], 1));
}

#[test]
fn a_dropped_answer_of_retry_status_is_named_when_no_other_comes() {
    for (method, status) in [("GET", 503), ("DELETE", 502)] {
        let busy = Upstream::start(|_| "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_owned());
        let closes = Upstream::start(|_| String::new());
        let mut config = front::config(Kind::Controller, &[busy.address, closes.address]);
        config.services[0].attempts = 2;
        let front = Front::start(config);
        let texts: Vec<_> = (0..2)
            .map(|_| front.ask(&format!("{method} /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n")))
            .filter(|answer| answer.text().contains("u0"))
            .collect();
        let named = texts.iter().find(|answer| answer.text().contains("u1")).unwrap();
        assert_eq!(named.status(), status, "{}", named.text());
        assert_eq!(named.head.get("retry-after").is_some(), status == 503);
        assert_eq!(named.json()["status"], "FAIL");
        assert!(named.text().contains("`u0` answered 503"), "{}", named.text());
    }
}

#[test]
fn retries_stop_at_their_budget_and_the_answer_is_the_one_of_the_last_try() {
    const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
    let (one, other) = (Upstream::start(|_| BUSY.to_owned()), Upstream::start(|_| BUSY.to_owned()));
    let mut config = front::config(Kind::Controller, &[one.address, other.address]);
    config.services[0].retry_budget = RetryBudget { ratio: 0.0, min: 1 };
    let front = Front::start(config);
    for _ in 0..50 {
        let answer = front.get("/api/v1/vm");
        assert_eq!((answer.status(), answer.text().as_str()), (503, "busy"));
    }
    // One a second over ten seconds, and ten more for each ten that the fifty took.
    let retried = one.count() + other.count() - 50;
    assert!((10..50).contains(&retried), "{retried}");
    let metrics = front.metrics();
    let refused = format!("switchyard_proxy_retries_refused_total{{service=\"pool\"}} {}\n", 50 - retried);
    assert!(metrics.contains(&refused), "{refused} is not in {metrics}");
    // What was not sent costs nothing: with one of them gone each request still has the other's answer.
    drop(one);
    for _ in 0..20 {
        assert_eq!(front.get("/api/v1/vm").text(), "busy");
    }
}

#[test]
fn a_read_without_an_answer_is_not_sent_again_beyond_the_budget() {
    let (closes, good) = (Upstream::start(|_| String::new()), Upstream::start(|_| ok("good")));
    let mut config = front::config(Kind::Controller, &[closes.address, good.address]);
    config.services[0].retry_budget = RetryBudget { ratio: 0.0, min: 0 };
    let front = Front::start(config);
    let answers: Vec<u16> = (0..4).map(|_| front.get("/api/v1/vm").status()).collect();
    assert_eq!(answers.iter().filter(|status| **status == 502).count(), 2, "{answers:?}");
    let said = || std::fs::read_to_string(&front.log).unwrap_or_default();
    front::eventually("its line is written", || said().contains("\"retry-budget\""));
}
