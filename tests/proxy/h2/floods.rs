//! What costs the proxy more than its sender has a bound, which ends that connection and harms no other.

use std::{thread, time::Duration};

use switchyard::{clock, config::proxy::Kind};

use super::{
    config, controllers,
    hpack::{self, Fields},
    peer::{
        ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Ended, HEADERS,
        INTERNAL_ERROR, PING, PRIORITY, PROTOCOL_ERROR, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
        request, request_with, setting,
    },
};
use crate::{
    alone::alone,
    front::{Front, eventually},
    strict::origin::{Origin, Reached},
    upstream::{Then, Upstream},
};

/// Bytes of memory that this process has now.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn refused(front: &Front, reason: &str) -> bool {
    front.metrics().contains(&format!(r#"refused_total{{listener="front",reason="{reason}"}}"#))
}

/// Sends `piece` over and over on a connection that has begun with `first`, until the proxy ends it; the code. Another
/// connection is served all the while.
fn flood(front: &Front, first: &[u8], mut piece: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    let mut other = Peer::connect(front.address);
    let mut peer = Peer::connect(front.address);
    peer.send(first);
    peer.skip_to(1 << 30);
    for round in 0..2000 {
        let bytes: Vec<u8> = (0..50).flat_map(|at| piece(round * 50 + at)).collect();
        peer.send(&bytes);
        peer.idle(Duration::from_micros(100));
        if peer.closed {
            break;
        }
        if round % 200 == 0 {
            assert_eq!(other.get("/api/v1/vm").status(), 200);
        }
    }
    assert_eq!(other.get("/api/v1/vm").status(), 200);
    peer.idle(Duration::from_secs(3));
    assert!(peer.closed, "a hundred thousand were taken");
    peer.goaways.last().map(|(_, code)| *code)
}

/// A head that opens a stream and does not end it.
fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &hpack::block(&request("PUT", "/api/v1/vm")))
}

#[test]
fn frames_that_carry_nothing_are_told_to_calm_down() {
    let origin = Origin::start();
    let front = controllers(&[origin.address]);
    let calm = Some(ENHANCE_YOUR_CALM);
    assert_eq!(flood(&front, b"", |_| frame(PING, 0, 0, &[0; 8])), calm);
    assert_eq!(flood(&front, b"", |_| frame(PING, ACK, 0, &[0; 8])), calm);
    assert_eq!(flood(&front, b"", |_| frame(SETTINGS, 0, 0, b"")), calm);
    assert_eq!(flood(&front, b"", |at| frame(SETTINGS, 0, 0, &setting(4, at))), calm);
    assert_eq!(flood(&front, b"", |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9])), calm);
    assert_eq!(flood(&front, b"", |_| frame(0x55, 0, 0, b"")), calm);
    assert_eq!(flood(&front, &open(1), |_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])), calm);
    assert_eq!(flood(&front, &open(1), |_| frame(DATA, 0, 1, b"")), calm);
    assert_eq!(flood(&front, &open(1), |_| frame(DATA, 8, 1, &[0])), calm, "padding alone");
    assert!(refused(&front, "h2-idle-frames"));
}

#[test]
fn rapid_resets_are_told_to_calm_down() {
    let origin = Origin::start();
    let front = controllers(&[origin.address]);
    let block = hpack::block(&request("GET", "/api/v1/vm"));
    let both = |at: u32| {
        let stream = 2 * at + 1;
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        [head, frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat()
    };
    assert_eq!(flood(&front, b"", both), Some(ENHANCE_YOUR_CALM));
    // The same, provoked: each is reset by the proxy for what it is.
    let bad = hpack::block(&request_with("GET", "/api/v1/vm", &[("connection", "close")]));
    let provoked = |at: u32| frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, &bad);
    assert_eq!(flood(&front, b"", provoked), Some(ENHANCE_YOUR_CALM));
    eventually("nothing is under way", || {
        front.metrics().contains(r#"switchyard_proxy_streams{listener="front"} 0"#)
    });
    assert!(origin.count() < 2000, "{} requests were let through to be taken back", origin.count());
    assert!(refused(&front, "h2-resets") || refused(&front, "h2-flood"));
}

#[test]
fn a_block_without_end_is_ended() {
    alone(|| {
        let origin = Origin::start();
        let front = controllers(&[origin.address]);
        let before = memory();
        let first = frame(HEADERS, END_STREAM, 1, &hpack::block(&request("GET", "/api/v1/never")));
        let mut field = Vec::new();
        hpack::literal(b"x-more", &[b'y'; 1000], &mut field);
        for piece in [field, Vec::new(), b"\0".to_vec()] {
            let code = flood(&front, &first, |_| frame(CONTINUATION, 0, 1, &piece));
            assert!(matches!(code, Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR) | None), "{code:?}");
        }
        let other =
            |reached: &Reached| matches!(reached, Reached::Whole(request) if request.target == "/api/v1/vm");
        assert!(origin.since(0).iter().all(other), "a block without end became a request");
        assert!(memory().saturating_sub(before) < 30_000_000);
    });
}

