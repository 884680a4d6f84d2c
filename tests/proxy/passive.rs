//! What becomes of requests takes an upstream out, and lets it in again; and what must not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::{
    clock,
    config::proxy::{self, HttpProbe, Kind, Passive, ProbeKind, ProbeMethod},
    wire::upstreams::{Ejected, Upstreams},
};

use crate::{
    front::{self, Front, eventually},
    raw::Wire,
    upstream::{Then, Upstream, ok},
};

const READ: &str = "GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n";

/// An upstream that answers what it is told: with this status and these fields while the flag is set, else well.
fn told(status: &'static str, fields: &'static str) -> (Upstream, Arc<AtomicBool>) {
    let bad = Arc::new(AtomicBool::new(true));
    let is_bad = bad.clone();
    let upstream = Upstream::start(move |_| match is_bad.load(Ordering::SeqCst) {
        true => format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: 3\r\n\r\nbad"),
        false => ok("good"),
    });
    (upstream, bad)
}

/// Three failures eject, for half a second at first.
fn quick(upstreams: &[&Upstream]) -> proxy::Proxy {
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    let mut config = front::config(Kind::Controller, &addresses);
    config.services[0].passive =
        Passive { failures: 3, ejection: Duration::from_millis(500), ..Passive::default() };
    config
}

fn ejected(view: &Upstreams, place: usize) -> Option<&Ejected> {
    view.services[0].upstreams[place].ejected.as_ref()
}

fn count_ejected(view: &Upstreams) -> usize {
    view.services[0].upstreams.iter().filter(|upstream| upstream.ejected.is_some()).count()
}

/// Asks until `holds`.
fn ask_until(front: &Front, what: &str, holds: impl Fn(&Upstreams) -> bool) {
    eventually(what, || {
        front.get("/api/v1/vm");
        holds(&front.view())
    });
}

#[test]
fn one_that_fails_is_ejected_with_its_reason_and_comes_back_through_a_trial() {
    let ((bad, is_bad), good) = (told("500", ""), Upstream::start(|_| ok("good")));
    let front = Front::start(quick(&[&bad, &good]));
    ask_until(&front, "the one that fails is ejected", |view| ejected(view, 0).is_some());
    let view = front.view();
    let why = &ejected(&view, 0).unwrap().why;
    assert!(why.contains("failures in a row, the last: it answered 500"), "{why}");
    assert!(ejected(&view, 1).is_none());
    assert_eq!(view.services[0].upstreams[0].health, "up", "its probes are good all the while");
    // Only trials go there, and each failure makes the time to the next one twice as long.
    ask_until(&front, "the third trial in succession has failed", |view| {
        ejected(view, 0).is_some_and(|ejected| ejected.times >= 4)
    });
    let view = front.view();
    let Ejected { since, until, why, .. } = ejected(&view, 0).unwrap().clone();
    assert_eq!(why, "the trial failed: it answered 500");
    assert!(until.since(since) >= Duration::from_millis(3990), "{since} {until}");
    let before = bad.count();
    for _ in 0..20 {
        assert_eq!(front.get("/api/v1/vm").status(), 200);
    }
    assert_eq!(bad.count(), before);
    let metrics = front.metrics();
    assert!(metrics.contains("switchyard_proxy_upstream_ejected{service=\"pool\",upstream=\"u0\"} 1"));
    let counted = "switchyard_proxy_ejections_total{failure=\"status\",service=\"pool\",upstream=\"u0\"} 4";
    assert!(metrics.contains(counted), "{metrics}");

    is_bad.store(false, Ordering::SeqCst);
    ask_until(&front, "it is back", |view| ejected(view, 0).is_none());
    let before = bad.count();
    for _ in 0..20 {
        assert_eq!(front.get("/api/v1/vm").status(), 200);
    }
    assert_eq!(bad.count() - before, 10);
    let trials = front.lines(1).into_iter().filter(|line| line["why"] == "the trial after its ejection");
    assert!(trials.count() >= 1);
}

