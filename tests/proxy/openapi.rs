//! `docs/openapi.json` against the admin API over sockets. Besides what is here, whatever another test asks is held
//! against it (`raw::ask`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::{
    config::{
        bounds::{Bounds, By, Rate},
        proxy::{
            Balance, Cohorts, Discovery, Dns as Ask, Does, Kind, Listener, Network, Rule, Service, Source,
        },
    },
    model::ServiceName,
    tls::{ClientAuth, Server},
};

use crate::{
    dns::Dns,
    front::{self, Front, eventually},
    raw::{self, Wire, openapi, with_body},
    registry::{self, cloud, knows, started},
    secure::Files,
    upstream::{Then, Upstream, ok},
};

/// How the fields begin that no answer of the test below needs to have, and why.
const NOT_HERE: &[(&str, &str)] = &[
    ("Note.", "of questions"),
    ("SetWeight.", "of questions"),
    ("SetMaintenance.", "of questions"),
    ("CohortOrder.", "of questions"),
    ("Explain.", "of questions"),
    ("Process.old", "it takes processes: tests/live asks for it"),
    ("ReplacedProcess.", "it takes processes: tests/live asks for it"),
    ("Upgraded.", "it takes processes: tests/live asks for it"),
    ("RegistryState.", "stand-ins have nothing to fetch, and nobody follows them"),
    ("Aside.", "stand-ins have nothing to fetch, and nobody follows them"),
    ("Fetching.", "stand-ins have nothing to fetch, and nobody follows them"),
    ("Follower.", "stand-ins have nothing to fetch, and nobody follows them"),
    ("Peer.", "stand-ins have nothing to fetch, and nobody follows them"),
    ("RegistryService.warnings", "of registries that contradict their config"),
    ("Ready.", "of servers: a proxy does not say what it can read"),
    ("Cohort.agreed", "it takes etcd"),
    ("Cohort.alone", "it takes a version that is gone"),
    ("Course.tls_ms", "of upstreams inside TLS"),
    ("Nobody.catches_up_ms", "while a replica is waited for"),
    ("Nobody.last_resort", "while nobody passes probes"),
    ("Decision.stale", "while the writer is lost"),
    ("Pick.stale", "while the writer is lost"),
    ("Upstream.at_limit", "while one is full"),
];

