//! Upstreams that close connections which the proxy would like to use again.

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    front::Front,
    raw::{Head, Wire, with_body},
    upstream::{Then, Upstream},
};

/// How an upstream keeps its connections.
#[derive(Debug, Clone, Copy)]
struct Keeps {
    /// Closes one that was idle for so long.
    idle: Duration,
    /// Closes one after so many requests.
    most: usize,
    /// What its answers say of it.
    says: &'static str,
}

const FOREVER: Keeps = Keeps { idle: Duration::from_secs(60), most: usize::MAX, says: "" };

fn origin(keeps: Keeps) -> (Upstream, Arc<AtomicUsize>) {
    let seen = Arc::<AtomicUsize>::default();
    let counted = seen.clone();
    let upstream = Upstream::raw(move |wire, first| {
        wire.tcp.set_read_timeout(Some(keeps.idle)).unwrap();
        serve(wire, first, keeps, &counted);
        Then::Close
    });
    (upstream, seen)
}

fn serve(wire: &mut Wire, first: Head, keeps: Keeps, seen: &AtomicUsize) {
    let mut next = Some(first);
    for _ in 0..keeps.most {
        let Some(head) = next else { return };
        let mut size = 0;
        if wire.body(&head, false, |piece| size += piece.len()).is_err() {
            return;
        }
        seen.fetch_add(1, Ordering::SeqCst);
        let text = if head.word(0) == "HEAD" { String::new() } else { format!("{} {size}", head.word(1)) };
        let answer = format!("HTTP/1.1 200 OK\r\n{}Content-Length: {}\r\n\r\n{text}", keeps.says, text.len());
        if wire.send(answer).is_err() {
            return;
        }
        next = match wire.head() {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
            other => other.ok().flatten(),
        };
    }
}

/// Mostly reads: it is their connections that are kept.
const ALL: [&str; 6] = ["GET", "POST", "GET", "DELETE", "GET", "PUT"];

/// Those that may be sent again.
const REPEATABLE: [&str; 6] = ["GET", "POST", "GET", "DELETE", "GET", "DELETE"];

/// Requests over one client connection each, with these pauses between them; none may fail.
fn check(keeps: Keeps, methods: [&str; 6], lanes: usize, pauses: &[u64]) {
    let (origin, seen) = origin(keeps);
    let front = Front::controllers(&[origin.address]);
    let address = front.address;
    thread::scope(|scope| {
        for lane in 0..lanes {
            scope.spawn(move || {
                let mut wire = Wire::connect(address);
                for (n, pause) in pauses.iter().enumerate() {
                    let path = format!("/api/v1/vm?lane={lane}&n={n}");
                    let method = methods[(n + lane) % methods.len()];
                    let body = "x".repeat(n % 7);
                    let answer = wire.ask(&with_body(method, &path, "", &body));
                    let answer = answer.unwrap_or_else(|error| panic!("{keeps:?} {method} {n}: {error}"));
                    let wanted = format!("{path} {}", body.len());
                    assert_eq!((answer.status(), answer.text()), (200, wanted), "{keeps:?} {method} {n}");
                    // Each lane a little off, so that some requests meet the very moment.
                    thread::sleep(Duration::from_millis(pause.saturating_sub(lane as u64)));
                }
            });
        }
    });
    assert!(seen.load(Ordering::SeqCst) >= lanes * pauses.len());
    front.wait_until("nothing is under way", |view| view.services[0].upstreams[0].outstanding == 0);
}

#[test]
fn an_upstream_that_closes_idle_connections_costs_no_request() {
    let pauses: Vec<u64> =
        (0..20).map(|n| [300, 301, 302, 303, 304, 305, 310, 290, 150, 0][n % 10]).collect();
    check(Keeps { idle: Duration::from_millis(300), ..FOREVER }, ALL, 10, &pauses);
}

