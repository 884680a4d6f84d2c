//! When a client's connection goes on and when it ends, and how an answer is framed for whom (RFC 9112 §6, §9).

use super::PATIENCE;
use crate::{
    front::Front,
    raw::Wire,
    upstream::{Then, Upstream, ok},
};

/// Answers in every framing, by path.
fn origin() -> Upstream {
    Upstream::raw(|wire, head| {
        wire.body(&head, false, |_| {}).ok();
        let bare = head.word(0) == "HEAD";
        let (fields, body, then) = match head.word(1).rsplit('/').next().unwrap_or_default() {
            "length" => ("Content-Length: 5\r\n", "hello", Then::KeepAlive),
            "empty" => ("Content-Length: 0\r\n", "", Then::KeepAlive),
            "chunked" => ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", Then::KeepAlive),
            "trailed" => {
                ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", Then::KeepAlive)
            }
            "until-close" => ("", "hello", Then::Close),
            "closing" => ("Connection: close\r\nContent-Length: 5\r\n", "hello", Then::Close),
            "old" => {
                wire.send("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n").ok();
                wire.send(if bare { "" } else { "hello" }).ok();
                return Then::Close;
            }
            "204" => {
                wire.send("HTTP/1.1 204 No Content\r\nX-Mine: 1\r\n\r\n").ok();
                return Then::KeepAlive;
            }
            "304" => {
                wire.send("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n").ok();
                return Then::KeepAlive;
            }
            _ => return if wire.send(ok("next")).is_ok() { Then::KeepAlive } else { Then::Close },
        };
        wire.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n{}", if bare { "" } else { body })).ok();
        then
    })
}

const PATHS: [&str; 9] =
    ["length", "empty", "chunked", "trailed", "until-close", "closing", "old", "204", "304"];

/// What the connection is asked to do, and whether it may go on.
#[derive(Debug, Clone, Copy)]
struct Asks {
    version: &'static str,
    connection: &'static str,
    /// `None`: either, as the answer says.
    stays: Option<bool>,
}

const ASKS: [Asks; 8] = [
    Asks { version: "1.1", connection: "", stays: Some(true) },
    Asks { version: "1.1", connection: "Connection: keep-alive\r\n", stays: Some(true) },
    Asks { version: "1.1", connection: "Connection: close\r\n", stays: Some(false) },
    Asks { version: "1.1", connection: "Connection: x\r\nConnection: x, Close\r\n", stays: Some(false) },
    Asks { version: "1.0", connection: "", stays: Some(false) },
    Asks { version: "1.0", connection: "Connection: close\r\n", stays: Some(false) },
    Asks { version: "1.0", connection: "Connection: keep-alive\r\n", stays: None },
    Asks { version: "1.0", connection: "Connection: Keep-Alive\r\nKeep-Alive: timeout=5\r\n", stays: None },
];

fn check(front: &Front, method: &str, path: &str, asks: Asks) {
    let what = format!("{method} {path} {asks:?}");
    let Asks { version, connection, stays } = asks;
    let mut wire = Wire::connect(front.address).patience(PATIENCE);
    wire.send(format!("{method} /api/v1/{path} HTTP/{version}\r\nHost: front\r\n{connection}\r\n")).unwrap();
    let answer = wire.answer(method == "HEAD").unwrap_or_else(|error| panic!("{what}: {error}"));
    let all = |name: &str| -> Vec<String> {
        answer
            .head
            .fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.to_lowercase())
            .collect()
    };
    let (says, lengths, codings) = (all("connection"), all("content-length"), all("transfer-encoding"));
    assert!(says.len() <= 1 && lengths.len() + codings.len() <= 1, "{what}: {:?}", answer.head);
    let bodiless = method == "HEAD" || matches!(path, "204" | "304" | "empty");
    assert_eq!(answer.text(), if bodiless { "" } else { "hello" }, "{what}");
    assert_eq!(answer.status(), path.parse().unwrap_or(200), "{what}");
    if version == "1.0" || path == "204" {
        assert!(codings.is_empty(), "{what}: {:?}", answer.head);
    }
    if path == "204" {
        assert!(lengths.is_empty(), "{what}: {:?}", answer.head);
    }
    if matches!(path, "length" | "closing" | "old") {
        assert_eq!(lengths, ["5"], "{what}");
    }
    let unbounded = lengths.is_empty() && codings.is_empty() && !bodiless;
    let stay = match (says.first().map(String::as_str), version) {
        (Some("close"), _) => false,
        (Some("keep-alive"), _) => true,
        (None, version) => version == "1.1",
        (Some(other), _) => panic!("{what}: says {other}"),
    };
    assert!(!(stay && unbounded), "{what}: a body without end on a connection that stays");
    match stays {
        // Where the origin names no length, it may end with the connection.
        Some(true) => assert!(stay || path == "until-close", "{what}: {:?}", answer.head),
        Some(false) => assert!(!stay, "{what}: {:?}", answer.head),
        None => {}
    }
    if stay {
        let next = wire.ask("GET /api/v1/next HTTP/1.1\r\nHost: front\r\n\r\n");
        assert_eq!(next.unwrap_or_else(|error| panic!("{what}: {error}")).text(), "next", "{what}");
    } else {
        assert!(wire.ended(), "{what}: said to be closed");
    }
}

#[test]
fn a_connection_goes_on_or_ends_as_its_last_answer_says_and_every_answer_has_an_end() {
    let origin = origin();
    let front = Front::controllers(&[origin.address]);
    for method in ["GET", "HEAD", "DELETE", "PUT"] {
        for path in PATHS {
            for asks in ASKS {
                if method == "HEAD" && path == "until-close" {
                    // Without a body nothing says where it would end.
                    continue;
                }
                check(&front, method, path, asks);
            }
        }
    }
}

#[test]
fn a_connection_serves_answers_of_every_framing_one_after_the_other() {
    let origin = origin();
    let front = Front::controllers(&[origin.address]);
    let mut wire = Wire::connect(front.address).patience(PATIENCE);
    for round in 0..5 {
        for path in PATHS.iter().filter(|path| **path != "until-close") {
            for method in ["HEAD", "GET"] {
                let what = format!("{method} {path}, round {round}");
                let answer = wire.ask(&format!("{method} /api/v1/{path} HTTP/1.1\r\nHost: front\r\n\r\n"));
                let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(answer.status(), path.parse().unwrap_or(200), "{what}");
                let bodiless = method == "HEAD" || matches!(*path, "204" | "304" | "empty");
                assert_eq!(answer.text(), if bodiless { "" } else { "hello" }, "{what}");
            }
        }
    }
}

#[test]
fn what_a_head_says_of_its_body_is_left_as_it_is() {
    let origin = origin();
    let front = Front::controllers(&[origin.address]);
    let head = |path: &str| front.ask(&format!("HEAD /api/v1/{path} HTTP/1.1\r\nHost: front\r\n\r\n")).head;
    assert_eq!(head("length").get("content-length"), Some("5"));
    assert_eq!(head("empty").get("content-length"), Some("0"));
    assert_eq!(front.get("/api/v1/304").head.get("etag"), Some("\"x\""));
    assert_eq!(front.get("/api/v1/204").head.get("x-mine"), Some("1"));
}
