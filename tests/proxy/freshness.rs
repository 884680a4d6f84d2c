//! Which registry answers a read, against stand-ins that are ahead, behind, lost or frozen.

use std::{thread, time::Duration};

use switchyard::{
    clock,
    config::{
        self,
        proxy::{Freshness, Reads, StaleReads},
    },
    model::Position,
    wire::replication::Role,
};

use crate::{
    front::{Front, eventually},
    raw::{self, with_body},
    registry::{self, Registry, at, cloud, knows, started, view},
};

const TAG: &str = "/v2/a/manifests/latest";
const BLOB: &str = "/v2/a/blobs/b";

fn ask_timed(front: &Front, path: &str) -> (raw::Answer, Duration) {
    let begun = clock::now();
    let answer = front.get(path);
    (answer, begun.elapsed())
}

fn head(front: &Front, path: &str) -> raw::Answer {
    front.ask(&format!("HEAD {path} HTTP/1.1\r\nHost: front\r\n\r\n"))
}

fn lost(front: &Front, place: usize) {
    front.wait_until("it is down", |view| view.services[0].upstreams[place].health == "down");
}

#[test]
fn reads_go_to_the_replicas_that_have_what_is_asked_for() {
    let (writer, one, two) = cloud();
    let front = started(registry::config(&[&writer, &one, &two]));
    let pushed = writer.push("a");
    one.copies(pushed);
    writer.confirmed();
    knows(&front, 1, pushed);
    for _ in 0..6 {
        assert_eq!(front.get(TAG).text(), "r1");
    }
    let others: Vec<String> = (0..4).map(|_| front.get("/v2/b/manifests/x").text()).collect();
    assert!(others.contains(&"r1".into()) && others.contains(&"r2".into()), "{others:?}");
    assert_eq!(front.get("/v2/_catalog").text(), "r1");
    assert_eq!(front.lines(1)[0]["position"], "1.1");
    assert!(writer.asked().is_empty());
}

#[test]
fn a_lagging_replica_is_waited_for() {
    let (writer, one, _) = cloud();
    let front = started(registry::config(&[&writer, &one]));
    let pushed = writer.push("a");
    writer.confirmed();
    let address = front.address;
    let reading = thread::spawn(move || raw::get(address, TAG));
    front.wait_until("it waits", |view| view.services[0].held == 1);
    one.copies(pushed);
    assert_eq!(reading.join().unwrap().text(), "r1");
    let counted = r#"switchyard_proxy_fresh_waits_total{outcome="caught-up",service="pool"} 1"#;
    assert!(front.metrics().contains(counted), "{}", front.metrics());
}

#[test]
fn one_that_does_not_catch_up_costs_one_wait_and_not_one_a_read() {
    let (writer, one, _) = cloud();
    let mut config = registry::config(&[&writer, &one]);
    config.services[0].reads.fresh_wait = Duration::from_secs(2);
    let front = started(config);
    writer.push("a");
    writer.confirmed();
    let (answer, took) = ask_timed(&front, TAG);
    assert_eq!(answer.text(), "r0");
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
    let (answer, took) = ask_timed(&front, TAG);
    assert_eq!(answer.text(), "r0");
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert!(answer.head.get("switchyard-stale").is_none());
    assert!(front.lines(2)[1]["why"].as_str().unwrap().contains("no replica is fresh enough"));
}

