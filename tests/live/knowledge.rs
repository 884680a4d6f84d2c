//! What a successor goes on with of what its predecessor has learnt: whom it had ejected, from which version agents are
//! served, whom it had found, and where clients belong.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType};
use switchyard::wire::upstreams::{Ejected, Service, Upstreams};

use crate::{
    raw::{Answer, Wire, with_body},
    rig::Rig,
    support::dns::{Dns, Say},
    upstream::{Upstream, ok},
};

const GET: &str = "GET /api/v1/vm HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A rig with one more service, `cloud`, which has these keys, and where it listens.
fn rig(name: &str, keys: &str) -> (Rig, SocketAddr) {
    let mut rig = Rig::prepare(name);
    let address = rig.free(&[]);
    rig.more = format!(
        "[[listener]]\nname = \"cloud\"\nbind = [\"{address}\"]\nservice = \"cloud\"\n\
         [service.cloud]\nkind = \"controller\"\n{keys}\n"
    );
    rig.write();
    rig.first.spawn();
    rig.up();
    (rig, address)
}

fn pair(a: SocketAddr, b: SocketAddr) -> String {
    format!("upstreams = [{{ name = \"a\", address = \"{a}\" }}, {{ name = \"b\", address = \"{b}\" }}]")
}

fn cloud(rig: &Rig) -> Service {
    let answer = rig.admin("GET", "/admin/v1/upstreams");
    let view: Upstreams = serde_json::from_slice(&answer.body).unwrap();
    view.services.into_iter().find(|service| service.name == "cloud").unwrap()
}

fn ask(mut wire: Wire, request: &str) -> Answer {
    wire.ask(request).unwrap()
}

fn all_up(rig: &Rig, count: usize) {
    rig.until("all are up", || {
        (cloud(rig).upstreams.iter().filter(|one| one.health == "up").count() == count).then_some(())
    });
}

#[test]
fn an_ejection_and_its_growing_time_go_on() {
    let bad = Upstream::start(|_| "HTTP/1.1 500 X\r\nContent-Length: 3\r\n\r\nbad".into());
    let good = Upstream::start(|_| ok("good"));
    let passive = "passive = { failures = 3, ejection = \"2s\" }";
    let (rig, to) = rig("ejections", &format!("{}\n{passive}", pair(bad.address, good.address)));
    all_up(&rig, 2);
    let ejected = |times: u32| {
        rig.until("the one that fails is out", || {
            ask(Wire::connect(to), GET);
            cloud(&rig).upstreams[0].ejected.clone().filter(|ejected| ejected.times >= times)
        })
    };
    let before = ejected(2);
    rig.upgraded(&[]);
    let Ejected { since, until, times, why } = cloud(&rig).upstreams[0].ejected.clone().unwrap();
    assert_eq!((times, &why), (before.times, &before.why));
    let near = |a: switchyard::model::Timestamp, b| a.since(b).max(b.since(a)) < Duration::from_millis(500);
    assert!(near(since, before.since) && near(until, before.until), "{before:?} {since} {until}");
    let (failed, served) = (bad.count(), good.count());
    for _ in 0..10 {
        assert_eq!(ask(Wire::connect(to), GET).text(), "good");
    }
    assert_eq!((bad.count(), good.count()), (failed, served + 10));
    // And where it left off: 2 s, 4 s, 8 s.
    let next = ejected(before.times + 1);
    assert!(next.until.since(next.since) > Duration::from_millis(7500), "{next:?}");
}

#[test]
fn agents_stay_with_the_version_that_an_operator_named() {
    const OLD: &str = "1.50.3-0a1b2c3d";
    const NEW: &str = "1.51.2-5e6f7a8b";
    let server = |version: &'static str| {
        let server = Upstream::start(move |_| ok(version));
        server.says(
            200,
            &format!(
                r#"{{"ready":true,"read":true,"write":true,"poll":true,"why":[],"version":"{version}"}}"#
            ),
        );
        server
    };
    let (old, new) = (server(OLD), server(NEW));
    let (rig, to) = rig("cohort", &format!("{}\ncohorts = true", pair(old.address, new.address)));
    all_up(&rig, 2);
    let body = format!(r#"{{"version":"{OLD}"}}"#);
    let order = with_body("POST", "/admin/v1/services/cloud/cohort", "Connection: close\r\n", &body);
    let answer = ask(Wire::connect(rig.admin), &order);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    for _ in 0..2 {
        rig.upgraded(&["--wait", "30s"]);
        let cohort = cloud(&rig).cohort.unwrap();
        assert_eq!((cohort.version.as_deref(), cohort.ordered.as_deref()), (Some(OLD), Some(OLD)));
        for _ in 0..10 {
            let poll = "GET /queue/v1/cmd/task HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            assert_eq!(ask(Wire::connect(to), poll).text(), OLD);
        }
    }
}