#[test]
fn connections_that_fail_eject_and_probes_that_are_good_change_nothing() {
    let resets = Upstream::raw(|_, _| Then::Close);
    let good = Upstream::start(|_| ok("good"));
    let front = Front::start(quick(&[&resets, &good]));
    ask_until(&front, "the one that resets is ejected", |view| ejected(view, 0).is_some());
    let view = front.view();
    let why = &ejected(&view, 0).unwrap().why;
    assert!(why.ends_with("the last: it closed the connection"), "{why}");
}

#[test]
fn answers_that_refuse_in_words_eject_nobody() {
    for (status, fields) in
        [("429", ""), ("507", ""), ("501", ""), ("505", ""), ("503", "Retry-After: 1\r\n"), ("404", "")]
    {
        let ((refusing, _), good) = (told(status, fields), Upstream::start(|_| ok("good")));
        let front = Front::start(quick(&[&refusing, &good]));
        for _ in 0..30 {
            front.get("/api/v1/vm");
        }
        assert!(refusing.count() >= 15, "{status}");
        assert_eq!(count_ejected(&front.view()), 0, "{status}");
    }
    let ((failing, _), good) = (told("503", ""), Upstream::start(|_| ok("good")));
    let front = Front::start(quick(&[&failing, &good]));
    ask_until(&front, "503 without a word of when to come again ejects", |view| ejected(view, 0).is_some());
}

#[test]
fn clients_that_leave_eject_nobody() {
    let slow = Upstream::start(|_| {
        thread::sleep(Duration::from_millis(300));
        ok("late")
    });
    let good = Upstream::start(|_| ok("good"));
    let front = Front::start(quick(&[&slow, &good]));
    for _ in 0..20 {
        let mut wire = Wire::connect(front.address);
        wire.send(READ).unwrap();
        thread::sleep(Duration::from_millis(20));
        drop(wire);
    }
    eventually("all of them are gone", || {
        front.view().services[0].upstreams.iter().all(|upstream| upstream.outstanding == 0)
    });
    eventually("several were sent there", || slow.count() >= 5);
    assert!(front.view().services[0].upstreams.iter().all(|upstream| upstream.failures == 0));
    assert_eq!(count_ejected(&front.view()), 0);
}

#[test]
fn a_restart_that_cuts_many_parked_polls_counts_once() {
    const POLLS: usize = 60;
    let parked = Arc::new(AtomicUsize::new(0));
    let count = parked.clone();
    let cut = Upstream::raw(move |wire, head| {
        count.fetch_add(1, Ordering::SeqCst);
        let mut body = Vec::new();
        wire.body(&head, false, |piece| body.extend_from_slice(piece)).unwrap();
        // Until it is cut.
        wire.head().ok();
        Then::Close
    });
    let good = Upstream::start(|_| ok("good"));
    let front = Front::start(quick(&[&cut, &good]));
    let poll = "GET /switchyard/v1/tasks HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut clients = Vec::new();
    while parked.load(Ordering::SeqCst) < POLLS {
        let mut wire = Wire::connect(front.address);
        wire.send(poll).unwrap();
        clients.push(wire);
        thread::sleep(Duration::from_millis(2));
    }
    // All of its connections go at once; then it is there again.
    let address = cut.address;
    drop(cut);
    let _again = Upstream::at(address, |_| ok("again"));
    eventually("all polls there were cut", || front.view().services[0].upstreams[0].outstanding == 0);
    let view = front.view();
    assert!(view.services[0].upstreams[0].failures <= 2, "{view:?}");
    assert_eq!(count_ejected(&view), 0, "{view:?}");
}

#[test]
fn what_fails_everywhere_ejects_nobody_and_the_last_one_stays() {
    let (a, b, c) = (told("500", ""), told("500", ""), told("500", ""));
    let front = Front::start(quick(&[&a.0, &b.0, &c.0]));
    for _ in 0..60 {
        assert_eq!(front.get("/api/v1/vm").status(), 500);
    }
    assert_eq!(count_ejected(&front.view()), 0);
    // Two of three fail: only one may be out, whatever the other one does.
    c.1.store(false, Ordering::SeqCst);
    ask_until(&front, "one is ejected", |view| count_ejected(view) == 1);
    for _ in 0..60 {
        front.get("/api/v1/vm");
        assert!(count_ejected(&front.view()) <= 1);
    }
    let (alone, _) = told("500", "");
    let front = Front::start(quick(&[&alone]));
    for _ in 0..30 {
        assert_eq!(front.get("/api/v1/vm").status(), 500);
    }
    assert_eq!(count_ejected(&front.view()), 0);
}

