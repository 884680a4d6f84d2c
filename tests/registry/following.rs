//! What proxies and replicas ask of a writer: the log, leases, states, blobs; and what it says to nonsense.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use switchyard::{
    clock,
    model::Digest,
    registry::writer::leases::{AT_WRITER, PARKED},
};

use crate::rig::{Rig, header, noise};

async fn lines(rig: &Rig, path: &str) -> Vec<Value> {
    let answer = rig.get(path).await;
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    let text = answer.text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_told_what_changed_and_given_a_lease() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let head = lines(&rig, "/replication/v1/log?proxy=p").await.remove(0);
    assert_eq!((&head["head"], &head["lease"], &head["lines"]), (&json!("1.1"), &json!(0), &json!(0)));

    let from = |head: &Value| {
        let text = |key: &str| head[key].as_str().unwrap().to_owned();
        format!("/replication/v1/log?after={}&mark={}&proxy=p&wait=660", text("upto"), text("mark"))
    };
    let next = from(&head);
    let parked = lines(&rig, &next).await;
    assert_eq!((parked.len(), &parked[0]["lease"]), (1, &json!(2000)), "{parked:?}");

    // A push waits for it; the poll that is parked brings the change at once.
    let began = clock::now();
    let push = rig.image("a/b", "v1", &[b"layer"]);
    let follow = async {
        let mut next = next.clone();
        loop {
            let mut told = lines(&rig, &next).await;
            let head = told.remove(0);
            next = from(&head);
            if let Some(change) = told.pop() {
                assert_eq!((&change["repository"], &change["position"]), (&json!("a/b"), &head["upto"]));
                // The next poll confirms.
                lines(&rig, &next).await;
                return;
            }
        }
    };
    tokio::join!(push, follow);
    let took = clock::now() - began;
    assert!(took < AT_WRITER, "confirmed, not waited out: {took:?}");

    // Now it is silent: the next push waits until its lease has ended, and no longer.
    let began = clock::now();
    rig.image("a/b", "v2", &[b"layer"]).await;
    let took = clock::now() - began;
    assert!(took > AT_WRITER - PARKED * 2 && took < AT_WRITER + Duration::from_secs(2), "{took:?}");
    let began = clock::now();
    rig.image("a/b", "v3", &[b"layer"]).await;
    assert!(clock::now() - began < Duration::from_secs(1), "a slow proxy delays one push");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_given_up_is_not_waited_for_and_one_of_a_run_before_is() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    lines(&rig, "/replication/v1/log?after=1.1&proxy=p&wait=0").await;
    let released = rig.ask("DELETE", "/replication/v1/lease?proxy=p").send().await.unwrap();
    assert_eq!(released.status(), StatusCode::NO_CONTENT);
    let began = clock::now();
    rig.image("a", "v1", &[b"layer"]).await;
    assert!(clock::now() - began < Duration::from_secs(1));

    let rig = rig.restarted().await;
    let began = clock::now();
    rig.image("a", "v2", &[b"layer"]).await;
    let took = clock::now() - began;
    assert!(took > Duration::from_secs(2), "leases of the run before may be live: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_position_is_told_from_an_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image("a", "v1", &[b"layer"]).await;
    for (query, common) in [
        ("after=1.99", json!("1.4")),
        ("after=7.1", json!("1.4")),
        ("after=1.2&mark=00000000000000000000000000000000", Value::Null),
    ] {
        let answer = rig.get(&format!("/replication/v1/log?{query}")).await;
        assert_eq!(answer.status(), StatusCode::CONFLICT, "{query}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!((&body["common"], &body["head"]), (&common, &json!("1.4")), "{query}");
        assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()));
    }
    // A proxy of another history gets no lease by asking.
    let answer = rig.get("/replication/v1/log?after=1.99&proxy=stranger").await;
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    let state: Value = rig.json("/replication/v1/state").await;
    assert_eq!(state["followers"], json!([]), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let long = "x".repeat(500);
    for path in [
        "/replication/v1/log?after=x",
        "/replication/v1/log?after=1",
        "/replication/v1/log?after=1.1&mark=zz",
        "/replication/v1/log?after=1.1&wait=-1",
        &format!("/replication/v1/log?after=1.1&proxy={long}"),
        "/replication/v1/log?after=1.1&proxy=",
        "/replication/v1/log?after=1.1&proxy=a%0Ab",
        "/replication/v1/state?after=1",
        "/replication/v1/blobs/x",
        "/replication/v1/blobs/sha512:00/chunks",
    ] {
        let answer = rig.get(path).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
        let body: Value = answer.json().await.unwrap();
        assert!(body["error"].as_str().is_some_and(|text| text.len() > 5), "{path}: {body}");
    }
    let missing = rig.ask("DELETE", "/replication/v1/lease").send().await.unwrap();
    assert_eq!(missing.status(), StatusCode::BAD_REQUEST);
    let unknown = rig.get(&format!("/replication/v1/blobs/{}", Digest::of(b"unknown"))).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        rig.ask("POST", "/replication/v1/log").send().await.unwrap().status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_given_by_range_with_the_list_that_checks_them() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let data = noise(5, 9_000_000);
    let digest = rig.blob("a", &data).await;
    let list = rig.get(&format!("/replication/v1/blobs/{digest}/chunks")).await;
    assert_eq!(header(&list, "switchyard-blob-size"), "9000000");
    let list = list.bytes().await.unwrap();
    assert_eq!(list.len(), 32 * 4, "three chunks and the list's own digest");
    let part =
        rig.ask("GET", &format!("/replication/v1/blobs/{digest}")).header("range", "bytes=4194304-8388607");
    let part = part.send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    let part = part.bytes().await.unwrap();
    assert_eq!(part, data[4_194_304..8_388_608]);
    assert_eq!(Digest::of(&part).as_bytes(), &list[32..64]);

    // Every change and every blob stands in the log, each after the one before it.
    rig.image("a", "v1", &[b"x"]).await;
    let entries = lines(&rig, "/replication/v1/log?after=0.0&replica=r&applied=0.0&wait=0").await;
    let (head, entries) = entries.split_first().unwrap();
    assert_eq!(head["lines"], entries.len());
    let kinds: Vec<&str> = entries.iter().filter_map(|entry| entry["change"].as_str()).collect();
    assert_eq!(kinds, ["opened", "blob", "blob", "blob", "published"]);
    assert_eq!(entries[1]["blobs"][0]["chunks"], Digest::of(&list[..96]).to_string());
    for two in entries.windows(2) {
        assert_eq!(two[1]["prev"], two[0]["position"]);
    }
    let patch = &entries[4]["patch"];
    assert_eq!((&patch["generation"], &patch["changed"]), (&json!(1), &entries[4]["position"]));
    let state = rig.json("/replication/v1/state").await;
    assert_eq!(state["followers"][0]["name"], "r", "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_its_position_and_reads_when_what_they_show_changed() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image("a", "v1", &[b"layer"]).await;
    rig.image("b", "v1", &[b"layer"]).await;
    for (path, changed) in [
        ("/v2/a/manifests/v1", "1.4"),
        ("/v2/a/tags/list", "1.4"),
        ("/v2/b/tags/list", "1.7"),
        ("/v2/_catalog", "1.7"),
        ("/registry/v2/vm", "1.7"),
        ("/v2/", ""),
        ("/v2/unknown/tags/list", ""),
        ("/registry/vm/", ""),
        ("/strange", ""),
    ] {
        let answer = rig.get(path).await;
        assert_eq!(header(&answer, "switchyard-position"), "1.7", "{path}");
        assert_eq!(header(&answer, "switchyard-changed"), changed, "{path}");
    }
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("switchyard_registry_position{part=\"seq\"} 7"), "{metrics}");
}
