//! Well-formed connections with bytes changed, left out, repeated and cut off: whatever comes of it, what reaches the
//! upstream is a request or the beginning of one, the connection ends, and others are served.

use std::{net::Shutdown, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use switchyard::clock;

use super::{
    controllers, hpack,
    peer::{
        CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, PRIORITY, Peer,
        RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, request, request_with, setting,
    },
};
use crate::strict::origin::{Origin, Reached};

/// Connections that are tried. Each takes some milliseconds.
const CASES: u64 = 600;

/// The pieces of a connection, whole frames each.
fn frames(rng: &mut SmallRng) -> Vec<Vec<u8>> {
    let mut out = vec![frame(SETTINGS, 0, 0, &setting(4, rng.random_range(0..100_000)))];
    for at in 0..rng.random_range(1..8u32) {
        let stream = 2 * at + 1;
        let fields = match rng.random_range(0..3) {
            0 => request("GET", "/api/v1/vm"),
            1 => request_with("PUT", "/api/v1/vm?x=y", &[("content-length", "5"), ("cookie", "a=b")]),
            _ => request("POST", "/api/v1/vm"),
        };
        let block = hpack::block(&fields);
        let ends = fields[0].1 == "GET";
        let end = if ends { END_STREAM } else { 0 };
        if rng.random() {
            out.push(frame(HEADERS, END_HEADERS | end, stream, &block));
        } else {
            let (first, second) = block.split_at(rng.random_range(0..block.len()));
            out.push(frame(HEADERS, end, stream, first));
            out.push(frame(CONTINUATION, END_HEADERS, stream, second));
        }
        if !ends {
            out.push(frame(DATA, 0, stream, b"he"));
            out.push(frame(DATA, END_STREAM, stream, b"llo"));
        }
        match rng.random_range(0..6) {
            0 => out.push(frame(PING, 0, 0, &[7; 8])),
            1 => out.push(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 9, 9])),
            2 => out.push(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())),
            3 => out.push(frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 9])),
            _ => {}
        }
    }
    out
}

/// The bytes of one that is not as it should be.
fn mutated(rng: &mut SmallRng) -> Vec<u8> {
    let mut frames = frames(rng);
    for _ in 0..rng.random_range(0..3) {
        let at = rng.random_range(0..frames.len());
        match rng.random_range(0..3) {
            0 => drop(frames.remove(at)),
            1 => frames.insert(at, frames[at].clone()),
            _ => {
                let other = rng.random_range(0..frames.len());
                frames.swap(at, other);
            }
        }
        if frames.is_empty() {
            break;
        }
    }
    let mut bytes = frames.concat();
    for _ in 0..rng.random_range(0..4) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..5) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, rng.random()),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn whatever_comes_the_upstream_gets_requests_and_others_are_served() {
    let origin = Origin::start();
    let front = controllers(&[origin.address]);
    let first = std::env::var("H2_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = first.map_or(0..CASES, |seed| seed..seed + 1);
    let begun = clock::now();
    for seed in seeds {
        let mut rng = SmallRng::seed_from_u64(seed);
        let before = origin.count();
        let bytes = mutated(&mut rng);
        let mut peer = Peer::bare(front.address);
        // What comes back to nonsense is checked elsewhere.
        peer.lenient = true;
        peer.send(&[PREFACE, &bytes].concat());
        peer.idle(Duration::from_millis(1));
        peer.tcp.shutdown(Shutdown::Write).ok();
        peer.close();
        for reached in origin.since(before) {
            match reached {
                Reached::Whole(request) => {
                    assert!(
                        matches!(request.method.as_str(), "GET" | "PUT" | "POST")
                            || request.method.is_ascii()
                    );
                    let length = request.get("content-length").map(|length| length.parse::<usize>().unwrap());
                    assert!(
                        length.is_none_or(|length| length == request.body.len()),
                        "seed {seed}: {request:?}"
                    );
                }
                Reached::Partial(_) => {}
                Reached::Broken(why) => panic!("H2_SEED={seed}: {why}"),
            }
        }
        if seed % 50 == 0 {
            assert_eq!(Peer::connect(front.address).get("/api/v1/vm").status(), 200, "H2_SEED={seed}");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(Peer::connect(front.address).get("/api/v1/vm").status(), 200);
}
