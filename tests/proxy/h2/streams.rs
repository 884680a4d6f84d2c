//! Many streams at a time: each gets its own answer and no other, at its own pace.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use proptest::prelude::*;
use switchyard::config::proxy::Kind;

use super::{
    config, controllers,
    peer::{CANCEL, Ended, INTERNAL_ERROR, Peer, RST_STREAM, frame, request, request_with},
};
use crate::{
    front::{Front, eventually},
    raw::Head,
    upstream::{Then, Upstream},
};

/// What a byte of a body is, by whose it is and where.
fn byte(of: u64, at: usize) -> u8 {
    u8::try_from((of.wrapping_mul(31) + at as u64 % 251) % 256).unwrap()
}

fn bytes(of: u64, size: usize) -> Vec<u8> {
    (0..size).map(|at| byte(of, at)).collect()
}

/// Path `/ID/SIZE/FRAMING/DELAY`: answers with the id, a hash of the body that came, and `SIZE` bytes that only it has.
fn echoing() -> Upstream {
    Upstream::raw(|wire, head| {
        let mut body = Vec::new();
        if wire.body(&head, false, |piece| body.extend_from_slice(piece)).is_err() {
            return Then::Close;
        }
        let parts: Vec<u64> = head.word(1).split('/').filter_map(|part| part.parse().ok()).collect();
        let [id, size, chunked, delay] = parts[..] else { panic!("{head:?}") };
        thread::sleep(Duration::from_millis(delay));
        let size = usize::try_from(size).unwrap();
        let framing = if chunked == 1 {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {size}")
        };
        let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
        let answer =
            format!("HTTP/1.1 200 OK\r\nX-Id: {id}\r\nX-Got: {} {sum}\r\n{framing}\r\n\r\n", body.len());
        if wire.send(answer).is_err() {
            return Then::Close;
        }
        for piece in bytes(id, size).chunks(10_000) {
            let sent = if chunked == 1 {
                wire.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
            } else {
                wire.send(piece)
            };
            if sent.is_err() {
                return Then::Close;
            }
        }
        if chunked == 1 && wire.send("0\r\n\r\n").is_err() {
            return Then::Close;
        }
        Then::KeepAlive
    })
}

/// One request of a case.
#[derive(Debug, Clone)]
struct Ask {
    upload: usize,
    download: usize,
    chunked: bool,
    length: bool,
    delay: u64,
}

fn ask() -> impl Strategy<Value = Ask> {
    let size = || prop_oneof![Just(0usize), 1usize..200, 1000usize..90_000];
    (size(), size(), any::<bool>(), any::<bool>(), 0u64..15).prop_map(
        |(upload, download, chunked, length, delay)| Ask { upload, download, chunked, length, delay },
    )
}

/// All of them at once on one connection, their bodies interleaved; each answer is that of its own request.
fn together(front: &Front, asks: &[Ask], first: u64, piece: usize) {
    let mut peer = Peer::connect(front.address);
    let mut sending: Vec<(u32, u64, Vec<u8>, usize)> = Vec::new();
    for (at, ask) in asks.iter().enumerate() {
        let id = first + at as u64;
        let path = format!("/{id}/{}/{}/{}", ask.download, u8::from(ask.chunked), ask.delay);
        let text = ask.upload.to_string();
        let more = [("content-length", text.as_str())];
        let fields = request_with("PUT", &path, if ask.length { &more } else { &[] });
        let stream = peer.begin(&fields, false);
        sending.push((stream, id, bytes(id + 7, ask.upload), 0));
    }
    let mut left = true;
    while left {
        left = false;
        for (stream, _, body, sent) in &mut sending {
            if *sent > body.len() {
                continue;
            }
            let end = (*sent + piece).min(body.len());
            let last = end == body.len();
            let room = peer.room[&0].min(peer.room[stream]);
            if room < piece as i64 && !last {
                left = true;
                continue;
            }
            *peer.room.get_mut(&0).unwrap() -= (end - *sent) as i64;
            peer.data(*stream, &body[*sent..end], last);
            *sent = if last { usize::MAX } else { end };
            left |= !last;
        }
        peer.idle(Duration::from_millis(1));
        assert!(!peer.closed, "{:?}", peer.goaways);
    }
    for ((stream, id, body, _), ask) in sending.iter().zip(asks) {
        let got = peer.finish(*stream);
        let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
        assert_eq!(got.ended, Ended::Whole, "{ask:?}: {:?}", got.head);
        assert_eq!(got.get("x-id"), Some(id.to_string().as_str()), "an answer on another stream");
        assert_eq!(got.get("x-got"), Some(format!("{} {sum}", body.len()).as_str()));
        assert!(got.body == bytes(*id, ask.download), "the body of another: {ask:?}");
    }
}

#[test]
fn no_answer_comes_on_another_stream() {
    let upstreams = [echoing(), echoing()];
    let front = controllers(&[upstreams[0].address, upstreams[1].address]);
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 24, ..Default::default() });
    let first = AtomicU64::new(1);
    runner
        .run(&(prop::collection::vec(ask(), 1..60), 100usize..9000), |(asks, piece)| {
            together(&front, &asks, first.fetch_add(1000, Ordering::SeqCst), piece);
            Ok(())
        })
        .unwrap();
}

