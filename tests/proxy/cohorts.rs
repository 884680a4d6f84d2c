//! Agents are served from one controller version at a time, over real sockets.

use std::{net::SocketAddr, time::Duration};

use switchyard::config::proxy::{Cohorts, Kind, Proxy};

use crate::{
    front::{self, Front, eventually},
    raw::{self, with_body},
    upstream::{Upstream, ok},
};

const OLD: &str = "1.50.3-0a1b2c3d";
const NEW: &str = "1.51.2-5e6f7a8b";

/// The body of a controller's `/readyz` that says which version it is.
fn ready(version: &str) -> String {
    format!(r#"{{"ready":true,"read":true,"write":true,"poll":true,"why":[],"version":"{version}"}}"#)
}

/// Answers everything with its version, after a moment.
fn server(at: SocketAddr, version: &'static str) -> Upstream {
    let server = Upstream::at(at, move |_| ok(version));
    server.says(200, &ready(version));
    server
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn config(servers: &[&Upstream]) -> Proxy {
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let mut config = front::config(Kind::Controller, &addresses);
    config.services[0].cohorts = Some(Cohorts {
        settle: Duration::from_millis(1500),
        fallback: Duration::from_millis(1000),
        ..Cohorts::default()
    });
    config
}

/// The version that agents are served from, as the proxy shows it.
fn served(front: &Front) -> Option<String> {
    front.view().services[0].cohort.clone().unwrap().version
}

fn wait_until_served(front: &Front, version: &str) {
    eventually(version, || served(front).as_deref() == Some(version));
}

fn poll(front: &Front) -> String {
    front.get("/queue/v1/cmd/task").text()
}

fn order(front: &Front, body: &str) -> raw::Answer {
    raw::ask(front.admin, &with_body("POST", "/admin/v1/services/pool/cohort", "Connection: close\r\n", body))
}

#[test]
fn agents_see_one_change_of_version_in_a_rolling_upgrade() {
    let mut servers = [server(any(), OLD), server(any(), OLD), server(any(), OLD)];
    let front = Front::start(config(&servers.each_ref()));
    wait_until_served(&front, OLD);
    let mut seen: Vec<String> = Vec::new();
    let mut look = || {
        for path in ["/queue/v1/cmd/task", "/switchyard/v1/tasks", "/pkg/AnkaAgent.pkg", "/api/v1/status"] {
            let shown = front.get(path).text();
            assert!([OLD, NEW].contains(&shown.as_str()), "{path}: {shown}");
            if seen.last() != Some(&shown) {
                seen.push(shown);
            }
        }
    };
    for slot in &mut servers {
        let address = slot.address;
        // The port is free once the one before is gone.
        drop(std::mem::replace(slot, server(any(), OLD)));
        front.wait_until("it is seen to be gone", |view| {
            view.services[0].upstreams.iter().any(|u| u.address == address.to_string() && u.health == "down")
        });
        *slot = server(address, NEW);
        // What clients ask goes to whoever is there, all the while.
        let begun = switchyard::clock::now();
        while begun.elapsed() < Duration::from_millis(900) {
            look();
            assert_eq!(front.get("/api/v1/vm").status(), 200);
        }
    }
    wait_until_served(&front, NEW);
    look();
    assert_eq!(seen, [OLD, NEW]);
    let metrics = front.metrics();
    assert!(
        metrics.contains(&format!(r#"switchyard_proxy_cohort_served{{service="pool",version="{NEW}"}} 1"#))
    );
    assert!(
        metrics.contains(r#"switchyard_proxy_cohort_changes_total{service="pool",why="settled"} 1"#),
        "{metrics}"
    );
}

#[test]
fn one_command_brings_agents_back_and_keeps_them_there() {
    let servers = [server(any(), OLD), server(any(), NEW)];
    let front = Front::start(config(&servers.each_ref()));
    wait_until_served(&front, NEW);
    assert!((0..10).all(|_| poll(&front) == NEW));

    let answer = order(&front, &format!(r#"{{"version":"{OLD}"}}"#));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.json()["version"], OLD);
    assert!((0..10).all(|_| poll(&front) == OLD), "at once");
    // It stays, past the time after which the rule would move; and over a reload.
    let mut config = front.config.clone();
    config.services[0].attempts = 2;
    front.reload(&config).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((served(&front).as_deref(), poll(&front).as_str()), (Some(OLD), OLD));
    assert_eq!(front.view().services[0].cohort.clone().unwrap().ordered.as_deref(), Some(OLD));

    assert_eq!(order(&front, "{}").status(), 200);
    wait_until_served(&front, NEW);
}

#[test]
fn an_order_that_means_nothing_is_refused_in_words() {
    let servers = [server(any(), OLD)];
    let front = Front::start(config(&servers.each_ref()));
    wait_until_served(&front, OLD);
    let refused = |body: &str, status, word: &str| {
        let answer = order(&front, body);
        assert_eq!(answer.status(), status, "{body}");
        assert!(answer.text().contains(word), "{body}: {}", answer.text());
    };
    refused(r#"{"version":"9.9"}"#, 409, OLD);
    refused(r#"{"version":"a b"}"#, 400, "no version");
    refused(r#"{"versoin":"9.9"}"#, 400, "versoin");
    refused("", 400, "or `{}`");
    let nobody = raw::ask(
        front.admin,
        &with_body("POST", "/admin/v1/services/x/cohort", "Connection: close\r\n", "{}"),
    );
    assert_eq!(nobody.status(), 404);
    assert_eq!(served(&front).as_deref(), Some(OLD));
}

#[test]
fn with_nobody_of_it_agents_wait_and_then_go_to_whoever_there_is() {
    let (old, new) = (server(any(), OLD), server(any(), NEW));
    let mut config = config(&[&old, &new]);
    if let Some(cohorts) = &mut config.services[0].cohorts {
        // Both of them, so that it cannot move by itself.
        cohorts.quorum = 1.0;
        cohorts.fallback = Duration::from_secs(2);
    }
    let front = Front::start(config);
    wait_until_served(&front, NEW);
    drop(new);
    let begun = switchyard::clock::now();
    // Held, and let go when the choice is made.
    assert_eq!(poll(&front), OLD);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(front.view().services[0].cohort.clone().unwrap().why, "fallback");
    let line = front.lines(1).pop().unwrap();
    assert!(line["held_ms"].as_u64().unwrap() > 1000, "{line}");
}

#[test]
fn servers_that_say_no_version_are_all_asked() {
    let servers = [Upstream::start(|_| ok("a")), Upstream::start(|_| ok("b"))];
    let front = Front::start(config(&servers.each_ref()));
    eventually("all are asked", || {
        let seen: Vec<_> = (0..8).map(|_| poll(&front)).collect();
        seen.contains(&"a".to_owned()) && seen.contains(&"b".to_owned())
    });
    assert_eq!(served(&front), None);
}
