//! What the proxy itself answers: in the format of each client, with the reason, what to do next and the request.

use std::net::SocketAddr;

use serde_json::{Value, json};
use switchyard::config::proxy::Kind;

use crate::{
    front::{self, Front},
    raw::{Answer, with_body},
    upstream::{ABLE, Upstream, ok},
};

fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn nothing_up_is_held_and_then_said_in_the_clients_own_format() {
    let gone = nobody();
    let controllers = Front::controllers(&[gone]);
    let answer = controllers.get("/api/v1/vm");
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.json()["status"], "FAIL");
    assert!(
        answer.json()["message"].as_str().unwrap().contains("u0: down, cannot connect"),
        "{}",
        answer.text()
    );
    assert!(answer.head.get("retry-after").is_some());
    assert_eq!(answer.head.get("switchyard-answered-by"), Some("proxy"));
    let registries = Front::registries(&[gone]);
    let answer = registries.get("/v2/a/manifests/x");
    assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE");
    assert!(registries.lines(1)[0]["held_ms"].as_u64().unwrap() > 1000);
}

#[test]
fn hidden_paths_are_not_there() {
    let a = Upstream::start(|_| ok(""));
    let front = Front::controllers(&[a.address]);
    for path in ["/metrics", "/%6detrics", "//metrics", "/replication/v1/log"] {
        assert_eq!(front.get(path).status(), 404, "{path}");
    }
    assert_eq!(a.count(), 0);
}

/// What it says, what to do next, its code and the request, in whichever of the formats the path has.
fn parts(answer: &Answer, path: &str) -> [String; 4] {
    let body = answer.json();
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
    if path.starts_with("/v2/") {
        let error = &body["errors"][0];
        assert!(text(&error["code"]).chars().all(|c| c.is_ascii_uppercase() || c == '_'), "{body}");
        let detail = &error["detail"];
        return [&error["message"], &detail["next"], &detail["code"], &detail["request"]].map(text);
    }
    assert_eq!(body["status"], "FAIL", "{body}");
    let message = text(&body["message"]);
    let (said, rest) = message.rsplit_once(" (code ").unwrap_or_else(|| panic!("{body}"));
    let (why, next) = said.rsplit_once("; ").unwrap_or_else(|| panic!("{body}"));
    let (code, request) =
        rest.trim_end_matches(')').split_once(", request ").unwrap_or_else(|| panic!("{body}"));
    [why, next, code, request].map(str::to_owned)
}

#[test]
fn each_error_has_reason_next_step_code_and_request_in_the_format_of_its_path() {
    // Each service has a server that ends each connection unanswered.
    let (c, r) = (Upstream::start(|_| String::new()), Upstream::start(|_| String::new()));
    let fronts = [(Kind::Controller, c.address), (Kind::Registry, r.address)]
        .map(|(kind, address)| Front::start(front::config(kind, &[address])));
    let [controllers, registries] = &fronts;
    let large = "x".repeat(2 << 20);
    let id = |n: usize| format!("X-Request-Id: of-{n}\r\n");
    let cases = [
        (controllers, "GET", "/metrics", "", 404, "no-route"),
        (controllers, "GET", "/api/v1/vm", "", 502, "no-answer"),
        (controllers, "PUT", "/api/v1/vm", "{}", 502, "outcome-unknown"),
        (controllers, "GET", "/queue/v1/cmd/task", large.as_str(), 413, "body-too-large"),
        (registries, "GET", "/replication/v1/log", "", 404, "no-route"),
        (registries, "GET", "/v2/a/manifests/x", "", 502, "no-answer"),
        (registries, "PUT", "/v2/a/manifests/x", "{}", 502, "outcome-unknown"),
        (registries, "GET", "/v2/a/tags/list", large.as_str(), 413, "body-too-large"),
        (registries, "GET", "/registry/vm", "", 502, "no-answer"),
        (registries, "DELETE", "/registry/revert?id=t", "", 502, "outcome-unknown"),
        (registries, "GET", "/registry/vm", large.as_str(), 413, "body-too-large"),
    ];
    for (n, (front, method, path, body, status, code)) in cases.into_iter().enumerate() {
        let answer = front.ask(&with_body(method, path, &id(n), body));
        assert_eq!(answer.status(), status, "{method} {path}: {}", answer.text());
        let [why, next, said, request] = parts(&answer, path);
        assert_eq!((said.as_str(), request), (code, format!("of-{n}")), "{method} {path}: {}", answer.text());
        assert!(why.len() > 10 && next.len() > 10, "{method} {path}: {}", answer.text());
        if status == 502 {
            assert!(why.contains("`u0` of `pool`") && why.contains("it closed the connection"), "{why}");
        }
        // The log has the same words.
        let mine = |line: &Value| line["request"] == format!("of-{n}");
        let read = || std::fs::read_to_string(&front.log).unwrap_or_default();
        let line = || read().lines().filter_map(|line| serde_json::from_str(line).ok()).find(mine);
        front::eventually("its line is written", || line().is_some());
        let line = line().unwrap();
        assert_eq!(
            (line["reason"].as_str(), line["status"].as_u64()),
            (Some(code), Some(status.into())),
            "{line}"
        );
    }
}

#[test]
fn maintenance_turns_everybody_away_and_probes_go_on() {
    let (c, r) = (Upstream::start(|_| ok("c")), Upstream::start(|_| ok("r")));
    let fronts = [(Kind::Controller, &c), (Kind::Registry, &r)];
    for (kind, upstream) in fronts {
        let front = Front::start(front::config(kind, &[upstream.address]));
        let metric = |value: u8| format!("switchyard_proxy_maintenance{{service=\"pool\"}} {value}");
        assert!(!front.view().services[0].maintenance && front.metrics().contains(&metric(0)));
        let mut closed = front.config.clone();
        closed.services[0].maintenance = true;
        front.reload(&closed).unwrap();
        assert!(front.view().services[0].maintenance && front.metrics().contains(&metric(1)));
        let refused = || {
            for path in ["/api/v1/vm", "/v2/a/manifests/x", "/registry/vm", "/queue/v1/cmd/task"] {
                for request in [with_body("GET", path, "", ""), with_body("POST", path, "", "{}")] {
                    let answer = front.ask(&request);
                    assert_eq!(
                        (answer.status(), answer.head.get("retry-after")),
                        (503, Some("30")),
                        "{path}"
                    );
                    // A path of registries is an ordinary one on a controllers' front.
                    let [why, next, code, _] =
                        parts(&answer, if kind == Kind::Registry { path } else { "/" });
                    assert_eq!((why.as_str(), code.as_str()), ("`pool` is in maintenance", "maintenance"));
                    assert_eq!(next, "wait until the operator ends it");
                }
            }
        };
        refused();
        // What probes find meanwhile is known when it ends.
        upstream.says(503, "gone");
        front.wait_until("it is down", |view| view.services[0].upstreams[0].health == "down");
        closed.services[0].attempts = 2;
        front.reload(&closed).unwrap();
        assert!(front.view().services[0].maintenance, "another reload leaves it");
        refused();
        upstream.says(200, ABLE);
        front.wait_until("it is up", |view| view.services[0].upstreams[0].health == "up");
        assert_eq!(upstream.count(), 0, "nothing of it reached the server");
        assert!(
            front
                .lines(16)
                .iter()
                .all(|line| line["reason"] == "maintenance" && line["attempts"] == json!([]))
        );
        front.reload(&front.config).unwrap();
        assert_eq!(front.get("/api/v1/vm").status(), 200);
        assert!(!front.view().services[0].maintenance && front.metrics().contains(&metric(0)));
    }
}
