//! Large bodies, without being copied and copied: every test runs both ways, and must see no difference.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    sync::{
        Arc, Barrier, LazyLock, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use switchyard::{clock, config::proxy::Kind};

use crate::{
    front::{self, Front, eventually},
    raw::{Head, Wire},
    upstream::{Then, Upstream},
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A front of each way before these registries.
fn fronts(addresses: &[SocketAddr], change: impl Fn(&mut switchyard::config::proxy::Proxy)) -> [Front; 2] {
    [true, false].map(|zero_copy| {
        let mut config = front::config(Kind::Registry, addresses);
        config.zero_copy = zero_copy;
        change(&mut config);
        Front::start(config)
    })
}

/// Bytes that differ wherever some are missing, repeated or moved. Made once: that takes a while.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut all = vec![0; 9 * MIB];
    for (at, word) in all.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    all
});

fn pattern(size: usize) -> &'static [u8] {
    &PATTERN[..size]
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// `…/sha256:SIZE` in a path.
fn size_in(path: &str) -> usize {
    path.rsplit(':').next().unwrap().parse().unwrap()
}

fn head_of(size: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")
}

fn get(size: usize) -> String {
    format!("GET /v2/a/blobs/sha256:{size} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn push(size: usize) -> String {
    format!("PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")
}

/// A registry that has every blob, and answers an upload with the hash of what came.
fn serve(wire: &mut Wire, head: &Head) -> Then {
    if head.word(0) == "GET" {
        let size = size_in(head.word(1));
        let sent = wire.send(head_of(size)).and_then(|()| wire.send(pattern(size)));
        return if sent.is_ok() { Then::KeepAlive } else { Then::Close };
    }
    let mut sha = Sha256::new();
    if wire.body(head, false, |piece| sha.update(piece)).is_err() {
        return Then::Close;
    }
    let hash = hex::encode(sha.finalize());
    let answer = format!("HTTP/1.1 202 Accepted\r\nContent-Length: {}\r\n\r\n{hash}", hash.len());
    if wire.send(answer).is_ok() { Then::KeepAlive } else { Then::Close }
}

/// The next answer's body, as a hash, and how many bytes it was.
fn hash_of(wire: &mut Wire) -> (u16, u64, String) {
    let head = wire.head().unwrap().unwrap();
    let mut sha = Sha256::new();
    let size = wire.body(&head, false, |piece| sha.update(piece)).unwrap();
    (head.status(), size, hex::encode(sha.finalize()))
}

fn not_copied(front: &Front) -> u64 {
    let metrics = front.metrics();
    let line =
        metrics.lines().find(|line| line.starts_with("switchyard_proxy_zero_copy_bytes_total ")).unwrap();
    line.split(' ').nth(1).unwrap().parse::<f64>().unwrap() as u64
}

#[test]
fn bodies_of_all_sizes_pass_whole_both_ways_on_connections_that_are_kept() {
    let sizes = [
        0,
        1,
        64 * KIB - 1,
        64 * KIB + 1,
        128 * KIB - 1,
        128 * KIB,
        128 * KIB + 1,
        200_000,
        256 * KIB,
        MIB - 1,
        MIB + 1,
        5 * MIB + 3,
    ];
    let peers = Arc::new(Mutex::new(BTreeSet::new()));
    let noted = peers.clone();
    let registry = Upstream::raw(move |wire, head| {
        noted.lock().unwrap().insert(wire.tcp.peer_addr().unwrap());
        serve(wire, &head)
    });
    for front in fronts(&[registry.address], |_| {}) {
        peers.lock().unwrap().clear();
        let mut client = Wire::connect(front.address);
        for size in sizes {
            client.send(get(size)).unwrap();
            assert_eq!(hash_of(&mut client), (200, size as u64, hash(pattern(size))), "download of {size}");
        }
        for size in sizes {
            client.send(push(size)).unwrap();
            client.send(pattern(size)).unwrap();
            assert_eq!(client.answer(false).unwrap().text(), hash(pattern(size)), "upload of {size}");
        }
        // One connection for all of them, on either side.
        assert_eq!(peers.lock().unwrap().len(), 1);
        let all: usize = sizes.iter().sum::<usize>() * 2;
        let not_copied = not_copied(&front);
        if front.config.zero_copy && cfg!(target_os = "linux") {
            assert!(not_copied > all as u64 / 2, "{not_copied} of {all} bytes");
        } else {
            assert_eq!(not_copied, 0);
        }
    }
}

#[test]
fn a_request_right_behind_an_upload_is_answered_after_it() {
    let registry = Upstream::raw(|wire, head| serve(wire, &head));
    for front in fronts(&[registry.address], |_| {}) {
        for size in [130 * KIB, 3 * MIB + 1] {
            let mut all = push(size).into_bytes();
            all.extend(pattern(size));
            all.extend(get(1000).into_bytes());
            all.extend(push(200_000).into_bytes());
            all.extend(pattern(200_000));
            let mut client = Wire::connect(front.address);
            let mut sender = client.tcp.try_clone().unwrap();
            let sending = thread::spawn(move || sender.write_all(&all).unwrap());
            assert_eq!(client.answer(false).unwrap().text(), hash(pattern(size)));
            assert_eq!(client.answer(false).unwrap().body, pattern(1000));
            assert_eq!(client.answer(false).unwrap().text(), hash(pattern(200_000)));
            sending.join().unwrap();
        }
    }
}

#[test]
fn a_client_of_http_1_0_gets_the_whole_body() {
    let registry = Upstream::raw(|wire, head| serve(wire, &head));
    for front in fronts(&[registry.address], |_| {}) {
        let mut client = Wire::connect(front.address);
        client.send(format!("GET /v2/a/blobs/sha256:{} HTTP/1.0\r\nHost: a\r\n\r\n", 2 * MIB)).unwrap();
        assert_eq!(hash_of(&mut client), (200, 2 * MIB as u64, hash(pattern(2 * MIB))));
        assert!(client.closed());
    }
}

#[test]
fn a_blob_goes_on_from_another_registry_where_one_was_killed() {
    const SIZE: usize = 8 * MIB;
    // The blob's own digest stands in the path: only then may it be continued.
    let blob = pattern(SIZE);
    let digest = format!("sha256:{}", hash(blob));
    let path = format!("/v2/a/blobs/{digest}");
    for ignores_ranges in [false, true] {
        let asked = Arc::new(AtomicUsize::new(0));
        let registries: Vec<_> = (0..2)
            .map(|_| {
                let (digest, asked) = (digest.clone(), asked.clone());
                Upstream::raw(move |wire, head| {
                    let number = asked.fetch_add(1, Ordering::SeqCst);
                    let range = head.get("range").filter(|_| !ignores_ranges);
                    let from = range.map_or(0, |range| {
                        range.trim_start_matches("bytes=").split('-').next().unwrap().parse().unwrap()
                    });
                    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
                    let content_range = range.map_or(String::new(), |_| {
                        format!("Content-Range: bytes {from}-{}/{SIZE}\r\n", SIZE - 1)
                    });
                    let fields = format!(
                        "Docker-Content-Digest: {digest}\r\n{content_range}Content-Length: {}",
                        SIZE - from
                    );
                    wire.send(format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n")).unwrap();
                    // Three die, each further on.
                    let dies = [2 * MIB + 7, 4 * MIB + 1, 7 * MIB + 99];
                    let to = dies.get(number).copied().unwrap_or(SIZE);
                    wire.send(&blob[from..to]).ok();
                    if to < SIZE { Then::Close } else { Then::KeepAlive }
                })
            })
            .collect();
        let addresses: Vec<_> = registries.iter().map(|registry| registry.address).collect();
        for front in fronts(&addresses, |_| {}) {
            asked.store(0, Ordering::SeqCst);
            let mut client = Wire::connect(front.address);
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
            assert_eq!(hash_of(&mut client), (200, SIZE as u64, hash(blob)));
            assert_eq!(asked.load(Ordering::SeqCst), 4);
        }
    }
}

#[test]
fn a_body_shorter_than_its_length_is_cut_and_never_ends_cleanly() {
    const SIZE: usize = 4 * MIB;
    let short = Upstream::raw(|wire, head| {
        if head.word(0) == "GET" {
            wire.send(head_of(SIZE)).unwrap();
            wire.send(&pattern(SIZE)[..SIZE - 100_000]).ok();
        }
        Then::Close
    });
    for front in fronts(&[short.address], |_| {}) {
        let mut client = Wire::connect(front.address);
        // No digest: nobody else may go on with it.
        client.send("GET /v2/a/blobs/x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let head = client.head().unwrap().unwrap();
        let mut got = Vec::new();
        let whole = client.body(&head, false, |piece| got.extend_from_slice(piece));
        assert!(whole.is_err(), "it ended cleanly after {} bytes", got.len());
        assert!(pattern(SIZE).starts_with(&got));
    }
}

#[test]
fn an_upload_that_breaks_off_never_looks_whole() {
    const SIZE: usize = 4 * MIB;
    let ended = Arc::new(Mutex::new(Vec::new()));
    let noted = ended.clone();
    let registry = Upstream::raw(move |wire, head| {
        let mut got = 0;
        let whole = wire.body(&head, false, |piece| got += piece.len());
        noted.lock().unwrap().push((whole.is_ok(), got));
        Then::Close
    });
    for front in fronts(&[registry.address], |_| {}) {
        ended.lock().unwrap().clear();
        let mut client = Wire::connect(front.address);
        client.send(push(SIZE)).unwrap();
        client.send(&pattern(SIZE)[..3 * MIB]).unwrap();
        client.tcp.shutdown(Shutdown::Both).unwrap();
        eventually("the registry saw it end", || !ended.lock().unwrap().is_empty());
        assert_eq!(*ended.lock().unwrap(), [(false, 3 * MIB)]);
    }
}

#[test]
fn what_an_upstream_sends_beyond_its_length_reaches_nobody() {
    const SIZE: usize = MIB + 5;
    let wordy = Upstream::raw(|wire, head| {
        if size_in(head.word(1)) != SIZE {
            return serve(wire, &head);
        }
        let answer = [head_of(SIZE).as_bytes(), pattern(SIZE), head_of(4).as_bytes(), b"evil"].concat();
        if wire.send(answer).is_ok() { Then::KeepAlive } else { Then::Close }
    });
    for front in fronts(&[wordy.address], |_| {}) {
        let mut client = Wire::connect(front.address);
        for _ in 0..5 {
            client.send(get(SIZE)).unwrap();
            assert_eq!(hash_of(&mut client), (200, SIZE as u64, hash(pattern(SIZE))));
            client.send(get(10)).unwrap();
            assert_eq!(client.answer(false).unwrap().body, pattern(10));
        }
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_ends_the_download() {
    let (ended, end) = mpsc::channel();
    let ended = Mutex::new(ended);
    let registry = Upstream::raw(move |wire, _| {
        wire.send(head_of(4096 * MIB)).unwrap();
        let piece = pattern(MIB);
        while wire.send(piece).is_ok() {}
        ended.lock().unwrap().send(()).unwrap();
        Then::Close
    });
    for front in fronts(&[registry.address], |_| {}) {
        let mut client = Wire::connect(front.address);
        client.send("GET /v2/a/blobs/x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        client.head().unwrap().unwrap();
        client.tcp.read_exact(&mut vec![0; 3 * MIB]).unwrap();
        drop(client);
        end.recv_timeout(Duration::from_secs(10)).expect("the upstream goes on sending for nobody");
    }
}

/// Fast enough to be listened to above a low-water mark only, then byte by byte: each must arrive before the next is
/// sent.
#[test]
fn a_sender_that_becomes_slow_is_still_heard() {
    const FAST: usize = 6 * MIB;
    const SLOW: usize = 20;
    let (heard, next) = mpsc::channel::<()>();
    let next = Mutex::new(next);
    let (arrived, arrives) = mpsc::channel::<()>();
    let arrived = Mutex::new(arrived);
    let registry = Upstream::raw(move |wire, head| {
        let all = pattern(FAST + SLOW);
        if head.word(0) == "GET" {
            wire.send(head_of(FAST + SLOW + 2 * MIB)).unwrap();
            wire.send(&all[..FAST]).unwrap();
            for at in 0..SLOW {
                wire.send(&all[FAST + at..=FAST + at]).unwrap();
                next.lock().unwrap().recv_timeout(Duration::from_secs(10)).unwrap();
            }
            // And fast again.
            wire.send(pattern(2 * MIB)).unwrap();
            return Then::KeepAlive;
        }
        let mut got = 0;
        let whole = wire.body(&head, false, |piece| {
            got += piece.len();
            for _ in FAST.max(got - piece.len())..FAST.max(got) {
                arrived.lock().unwrap().send(()).ok();
            }
        });
        assert!(whole.is_ok());
        wire.send("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").unwrap();
        Then::KeepAlive
    });
    for front in fronts(&[registry.address], |_| {}) {
        let mut client = Wire::connect(front.address);
        client.send("GET /v2/a/blobs/x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let head = client.head().unwrap().unwrap();
        let begun = clock::now();
        let (mut got, mut told) = (Vec::new(), 0);
        client
            .body(&head, false, |piece| {
                got.extend_from_slice(piece);
                while told < SLOW && got.len() > FAST + told {
                    heard.send(()).unwrap();
                    told += 1;
                }
            })
            .unwrap();
        assert_eq!(hash(&got), hash(&[pattern(FAST + SLOW), pattern(2 * MIB)].concat()));
        assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());

        client.send(push(FAST + SLOW)).unwrap();
        let all = pattern(FAST + SLOW);
        client.send(&all[..FAST]).unwrap();
        let begun = clock::now();
        for at in 0..SLOW {
            client.send(&all[FAST + at..=FAST + at]).unwrap();
            arrives.recv_timeout(Duration::from_secs(10)).expect("the byte did not arrive");
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
        assert_eq!(client.answer(false).unwrap().status(), 202);
    }
}

#[test]
fn a_slow_client_slows_the_upstream_and_one_that_takes_nothing_is_cut() {
    let sent = Arc::new(AtomicU64::new(0));
    let noted = sent.clone();
    let registry = Upstream::raw(move |wire, _| {
        wire.send(head_of(4096 * MIB)).unwrap();
        let piece = pattern(MIB);
        while wire.send(piece).is_ok() {
            noted.fetch_add(MIB as u64, Ordering::SeqCst);
        }
        Then::Close
    });
    for front in
        fronts(&[registry.address], |config| config.services[0].timeouts.idle = Duration::from_secs(1))
    {
        sent.store(0, Ordering::SeqCst);
        let mut client = Wire::connect(front.address);
        client.send("GET /v2/a/blobs/x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        client.head().unwrap().unwrap();
        // It takes nothing, and is cut for it.
        let line = front.lines(1).pop().unwrap();
        assert_eq!(line["end"], "client-gone", "{line}");
        let most = sent.load(Ordering::SeqCst);
        assert!(most < 128 * MIB as u64, "{most} bytes were taken for one who reads none");
        let mut got = 0;
        let mut room = vec![0; MIB];
        let clean = loop {
            match client.tcp.read(&mut room) {
                Ok(0) => break true,
                Ok(read) => got += read as u64,
                Err(_) => break false,
            }
        };
        assert!(!clean && got < 4096 * MIB as u64);
    }
}

#[test]
fn an_upstream_that_stands_still_in_the_middle_is_given_up() {
    const SENT: usize = 3 * MIB;
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let registry = Upstream::raw(move |wire, _| {
        wire.send(head_of(8 * MIB)).unwrap();
        wire.send(pattern(SENT)).unwrap();
        held.lock().unwrap().recv_timeout(Duration::from_secs(20)).ok();
        Then::Close
    });
    for front in
        fronts(&[registry.address], |config| config.services[0].timeouts.idle = Duration::from_secs(1))
    {
        let mut client = Wire::connect(front.address);
        let begun = clock::now();
        client.send("GET /v2/a/blobs/x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let head = client.head().unwrap().unwrap();
        let mut got = 0;
        assert!(client.body(&head, false, |piece| got += piece.len()).is_err());
        // What came before it stood still may be lost with the reset, but nothing else may be there.
        assert!(got <= SENT);
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
        release.send(()).unwrap();
    }
}

/// More transfers stand still at once than there are pipes; those that come after them pass all the same, and so do
/// they when their clients read on.
#[test]
fn more_transfers_than_pipes_pass_whole() {
    const SIZE: usize = 8 * MIB;
    const MANY: usize = 150;
    let registry = Upstream::raw(|wire, head| serve(wire, &head));
    let wanted = hash(pattern(SIZE));
    for front in fronts(&[registry.address], |config| config.threads = 1) {
        let mut stalled: Vec<_> = (0..MANY)
            .map(|_| {
                let mut client = Wire::connect(front.address);
                client.send(get(SIZE)).unwrap();
                client
            })
            .collect();
        for client in &mut stalled {
            assert_eq!(client.head().unwrap().unwrap().status(), 200);
        }
        let mut late = Wire::connect(front.address);
        late.send(get(SIZE)).unwrap();
        assert_eq!(hash_of(&mut late), (200, SIZE as u64, wanted.clone()));
        late.send(push(SIZE)).unwrap();
        late.send(pattern(SIZE)).unwrap();
        assert_eq!(late.answer(false).unwrap().text(), wanted);
        for client in &mut stalled {
            let mut sha = Sha256::new();
            let head =
                Head { first: String::new(), fields: vec![("content-length".into(), SIZE.to_string())] };
            client.body(&head, false, |piece| sha.update(piece)).unwrap();
            assert_eq!(hex::encode(sha.finalize()), wanted);
        }
    }
}

/// Both ways at once, far more than a thread serves in one round, and small requests between them.
#[test]
fn a_hundred_transfers_at_once_pass_whole_and_leave_room_for_small_requests() {
    const SIZE: usize = 2 * MIB + 11;
    let registry = Upstream::raw(|wire, head| serve(wire, &head));
    let wanted = hash(pattern(SIZE));
    for front in fronts(&[registry.address], |_| {}) {
        let ready = Barrier::new(101);
        thread::scope(|scope| {
            for number in 0..100 {
                let (front, ready, wanted) = (&front, &ready, &wanted);
                scope.spawn(move || {
                    let mut client = Wire::connect(front.address);
                    ready.wait();
                    for _ in 0..3 {
                        if number % 2 == 0 {
                            client.send(get(SIZE)).unwrap();
                            assert_eq!(hash_of(&mut client), (200, SIZE as u64, wanted.clone()));
                        } else {
                            client.send(push(SIZE)).unwrap();
                            client.send(pattern(SIZE)).unwrap();
                            assert_eq!(client.answer(false).unwrap().text(), *wanted);
                        }
                    }
                });
            }
            let mut small = Wire::connect(front.address);
            ready.wait();
            for _ in 0..50 {
                small.send(get(100)).unwrap();
                assert_eq!(small.answer(false).unwrap().body, pattern(100));
            }
        });
    }
}

/// A client that is refused in the middle of a fast upload may have sent a little more; what is left unread would reset
/// the connection, and the refusal with it.
#[test]
fn what_comes_behind_a_refusal_in_the_middle_is_read() {
    const TAKEN: usize = 6 * MIB;
    let registry = Upstream::raw(|wire, _| {
        let part = Head { first: String::new(), fields: vec![("content-length".into(), TAKEN.to_string())] };
        wire.body(&part, false, |_| {}).unwrap();
        wire.send("HTTP/1.1 507 Full\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull").unwrap();
        Then::Close
    });
    for front in fronts(&[registry.address], |_| {}) {
        let mut client = Wire::connect(front.address);
        client.send(push(64 * MIB)).unwrap();
        client.send(pattern(TAKEN)).unwrap();
        let answer = client.answer(false).unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (507, "full"));
        client.send(pattern(100 * KIB)).unwrap();
        let mut end = [0];
        assert_eq!(client.tcp.read(&mut end).unwrap(), 0, "it ends");
        eventually("the proxy has closed it", || {
            front.metrics().contains("switchyard_proxy_connections{listener=\"front\"} 0")
        });
        assert!(client.tcp.take_error().unwrap().is_none(), "it was reset");
    }
}
