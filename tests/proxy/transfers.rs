//! What is said of a transfer while it lasts: its place in the list, its bytes in the metrics, its lines in the access log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use switchyard::{
    config::proxy::Kind,
    wire::transfers::{Transfer, Transfers},
};

use crate::{
    front::{self, Front, eventually},
    raw::{self, Wire},
    upstream::{Then, Upstream, ok},
};

const BLOB: &str =
    "/v2/team/app/blobs/sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

const SIZE: usize = 2_000_000;

/// Comes at once.
const FIRST: usize = 400_000;

/// Then so much each tenth of a second.
const PIECE: usize = 2_000;

fn view(front: &Front) -> Transfers {
    let ask = "GET /admin/v1/transfers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    serde_json::from_slice(&raw::ask(front.admin, ask).body).unwrap()
}

/// The only one in flight, once it is as it should be.
fn one(front: &Front, what: &str, holds: impl Fn(&Transfer) -> bool) -> Transfer {
    eventually(what, || matches!(&view(front).transfers[..], [one] if holds(one)));
    view(front).transfers.remove(0)
}

/// The value of the series that has all of these labels; 0 if there is none.
fn metric(front: &Front, name: &str, labels: &[&str]) -> u64 {
    let text = front.metrics();
    let mut lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    let line = lines.find(|line| labels.iter().all(|label| line.contains(label)));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0, |value| value.parse().unwrap())
}

fn bytes(front: &Front, direction: &str) -> u64 {
    let direction = format!("direction=\"{direction}\"");
    metric(front, "switchyard_proxy_body_bytes_total", &["pool", "bulk", &direction])
}

fn front(upstream: &Upstream, progress: Option<Duration>) -> Front {
    let mut config = front::config(Kind::Registry, &[upstream.address]);
    config.progress = progress;
    Front::start(config)
}

/// Gives a blob, slowly for as long as it is not told to end.
fn trickling(end: &Arc<AtomicBool>) -> Upstream {
    let end = end.clone();
    Upstream::raw(move |wire, _| {
        let mut left = SIZE - FIRST;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        if wire.send(head).and_then(|()| wire.send(vec![b'x'; FIRST])).is_err() {
            return Then::Close;
        }
        while !end.load(Ordering::SeqCst) && left > PIECE {
            thread::sleep(Duration::from_millis(100));
            if wire.send([b'y'; PIECE]).is_err() {
                return Then::Close;
            }
            left -= PIECE;
        }
        if wire.send(vec![b'z'; left]).is_ok() { Then::KeepAlive } else { Then::Close }
    })
}

fn events(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["event"].as_str().unwrap_or("end")).collect()
}

#[test]
fn a_long_download_is_listed_counted_and_logged_while_it_lasts() {
    let end = Arc::default();
    let upstream = trickling(&end);
    let front = front(&upstream, Some(Duration::from_secs(1)));
    let mut client = Wire::connect(front.address);
    client.send(format!("GET {BLOB} HTTP/1.1\r\nHost: a\r\nX-Request-Id: long-one\r\n\r\n")).unwrap();
    let reading = thread::spawn(move || client.answer(false).unwrap().body.len());

    let seen = one(&front, "it is listed", |one| one.bytes_sent > FIRST as u64);
    assert_eq!((seen.request.as_str(), seen.client.as_str()), ("long-one", "127.0.0.1"));
    assert_eq!((seen.service.as_str(), seen.upstream.as_deref()), ("pool", Some("u0")));
    assert_eq!((seen.direction.as_str(), seen.lane.as_str()), ("down", "bulk"));
    assert_eq!((seen.waits_for.as_str(), seen.length), ("upstream", Some(SIZE as u64)));
    assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.bytes_received), ("GET", BLOB, 0));
    one(&front, "its bytes rise", |one| one.bytes_sent > seen.bytes_sent);
    let gauge = || metric(&front, "switchyard_proxy_transfers", &["pool", "bulk", "direction=\"down\""]);
    assert_eq!(gauge(), 1);
    let live = bytes(&front, "down");
    assert!(live > FIRST as u64 && live < SIZE as u64, "{live}");
    eventually("its bytes are counted while they move", || bytes(&front, "down") > live);

    // The first line after a second, one more after the next.
    let lines = front.lines(2);
    assert_eq!(events(&lines)[..2], ["start", "progress"]);
    for line in &lines[..2] {
        assert_eq!((&line["request"], &line["upstream"]), (&"long-one".into(), &"u0".into()), "{line}");
        assert_eq!((&line["waits_for"], &line["length"]), (&"upstream".into(), &SIZE.into()), "{line}");
        assert!(line["bytes_sent"].as_u64().unwrap() > FIRST as u64, "{line}");
        assert!(line["rate"].as_u64().unwrap() > 0 && line["total_ms"].as_f64().unwrap() >= 1000.0, "{line}");
        assert!(line["status"].is_null(), "{line}");
    }
    assert!(lines[0]["bytes_sent"].as_u64() < lines[1]["bytes_sent"].as_u64());

    end.store(true, Ordering::SeqCst);
    assert_eq!(reading.join().unwrap(), SIZE);
    eventually("it is listed no more", || view(&front).transfers.is_empty());
    eventually("no byte was lost or counted twice", || bytes(&front, "down") == SIZE as u64);
    assert_eq!(gauge(), 0);
    eventually("its end has a line", || events(&front.lines(3)).last() == Some(&"end"));
    let last = front.lines(3).pop().unwrap();
    assert_eq!((&last["request"], &last["bytes_sent"]), (&"long-one".into(), &SIZE.into()));
}