#[test]
fn a_small_block_that_becomes_a_large_one_is_refused_within_bounds() {
    alone(|| {
        let origin = Origin::start();
        let front = controllers(&[origin.address]);
        let before = memory();
        // One field of 4,000 bytes goes into the table, and each byte behind it means it again.
        let bomb = |count: usize| {
            let mut block = Vec::new();
            hpack::indexed(b"x-bomb", &[b'y'; 3900], &mut block);
            for (name, value) in request("GET", "/api/v1/vm") {
                let mut own = Vec::new();
                hpack::literal(name.as_bytes(), value.as_bytes(), &mut own);
                block.splice(0..0, own);
            }
            block.extend(std::iter::repeat_n(0xbe, count));
            block
        };
        for count in [20, 1000, 16_000 - 4_000] {
            let mut peer = Peer::connect(front.address);
            let stream = peer.id();
            peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb(count)));
            peer.until("it is refused", |peer| peer.closed || peer.is_over(stream));
            let got = peer.streams.get(&stream).cloned().unwrap_or_default();
            assert!(
                peer.closed || got.status() == 431 || matches!(got.ended, Ended::Reset(_)),
                "{count}: {got:?}"
            );
        }
        // As many as there may be at once.
        let mut peers: Vec<Peer> = (0..50).map(|_| Peer::connect(front.address)).collect();
        for peer in &mut peers {
            peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb(12_000)));
            peer.skip_to(3);
        }
        for peer in &mut peers {
            peer.until("an end", |peer| peer.closed || peer.is_over(1));
        }
        assert_eq!(origin.count(), 0);
        assert!(memory().saturating_sub(before) < 60_000_000, "{}", memory() - before);
    });
}

#[test]
fn small_pieces_of_bodies_that_nobody_takes_are_bounded() {
    alone(|| {
        // It takes nothing of a body.
        let upstream = Upstream::raw(|wire, head| {
            if head.word(0) == "GET" {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok();
                return Then::KeepAlive;
            }
            thread::sleep(Duration::from_secs(4));
            Then::Close
        });
        let front = Front::start(config(Kind::Registry, &[upstream.address]));
        let before = memory();
        let first: Vec<u8> = (0..50)
            .flat_map(|at| {
                let fields = request("PATCH", "/v2/a/blobs/uploads/1");
                frame(HEADERS, END_HEADERS, 2 * at + 1, &hpack::block(&fields))
            })
            .collect();
        let mut peer = Peer::connect(front.address);
        peer.send(&first);
        peer.skip_to(1 << 20);
        for at in 0..200_000u32 {
            peer.data(2 * (at % 50) + 1, b"x", false);
            if at % 1000 == 0 {
                peer.idle(Duration::from_micros(100));
            }
            if peer.closed {
                break;
            }
        }
        let grown = memory().saturating_sub(before);
        assert!(grown < 100_000_000, "{} MB", grown / 1_000_000);
        assert_eq!(Peer::connect(front.address).get("/v2/").status(), 200);
    });
}

