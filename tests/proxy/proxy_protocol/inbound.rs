//! From balancers before the proxy.

use std::time::Duration;

use switchyard::{clock, config::proxy::Kind};

use super::{QUIT, behind_balancers, get, network, v2, v2_of};
use crate::{
    front::{self, Front, eventually},
    raw::Wire,
    upstream::{Seen, Upstream, ok},
};

/// An upstream that answers with whom it was asked for.
fn mirror() -> Upstream {
    let forwarded = |seen: &Seen| seen.head.get("x-forwarded-for").unwrap_or("nobody").to_owned();
    Upstream::start(move |seen| ok(&forwarded(seen)))
}

/// What a connection that begins with these bytes and then asks is answered.
fn ask(front: &Front, header: &[u8], extra: &str) -> String {
    let mut wire = Wire::connect(front.address);
    wire.send([header, get("/api/v1/vm", extra).as_bytes()].concat()).unwrap();
    wire.answer(false).unwrap().text()
}

/// How often connections were refused for this reason.
fn refused(front: &Front, reason: &str) -> u64 {
    let name = format!(r#"switchyard_proxy_refused_total{{listener="front",reason="{reason}"}} "#);
    let text = front.metrics();
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

/// The connection ends without an answer, and is counted under this reason.
fn check_refused(front: &Front, bytes: &[u8], end: bool, reason: &str) {
    let before = refused(front, reason);
    let mut wire = Wire::connect(front.address);
    wire.send(bytes).unwrap();
    if end {
        wire.tcp.shutdown(std::net::Shutdown::Write).unwrap();
    }
    assert!(matches!(wire.head(), Ok(None) | Err(_)), "{:?}", String::from_utf8_lossy(bytes));
    eventually(reason, || refused(front, reason) == before + 1);
}

fn headers() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 443\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2_of("192.0.2.8:4711", "203.0.113.1:443"), "192.0.2.8"),
        (v2_of("[2001:db8::8]:4711", "[2001:db8::1]:443"), "2001:db8::8"),
        (v2_of("[::ffff:192.0.2.9]:4711", "[::ffff:203.0.113.1]:443"), "192.0.2.9"),
        (v2(0x20, 0, &[]), "127.0.0.1"),
        (v2(0x21, 0, &[]), "127.0.0.1"),
        (v2(0x21, 0x31, &[0; 216]), "127.0.0.1"),
    ]
}

#[test]
fn the_client_is_whom_the_header_names() {
    let upstream = mirror();
    let front = Front::start(behind_balancers(&[upstream.address]));
    let headers = headers();
    for (header, client) in &headers {
        assert_eq!(ask(&front, header, ""), *client);
    }
    // Several threads write them, so their order is nobody's.
    let lines = front.lines(headers.len());
    let mut told: Vec<_> = lines.iter().filter_map(|line| line["client"].as_str()).collect();
    let mut named: Vec<_> = headers.iter().map(|(_, client)| *client).collect();
    told.sort_unstable();
    named.sort_unstable();
    assert_eq!(told, named);
}

#[test]
fn it_is_the_client_of_every_request_of_the_connection() {
    let upstream = mirror();
    let front = Front::start(behind_balancers(&[upstream.address]));
    for (header, client) in headers() {
        let mut wire = Wire::connect(front.address);
        let requests: String = (0..5).map(|n| get(&format!("/api/v1/vm?id={n}"), "")).collect();
        wire.send([&header, requests.as_bytes()].concat()).unwrap();
        for _ in 0..5 {
            assert_eq!(wire.answer(false).unwrap().text(), client);
        }
        assert_eq!(wire.ask(&get("/api/v1/vm", "")).unwrap().text(), client);
    }
}

#[test]
fn a_header_may_come_in_pieces() {
    let upstream = mirror();
    let front = Front::start(behind_balancers(&[upstream.address]));
    for (header, client) in headers() {
        let mut wire = Wire::connect(front.address);
        for byte in [&header, get("/api/v1/vm", "").as_bytes()].concat() {
            wire.send([byte]).unwrap();
        }
        assert_eq!(wire.answer(false).unwrap().text(), client);
    }
    // The longest that is taken: larger than what is looked at at once.
    let long = v2(0x20, 0, &vec![0; 4080]);
    assert_eq!(ask(&front, &long, ""), "127.0.0.1");
    let mut wire = Wire::connect(front.address);
    for piece in long.chunks(700) {
        wire.send(piece).unwrap();
    }
    assert_eq!(wire.ask(&get("/api/v1/vm", "")).unwrap().text(), "127.0.0.1");
}