#[test]
fn of_an_upload_it_is_said_who_is_waited_for() {
    let upstream = Upstream::start(|_| ok("{}"));
    let front = front(&upstream, None);
    let mut client = Wire::connect(front.address);
    let path = "/v2/team/app/blobs/uploads/u0.0";
    client
        .send(format!("PATCH {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"))
        .and_then(|()| client.send(vec![b'x'; FIRST]))
        .unwrap();
    let seen = one(&front, "it waits for its client", |one| one.bytes_received == FIRST as u64);
    assert_eq!((seen.direction.as_str(), seen.waits_for.as_str()), ("up", "client"));
    assert_eq!(seen.length, Some(SIZE as u64));
    eventually("its bytes are counted", || bytes(&front, "up") == FIRST as u64);
    client.send(vec![b'x'; SIZE - FIRST]).unwrap();
    assert_eq!(client.answer(false).unwrap().status(), 200);
    eventually("all of them are", || bytes(&front, "up") == SIZE as u64);
    assert!(view(&front).transfers.is_empty());
}

#[test]
fn one_of_which_little_moves_is_listed_after_a_while_and_short_ones_never() {
    let upstream = Upstream::start(|_| ok(&"x".repeat(200_000)));
    let front = front(&upstream, Some(Duration::from_secs(1)));
    for _ in 0..20 {
        assert_eq!(front.get(BLOB).status(), 200);
        assert!(view(&front).transfers.is_empty());
    }
    assert_eq!(events(&front.lines(20)), ["end"; 20]);
    eventually("their bytes are counted", || bytes(&front, "down") == 4_000_000);
    let mut client = Wire::connect(front.address);
    let path = "/v2/team/app/blobs/uploads/u0.0";
    client.send(format!("PATCH {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123")).unwrap();
    let seen = one(&front, "a slow one is listed", |one| one.bytes_received == 3);
    assert_eq!((seen.direction.as_str(), seen.waits_for.as_str()), ("up", "client"));
    drop(client);
    eventually("and gone with its client", || view(&front).transfers.is_empty());
}

#[test]
fn another_protocol_is_listed_from_its_beginning_and_counted_both_ways() {
    let upstream = Upstream::raw(|wire, _| {
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
            .unwrap();
        let mut tcp = wire.tcp.try_clone().unwrap();
        let mut piece = [0; 5];
        while std::io::Read::read_exact(&mut tcp, &mut piece).is_ok() {
            wire.send(piece).and_then(|()| wire.send(piece)).unwrap();
        }
        Then::Close
    });
    let front = Front::controllers(&[upstream.address]);
    let mut client = Wire::connect(front.address);
    client
        .send("GET /stream HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
        .unwrap();
    assert_eq!(client.head().unwrap().unwrap().status(), 101);
    let moved = |one: &Transfer| (one.bytes_received, one.bytes_sent) == (5, 10);
    let seen = one(&front, "it is listed", moved);
    assert_eq!((seen.direction.as_str(), seen.lane.as_str()), ("both", "bulk"));
    drop(client);
    let line = front.lines(1).pop().unwrap();
    assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&5.into(), &10.into()), "{line}");
    let bytes = |direction: &str| {
        let direction = format!("direction=\"{direction}\"");
        metric(&front, "switchyard_proxy_body_bytes_total", &["pool", "bulk", &direction])
    };
    assert_eq!((bytes("up"), bytes("down")), (5, 10));
}

#[test]
fn a_reload_begins_and_ends_the_lines_of_transfers_that_run() {
    let end = Arc::default();
    let upstream = trickling(&end);
    let mut front = front(&upstream, None);
    let mut client = Wire::connect(front.address);
    client.send(format!("GET {BLOB} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    let reading = thread::spawn(move || client.answer(false).unwrap().body.len());
    one(&front, "it is a second old", |one| one.seconds > 1.5);
    assert!(std::fs::read_to_string(&front.log).unwrap().is_empty());
    front.config.progress = Some(Duration::from_secs(1));
    front.reload(&front.config).unwrap();
    assert_eq!(events(&front.lines(1))[0], "start");
    end.store(true, Ordering::SeqCst);
    assert_eq!(reading.join().unwrap(), SIZE);
}

#[test]
fn connections_to_an_upstream_are_counted_as_new_kept_and_unused() {
    let upstream = Upstream::start(|_| ok("{}"));
    let front = Front::controllers(&[upstream.address]);
    for _ in 0..3 {
        assert_eq!(front.get("/api/v1/vm").status(), 200);
    }
    let taken = |kind: &str| {
        let kind = format!("kind=\"{kind}\"");
        metric(&front, "switchyard_proxy_upstream_taken_connections_total", &["pool", "u0", "control", &kind])
    };
    let unused = || metric(&front, "switchyard_proxy_upstream_unused_connections", &["u0", "control"]);
    // Each thread has its own.
    assert_eq!(taken("new") + taken("kept"), 3);
    let open = metric(&front, "switchyard_proxy_upstream_connections", &["u0", "control"]);
    assert_eq!(open, taken("new"));
    eventually("all of them are unused", || unused() == open);
    let shown = &front.view().services[0].upstreams[0];
    assert_eq!((shown.unused.control, shown.unused.bulk), (open, 0));
    drop(upstream);
    eventually("none is when the upstream has gone", || unused() == 0);
}