#[test]
fn when_too_many_wait_the_next_one_goes_on_to_the_writer() {
    let (writer, one, _) = cloud();
    let mut config = registry::config(&[&writer, &one]);
    config.limits.held = 0;
    config.services[0].reads.fresh_wait = Duration::from_secs(2);
    let front = started(config);
    writer.push("a");
    writer.confirmed();
    let (answer, took) = ask_timed(&front, TAG);
    assert_eq!(answer.text(), "r0");
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

#[test]
fn a_service_of_one_registry_never_waits() {
    let (writer, ..) = cloud();
    let mut config = registry::config(&[&writer]);
    config.services[0].reads.fresh_wait = Duration::from_secs(2);
    let front = Front::start(config);
    writer.push("a");
    let (answer, took) = ask_timed(&front, TAG);
    assert_eq!(answer.text(), "r0");
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert!(view(&front).lease_why.contains("no replica"));
    assert!(writer.get(|script| script.polls.is_empty()), "no push has to wait for this proxy");
}

#[test]
fn an_answer_that_is_too_old_is_dropped_and_another_registry_asked() {
    let (writer, one, _) = cloud();
    let front = started(registry::config(&[&writer, &one]));
    let pushed = writer.push("a");
    one.copies(pushed);
    one.set(|script| script.answers_at = Some(Some(at(0))));
    writer.confirmed();
    knows(&front, 1, pushed);
    assert_eq!(front.get(TAG).text(), "r0");
    assert_eq!(one.asked().len(), 1);
    let line = front.lines(1).remove(0);
    assert_eq!(
        (&line["attempts"][0]["end"], &line["attempts"][1]["end"]),
        (&"behind".into(), &"answered".into())
    );
    let counted = r#"switchyard_proxy_behind_answers_total{service="pool",upstream="u1"} 1"#;
    assert!(front.metrics().contains(counted));
    // The answer has taken its claim back, so that it is asked anew.
    eventually("it has told its position again", || view(&front).upstreams[1].position == Some(pushed));
    assert_eq!(front.get(TAG).text(), "r0");
}

#[test]
fn an_answer_without_a_position_is_dropped_too() {
    let (writer, one, _) = cloud();
    one.set(|script| script.answers_at = Some(None));
    let front = started(registry::config(&[&writer, &one]));
    assert_eq!(front.get(TAG).text(), "r0");
    assert_eq!(one.asked().len(), 1);
}

#[test]
fn an_answer_without_a_position_takes_no_replica_out_for_long() {
    let (writer, one, two) = cloud();
    let front = started(registry::config(&[&writer, &one, &two]));
    for gone in [true, false] {
        for replica in [&one, &two] {
            replica.set(|script| (script.answers_at, script.empty) = (Some(None), gone));
        }
        assert_eq!(front.get(TAG).text(), "r0");
        for replica in [&one, &two] {
            replica.set(|script| (script.answers_at, script.empty) = (None, false));
        }
        // A 404 that knows of no position says nothing; another answer has the registry asked anew.
        if gone {
            assert!(view(&front).upstreams[1..].iter().all(|upstream| upstream.position.is_some()));
        }
        let begun = clock::now();
        eventually("replicas answer again", || front.get(TAG).text() != "r0");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_blob_is_looked_for_at_every_registry_and_at_the_writer_last() {
    let (writer, one, two) = cloud();
    let front = started(registry::config(&[&writer, &one, &two]));
    two.gives("b");
    for _ in 0..4 {
        assert_eq!(front.get(BLOB).text(), "r2");
    }
    assert!(writer.asked().is_empty());
    two.set(|script| script.blobs.clear());
    writer.gives("b");
    let (ones, twos) = (one.asked().len(), two.asked().len());
    assert_eq!(front.get(BLOB).text(), "r0");
    assert_eq!((one.asked().len(), two.asked().len()), (ones + 1, twos + 1));
    writer.set(|script| script.blobs.clear());
    let answer = front.get(BLOB);
    assert_eq!((answer.status(), answer.head.get("switchyard-answered-by")), (404, None));
    assert_eq!(answer.text(), "r0");
}

#[test]
fn only_the_writer_says_that_a_blob_is_not_there_and_is_asked_last_also_when_it_is_write_only() {
    let (writer, one, _) = cloud();
    let mut config = registry::config(&[&writer, &one]);
    config.services[0].hold.read = Duration::from_millis(300);
    config.services[0].reads.write_only = true;
    let front = started(config);
    let answer = front.get(BLOB);
    assert_eq!((answer.status(), answer.text().as_str()), (404, "r0"));
    writer.gives("b");
    assert_eq!(front.get(BLOB).text(), "r0");
    drop(writer);
    // The replica has passed every change, and may still be fetching a blob that one of them announced.
    let answer = front.get(BLOB);
    assert_eq!((answer.status(), answer.head.get("retry-after").is_some()), (503, true));
    assert!(answer.text().contains("may miss the last pushes"), "{}", answer.text());
}

#[test]
fn without_a_lease_reads_go_to_the_writer() {
    let (writer, one, _) = cloud();
    let front = started(registry::config(&[&writer, &one]));
    assert_eq!(front.get(TAG).text(), "r1");
    writer.set(|script| script.lease = 0);
    eventually("the lease has run out", || view(&front).lease_ms.is_none());
    assert_eq!(front.get(TAG).text(), "r0");
    assert!(front.lines(2)[1]["why"].as_str().unwrap().contains("without a lease"));
    assert_eq!(view(&front).lease_why, "the writer has given none");
    let metrics = front.metrics();
    assert!(metrics.contains(r#"switchyard_proxy_lease_seconds{service="pool"} 0"#));
    assert!(metrics.contains(r#"switchyard_proxy_registry_fresh{service="pool",upstream="u1"} 0"#));
    writer.set(|script| script.lease = 2000);
    eventually("it is back", || front.get(TAG).text() == "r1");
}

#[test]
fn with_the_writer_gone_fresh_replicas_answer_and_then_the_freshest_marked() {
    let (writer, one, two) = cloud();
    let front = started(registry::config(&[&writer, &one, &two]));
    let pushed = writer.push("a");
    two.copies(pushed);
    writer.confirmed();
    knows(&front, 2, pushed);
    drop(writer);
    let (answer, took) = ask_timed(&front, TAG);
    assert_eq!((answer.text().as_str(), answer.head.get("switchyard-stale")), ("r2", None));
    assert!(took < Duration::from_millis(900), "no second is waited for: {took:?}");
    eventually("the lease has run out", || view(&front).lease_ms.is_none());
    for _ in 0..4 {
        let (answer, took) = ask_timed(&front, "/v2/b/manifests/x");
        assert_eq!((answer.text().as_str(), answer.head.get("switchyard-stale")), ("r2", Some("unknown")));
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    assert_eq!(front.lines(5)[4]["stale"], "unknown");
    assert!(
        front.metrics().contains(r#"switchyard_proxy_stale_answers_total{service="pool",why="unknown"} 4"#)
    );
    // Blobs go on, unmarked, and a push is held, then refused.
    one.gives("b");
    assert_eq!((front.get(BLOB).text().as_str(), head(&front, BLOB).status()), ("r1", 200));
}

#[test]
fn replicas_that_claim_nothing_since_they_began_answer_marked_while_the_writer_is_lost() {
    let (writer, one, _) = cloud();
    let mut config = registry::config(&[&writer, &one]);
    config.services[0].hold.read = Duration::from_millis(300);
    let front = started(config);
    drop(writer);
    one.set(|script| script.position = None);
    lost(&front, 0);
    eventually("the lease has run out", || view(&front).lease_ms.is_none());
    eventually("its claim is gone", || view(&front).upstreams[1].position.is_none());
    let answer = front.get(TAG);
    assert_eq!((answer.status(), answer.text().as_str()), (200, "r1"));
    assert_eq!(answer.head.get("switchyard-stale"), Some("unknown"));
    one.set(|script| script.empty = true);
    assert_eq!(front.get(TAG).status(), 503);
}

#[test]
fn a_stale_registry_never_says_not_found() {
    let (writer, one, two) = cloud();
    let pushed = writer.push("a");
    one.set(|script| (script.position, script.empty) = (Some(pushed), true));
    let mut config = registry::config(&[&writer, &one, &two]);
    config.services[0].hold.read = Duration::from_millis(300);
    writer.set(|script| script.lease = 0);
    let front = Front::start(config);
    knows(&front, 1, pushed);
    knows(&front, 2, at(0));
    drop(writer);
    lost(&front, 0);
    assert_eq!(front.get(TAG).text(), "r2");
    two.set(|script| script.empty = true);
    let answer = front.get(TAG);
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("not found where"), "{}", answer.text());
}

#[test]
fn stale_reads_never_means_never() {
    let (writer, one, _) = cloud();
    let mut config = registry::config(&[&writer, &one]);
    config.services[0].reads.stale = StaleReads::Never;
    config.services[0].hold.read = Duration::from_millis(300);
    let front = started(config);
    drop(writer);
    lost(&front, 0);
    eventually("the lease has run out", || view(&front).lease_ms.is_none());
    let answer = front.get(TAG);
    assert_eq!((answer.status(), answer.head.get("retry-after").is_some()), (503, true));
    assert!(answer.text().contains("there is no lease"), "{}", answer.text());
}

#[test]
fn behind_a_write_only_writer_a_read_says_what_it_lacks() {
    let (writer, one, _) = cloud();
    let mut config = registry::config(&[&writer, &one]);
    config.services[0].reads.write_only = true;
    config.services[0].reads.fresh_wait = Duration::from_millis(200);
    let front = started(config);
    writer.push("a");
    writer.confirmed();
    let (answer, took) = ask_timed(&front, TAG);
    assert_eq!((answer.status(), answer.head.get("retry-after").is_some()), (503, true));
    let text = answer.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    assert!(
        text.contains("`a`, which needs position 1.1") && text.contains("u1: has 1.0, and 1.1 is needed"),
        "{text}"
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(front.get("/v2/b/manifests/x").text(), "r1");
    assert!(writer.asked().is_empty());
}

#[test]
fn lagging_replicas_answer_marked_where_that_is_allowed() {
    let (writer, one, _) = cloud();
    let mut config = registry::config(&[&writer, &one]);
    let reads = &mut config.services[0].reads;
    (reads.write_only, reads.stale, reads.fresh_wait) = (true, StaleReads::Allow, Duration::ZERO);
    let front = started(config);
    writer.push("a");
    writer.confirmed();
    let answer = front.get(TAG);
    assert_eq!((answer.text().as_str(), answer.head.get("switchyard-stale")), ("r1", Some("behind")));
}

#[test]
fn a_frozen_writer_costs_half_the_deadline_and_no_more() {
    let (writer, one, _) = cloud();
    let front = started(registry::config(&[&writer, &one]));
    writer.set(|script| script.frozen = true);
    eventually("the lease has run out", || view(&front).lease_ms.is_none());
    let (answer, took) = ask_timed(&front, TAG);
    assert_eq!((answer.text().as_str(), answer.head.get("switchyard-stale")), ("r1", Some("unknown")));
    assert!(took < Duration::from_millis(3500), "{took:?}");
}

#[test]
fn a_session_is_continued_at_the_registry_that_it_names_and_nowhere_else() {
    let (writer, one, two) = cloud();
    let mut config = registry::config(&[&writer, &one, &two]);
    config.services[0].hold.write = Duration::from_millis(300);
    let front = started(config);
    let patch =
        |session: &str| front.ask(&with_body("PATCH", &format!("/v2/a/blobs/uploads/{session}"), "", "x"));
    // Its probe names it; an upstream's name will do; one that nobody knows is the writer's.
    assert_eq!(patch("r2.0a-1b").text(), "r2");
    assert_eq!(patch("u1.0a-1b").text(), "r1");
    assert_eq!(patch("r9.0a-1b").text(), "r0");
    assert_eq!(front.lines(1)[0]["why"], "the upload session is there");
    drop(two);
    lost(&front, 2);
    let answer = patch("r2.0a-1b");
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("u2: down"), "{}", answer.text());
}

#[test]
fn of_two_that_call_themselves_the_same_the_writer_has_the_sessions_and_it_is_told() {
    let (one, writer) = (Registry::start("r1", Role::Replica), Registry::start("r1", Role::Writer));
    let mut config = registry::config(&[&one, &writer]);
    config.services[0].writer = Some(1);
    let front = started(config);
    let told = "`u0` and `u1` call themselves `r1`";
    eventually("it is told", || view(&front).warnings.iter().any(|why| why.starts_with(told)));
    for _ in 0..4 {
        front.ask(&with_body("PATCH", "/v2/a/blobs/uploads/r1.0a-1b", "", "x"));
    }
    assert_eq!((one.asked().len(), writer.asked().len()), (0, 4));
}

#[test]
fn a_replica_that_catches_up_is_not_asked_all_the_time() {
    let (writer, one, _) = cloud();
    let front = started(registry::config(&[&writer, &one]));
    let asked =
        || one.upstream.seen.lock().unwrap().iter().filter(|seen| seen.path().contains("/state")).count();
    let (before, begun) = (asked(), clock::now());
    let mut position = 0;
    while begun.elapsed() < Duration::from_millis(600) {
        position += 1;
        one.copies(at(position));
        thread::sleep(Duration::from_millis(1));
    }
    assert!(asked() - before <= 40, "{}", asked() - before);
    knows(&front, 1, at(position));
}

#[test]
fn news_of_a_replica_make_a_held_push_knock_no_more_often_at_a_writer_that_refuses() {
    let (writer, one, _) = cloud();
    let mut config = registry::config(&[&writer, &one]);
    config.services[0].hold.write = Duration::from_millis(900);
    // Its probes do not notice meanwhile.
    config.services[0].health.fall = 100;
    let front = started(config);
    drop(writer);
    let address = front.address;
    let request = with_body("PUT", "/v2/a/manifests/latest", "", "x");
    let pushing = thread::spawn(move || raw::ask(address, &request));
    let mut position = 0;
    while !pushing.is_finished() {
        position += 1;
        one.copies(at(position));
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(pushing.join().unwrap().status(), 503);
    let attempts = front.lines(1)[0]["attempts"].as_array().unwrap().len();
    assert!((2..=6).contains(&attempts), "{attempts}");
}

#[test]
fn on_shared_storage_a_session_that_nobody_knows_goes_to_anybody() {
    let (zero, one, _) = cloud();
    let mut config = registry::config(&[&zero, &one]);
    (config.services[0].writer, config.services[0].reads) = (None, Default::default());
    let front = Front::start(config);
    let patch = |session: &str| {
        front.ask(&with_body("PATCH", &format!("/v2/a/blobs/uploads/{session}"), "", "x")).text()
    };
    assert!((0..4).all(|_| patch("r1.0a") == "r1"));
    let any: Vec<String> = (0..4).map(|_| patch("0a")).collect();
    assert!(any.contains(&"r0".into()) && any.contains(&"r1".into()), "{any:?}");
    assert_eq!((view(&front).storage.as_str(), view(&front).lease_ms), ("shared", None));
}

#[test]
fn the_keys_of_a_file_decide_where_reads_go() {
    let folder = tempfile::tempdir().unwrap();
    let load = |keys: &str| {
        let file = folder.path().join("proxy.toml");
        let text = format!(
            "[[listener]]\nname = \"f\"\nbind = [\"127.0.0.1:0\"]\nservice = \"registries\"\n[service.registries]\n\
             upstreams = [{{ name = \"r1\", address = \"a:1\" }}, {{ name = \"r2\", address = \"a:2\" }}]\n{keys}\n"
        );
        std::fs::write(&file, text).unwrap();
        let (config, _) = config::load_proxy(&file, &config::Env::default()).unwrap();
        (config.services[0].writer, config.services[0].reads)
    };
    assert_eq!(load("storage = \"shared\""), (None, Reads::default()));
    assert_eq!(load("writer = \"r2\""), (Some(1), Reads::REPLICATED));
    let all = "storage = \"replicated\"\nwriter = \"r1\"\nwrite_only = true\nfreshness = \"position\"\n\
               stale_reads = \"allow\"\nfresh_wait = \"250ms\"";
    let (stale, fresh_wait) = (StaleReads::Allow, Duration::from_millis(250));
    assert_eq!(load(all), (Some(0), Reads { write_only: true, stale, fresh_wait, ..Reads::REPLICATED }));
    let none = load("writer = \"r1\"\nfreshness = \"none\"").1;
    assert_eq!(none.freshness, Freshness::None);
}

#[test]
fn a_reload_keeps_the_lease_unless_the_registries_change() {
    let (writer, one, two) = cloud();
    let front = started(registry::config(&[&writer, &one]));
    let before = view(&front);
    let mut next = front.config.clone();
    next.services[0].maintenance = true;
    (next.services[0].reads.write_only, next.services[0].reads.stale) = (true, StaleReads::Never);
    front.reload(&next).unwrap();
    let after = view(&front);
    assert_eq!((after.proxy, after.floor), (before.proxy.clone(), before.floor));
    assert!(after.lease_ms.is_some());
    front.reload(&config_with_listener(&front, &[&writer, &one, &two])).unwrap();
    assert_ne!(view(&front).proxy, before.proxy);
    eventually("the old one gave its lease up", || {
        writer.get(|script| script.released.first().cloned()) == before.proxy
    });
    eventually("the new one has one", || view(&front).lease_ms.is_some());
}

fn config_with_listener(front: &Front, registries: &[&Registry]) -> switchyard::config::proxy::Proxy {
    let mut next = front.config.clone();
    next.services = registry::config(registries).services;
    next
}

#[test]
fn a_proxy_that_stops_gives_its_lease_up() {
    let (writer, one, _) = cloud();
    let mut front = started(registry::config(&[&writer, &one]));
    let name = view(&front).proxy.unwrap();
    assert!(front.stop() < Duration::from_secs(2));
    assert_eq!(writer.get(|script| script.released.clone()), [name]);
}

#[test]
fn another_history_of_the_writer_is_learnt_anew() {
    let (writer, one, _) = cloud();
    let front = started(registry::config(&[&writer, &one]));
    let pushed = writer.push("a");
    one.copies(pushed);
    writer.confirmed();
    knows(&front, 1, pushed);
    // Restored from a backup and written to again, while the replica has not noticed.
    writer.set(|script| (script.history, script.log) = (1, vec!["b".parse().unwrap()]));
    eventually("it has begun anew", || view(&front).upstreams[1].why.contains("history is not the writer's"));
    eventually("it has a lease again", || view(&front).lease_ms.is_some());
    assert_eq!(front.get(TAG).text(), "r0");
    one.set(|script| script.position = None);
    eventually("it has noticed", || view(&front).upstreams[1].why.contains("claims no position"));
    one.copies(at(1));
    eventually("it counts again", || front.get(TAG).text() == "r1");
}

#[test]
fn a_former_writer_is_not_believed() {
    // r0 was the writer; r1 is it now, and the config was not changed yet.
    let (old, new) = (Registry::start("r0", Role::Replica), Registry::start("r1", Role::Writer));
    let front = Front::start(registry::config(&[&old, &new]));
    let said = "`u0` is configured as the writer and says that it is a replica, and `u1` says that it is the writer: \
                reload with `writer = \"u1\"`";
    eventually("it is said", || view(&front).lease_why == said);
    assert_eq!(view(&front).warnings, [said]);
    let pushed = new.push("a");
    knows(&front, 1, pushed);
    let answer = front.get(TAG);
    assert_eq!((answer.text().as_str(), answer.head.get("switchyard-stale")), ("r1", Some("unknown")));
    // What it lacks may well be there.
    old.set(|script| script.empty = true);
    new.set(|script| script.empty = true);
    assert_eq!((front.get(TAG).status(), front.get(BLOB).status()), (503, 503));
}

#[test]
fn a_writer_that_another_has_succeeded_is_not_believed() {
    let (old, new) = (Registry::start("r0", Role::Writer), Registry::start("r1", Role::Replica));
    let front = started(registry::config(&[&old, &new]));
    assert_eq!(front.get(TAG).text(), "r1");
    new.set(|script| {
        (script.role, script.epoch) = (Role::Writer, 2);
        script.position = Some(Position { epoch: 2, seq: 1 });
    });
    eventually("it is said", || {
        view(&front).warnings.iter().any(|why| why.contains("has become the writer since"))
    });
    assert_eq!(view(&front).lease_ms, None);
    let answer = front.get(TAG);
    assert_eq!((answer.text().as_str(), answer.head.get("switchyard-stale")), ("r1", Some("unknown")));
    // It comes back in a later reign.
    old.set(|script| script.epoch = 3);
    eventually("it is believed again", || view(&front).lease_ms.is_some());
    assert!(view(&front).warnings.is_empty());
}

#[test]
fn the_admin_view_shows_what_each_registry_told() {
    let (writer, one, _) = cloud();
    let front = started(registry::config(&[&writer, &one]));
    writer.push("a");
    writer.confirmed();
    let view = view(&front);
    assert_eq!((view.writer.as_deref(), view.storage.as_str()), (Some("u0"), "replicated"));
    assert_eq!((view.floor, view.newest, view.repositories), (Some(at(0)), Some(at(1)), 1));
    let replica = &view.upstreams[1];
    assert_eq!((replica.registry.as_deref(), replica.role), (Some("r1"), Some(Role::Replica)));
    assert_eq!((replica.fresh, replica.reads), (false, false));
    assert_eq!(replica.why, "has 1.0, and 1.1 is needed");
    assert_eq!(replica.state.as_ref().map(|state| state.registry.as_str()), Some("r1"));
    let metrics = front.metrics();
    assert!(metrics.contains(r#"switchyard_proxy_registry_lag_entries{service="pool",upstream="u1"} 3"#));
    assert!(metrics.contains(r#"switchyard_proxy_registry_fresh{service="pool",upstream="u1"} 0"#));
}
