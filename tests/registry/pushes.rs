//! Pushes: at once, in chunks, resumed, mounted, at the same time.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use switchyard::{model::Digest, registry::content::CHUNK};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    rig::{MANIFEST, Rig, files, header, image, noise, refusal},
    support::eventually::eventually,
};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_base_answers_and_names_the_api() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    for path in ["/v2/", "/v2"] {
        let base = rig.get(path).await;
        assert_eq!(base.status(), StatusCode::OK);
        assert_eq!(header(&base, "docker-distribution-api-version"), "registry/2.0");
    }
}

#[tokio::test]
async fn a_blob_pushed_at_once_is_there_with_its_chunk_list() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let big = noise(1, CHUNK as usize * 2 + 5);
    let digest = rig.blob("a/b", &big).await;
    assert_eq!(rig.get(&format!("/v2/a/b/blobs/{digest}")).await.bytes().await.unwrap(), big);
    let hex = digest.hex();
    let list = std::fs::read(dir.path().join(format!("blobs/sha256/{}/{hex}.chunks", &hex[..2]))).unwrap();
    let list = switchyard::registry::content::ChunkList::from_bytes(&list).unwrap();
    assert_eq!(list.0, big.chunks(CHUNK as usize).map(Digest::of).collect::<Vec<_>>());
    assert!(files(&dir.path().join("uploads")).is_empty());
}

#[tokio::test]
async fn a_blob_goes_in_chunks_and_is_finished_with_or_without_a_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    for last in [false, true] {
        let data = noise(2 + u64::from(last), 700_000);
        let session = rig.session("chunked").await;
        assert!(
            session.starts_with("/v2/chunked/blobs/uploads/r1."),
            "the session names its registry: {session}"
        );
        let first =
            rig.ask("PATCH", &session).header("content-range", "0-299999").body(data[..300_000].to_vec());
        let first = first.send().await.unwrap();
        assert_eq!((first.status(), header(&first, "range").as_str()), (StatusCode::ACCEPTED, "0-299999"));
        assert_eq!(header(&first, "location"), session);
        let status = rig.get(&session).await;
        assert_eq!(
            (status.status(), header(&status, "range").as_str()),
            (StatusCode::NO_CONTENT, "0-299999")
        );
        let rest = data[300_000..].to_vec();
        let path = format!("{session}?digest={}", Digest::of(&data));
        let end = if last {
            rig.ask("PUT", &path).header("content-range", "300000-699999").body(rest).send().await.unwrap()
        } else {
            let streamed = rig.ask("PATCH", &session).body(rest).send().await.unwrap();
            assert_eq!(streamed.status(), StatusCode::ACCEPTED);
            rig.ask("PUT", &path).send().await.unwrap()
        };
        assert_eq!(end.status(), StatusCode::CREATED);
        assert_eq!(header(&end, "docker-content-digest"), Digest::of(&data).to_string());
        assert_eq!(rig.get(&header(&end, "location")).await.bytes().await.unwrap(), data);
        assert_eq!(refusal(rig.get(&session).await).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
    }
}

