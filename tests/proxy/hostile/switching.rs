//! Connections that go on in another protocol, and requests that wait for leave to send their body.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use switchyard::config::proxy::Kind;

use super::PATIENCE;
use crate::{
    front::{self, Front},
    raw::Wire,
    upstream::{Then, Upstream, ok},
};

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
const ASK: &str = "GET /stream HTTP/1.1\r\nHost: front\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

/// An origin that switches, and then does this with the connection.
fn switching(then: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> (Upstream, Front) {
    let origin = Upstream::raw(move |wire, head| {
        if head.get("upgrade") != Some("echo") {
            wire.send(ok("plain")).ok();
            return Then::KeepAlive;
        }
        then(&mut wire.tcp);
        Then::Close
    });
    let mut config = front::config(Kind::Controller, &[origin.address]);
    // A tunnel may be silent for longer than a body.
    config.services[0].timeouts.idle = Duration::from_millis(300);
    (origin, Front::start(config))
}

fn switched(front: &Front) -> TcpStream {
    let mut wire = Wire::connect(front.address).patience(PATIENCE);
    wire.send(ASK).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    // By bytes, so that none behind the head is swallowed.
    while !head.ends_with(b"\r\n\r\n") {
        wire.tcp.read_exact(&mut byte).unwrap_or_else(|error| panic!("{}: {error}", head.escape_ascii()));
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).unwrap().to_lowercase();
    assert!(text.starts_with("http/1.1 101 ") && text.contains("\r\nupgrade: echo\r\n"), "{text}");
    assert!(text.contains("\r\nconnection: upgrade\r\n"), "{text}");
    wire.tcp
}

#[test]
fn an_upgraded_connection_carries_much_both_ways_at_once() {
    const SIZE: usize = 4 * 1024 * 1024;
    let (_origin, front) = switching(|tcp| {
        tcp.write_all(SWITCHED.as_bytes()).unwrap();
        let mut piece = vec![0; 64 * 1024];
        while let Ok(got @ 1..) = tcp.read(&mut piece) {
            if tcp.write_all(&piece[..got]).is_err() {
                return;
            }
        }
    });
    let mut tcp = switched(&front);
    let mut writing = tcp.try_clone().unwrap();
    let bytes: Vec<u8> = (0..SIZE).map(|at| (at * 7) as u8).collect();
    let sent = bytes.clone();
    let writer = thread::spawn(move || writing.write_all(&sent).unwrap());
    let mut back = vec![0; SIZE];
    tcp.read_exact(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == bytes, "other bytes came back");
    drop(tcp);
    let line = &front.lines(1)[0];
    assert_eq!(line["status"], 101, "{line}");
}

#[test]
fn what_the_server_says_along_with_its_101_arrives() {
    let (_origin, front) = switching(|tcp| {
        tcp.write_all(format!("{SWITCHED}hello").as_bytes()).unwrap();
        tcp.read_exact(&mut [0; 5]).unwrap();
        tcp.write_all(b"again").unwrap();
    });
    let mut tcp = switched(&front);
    let mut piece = [0; 5];
    tcp.read_exact(&mut piece).unwrap();
    assert_eq!(&piece, b"hello");
    tcp.write_all(b"well?").unwrap();
    tcp.read_exact(&mut piece).unwrap();
    assert_eq!(&piece, b"again");
    assert_eq!(tcp.read(&mut piece).unwrap(), 0);
}

#[test]
fn a_client_that_is_done_still_hears_the_server() {
    let (_origin, front) = switching(|tcp| {
        tcp.write_all(SWITCHED.as_bytes()).unwrap();
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).unwrap();
        thread::sleep(Duration::from_millis(100));
        tcp.write_all(format!("you said {}", String::from_utf8(all).unwrap()).as_bytes()).unwrap();
    });
    let mut tcp = switched(&front);
    tcp.write_all(b"hello").unwrap();
    tcp.shutdown(Shutdown::Write).unwrap();
    let mut all = String::new();
    tcp.read_to_string(&mut all).unwrap();
    assert_eq!(all, "you said hello");
}

#[test]
fn a_server_that_is_done_still_hears_the_client() {
    let (heard, hears) = std::sync::mpsc::channel();
    let heard = std::sync::Mutex::new(heard);
    let (_origin, front) = switching(move |tcp| {
        tcp.write_all(format!("{SWITCHED}bye").as_bytes()).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        let mut all = String::new();
        tcp.read_to_string(&mut all).unwrap();
        heard.lock().unwrap().send(all).unwrap();
    });
    let mut tcp = switched(&front);
    let mut all = String::new();
    tcp.read_to_string(&mut all).unwrap();
    assert_eq!(all, "bye");
    tcp.write_all(b"late").unwrap();
    drop(tcp);
    assert_eq!(hears.recv_timeout(Duration::from_secs(5)).unwrap(), "late");
    front.wait_until("nothing is left", |view| view.services[0].upstreams[0].outstanding == 0);
}

#[test]
fn an_upgraded_connection_may_be_silent_for_longer_than_a_body() {
    let (_origin, front) = switching(|tcp| {
        tcp.write_all(SWITCHED.as_bytes()).unwrap();
        tcp.read_exact(&mut [0; 5]).unwrap();
        thread::sleep(Duration::from_secs(1));
        tcp.write_all(b"awake").unwrap();
    });
    let mut tcp = switched(&front);
    thread::sleep(Duration::from_secs(1));
    tcp.write_all(b"hello").unwrap();
    let mut piece = [0; 5];
    tcp.read_exact(&mut piece).unwrap();
    assert_eq!(&piece, b"awake");
}

