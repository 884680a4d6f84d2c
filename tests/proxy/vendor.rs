//! In front of the vendor's registries: which of them answers, what belongs together, and what is never done twice.

use std::time::Duration;

use switchyard::{
    config::proxy::{Freshness, Kind, Lists, Proxy, Reads, Secret},
    wire::registries::{Registries, Service},
};

use crate::{
    front::{self, Front, eventually},
    raw::{self, with_body},
    vendor_standin::Registry,
};

const ID: &str = "c0ffee11-2233-4455-8677-8899aabbccdd";
const LAYER: &str = "/files/images_dir/00112233445566778899aabbccddeeff.ank";
/// In place of 30 s, at the registries and in the config alike.
const CACHE: Duration = Duration::from_millis(400);

fn config(registries: &[&Registry]) -> Proxy {
    for registry in registries {
        registry.set(|state| state.cache = CACHE);
    }
    let addresses: Vec<_> = registries.iter().map(|registry| registry.address()).collect();
    let mut config = front::config(Kind::Registry, &addresses);
    let service = &mut config.services[0];
    service.writer = Some(0);
    service.reads = Reads { freshness: Freshness::Catalogue, ..Reads::REPLICATED };
    service.vendor.lists = Lists { interval: Duration::from_millis(100), cache: CACHE, ..Lists::default() };
    config
}

fn view(front: &Front) -> Service {
    let request = "GET /admin/v1/registries HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let all: Registries = serde_json::from_slice(&raw::ask(front.admin, request).body).unwrap();
    all.services.into_iter().next().unwrap()
}

/// Until the writer is no more the only one that may answer about everything.
fn settled(front: &Front) {
    eventually("nothing was written lately", || view(front).written == Some(0));
}

/// A writer and a replica with one tag, and a proxy that knows it.
pub fn cloud() -> (Registry, Registry, Front) {
    let (writer, replica) = (Registry::start(), Registry::start());
    writer.has(ID, "base");
    replica.copies(&writer);
    let front = Front::start(config(&[&writer, &replica]));
    settled(&front);
    (writer, replica, front)
}

fn tags(answer: &raw::Answer) -> Vec<String> {
    let versions = answer.json()["body"]["versions"].as_array().cloned().unwrap_or_default();
    versions.iter().map(|version| version["tag"].as_str().unwrap().to_owned()).collect()
}

fn push(front: &Front, tag: &str) {
    for (method, path) in [
        ("POST", format!("/registry/push?id={ID}&tag={tag}")),
        ("PUT", LAYER.to_owned()),
        ("POST", format!("/registry/commit?id={ID}&tag={tag}")),
    ] {
        let answer = front.ask(&with_body(method, &path, "", &"x".repeat(100_000)));
        assert_eq!(answer.status(), 200, "{method} {path}: {}", answer.text());
    }
}

#[test]
fn reads_go_to_a_replica_that_lists_what_the_writer_lists() {
    let (writer, replica, front) = cloud();
    for path in [format!("/registry/v2/vm?id={ID}"), format!("/registry/vm/info?id={ID}&tag=base")] {
        let before = (writer.asked("/registry/vm/info"), replica.asked("/registry"));
        assert_eq!(front.get(&path).status(), 200);
        assert_eq!(writer.asked("/registry/vm/info"), before.0, "the writer was asked for {path}");
        assert!(replica.asked("/registry") > before.1);
    }
    // Straight to the writer: the lists differ until the replica has copied it.
    writer.has(ID, "next");
    eventually("the difference is seen", || {
        view(&front).upstreams[1].catalogue.as_ref().unwrap().differing == 1
    });
    assert_eq!(tags(&front.get(&format!("/registry/v2/vm?id={ID}"))), ["base", "next"]);
    replica.copies(&writer);
    eventually("it was copied", || view(&front).upstreams[1].fresh);
}

