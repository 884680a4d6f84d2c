//! What becomes of well-formed requests, and of their answers.

use std::process::Command;

use super::{
    controllers,
    peer::{Ended, Peer, request, request_with},
};
use switchyard::tls::ServerSetting;

use crate::{
    front::Front,
    secure::Files,
    strict::origin::{Origin, Request},
};

fn last(origin: &Origin) -> Request {
    origin.last().expect("a request has reached the origin")
}

#[test]
fn a_request_reaches_the_upstream_as_one_of_http_1() {
    let origin = Origin::start();
    let front = controllers(&[origin.address]);
    let mut peer = Peer::connect(front.address);
    let got = peer.get("/api/v1/vm?id=x");
    assert_eq!((got.status(), got.ended), (200, Ended::Whole));
    assert_eq!(got.text(), last(&origin).echo());
    assert_eq!(last(&origin).get("host"), Some("front"));
    let line = front.lines(1).pop().unwrap();
    assert_eq!((line["protocol"].as_str(), line["status"].as_u64()), (Some("HTTP/2.0"), Some(200)));
    assert!(peer.is_alive());
}

#[test]
fn both_protocols_are_spoken_on_one_listener() {
    let origin = Origin::start();
    let front = controllers(&[origin.address]);
    assert_eq!(front.get("/api/v1/vm").status(), 200);
    assert_eq!(Peer::connect(front.address).get("/api/v1/vm").status(), 200);
    let line = front.lines(2).remove(0);
    assert_eq!(line["protocol"].as_str(), Some("HTTP/1.1"));
}

#[test]
fn curl_is_served() {
    let origin = Origin::start();
    let front = controllers(&[origin.address]);
    let url = format!("http://{}/api/v1/vm", front.address);
    let body = "x".repeat(300_000);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &body).unwrap();
    let data = format!("@{}", file.path().display());
    for (args, wanted) in [
        (vec![], "200 2"),
        (vec!["-I"], "200 2"),
        (vec!["-X", "PUT", "--data-binary", &data], "200 2"),
        (vec!["-X", "PUT", "-H", "Expect: 100-continue", "--data-binary", &data], "200 2"),
    ] {
        let out = Command::new("curl")
            .args([
                "-s",
                "--max-time",
                "20",
                "--http2-prior-knowledge",
                "-w",
                "\n%{http_code} %{http_version}",
            ])
            .args(&args)
            .arg(&url)
            .output();
        let Ok(out) = out else {
            eprintln!("there is no curl here: it was not tried");
            return;
        };
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(text.lines().last(), Some(wanted), "{args:?}: {text}");
        if args.len() > 2 {
            assert_eq!(last(&origin).body.len(), body.len());
        }
    }
}

#[test]
fn inside_tls_it_is_agreed_on() {
    let (files, origin) = (Files::new(), Origin::start());
    for (http2, wanted) in [(true, "200 2"), (false, "200 1.1")] {
        let mut config = files.front(ServerSetting { http2, ..files.setting() }, &[origin.address]);
        config.listeners[0].http2 = http2;
        let front = Front::start(config);
        let out = Command::new("curl")
            .args(["-sk", "--max-time", "20", "--http2", "-w", "\n%{http_code} %{http_version}"])
            .arg(format!("https://{}/api/v1/vm", front.address))
            .output();
        let Ok(out) = out else {
            eprintln!("there is no curl here: it was not tried");
            return;
        };
        assert_eq!(String::from_utf8_lossy(&out.stdout).lines().last(), Some(wanted), "{out:?}");
        assert_eq!(last(&origin).get("x-forwarded-proto"), Some("https"));
    }
}

#[test]
fn cookies_are_one_field_and_te_goes_no_further() {
    let origin = Origin::start();
    let front = controllers(&[origin.address]);
    let mut peer = Peer::connect(front.address);
    let more = [("cookie", "a=1"), ("te", "trailers"), ("cookie", "b=2"), ("x-q", "1"), ("x-q", "2")];
    assert_eq!(peer.ask(&request_with("GET", "/api/v1/vm", &more)).status(), 200);
    let seen = last(&origin);
    assert_eq!(seen.all("cookie"), ["a=1; b=2"]);
    assert_eq!(seen.all("x-q"), ["1", "2"]);
    assert_eq!(seen.get("te"), None);
}

#[test]
fn bodies_go_by_their_length_or_in_chunks() {
    let origin = Origin::start();
    let front = controllers(&[origin.address]);
    let mut peer = Peer::connect(front.address);
    let body: Vec<u8> = (0..200_000u32).map(|at| at.to_le_bytes()[0]).collect();
    for length in [true, false] {
        for size in [0, 1, 16_384, 200_000] {
            let text = size.to_string();
            let more = [("content-length", text.as_str())];
            let fields = request_with("PUT", "/api/v1/vm", if length { &more } else { &[] });
            let stream = peer.begin(&fields, false);
            peer.body(stream, &body[..size]);
            let got = peer.finish(stream);
            assert_eq!((got.status(), got.ended), (200, Ended::Whole), "{size} {length}");
            let seen = last(&origin);
            assert_eq!(seen.body, body[..size]);
            assert_eq!(seen.get("content-length").is_some(), length);
            assert_eq!(seen.get("transfer-encoding"), (!length).then_some("chunked"));
        }
    }
    let none = peer.ask(&request("POST", "/api/v1/vm"));
    assert_eq!(none.status(), 200);
    assert_eq!(last(&origin).get("transfer-encoding"), None, "an ended stream has no body");
}
