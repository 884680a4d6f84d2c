//! Reload, stop, logs, the admin view.

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
        self,
        proxy::{self, Kind},
    },
    proxy::ReloadError,
};

use crate::{
    front::{self, Front},
    raw::{self, Wire, with_body},
    upstream::{Then, Upstream, ok},
};

#[test]
fn reloads_under_load_lose_nothing() {
    let (a, b) = (Upstream::start(|_| ok("a")), Upstream::start(|_| ok("b")));
    let front = Front::controllers(&[a.address]);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, stop) = (front.address, stop.clone());
            thread::spawn(move || {
                let mut wire = Wire::connect(address);
                let mut count = 0;
                while !stop.load(Ordering::SeqCst) {
                    let request = with_body("POST", "/api/v1/node/config", "", "{}");
                    assert_eq!(wire.ask(&request).unwrap().status(), 200);
                    count += 1;
                }
                count
            })
        })
        .collect();
    for round in 0..20 {
        let mut next = front.config.clone();
        let (one, other) = (front::upstream("u0", a.address), front::upstream("u1", b.address));
        next.services[0].upstreams = if round % 2 == 0 { vec![other, one] } else { vec![one] };
        front.reload(&next).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Ordering::SeqCst);
    let total: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(total > 100, "{total}");
    assert_eq!(a.count() + b.count(), total);
    assert!(b.count() > 0);
}

#[test]
fn a_reload_keeps_verdicts_and_refuses_what_it_cannot_have() {
    let a = Upstream::start(|_| ok("a"));
    let front = Front::controllers(&[a.address]);
    let since = front.view().services[0].upstreams[0].since;
    let mut next = front.config.clone();
    next.services[0].maintenance = true;
    front.reload(&next).unwrap();
    let answer = front.get("/api/v1/vm");
    assert_eq!((answer.status(), answer.head.get("retry-after").is_some()), (503, true));
    assert_eq!(front.view().services[0].upstreams[0].since, since);
    front.reload(&front.config).unwrap();
    let mut other = front.config.clone();
    other.listeners[0].bind = vec!["192.0.2.1:80".parse().unwrap()];
    let ReloadError::Bind(why) = front.reload(&other).unwrap_err() else { panic!("it was no port") };
    assert!(why.contains("cannot listen on 192.0.2.1:80 (`listener `front`, bind`)"), "{why}");
    let threads = proxy::Proxy { threads: 7, ..front.config.clone() };
    let refused = front.reload(&threads).unwrap_err();
    assert!(matches!(&refused, ReloadError::NeedsUpgrade { key, .. } if key == "proxy.threads"));
    assert!(refused.to_string().contains("switchyard upgrade"), "{refused}");
    assert_eq!(front.get("/api/v1/vm").status(), 200);
    assert!(front.metrics().contains("switchyard_config_last_reload_success 0"));
}