fn get(front: &Front, path: &str) -> raw::Answer {
    raw::ask(front.admin, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
}

fn say(front: &Front, method: &str, path: &str, body: &str) -> raw::Answer {
    raw::ask(front.admin, &with_body(method, path, "Connection: close\r\n", body))
}

#[test]
fn the_router_knows_each_call_of_the_document_and_no_other_method() {
    let a = Upstream::start(|_| ok("a"));
    let front = Front::controllers(&[a.address]);
    for (mut methods, path) in openapi::calls() {
        let asked = path.replace(['{', '}'], "");
        let answer = raw::ask(front.admin, &with_body("PATCH", &asked, "Connection: close\r\n", ""));
        assert_eq!(answer.status(), 405, "PATCH {asked}: {}", answer.text());
        if methods.contains(&"GET".to_owned()) {
            methods.push("HEAD".into());
        }
        let mut allowed: Vec<&str> =
            answer.head.get("allow").unwrap_or_default().split(',').map(str::trim).collect();
        allowed.sort_unstable();
        methods.sort_unstable();
        assert_eq!(allowed, methods, "{path}");
    }
    let served = get(&front, "/admin/v1/openapi.json");
    assert_eq!(served.text(), include_str!("../../docs/openapi.json"));
}

/// Asks everything that only shows.
fn look(front: &Front) {
    let views =
        ["process", "listeners", "config?format=json", "upstreams", "registries", "transfers", "decisions"];
    for view in views {
        assert_eq!(get(front, &format!("/admin/v1/{view}")).status(), 200, "{view}");
    }
    get(front, "/readyz");
}

fn explain(front: &Front, body: &str) {
    assert_eq!(say(front, "POST", "/admin/v1/explain", body).status(), 200, "{body}");
}

/// Controllers of which one fails, one is drained and some are found, behind a listener with everything.
fn of_controllers() {
    let (files, dns) = (Files::new(), Dns::start());
    let version =
        r#"{"ready":true,"read":true,"write":false,"poll":true,"why":["etcd"],"version":"1.51.2-5e6f"}"#;
    let servers = [
        Upstream::start(|_| ok("a")),
        Upstream::start(|_| "HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n".into()),
        Upstream::start(|_| ok("c")),
    ];
    servers.iter().for_each(|server| server.says(200, version));
    let mut config = front::config(Kind::Controller, &servers.each_ref().map(|server| server.address));
    let service = &mut config.services[0];
    service.cohorts = Some(Cohorts { settle: Duration::from_millis(100), ..Cohorts::default() });
    service.bears.requests = Some(9);
    (service.bears.control, service.bears.bulk, service.bears.pending) = (Some(9), Some(9), Some(9));
    service.passive.failures = 2;
    service.balance = Balance::PeakEwma;
    for upstream in &mut service.upstreams {
        upstream.zone = Some("a".parse().unwrap());
    }
    let source = Source::Dns(Ask { name: "nobody.test.".into(), port: Some(1), resolver: Some(dns.address) });
    config.services.push(Service {
        discovery: Some(Discovery { source, most: 8 }),
        ..Service::plain(ServiceName::parse("found").unwrap(), Kind::Controller, Vec::new())
    });
    let authority = files.put("clients.crl", &files.clients.list(&[], 30));
    let setting = switchyard::tls::ServerSetting {
        client_auth: ClientAuth::Optional(files.trust(authority.to_str())),
        ..files.setting()
    };
    let network = |address: &str, bits| Network { address: address.parse().unwrap(), bits };
    let rule = |host: Option<&str>, path: &str, does| Rule {
        host: host.map(Into::into),
        path: Some(path.into()),
        does,
    };
    let mut secured = Listener {
        name: "secured".into(),
        tls: Some(Server::load(setting).unwrap()),
        rules: vec![rule(Some("ci.example"), "/admin", Does::Hide), rule(None, "/api", Does::Send(0))],
        trusted: vec![network("10.0.0.0", 8)],
        proxy_protocol: vec![network("10.1.0.0", 16)],
        expose: vec!["/metrics".into()],
        ..config.listeners[0].clone()
    };
    secured.limits.connections = Some(7);
    secured.limits.bounds = Bounds {
        per_client: Some(5),
        rate: Some(Rate { by: By::Key, requests: 100, per: Duration::from_secs(1), burst: 100 }),
        allow: vec![network("127.0.0.0", 8)],
        deny: vec![network("127.0.0.9", 32)],
    };
    config.listeners.push(secured);
    let front = Front::start_unproven(config);
    front.wait_until("they were probed", |view| view.services[0].upstreams.iter().all(|u| u.health == "up"));

    let upstream = "/admin/v1/services/pool/upstreams";
    assert_eq!(
        say(&front, "POST", &format!("{upstream}/u2/drain"), r#"{"by":"ann","reason":"disk"}"#).status(),
        200
    );
    assert_eq!(say(&front, "PUT", &format!("{upstream}/u0/weight"), r#"{"weight":3}"#).status(), 200);
    assert_eq!(say(&front, "POST", "/admin/v1/services/found/maintenance", r#"{"on":true}"#).status(), 200);
    eventually("one is ejected", || {
        front.get("/api/v1/status");
        front.view().services[0].upstreams[1].ejected.is_some()
    });
    say(&front, "POST", "/admin/v1/services/pool/cohort", r#"{"version":"1.51.2-5e6f"}"#);
    front.get("/api/v1/../x");
    let running = front.config.clone();
    front.handle.reads(move || Ok(running.clone()));
    assert_eq!(say(&front, "POST", "/admin/v1/reload", "").status(), 200);
    front.reload(&switchyard::config::proxy::Proxy { threads: 9, ..front.config.clone() }).unwrap_err();
    for ask in [
        r#"{"method":"GET","path":"/api/v1/vm","listener":"front","client":"127.0.0.1"}"#,
        r#"{"method":"POST","path":"/api/v1/vm","headers":["Idempotency-Key: a"]}"#,
        r#"{"method":"GET","path":"/switchyard/v1/tasks","listener":"front"}"#,
        r#"{"method":"GET","path":"/metrics"}"#,
        r#"{"method":"GET","path":"/nowhere"}"#,
    ] {
        explain(&front, ask);
    }
    say(&front, "POST", &format!("{upstream}/u0/drain"), "{}");
    explain(&front, r#"{"method":"GET","path":"/api/v1/vm","listener":"front"}"#);
    look(&front);
}

/// Registries that are followed, of which one lags.
fn of_registries() {
    let (writer, one, two) = cloud();
    let front = started(registry::config(&[&writer, &one, &two]));
    let pushed = writer.push("a");
    one.copies(pushed);
    writer.confirmed();
    knows(&front, 1, pushed);
    front.get("/v2/a/manifests/latest");
    explain(&front, r#"{"method":"GET","path":"/v2/a/manifests/latest"}"#);
    explain(
        &front,
        r#"{"method":"PATCH","path":"/v2/a/blobs/uploads/r0.x","headers":["Content-Length: 5"]}"#,
    );
    look(&front);
}

/// The vendor's registries, of which one lacks something.
fn of_lists() {
    let (writer, _replica, front) = crate::vendor::cloud();
    writer.has("c0ffee11-2233-4455-8677-8899aabbcc00", "new");
    eventually("the lists differ", || {
        let view = get(&front, "/admin/v1/registries").json();
        view["services"][0]["upstreams"][1]["catalogue"]["named"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    });
}

/// One that moves.
fn of_a_transfer() {
    let end: Arc<AtomicBool> = Arc::default();
    let ended = end.clone();
    let blob = Upstream::raw(move |wire, _| {
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n").ok();
        wire.send(vec![b'x'; 400_000]).ok();
        while !ended.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(20));
            wire.send([b'x'; 1000]).ok();
        }
        Then::Close
    });
    let front = Front::registries(&[blob.address]);
    let mut wire = Wire::connect(front.address);
    wire.send(format!("GET /v2/a/blobs/sha256:{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(64))).unwrap();
    let reading = thread::spawn(move || wire.answer(false).ok());
    eventually("it is listed", || {
        let listed = get(&front, "/admin/v1/transfers").json();
        listed["transfers"].as_array().is_some_and(|all| !all.is_empty())
    });
    end.store(true, Ordering::SeqCst);
    reading.join().unwrap();
}

#[test]
fn each_field_of_the_document_has_a_value_in_some_answer() {
    of_controllers();
    of_registries();
    of_lists();
    of_a_transfer();
    let (seen, all) = (openapi::seen(), openapi::fields());
    let is_here = |field: &String| !NOT_HERE.iter().any(|(begin, _)| field.starts_with(begin));
    let missing: Vec<&String> = all.difference(&seen).filter(|field| is_here(field)).collect();
    assert!(missing.is_empty(), "no answer had a value for {missing:#?}");
    for (begin, _) in NOT_HERE {
        assert!(all.iter().any(|field| field.starts_with(begin)), "no field begins with {begin}");
    }
}
