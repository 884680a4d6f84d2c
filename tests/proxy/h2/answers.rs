//! What becomes of the answers of upstreams: of every framing, whole and broken off.

use std::{thread, time::Duration};

use super::{
    controllers,
    peer::{Ended, INTERNAL_ERROR, NO_ERROR, Peer, REFUSED_STREAM, request, request_with},
};
use crate::upstream::{Then, Upstream};

/// One that answers the path `/N` with the Nth of these, and closes where it says so.
fn scripted(answers: &'static [(&'static str, Then)]) -> Upstream {
    Upstream::raw(move |wire, head| {
        wire.body(&head, false, |_| {}).unwrap();
        let at: usize = head.word(1).trim_start_matches('/').parse().unwrap();
        let (answer, then) = answers[at];
        wire.send(answer).ok();
        then
    })
}

#[test]
fn every_framing_becomes_data_until_the_end() {
    let upstream = scripted(&[
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Then::KeepAlive),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            Then::KeepAlive,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nhello", Then::Close),
        ("HTTP/1.0 200 OK\r\n\r\nhello", Then::Close),
        (
            "HTTP/1.1 200 OK\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nContent-Length: 5\r\n\r\nhello",
            Then::Close,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::KeepAlive),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Then::KeepAlive),
        ("HTTP/1.1 204 No Content\r\n\r\n", Then::KeepAlive),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n", Then::KeepAlive),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            Then::KeepAlive,
        ),
    ]);
    let front = controllers(&[upstream.address]);
    let mut peer = Peer::connect(front.address);
    for at in 0..10 {
        let got = peer.get(&format!("/{at}"));
        let (status, body) = match at {
            5 | 6 => (200, ""),
            7 => (204, ""),
            8 => (304, ""),
            _ => (200, "hello"),
        };
        assert_eq!(
            (got.status(), got.text().as_str(), got.ended),
            (status, body, Ended::Whole),
            "{at}: {got:?}"
        );
        let length = match at {
            0 | 4 | 8 | 9 => Some("5"),
            5 => Some("0"),
            _ => None,
        };
        assert_eq!(got.get("content-length"), length, "{at}");
        assert_eq!((got.get("x-hop"), got.get("keep-alive")), (None, None));
        assert_eq!(got.interims.len(), usize::from(at == 9), "{at}");
        assert!(got.trailers.is_none() && got.reset_after.is_none());
    }
    assert!(peer.is_alive());
}

#[test]
fn a_head_request_has_no_data_whatever_its_answer_says() {
    let upstream = Upstream::raw(|wire, head| {
        let framing = ["Content-Length: 5", "Transfer-Encoding: chunked", "X: y"];
        let at: usize = head.word(1).trim_start_matches('/').parse().unwrap();
        wire.send(format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", framing[at])).ok();
        if at == 2 { Then::Close } else { Then::KeepAlive }
    });
    let front = controllers(&[upstream.address]);
    let mut peer = Peer::connect(front.address);
    for at in 0..3 {
        let got = peer.ask(&request("HEAD", &format!("/{at}")));
        assert_eq!((got.status(), got.length, got.ended), (200, 0, Ended::Whole), "{at}");
        assert_eq!(got.get("content-length"), (at == 0).then_some("5"));
    }
    let ours = peer.ask(&request("HEAD", "/metrics"));
    assert_eq!((ours.status(), ours.length, ours.ended), (404, 0, Ended::Whole));
}

#[test]
fn trailers_go_to_those_that_ask_for_them() {
    let upstream = scripted(&[(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n",
        Then::KeepAlive,
    )]);
    let front = controllers(&[upstream.address]);
    let mut peer = Peer::connect(front.address);
    let got = peer.ask(&request_with("GET", "/0", &[("te", "trailers")]));
    assert_eq!((got.text().as_str(), got.ended), ("hello", Ended::Whole));
    assert_eq!(got.trailers, Some(vec![("x-sum".to_owned(), "1".to_owned())]));
    let got = peer.get("/0");
    assert_eq!((got.text().as_str(), got.trailers, got.ended), ("hello", None, Ended::Whole));
}

#[test]
fn half_an_answer_is_reset_and_its_connection_goes_on() {
    let upstream = scripted(&[
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", Then::Close),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", Then::Close),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\nzz\r\n", Then::KeepAlive),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\nX: y", Then::Close),
    ]);
    let front = controllers(&[upstream.address]);
    let mut peer = Peer::connect(front.address);
    for at in 0..4 {
        let got = peer.get(&format!("/{at}"));
        // With what is wrong already there it is no answer; that is for the guard against garbled ones.
        let garbled = at == 2 && got.status() == 502;
        assert!(got.ended == Ended::Reset(INTERNAL_ERROR) || garbled, "{at}: {got:?}");
        assert!(got.status() == 200 || got.head.is_none() || garbled);
    }
    assert!(peer.is_alive());
    let cut = front.lines(4).iter().filter(|line| line["end"] == "aborted").count();
    assert!(cut >= 3, "{cut} of four were aborted");
}

