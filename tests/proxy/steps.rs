//! Each step of a request has a time of its own.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::{clock, config::proxy::Kind};

use crate::{
    front::{self, Front},
    raw,
    secure::Files,
    upstream::{Then, Upstream, ok},
};

const SHORT: Duration = Duration::from_millis(600);

/// Longer than any time that is set here, and shorter than those that are not.
const LATE: Duration = Duration::from_secs(4);

/// Takes a request and does not answer.
fn silent() -> Upstream {
    Upstream::raw(|wire, head| {
        wire.body(&head, false, |_| {}).ok();
        thread::sleep(Duration::from_secs(8));
        Then::Close
    })
}

fn ends(front: &Front) -> Vec<String> {
    let line = front.lines(1).pop().unwrap();
    let attempts = line["attempts"].as_array().unwrap();
    attempts.iter().map(|attempt| attempt["end"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_handshake_that_is_not_answered_ends_in_its_own_time() {
    // Accepts, and says nothing.
    let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
    let files = Files::new();
    let mut config = front::config(Kind::Controller, &[frozen.local_addr().unwrap()]);
    config.services[0].tls = Some(switchyard::tls::Upstream::load(files.upstream()).unwrap());
    config.services[0].hold.read = Duration::ZERO;
    config.services[0].timeouts.connect = Duration::from_secs(60);
    config.services[0].timeouts.tls = SHORT;
    let front = Front::start(config);
    let begun = clock::now();
    let answer = front.get("/api/v1/vm");
    let took = begun.elapsed();
    assert_eq!(answer.status(), 503, "{}", answer.text());
    assert!(took >= SHORT && took < LATE, "{took:?}");
    assert!(ends(&front).iter().all(|end| end == "connect-failed"), "{:?}", ends(&front));
}

#[test]
fn a_download_that_does_not_begin_begins_elsewhere() {
    let asked = Arc::new(AtomicUsize::new(0));
    let serve = move || {
        let asked = asked.clone();
        Upstream::raw(move |wire, _| {
            match asked.fetch_add(1, Ordering::SeqCst) {
                0 => thread::sleep(2 * LATE),
                // Its head comes byte by byte.
                1 => {
                    for byte in b"HTTP/1.1 200 OK\r\nServer: as slow as that\r\n" {
                        thread::sleep(Duration::from_millis(100));
                        if wire.send([*byte]).is_err() {
                            break;
                        }
                    }
                }
                _ => wire.send(ok("blob")).unwrap(),
            }
            Then::Close
        })
    };
    let upstreams = [serve(), serve(), serve()];
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    let mut config = front::config(Kind::Registry, &addresses);
    config.services[0].timeouts.first_byte = Some(SHORT);
    let front = Front::start(config);
    let begun = clock::now();
    assert_eq!(front.get("/v2/a/blobs/x").text(), "blob");
    let took = begun.elapsed();
    assert!(took >= 2 * SHORT && took < LATE, "{took:?}");
    assert_eq!(ends(&front), ["timed-out", "timed-out", "answered"]);
}

#[test]
fn a_poll_and_a_commit_wait_as_long_as_they_are_told() {
    let silent = silent();
    let check = |kind, request: &str, change: fn(&mut switchyard::config::proxy::UpstreamTimeouts)| {
        let mut config = front::config(kind, &[silent.address]);
        // Not what limits them.
        config.services[0].timeouts.idle = Duration::from_millis(100);
        change(&mut config.services[0].timeouts);
        let front = Front::start(config);
        let begun = clock::now();
        assert_eq!(front.ask(request).status(), 502);
        let took = begun.elapsed();
        assert!(took >= SHORT && took < LATE, "{request}: {took:?}");
        assert_eq!(ends(&front), ["timed-out"], "{request}");
    };
    let poll = "GET /switchyard/v1/tasks HTTP/1.1\r\nHost: a\r\n\r\n";
    check(Kind::Controller, poll, |timeouts| timeouts.poll = SHORT);
    let upload = raw::with_body("PUT", "/v2/a/blobs/uploads/x", "", "all of it");
    check(Kind::Registry, &upload, |timeouts| timeouts.commit = SHORT);
}

#[test]
fn a_reload_changes_the_times_of_what_comes_after_it() {
    let silent = silent();
    let front = Front::controllers(&[silent.address]);
    let mut config = front.config.clone();
    config.services[0].timeouts.poll = SHORT;
    front.reload(&config).unwrap();
    let begun = clock::now();
    assert_eq!(front.get("/switchyard/v1/tasks").status(), 502);
    assert!(begun.elapsed() < LATE, "{:?}", begun.elapsed());
}
