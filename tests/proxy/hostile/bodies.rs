//! Bodies that stop half-way, on either side, and answers that come before their request is whole.

use std::{io::Write, net::TcpStream, thread, time::Duration};

use switchyard::{clock, config::proxy::Kind};

use super::{Act, Hosts, PATIENCE};
use crate::{
    front::{self, Front},
    raw::Wire,
};

const MIB: usize = 1024 * 1024;

fn stage(kind: Kind, count: usize) -> (Hosts, Front) {
    let hosts = Hosts::new(count);
    let mut config = front::config(kind, &hosts.addresses());
    config.services[0].timeouts.idle = Duration::from_millis(700);
    (hosts, Front::start(config))
}

/// A request with a body of this size, in either framing.
fn with_body(method: &str, path: &str, id: &str, size: usize, chunked: bool) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: front\r\nX-Request-Id: {id}\r\n");
    let body = "x".repeat(size);
    if !chunked {
        return format!("{head}Content-Length: {size}\r\n\r\n{body}").into_bytes();
    }
    let mut text = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    for piece in body.as_bytes().chunks(5000) {
        text += &format!("{:x}\r\n{}\r\n", piece.len(), "x".repeat(piece.len()));
    }
    (text + "0\r\n\r\n").into_bytes()
}

/// A request id that says what is tried.
fn id_of(name: &str, tried: &impl std::fmt::Debug) -> String {
    let text = format!("{name}-{tried:?}").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    text.chars().take(120).collect()
}

/// Sends it all while the answer may already be on its way.
fn send(wire: &Wire, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    let mut tcp = wire.tcp.try_clone().unwrap();
    thread::spawn(move || drop(tcp.write_all(&bytes)))
}

#[test]
fn a_body_is_sent_again_if_it_was_kept_and_it_is_kept_up_to_64_kib() {
    let (hosts, front) = stage(Kind::Controller, 2);
    for chunked in [false, true] {
        for size in [0, 1, 1000, 30_000, 60_000, 70_000, 300_000, 2 * MIB] {
            for act in [Act::Close, Act::CloseInBody(20_000), Act::Reset, Act::CloseAtHead] {
                if matches!(act, Act::CloseInBody(most) if most >= size) {
                    continue;
                }
                let id = id_of("kept", &(chunked, size, &act));
                hosts.will([act.clone()]);
                let mut wire = Wire::connect(front.address).patience(PATIENCE);
                let sending = send(&wire, with_body("DELETE", "/api/v1/vm", &id, size, chunked));
                let answer = wire.answer(false).unwrap_or_else(|error| panic!("{id} {act:?}: {error}"));
                sending.join().unwrap();
                let (seen, what) = (hosts.seen(&id), format!("{size} {chunked} {act:?}"));
                // What was not read of it before the upstream failed may not be needed twice.
                let whole = matches!(act, Act::Close | Act::Reset);
                if size <= 60_000 || (!whole && seen.len() == 2) {
                    assert_eq!((answer.status(), seen.len()), (200, 2), "{what}: {}", answer.text());
                    assert_eq!(seen[1].body.len(), size, "{what}");
                } else {
                    assert_eq!((answer.status(), seen.len()), (502, 1), "{what}: {}", answer.text());
                    assert!(answer.text().contains("outcome is unknown"), "{what}");
                    assert_eq!(answer.head.get("connection"), Some("close"), "{what}");
                    assert!(wire.ended(), "{what}");
                }
            }
        }
    }
}

#[test]
fn an_upload_of_which_an_upstream_took_half_is_lost_and_said_to_be() {
    const ROUTES: [(&str, &str); 3] = [
        ("PATCH", "/v2/a/blobs/uploads/1"),
        ("PUT", "/v2/a/blobs/uploads/1?digest=sha256:0"),
        ("PUT", "/v2/a/manifests/x"),
    ];
    let one = |method: &str, path: &str, chunked: bool| {
        let (hosts, front) = stage(Kind::Registry, 2);
        for act in [Act::CloseInBody(100_000), Act::StallInBody(100_000), Act::CloseAtHead, Act::ResetAtHead]
        {
            let id = id_of("half", &(path, method, chunked, &act));
            let what = format!("{method} {path} {chunked} {act:?}");
            hosts.will([act]);
            let mut wire = Wire::connect(front.address).patience(PATIENCE);
            let begun = clock::now();
            let sending = send(&wire, with_body(method, path, &id, 8 * MIB, chunked));
            let answer = wire.answer(false).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(begun.elapsed() < Duration::from_secs(4), "{what}: {:?}", begun.elapsed());
            assert_eq!((answer.status(), answer.head.get("connection")), (502, Some("close")), "{what}");
            assert!(answer.text().contains("outcome is unknown"), "{what}: {}", answer.text());
            assert!(answer.json()["errors"][0]["code"].is_string(), "{what}");
            assert_eq!(hosts.seen(&id).len(), 1, "{what}");
            sending.join().unwrap();
            assert!(wire.ended(), "{what}");
        }
    };
    thread::scope(|scope| {
        for (method, path) in ROUTES {
            for chunked in [false, true] {
                scope.spawn(move || one(method, path, chunked));
            }
        }
    });
}

/// A body that has begun and goes on for as long as the test wants.
fn begin(wire: &mut Wire, id: &str, chunked: bool) {
    let framing =
        if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {}", 1024 * MIB) };
    let head = format!(
        "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: front\r\nX-Request-Id: {id}\r\n{framing}\r\n\r\n"
    );
    wire.send(head).unwrap();
    go_on(&mut wire.tcp, chunked, 256 * 1024).unwrap();
}

