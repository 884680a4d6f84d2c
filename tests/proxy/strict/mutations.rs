//! Good requests, broken at random.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::judge::{Bench, Want::Any};

const SEED: u64 = 20_251_125;

/// Bytes that mean something somewhere.
const BYTES: &[u8] = b"\r\n\r\n\r\n\0\t  ::;;,,\"\\/%?#=-+_0123456789abcdefxX\x0b\x0c\x7f\x80\xff";

/// Good requests of every framing.
const GOOD: &[&str] = &[
    "GET /api/v1/vm?id=1 HTTP/1.1\r\nHost: front\r\nAccept: */*\r\n\r\n",
    "HEAD /api/v1/vm HTTP/1.1\r\nHost: front:80\r\nX-Odd: 1\r\nX-Odd: 2\r\n\r\n",
    "DELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\nContent-Length: 12\r\n\r\n{\"id\":\"abc\"}",
    "DELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n",
    "PUT /api/v1/vm HTTP/1.1\r\nHost: front\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\nb\r\nhello world\r\n0\r\nX-Sum: 1\r\n\r\n",
    "POST /api/v1/vm HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\nHost: front\r\n\r\n{}",
    "GET http://front/api/v1/vm HTTP/1.1\r\nHost: front\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\r\n",
    "PUT /api/v1/vm HTTP/1.1\r\nHost: front\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    "GET /api/v1/vm HTTP/1.0\r\nHost: front\r\nConnection: keep-alive\r\n\r\n",
    "GET /api/v1/one HTTP/1.1\r\nHost: front\r\n\r\nDELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\nContent-Length: 3\r\n\r\ntwo",
    "DELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\nContent-Length: 44\r\n\r\nGET /api/v1/hidden HTTP/1.1\r\nHost: front\r\n\r\n\n",
];

fn part(chance: &mut StdRng, length: usize) -> std::ops::Range<usize> {
    let from = chance.random_range(0..=length);
    let most = if chance.random_bool(0.7) { 3 } else { 40 };
    from..(from + chance.random_range(0..=most)).min(length)
}

fn mutate(chance: &mut StdRng, bytes: &mut Vec<u8>) {
    let byte = BYTES[chance.random_range(0..BYTES.len())];
    let at = part(chance, bytes.len());
    match chance.random_range(0..7) {
        0 => bytes.insert(at.start, byte),
        1 => drop(bytes.drain(at)),
        2 => {
            let copy = bytes[at].to_vec();
            let to = chance.random_range(0..=bytes.len());
            bytes.splice(to..to, copy);
        }
        3 => {
            let one = chance.random_range(0..bytes.len().max(1));
            let two = chance.random_range(0..bytes.len().max(1));
            if !bytes.is_empty() {
                bytes.swap(one, two);
            }
        }
        4 => {
            if let Some(place) = bytes.get_mut(at.start) {
                *place = byte;
            }
        }
        5 => {
            // A whole line, said twice or taken away.
            let lines: Vec<_> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            let which = chance.random_range(0..lines.len().max(1));
            let times = if chance.random_bool(0.5) { 2 } else { 0 };
            let again = |(at, line): (usize, &Vec<u8>)| line.repeat(if at == which { times } else { 1 });
            *bytes = lines.iter().enumerate().flat_map(again).collect();
        }
        _ => {
            // What another request is made of.
            let other = GOOD[chance.random_range(0..GOOD.len())].as_bytes();
            let piece = other[part(chance, other.len())].to_vec();
            bytes.splice(at, piece);
        }
    }
}

#[test]
fn whatever_is_done_to_a_good_request_it_is_one_request_or_refused() {
    let given = std::env::var("SWITCHYARD_STRICT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or(SEED);
    let full = std::env::var_os("SWITCHYARD_TEST_SCALE").is_some_and(|scale| scale == "full");
    let count = if full { 50_000 } else { 2000 };
    let bench = Bench::start();
    let (mut faults, mut refused, mut answered) = (Vec::new(), 0, 0);
    for n in 0..count {
        // Each has a seed of its own, so that one is replayed without those before it.
        let mut chance = StdRng::seed_from_u64(seed.wrapping_add(n));
        let mut bytes = GOOD[chance.random_range(0..GOOD.len())].as_bytes().to_vec();
        for _ in 0..chance.random_range(1..=3) {
            mutate(&mut chance, &mut bytes);
        }
        let mut writes: Vec<usize> =
            (0..chance.random_range(0..4)).map(|_| chance.random_range(0..=bytes.len())).collect();
        writes.sort_unstable();
        let (outcome, fault) = bench.judge(&bytes, Any, &writes);
        refused += usize::from(outcome.refused.is_some());
        answered += outcome.answered.len();
        faults.extend(fault.map(|fault| format!("SWITCHYARD_STRICT_SEED={} {fault}", seed.wrapping_add(n))));
        if faults.len() >= 20 {
            break;
        }
    }
    assert!(faults.is_empty(), "such as:\n    {}", faults.join("\n    "));
    bench.end();
    // Neither kind was rare.
    let (refused, answered) = (refused * 5 / count as usize, answered * 5 / count as usize);
    assert!(refused > 0 && answered > 0, "{refused} {answered}");
}
