//! `conf/vendor.toml` as it stands, with nothing but its addresses replaced: two proxies of it in front of controllers and
//! registries of the vendor's.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use switchyard::clock;

use crate::{
    controllers::{Controller, Manner, Shared},
    raw::{Answer, Wire, with_body},
    rig::until,
    support::{place::Place, process::Process},
    vendor_standin::Registry,
};

const OLD: &str = "\npath = \"/readyz\"\n";
/// What docs/in-front-of-anka.md says for controllers without `/readyz`.
const OLDER: &str = "\npath = \"/api/v1/status\"\njson = { \"/body/status\" = \"Running\" }\n";

/// One proxy.
struct Proxy {
    controllers: SocketAddr,
    registries: SocketAddr,
    admin: SocketAddr,
    process: Process,
}

/// Two of them, and what stands behind.
struct Vendor {
    shared: Arc<Shared>,
    controllers: Vec<Controller>,
    registries: [Registry; 2],
    proxies: Vec<Proxy>,
    _place: Place,
}

impl Vendor {
    fn start(name: &str, manner: &Manner, change: impl Fn(&str) -> String) -> Self {
        let place = Place::new(name);
        let shared = Arc::<Shared>::default();
        // Addresses of the scenario alone: one that is killed can have its own again.
        let mut taken: Vec<SocketAddr> = Vec::new();
        let mut free = || {
            let found = until("a free port", || Some(place.address()).filter(|at| !taken.contains(at)));
            taken.push(found);
            found
        };
        let controllers: Vec<_> = (0..2).map(|_| Controller::at(free(), &shared, manner.clone())).collect();
        let registries = [Registry::start(), Registry::start()];
        let written = std::fs::read_to_string("conf/vendor.toml").unwrap();
        let proxies = ["a", "b"].map(|name| {
            let (front, registry_front, admin) = (free(), free(), free());
            let mut text = change(&written);
            for (from, to) in [
                ("0.0.0.0:8090", front),
                ("0.0.0.0:8089", registry_front),
                ("10.0.1.4:80\"", controllers[0].address()),
                ("10.0.1.5:80\"", controllers[1].address()),
                ("10.0.1.4:8089", registries[0].address()),
                ("10.0.1.5:8089", registries[1].address()),
            ] {
                let from = format!("\"{}\"", from.trim_matches('"'));
                assert_eq!(text.matches(&from).count(), 1, "{from} in conf/vendor.toml");
                text = text.replace(&from, &format!("\"{to}\""));
            }
            let run_dir = place.dir().join(format!("run-{name}"));
            text += &format!(
                "\n[proxy]\nthreads = 2\nrun_dir = \"{}\"\n[admin]\nlisten = \"{admin}\"\n",
                run_dir.display()
            );
            let file = place.write(&format!("{name}.toml"), &text);
            let process = Process::start(&place, name, &["proxy", "-c", file.to_str().unwrap()]);
            Proxy { controllers: front, registries: registry_front, admin, process }
        });
        let vendor = Self { shared, controllers, registries, proxies: proxies.into(), _place: place };
        for proxy in &vendor.proxies {
            proxy.until("everything was probed", |upstreams| {
                upstreams.len() == 4 && upstreams.iter().all(|u| u["health"] != "unknown")
            });
        }
        vendor
    }

    fn kill(&mut self, place: usize) -> SocketAddr {
        let address = self.controllers[place].address();
        drop(self.controllers.remove(place));
        address
    }
}

impl Proxy {
    fn until(&self, what: &str, holds: impl Fn(&[Value]) -> bool) {
        until(what, || {
            let tcp = std::net::TcpStream::connect(self.admin).ok()?;
            let asked =
                Wire::new(tcp).ask("GET /admin/v1/upstreams HTTP/1.1\r\nHost: a\r\n\r\n").ok()?.json();
            let services = asked["services"].as_array()?.iter();
            let all: Vec<Value> =
                services.flat_map(|s| s["upstreams"].as_array()).flatten().cloned().collect();
            holds(&all).then_some(())
        });
    }

    fn until_is(&self, name: &str, health: &str) {
        let is = |u: &Value| u["name"] == name && u["health"] == health;
        self.until(&format!("{name} is {health}"), |all| all.iter().any(is));
    }
}

