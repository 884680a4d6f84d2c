//! Every refusal that the pages name, by causing it: its status, its label in the metrics, its reason in the log, and that
//! nothing of it reaches a server. A row without a case fails, and so does a case without a row.

use std::{
    collections::BTreeSet,
    fs,
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use serde_json::Value;

use crate::{
    certificates::Authority,
    raw::{Answer, Wire},
    rig::Rig,
};

/// What each page says is refused, with the status; `None` where the connection is closed unheard.
fn rows() -> Vec<(String, Option<u16>)> {
    let of = |page: &str, heading: &str, with_status: bool| {
        let (_, table) = page.split_once(heading).unwrap_or_else(|| panic!("no {heading}"));
        let (table, _) = table.split_once("\n## ").unwrap_or((table, ""));
        let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let rows = table.lines().filter(|line| line.starts_with("| `")).map(cells);
        let row = |cells: Vec<String>| {
            let status = with_status.then(|| cells[2].parse().expect("a status"));
            (cells[1].trim_matches('`').to_owned(), status)
        };
        rows.map(row).collect::<Vec<_>>()
    };
    let (http, limits) = (include_str!("../../docs/http.md"), include_str!("../../docs/limits.md"));
    [
        of(http, "## What is refused", true),
        of(http, "## Which connections are closed unheard", false),
        of(limits, "## What is refused", true),
    ]
    .concat()
}

/// The front in question, what is sent there, and whether the client then shuts its side.
struct Case {
    to: &'static str,
    bytes: Vec<u8>,
    end: bool,
}

fn at(to: &'static str, bytes: impl AsRef<[u8]>) -> Case {
    Case { to, bytes: bytes.as_ref().to_vec(), end: false }
}

fn case(reason: &str) -> Option<Case> {
    let plain = |bytes: &str| Some(at("controllers", bytes.replace('\n', "\r\n")));
    let get = "GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n";
    match reason {
        "head-too-long" => plain(&format!("GET /{} HTTP/1.1\nHost: a\n\n", "x".repeat(40_000))),
        "too-many-headers" => plain(&format!("GET / HTTP/1.1\nHost: a\n{}\n", "X: 1\n".repeat(200))),
        "head-too-slow" => plain("GET / HT"),
        "body-too-slow" => plain("PUT /api/v1/vm HTTP/1.1\nHost: a\nContent-Length: 9\n\nfive!"),
        "bad-body" => plain("PUT /api/v1/vm HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\nzz\n"),
        "body-too-large" => plain("PUT /api/v1/vm HTTP/1.1\nHost: a\nContent-Length: 70000\n\n"),
        "bad-request-line" => plain("GET  / HTTP/1.1\nHost: a\n\n"),
        "bad-version" => plain("GET / HTTP/3.0\nHost: a\n\n"),
        "connect" => plain("CONNECT a:1 HTTP/1.1\nHost: a:1\n\n"),
        "bare-line-end" => Some(at("controllers", "GET / HTTP/1.1\nHost: a\n\n")),
        "folded-header" => plain("GET / HTTP/1.1\nHost: a\nX: 1\n folded\n\n"),
        "forbidden-byte" => plain("GET / HTTP/1.1\nHost: a\nX: \u{1}\n\n"),
        "bad-header-name" => plain("GET / HTTP/1.1\nHost: a\nX : 1\n\n"),
        "no-host" => plain("GET / HTTP/1.1\n\n"),
        "bad-host" => plain("GET / HTTP/1.1\nHost: a\nHost: a\n\n"),
        "other-host" => plain("GET http://b/ HTTP/1.1\nHost: a\n\n"),
        "both-lengths" => {
            plain("PUT / HTTP/1.1\nHost: a\nContent-Length: 3\nTransfer-Encoding: chunked\n\n0\n\n")
        }
        "bad-length" => plain("PUT / HTTP/1.1\nHost: a\nContent-Length: +3\n\nabc"),
        "bad-coding" => plain("PUT / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip\n\n"),
        "ambiguous-path" => plain("GET /a/%2e%2e/b HTTP/1.1\nHost: a\n\n"),
        "plain-http" => Some(at("secure", format!("{get}\r\n"))),
        "no-proxy-header" => Some(at("balanced", format!("{get}\r\n"))),
        "bad-proxy-header" => Some(at("balanced", "PROXY TCP4 junk\r\n")),
        "proxy-header-too-slow" => Some(at("balanced", "PROXY TCP4 ")),
        "denied" => Some(at("denied", "")),
        "too-many-at-listener" => Some(at("narrow", "")),
        "too-many-of-client" => Some(at("few", "")),
        "rate" => Some(at("slow", format!("{get}\r\n"))),
        "denied-by-rule" => Some(at("ruled", "GET /api/v1/secret/x HTTP/1.1\r\nHost: a\r\n\r\n")),
        "too-many-connections" => Some(at("controllers", "")),
        _ => None,
    }
}

/// A proxy whose listeners refuse one thing each.
struct Fronts {
    rig: Rig,
    named: Vec<(&'static str, SocketAddr)>,
}

impl Fronts {
    fn start() -> Self {
        let mut rig = Rig::prepare("refusals");
        let ca = Authority::new("ca");
        let (cert, key) = ca.leaf(&["front.example"]).write(rig.place.dir(), "front");
        let tls = format!("tls = {{ cert = \"{}\", key = \"{}\" }}", cert.display(), key.display());
        let deny = "limits = { deny = [\"127.0.0.0/8\"] }";
        let settings = [
            ("secure", tls.clone()),
            ("balanced", "proxy_protocol = [\"127.0.0.1\"]".into()),
            ("denied", deny.into()),
            ("denied-tls", format!("{tls}\n{deny}")),
            ("narrow", "limits = { connections = 1 }".into()),
            ("few", "limits = { per_client = 1 }".into()),
            ("slow", "limits = { rate = { requests = \"1/h\" } }".into()),
            (
                "ruled",
                "rules = [{ path = \"/api/v1/secret\", deny = 403 }, { service = \"controllers\" }]".into(),
            ),
        ];
        let mut named = vec![("controllers", rig.controllers)];
        for (name, setting) in settings {
            let taken: Vec<SocketAddr> = named.iter().map(|(_, address)| *address).collect();
            let address = rig.free(&taken);
            named.push((name, address));
            let service = if setting.starts_with("rules") { "" } else { "service = \"controllers\"\n" };
            rig.more +=
                &format!("[[listener]]\nname = \"{name}\"\nbind = [\"{address}\"]\n{service}{setting}\n");
        }
        let fronts = Self { rig, named };
        fronts.limits(1000);
        fronts
    }

    /// Writes the config with so many connections.
    fn limits(&self, connections: usize) {
        let more = &self.rig.more;
        self.rig.write_with(&format!(
            "{more}[limits]\nconnections = {connections}\nheader_timeout = \"600ms\"\n\
             body = {{ controller-api = \"64KiB\" }}\n",
        ));
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.named.iter().find(|(of, _)| *of == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    fn refused(&self, listener: &str, reason: &str) -> u64 {
        let line = format!("switchyard_proxy_refused_total{{listener=\"{listener}\",reason=\"{reason}\"}} ");
        let text = self.rig.admin("GET", "/metrics").text();
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    /// Access lines with this reason.
    fn lines(&self, reason: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.rig.place.path("access.log")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["reason"] == reason).collect()
    }

    /// Sends, and takes the answer; `None`: closed without one.
    fn provoke(&self, case: &Case) -> Option<Answer> {
        let mut wire = Wire::connect(self.address(case.to)).patience(Duration::from_secs(20));
        // It may be refused before it was sent whole.
        wire.send(&case.bytes).ok();
        if case.end {
            wire.tcp.shutdown(Shutdown::Write).ok();
        }
        let answer = wire.answer(false).ok();
        if answer.as_ref().is_none_or(|answer| answer.head.get("connection") == Some("close")) {
            assert!(wire.closed(), "it was not closed");
        }
        answer
    }

    fn check(&self, reason: &str, status: Option<u16>) {
        let case = case(reason).unwrap_or_else(|| panic!("`{reason}` stands on a page and has no case here"));
        let (counted, logged) = (self.refused(case.to, reason), self.lines(reason).len());
        let answer = self.provoke(&case);
        assert_eq!(answer.as_ref().map(Answer::status), status, "{reason}: {answer:?}");
        self.rig.until(reason, || (self.refused(case.to, reason) == counted + 1).then_some(()));
        let Some(answer) = answer else {
            let said = format!("\"reason\":\"{reason}\"");
            self.rig.until("it is in the log", || self.rig.log().contains(&said).then_some(()));
            return;
        };
        let body = answer.json();
        assert_eq!(body["status"], "FAIL", "{reason}");
        assert!(body["message"].as_str().is_some_and(|m| m.contains(&format!("(code {reason}, "))), "{body}");
        assert_eq!(
            answer.head.get("retry-after").is_some(),
            matches!(answer.status(), 429 | 503),
            "{reason}"
        );
        let line = self.rig.until("its line", || self.lines(reason).into_iter().nth(logged));
        assert_eq!(
            (line["status"].as_u64(), line["answered_by"].as_str()),
            (status.map(u64::from), Some("proxy"))
        );
        assert_eq!((line["client"].as_str(), line["listener"].as_str()), (Some("127.0.0.1"), Some(case.to)));
    }
}

#[test]
fn every_refusal_has_its_status_its_label_and_its_reason() {
    let mut fronts = Fronts::start();
    fronts.rig.first.spawn();
    fronts.rig.up();
    let get = "GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n";
    let hold = |name: &str| {
        let mut wire = Wire::connect(fronts.address(name));
        assert_eq!(wire.ask(get).unwrap().status(), 200, "{name}");
        wire
    };
    // Each has what it may have.
    let held: Vec<Wire> = ["narrow", "few", "slow"].map(hold).into();
    let asked = fronts.rig.upstream_saw();
    let mut done = BTreeSet::new();
    for (reason, status) in rows().iter().filter(|(reason, _)| reason != "too-many-connections") {
        fronts.check(reason, *status);
        assert!(done.insert(reason.clone()), "{reason} stands there twice");
    }
    assert_eq!(fronts.rig.upstream_saw(), asked, "nothing of it reached the upstream");

    // Whose connection is kept, and whose place is free again.
    let [mut narrow, few, mut slow]: [Wire; 3] = held.try_into().ok().unwrap();
    let answer = slow.ask(get).unwrap();
    assert_eq!((answer.status(), answer.head.get("connection")), (429, None));
    let wait: u64 = answer.head.get("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    assert_eq!(slow.ask(get).unwrap().status(), 429, "on the same connection");
    assert_eq!(narrow.ask(get).unwrap().status(), 200);
    drop((narrow, few));
    for name in ["narrow", "few"] {
        fronts.rig.until("there is room again", || {
            (Wire::connect(fronts.address(name)).ask(get).ok()?.status() == 200).then_some(())
        });
    }

    // Inside TLS nobody is told.
    let before = fronts.refused("denied-tls", "denied");
    assert!(fronts.provoke(&at("denied-tls", "")).is_none());
    fronts.rig.until("counted", || (fronts.refused("denied-tls", "denied") == before + 1).then_some(()));
    fronts.rig.until("logged", || fronts.rig.log().contains("\"reason\":\"denied\"").then_some(()));

    // A bound for all, which comes with a reload and holds at once: one connection is open.
    fronts.limits(1);
    assert_eq!(fronts.rig.admin("POST", "/admin/v1/reload").status(), 200);
    let (reason, status) = rows().into_iter().find(|(reason, _)| reason == "too-many-connections").unwrap();
    fronts.check(&reason, status);
    fronts.limits(1000);
    assert_eq!(fronts.rig.admin("POST", "/admin/v1/reload").status(), 200);
    assert_eq!(Wire::connect(fronts.rig.controllers).ask(get).unwrap().status(), 200);
    drop(slow);
}
