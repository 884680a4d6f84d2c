//! Clients inside TLS: certificates of every kind, names, versions, reloads, and what is no TLS.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::{
    config::proxy::Network,
    tls::{ClientAuth, Least, Server, ServerSetting, Suite},
};

use crate::{
    certificates::{Authority, Made, Wanted},
    front::{Front, eventually},
    raw::{self, Wire},
    secure::Files,
    upstream::{Upstream, ok},
};

/// An upstream that answers with the lines about the client that it was given.
fn mirror() -> Upstream {
    Upstream::start(|seen| {
        let told = seen.head.fields.iter().filter(|(name, _)| {
            let name = name.to_ascii_lowercase().replace('_', "-");
            name.starts_with("ssl-client-") || name == "x-forwarded-proto"
        });
        let mut lines: Vec<String> = told.map(|(name, value)| format!("{name}: {value}")).collect();
        lines.sort();
        ok(&lines.join("\n"))
    })
}

fn refused(front: &Front, reason: &str) -> bool {
    let line = format!(r#"switchyard_proxy_refused_total{{listener="front",reason="{reason}"}}"#);
    front.metrics().lines().any(|said| said.starts_with(&line))
}

#[test]
fn a_request_goes_through_and_the_upstream_knows_that_it_was_inside_tls() {
    let (files, a) = (Files::new(), mirror());
    let front = Front::start(files.front(files.setting(), &[a.address]));
    let mut wire = files.client(None).connect(front.address).unwrap();
    for _ in 0..3 {
        let answer = wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: front.example\r\n\r\n").unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "x-forwarded-proto: https"));
    }
    let line = &front.lines(3)[0];
    assert_eq!(line["tls"]["version"], "1.3");
    assert_eq!(line["tls"]["verify"], serde_json::Value::Null);
    assert!(
        front.metrics().contains(r#"switchyard_proxy_tls_handshakes_total{kind="full",listener="front"} 1"#)
    );
    assert!(front.metrics().contains(r#"switchyard_proxy_tls_files_ok{kind="listener",name="front"} 1"#));
}

#[test]
fn large_bodies_go_both_ways_whole() {
    let files = Files::new();
    let body: String = (0..3_000_000u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    let a = Upstream::start(|seen| ok(std::str::from_utf8(&seen.body).unwrap()));
    let front = Front::start(files.front(files.setting(), &[a.address]));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut wire = files.client_of(None, &[version]).connect(front.address).unwrap();
        for _ in 0..2 {
            let answer = wire.ask(&raw::with_body("POST", "/api/v1/node/config", "", &body)).unwrap();
            assert_eq!(answer.status(), 200);
            assert!(answer.text() == body);
        }
    }
}

#[test]
fn a_client_that_reads_slowly_gets_every_byte() {
    let files = Files::new();
    let body: Arc<String> = Arc::new((0..4_000_000u32).map(|n| char::from(b'a' + (n % 19) as u8)).collect());
    let says = body.clone();
    let a = Upstream::start(move |_| ok(&says));
    let front = Front::start(files.front(files.setting(), &[a.address]));
    let mut wire = files.client(None).connect(front.address).unwrap();
    wire.tls.write_all(b"GET /api/v1/vm HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let (mut came, mut piece) = (Vec::new(), vec![0; 100_000]);
    loop {
        let read = wire.tls.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        came.extend_from_slice(&piece[..read]);
        thread::sleep(Duration::from_millis(2));
    }
    assert!(came.ends_with(body.as_bytes()));
}

#[test]
fn an_answer_that_ends_with_the_connection_ends_with_a_word() {
    let (files, a) = (Files::new(), mirror());
    let front = Front::start(files.front(files.setting(), &[a.address]));
    let mut wire = files.client(None).connect(front.address).unwrap();
    let answer = wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(answer.status(), 200);
    // An end without close_notify would be an error.
    assert_eq!(wire.end().unwrap(), 0);
}

#[test]
fn a_session_is_resumed_on_any_thread() {
    let (files, a) = (Files::new(), mirror());
    let front = Front::start(files.front(files.setting(), &[a.address]));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = files.client_of(None, &[version]);
        for round in 0..8 {
            let mut wire = client.connect(front.address).unwrap();
            let answer = wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(wire.resumed(), round > 0, "{version:?}, connection {round}");
        }
    }
}

/// What an upstream is told of a client with this certificate.
fn told(files: &Files, front: &Front, shows: Option<&Made>, lines: &str) -> Vec<String> {
    let answer = files.client(shows).get(front.address, lines).unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().lines().map(str::to_owned).collect()
}

const FORGED: &str = "Ssl-Client-Verify: SUCCESS\r\nssl_client_verify: SUCCESS\r\nSSL-CLIENT-CERT: forged\r\n\
                      Ssl_Client-Cert: forged\r\nssl-client-subject-dn: CN=root\r\nX-Forwarded-Proto: http\r\n\
                      Connection: ssl-client-verify, ssl-client-cert\r\n";

#[test]
fn optional_serves_everybody_and_says_who_is_good() {
    let (files, a) = (Files::new(), mirror());
    let (good, revoked) = (files.clients.client("ci"), files.clients.client("gone"));
    files.put("clients.crl", &files.clients.list(&[revoked.serial], 30));
    let client_auth = ClientAuth::Optional(files.trust(Some("clients.crl")));
    let front = Front::start(files.front(ServerSetting { client_auth, ..files.setting() }, &[a.address]));
    let https = "x-forwarded-proto: https";
    for lines in ["", FORGED] {
        let check = |shows: Option<&Made>, verify: &str| {
            let said = told(&files, &front, shows, lines);
            assert_eq!(said, [format!("ssl-client-verify: {verify}"), https.to_owned()], "{lines}");
        };
        check(None, "NONE");
        check(Some(&revoked), "FAILED:certificate revoked");
        check(Some(&files.clients.expired_client("late")), "FAILED:certificate has expired");
        check(Some(&files.ca.client("ci")), "FAILED:unable to get local issuer certificate");
        check(Some(&files.clients.leaf(&["a.example"])), "FAILED:unsuitable certificate purpose");
        let said = told(&files, &front, Some(&good), lines);
        assert_eq!(said.len(), 3, "{said:?}");
        let pem = percent_decoded(said[0].strip_prefix("ssl-client-cert: ").unwrap());
        assert_eq!(pem.replace('\n', ""), good.cert.replace(['\r', '\n'], ""));
        assert_eq!(said[1..], ["ssl-client-verify: SUCCESS", https]);
    }
    let lines = front.lines(12);
    let of = |verify: &str| lines.iter().find(|line| line["tls"]["verify"] == verify).unwrap();
    assert_eq!(of("SUCCESS")["tls"]["subject"], "CN=ci, O=builders");
    assert_eq!(of("FAILED:certificate revoked")["tls"]["subject"], "CN=gone, O=builders");
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        out.push(char::from(u8::from_str_radix(&part[..2], 16).unwrap()));
        out.push_str(&part[2..]);
    }
    out
}

#[test]
fn required_serves_nobody_else_and_counts_why() {
    let (files, a) = (Files::new(), mirror());
    let (good, revoked) = (files.clients.client("ci"), files.clients.client("gone"));
    files.put("clients.crl", &files.clients.list(&[revoked.serial], 30));
    let client_auth = ClientAuth::Required(files.trust(Some("clients.crl")));
    let front = Front::start(files.front(ServerSetting { client_auth, ..files.setting() }, &[a.address]));
    let said = told(&files, &front, Some(&good), FORGED);
    assert_eq!((said.len(), said[1].as_str()), (3, "ssl-client-verify: SUCCESS"));
    let check = |shows: Option<&Made>, reason: &str| {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let answer = files.client_of(shows, &[version]).get(front.address, FORGED);
            // The client is told by an alert, not by a reset.
            let why = answer.unwrap_err().to_string();
            assert!(why.contains("alert"), "{reason}: {why}");
        }
        eventually(reason, || refused(&front, reason));
    };
    check(None, "tls-no-certificate");
    check(Some(&revoked), "tls-certificate-revoked");
    check(Some(&files.clients.expired_client("late")), "tls-certificate-expired");
    check(Some(&files.ca.client("ci")), "tls-certificate-of-unknown-issuer");
    check(Some(&files.clients.leaf(&["a.example"])), "tls-certificate-wrong-purpose");
    assert_eq!(a.count(), 1);
}

#[test]
fn off_asks_for_nothing_and_passes_nothing_on() {
    let (files, a) = (Files::new(), mirror());
    let front = Front::start(files.front(files.setting(), &[a.address]));
    let good = files.clients.client("ci");
    assert_eq!(told(&files, &front, Some(&good), FORGED), ["x-forwarded-proto: https"]);
}

#[test]
fn a_trusted_proxy_in_front_speaks_for_its_own_clients() {
    let (files, a) = (Files::new(), mirror());
    let client_auth = ClientAuth::Optional(files.trust(None));
    let mut config = files.front(ServerSetting { client_auth, ..files.setting() }, &[a.address]);
    config.listeners[0].trusted = vec![Network { address: "127.0.0.1".parse().unwrap(), bits: 32 }];
    let front = Front::start(config);
    let link = files.clients.client("outer-proxy");
    let said = told(&files, &front, Some(&link), "Ssl-Client-Verify: NONE\r\n");
    assert_eq!(said, ["Ssl-Client-Verify: NONE", "x-forwarded-proto: https"]);
}

#[test]
fn behind_a_balancer_the_header_comes_first_and_hands_are_shaken_with_whom_it_names() {
    let files = Files::new();
    let a = Upstream::start(|seen| ok(seen.head.get("x-forwarded-for").unwrap_or_default()));
    let mut config = files.front(files.setting(), &[a.address]);
    config.listeners[0].proxy_protocol = vec![Network { address: "127.0.0.1".parse().unwrap(), bits: 32 }];
    let front = Front::start(config);
    let mut client = files.client(None);
    client.opening = b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 443\r\n".to_vec();
    assert_eq!(client.get(front.address, "").unwrap().text(), "192.0.2.7");
    client.opening.clear();
    assert!(client.get(front.address, "").is_err());
    eventually("it is counted", || refused(&front, "no-proxy-header"));
}

#[test]
fn a_list_that_is_too_old_fails_certificates_only_and_is_said() {
    let (files, a) = (Files::new(), mirror());
    files.put("clients.crl", &files.clients.list(&[], -1));
    let client_auth = ClientAuth::Optional(files.trust(Some("clients.crl")));
    let front = Front::start(files.front(ServerSetting { client_auth, ..files.setting() }, &[a.address]));
    let good = files.clients.client("ci");
    assert_eq!(told(&files, &front, Some(&good), "")[0], "ssl-client-verify: FAILED:CRL has expired");
    assert_eq!(told(&files, &front, None, "")[0], "ssl-client-verify: NONE");
    let ready = raw::ask(front.admin, "GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(ready.status(), 200);
    assert!(ready.text().contains("the revocation list ends, or has ended"), "{}", ready.text());
    assert!(
        front.metrics().contains("switchyard_proxy_tls_revocation_list_until_seconds{listener=\"front\"}")
    );
}

#[test]
fn the_name_that_is_asked_for_decides_on_the_certificate() {
    let (files, a) = (Files::new(), mirror());
    let other = files.ca.leaf(&["*.ci.example"]);
    other.write(files.folder.path(), "other");
    let mut setting = files.setting();
    setting.pairs.push(files.pair("other"));
    let front = Front::start(files.front(setting, &[a.address]));
    let shown = |name: &str| {
        let wire = files.client(None).named(name).connect(front.address)?;
        Ok::<_, std::io::Error>(wire.tls.conn.peer_certificates().unwrap()[0].to_vec())
    };
    assert_eq!(shown("a.ci.example").unwrap(), other.der);
    assert_ne!(shown("front.example").unwrap(), other.der);
    // An address is asked for without a name: the first certificate.
    assert_ne!(shown("127.0.0.1").unwrap(), other.der);
    // The client sees that it is not for this name, and says so.
    assert!(shown("b.a.ci.example").is_err());
    eventually("the client's refusal is counted", || refused(&front, "tls-refused-by-client"));
}

#[test]
fn old_versions_and_suites_that_are_not_named_are_refused() {
    let (files, a) = (Files::new(), mirror());
    let suites = vec![Suite::named("TLS_CHACHA20_POLY1305_SHA256").unwrap()];
    let setting = ServerSetting { least: Least::Tls13, suites, ..files.setting() };
    let front = Front::start(files.front(setting, &[a.address]));
    let wire = files.client(None).connect(front.address).unwrap();
    assert!(format!("{:?}", wire.tls.conn.negotiated_cipher_suite()).contains("CHACHA20"));
    assert!(files.client_of(None, &[&rustls::version::TLS12]).connect(front.address).is_err());
    eventually("it is counted", || refused(&front, "tls-nothing-in-common"));
}

#[test]
fn what_is_no_tls_is_told_so_or_closed() {
    let (files, a) = (Files::new(), mirror());
    let mut config = files.front(files.setting(), &[a.address]);
    config.limits.header_timeout = Duration::from_millis(300);
    let front = Front::start(config);
    let answer = front.get("/api/v1/vm");
    assert_eq!(answer.status(), 400);
    assert!(answer.text().contains("https"), "{}", answer.text());
    assert!(refused(&front, "plain-http"));
    let mut wire = Wire::connect(front.address);
    wire.send(b"\x00\x01\x02 no protocol at all").unwrap();
    assert!(wire.ended());
    eventually("it is counted", || refused(&front, "tls-strange"));
    // One that says nothing, and one that says only half of its first message.
    let mut silent = Wire::connect(front.address);
    assert!(silent.ended());
    let mut half = Wire::connect(front.address);
    half.send(b"\x16\x03\x01\x02\x00\x01").unwrap();
    assert!(half.ended());
    eventually("both are counted", || refused(&front, "tls-too-slow"));
    let gone = TcpStream::connect(front.address).unwrap();
    drop(gone);
    eventually("it is counted", || refused(&front, "tls-gone"));
    assert_eq!(a.count(), 0);
}

#[test]
fn certificates_are_renewed_under_load_without_a_failed_request() {
    let (files, a) = (Files::new(), mirror());
    let front = Front::start(files.front(files.setting(), &[a.address]));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (client, address, stop) = (files.client(None), front.address, stop.clone());
            thread::spawn(move || {
                let mut count = 0;
                let mut kept = client.connect(address).unwrap();
                while !stop.load(Ordering::SeqCst) {
                    // One that stays for the whole time, and ones that come anew.
                    let request = "GET /api/v1/vm HTTP/1.1\r\nHost: front.example\r\n\r\n";
                    let answer = if number % 2 == 0 { kept.ask(request) } else { client.get(address, "") };
                    assert_eq!(answer.unwrap().status(), 200);
                    count += 1;
                }
                count
            })
        })
        .collect();
    let shown = || {
        let wire = files.client(None).connect(front.address).unwrap();
        wire.tls.conn.peer_certificates().unwrap()[0].to_vec()
    };
    for _ in 0..10 {
        let next = files.ca.leaf(&["front.example"]);
        next.write(files.folder.path(), "front");
        let mut config = front.config.clone();
        config.listeners[0].tls = Some(Server::load(files.setting()).unwrap());
        front.reload(&config).unwrap();
        assert_eq!(shown(), next.der);
        thread::sleep(Duration::from_millis(30));
    }
    stop.store(true, Ordering::SeqCst);
    let total: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(total > 100, "{total}");
    assert_eq!(a.count(), total);
}

#[test]
fn new_files_are_noticed_and_bad_ones_leave_the_old_ones_in_use() {
    let (files, a) = (Files::new(), mirror());
    let front = Front::start(files.front(files.setting(), &[a.address]));
    let shown = || {
        let wire = files.client(None).connect(front.address).unwrap();
        wire.tls.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let next = files.ca.make(&Wanted { names: &["front.example"], cn: "renewed", ..Wanted::default() });
    next.write(files.folder.path(), "front");
    eventually("the renewed certificate is shown", || shown() == next.der);
    // A certificate whose key did not come along.
    files.put("front.pem", &files.ca.leaf(&["front.example"]).cert);
    let ok = r#"switchyard_proxy_tls_files_ok{kind="listener",name="front"} "#;
    eventually("the refusal is counted", || front.metrics().contains(&format!("{ok}0")));
    assert_eq!(shown(), next.der);
    let ready = raw::ask(front.admin, "GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(ready.text().contains("is not the key of the certificate"), "{}", ready.text());
    next.write(files.folder.path(), "front");
    eventually("it is fine again", || front.metrics().contains(&format!("{ok}1")));
}

/// What the page calls those whose hands are not shaken, with those that are written as `-more` made whole.
fn reasons() -> BTreeSet<String> {
    let page = include_str!("../../docs/tls.md");
    let (_, table) = page.split_once("## Who was turned away").unwrap();
    let (table, _) = table.split_once("\n| metric |").unwrap();
    let cells =
        table.lines().filter(|line| line.starts_with("| `")).map(|line| line.split('|').nth(1).unwrap());
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(|word| match word.strip_prefix('-') {
            Some(end) => format!("tls-certificate-{end}"),
            None => word.to_owned(),
        })
        .collect()
}

#[test]
fn every_certificate_that_is_turned_away_has_a_reason_of_the_page() {
    use rcgen::ExtendedKeyUsagePurpose::ClientAuth as OfClients;
    let (files, a) = (Files::new(), mirror());
    let client =
        |days| files.clients.make(&Wanted { cn: "ci", days, purpose: OfClients, ..Wanted::default() });
    let (good, revoked, stranger) = (client(-1..30), client(-1..30), files.ca.client("ci"));
    // Another authority that says it is the same one: what it has signed is not signed by the one that is known.
    let forger = Authority::new("clients");
    files.put("good.crl", &files.clients.list(&[revoked.serial], 30));
    files.put("old.crl", &files.clients.list(&[], -1));
    let (late, early, leaf) = (client(-9..-2), client(2..9), files.clients.leaf(&["a.example"]));
    let forged = forger.client("ci");
    let cases = [
        ("good.crl", None, "tls-no-certificate"),
        ("good.crl", Some(&late), "tls-certificate-expired"),
        ("good.crl", Some(&early), "tls-certificate-not-yet-valid"),
        ("good.crl", Some(&revoked), "tls-certificate-revoked"),
        ("good.crl", Some(&stranger), "tls-certificate-of-unknown-issuer"),
        ("good.crl", Some(&forged), "tls-certificate-bad-signature"),
        ("good.crl", Some(&leaf), "tls-certificate-wrong-purpose"),
        ("old.crl", Some(&good), "tls-revocation-list-expired"),
        ("good.crl", Some(&stranger), "tls-no-revocation-list"),
    ];
    // What is no TLS or no certificate has tests of its own (`tests/live/silent.rs` too).
    let others = ["plain-http", "tls-strange", "tls-too-slow", "tls-gone", "tls-nothing-in-common"];
    let others = others.into_iter().chain(["tls-refused-by-client", "tls-bad", "tls-certificate-bad"]);
    let tried: BTreeSet<String> = cases.iter().map(|case| case.2).chain(others).map(str::to_owned).collect();
    assert_eq!(reasons(), tried);
    for (list, shows, reason) in cases {
        if reason == "tls-no-revocation-list" {
            // Its authority is known now, and has no list.
            files.put("clients.pem", &[files.clients.cert(), files.ca.cert()].concat());
        }
        let client_auth = ClientAuth::Required(files.trust(Some(list)));
        let front = Front::start(files.front(ServerSetting { client_auth, ..files.setting() }, &[a.address]));
        assert!(files.client(shows).get(front.address, "").is_err(), "{reason}");
        eventually(reason, || refused(&front, reason));
    }
    assert_eq!(a.count(), 0);
}