/// A connection from this address of loopback.
fn from(client: [u8; 4], to: SocketAddr) -> Wire {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tcp = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((client, 0).into()).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    tcp.set_nonblocking(false).unwrap();
    Wire::new(tcp)
}

fn get(client: [u8; 4], to: SocketAddr, path: &str, more: &str) -> Answer {
    from(client, to).ask(&format!("GET {path} HTTP/1.1\r\nHost: front\r\n{more}\r\n")).unwrap()
}

fn post(client: [u8; 4], to: SocketAddr, path: &str, body: &Value) -> Answer {
    from(client, to).ask(&with_body("POST", path, "", &body.to_string())).unwrap()
}

/// Both steps, each through a proxy of its own; the header of the session.
fn shake_hands(client: [u8; 4], hand: SocketAddr, shake: SocketAddr) -> Result<String, String> {
    let given = post(client, hand, "/tap/v1/hand", &json!({ "id": "ci-bot" }));
    assert_eq!(given.status(), 200, "{}", given.text());
    let answer = post(client, shake, "/tap/v1/shake", &json!({ "id": "ci-bot", "secret": given.text() }));
    if answer.status() != 200 {
        return Err(answer.text());
    }
    let session = answer.json()["data"]["sessionId"].as_str().unwrap().to_owned();
    Ok(format!("Authorization: Bearer {session}\r\n"))
}

const ME: [u8; 4] = [127, 0, 0, 1];

#[test]
fn both_steps_of_a_handshake_and_its_session_reach_one_controller_through_either_proxy() {
    let manner = Manner { alone: true, token: Some("cm9vdDp0"), ..Manner::default() };
    let mut vendor = Vendor::start("vendor-hands", &manner, str::to_owned);
    let clients: Vec<[u8; 4]> = (1..=12).map(|n| [127, 0, 7, n]).collect();
    let rounds = |vendor: &Vendor| {
        let [a, b] = [&vendor.proxies[0], &vendor.proxies[1]].map(|proxy| proxy.controllers);
        for client in &clients {
            for (hand, shake, session) in [(a, a, a), (b, b, b), (a, b, a), (b, a, a), (a, b, b)] {
                let bearer = shake_hands(*client, hand, shake).unwrap();
                let list = get(*client, session, "/api/v1/vm", &bearer);
                assert_eq!(list.status(), 200, "{client:?}: {}", list.text());
            }
        }
    };
    rounds(&vendor);
    let hands = vendor.controllers.iter().map(|one| one.asked("POST", "/tap/v1/hand"));
    assert!(hands.clone().all(|hands| hands > 0), "each has its clients: {:?}", hands.collect::<Vec<_>>());

    // One dies: the other has all of them. It comes back: each client keeps to one controller, whichever proxy it asks.
    let address = vendor.kill(1);
    for proxy in &vendor.proxies {
        proxy.until_is("c2", "down");
    }
    rounds(&vendor);
    vendor.controllers.push(Controller::at(address, &vendor.shared, manner));
    for proxy in &vendor.proxies {
        proxy.until_is("c2", "up");
    }
    rounds(&vendor);
}

#[test]
fn controllers_without_readiness_are_probed_by_their_status_even_where_it_demands_credentials() {
    let manner = Manner { unready: true, token: Some("cm9vdDp0"), ..Manner::default() };
    let vendor = Vendor::start("vendor-older", &manner, |text| {
        assert_eq!(text.matches(OLD).count(), 1);
        text.replace(OLD, OLDER)
    });
    for proxy in &vendor.proxies {
        proxy.until_is("c1", "up");
        proxy.until_is("c2", "up");
        assert_eq!(get(ME, proxy.controllers, "/api/v1/vm", "").status(), 401, "as the controller said");
        let list = get(ME, proxy.controllers, "/api/v1/vm", "Authorization: Basic cm9vdDp0\r\n");
        assert_eq!(list.status(), 200, "{}", list.text());
    }
    // Without credentials the status says more, and is believed.
    vendor.controllers[0].set(|manner| manner.token = None);
    vendor.controllers[1].set(|manner| (manner.token, manner.running) = (None, false));
    for proxy in &vendor.proxies {
        proxy.until_is("c2", "down");
        assert_eq!(get(ME, proxy.controllers, "/api/v1/vm", "").status(), 200);
    }
}