#[test]
fn what_is_no_header_ends_the_connection_without_a_word() {
    let upstream = mirror();
    let front = Front::start(behind_balancers(&[upstream.address]));
    check_refused(&front, get("/api/v1/vm", "").as_bytes(), false, "no-proxy-header");
    check_refused(&front, b"\x16\x03\x01\x02\0\x01\0\x01\xfc", false, "no-proxy-header");
    let bad = "bad-proxy-header";
    check_refused(&front, b"PROXY TCP4 192.0.2.7 203.0.113.1 4711\r\nGET / HTTP/1.1\r\n", false, bad);
    check_refused(&front, b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 443\n", false, bad);
    check_refused(&front, format!("PROXY UNKNOWN {}", "x".repeat(200)).as_bytes(), false, bad);
    check_refused(&front, &v2(0x21, 0x11, &[1, 2, 3]), false, bad);
    check_refused(&front, &v2(0x22, 0x11, &[0; 12]), false, bad);
    check_refused(&front, &[QUIT, &[0x20, 0, 0xff, 0xff]].concat(), false, bad);
    check_refused(&front, &v2(0x21, 0x11, &[&[0; 12][..], &[3, 0, 4, 1, 2, 3, 4]].concat()), false, bad);
    check_refused(&front, b"PROXY TCP4 192", true, bad);
    check_refused(&front, &QUIT[..7], true, bad);
    assert_eq!(upstream.count(), 0);
    // Balancers look whether a port is open.
    let before = (refused(&front, bad), refused(&front, "no-proxy-header"));
    for _ in 0..3 {
        drop(Wire::connect(front.address));
    }
    assert_eq!(ask(&front, &headers()[0].0, ""), "192.0.2.7");
    assert_eq!((refused(&front, bad), refused(&front, "no-proxy-header")), before);
}

#[test]
fn a_header_that_is_not_complete_in_time_is_not_waited_for() {
    let upstream = mirror();
    let mut config = behind_balancers(&[upstream.address]);
    config.limits.header_timeout = Duration::from_millis(300);
    let front = Front::start(config);
    for begun in [&b""[..], b"PROXY TCP4 192.0", &QUIT[..12]] {
        let began = clock::now();
        check_refused(&front, begun, false, "proxy-header-too-slow");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
    }
    // A byte now and then buys no time.
    let mut wire = Wire::connect(front.address).patience(Duration::from_secs(5));
    let began = clock::now();
    for byte in b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 443\r\n" {
        std::thread::sleep(Duration::from_millis(20));
        if wire.send([*byte]).is_err() {
            break;
        }
    }
    assert!(wire.closed() && began.elapsed() < Duration::from_secs(5));
    eventually("it was counted", || refused(&front, "proxy-header-too-slow") == 4);
}

#[test]
fn from_anybody_else_no_header_is_read() {
    let upstream = mirror();
    let mut config = behind_balancers(&[upstream.address]);
    config.listeners[0].proxy_protocol = vec![network("127.0.0.2", 32)];
    let front = Front::start(config);
    assert_eq!(front.get("/api/v1/vm").text(), "127.0.0.1");
    for (header, _) in headers() {
        let mut wire = Wire::connect(front.address);
        wire.send([&header, get("/api/v1/vm", "").as_bytes()].concat()).unwrap();
        assert_eq!(wire.answer(false).unwrap().status(), 400);
        assert!(wire.ended());
    }
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_second_header_is_no_request() {
    let upstream = mirror();
    let front = Front::start(behind_balancers(&[upstream.address]));
    for (header, _) in headers() {
        let mut wire = Wire::connect(front.address);
        wire.send([&header, &header, get("/api/v1/vm", "").as_bytes()].concat()).unwrap();
        assert_eq!(wire.answer(false).unwrap().status(), 400);
        assert!(wire.ended());
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn whom_the_header_names_decides_who_is_believed() {
    let upstream = mirror();
    let mut config = behind_balancers(&[upstream.address]);
    // The balancer itself, by mistake or for its other connections; and proxies behind it.
    config.listeners[0].trusted = vec![network("127.0.0.1", 32), network("10.0.0.0", 8)];
    let front = Front::start(config);
    let forged = "X-Forwarded-For: 6.6.6.6\r\nSsl-Client-Verify: SUCCESS\r\n";
    let outside = v2_of("192.0.2.8:4711", "203.0.113.1:443");
    assert_eq!(ask(&front, &outside, forged), "192.0.2.8");
    // What a balancer passes on it did not write, so nothing is believed for its sake.
    assert_eq!(ask(&front, &v2(0x20, 0, &[]), forged), "127.0.0.1");
    assert_eq!(ask(&front, b"PROXY UNKNOWN\r\n", forged), "127.0.0.1");
    for seen in upstream.seen.lock().unwrap().iter() {
        assert_eq!(seen.head.get("ssl-client-verify"), None);
    }
    // A proxy that came through the balancer is believed.
    let proxy = v2_of("10.1.2.3:4711", "203.0.113.1:443");
    assert_eq!(ask(&front, &proxy, forged), "6.6.6.6, 10.1.2.3");
    let last = upstream.seen.lock().unwrap().last().unwrap().clone();
    assert_eq!(last.head.get("ssl-client-verify"), Some("SUCCESS"));
    assert_eq!(front.lines(4)[3]["client"], "6.6.6.6");
}

#[test]
fn a_reload_says_anew_who_is_a_balancer() {
    let upstream = mirror();
    let plain = front::config(Kind::Controller, &[upstream.address]);
    let front = Front::start(plain.clone());
    assert_eq!(front.get("/api/v1/vm").text(), "127.0.0.1");
    let mut behind = front.config.clone();
    behind.listeners[0].proxy_protocol = vec![network("127.0.0.0", 8)];
    front.reload(&behind).unwrap();
    assert_eq!(ask(&front, &headers()[0].0, ""), "192.0.2.7");
    check_refused(&front, get("/api/v1/vm", "").as_bytes(), false, "no-proxy-header");
    let mut again = behind;
    again.listeners[0].proxy_protocol.clear();
    front.reload(&again).unwrap();
    assert_eq!(front.get("/api/v1/vm").text(), "127.0.0.1");
}

#[test]
fn a_stop_does_not_wait_for_headers_that_have_not_begun() {
    let upstream = mirror();
    let mut front = Front::start(behind_balancers(&[upstream.address]));
    let mut silent = Wire::connect(front.address);
    eventually("it is accepted", || {
        front.metrics().contains(r#"switchyard_proxy_connections{listener="front"} 1"#)
    });
    let took = front.stop();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(silent.ended());
}
