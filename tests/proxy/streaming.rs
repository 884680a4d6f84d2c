//! Bodies in both directions, however large and however slow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::{clock, config::proxy::Kind};

use crate::{
    alone::alone,
    front::{self, Front, eventually},
    raw::{Wire, with_body},
    upstream::{Then, Upstream, ok},
};

const MIB: u64 = 1024 * 1024;

/// Bytes of memory this process has used at most so far.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn large_bodies_pass_both_ways_in_bounded_memory() {
    alone(|| {
        const SIZE: u64 = 200 * MIB;
        let got = Arc::new(AtomicU64::new(0));
        let noted = got.clone();
        let registry = Upstream::raw(move |wire, head| {
            if head.word(0) == "GET" {
                wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).unwrap();
                let piece = vec![7; MIB as usize];
                for _ in 0..SIZE / MIB {
                    wire.send(&piece).unwrap();
                }
            } else {
                let received = wire.body(&head, false, |_| {}).unwrap();
                noted.store(received, Ordering::SeqCst);
                wire.send("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
            Then::KeepAlive
        });
        let front = Front::registries(&[registry.address]);
        // Warm up, so that what is measured is the body.
        front.get("/v2/");
        let before = most_memory();
        for framing in [format!("Content-Length: {SIZE}"), "Transfer-Encoding: chunked".to_owned()] {
            let chunked = framing.starts_with('T');
            let mut push = Wire::connect(front.address);
            push.send(format!("PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"))
                .unwrap();
            let piece = vec![7; MIB as usize];
            for _ in 0..SIZE / MIB {
                if chunked {
                    push.send(format!("{MIB:x}\r\n")).unwrap();
                }
                push.send(&piece).unwrap();
                if chunked {
                    push.send("\r\n").unwrap();
                }
            }
            if chunked {
                push.send("0\r\n\r\n").unwrap();
            }
            assert_eq!(push.answer(false).unwrap().status(), 202);
            assert_eq!(got.swap(0, Ordering::SeqCst), SIZE);
        }
        let mut pull = Wire::connect(front.address);
        pull.send("GET /v2/a/blobs/sha256:1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let head = pull.head().unwrap().unwrap();
        let mut wrong = 0;
        let size =
            pull.body(&head, false, |piece| wrong += piece.iter().filter(|b| **b != 7).count()).unwrap();
        assert_eq!((size, wrong), (SIZE, 0));
        let grown = most_memory().saturating_sub(before);
        assert!(grown < 60 * MIB, "memory grew by {} MiB", grown / MIB);
    });
}

#[test]
fn an_early_refusal_of_an_upload_reaches_the_client() {
    let registry = Upstream::raw(|wire, _| {
        wire.send("HTTP/1.1 507 Full\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull").unwrap();
        // It reads no more, and closes in its own time.
        thread::sleep(Duration::from_millis(300));
        Then::Close
    });
    let front = Front::registries(&[registry.address]);
    let mut push = Wire::connect(front.address);
    push.send(format!(
        "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        64 * MIB
    ))
    .unwrap();
    let mut tcp = push.tcp.try_clone().unwrap();
    thread::spawn(move || {
        let piece = vec![7; MIB as usize];
        while std::io::Write::write_all(&mut tcp, &piece).is_ok() {}
    });
    let answer = push.answer(false).unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (507, "full"));
}

