//! What a drained registry ends, and what goes elsewhere or waits.

use std::{thread, time::Duration};

use switchyard::config::proxy::{Hold, Kind, Network};

use crate::{
    front::{self, Front},
    raw::{self, Wire, with_body},
    registry::{self, cloud, started},
    vendor_standin,
};

fn order(front: &Front, upstream: &str, word: &str) {
    let path = format!("/admin/v1/services/pool/upstreams/{upstream}/{word}");
    let answer = raw::ask(front.admin, &with_body("POST", &path, "Connection: close\r\n", ""));
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

fn patch(front: &Front, session: &str) -> raw::Answer {
    front.ask(&with_body("PATCH", &format!("/v2/a/blobs/uploads/{session}"), "", "x"))
}

#[test]
fn an_upload_session_at_a_drained_registry_ends_there_and_the_next_begins_elsewhere() {
    let (one, two, three) = cloud();
    let servers = [&one, &two, &three];
    let mut config = front::config(Kind::Registry, &servers.map(|server| server.upstream.address));
    config.services[0].hold = Hold { read: Duration::from_secs(1), write: Duration::from_secs(1) };
    let front = Front::start(config);
    assert_eq!(patch(&front, "r1.0a-1b").text(), "r1");
    // One step is under way while it is drained.
    let mut slow = Wire::connect(front.address);
    slow.send("PATCH /v2/a/blobs/uploads/r1.0a-1b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        .unwrap();
    front.wait_until("it is under way", |view| view.services[0].upstreams[1].outstanding == 1);
    order(&front, "u1", "drain");
    slow.send("cd").unwrap();
    assert_eq!(slow.answer(false).unwrap().text(), "r1");
    for _ in 0..4 {
        assert_eq!(patch(&front, "r1.0a-1b").text(), "r1");
    }
    let begins: Vec<String> =
        (0..9).map(|_| front.ask(&with_body("POST", "/v2/a/blobs/uploads/", "", "")).text()).collect();
    assert!(begins.iter().all(|name| name == "r0" || name == "r2"), "{begins:?}");
    let reads: Vec<String> = (0..9).map(|_| front.get("/v2/a/manifests/x").text()).collect();
    assert!(reads.iter().all(|name| name == "r0" || name == "r2"), "{reads:?}");
    front.wait_until("nothing is left there", |view| view.services[0].upstreams[1].outstanding == 0);
}

#[test]
fn of_a_drained_writer_pushes_wait_and_what_has_begun_goes_on() {
    let (writer, one, two) = cloud();
    let mut config = registry::config(&[&writer, &one, &two]);
    config.services[0].hold.write = Duration::from_millis(300);
    let front = started(config);
    order(&front, "u0", "drain");
    let push = with_body("PUT", "/v2/a/manifests/x", "", "{}");
    let refused = front.ask(&push);
    assert_eq!(refused.status(), 503);
    assert!(refused.text().contains("u0: drained by an operator"), "{}", refused.text());
    assert_eq!(patch(&front, "r0.0a-1b").text(), "r0", "the session is there");
    for _ in 0..4 {
        let name = front.get("/v2/a/manifests/x").text();
        assert!(name == "r1" || name == "r2", "{name}: replicas that have everything answer");
    }
    let mut longer = front.config.clone();
    longer.services[0].hold.write = Duration::from_secs(6);
    front.reload(&longer).unwrap();
    let address = front.address;
    let waiting = thread::spawn(move || raw::ask(address, &push).text());
    front.wait_until("it is held", |view| view.services[0].held == 1);
    order(&front, "u0", "undrain");
    assert_eq!(waiting.join().unwrap(), "r0");
}

#[test]
fn a_push_that_has_begun_at_a_drained_registry_ends_there() {
    const ID: &str = "c0ffee11-2233-4455-8677-8899aabbccdd";
    let registries = [vendor_standin::Registry::start(), vendor_standin::Registry::start()];
    let mut config =
        front::config(Kind::Registry, &registries.each_ref().map(vendor_standin::Registry::address));
    config.listeners[0].trusted = vec![Network { address: "127.0.0.1".parse().unwrap(), bits: 32 }];
    let front = Front::start(config);
    let step = |client: &str, method: &str, path: &str| {
        let from = format!("X-Forwarded-For: {client}\r\n");
        let answer = front.ask(&with_body(method, path, &from, &"x".repeat(10_000)));
        assert_eq!(answer.status(), 200, "{method} {path}: {}", answer.text());
    };
    let begin = |client: &str, tag: &str| step(client, "POST", &format!("/registry/push?id={ID}&tag={tag}"));
    let end = |client: &str, tag: &str| {
        step(client, "PUT", "/files/images_dir/00112233445566778899aabbccddeeff.ank");
        step(client, "POST", &format!("/registry/commit?id={ID}&tag={tag}"));
    };
    let at = |path: &str| registries.each_ref().map(|registry| registry.asked(path));
    begin("10.0.0.1", "a");
    let place = at("/registry/push").iter().position(|count| *count == 1).unwrap();
    order(&front, &format!("u{place}"), "drain");
    end("10.0.0.1", "a");
    assert_eq!(at("/registry/commit")[place], 1, "it goes on where it began");
    begin("10.0.0.2", "b");
    end("10.0.0.2", "b");
    assert_eq!(at("/registry/push")[1 - place], 1, "another client's begins elsewhere");
    assert_eq!(at("/registry/commit")[1 - place], 1);
}