#[test]
fn with_too_few_left_ejections_are_ignored() {
    let (bad, good) = ([told("500", ""), told("500", "")], Upstream::start(|_| ok("good")));
    let mut config = quick(&[&bad[0].0, &bad[1].0, &good]);
    let passive = &mut config.services[0].passive;
    (passive.max_ejected, passive.ejection, passive.panic_threshold) = (1.0, Duration::from_secs(60), 0.3);
    let front = Front::start(config);
    let mut config = front.config.clone();
    ask_until(&front, "both are ejected", |view| count_ejected(view) == 2);
    assert!(!front.view().services[0].panic);
    for _ in 0..20 {
        assert_eq!(front.get("/api/v1/vm").status(), 200);
    }
    // A third is not enough any more: all three take requests.
    config.services[0].passive.panic_threshold = 0.5;
    front.reload(&config).unwrap();
    assert_eq!(count_ejected(&front.view()), 2, "a reload keeps what is known");
    let before = bad[0].0.count() + bad[1].0.count();
    for _ in 0..30 {
        front.get("/api/v1/vm");
    }
    assert_eq!(bad[0].0.count() + bad[1].0.count() - before, 20);
    assert!(front.view().services[0].panic);
    assert!(front.metrics().contains("switchyard_proxy_panic{service=\"pool\"} 1"));
    let panicked =
        |line: &serde_json::Value| line["why"] == "tried although it is ejected, too few others are left";
    assert!(front.lines(50).iter().any(panicked));
    config.services[0].passive.max_ejected = 0.0;
    front.reload(&config).unwrap();
    assert_eq!(count_ejected(&front.view()), 0);
}

#[test]
fn a_reload_keeps_ejections_and_verdicts_although_the_probe_is_timed_otherwise() {
    let ((bad, _), good) = (told("500", ""), Upstream::start(|_| ok("good")));
    let mut config = quick(&[&bad, &good]);
    config.services[0].passive.ejection = Duration::from_secs(60);
    let front = Front::start(config);
    let mut config = front.config.clone();
    ask_until(&front, "it is ejected", |view| ejected(view, 0).is_some());
    let before = front.view();
    let health = &mut config.services[0].health;
    (health.interval, health.fall) = (Duration::from_secs(30), 5);
    config.services[0].upstreams.reverse();
    front.reload(&config).unwrap();
    let after = front.view();
    for (one, other) in before.services[0].upstreams.iter().zip(after.services[0].upstreams.iter().rev()) {
        assert_eq!((&one.name, &one.health, one.since), (&other.name, &other.health, other.since));
        let until = |upstream: &switchyard::wire::upstreams::Upstream| {
            upstream.ejected.as_ref().map(|ejected| (ejected.times, ejected.until.unix_seconds()))
        };
        assert_eq!(until(one).map(|(times, _)| times), until(other).map(|(times, _)| times));
    }
    for _ in 0..20 {
        assert_eq!(front.get("/api/v1/vm").status(), 200);
    }
    // Another address is another server.
    let other = Upstream::start(|_| ok("other"));
    config.services[0].upstreams[1] = front::upstream("u0", other.address);
    front.reload(&config).unwrap();
    assert!(ejected(&front.view(), 1).is_none());
}