#[test]
fn many_connections_with_many_streams_each_get_their_own() {
    let upstreams = [echoing(), echoing()];
    let front = controllers(&[upstreams[0].address, upstreams[1].address]);
    thread::scope(|scope| {
        for connection in 0..16u64 {
            let front = &front;
            scope.spawn(move || {
                let mut peer = Peer::connect(front.address);
                for round in 0..5 {
                    let ids: Vec<u64> = (0..40).map(|at| connection * 10_000 + round * 100 + at).collect();
                    let streams: Vec<u32> = ids
                        .iter()
                        .map(|id| {
                            peer.begin(&request("GET", &format!("/{id}/{}/{}/0", id % 3000, id % 2)), true)
                        })
                        .collect();
                    for (id, stream) in ids.iter().zip(&streams) {
                        let got = peer.finish(*stream);
                        assert_eq!(got.get("x-id"), Some(id.to_string().as_str()), "{got:?}");
                        assert!(got.body == bytes(*id, usize::try_from(id % 3000).unwrap()));
                    }
                }
            });
        }
    });
}

#[test]
fn a_slow_stream_holds_up_no_other() {
    let upstream = echoing();
    let front = controllers(&[upstream.address]);
    let mut peer = Peer::connect(front.address);
    peer.greedy = false;
    // Nobody takes what these bring; together they leave room in the connection's window.
    peer.open(0, 10_000_000);
    let slow: Vec<u32> =
        (0..20).map(|id| peer.begin(&request("GET", &format!("/{id}/1000000/0/0")), true)).collect();
    peer.until("all windows are full", |peer| {
        slow.iter().all(|stream| peer.streams.get(stream).is_some_and(|got| got.length == 65_535))
    });
    for id in 100..150 {
        let got = peer.get(&format!("/{id}/60000/0/0"));
        assert_eq!((got.get("x-id"), got.length), (Some(id.to_string().as_str()), 60_000));
    }
    // And when they are taken they are whole.
    peer.open(0, 20_000_000);
    for (id, stream) in slow.iter().enumerate() {
        peer.open(*stream, 1_000_000);
        let got = peer.finish(*stream);
        assert!(got.ended == Ended::Whole && got.body == bytes(id as u64, 1_000_000));
    }
}

#[test]
fn large_bodies_pass_both_ways_at_the_clients_pace() {
    const SIZE: usize = 64 * 1024 * 1024;
    let upstream = Upstream::raw(|wire, head| {
        if head.word(0) == "GET" {
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).ok();
            for _ in 0..SIZE / (1 << 20) {
                if wire.send(vec![7; 1 << 20]).is_err() {
                    return Then::Close;
                }
            }
        } else {
            let mut wrong = 0;
            let got =
                wire.body(&head, false, |piece| wrong += piece.iter().filter(|byte| **byte != 7).count());
            let text = format!("{} {wrong}", got.unwrap());
            wire.send(format!("HTTP/1.1 202 Accepted\r\nContent-Length: {}\r\n\r\n{text}", text.len())).ok();
        }
        Then::KeepAlive
    });
    let front = Front::start(config(Kind::Registry, &[upstream.address]));
    let mut peer = Peer::connect(front.address);
    peer.keep = false;
    let got = peer.get("/v2/a/blobs/sha256:1");
    assert_eq!((got.length, got.ended), (SIZE as u64, Ended::Whole));
    peer.keep = true;
    let body = vec![7; SIZE];
    for length in [true, false] {
        let text = SIZE.to_string();
        let more = [("content-length", text.as_str())];
        let fields = request_with("PATCH", "/v2/a/blobs/uploads/1", if length { &more } else { &[] });
        let stream = peer.begin(&fields, false);
        peer.body(stream, &body);
        assert_eq!(peer.finish(stream).text(), format!("{SIZE} 0"));
    }
}

/// An upstream that counts the requests that wait and notices those that are cut off.
fn waiting() -> (Upstream, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (began, gone) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (counted, noticed) = (began.clone(), gone.clone());
    let upstream = Upstream::raw(move |wire, head: Head| {
        if head.word(1) == "/fine" {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").ok();
            return Then::KeepAlive;
        }
        counted.fetch_add(1, Ordering::SeqCst);
        if head.word(1) == "/half" {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").ok();
        }
        let whole = wire.body(&head, false, |_| {}).is_ok();
        if !whole || wire.closed() {
            noticed.fetch_add(1, Ordering::SeqCst);
        }
        Then::Close
    });
    (upstream, began, gone)
}

