//! A writer and its replicas, in this process, on real sockets and disks: what is pushed there is read here.

use std::{path::Path, time::Duration};

use reqwest::StatusCode;
use serde_json::Value;
use switchyard::config::{
    BaseUrl,
    registry::{Registry as Config, Replication, Role},
};

use crate::{
    rig::{Rig, config, header, limits, noise},
    support::eventually::eventually,
};

pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) fn url(of: &Rig) -> BaseUrl {
    format!("http://{}", of.address).parse().unwrap()
}

/// The config of a replica of this writer.
pub(crate) fn replica_config(dir: &Path, name: &str, writer: BaseUrl, peers: Vec<BaseUrl>) -> Config {
    let mut config = config(dir, limits());
    config.server.name = name.into();
    config.replication = Replication { role: Role::Replica { writer, peers }, ..Replication::default() };
    config
}

pub(crate) async fn replica(dir: &Path, name: &str, writer: &Rig, peers: &[&Rig]) -> Rig {
    let peers = peers.iter().map(|peer| url(peer)).collect();
    Rig::of(replica_config(dir, name, url(writer), peers), dir).await
}

pub(crate) async fn state(of: &Rig) -> Value {
    of.json("/replication/v1/state").await
}

/// Waits until a replica has all that its writer has.
pub(crate) async fn caught_up(replica: &Rig, writer: &Rig) {
    let head = state(writer).await["position"].clone();
    eventually(SOON, "the replica to have all", || async {
        let state = state(replica).await;
        if state["position"] == head { Ok(()) } else { Err(format!("{head} wanted: {state}")) }
    })
    .await;
}

/// Every file of a registry that must be the same everywhere, with its content.
pub(crate) fn content(of: &Rig) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for part in ["blobs", "repositories"] {
        for file in crate::rig::files(&of.dir.join(part)) {
            let name = file.strip_prefix(&of.dir).unwrap().display().to_string();
            if !name.ends_with("_pulls.json") {
                all.push((name, std::fs::read(&file).unwrap()));
            }
        }
    }
    all.sort();
    all
}