#[test]
fn an_upstream_that_announces_how_long_it_keeps_a_connection_is_believed_or_survived() {
    let keeps = Keeps {
        idle: Duration::from_secs(1),
        says: "Connection: keep-alive\r\nKeep-Alive: timeout=1\r\n",
        ..FOREVER
    };
    check(keeps, ALL, 10, &[1000, 1001, 1002, 1004, 990, 1003, 0]);
}

#[test]
fn an_upstream_that_closes_after_some_requests_costs_none() {
    for most in [1, 2, 3, 7] {
        for says in ["", "Connection: keep-alive\r\n", "Keep-Alive: max=1\r\n"] {
            check(Keeps { most, says, ..FOREVER }, REPEATABLE, 2, &[0; 60]);
        }
        // It closes a moment after its answer.
        check(
            Keeps { most, idle: Duration::from_millis(2), says: "" },
            REPEATABLE,
            2,
            &[1, 2, 3, 2, 4, 0, 2, 5, 2, 2, 3, 1],
        );
    }
}

#[test]
fn a_write_to_an_upstream_that_closes_without_a_word_is_answered_or_lost_and_never_sent_twice() {
    // It closes right behind each answer. What goes out at that very moment may have arrived or not.
    let (origin, seen) = origin(Keeps { most: 1, ..FOREVER });
    let front = Front::controllers(&[origin.address]);
    let mut answered = 0;
    for n in 0..50 {
        assert_eq!(front.get("/api/v1/vm").status(), 200);
        let before = seen.load(Ordering::SeqCst);
        let answer = front.ask(&with_body("PUT", &format!("/api/v1/vm?n={n}"), "", "{}"));
        let sent = seen.load(Ordering::SeqCst) - before;
        match answer.status() {
            200 => assert_eq!(sent, 1),
            502 => assert!(sent <= 1 && answer.text().contains("outcome is unknown"), "{}", answer.text()),
            other => panic!("{other}: {}", answer.text()),
        }
        answered += usize::from(answer.status() == 200);
    }
    assert!(answered > 0, "all were lost");
}

#[test]
fn an_upstream_that_says_close_is_not_used_again() {
    let connections = Arc::<AtomicUsize>::default();
    let counted = connections.clone();
    let origin = Upstream::raw(move |wire, mut head| {
        counted.fetch_add(1, Ordering::SeqCst);
        let mut first = true;
        loop {
            let text = if first { head.word(1).to_owned() } else { "used again".to_owned() };
            first = false;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            );
            // It says so and leaves it open.
            if wire.send(answer).is_err() {
                return Then::Close;
            }
            match wire.head() {
                Ok(Some(next)) => head = next,
                _ => return Then::Close,
            }
        }
    });
    let front = Front::controllers(&[origin.address]);
    let mut wire = Wire::connect(front.address);
    for n in 0..20 {
        let path = format!("/api/v1/vm?n={n}");
        assert_eq!(wire.ask(&format!("GET {path} HTTP/1.1\r\nHost: front\r\n\r\n")).unwrap().text(), path);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 20);
}

#[test]
fn connections_to_an_upstream_are_used_again() {
    let (origin, seen) = origin(FOREVER);
    let connections = Arc::<AtomicUsize>::default();
    let counted = connections.clone();
    let relay = Upstream::raw(move |wire, head| {
        counted.fetch_add(1, Ordering::SeqCst);
        serve(wire, head, FOREVER, &seen);
        Then::Close
    });
    drop(origin);
    let front = Front::controllers(&[relay.address]);
    let mut wire = Wire::connect(front.address);
    for n in 0..100 {
        let answer = wire.ask(&format!("GET /api/v1/vm?n={n} HTTP/1.1\r\nHost: front\r\n\r\n")).unwrap();
        assert_eq!(answer.status(), 200);
    }
    // One at a time needs one; each thread may have one of its own.
    let used = connections.load(Ordering::SeqCst);
    assert!(used <= 4, "{used} connections for 100 requests, one at a time");
}
