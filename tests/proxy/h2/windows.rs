//! What a client may send ahead: little of what is due at once, more of a transfer, and so much of all together.

use std::{thread, time::Duration};

use switchyard::config::proxy::Kind;

use super::{
    config,
    peer::{Ended, Peer, REFUSED_STREAM, request, request_with},
};
use crate::{
    front::Front,
    upstream::{Then, Upstream},
};

/// Takes nothing of an upload for a while, and all of anything else.
fn stalling() -> Upstream {
    Upstream::raw(|wire, head| {
        if head.word(0) == "PATCH" {
            thread::sleep(Duration::from_secs(3));
            return Then::Close;
        }
        let got = wire.body(&head, false, |_| {}).unwrap_or_default();
        let text = got.to_string();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())).ok();
        Then::KeepAlive
    })
}

#[test]
fn a_transfer_may_send_ahead_and_leaves_room_for_others() {
    let upstream = stalling();
    let front = Front::start(config(Kind::Registry, &[upstream.address]));
    let mut peer = Peer::connect(front.address);
    peer.until("the connection's window", |peer| peer.room[&0] > 65_535);
    assert_eq!((peer.room[&0], peer.settings.get(&4)), (2 << 20, None));
    let transfers: Vec<u32> =
        (0..8).map(|_| peer.begin(&request("PATCH", "/v2/a/blobs/uploads/1"), false)).collect();
    let small = peer.begin(&request("GET", "/v2/"), false);
    peer.until("windows that grow", |peer| peer.room[&transfers[3]] > 65_535);
    assert!(peer.is_alive());
    let grown = |at: usize| peer.room[&transfers[at]] - 65_535;
    assert_eq!(grown(0), (512 << 10) - 65_535, "the first gets all of it");
    assert!((1..8).all(|at| grown(at) <= grown(at - 1)), "those behind it no more than is left");
    assert!((0..8).map(grown).sum::<i64>() <= 3 << 19);
    assert_eq!(peer.room[&small], 65_535);
    // All that transfers may send lies here, and nobody takes it; one that is due at once has its place.
    for stream in transfers {
        let most = (peer.room[&stream] - 65_535).max(16_384);
        for _ in 0..most / 16_384 {
            peer.data(stream, &[7; 16_384], false);
        }
    }
    peer.room.insert(0, 1 << 20);
    peer.body(small, &[7; 60_000]);
    let got = peer.finish(small);
    assert_eq!((got.text().as_str(), got.ended), ("60000", Ended::Whole));
    assert_ne!(got.ended, Ended::Reset(REFUSED_STREAM));
}

#[test]
fn what_is_taken_may_be_sent_again_padding_too() {
    let upstream = stalling();
    let front = Front::start(config(Kind::Controller, &[upstream.address]));
    let mut peer = Peer::connect(front.address);
    let stream = peer.begin(&request_with("PUT", "/api/v1/vm", &[("content-length", "300000")]), false);
    peer.until("the connection's window", |peer| peer.room[&0] > 65_535);
    let mut sent = 0;
    while sent < 300_000 {
        // Half of each frame is padding, 255 bytes at most.
        let size = 200.min(300_000 - sent);
        let padded = [&[255u8][..], &vec![7; size], &[0; 255]].concat();
        let length = i64::try_from(padded.len()).unwrap();
        peer.until("room", |peer| peer.closed || peer.room[&0].min(peer.room[&stream]) >= length);
        for of in [0, stream] {
            *peer.room.get_mut(&of).unwrap() -= length;
        }
        sent += size;
        let end = if sent == 300_000 { 1 } else { 0 };
        peer.send(&super::peer::frame(super::peer::DATA, 8 | end, stream, &padded));
    }
    assert_eq!(peer.finish(stream).text(), "300000");
}
