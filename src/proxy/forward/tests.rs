use ::http::{HeaderMap, HeaderName, Method};

use std::net::IpAddr;

use super::*;
use crate::{
    clock,
    config::proxy::Kind,
    proxy::classify,
    tls::{Denied, Peer, Verify},
};

fn fields<'a>(lines: &[(&'a str, &'a str)]) -> Vec<httparse::Header<'a>> {
    lines.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect()
}

/// The headers as the upstream gets them.
fn sent(lines: &[(&str, &str)], trusted: bool) -> HeaderMap {
    sent_over(lines, trusted, None)
}

fn sent_over(lines: &[(&str, &str)], trusted: bool, secured: Option<&Secured>) -> HeaderMap {
    let parsed = fields(lines);
    let given = Fields::new(&parsed);
    let id = RequestId::parse("r-1").unwrap();
    let peer: IpAddr = "192.0.2.1".parse().unwrap();
    let length = given.text("content-length").map(|length| Framing::Length(length.parse().unwrap()));
    let about = About {
        client: Client { ip: peer, trusted },
        secured,
        peer: "192.0.2.1",
        host: "front:8090",
        request: &id,
        trace: None,
        upgrade: is_upgrade(&given),
        framing: length.unwrap_or(Framing::None),
        old: false,
    };
    let mut out = Vec::new();
    request("GET", &Target { path: "/a".into(), query: "?b" }, &given, &about, &mut out);
    attempt(
        &Attempt { host: None, left: Some(Duration::from_millis(4200)), key: None, sign: None },
        &mut out,
    );
    let text = String::from_utf8(out).unwrap();
    let mut lines = text.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
    assert_eq!(lines.next(), Some("GET /a?b HTTP/1.1"));
    let mut map = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        let before = map.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        assert_eq!(before, None, "{name} is there once");
    }
    map
}

fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn forged_identity_does_not_reach_an_upstream() {
    let forged = [
        ("X-Forwarded-For", "10.0.0.1"),
        ("X_Forwarded_For", "10.0.0.1"),
        ("X-Forwarded-User", "root"),
        ("Forwarded", "for=10.0.0.1"),
        ("Ssl-Client-Verify", "SUCCESS"),
        ("ssl_client_cert", "x"),
        ("Switchyard-Position", "9.9"),
        ("Authorization", "Basic x"),
    ];
    let out = sent(&forged, false);
    assert_eq!(get(&out, "x-forwarded-for"), Some("192.0.2.1"));
    assert_eq!(get(&out, "authorization"), Some("Basic x"));
    for name in ["x_forwarded_for", "x-forwarded-user", "forwarded", "ssl-client-verify", "ssl_client_cert"] {
        assert_eq!(get(&out, name), None, "{name}");
    }
    assert_eq!(get(&out, "switchyard-position"), None);
    assert_eq!(get(&out, "switchyard-deadline"), Some("4200"));
}

#[test]
fn a_trusted_proxy_in_front_is_believed_and_added_to_the_chain() {
    let out = sent(&[("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-Proto", "https")], true);
    assert_eq!(get(&out, "x-forwarded-for"), Some("198.51.100.7, 192.0.2.1"));
    assert_eq!(get(&out, "x-forwarded-proto"), Some("https"));
    assert_eq!(get(&out, "x-forwarded-host"), Some("front:8090"));
}

fn secured(verify: Verify) -> Secured {
    let escaped = (verify == Verify::Success).then(|| "-----BEGIN%20".to_owned());
    Secured { version: "1.3", resumed: false, peer: Some(Peer { verify, escaped, subject: None }) }
}

#[test]
fn what_tls_says_of_the_client_is_passed_on_and_nothing_else() {
    let forged = [
        ("Ssl-Client-Verify", "SUCCESS"),
        ("ssl_client_cert", "forged"),
        ("SSL-Client_Cert", "forged"),
        ("Ssl-Client-Subject-Dn", "CN=root"),
        ("Connection", "ssl-client-verify, ssl-client-cert"),
    ];
    let check = |verify: Verify, said: &str, cert: Option<&str>| {
        let out = sent_over(&forged, false, Some(&secured(verify)));
        assert_eq!(get(&out, "ssl-client-verify"), Some(said));
        assert_eq!(get(&out, "ssl-client-cert"), cert);
        assert_eq!(get(&out, "x-forwarded-proto"), Some("https"));
        let others = out.keys().filter(|name| identity::is_of_certificate(name.as_str())).count();
        assert_eq!(others, 1 + usize::from(cert.is_some()), "{out:?}");
    };
    check(Verify::None, "NONE", None);
    check(Verify::Success, "SUCCESS", Some("-----BEGIN%20"));
    check(Verify::Failed(Denied::Revoked), "FAILED:certificate revoked", None);
}

#[test]
fn what_a_trusted_proxy_says_of_a_certificate_is_never_mixed_with_what_we_say() {
    let theirs = [("Ssl-Client-Verify", "NONE")];
    let out = sent_over(&theirs, true, Some(&secured(Verify::Success)));
    assert_eq!((get(&out, "ssl-client-verify"), get(&out, "ssl-client-cert")), (Some("NONE"), None));
    let out = sent_over(&[], true, Some(&secured(Verify::Success)));
    assert_eq!(get(&out, "ssl-client-verify"), Some("SUCCESS"));
}

