//! A stop: the client is told first, what is under way ends, then the connection does.

use std::{thread, time::Duration};

use switchyard::{clock, config::proxy::Kind};

use super::{
    config, controllers,
    peer::{END_STREAM, Ended, HEADERS, NO_ERROR, Peer, frame, request},
};
use crate::{
    front::Front,
    upstream::{Then, Upstream},
};

/// Answers after so long, with a body in two halves.
fn slow(delay: Duration) -> Upstream {
    Upstream::raw(move |wire, head| {
        wire.body(&head, false, |_| {}).ok();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").ok();
        thread::sleep(delay);
        if wire.send("half").is_ok() { Then::KeepAlive } else { Then::Close }
    })
}

#[test]
fn what_is_under_way_ends_and_then_the_connection() {
    let upstream = slow(Duration::from_millis(700));
    let mut front = controllers(&[upstream.address]);
    let mut peer = Peer::connect(front.address);
    let streams: Vec<u32> = (0..5).map(|_| peer.begin(&request("GET", "/api/v1/vm"), true)).collect();
    peer.until("halves", |peer| {
        streams.iter().all(|stream| peer.streams.get(stream).is_some_and(|got| got.length == 4))
    });
    let idle = {
        let mut idle = Peer::connect(front.address);
        thread::spawn(move || (idle.close(), idle.goaways))
    };
    let stopped = thread::spawn(move || front.stop());
    for stream in &streams {
        let got = peer.finish(*stream);
        assert_eq!((got.text().as_str(), got.ended), ("halfhalf", Ended::Whole));
    }
    assert_eq!(peer.close(), Some(NO_ERROR));
    // First that no more shall come, then which was the last.
    assert_eq!(peer.goaways.first(), Some(&((1 << 31) - 1, NO_ERROR)));
    assert_eq!(peer.goaways.last(), Some(&(*streams.last().unwrap(), NO_ERROR)));
    drop(peer);
    assert_eq!(idle.join().unwrap().0, Some(NO_ERROR));
    assert!(stopped.join().unwrap() < Duration::from_secs(4));
}

#[test]
fn a_request_that_was_on_its_way_is_served() {
    let upstream = slow(Duration::from_millis(300));
    let mut front = controllers(&[upstream.address]);
    let mut peer = Peer::connect(front.address);
    peer.polite = false;
    let first = peer.begin(&request("GET", "/api/v1/vm"), true);
    peer.until("half", |peer| peer.streams.get(&first).is_some_and(|got| got.length == 4));
    let stopped = thread::spawn(move || front.stop());
    peer.until("the first word of it", |peer| !peer.goaways.is_empty());
    // It has not told that it has heard of it.
    let second = peer.begin(&request("GET", "/api/v1/vm"), true);
    assert_eq!(peer.finish(first).text(), "halfhalf");
    assert_eq!(peer.finish(second).text(), "halfhalf");
    peer.close();
    assert!(stopped.join().unwrap() < Duration::from_secs(5));
}

#[test]
fn what_is_not_over_by_the_end_of_the_grace_is_cut() {
    let upstream = slow(Duration::from_secs(5));
    let mut config = config(Kind::Controller, &[upstream.address]);
    config.endings.grace = Duration::from_secs(1);
    let mut front = Front::start(config);
    let mut peer = Peer::connect(front.address);
    let stream = peer.begin(&request("GET", "/api/v1/vm"), true);
    peer.until("half", |peer| peer.streams.get(&stream).is_some_and(|got| got.length == 4));
    let begun = clock::now();
    front.stop();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let got = peer.finish(stream);
    assert_ne!(got.ended, Ended::Whole);
}

#[test]
fn a_client_that_never_answers_holds_up_no_stop() {
    let upstream = slow(Duration::ZERO);
    let mut config = config(Kind::Controller, &[upstream.address]);
    config.endings.grace = Duration::from_secs(10);
    let mut front = Front::start(config);
    let mut peer = Peer::connect(front.address);
    peer.polite = false;
    peer.get("/api/v1/vm");
    // A head that does not go on is no request under way.
    peer.send(&frame(HEADERS, END_STREAM, 3, b""));
    let begun = clock::now();
    front.stop();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}