#[test]
fn a_tag_just_pushed_is_seen_by_the_next_read_whatever_the_replica_lacks() {
    let (writer, _replica, front) = cloud();
    for round in 0..5 {
        push(&front, &format!("t{round}"));
        let wanted = writer.get(|state| state.templates[ID].len());
        for _ in 0..4 {
            assert_eq!(tags(&front.get(&format!("/registry/v2/vm?id={ID}"))).len(), wanted);
            let info = front.get(&format!("/registry/vm/info?id={ID}&tag=t{round}"));
            assert_eq!(info.status(), 200, "{}", info.text());
        }
    }
}

#[test]
fn a_tag_just_pushed_is_never_not_found_through_another_proxy() {
    let (writer, replica, one) = cloud();
    let two = Front::start(config(&[&writer, &replica]));
    settled(&two);
    push(&one, "next");
    for path in [format!("/registry/vm/info?id={ID}&tag=next"), format!("/registry/pull?id={ID}&tag=next")] {
        assert_eq!(two.get(&path).status(), 200, "{path}");
    }
    let answer = two.get(&format!("/registry/vm/info?id={ID}&tag=never"));
    assert_eq!((answer.status(), answer.head.get("switchyard-answered-by")), (404, None));
}

#[test]
fn a_file_that_a_replica_lacks_comes_from_the_writer() {
    let (writer, replica, front) = cloud();
    writer.set(|state| {
        state.files.insert(LAYER.rsplit('/').next().unwrap().into(), 100_000);
    });
    let answer = front.get(LAYER);
    assert_eq!((answer.status(), answer.body.len()), (200, 100_000));
    assert_eq!(replica.asked("/files"), 1);
}

#[test]
fn a_registry_that_crashes_on_its_list_is_asked_for_files_alone() {
    let (writer, replica, front) = cloud();
    replica.set(|state| state.crashes = true);
    eventually("its list is too old", || !view(&front).upstreams[1].reads);
    assert!(!view(&front).upstreams[1].catalogue.as_ref().unwrap().why.is_empty());
    let before = replica.asked("/registry/vm/info");
    for _ in 0..4 {
        assert_eq!(front.get(&format!("/registry/vm/info?id={ID}&tag=base")).status(), 200);
        assert_eq!(front.get("/registry/v2/vm").status(), 200);
    }
    assert_eq!(replica.asked("/registry/vm/info"), before);
    drop(writer);
}

#[test]
fn a_revert_that_gets_no_answer_is_never_sent_again() {
    let (writer, replica, front) = cloud();
    let revert = format!("DELETE /registry/revert?id={ID} HTTP/1.1\r\nHost: front\r\n\r\n");
    writer.has(ID, "next");
    writer.has(ID, "last");
    writer.set(|state| state.mute = true);
    let answer = front.ask(&revert);
    assert!(answer.status() == 502 && answer.text().contains("outcome is unknown"), "{}", answer.text());
    assert_eq!(writer.get(|state| state.templates[ID].len()), 2, "a second run would have taken one more");
    assert_eq!(replica.asked("/registry/revert"), 0);
}

#[test]
fn with_the_writer_away_the_freshest_replica_answers_and_says_so() {
    let (writer, replica, front) = cloud();
    push(&front, "next");
    drop(writer);
    front.wait_until("it is down", |view| view.services[0].upstreams[0].health == "down");
    let answer = front.get(&format!("/registry/v2/vm?id={ID}"));
    assert_eq!((answer.status(), tags(&answer).len()), (200, 1));
    assert_eq!(answer.head.get("switchyard-stale"), Some("unknown"));
    assert!(replica.asked("/registry/v2/vm?id=") > 0);
    let absent = front.get(&format!("/registry/vm/info?id={ID}&tag=next"));
    assert_eq!(absent.status(), 503, "nobody who is left can say that it is not there: {}", absent.text());
}

