//! How the end comes: of a process that stops, and of one that was replaced.

use std::time::Duration;

use rustix::process::Signal;
use switchyard::clock;

use crate::{
    h2::peer::{Ended, NO_ERROR},
    raw::Wire,
    rig::{PARKED, Rig, until},
    ways::Way,
};

const POLL: &str = "GET /switchyard/v1/tasks HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_parked_poll_ends_at_its_natural_moment_when_the_proxy_stops() {
    let mut rig = Rig::start("parked");
    let mut idle = Wire::connect(rig.controllers);
    assert_eq!(idle.ask("GET /api/v1/status HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().status(), 200);
    let mut parked = Wire::connect(rig.controllers);
    let begun = clock::now();
    parked.send(POLL).unwrap();
    rig.until("it is parked", || {
        let view = rig.admin("GET", "/admin/v1/upstreams").json();
        (view["services"][0]["upstreams"][0]["outstanding"] == 1).then_some(())
    });
    rig.signal(rig.view().pid, Signal::TERM);
    assert!(idle.closed());
    assert!(begun.elapsed() < PARKED, "an idle connection is closed at once");
    let answer = parked.answer(false).unwrap();
    assert!(begun.elapsed() >= PARKED);
    assert_eq!((answer.text().as_str(), answer.head.get("connection")), ("nothing yet", Some("close")));
    assert!(parked.closed());
    let status = until("it ends", || rig.first.has_ended().flatten());
    assert!(status.success() && begun.elapsed() < PARKED + Duration::from_secs(4));
    assert!(!rig.run_dir().join("control.sock").exists() && !rig.run_dir().join("proxy.pid").exists());
}

#[test]
fn a_replaced_process_keeps_what_it_began_and_ends_with_it() {
    let rig = Rig::start("replaced");
    let old = rig.view().pid;
    let mut parked = Wire::connect(rig.controllers);
    parked.send(POLL).unwrap();
    let mut kept = Wire::connect(rig.controllers);
    assert_eq!(kept.ask("GET /api/v1/status HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().status(), 200);
    rig.upgraded(&[]);
    let view = rig.view();
    assert_eq!(view.old.iter().map(|old| old.pid).collect::<Vec<_>>(), [old]);
    let last = kept.ask("GET /api/v1/status HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(
        (last.status(), last.head.get("connection")),
        (200, Some("close")),
        "one more, and it is told"
    );
    let answer = parked.answer(false).unwrap();
    assert_eq!((answer.text().as_str(), answer.head.get("connection")), ("nothing yet", Some("close")));
    rig.until("it ends with its last connection", || (!rig.lives(old)).then_some(()));
    assert!(rig.view().old.is_empty());
}

/// It was told to go and has not heard of it yet: what it sends then is no request too late.
#[test]
fn a_client_of_http2_that_hears_late_of_an_upgrade_is_still_served() {
    let rig = Rig::start_secured("late");
    let secured = rig.secured.as_ref().unwrap();
    let ways = [(Way::plain(), rig.controllers), (secured.certificates.way(true), secured.controllers)];
    let mut peers = ways.map(|(way, to)| way.peer(to).unwrap().hello(&[]));
    for peer in &mut peers {
        assert_eq!(peer.get("/api/v1/status").status(), 200);
    }
    rig.upgraded(&[]);
    // Longer than the way to a client and back takes.
    std::thread::sleep(Duration::from_secs(2));
    for peer in &mut peers {
        let got = peer.get("/api/v1/status");
        assert_eq!((got.status(), got.ended), (200, Ended::Whole), "told {:?}", peer.goaways);
        assert_eq!(peer.close(), Some(NO_ERROR));
    }
}

/// It may take long to say its first word; not longer than a request may at a stop.
#[test]
fn a_handshake_under_way_holds_up_no_stop() {
    let mut rig = Rig::start_secured("shaking");
    let to = rig.secured.as_ref().unwrap().controllers;
    let mut silent = Wire::connect(to);
    let mut amid = Wire::connect(to);
    amid.send([22, 3, 1, 2, 0, 1]).unwrap();
    // Both were accepted when a later one was served.
    let way = rig.secured.as_ref().unwrap().certificates.way(false);
    for _ in 0..20 {
        way.shake(to).unwrap();
    }
    let begun = clock::now();
    rig.signal(rig.view().pid, Signal::TERM);
    assert!(silent.closed() && amid.closed());
    let status = until("it ends", || rig.first.has_ended().flatten());
    assert!(status.success());
    // The grace is 5 s, and a handshake may take 10.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn a_replaced_process_that_is_told_to_stop_has_the_grace() {
    let rig = Rig::start("hurried");
    let old = rig.view().pid;
    let mut stuck = Wire::connect(rig.registries);
    stuck.send("PUT /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1").unwrap();
    rig.until("it is under way", || {
        let view = rig.admin("GET", "/admin/v1/upstreams").json();
        (view["services"][1]["upstreams"][0]["outstanding"] == 1).then_some(())
    });
    let new = rig.upgraded(&[]);
    let begun = clock::now();
    rig.signal(old, Signal::TERM);
    rig.until("it ends", || (!rig.lives(old)).then_some(()));
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(15), "{took:?}");
    assert!(rig.lives(new));
}

/// Connections with their requests, in the queue of a process that is frozen.
fn queue(to: std::net::SocketAddr) -> Vec<Wire> {
    let ask = |_| {
        let mut wire = Wire::connect(to);
        wire.send("GET /api/v1/status HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        wire
    };
    (0..40).map(ask).collect()
}

#[track_caller]
fn all_answered(queued: Vec<Wire>) {
    for (number, mut wire) in queued.into_iter().enumerate() {
        let answer =
            wire.answer(false).unwrap_or_else(|error| panic!("the {number}th in the queue: {error}"));
        // The first of them may be answered before the end is known.
        assert_eq!(answer.status(), 200);
    }
}

#[test]
fn what_waits_in_a_queue_is_answered_when_the_proxy_stops() {
    let rig = Rig::start("queue");
    rig.first.freeze();
    let queued = queue(rig.controllers);
    rig.first.signal(Signal::TERM);
    rig.first.thaw();
    all_answered(queued);
}

#[test]
fn what_waits_in_the_queue_of_a_listener_that_goes_is_answered() {
    let mut rig = Rig::start("going");
    let extra = rig.free(&[]);
    rig.more = format!("[[listener]]\nname = \"extra\"\nbind = [\"{extra}\"]\nservice = \"controllers\"\n");
    assert_eq!(rig.reload().status(), 200);
    rig.more = String::new();
    rig.write();
    rig.first.freeze();
    let queued = queue(extra);
    rig.first.signal(Signal::HUP);
    rig.first.thaw();
    all_answered(queued);
    until("nobody accepts there any more", || std::net::TcpStream::connect(extra).err());
}