#[test]
fn an_upgrade_that_is_not_granted_is_an_answer() {
    for (status, framing) in [
        ("200 OK", "Content-Length: 5\r\n\r\nhello"),
        ("403 No", "Content-Length: 5\r\n\r\nhello"),
        ("426 Upgrade Required", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let (_origin, front) = switching(move |tcp| {
            tcp.write_all(format!("HTTP/1.1 {status}\r\n{framing}").as_bytes()).unwrap()
        });
        let mut wire = Wire::connect(front.address).patience(PATIENCE);
        let answer = wire.ask(ASK).unwrap();
        assert_eq!((answer.head.word(1), answer.text().as_str()), (&status[..3], "hello"));
        let closes = answer.head.get("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
        if closes {
            assert!(wire.ended());
        } else {
            assert_eq!(wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\n\r\n").unwrap().text(), "plain");
        }
    }
}

#[test]
fn an_old_request_cannot_ask_for_another_protocol() {
    // RFC 9110 §7.8: it must be ignored there.
    let (_origin, front) = switching(|tcp| tcp.write_all(SWITCHED.as_bytes()).unwrap());
    assert_eq!(front.ask(&ASK.replace("HTTP/1.1", "HTTP/1.0")).text(), "plain");
}

/// How an origin treats an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    Grants,
    Refuses(u16),
    /// Reads the body without a word.
    Silent,
}

fn waiting(leave: Leave) -> (Upstream, Front) {
    let origin = Upstream::raw(move |wire, head| {
        let expects = head.get("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
        assert!(expects || head.get("expect").is_none());
        match leave {
            Leave::Refuses(status) => {
                wire.send(format!("HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno")).ok();
                return Then::Close;
            }
            Leave::Grants if expects => wire.send("HTTP/1.1 100 Continue\r\n\r\n").unwrap(),
            Leave::Grants | Leave::Silent => {}
        }
        let mut body = Vec::new();
        if wire.body(&head, false, |piece| body.extend_from_slice(piece)).is_err() {
            return Then::Close;
        }
        wire.send(ok(&String::from_utf8(body).unwrap())).unwrap();
        Then::KeepAlive
    });
    let front = Front::controllers(&[origin.address]);
    (origin, front)
}

const BODIES: [(&str, &str); 2] =
    [("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")];

fn expecting(method: &str, version: &str, framing: &str) -> String {
    format!("{method} /api/v1/vm HTTP/{version}\r\nHost: front\r\nExpect: 100-continue\r\n{framing}\r\n\r\n")
}

#[test]
fn leave_to_send_a_body_comes_from_the_upstream() {
    let (_origin, front) = waiting(Leave::Grants);
    for method in ["PUT", "POST", "DELETE"] {
        for (framing, body) in BODIES {
            let mut wire = Wire::connect(front.address).patience(PATIENCE);
            // On one connection, so that nothing of the first is left for the second.
            for _ in 0..2 {
                wire.send(expecting(method, "1.1", framing)).unwrap();
                assert_eq!(wire.head().unwrap().unwrap().status(), 100, "{method} {framing}");
                wire.send(body).unwrap();
                let answer = wire.answer(false).unwrap();
                assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"), "{method} {framing}");
                let says = answer.head.get("connection").unwrap_or_default();
                assert!(!says.eq_ignore_ascii_case("close"), "{method} {framing}");
            }
        }
    }
}

#[test]
fn a_refusal_instead_of_leave_reaches_the_client_and_ends_the_connection() {
    for status in [401, 413, 417] {
        let (_origin, front) = waiting(Leave::Refuses(status));
        for method in ["PUT", "POST", "DELETE"] {
            for (framing, _) in BODIES {
                let mut wire = Wire::connect(front.address).patience(PATIENCE);
                wire.send(expecting(method, "1.1", framing)).unwrap();
                let answer = wire.answer(false).unwrap();
                assert_eq!((answer.status(), answer.text().as_str()), (status, "no"), "{method} {framing}");
                // Whether the body comes after all, nobody can know.
                assert_eq!(
                    answer.head.get("connection").map(str::to_lowercase).as_deref(),
                    Some("close"),
                    "{method} {framing}"
                );
                assert!(wire.ended(), "{method} {framing}");
            }
        }
    }
}

#[test]
fn a_client_that_waits_no_longer_is_served_all_the_same() {
    let (_origin, front) = waiting(Leave::Silent);
    for (framing, body) in BODIES {
        let mut wire = Wire::connect(front.address).patience(PATIENCE);
        wire.send(expecting("PUT", "1.1", framing)).unwrap();
        thread::sleep(Duration::from_millis(300));
        wire.send(body).unwrap();
        assert_eq!(wire.answer(false).unwrap().text(), "hello", "{framing}");
    }
}

#[test]
fn an_old_client_never_sees_an_interim_answer() {
    let (_origin, front) = waiting(Leave::Grants);
    let mut wire = Wire::connect(front.address).patience(PATIENCE);
    wire.send(expecting("PUT", "1.0", "Content-Length: 5") + "hello").unwrap();
    let head = wire.head().unwrap().unwrap();
    assert_eq!(head.status(), 200, "{head:?}");
    let hints = Upstream::raw(|wire, _| {
        wire.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").unwrap();
        wire.send(ok("hello")).unwrap();
        Then::KeepAlive
    });
    let front = Front::controllers(&[hints.address]);
    let mut wire = Wire::connect(front.address).patience(PATIENCE);
    wire.send("GET /api/v1/vm HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(wire.head().unwrap().unwrap().status(), 200);
    // Another may see it, and gets its answer behind it.
    assert_eq!(front.get("/api/v1/vm").text(), "hello");
}