#[test]
fn a_client_that_resets_is_gone_at_once() {
    let (upstream, began, gone) = waiting();
    let front = Front::start(config(Kind::Registry, &[upstream.address]));
    let mut peer = Peer::connect(front.address);
    let cases = [
        (request("GET", "/api/v1/vm"), true),
        (request("GET", "/half"), true),
        (request_with("PATCH", "/v2/a/blobs/uploads/1", &[("content-length", "1000")]), false),
        (request("PATCH", "/v2/a/blobs/uploads/1"), false),
    ];
    for (at, (fields, end)) in cases.iter().enumerate() {
        let stream = peer.begin(fields, *end);
        if !end {
            peer.data(stream, b"some of it", false);
        }
        eventually("it has reached the upstream", || began.load(Ordering::SeqCst) == at + 1);
        if at == 1 {
            peer.until("half", |peer| peer.streams.get(&stream).is_some_and(|got| got.length == 4));
        }
        peer.send(&frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
        eventually("the upstream is told", || gone.load(Ordering::SeqCst) == at + 1);
        assert_eq!(peer.get("/fine").text(), "ok");
        assert!(peer.streams.get(&stream).is_none_or(|got| got.ended == Ended::Not));
    }
    let lines = front.lines(2 * cases.len());
    assert_eq!(lines.iter().filter(|line| line["end"] == "client-gone").count(), cases.len());
}

#[test]
fn a_connection_that_closes_ends_all_of_its_requests() {
    let (upstream, began, gone) = waiting();
    let front = controllers(&[upstream.address]);
    let mut peer = Peer::connect(front.address);
    for _ in 0..10 {
        peer.begin(&request("GET", "/api/v1/vm"), true);
    }
    eventually("they have reached the upstream", || began.load(Ordering::SeqCst) == 10);
    drop(peer);
    eventually("the upstream is told", || gone.load(Ordering::SeqCst) == 10);
    let lines = front.lines(10);
    assert!(lines.iter().all(|line| line["end"] == "client-gone"));
    assert!(front.metrics().contains(r#"switchyard_proxy_streams{listener="front"} 0"#));
}

#[test]
fn a_held_request_goes_on_when_a_server_comes_and_its_neighbours_do_not_wait() {
    let upstream = Upstream::start(|seen| crate::upstream::ok(seen.path()));
    let front = controllers(&[upstream.address]);
    upstream.says(503, "");
    front.wait_until("it is down", |view| view.services[0].upstreams[0].health != "up");
    let mut peer = Peer::connect(front.address);
    let held: Vec<u32> =
        (0..5).map(|at| peer.begin(&request("GET", &format!("/api/v1/{at}")), true)).collect();
    assert_eq!(peer.get("/metrics").status(), 404);
    // One of them is taken back while it is held.
    peer.send(&frame(RST_STREAM, 0, held[0], &CANCEL.to_be_bytes()));
    eventually("it is gone", || front.metrics().contains("switchyard_proxy_held{service=\"pool\"} 4"));
    upstream.says(200, crate::upstream::ABLE);
    for (at, stream) in held.iter().enumerate().skip(1) {
        assert_eq!(peer.finish(*stream).text(), format!("/api/v1/{at}"));
    }
}

#[test]
fn an_upstream_that_dies_is_another_ones_turn() {
    let dead = Upstream::raw(|wire, head| {
        wire.body(&head, false, |_| {}).ok();
        Then::Close
    });
    let alive = Upstream::start(|seen| crate::upstream::ok(seen.path()));
    let front = controllers(&[dead.address, alive.address]);
    let mut peer = Peer::connect(front.address);
    for at in 0..10 {
        let got = peer.get(&format!("/api/v1/{at}"));
        assert_eq!((got.status(), got.text()), (200, format!("/api/v1/{at}")));
    }
}

#[test]
fn a_blob_goes_on_from_another_registry() {
    const SIZE: usize = 300_000;
    let of = |dies: Option<usize>| {
        Upstream::raw(move |wire, head| {
            let from: usize = head
                .get("range")
                .and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok())
                .unwrap_or(0);
            let body = bytes(1, SIZE);
            let end = dies.unwrap_or(SIZE).max(from);
            let status = if head.get("range").is_some() {
                format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{SIZE}", SIZE - 1)
            } else {
                "200 OK".to_owned()
            };
            wire.send(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", SIZE - from)).ok();
            wire.send(&body[from..end]).ok();
            if dies.is_some() { Then::Close } else { Then::KeepAlive }
        })
    };
    let upstreams = [of(Some(123_456)), of(None)];
    let front = Front::start(config(Kind::Registry, &[upstreams[0].address, upstreams[1].address]));
    let mut peer = Peer::connect(front.address);
    let path = format!("/v2/a/blobs/sha256:{}", "0".repeat(64));
    for _ in 0..4 {
        let got = peer.get(&path);
        assert_eq!((got.status(), got.ended), (200, Ended::Whole));
        assert!(got.body == bytes(1, SIZE));
    }
    let resumed =
        front.lines(4).iter().filter(|line| line["attempts"].as_array().unwrap().len() == 2).count();
    assert!(resumed >= 1, "none was continued");
    // Without another one it is reset, not ended.
    let alone = of(Some(123_456));
    let front = Front::start(config(Kind::Registry, &[alone.address]));
    let got = Peer::connect(front.address).get(&path);
    assert_eq!(got.ended, Ended::Reset(INTERNAL_ERROR));
}