#[test]
fn controllers_without_readiness_that_are_asked_for_it_are_tried_all_the_same() {
    let vendor = Vendor::start("vendor-blind", &Manner { unready: true, ..Manner::default() }, str::to_owned);
    for proxy in &vendor.proxies {
        proxy.until("the evidence names the status", |all| {
            let c1 = all.iter().find(|u| u["name"] == "c1");
            c1.is_some_and(|c1| c1["health"] == "down" && c1.to_string().contains("404"))
        });
        let list = get(ME, proxy.controllers, "/api/v1/vm", "");
        assert_eq!(list.status(), 200, "{}", list.text());
    }
}

#[test]
fn a_controller_that_closes_without_a_reply_costs_reads_nothing_and_starts_twice_nothing() {
    let vendor = Vendor::start("vendor-mute", &Manner::default(), str::to_owned);
    let (front, shared) = (vendor.proxies[0].controllers, &vendor.shared);
    // Whichever of them this client belongs to.
    vendor.controllers.iter().for_each(|one| one.set(|manner| manner.mute = true));
    let refused = post(ME, front, "/api/v1/vm", &json!({ "vmid": "t" }));
    assert_eq!(refused.status(), 502, "{}", refused.text());
    let body = refused.json();
    assert_eq!(body["status"], "FAIL");
    assert!(body["message"].as_str().unwrap().contains("unknown"), "{body}");
    let starts: usize = vendor.controllers.iter().map(|one| one.asked("POST", "/api/v1/vm")).sum();
    assert_eq!((starts, shared.state().instances.len()), (1, 1), "sent once, and run");
    for one in &vendor.controllers {
        vendor.controllers.iter().for_each(|other| other.set(|manner| manner.mute = false));
        one.set(|manner| manner.mute = true);
        for n in 0..4 {
            let client = [127, 0, 8, n + 1];
            let list = get(client, front, "/api/v1/vm", "");
            assert_eq!(list.status(), 200, "{}", list.text());
            let package = get(client, front, "/pkg/AnkaAgentArm.pkg", "");
            assert_eq!(package.status(), 200, "{}", package.text());
        }
    }
}

#[test]
fn a_start_that_takes_long_is_waited_for_and_one_that_takes_too_long_ends_before_clients_repeat_it() {
    let slow = |seconds| Manner { start_takes: Duration::from_secs(seconds), ..Manner::default() };
    let vendor = Vendor::start("vendor-slow", &slow(6), str::to_owned);
    let start = |proxy: usize| {
        let begun = clock::now();
        let answer = post(ME, vendor.proxies[proxy].controllers, "/api/v1/vm", &json!({ "vmid": "t" }));
        (answer, begun.elapsed())
    };
    let (answer, took) = start(0);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(took >= Duration::from_secs(6), "{took:?}");
    vendor.controllers.iter().for_each(|one| one.set(|manner| *manner = slow(12)));
    let (answer, took) = start(1);
    // gitlab's executor gives up at 10 s, jenkins at 30 s and starts another one.
    assert!(answer.status() >= 500 && took < Duration::from_secs(10), "{took:?}: {}", answer.text());
    assert_eq!(answer.json()["status"], "FAIL");
    let starts: usize = vendor.controllers.iter().map(|one| one.asked("POST", "/api/v1/vm")).sum();
    until("the second is run", || (vendor.shared.state().instances.len() == 2).then_some(()));
    assert!(starts <= 2, "each was sent once");
}

/// What agents have seen.
#[derive(Default)]
struct Agents {
    over: AtomicBool,
    wrong: Mutex<Vec<String>>,
    polls: Mutex<[usize; 2]>,
}