#[test]
fn what_concerns_one_connection_stays_on_it() {
    let out = sent(
        &[
            ("Connection", "close, X-Mine, Content-Length, Host"),
            ("X-Mine", "1"),
            ("Content-Length", "5"),
            ("Keep-Alive", "timeout=5"),
            ("TE", "trailers"),
            ("Proxy-Connection", "close"),
            ("Upgrade", "h2c"),
        ],
        false,
    );
    for name in ["connection", "x-mine", "keep-alive", "te", "proxy-connection", "upgrade"] {
        assert_eq!(get(&out, name), None, "{name}");
    }
    assert_eq!(get(&out, "content-length"), Some("5"));
    assert_eq!(get(&out, "host"), Some("front:8090"));
}

#[test]
fn an_upgrade_is_passed_on_as_one() {
    let out = sent(&[("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket")], false);
    assert_eq!((get(&out, "connection"), get(&out, "upgrade")), (Some("upgrade"), Some("websocket")));
    assert!(!is_upgrade(&Fields::new(&fields(&[("Upgrade", "websocket")]))));
}

#[test]
fn a_hold_leaves_time_for_an_answer_before_real_clients_give_up() {
    let of = |line: &str| {
        let (method, path) = line.split_once(' ').unwrap();
        let route = classify::route(Kind::Controller, &method.parse::<Method>().unwrap(), path);
        let now = clock::now();
        (deadline(route, now).map(|at| at - now), hold_until(route, Hold::default(), now) - now)
    };
    let ms = Duration::from_millis;
    assert_eq!(of("GET /api/v1/vm"), (Some(ms(4500)), ms(2500)));
    assert_eq!(of("POST /api/v1/vm"), (Some(ms(9000)), ms(7000)));
    assert_eq!(of("GET /switchyard/v1/tasks"), (None, ms(8000)));
}

#[test]
fn only_what_may_be_repeated_goes_over_used_connections() {
    let of = |line: &str| {
        let (method, path) = line.split_once(' ').unwrap();
        let route = classify::route(Kind::Controller, &method.parse::<Method>().unwrap(), path);
        limits(route, UpstreamTimeouts::default(), None)
    };
    assert!(of("GET /api/v1/vm").pooled);
    assert!(!of("POST /api/v1/vm").pooled);
    let poll = of("GET /queue/v1/cmd/task");
    assert!(!poll.pooled && poll.read.unwrap() > Duration::from_secs(60));
}

#[test]
fn a_silent_upstream_leaves_half_of_the_time_for_another_one() {
    let now = crate::clock::now();
    let after = |ms| now + Duration::from_millis(ms);
    assert_eq!(attempt_until(after(4000), now), after(2000));
    assert_eq!(attempt_until(after(4000), after(2000)), after(3000));
    assert_eq!(attempt_until(now, after(1)), after(1), "too late already");
}

/// The rows of the page's table, as what the code says of each.
#[test]
fn the_table_of_timeouts_in_the_docs_is_that_of_the_code() {
    let page = include_str!("../../../docs/http.md");
    let table = page.split_once("## How long each step may take").unwrap().1.split_once("\n## ").unwrap().0;
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let now = clock::now();
    let ms = Duration::from_millis;
    let timeouts = UpstreamTimeouts {
        connect: ms(11),
        tls: ms(12),
        first_byte: Some(ms(13)),
        poll: ms(14),
        commit: ms(15),
        idle: Duration::from_secs(16),
        ..UpstreamTimeouts::default()
    };
    let name = |time: Duration| match time.as_millis() {
        11 => "`connect`".to_owned(),
        12 => "`tls`".to_owned(),
        13 => "`first_byte`".to_owned(),
        14 => "`poll`".to_owned(),
        15 => "`commit`".to_owned(),
        16_000 => "`idle`".to_owned(),
        other => format!("{}s", other as f64 / 1000.0),
    };
    let mut classes = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let (method, path) = cells[1].trim_matches('`').split_once(' ').unwrap();
        let kind = if cells[0].starts_with("`registry") { Kind::Registry } else { Kind::Controller };
        let route = classify::route(kind, &method.parse::<Method>().unwrap(), path);
        let limits = limits(route, timeouts, None);
        let ways = [(Way::Up, "up"), (Way::Down, "down")].into_iter();
        let floor: Vec<&str> =
            ways.filter(|(way, _)| meter(route, *way, timeouts).is_some()).map(|(_, name)| name).collect();
        let said = [
            deadline(route, now).map_or(String::new(), |at| name(at - now)),
            name(limits.connect),
            name(limits.tls),
            first_byte(route, timeouts).map_or("the deadline".to_owned(), name),
            name(limits.write),
            floor.join(" "),
        ];
        assert_eq!(cells[2..], said, "{row}");
        assert!(cells[0].starts_with(&format!("`{}`", route.class.as_str())), "{row}: {:?}", route.class);
        assert_eq!(
            deadline(route, now).is_none(),
            first_byte(route, timeouts).is_some(),
            "{row}: something bounds it"
        );
        classes.push(route.class);
    }
    assert!(RouteClass::ALL.iter().all(|class| classes.contains(class)), "{classes:?}");
}