fn go_on(tcp: &mut TcpStream, chunked: bool, size: usize) -> std::io::Result<()> {
    let piece = "x".repeat(size);
    if chunked {
        tcp.write_all(format!("{size:x}\r\n{piece}\r\n").as_bytes())
    } else {
        tcp.write_all(piece.as_bytes())
    }
}

#[test]
fn an_answer_before_the_request_is_whole_reaches_the_client_and_the_connection_lingers() {
    let one = |chunked: bool, status: u16| {
        let (hosts, front) = stage(Kind::Registry, 1);
        let text = format!("HTTP/1.1 {status} No\r\nContent-Length: 5\r\nX-Early: 1\r\n\r\nearly");
        for act in [Act::Early(text.clone()), Act::EarlyAndClose(text)] {
            let id = id_of("early", &(chunked, status, &act));
            let what = format!("{chunked} {act:?}");
            hosts.will([act]);
            let mut wire = Wire::connect(front.address).patience(PATIENCE);
            begin(&mut wire, &id, chunked);
            let begun = clock::now();
            let answer = wire.answer(false).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(begun.elapsed() < Duration::from_secs(1), "{what}: {:?}", begun.elapsed());
            let said = (answer.status(), answer.text(), answer.head.get("x-early").map(str::to_owned));
            assert_eq!(said, (status, "early".into(), Some("1".into())), "{what}");
            // The client has not stopped yet: it must not be reset while it reads its answer.
            for _ in 0..8 {
                go_on(&mut wire.tcp, chunked, 64 * 1024).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            // And then the connection is over, since nobody knows where its body would end.
            assert!(wire.ended(), "{what}");
            assert_eq!(hosts.seen(&id).len(), 1, "{what}");
        }
        front.wait_until("nothing is under way", |view| view.services[0].upstreams[0].outstanding == 0);
    };
    thread::scope(|scope| {
        for (chunked, status) in
            [(false, 401), (false, 413), (false, 507), (true, 401), (true, 413), (true, 507)]
        {
            scope.spawn(move || one(chunked, status));
        }
    });
}

#[test]
fn a_refused_client_that_never_stops_is_cut_after_a_while() {
    let (hosts, front) = stage(Kind::Registry, 1);
    let early = "HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nearly";
    for (pause, size) in [(Duration::from_millis(20), 1024), (Duration::ZERO, MIB)] {
        hosts.will([Act::Early(early.into())]);
        let mut wire = Wire::connect(front.address).patience(PATIENCE);
        begin(&mut wire, "endless", false);
        assert_eq!(wire.answer(false).unwrap().status(), 413);
        let (begun, mut sent) = (clock::now(), 0);
        while go_on(&mut wire.tcp, false, size).is_ok() {
            sent += size;
            assert!(begun.elapsed() < Duration::from_secs(6), "still open after {sent} bytes");
            thread::sleep(pause);
        }
        // 16 MiB, and what was under way.
        assert!(sent < 64 * MIB, "{sent}");
    }
    front::eventually("no connection is open", || {
        front.metrics().contains(r#"switchyard_proxy_connections{listener="front"} 0"#)
    });
}

#[test]
fn an_early_answer_to_a_small_request_is_an_answer_like_any_other() {
    let (hosts, front) = stage(Kind::Controller, 1);
    for n in 0..5 {
        hosts.will([Act::EarlyAndClose("HTTP/1.1 409 Conflict\r\nContent-Length: 5\r\n\r\nearly".into())]);
        let mut wire = Wire::connect(front.address).patience(PATIENCE);
        let id = format!("small-{n}");
        wire.send(with_body("PUT", "/api/v1/vm", &id, 10_000, false)).unwrap();
        let answer = wire.answer(false).unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (409, "early"));
        assert_eq!(hosts.seen(&id).len(), 1);
        let closes = answer.head.get("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
        if closes {
            assert!(wire.ended());
        } else {
            assert_eq!(wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().status(), 200);
        }
    }
}

#[test]
fn bodies_that_trickle_pass_either_way() {
    let (hosts, front) = stage(Kind::Registry, 1);
    thread::scope(|scope| {
        for chunked in [false, true] {
            scope.spawn({
                let (front, hosts) = (&front, &hosts);
                move || {
                    let mut wire = Wire::connect(front.address).patience(PATIENCE);
                    let id = format!("drip-{chunked}");
                    let bytes = with_body("PATCH", "/v2/a/blobs/uploads/1", &id, 15, chunked);
                    for byte in bytes {
                        wire.send([byte]).unwrap();
                        thread::sleep(Duration::from_millis(if byte == b'x' { 100 } else { 1 }));
                    }
                    assert_eq!(wire.answer(false).unwrap().status(), 200);
                    assert_eq!(hosts.seen(&id)[0].body.len(), 15);
                }
            });
        }
    });
    // Longer than the deadline of a read, which is over with the first byte.
    let body = "0123456789".repeat(5);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let upstream = crate::upstream::Upstream::raw(move |wire, _| {
        wire.send(&head).unwrap();
        for byte in "0123456789".repeat(5).as_bytes() {
            wire.send([*byte]).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
        crate::upstream::Then::KeepAlive
    });
    let front = Front::registries(&[upstream.address]);
    assert_eq!(front.get("/v2/a/manifests/x").text(), body);
}