#[test]
fn a_controller_that_restarts_under_agents_polls_loses_no_task_and_drops_no_poll() {
    let mut vendor = Vendor::start("vendor-polls", &Manner::default(), str::to_owned);
    let seen = Arc::<Agents>::default();
    let fronts: Vec<_> = vendor.proxies.iter().map(|proxy| proxy.controllers).collect();
    let agents: Vec<_> = (1..=16u8)
        .map(|n| {
            let (seen, front) = (seen.clone(), fronts[usize::from(n) % 2]);
            thread::spawn(move || {
                let mut wire = from([127, 0, 9, n], front);
                while !seen.over.load(Ordering::SeqCst) {
                    // As the vendor's agent does: a poll, then what it has to say.
                    for request in [
                        "GET /queue/v1/cmd/task HTTP/1.1\r\nHost: front\r\n\r\n".to_owned(),
                        with_body("POST", "/queue/v1/controller/task", "", "{}"),
                    ] {
                        let poll = request.starts_with("GET");
                        match wire.ask(&request) {
                            Ok(answer) if answer.status() == 200 => {
                                seen.polls.lock().unwrap()[0] += usize::from(poll)
                            }
                            Ok(answer) if [502, 503].contains(&answer.status()) => {
                                seen.polls.lock().unwrap()[1] += usize::from(poll);
                                // In the client's own format.
                                if answer.json()["status"] != "FAIL" {
                                    seen.wrong.lock().unwrap().push(answer.text());
                                }
                                if answer.head.get("connection").is_some_and(|value| value == "close") {
                                    wire = from([127, 0, 9, n], front);
                                }
                            }
                            other => {
                                seen.wrong.lock().unwrap().push(format!("{other:?}"));
                                wire = from([127, 0, 9, n], front);
                            }
                        }
                    }
                }
            })
        })
        .collect();
    let polls = || *seen.polls.lock().unwrap();
    let start = |n: usize| post(ME, fronts[n % 2], "/api/v1/vm", &json!({ "vmid": "t" }));
    for round in 0..2 {
        let before = polls()[0];
        until("agents poll", || (polls()[0] >= before + 20).then_some(()));
        // Polls are parked there now.
        let address = vendor.kill(0);
        for n in 0..10 {
            let answer = start(n);
            assert!([200, 502].contains(&answer.status()), "{}", answer.text());
        }
        let before = polls()[0];
        until("agents poll elsewhere", || (polls()[0] >= before + 20).then_some(()));
        let back = Controller::at(address, &vendor.shared, Manner::default());
        vendor.controllers.push(back);
        for proxy in &vendor.proxies {
            proxy.until("all are up, and nobody is out for the restart", |all| {
                all.iter().all(|u| u["health"] == "up" && u["ejected"].is_null())
            });
        }
        for n in 0..10 {
            let answer = start(n);
            assert_eq!(answer.status(), 200, "round {round}: {}", answer.text());
        }
    }
    // What was given to a poll that died with its controller is the store's to give back; no other start waits.
    until("all starts were given to a node", || {
        vendor.shared.state().instances.values().all(|given| *given > 0).then_some(())
    });
    seen.over.store(true, Ordering::SeqCst);
    agents.into_iter().for_each(|agent| agent.join().unwrap());
    assert_eq!(*seen.wrong.lock().unwrap(), Vec::<String>::new(), "no poll without an answer of HTTP");
    assert!(vendor.shared.state().instances.values().all(|given| *given == 1), "each to one node");
    // No more than were parked at the kills.
    assert!(polls()[1] <= 2 * 16 + 2, "{:?}", polls());
    for proxy in &mut vendor.proxies {
        assert!(proxy.process.has_ended().is_none(), "{}", proxy.process.log());
    }
}

#[test]
fn the_registries_of_the_same_file_take_a_push_that_both_proxies_read_at_once() {
    let id = "c0ffee11-2233-4455-8677-8899aabbccdd";
    let vendor = Vendor::start("vendor-push", &Manner::default(), str::to_owned);
    let [a, b] = [&vendor.proxies[0], &vendor.proxies[1]].map(|proxy| proxy.registries);
    vendor.registries[0].has(id, "base");
    vendor.registries[1].copies(&vendor.registries[0]);
    for (method, path) in [
        ("POST", format!("/registry/push?id={id}&tag=next")),
        ("PUT", "/files/images_dir/00112233445566778899aabbccddeeff.ank".into()),
        ("POST", format!("/registry/commit?id={id}&tag=next")),
    ] {
        let answer = from(ME, a).ask(&with_body(method, &path, "", &"x".repeat(100_000))).unwrap();
        assert_eq!(answer.status(), 200, "{method} {path}: {}", answer.text());
    }
    for front in [a, b, a, b] {
        let info = get(ME, front, &format!("/registry/vm/info?id={id}&tag=next"), "");
        assert_eq!(info.status(), 200, "{}", info.text());
    }
    // Where logs are collected stands in the file.
    assert_eq!(post(ME, b, "/log", &json!({ "machine": "mini-07" })).status(), 200);
    assert_eq!(vendor.registries[1].get(|state| state.logs.len()), 1);
}