#[test]
fn a_stop_lets_running_requests_end_and_closes_idle_connections_at_once() {
    let slow = Upstream::raw(|wire, _| {
        thread::sleep(Duration::from_secs(2));
        wire.send(ok("whole")).unwrap();
        Then::KeepAlive
    });
    let mut front = Front::controllers(&[slow.address]);
    let mut idle = Wire::connect(front.address);
    let mut busy = Wire::connect(front.address);
    busy.send(with_body("POST", "/api/v1/vm", "", "{}")).unwrap();
    front.wait_until("it is under way", |view| view.services[0].upstreams[0].outstanding == 1);
    let address = front.address;
    let client = thread::spawn(move || {
        let answer = busy.answer(false).unwrap();
        assert!(idle.closed());
        (answer, busy.closed(), std::net::TcpStream::connect(address).is_err())
    });
    let took = front.stop();
    let (answer, closed, refused) = client.join().unwrap();
    assert_eq!((answer.text().as_str(), answer.head.get("connection")), ("whole", Some("close")));
    assert!(closed && refused);
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_stop_ends_within_its_grace_whatever_happens() {
    let mute = Upstream::raw(|_, _| {
        thread::sleep(Duration::from_secs(20));
        Then::Close
    });
    let mut config = front::config(Kind::Controller, &[mute.address]);
    config.endings.grace = Duration::from_secs(1);
    let mut front = Front::start(config);
    let mut parked = Wire::connect(front.address);
    parked.send("GET /switchyard/v1/tasks HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    front.wait_until("it is under way", |view| view.services[0].upstreams[0].outstanding == 1);
    let took = front.stop();
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn the_access_log_goes_on_in_a_new_file_after_it_was_moved_away() {
    let a = Upstream::start(|_| ok("a"));
    let front = Front::controllers(&[a.address]);
    front.get("/api/v1/vm");
    front.lines(1);
    let moved = front.log.with_extension("1");
    std::fs::rename(&front.log, &moved).unwrap();
    front.handle.reopen_logs();
    front::eventually("it was reopened", || front.log.exists());
    front.get("/api/v1/status");
    assert_eq!(front.lines(1)[0]["path"], "/api/v1/status");
    assert_eq!(std::fs::read_to_string(moved).unwrap().lines().count(), 1);
}

#[test]
fn the_admin_view_says_why_an_upstream_may_not() {
    let a = Upstream::start(|_| ok("a"));
    a.says(200, r#"{"ready":true,"read":true,"write":false,"why":["2.1 GiB free < 50 GiB"]}"#);
    let front = Front::registries(&[a.address]);
    let view = front.view();
    let upstream = &view.services[0].upstreams[0];
    assert_eq!((upstream.health.as_str(), view.services[0].kind.as_str()), ("up", "registry"));
    assert!(upstream.evidence.contains("2.1 GiB free < 50 GiB"));
    let upload = upstream.classes.iter().find(|c| c.class.as_str() == "registry-upload").unwrap();
    assert!(!upload.may && upload.why.contains("2.1 GiB"));
    a.says(503, r#"{"ready":false,"why":["disk gone"]}"#);
    front.wait_until("it is down", |view| {
        let upstream = &view.services[0].upstreams[0];
        upstream.health == "down" && upstream.evidence.contains("disk gone")
    });
    assert!(front.metrics().contains(r#"switchyard_proxy_upstream_up{service="pool",upstream="u0"} 0"#));
}

#[test]
fn writes_go_to_the_writer_and_reads_to_all() {
    let (a, b) = (Upstream::start(|_| ok("a")), Upstream::start(|_| ok("b")));
    let mut config = front::config(Kind::Registry, &[a.address, b.address]);
    config.services[0].writer = Some(1);
    let front = Front::start(config);
    for _ in 0..4 {
        assert_eq!(front.ask(&with_body("PUT", "/v2/a/manifests/x", "", "{}")).text(), "b");
        assert_eq!(front.ask(&with_body("POST", "/strange", "", "{}")).text(), "b");
    }
    let reads: Vec<String> = (0..4).map(|_| front.get("/v2/a/manifests/x").text()).collect();
    assert!(reads.contains(&"a".to_owned()) && reads.contains(&"b".to_owned()));
    assert_eq!(front.lines(1)[0]["why"], "the writer");
}

#[test]
fn the_admin_listener_reloads_the_file_and_answers_in_the_words_of_check() {
    let a = Upstream::start(|_| ok("a"));
    let front = Front::controllers(&[a.address]);
    let post =
        || raw::ask(front.admin, "POST /admin/v1/reload HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let none = post();
    assert_eq!((none.status(), none.text().contains("not started from a file")), (409, true));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy.toml");
    let (path, running) = (file.clone(), front.config.clone());
    front.handle.reads(move || {
        let loaded = config::load_proxy(&path, &config::Env::default());
        let (read, _) = loaded.map_err(|faults| faults.to_string())?;
        Ok(switchyard::config::proxy::Proxy { services: read.services, ..running.clone() })
    });
    let write = |maintenance: &str| {
        let text = format!(
            "[[listener]]\nname = \"front\"\nbind = [\"127.0.0.1:0\"]\nservice = \"pool\"\n\
             [service.pool]\nkind = \"controller\"\nmaintenance = {maintenance}\n\
             upstreams = [{{ name = \"u0\", address = \"{}\" }}]\n",
            a.address
        );
        std::fs::write(&file, text).unwrap();
    };
    write("true");
    let taken = post();
    assert_eq!((taken.status(), taken.json()["generation"].as_u64()), (200, Some(1)), "{}", taken.text());
    assert_eq!(front.get("/api/v1/vm").status(), 503);

    write("\"perhaps\"");
    let said = config::load_proxy(&file, &config::Env::default()).unwrap_err().to_string();
    let refused = post();
    assert_eq!((refused.status(), refused.text().trim_end()), (422, said.trim_end()));
    assert!(front.metrics().contains("switchyard_config_last_reload_success 0"));
    assert_eq!(front.get("/api/v1/vm").status(), 503, "the old one goes on");

    std::fs::remove_file(&file).unwrap();
    assert_eq!(post().status(), 422);
    write("false");
    assert_eq!(post().status(), 200);
    front.wait_until("it was probed", |view| view.services[0].upstreams[0].health == "up");
    assert_eq!(front.get("/api/v1/vm").status(), 200);
}
