//! What goes through, goes through unchanged.

use switchyard::config::proxy::Kind;

use crate::{
    front::{self, Front},
    raw::{Wire, with_body},
    upstream::{Upstream, ok},
};

#[test]
fn a_request_goes_through_and_says_why_there() {
    let a = Upstream::start(|_| ok("hello"));
    let front = Front::controllers(&[a.address]);
    let answer = front.get("/api/v1/vm?id=1");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
    assert_eq!(a.one().path(), "/api/v1/vm?id=1");
    let line = &front.lines(1)[0];
    assert_eq!(line["upstream"], "u0");
    assert_eq!(line["why"], "the only eligible one");
    assert_eq!(line["class"], "controller-api");
    assert_eq!(line["path"], "/api/v1/vm");
    assert_eq!(line["bytes_sent"], 5);
    assert!(front.metrics().contains(
        r#"switchyard_proxy_requests_total{class="controller-api",service="pool",status="2xx"} 1"#
    ));
}

#[test]
fn a_connection_serves_many_requests() {
    let a = Upstream::start(|seen| ok(seen.path()));
    let front = Front::controllers(&[a.address]);
    let mut wire = Wire::connect(front.address);
    for n in 0..20 {
        let answer = wire.ask(&format!("GET /api/v1/vm?id={n} HTTP/1.1\r\nHost: front\r\n\r\n")).unwrap();
        assert_eq!(answer.text(), format!("/api/v1/vm?id={n}"));
    }
}

#[test]
fn a_delete_keeps_its_body() {
    let a = Upstream::start(|_| ok("{}"));
    let front = Front::controllers(&[a.address]);
    assert_eq!(front.ask(&with_body("DELETE", "/api/v1/vm", "", r#"{"id":"x"}"#)).status(), 200);
    assert_eq!(a.one().body, br#"{"id":"x"}"#);
}

#[test]
fn forged_headers_are_stripped_and_true_ones_set() {
    let a = Upstream::start(|_| ok(""));
    let front = Front::start(front::config(Kind::Controller, &[a.address]));
    front.ask(
        "GET /api/v1/vm HTTP/1.1\r\nHost: front:1\r\nssl_client_verify: SUCCESS\r\nSsl-Client-Cert: x\r\n\
         X-Forwarded-For: 6.6.6.6\r\nSwitchyard-Position: 9.9\r\nConnection: x-secret\r\nX-Secret: 1\r\n\
         X-Request-Id: mine-1\r\n\r\n",
    );
    let head = a.one().head;
    for name in ["ssl_client_verify", "ssl-client-cert", "switchyard-position", "x-secret", "connection"] {
        assert_eq!(head.get(name), None, "{name}");
    }
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.get("x-forwarded-host"), Some("front:1"));
    assert_eq!(head.get("x-request-id"), Some("mine-1"));
    let left: u64 = head.get("switchyard-deadline").unwrap().parse().unwrap();
    assert!(left > 3000 && left <= 4500, "{left}");
}