#[tokio::test]
async fn a_chunk_out_of_order_is_refused_and_told_where_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let session = rig.session("order").await;
    let patch = |range: &str, len: usize| {
        rig.ask("PATCH", &session).header("content-range", range).body(vec![7; len])
    };
    assert_eq!(patch("0-9", 10).send().await.unwrap().status(), StatusCode::ACCEPTED);
    for wrong in ["0-9", "11-20"] {
        let refused = patch(wrong, 10).send().await.unwrap();
        assert_eq!(header(&refused, "range"), "0-9");
        assert_eq!(header(&refused, "location"), session);
        assert_eq!(refusal(refused).await, (416, "BLOB_UPLOAD_INVALID".into()));
    }
    assert_eq!(refusal(patch("10-29", 10).send().await.unwrap()).await, (400, "SIZE_INVALID".into()));
    assert_eq!(refusal(patch("ten-29", 10).send().await.unwrap()).await, (400, "BLOB_UPLOAD_INVALID".into()));
    assert_eq!(patch("10-19", 10).send().await.unwrap().status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_wrong_digest_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let wrong = Digest::of(b"something else");
    let path = format!("/v2/wrong/blobs/uploads/?digest={wrong}");
    let refused = rig.ask("POST", &path).body("data").send().await.unwrap();
    assert_eq!(refusal(refused).await, (400, "DIGEST_INVALID".into()));
    let session = rig.session("wrong").await;
    let refused = rig.ask("PUT", &format!("{session}?digest={wrong}")).body("data").send().await.unwrap();
    assert_eq!(refusal(refused).await, (400, "DIGEST_INVALID".into()));
    assert_eq!(refusal(rig.get(&session).await).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
    assert_eq!(rig.get(&format!("/v2/wrong/blobs/{wrong}")).await.status(), StatusCode::NOT_FOUND);
    assert!(files(&dir.path().join("uploads")).is_empty());
    assert!(files(&dir.path().join("blobs")).is_empty());
}

#[tokio::test]
async fn a_cancelled_session_is_gone_with_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let session = rig.session("cancel").await;
    rig.ask("PATCH", &session).body("data").send().await.unwrap();
    assert_eq!(rig.ask("DELETE", &session).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(refusal(rig.ask("DELETE", &session).send().await.unwrap()).await.0, 404);
    assert!(files(&dir.path().join("uploads")).is_empty());
}

#[tokio::test]
async fn a_session_is_of_one_repository() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let session = rig.session("mine").await.replace("/mine/", "/yours/");
    let refused = rig.ask("PATCH", &session).body("x").send().await.unwrap();
    assert_eq!(refusal(refused).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository_or_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let digest = rig.blob("from", b"layer").await;
    assert_eq!(rig.get(&format!("/v2/to/blobs/{digest}")).await.status(), StatusCode::NOT_FOUND);
    let mount = |query: String| rig.ask("POST", &format!("/v2/to/blobs/uploads/?{query}")).send();
    for fallback in
        [format!("mount={digest}"), format!("mount={digest}&from=nowhere"), format!("mount={digest}&from=..")]
    {
        let began = mount(fallback).await.unwrap();
        assert_eq!(began.status(), StatusCode::ACCEPTED);
        assert!(header(&began, "location").starts_with("/v2/to/blobs/uploads/"));
    }
    let mounted = mount(format!("mount={digest}&from=from")).await.unwrap();
    assert_eq!(mounted.status(), StatusCode::CREATED);
    assert_eq!(rig.get(&header(&mounted, "location")).await.text().await.unwrap(), "layer");
}

#[tokio::test]
async fn a_client_that_goes_away_can_resume_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let data = noise(5, 3_000_000);
    let session = rig.session("torn").await;
    // A body cut in the middle, both with a length and in chunks.
    for (n, head) in
        ["content-length: 2000000\r\n\r\n", "transfer-encoding: chunked\r\n\r\nf4240\r\n"].iter().enumerate()
    {
        let mut raw = tokio::net::TcpStream::connect(rig.address).await.unwrap();
        raw.write_all(format!("PATCH {session} HTTP/1.1\r\nhost: x\r\n{head}").as_bytes()).await.unwrap();
        raw.write_all(&data[n * 1_000_000..(n + 1) * 1_000_000 - 100]).await.unwrap();
        let had = format!("0-{}", (n + 1) * 1_000_000 - 100 - 1);
        raw.shutdown().await.unwrap();
        eventually(SOON, "what came to be in the session", || async {
            let range = header(&rig.get(&session).await, "range");
            if range == had { Ok(()) } else { Err(range) }
        })
        .await;
        let from = (n + 1) * 1_000_000 - 100;
        let fill = rig.ask("PATCH", &session).header("content-range", format!("{from}-{}", from + 99));
        let filled = fill.body(data[from..from + 100].to_vec()).send().await.unwrap();
        assert_eq!(filled.status(), StatusCode::ACCEPTED);
    }
    let end = rig.ask("PUT", &format!("{session}?digest={}", Digest::of(&data)));
    let end = end.body(data[2_000_000..].to_vec()).send().await.unwrap();
    assert_eq!(end.status(), StatusCode::CREATED, "{}", end.text().await.unwrap());
}

#[tokio::test]
async fn a_stalled_connection_does_not_block_who_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let session = rig.session("stuck").await;
    let mut stuck = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let head = format!("PATCH {session} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc");
    stuck.write_all(head.as_bytes()).await.unwrap();
    let data = b"0123456789";
    let put = rig.ask("PATCH", &session).body(data.to_vec());
    let resumed = tokio::time::timeout(SOON, put.send()).await.expect("no wait for the stalled one").unwrap();
    assert_eq!(resumed.status(), StatusCode::ACCEPTED);
    let mut answer = String::new();
    tokio::time::timeout(SOON, stuck.read_to_string(&mut answer)).await.expect("it is told").unwrap();
    assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
    // Whatever of the stalled one was taken before, it is before ours and nothing came after.
    let range = header(&rig.get(&session).await, "range");
    assert!(["0-9", "0-12"].contains(&range.as_str()), "{range}");
}