#[test]
fn older_registries_are_compared_by_versions_and_lists_need_credentials() {
    let (writer, replica) = (Registry::start(), Registry::start());
    writer.has(ID, "base");
    replica.copies(&writer);
    for registry in [&writer, &replica] {
        registry.set(|state| (state.old, state.token) = (true, Some("cm9vdDp0b2tlbg==".into())));
    }
    let front = Front::start(config(&[&writer, &replica]));
    eventually("it says what it needs", || view(&front).lease_why.contains("token_file"));
    let with = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: front\r\nAuthorization: Basic cm9vdDp0b2tlbg==\r\n\r\n")
    };
    assert_eq!(
        front.ask(&with(&format!("/registry/vm?id={ID}"))).status(),
        200,
        "the writer answers meanwhile"
    );
    let mut config = front.config.clone();
    config.services[0].vendor.lists.authorization = Some(Secret::new("Basic cm9vdDp0b2tlbg=="));
    front.reload(&config).unwrap();
    settled(&front);
    eventually("versions were compared", || view(&front).upstreams[1].fresh);
    writer.has(ID, "next");
    eventually("the difference is seen", || !view(&front).upstreams[1].fresh);
}

#[test]
fn a_handshake_and_its_session_are_the_writers() {
    let (writer, replica, front) = cloud();
    for registry in [&writer, &replica] {
        registry.set(|state| state.token = Some("t".into()));
    }
    for _ in 0..4 {
        let secret = front.ask(&with_body("POST", "/tap/v1/hand", "", "{}")).text();
        let shaken = front.ask(&with_body("POST", "/tap/v1/shake", "", &secret));
        assert_eq!(shaken.status(), 200);
        let bearer = format!("Host: front\r\nAuthorization: Bearer {secret}\r\n\r\n");
        let read = front.ask(&format!("GET /registry/vm/info?id={ID}&tag=base HTTP/1.1\r\n{bearer}"));
        assert_eq!(
            read.status(),
            200,
            "a replica does not know the session, and is not the last to be asked"
        );
    }
    assert_eq!(replica.asked("/tap"), 0);
}

#[test]
fn on_shared_storage_handshakes_and_pushes_stay_where_they_began() {
    let registries = [Registry::start(), Registry::start(), Registry::start()];
    let addresses: Vec<_> = registries.iter().map(Registry::address).collect();
    let front = Front::registries(&addresses);
    for round in 0..6 {
        let secret = front.ask(&with_body("POST", "/tap/v1/hand", "", "{}")).text();
        assert_eq!(front.ask(&with_body("POST", "/tap/v1/shake", "", &secret)).status(), 200);
        push(&front, &format!("t{round}"));
    }
    let why = front.lines(6 * 5).pop().unwrap()["why"].as_str().unwrap().to_owned();
    assert!(why.contains("handshake, session or push"), "{why}");
}

#[test]
fn logs_go_to_one_registry_and_hold_nobody_up() {
    let (writer, replica) = (Registry::start(), Registry::start());
    let mut config = config(&[&writer, &replica]);
    config.services[0].vendor.logs = Some(config.services[0].upstreams[1].name.clone());
    let front = Front::start(config);
    for _ in 0..4 {
        assert_eq!(front.ask(&with_body("POST", "/log", "", "{\"content\":\"x\"}")).status(), 200);
    }
    assert_eq!((writer.get(|s| s.logs.len()), replica.get(|s| s.logs.len())), (0, 4));
    drop(replica);
    let begun = switchyard::clock::now();
    assert!(front.ask(&with_body("POST", "/log", "", "{}")).status() >= 502);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn a_reload_keeps_what_is_known() {
    let (_writer, replica, front) = cloud();
    let before = replica.asked("/registry/vm/info");
    let mut config = front.config.clone();
    config.services[0].hold.read = Duration::from_secs(1);
    front.reload(&config).unwrap();
    assert_eq!(front.get(&format!("/registry/vm/info?id={ID}&tag=base")).status(), 200);
    assert_eq!(replica.asked("/registry/vm/info"), before + 1, "no writer is asked as after a start");
}