#[test]
fn a_window_that_stays_shut_ends_its_stream_in_time() {
    let upstream = Upstream::raw(|wire, head| {
        let size = if head.word(1) == "/large" { 300_000 } else { 2 };
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")).ok();
        if wire.send(vec![b'x'; size]).is_ok() { Then::KeepAlive } else { Then::Close }
    });
    let mut config = config(Kind::Controller, &[upstream.address]);
    config.services[0].timeouts.idle = Duration::from_secs(1);
    let front = Front::start(config);
    // Nothing at all may be sent on a stream, or no more than a first window.
    for window in [0, 1, 65_535] {
        let mut peer = Peer::with(front.address, &[(4, window)]);
        peer.greedy = false;
        let begun = clock::now();
        let shut: Vec<u32> = (0..10).map(|_| peer.begin(&request("GET", "/large"), true)).collect();
        for stream in shut {
            let got = peer.finish(stream);
            assert_eq!((got.status(), got.ended), (200, Ended::Reset(INTERNAL_ERROR)), "{window}");
            assert!(got.length <= u64::from(window));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let good = peer.begin(&request("GET", "/small"), true);
        peer.open(good, 10);
        peer.open(0, 1000);
        assert_eq!(peer.finish(good).text(), "xx");
    }
    // It shrinks below nothing, and grows again.
    let mut peer = Peer::connect(front.address);
    peer.greedy = false;
    let stream = peer.begin(&request("GET", "/large"), true);
    peer.until("the first window", |peer| peer.streams.get(&stream).is_some_and(|got| got.length == 65_535));
    peer.send(&frame(SETTINGS, 0, 0, &setting(4, 0)));
    peer.open(0, 1_000_000);
    peer.open(stream, 65_535);
    peer.idle(Duration::from_millis(200));
    assert_eq!(peer.streams[&stream].length, 65_535, "the window is not open yet");
    peer.open(stream, 300_000);
    assert_eq!(peer.finish(stream).length, 300_000);
}

#[test]
fn who_takes_its_time_over_a_head_is_ended() {
    let origin = Origin::start();
    let mut config = config(Kind::Controller, &[origin.address]);
    config.limits.header_timeout = Duration::from_millis(400);
    config.limits.keep_alive = Duration::from_millis(900);
    let front = Front::start(config);
    let block = hpack::block(&request("GET", "/api/v1/vm"));
    let whole = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    let cases: [(&str, Vec<u8>, Option<u32>); 5] = [
        ("nothing", Vec::new(), Some(0)),
        ("half a head", whole[..20].to_vec(), Some(ENHANCE_YOUR_CALM)),
        ("half a frame's beginning", whole[..5].to_vec(), Some(ENHANCE_YOUR_CALM)),
        ("a block that does not go on", frame(HEADERS, END_STREAM, 1, &block), Some(ENHANCE_YOUR_CALM)),
        ("no more requests", whole.clone(), Some(0)),
    ];
    for (what, bytes, code) in cases {
        let mut peer = Peer::connect(front.address);
        peer.skip_to(3);
        peer.send(&bytes);
        let begun = clock::now();
        assert_eq!(peer.close(), code, "{what}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}: {:?}", begun.elapsed());
    }
    // It does not even say what it speaks, or goes no further.
    for cut in [0, 1, 10, 23, 24, 30] {
        let hello = [super::peer::PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
        let mut peer = Peer::bare(front.address);
        peer.lenient = true;
        peer.send(&hello[..cut]);
        peer.close();
    }
    assert!(refused(&front, "head-too-slow"));
    // One that goes on with a body is not one of them.
    let mut peer = Peer::connect(front.address);
    let fields: Fields = request("PUT", "/api/v1/vm");
    let stream = peer.begin(&fields, false);
    for _ in 0..6 {
        peer.data(stream, b"x", false);
        peer.idle(Duration::from_millis(200));
    }
    peer.data(stream, b"", true);
    assert_eq!(peer.finish(stream).status(), 200);
}

#[test]
fn a_client_that_reads_nothing_holds_no_memory() {
    alone(|| {
        let upstream = Upstream::raw(|wire, head| {
            wire.body(&head, false, |_| {}).ok();
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").ok();
            while wire.send(vec![0; 100_000]).is_ok() {}
            Then::Close
        });
        let mut config = config(Kind::Registry, &[upstream.address]);
        config.services[0].timeouts.idle = Duration::from_secs(2);
        let front = Front::start(config);
        let before = memory();
        let mut peers: Vec<Peer> = (0..4).map(|_| Peer::with(front.address, &[(4, (1 << 31) - 1)])).collect();
        for peer in &mut peers {
            peer.open(0, (1 << 31) - 1 - 65_535);
            for _ in 0..100 {
                peer.begin(&request("GET", "/v2/a/blobs/sha256:1"), true);
            }
        }
        thread::sleep(Duration::from_millis(1500));
        let grown = memory().saturating_sub(before);
        // 400 transfers of at most 64 KiB with the library, 256 KiB on their way, and as much in this test's upstream.
        assert!(grown < 400 * 700_000, "{} MB", grown / 1_000_000);
        eventually("they are given up", || {
            front.metrics().contains(r#"switchyard_proxy_streams{listener="front"} 0"#)
        });
    });
}