pub(crate) fn assert_same(one: &Rig, other: &Rig) {
    let (one, other) = (content(one), content(other));
    let names = |all: &[(String, Vec<u8>)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for ((name, a), (_, b)) in one.iter().zip(&other) {
        assert!(a == b, "{name} differs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_at_the_writer_comes_to_its_replicas_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Rig::new(&dir.path().join("w")).await;
    let first = replica(&dir.path().join("a"), "a", &writer, &[]).await;
    let second = replica(&dir.path().join("b"), "b", &writer, &[&first]).await;

    writer.image("mac/sonoma", "v1", &[&noise(1, 9_000_000), b"small"]).await;
    let gone = writer.image("mac/sonoma", "v2", &[b"second"]).await;
    writer.image("mac/sonoma", "v3", &[b"third"]).await;
    writer.image("other", "latest", &[&noise(2, 4_194_304)]).await;
    for replica in [&first, &second] {
        caught_up(replica, &writer).await;
        replica.assert_complete("mac/sonoma", "v1").await;
    }
    // A mount, every kind of delete, a revert and an architecture.
    let layer = switchyard::model::Digest::of(b"small");
    let mount = format!("/v2/other/blobs/uploads/?mount={layer}&from=mac/sonoma");
    assert_eq!(writer.ask("POST", &mount).send().await.unwrap().status(), StatusCode::CREATED);
    let templates = writer.json("/registry/v2/vm").await;
    let id = |name: &str| {
        let all = templates["body"].as_array().unwrap();
        all.iter().find(|t| t["name"] == name).unwrap()["id"].as_str().unwrap().to_owned()
    };
    let withdrawn = writer.blob("other", b"for nothing").await;
    let arch = serde_json::json!({ "id": id("other"), "arch": "amd64" });
    for (method, path, body) in [
        ("PUT", "/registry/vm/arch".to_owned(), arch.to_string()),
        ("DELETE", format!("/v2/mac/sonoma/manifests/{gone}"), String::new()),
        ("DELETE", "/v2/other/manifests/latest".to_owned(), String::new()),
        ("DELETE", format!("/v2/other/blobs/{withdrawn}"), String::new()),
        ("DELETE", format!("/registry/revert?id={}&tag=v3", id("mac/sonoma")), String::new()),
    ] {
        let answer = writer.ask(method, &path).body(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{method} {path}: {}", answer.text().await.unwrap());
        assert!(header(&answer, "switchyard-position").starts_with("1."), "{path}");
    }
    writer.image("cleared", "x", &[b"for a while"]).await;
    let templates = writer.json("/registry/v2/vm").await;
    let cleared =
        templates["body"].as_array().unwrap().iter().find(|t| t["name"] == "cleared").unwrap()["id"].clone();
    let path = format!("/registry/vm?id={}", cleared.as_str().unwrap());
    assert!(writer.ask("DELETE", &path).send().await.unwrap().status().is_success());

    for replica in [&first, &second] {
        caught_up(replica, &writer).await;
        assert_same(&writer, replica);
        assert_eq!(replica.get(&format!("/v2/other/blobs/{withdrawn}")).await.status(), 404);
        let tags = replica.json("/v2/mac/sonoma/tags/list").await;
        assert_eq!(tags["tags"], serde_json::json!(["v1"]));
        for path in ["/registry/vm", "/v2/_catalog"] {
            assert_eq!(replica.json(path).await, writer.json(path).await, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_replica_begins_with_a_snapshot_when_the_log_does_not_lead_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir.path().join("w"), limits());
    config.replication.log_keep = 16;
    let writer = Rig::of(config, &dir.path().join("w")).await;
    for n in 0..12 {
        writer.image("many", &format!("t{n}"), &[format!("layer {n}").as_bytes()]).await;
    }
    // What the upkeep does once a minute, at once: a restart with a compaction would do the same.
    writer.stop().await;
    let log = switchyard::registry::log::Log::open(&dir.path().join("w/log")).unwrap();
    assert!(log.compact(16, log.head().0).unwrap() > 0);
    drop(log);
    let writer = Rig::new(&dir.path().join("w")).await;

    let gone = writer.get("/replication/v1/log?after=1.1&wait=0").await;
    assert_eq!(gone.status(), StatusCode::GONE);
    let late = replica(&dir.path().join("late"), "late", &writer, &[]).await;
    caught_up(&late, &writer).await;
    assert_same(&writer, &late);
    // And it goes on with the log from there.
    writer.image("many", "after", &[b"after the snapshot"]).await;
    caught_up(&late, &writer).await;
    late.assert_complete("many", "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_was_filled_before_it_had_a_log_is_copied_whole() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Rig::new(&dir.path().join("w")).await;
    writer.image("old", "v1", &[b"from before"]).await;
    writer.stop().await;
    std::fs::remove_dir_all(dir.path().join("w/log")).unwrap();

    let writer = Rig::new(&dir.path().join("w")).await;
    let replica = replica(&dir.path().join("r"), "r", &writer, &[]).await;
    caught_up(&replica, &writer).await;
    replica.assert_complete("old", "v1").await;
    assert_same(&writer, &replica);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_no_writes_and_says_where_they_go() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Rig::new(&dir.path().join("w")).await;
    let replica = replica(&dir.path().join("r"), "r", &writer, &[]).await;
    caught_up(&replica, &writer).await;
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/"),
        ("PUT", "/v2/a/manifests/x"),
        ("DELETE", "/v2/a/manifests/x"),
        ("DELETE", "/registry/vm?id=x"),
        ("PUT", "/registry/vm/arch"),
    ] {
        let refused = replica.ask(method, path).body("{}").send().await.unwrap();
        assert!(
            [403, 404, 400].contains(&refused.status().as_u16()),
            "{method} {path}: {}",
            refused.status()
        );
        if path.starts_with("/v2") {
            let text = refused.text().await.unwrap();
            assert!(text.contains(&writer.address.to_string()), "{method} {path}: {text}");
        }
    }
    let ready = replica.json("/readyz").await;
    assert_eq!((&ready["read"], &ready["write"], &ready["name"]), (&true.into(), &false.into(), &"r".into()));
    assert!(ready["why"].to_string().contains("replica"), "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_goes_on_while_its_writer_is_away_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Rig::new(&dir.path().join("w")).await;
    writer.image("kept", "v1", &[b"kept"]).await;
    let copy = replica(&dir.path().join("r"), "r", &writer, &[]).await;
    caught_up(&copy, &writer).await;
    let address = url(&writer);
    writer.stop().await;

    copy.assert_complete("kept", "v1").await;
    assert_eq!(header(&copy.get("/v2/kept/tags/list").await, "switchyard-position"), "1.4");
    copy.stop().await;
    // Without its writer it cannot know whether its history is still the writer's: it serves, and claims nothing.
    let copy =
        Rig::of(replica_config(&dir.path().join("r"), "r", address, Vec::new()), &dir.path().join("r")).await;
    copy.assert_complete("kept", "v1").await;
    assert_eq!(header(&copy.get("/v2/kept/tags/list").await, "switchyard-position"), "");
    assert_eq!(state(&copy).await["position"], Value::Null);
    eventually(SOON, "the reason", || async {
        let state = state(&copy).await;
        let says = state["why"].to_string().contains("cannot be reached");
        if says { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_no_change_needs_come_to_replicas_although_a_kill_swallowed_their_announcement() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Rig::new(&dir.path().join("w")).await;
    writer.image("a", "v1", &[b"layer"]).await;
    let copy = replica(&dir.path().join("r"), "r", &writer, &[]).await;
    caught_up(&copy, &writer).await;
    copy.stop().await;
    // One that the replica had passed and not fetched, and one that the writer was given and had not announced.
    let passed = writer.blob("a", &noise(8, 5_000_000)).await;
    let silent = writer.blob("b", b"of another").await;
    std::fs::write(writer.dir.join("repositories/a/_links").join(silent.hex()), b"").unwrap();

    let copy = replica(&dir.path().join("r"), "r", &writer, &[]).await;
    caught_up(&copy, &writer).await;
    eventually(SOON, "every link to be there", || async {
        let missing: Vec<_> = [passed, silent]
            .into_iter()
            .filter(|digest| !copy.dir.join("repositories/a/_links").join(digest.hex()).exists())
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    })
    .await;
    let blob = copy.get(&format!("/v2/a/blobs/{passed}")).await.bytes().await.unwrap();
    assert_eq!(blob, noise(8, 5_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_heals_a_damaged_catalogue_from_its_writer() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Rig::new(&dir.path().join("w")).await;
    for name in ["torn", "whole"] {
        writer.image(name, "v1", &[name.as_bytes()]).await;
    }
    let copy = replica(&dir.path().join("r"), "r", &writer, &[]).await;
    caught_up(&copy, &writer).await;
    copy.stop().await;
    std::fs::write(dir.path().join("r/repositories/torn/_catalogue.json"), "{\"v\":1,").unwrap();
    writer.image("torn", "v2", &[b"more"]).await;
    let copy = replica(&dir.path().join("r"), "r", &writer, &[]).await;
    eventually(SOON, "the catalogue to be healed", || async {
        let tags = copy.json("/v2/torn/tags/list").await;
        if tags["tags"] == serde_json::json!(["v1", "v2"]) { Ok(()) } else { Err(tags.to_string()) }
    })
    .await;
    caught_up(&copy, &writer).await;
    assert_same(&writer, &copy);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_is_not_the_writers_is_set_aside_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let old = Rig::new(&dir.path().join("old")).await;
    old.image("shared", "v1", &[b"before"]).await;
    let copy = replica(&dir.path().join("new"), "new", &old, &[]).await;
    caught_up(&copy, &old).await;
    copy.stop().await;
    // A tail that never left the old writer: another tag, and a repository of its own.
    old.image("shared", "lost", &[b"never copied"]).await;
    old.image("only/here", "v1", &[b"never copied either"]).await;
    old.stop().await;

    // The operator makes the replica the writer, and the old writer its replica.
    let new = Rig::of(config(&dir.path().join("new"), limits()), &dir.path().join("new")).await;
    assert_eq!(state(&new).await["epoch"], 2);
    new.image("shared", "v2", &[b"after"]).await;
    let old = replica(&dir.path().join("old"), "old", &new, &[]).await;
    caught_up(&old, &new).await;
    let tags = old.json("/v2/shared/tags/list").await;
    assert_eq!(tags["tags"], serde_json::json!(["v1", "v2"]));
    assert_eq!(old.get("/v2/only/here/tags/list").await.status(), StatusCode::NOT_FOUND);

    let state = state(&old).await;
    let aside = &state["aside"][0];
    assert_eq!(aside["repositories"], serde_json::json!(["only/here", "shared"]), "{state}");
    assert_eq!(aside["count"], 2);
    let path = Path::new(aside["path"].as_str().unwrap());
    let after = aside["common"].as_str().unwrap();
    let entries = std::fs::read_to_string(path.join(format!("entries-after-{after}.ndjson"))).unwrap();
    assert!(
        entries.contains("\"lost\"") && entries.contains("only/here") && !entries.contains("\"v2\""),
        "{entries}"
    );
    let file = format!("{}.json", switchyard::model::Digest::of(b"only/here").hex());
    let kept = std::fs::read_to_string(path.join(file)).unwrap();
    assert!(kept.contains("\"v1\""), "{kept}");
    // Known also after a restart.
    let dir_of_old = old.dir.clone();
    old.stop().await;
    let old = replica(&dir_of_old, "old", &new, &[]).await;
    assert_eq!(self::state(&old).await["aside"][0]["repositories"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_with_an_older_history_than_its_peers_takes_no_writes() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Rig::new(&dir.path().join("w")).await;
    writer.image("a", "v1", &[b"layer"]).await;
    let copy = replica(&dir.path().join("r"), "r", &writer, &[]).await;
    caught_up(&copy, &writer).await;
    writer.stop().await;
    std::fs::remove_dir_all(dir.path().join("w")).unwrap();

    let mut lost = config(&dir.path().join("w"), limits());
    let peers = vec![url(&copy)];
    lost.replication.role = Role::Writer { peers: peers.clone(), alone: false };
    let wiped = Rig::of(lost.clone(), &dir.path().join("w")).await;
    eventually(SOON, "the reason", || async {
        let ready = wiped.json("/readyz").await;
        let says = ready["read"] == false && ready["why"].to_string().contains("was its storage lost");
        if says { Ok(()) } else { Err(ready.to_string()) }
    })
    .await;
    let refused = wiped.ask("POST", "/v2/a/blobs/uploads/").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    // Nor is it believed: it says neither where it stands nor that something is not there, and gives no lease.
    let read = wiped.get("/v2/a/tags/list").await;
    assert_eq!((read.status().as_u16(), header(&read, "switchyard-position")), (503, String::new()));
    let head = wiped.get("/replication/v1/log?after=1.1&proxy=p").await.text().await.unwrap();
    assert!(head.contains("\"lease\":0"), "{head}");
    copy.assert_complete("a", "v1").await;
    wiped.stop().await;

    // An operator insists: a reign above all that the peers have seen begins.
    lost.replication.role = Role::Writer { peers, alone: true };
    let insisted = Rig::of(lost, &dir.path().join("w")).await;
    assert_eq!(state(&insisted).await["epoch"], 2);
    insisted.image("b", "v1", &[b"new"]).await;
}
