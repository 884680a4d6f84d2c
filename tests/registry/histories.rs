//! Histories that have nothing to do with each other, or that only one registry still has: whatever an operator mixes
//! up, nothing is lost without a word.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use reqwest::StatusCode;
use switchyard::config::{
    BaseUrl,
    registry::{Registry as Config, Role},
};

use crate::{
    replication::{SOON, assert_same, caught_up, replica, replica_config, state, url},
    rig::{Rig, config, files, limits},
    support::eventually::{eventually, never},
};

/// A registry that comes back at the same address.
fn config_at(dir: &Path, address: SocketAddr) -> Config {
    let mut config = config(dir, limits());
    config.server.listen = address;
    config
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// What was set aside for this repository, by all folders.
fn aside(dir: &Path, repository: &str) -> usize {
    let name = format!("{}.json", switchyard::model::Digest::of(repository.as_bytes()).hex());
    files(&dir.join("aside")).iter().filter(|file| file.ends_with(&name)).count()
}

/// Gives a registry's log only its newest entries.
fn compacted(dir: &Path) {
    let log = switchyard::registry::log::Log::open(&dir.join("log")).unwrap();
    assert!(log.compact(16, log.head().0).unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_writer_at_its_old_address_empties_no_replica() {
    let dir = tempfile::tempdir().unwrap();
    let (at, place) = (free_address(), dir.path().join("w"));
    let writer = Rig::of(config_at(&place, at), &place).await;
    writer.image("a", "v1", &[b"layer"]).await;
    let copy = replica(&dir.path().join("r"), "r", &writer, &[]).await;
    caught_up(&copy, &writer).await;
    writer.stop().await;
    std::fs::remove_dir_all(&place).unwrap();

    let mut config = config_at(&place, at);
    config.replication.role = Role::Writer { peers: vec![url(&copy)], alone: false };
    let wiped = Rig::of(config, &place).await;
    eventually(SOON, "the reason", || async {
        let ready = wiped.json("/readyz").await;
        if ready["why"].to_string().contains("was its storage lost") {
            Ok(())
        } else {
            Err(ready.to_string())
        }
    })
    .await;
    never(Duration::from_secs(5), "the replica keeps what it has", || async {
        let (tags, writes) = (copy.get("/v2/a/tags/list").await.status(), wiped.json("/readyz").await);
        if tags == StatusCode::OK && writes["write"] == false {
            Ok(())
        } else {
            Err(format!("{tags} {writes}"))
        }
    })
    .await;
    copy.assert_complete("a", "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_its_own_loses_nothing_by_becoming_a_replica() {
    for compact in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (one_dir, two_dir) = (dir.path().join("one"), dir.path().join("two"));
        let one = Rig::new(&one_dir).await;
        for n in 0..12 {
            one.image("of/one", &format!("v{n}"), &[format!("layer {n}").as_bytes()]).await;
        }
        one.stop().await;
        if compact {
            compacted(&one_dir);
        }
        let one = Rig::new(&one_dir).await;
        let two = Rig::new(&two_dir).await;
        // Its numbers are among the other's, and mean something else.
        two.image("of/two", "v1", &[b"x"]).await;
        two.image("more", "v1", &[b"y"]).await;
        two.stop().await;
        let two = replica(&two_dir, "two", &one, &[]).await;
        caught_up(&two, &one).await;
        assert_same_catalogues(&one, &two);
        assert_eq!((aside(&two_dir, "of/two"), aside(&two_dir, "more")), (1, 1), "compacted: {compact}");
        assert_eq!(state(&two).await["aside"][0]["count"], 2);
    }
}

/// Blobs that were set aside with their catalogue stay.
fn assert_same_catalogues(one: &Rig, two: &Rig) {
    let catalogues = |rig: &Rig| {
        let mut all: Vec<_> = files(&rig.dir.join("repositories"))
            .into_iter()
            .filter(|file| file.ends_with("_catalogue.json"))
            .map(|file| (file.strip_prefix(&rig.dir).unwrap().to_owned(), std::fs::read(&file).unwrap()))
            .collect();
        all.sort();
        all
    };
    assert_eq!(catalogues(one), catalogues(two));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_was_filled_before_its_log_was_lost_becomes_a_replica() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Rig::new(&dir.path().join("w")).await;
    writer.image("a", "v1", &[b"writer's"]).await;
    let place = dir.path().join("two");
    let two = Rig::new(&place).await;
    two.image("a", "mine", &[b"x"]).await;
    two.image("mine", "v1", &[b"x"]).await;
    two.stop().await;
    std::fs::remove_dir_all(place.join("log")).unwrap();
    let two = replica(&place, "two", &writer, &[]).await;
    caught_up(&two, &writer).await;
    assert_eq!((aside(&place, "a"), aside(&place, "mine")), (1, 1));
    writer.image("a", "v2", &[b"writer's 2"]).await;
    caught_up(&two, &writer).await;
    assert_same_catalogues(&writer, &two);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_damaged_at_the_writer_is_not_deleted_at_its_replicas() {
    let dir = tempfile::tempdir().unwrap();
    let (place, at) = (dir.path().join("w"), free_address());
    let writer = Rig::of(config_at(&place, at), &place).await;
    writer.image("torn", "v1", &[b"torn"]).await;
    let copy = replica(&dir.path().join("r"), "r", &writer, &[]).await;
    caught_up(&copy, &writer).await;
    copy.stop().await;
    for n in 0..12 {
        writer.image("many", &format!("t{n}"), &[format!("l{n}").as_bytes()]).await;
    }
    writer.stop().await;
    compacted(&place);
    let good = std::fs::read(place.join("repositories/torn/_catalogue.json")).unwrap();
    std::fs::write(place.join("repositories/torn/_catalogue.json"), "{").unwrap();
    let writer = Rig::of(config_at(&place, at), &place).await;
    let copy = replica(&dir.path().join("r"), "r", &writer, &[]).await;
    eventually(SOON, "the reason", || async {
        let state = state(&copy).await;
        if state["why"].to_string().contains("`torn` cannot be read") {
            Ok(())
        } else {
            Err(state.to_string())
        }
    })
    .await;
    copy.assert_complete("torn", "v1").await;
    writer.stop().await;
    std::fs::write(place.join("repositories/torn/_catalogue.json"), good).unwrap();
    let writer = Rig::of(config_at(&place, at), &place).await;
    caught_up(&copy, &writer).await;
    assert_same(&writer, &copy);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_name_is_set_aside_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let one = Rig::new(&dir.path().join("one")).await;
    one.image("of/one", "v1", &[b"1", b"2"]).await;
    let place = dir.path().join("two");
    let two = Rig::new(&place).await;
    let long = vec!["ab"; 84].join("/");
    two.image(&long, "v1", &[b"x"]).await;
    two.stop().await;
    let two = replica(&place, "two", &one, &[]).await;
    caught_up(&two, &one).await;
    assert_eq!(aside(&place, &long), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_not_heard_of_its_writer_gives_its_history_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("old");
    let old = Rig::new(&place).await;
    old.image("shared", "v1", &[b"before"]).await;
    old.image("shared", "lost", &[b"never copied"]).await;
    old.stop().await;
    // The new writer cannot be reached, and the old one is its replica, as is a new registry that knows the old one.
    let away: BaseUrl = format!("http://{}", free_address()).parse().unwrap();
    let old = Rig::of(replica_config(&place, "old", away.clone(), Vec::new()), &place).await;
    assert_eq!(state(&old).await["unconfirmed"], "1.7");
    let place = dir.path().join("fresh");
    let fresh = Rig::of(replica_config(&place, "fresh", away, vec![url(&old)]), &place).await;
    eventually(SOON, "both to be asked", || async {
        let state = state(&fresh).await;
        let why = state["why"].to_string();
        let asked = why.contains("cannot be reached") && why.contains("has not heard of its writer");
        if asked { Ok(()) } else { Err(why) }
    })
    .await;
    assert_eq!(state(&fresh).await["position"], serde_json::Value::Null);
    assert_eq!(fresh.get("/v2/shared/tags/list").await.status(), StatusCode::SERVICE_UNAVAILABLE);
}
