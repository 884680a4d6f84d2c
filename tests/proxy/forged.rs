//! However a client spells it, and whatever it speaks: servers behind the proxy hear of who is calling from the proxy alone.

use std::{
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use proptest::{prelude::*, sample::select, test_runner::TestRunner};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use switchyard::{
    config::proxy::Kind,
    tls::{ClientAuth, ServerSetting},
};

use crate::{
    front::{self, Front},
    h2::{
        hpack,
        peer::{END_HEADERS, END_STREAM, HEADERS, Peer, frame, request},
    },
    secure::Files,
    upstream::{Seen, Upstream, ok},
};

/// What only a proxy may say (`docs/http.md`).
const NAMES: [&str; 14] = [
    "Ssl-Client-Verify",
    "Ssl-Client-Cert",
    "Ssl-Client-Subject-Dn",
    "Ssl-Client-I-Dn",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-User",
    "Forwarded",
    "X-Real-Ip",
    "X-Client-Ip",
    "Switchyard-Deadline",
    "Switchyard-Position",
    "Switchyard-Attempt",
];

/// What is told with them, and with nothing else.
const FORGED: [&str; 2] = ["SUCCESS", "forged"];

/// How a line may try to be another one than it seems.
const WRAPS: [&str; 14] = [
    "NAME: VALUE",
    "NAME:VALUE",
    "NAME : VALUE",
    "NAME\t: VALUE",
    " NAME: VALUE",
    "X-A:\r\n NAME: VALUE",
    "X-A: 1\r\n\tNAME: VALUE",
    "X-A: 1\rNAME: VALUE",
    "X-A: 1\nNAME: VALUE",
    "X-A: 1\0NAME: VALUE",
    "NAME\0: VALUE",
    "Connection: NAME, close\r\nNAME: VALUE",
    "NAME: NONE\r\nNAME: VALUE",
    "X-A: 1\u{b}\r\nNAME: VALUE\r\nNAME: VALUE",
];

/// The same with fields of HTTP/2, which have no lines.
const FIELDS: [(&str, &str); 9] = [
    ("NAME", "VALUE"),
    ("NAME", " VALUE"),
    ("NAME ", "VALUE"),
    ("x-a", "1\r\nNAME: VALUE"),
    ("x-a", "1\nNAME: VALUE"),
    ("x-a", "1\rNAME: VALUE"),
    ("x-a: 1\r\nNAME", "VALUE"),
    ("x-a\nNAME", "VALUE"),
    (":NAME", "VALUE"),
];

/// One attempt: a name in some spelling, a value, and a choice of how it is wrapped.
type Line = (String, &'static str, usize);

/// In any case; whatever servers may take for a hyphen instead of one.
fn spelt() -> impl Strategy<Value = String> {
    (select(&NAMES[..]), proptest::collection::vec(any::<u8>(), 32)).prop_map(|(name, dice)| {
        let spell = |(letter, die): (char, u8)| match letter {
            '-' => ['-', '-', '-', '_', '_', '.', '~', '+'][usize::from(die % 8)],
            letter if die % 2 == 0 => letter.to_ascii_uppercase(),
            letter => letter.to_ascii_lowercase(),
        };
        name.chars().zip(dice).map(spell).collect()
    })
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    // Half of them plain, or nearly every request would be refused for one of its lines.
    let wrap = prop_oneof![Just(0), 0..WRAPS.len()];
    proptest::collection::vec((spelt(), select(&FORGED[..]), wrap), 1..4)
}

fn filled(text: &str, (name, value, _): &Line) -> String {
    text.replace("NAME", name).replace("VALUE", value)
}

/// The request, with or without a body, with the lines in its head and, if it can, behind its body.
fn written(lines: &[Line], body: bool) -> String {
    let all: Vec<String> = lines.iter().map(|line| filled(WRAPS[line.2], line) + "\r\n").collect();
    let (all, start) = (all.concat(), "HTTP/1.1\r\nHost: front.example\r\nConnection: close\r\n");
    if body {
        format!("POST /api/v1/vm {start}{all}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n{all}\r\n")
    } else {
        format!("GET /api/v1/vm {start}{all}\r\n")
    }
}

/// What a server behind the proxy takes for a name.
fn plain(name: &str) -> String {
    let hyphen =
        |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    name.trim().chars().map(hyphen).collect()
}

/// No line that came says what was forged, and of certificates is told what should be and nothing else.
fn believable(seen: &Seen, certificates: &[&str]) -> Result<(), TestCaseError> {
    let said = seen.head.fields.iter().map(|(name, value)| format!("{name}: {value}"));
    let text = said.collect::<Vec<_>>().join("\r\n");
    let mut told = Vec::new();
    for line in text.split(['\r', '\n', '\0']) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let name = plain(name);
        let known = NAMES.iter().any(|of| name == plain(of)) || name.starts_with("ssl-client-");
        prop_assert!(!known || !FORGED.iter().any(|forged| value.contains(forged)), "{line:?} of {text:?}");
        if name.starts_with("ssl-client-") {
            told.push(format!("{name}:{value}"));
        }
    }
    prop_assert_eq!(told, certificates, "{:?}", text);
    Ok(())
}

/// Writes it and reads until the proxy has nothing more to say.
fn exchange(mut to: impl std::io::Read + std::io::Write, request: &str) {
    // It may refuse before all of it is written.
    to.write_all(request.as_bytes()).ok();
    to.read_to_end(&mut Vec::new()).ok();
}

fn connect(to: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(to).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    tcp
}

/// Runs what was made up in one way, and looks at what came of it.
fn run(cases: u32, certificates: &[&str], upstream: &Upstream, ask: impl Fn(&[Line], bool)) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let came = std::cell::Cell::new(0);
    let checked = TestRunner::new(config).run(&(lines(), any::<bool>()), |(lines, body)| {
        ask(&lines, body);
        let seen = std::mem::take(&mut *upstream.seen.lock().unwrap());
        came.set(came.get() + seen.len());
        prop_assert!(seen.len() <= 1, "one request became {}: {:?}", seen.len(), seen);
        seen.iter().try_for_each(|seen| believable(seen, certificates))
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
    assert!(came.get() > usize::try_from(cases / 8).unwrap(), "{} of {cases} came through", came.get());
}

const CASES: u32 = 200;

#[test]
fn nobody_forges_in_plain_text() {
    let upstream = Upstream::start(|_| ok("well"));
    let mut config = front::config(Kind::Controller, &[upstream.address]);
    config.listeners[0].http2 = true;
    let front = Front::start(config);
    run(CASES, &[], &upstream, |lines, body| exchange(connect(front.address), &written(lines, body)));
    run(CASES, &[], &upstream, |lines, body| streams(Peer::connect(front.address), lines, body));
}

#[test]
fn nobody_forges_inside_tls() {
    let (files, upstream) = (Files::new(), Upstream::start(|_| ok("well")));
    for (client_auth, certificates) in [
        (ClientAuth::Off, &[][..]),
        (ClientAuth::Optional(files.trust(None)), &["ssl-client-verify: NONE"][..]),
    ] {
        let setting = ServerSetting { client_auth, http2: true, ..files.setting() };
        let mut config = files.front(setting, &[upstream.address]);
        config.listeners[0].http2 = true;
        let front = Front::start(config);
        let client = files.client(None);
        run(CASES / 2, certificates, &upstream, |lines, body| {
            exchange(client.connect(front.address).unwrap().tls, &written(lines, body));
        });
        let mut config = ClientConfig::clone(&client.config);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        run(CASES / 2, certificates, &upstream, |lines, body| {
            let mut tcp = connect(front.address);
            let name = ServerName::try_from("front.example").unwrap();
            let mut session = ClientConnection::new(config.clone(), name).unwrap();
            while session.is_handshaking() {
                session.complete_io(&mut tcp).unwrap();
            }
            streams(Peer::over(tcp, Some(session)).hello(&[]), lines, body);
        });
    }
}

/// One request of HTTP/2, with the fields in its head and, if it has a body, behind it.
fn streams(mut peer: Peer, lines: &[Line], body: bool) {
    let fields: Vec<(String, String)> = lines
        .iter()
        .map(|line| {
            let (name, value) = FIELDS[line.2 % FIELDS.len()];
            // Most of what is in upper case is refused for that alone.
            let lower = (line.0.to_lowercase(), line.1, line.2);
            let line = if line.0.len() % 2 == 0 { line } else { &lower };
            (filled(name, line), filled(value, line))
        })
        .collect();
    let head = request(if body { "POST" } else { "GET" }, "/api/v1/vm").into_iter().chain(fields.clone());
    let stream = peer.begin(&head.collect::<Vec<_>>(), !body);
    if body {
        peer.data(stream, b"{}", false);
        peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &hpack::block(&fields)));
    }
    peer.finish(stream);
    peer.tcp.shutdown(Shutdown::Both).ok();
}