#[tokio::test]
async fn a_push_at_once_that_is_cut_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let path = format!("/v2/cut/blobs/uploads/?digest={}", Digest::of(b"x"));
    let mut raw = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc");
    raw.write_all(head.as_bytes()).await.unwrap();
    eventually(SOON, "the upload to begin", || async {
        if files(&dir.path().join("uploads")).is_empty() { Err("not yet") } else { Ok(()) }
    })
    .await;
    drop(raw);
    eventually(SOON, "the upload to be swept", || async {
        let left = files(&dir.path().join("uploads"));
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_blob_and_tag_from_many_at_once_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let data = noise(9, 1_500_000);
    let pushes = (0..8).map(|_| rig.blob("same", &data));
    let digests = futures_util::future::join_all(pushes).await;
    assert!(digests.iter().all(|digest| *digest == Digest::of(&data)));
    let shown = files(&dir.path().join("blobs"));
    assert_eq!(shown.len(), 1, "{shown:?}");

    rig.blob("same", b"{}").await;
    let manifests: Vec<_> = (0..8)
        .map(|n| {
            let mut manifest = image(b"{}", &[&data]);
            manifest["annotations"] = json!({ "n": n.to_string() });
            manifest
        })
        .collect();
    let puts = manifests.iter().enumerate().flat_map(|(n, manifest)| {
        [
            rig.put_manifest("same", "latest", manifest),
            rig.put_manifest("same", ["a", "b", "c", "d", "e", "f", "g", "h"][n], manifest),
        ]
    });
    for put in futures_util::future::join_all(puts).await {
        assert_eq!(put.status(), StatusCode::CREATED);
    }
    rig.assert_complete("same", "latest").await;
    let list = rig.json("/v2/same/tags/list").await;
    assert_eq!(list["tags"], json!(["a", "b", "c", "d", "e", "f", "g", "h", "latest"]));
    let template = &rig.json("/registry/v2/vm").await["body"][0]["id"];
    let shown = rig.json(&format!("/registry/v2/vm?id={}", template.as_str().unwrap())).await;
    let numbers: Vec<_> =
        shown["body"]["versions"].as_array().unwrap().iter().map(|v| v["number"].as_i64()).collect();
    assert_eq!(numbers, (0..9).map(Some).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_index_needs_its_manifests_and_a_subject_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let child = rig.image("multi", "one", &[b"layer"]).await;
    let size = rig.get(&format!("/v2/multi/manifests/{child}")).await.bytes().await.unwrap().len();
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{ "mediaType": MANIFEST, "digest": child.to_string(), "size": size }] });
    let put = rig.put_manifest("multi", "all", &index).await;
    assert_eq!(put.status(), StatusCode::CREATED);
    assert_eq!(
        refusal(rig.put_manifest("other", "all", &index).await).await,
        (400, "MANIFEST_BLOB_UNKNOWN".into())
    );

    rig.blob("multi", b"{}").await;
    let mut signature = image(b"{}", &[]);
    signature["artifactType"] = json!("application/x-signature");
    signature["annotations"] = json!({ "by": "me" });
    signature["subject"] = json!({ "mediaType": MANIFEST, "digest": child.to_string(), "size": size });
    let digest = Digest::of(signature.to_string().as_bytes());
    let put = rig.put_manifest("multi", &digest.to_string(), &signature).await;
    assert_eq!((put.status(), header(&put, "oci-subject")), (StatusCode::CREATED, child.to_string()));
    let list = rig.json(&format!("/v2/multi/referrers/{child}")).await;
    assert_eq!(list["manifests"][0]["digest"], digest.to_string());
    assert_eq!(list["manifests"][0]["artifactType"], "application/x-signature");
    assert_eq!(list["manifests"][0]["annotations"], json!({ "by": "me" }));
    let filtered = rig.get(&format!("/v2/multi/referrers/{child}?artifactType=other")).await;
    assert_eq!(header(&filtered, "oci-filters-applied"), "artifactType");
    assert_eq!(header(&filtered, "content-type"), "application/vnd.oci.image.index.v1+json");
    assert_eq!(filtered.json::<serde_json::Value>().await.unwrap()["manifests"], json!([]));
    assert_eq!(rig.json(&format!("/v2/none/referrers/{child}")).await["manifests"], json!([]));
}