#[test]
fn what_an_operator_has_said_goes_on_over_upgrades_and_a_start() {
    let (a, b) = (Upstream::start(|_| ok("a")), Upstream::start(|_| ok("b")));
    let (mut rig, to) = rig("orders", &pair(a.address, b.address));
    all_up(&rig, 2);
    let say = |line: &str, body: &str| {
        let (method, path) = line.split_once(' ').unwrap();
        let order = with_body(method, &format!("/admin/v1/services/{path}"), "Connection: close\r\n", body);
        let answer = ask(Wire::connect(rig.admin), &order);
        assert_eq!(answer.status(), 200, "{}", answer.text());
    };
    say("POST cloud/upstreams/a/drain", r#"{"reason":"a new disk"}"#);
    say("POST controllers/maintenance", r#"{"on":true}"#);
    let holds = |rig: &Rig| {
        let one = cloud(rig).upstreams[0].clone();
        assert!(one.drained && one.orders[0].reason.as_deref() == Some("a new disk"), "{one:?}");
        for _ in 0..6 {
            assert_eq!(ask(Wire::connect(to), GET).text(), "b");
        }
        assert_eq!(ask(Wire::connect(rig.controllers), GET).status(), 503);
    };
    for _ in 0..2 {
        rig.upgraded(&["--wait", "30s"]);
        holds(&rig);
    }
    // Killed and started again, it knows it from `run_dir`.
    for pid in rig.processes() {
        rig.signal(pid, rustix::process::Signal::KILL);
    }
    rig.until("all are gone", || rig.processes().is_empty().then_some(()));
    rig.first.kill();
    rig.first.spawn();
    rig.up();
    all_up(&rig, 2);
    holds(&rig);
}

#[test]
fn what_was_found_is_served_from_while_nobody_can_be_asked() {
    let (dns, server) = (Dns::start(), Upstream::start(|_| ok("found")));
    dns.says("cloud.test", Say::Hosts(1, vec![Ipv4Addr::LOCALHOST]));
    let discovery = format!(
        "discovery = {{ dns = \"cloud.test:{}\", resolver = \"{}\" }}",
        server.address.port(),
        dns.address
    );
    let (rig, to) = rig("found", &discovery);
    all_up(&rig, 1);
    assert_eq!(ask(Wire::connect(to), GET).text(), "found");
    dns.says("cloud.test", Say::Silence);
    for _ in 0..2 {
        rig.upgraded(&["--wait", "30s"]);
        assert_eq!(ask(Wire::connect(to), GET).text(), "found");
        assert_eq!(cloud(&rig).upstreams.len(), 1);
    }
}

/// A connection of another client.
fn of_client(last: u8, to: SocketAddr) -> Wire {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0);
    rustix::net::bind(&socket, &SocketAddr::V4(from)).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    Wire::new(TcpStream::from(socket))
}

/// The balance would send half of them elsewhere, to a server that does not know what they have begun.
#[cfg(target_os = "linux")]
#[test]
fn a_handshake_goes_on_where_it_began() {
    let a = Upstream::start(|_| ok("a"));
    let place = Rig::prepare("nobody");
    let later = place.free(&[]);
    let (rig, to) = rig("handshakes", &pair(a.address, later));
    all_up(&rig, 1);
    let shake = |client: u8, step: &str| {
        let request = with_body("POST", step, "Connection: close\r\n", "{}");
        let answer = ask(of_client(client, to), &request);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.text()
    };
    let clients = 10..30;
    for client in clients.clone() {
        assert_eq!(shake(client, "/tap/v1/hand"), "a");
    }
    let _b = Upstream::at(later, |_| ok("b"));
    all_up(&rig, 2);
    rig.upgraded(&[]);
    for client in clients {
        assert_eq!(shake(client, "/tap/v1/shake"), "a", "client {client}");
    }
    let strangers: Vec<String> = (40..60).map(|client| shake(client, "/tap/v1/hand")).collect();
    assert!(strangers.contains(&"b".to_owned()), "so this proves something");
}