#[test]
fn expect_100_continue_is_honoured_end_to_end() {
    let registry = Upstream::raw(|wire, head| {
        assert_eq!(head.get("expect"), Some("100-continue"));
        if head.word(1).contains("refuse") {
            wire.send("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").unwrap();
            return Then::Close;
        }
        wire.send("HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let mut body = Vec::new();
        wire.body(&head, false, |piece| body.extend_from_slice(piece)).unwrap();
        wire.send(ok(&String::from_utf8(body).unwrap())).unwrap();
        Then::KeepAlive
    });
    let front = Front::registries(&[registry.address]);
    let head = |what: &str| {
        format!(
            "PUT /v2/a/manifests/{what} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    let mut wire = Wire::connect(front.address);
    wire.send(head("x")).unwrap();
    assert_eq!(wire.head().unwrap().unwrap().status(), 100);
    wire.send("hello").unwrap();
    assert_eq!(wire.answer(false).unwrap().text(), "hello");
    let mut wire = Wire::connect(front.address);
    wire.send(head("refuse")).unwrap();
    assert_eq!(wire.head().unwrap().unwrap().status(), 403);
}

#[test]
fn answers_without_a_body_end_where_they_end() {
    let a = Upstream::start(|seen| match (seen.method(), seen.path()) {
        ("HEAD", _) => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".into(),
        (_, path) if path.contains("204") => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        (_, path) if path.contains("304") => "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n".into(),
        _ => ok("body"),
    });
    let front = Front::registries(&[a.address]);
    let mut wire = Wire::connect(front.address);
    let head = wire.ask("HEAD /v2/a/manifests/x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((head.status(), head.head.get("content-length")), (200, Some("1234")));
    for status in [204, 304] {
        let answer = wire.ask(&format!("GET /v2/a/manifests/{status} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
        assert_eq!(answer.status(), status);
    }
    assert_eq!(wire.ask("GET /v2/a/manifests/x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().text(), "body");
}

#[test]
fn an_old_client_gets_no_chunks() {
    let a = Upstream::start(|_| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into()
    });
    let front = Front::controllers(&[a.address]);
    let answer = front.ask("GET /api/v1/vm HTTP/1.0\r\n\r\n");
    assert_eq!((answer.text().as_str(), answer.head.get("transfer-encoding")), ("hello", None));
    assert!(a.one().head.get("host").is_some());
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let a = Upstream::raw(|wire, head| {
        assert_eq!(head.get("upgrade"), Some("echo"));
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
            .unwrap();
        let mut tcp = wire.tcp.try_clone().unwrap();
        let mut piece = [0; 5];
        while std::io::Read::read_exact(&mut tcp, &mut piece).is_ok() {
            wire.send(piece).unwrap();
        }
        Then::Close
    });
    let front = Front::controllers(&[a.address]);
    let mut wire = Wire::connect(front.address);
    wire.send("GET /stream HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
    assert_eq!(wire.head().unwrap().unwrap().status(), 101);
    for word in ["hello", "again"] {
        wire.send(word).unwrap();
        let mut piece = [0; 5];
        std::io::Read::read_exact(&mut wire.tcp, &mut piece).unwrap();
        assert_eq!(&piece, word.as_bytes());
    }
}

#[test]
fn a_parked_poll_outlives_the_deadline_of_reads_and_of_writes() {
    let a = Upstream::raw(|wire, _| {
        thread::sleep(Duration::from_secs(11));
        wire.send(ok("task")).unwrap();
        Then::KeepAlive
    });
    let front = Front::controllers(&[a.address]);
    assert_eq!(front.get("/switchyard/v1/tasks").text(), "task");
}

#[test]
fn a_body_that_stands_still_is_cut_and_one_that_creeps_is_not() {
    let a = Upstream::raw(|wire, head| {
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").unwrap();
        for _ in 0..if head.word(1).contains("creep") { 10 } else { 2 } {
            wire.send("x").unwrap();
            thread::sleep(Duration::from_millis(200));
        }
        thread::sleep(Duration::from_secs(3));
        Then::Close
    });
    let mut config = front::config(Kind::Registry, &[a.address]);
    config.services[0].timeouts.idle = Duration::from_millis(600);
    let front = Front::start(config);
    assert_eq!(front.get("/v2/a/blobs/creep").body.len(), 10);
    let mut wire = Wire::connect(front.address);
    let begun = clock::now();
    assert!(wire.ask("GET /v2/a/blobs/still HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_slow_reader_slows_the_sender() {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let a = Upstream::raw(move |wire, _| {
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 256 * MIB)).unwrap();
        let piece = vec![7; MIB as usize];
        for _ in 0..256 {
            if wire.send(&piece).is_err() {
                break;
            }
            counted.fetch_add(MIB, Ordering::SeqCst);
        }
        Then::Close
    });
    let front = Front::registries(&[a.address]);
    let mut wire = Wire::connect(front.address);
    wire.send("GET /v2/a/blobs/x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(wire.head().unwrap().unwrap().status(), 200);
    // Nobody reads: what was sent must stop growing, far below the whole.
    eventually("the sender stands", || {
        let before = sent.load(Ordering::SeqCst);
        thread::sleep(Duration::from_millis(300));
        before > 0 && before == sent.load(Ordering::SeqCst)
    });
    let stood = sent.load(Ordering::SeqCst);
    assert!(stood < 64 * MIB, "{} MiB", stood / MIB);
}

#[test]
fn a_client_that_closes_early_frees_the_upstream() {
    let a = Upstream::raw(|wire, _| {
        // Ends when the proxy closes. The request's body may come before that.
        let mut tcp = wire.tcp.try_clone().unwrap();
        while matches!(std::io::Read::read(&mut tcp, &mut [0; 64]), Ok(1..)) {}
        Then::Close
    });
    let front = Front::controllers(&[a.address]);
    let mut wire = Wire::connect(front.address);
    wire.send(with_body("POST", "/api/v1/vm", "", "{}")).unwrap();
    front.wait_until("it is under way", |view| view.services[0].upstreams[0].outstanding == 1);
    drop(wire);
    front.wait_until("it is over", |view| view.services[0].upstreams[0].outstanding == 0);
    assert_eq!(front.lines(1)[0]["end"], "client-gone");
}