#[test]
fn one_that_is_slow_is_out_in_three_checks_and_all_that_are_slow_stay() {
    let upstreams =
        [Upstream::start(|_| ok("a")), Upstream::start(|_| ok("b")), Upstream::start(|_| ok("c"))];
    let mut config = quick(&upstreams.each_ref());
    let health = &mut config.services[0].health;
    (health.interval, health.timeout, health.fall) =
        (Duration::from_millis(800), Duration::from_millis(400), 3);
    let front = Front::start(config);
    upstreams[0].slow(Duration::from_secs(2));
    let (begun, before) = (clock::now(), upstreams[0].probes.load(Ordering::SeqCst));
    front.wait_until("the slow one is down", |view| view.services[0].upstreams[0].health == "down");
    let checks = upstreams[0].probes.load(Ordering::SeqCst) - before;
    assert!((3..=4).contains(&checks), "{checks}");
    // One interval, three probes, and two short waits between them.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(front.view().services[0].upstreams[0].evidence, "no answer within 400ms");
    for _ in 0..12 {
        assert_ne!(front.get("/api/v1/vm").text(), "a");
    }
    upstreams[0].slow(Duration::ZERO);
    front.wait_until("it is up again", |view| view.services[0].upstreams[0].health == "up");

    // All of them, slower than a request may be, but not than a probe: what clients see is bad, what is left of the
    // pool is all of it.
    let slow = Duration::from_millis(350);
    upstreams.iter().for_each(|upstream| upstream.slow(slow));
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let address = front.address;
            thread::spawn(move || (0..6).map(|_| crate::raw::get(address, "/api/v1/vm").status()).collect())
        })
        .collect();
    let statuses: Vec<Vec<u16>> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(statuses.iter().flatten().all(|status| *status == 200));
    let view = front.view();
    assert_eq!(count_ejected(&view), 0);
    assert!(view.services[0].upstreams.iter().all(|upstream| upstream.health == "up"), "{view:?}");
}

#[test]
fn all_that_hang_together_are_not_ejected_below_the_floor() {
    let hang = Arc::new(AtomicBool::new(false));
    let start = || {
        let hang = hang.clone();
        Upstream::start(move |_| {
            while hang.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(10));
            }
            ok("good")
        })
    };
    let upstreams = [start(), start(), start(), start()];
    let front = Front::start(quick(&upstreams.each_ref()));
    for _ in 0..20 {
        front.get("/api/v1/vm");
    }
    hang.store(true, Ordering::SeqCst);
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let address = front.address;
            thread::spawn(move || crate::raw::get(address, "/api/v1/vm").status())
        })
        .collect();
    let most = clients.into_iter().map(|client| {
        let status = client.join().unwrap();
        (status, count_ejected(&front.view()))
    });
    let most: Vec<_> = most.collect();
    assert!(most.iter().all(|(status, _)| *status == 502), "{most:?}");
    assert!(most.iter().all(|(_, out)| *out == 0), "{most:?}");
    hang.store(false, Ordering::SeqCst);
    assert_eq!(front.get("/api/v1/vm").status(), 200);
}

#[test]
fn a_probe_asks_as_it_is_told_and_looks_for_a_text() {
    let upstream = Upstream::start(|_| ok("good"));
    upstream.says(200, "state: running");
    let mut config = quick(&[&upstream]);
    let mut secret = http::HeaderValue::from_static("Basic c2VjcmV0");
    secret.set_sensitive(true);
    let probe = HttpProbe {
        method: ProbeMethod::Options,
        host: Some("ci.example".into()),
        headers: vec![
            (http::header::AUTHORIZATION, secret),
            (http::header::USER_AGENT, "me".parse().unwrap()),
        ],
        text: Some("running".into()),
        ..HttpProbe::default()
    };
    config.services[0].health.kind = ProbeKind::Http(probe);
    let front = Front::start(config.clone());
    front.wait_until("it is up", |view| view.services[0].upstreams[0].health == "up");
    let head = upstream.probed.lock().unwrap().clone().unwrap();
    assert_eq!(head.word(0), "OPTIONS");
    let fields = ["host", "authorization", "user-agent"].map(|name| head.get(name).unwrap().to_owned());
    assert_eq!(fields, ["ci.example", "Basic c2VjcmV0", "me"]);
    upstream.says(200, "state: starting");
    front.wait_until("it is down", |view| view.services[0].upstreams[0].health == "down");
    let view = front.view();
    let evidence = &view.services[0].upstreams[0].evidence;
    assert_eq!(evidence, "`/readyz` answers 200 without `running` in its body");
    assert!(!format!("{config:?}").contains("c2VjcmV0"));
}