#[test]
fn what_is_no_answer_is_502_on_its_stream_alone() {
    let upstream = scripted(&[
        ("nonsense\r\n\r\n", Then::Close),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", Then::Close),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Then::Close),
    ]);
    let front = controllers(&[upstream.address]);
    let mut peer = Peer::connect(front.address);
    for at in 0..3 {
        let got = peer.ask(&request("POST", &format!("/{at}")));
        assert_eq!((got.status(), got.ended), (502, Ended::Whole), "{at}");
    }
    assert!(peer.is_alive());
}

#[test]
fn an_answer_before_the_end_of_a_request_ends_its_stream() {
    let upstream = Upstream::raw(|wire, head| {
        if head.word(1) == "/early" {
            wire.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").ok();
            thread::sleep(Duration::from_millis(50));
            return Then::Close;
        }
        wire.body(&head, false, |_| {}).ok();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").ok();
        Then::KeepAlive
    });
    let front = controllers(&[upstream.address]);
    let mut peer = Peer::connect(front.address);
    for length in [true, false] {
        let more = [("content-length", "1000000")];
        let fields = request_with("PUT", "/early", if length { &more } else { &[] });
        let stream = peer.begin(&fields, false);
        peer.data(stream, &[7; 1000], false);
        let got = peer.finish(stream);
        assert_eq!((got.status(), got.text().as_str()), (413, "no"), "{got:?}");
        peer.until("the rest is refused", |peer| peer.streams[&stream].reset_after == Some(NO_ERROR));
        // What was on its way already disturbs nobody.
        peer.data(stream, &[7; 1000], true);
        assert_eq!(peer.get("/good").text(), "ok");
    }
}

#[test]
fn a_client_that_expects_it_is_told_to_go_on() {
    let upstream = Upstream::raw(|wire, head| {
        if head.get("expect").is_some() {
            wire.send("HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        }
        let mut body = Vec::new();
        wire.body(&head, false, |piece| body.extend_from_slice(piece)).unwrap();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).unwrap();
        wire.send(&body).unwrap();
        Then::KeepAlive
    });
    let front = controllers(&[upstream.address]);
    let mut peer = Peer::connect(front.address);
    let more = [("expect", "100-continue"), ("content-length", "5")];
    let stream = peer.begin(&request_with("PUT", "/x", &more), false);
    peer.until("100", |peer| peer.streams.get(&stream).is_some_and(|got| got.interims.len() == 1));
    peer.data(stream, b"hello", true);
    assert_eq!(peer.finish(stream).text(), "hello");
}

#[test]
fn requests_beyond_those_that_may_be_under_way_are_refused() {
    let upstream = Upstream::raw(|wire, head| {
        wire.body(&head, false, |_| {}).ok();
        thread::sleep(Duration::from_millis(300));
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").ok();
        Then::KeepAlive
    });
    let mut config = super::config(switchyard::config::proxy::Kind::Controller, &[upstream.address]);
    config.limits.streams = 8;
    let front = crate::front::Front::start(config);
    let mut peer = Peer::connect(front.address);
    assert_eq!(peer.settings.get(&3), Some(&8));
    let streams: Vec<u32> = (0..20).map(|_| peer.begin(&request("GET", "/x"), true)).collect();
    let got: Vec<_> = streams.iter().map(|stream| peer.finish(*stream)).collect();
    let served = got.iter().filter(|got| got.text() == "ok").count();
    let refused = got.iter().filter(|got| got.ended == Ended::Reset(REFUSED_STREAM)).count();
    assert_eq!((served, refused), (8, 12));
    assert_eq!(peer.get("/x").text(), "ok");
    assert!(
        front
            .metrics()
            .contains(r#"switchyard_proxy_refused_total{listener="front",reason="h2-too-many-streams"} 12"#)
    );
    assert!(front.metrics().contains(r#"switchyard_proxy_streams{listener="front"} 0"#));
}
