//! What a peer cannot do, although nothing it sends is wrong by itself: hold a connection for longer than others may,
//! make the proxy work for nothing, or have half an answer taken for a whole one.

use std::{
    io::Read as _,
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::clock;

use crate::{
    front::Front,
    raw::{Wire, with_body},
    upstream::{Then, Upstream, ok},
};

#[test]
fn who_asks_for_another_protocol_waits_no_longer_for_an_answer_than_others() {
    let mute = Upstream::raw(|_, _| {
        thread::sleep(Duration::from_secs(30));
        Then::Close
    });
    let front = Front::controllers(&[mute.address]);
    let begun = clock::now();
    let upgrade = "Connection: upgrade\r\nUpgrade: TLS/1.2\r\n";
    let answer = front.ask(&format!("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n"));
    assert_eq!(answer.status(), 502, "{}", answer.text());
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[test]
fn another_protocol_does_not_begin_inside_a_request() {
    let eager = Upstream::raw(|wire, _| {
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").ok();
        thread::sleep(Duration::from_millis(300));
        Then::Close
    });
    let front = Front::controllers(&[eager.address]);
    let mut wire = Wire::connect(front.address);
    let head = "PUT /api/v1/vm HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 10\r\n\r\n";
    wire.send(format!("{head}half")).unwrap();
    assert_eq!(wire.answer(false).unwrap().status(), 502);
}

#[test]
fn empty_lines_begin_no_request_and_a_flood_of_them_ends_the_connection() {
    let a = Upstream::start(|_| ok("a"));
    let front = Front::controllers(&[a.address]);
    let mut wire = Wire::connect(front.address);
    assert_eq!(wire.ask("\r\n\r\nGET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().text(), "a");
    let mut flood = Wire::connect(front.address);
    flood.send("\r\n".repeat(8000)).ok();
    assert_eq!(flood.answer(false).unwrap().status(), 400);
    assert!(flood.closed());
}

#[test]
fn an_old_client_that_shuts_its_side_does_not_take_half_an_answer_for_a_whole_one() {
    let a = Upstream::raw(|wire, _| {
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n").ok();
        // It goes on only when the proxy has given up.
        let mut tcp = wire.tcp.try_clone().unwrap();
        while matches!(tcp.read(&mut [0; 64]), Ok(1..)) {}
        Then::Close
    });
    let front = Front::controllers(&[a.address]);
    let mut wire = Wire::connect(front.address);
    wire.send("GET /api/v1/vm HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(wire.head().unwrap().unwrap().status(), 200);
    wire.tcp.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    let ended = wire.body(&crate::raw::Head::default(), true, |piece| rest.extend_from_slice(piece));
    assert!(ended.is_err(), "a clean end after {:?}", String::from_utf8_lossy(&rest));
    front.wait_until("it is over", |view| view.services[0].upstreams[0].outstanding == 0);
}

#[test]
fn an_old_client_that_is_answered_whole_is_closed_cleanly() {
    let a = Upstream::start(|_| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned()
    });
    let front = Front::controllers(&[a.address]);
    for _ in 0..20 {
        let answer = front.ask("GET /api/v1/vm HTTP/1.0\r\n\r\n");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
    }
}

#[test]
fn registries_that_break_off_again_and_again_are_not_asked_for_ever() {
    const SIZE: usize = 100_000;
    let asked = Arc::new(AtomicUsize::new(0));
    let stingy = || {
        let asked = asked.clone();
        Upstream::raw(move |wire, head| {
            asked.fetch_add(1, Ordering::SeqCst);
            let from = head.get("range").map_or(0, |range| {
                let range = range.trim_start_matches("bytes=");
                range.split('-').next().unwrap().parse::<usize>().unwrap()
            });
            let text = if from == 0 {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\nx")
            } else {
                let (left, last) = (SIZE - from, SIZE - 1);
                format!(
                    "HTTP/1.1 206 Part\r\nContent-Length: {left}\r\nContent-Range: bytes {from}-{last}/{SIZE}\r\n\r\nx"
                )
            };
            wire.send(text).ok();
            Then::Close
        })
    };
    let (a, b) = (stingy(), stingy());
    let front = Front::registries(&[a.address, b.address]);
    let mut wire = Wire::connect(front.address);
    wire.send("GET /v2/a/blobs/sha256:1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let head = wire.head().unwrap().unwrap();
    let mut got = 0;
    assert!(wire.body(&head, false, |piece| got += piece.len()).is_err());
    let asked = asked.load(Ordering::SeqCst);
    assert!(got > 2 && (10..=70).contains(&asked), "{got} bytes in {asked} pieces");
    assert_eq!(front.lines(1)[0]["end"], "aborted");
}

#[test]
fn a_large_transfer_leaves_the_thread_to_others() {
    const SIZE: usize = 256 * 1024 * 1024;
    let registry = Upstream::raw(|wire, head| {
        if head.word(1).contains("blobs") {
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).ok();
            let piece = vec![7; 1 << 20];
            for _ in 0..SIZE >> 20 {
                if wire.send(&piece).is_err() {
                    break;
                }
            }
        } else {
            wire.send(ok("small")).ok();
        }
        Then::KeepAlive
    });
    let mut config = crate::front::config(switchyard::config::proxy::Kind::Registry, &[registry.address]);
    config.threads = 1;
    let front = Front::start(config);
    let address = front.address;
    let pulls: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let mut wire = Wire::connect(address);
                wire.send("GET /v2/a/blobs/sha256:1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                let head = wire.head().unwrap().unwrap();
                wire.body(&head, false, |_| {}).unwrap()
            })
        })
        .collect();
    let mut worst = Duration::ZERO;
    while pulls.iter().any(|pull| !pull.is_finished()) {
        let begun = clock::now();
        assert_eq!(front.ask(&with_body("PUT", "/registry/x", "", "{}")).text(), "small");
        worst = worst.max(begun.elapsed());
    }
    for pull in pulls {
        assert_eq!(pull.join().unwrap(), SIZE as u64);
    }
    assert!(worst < Duration::from_secs(2), "{worst:?}");
}
