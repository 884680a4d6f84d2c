//! Every refusal: its status, its code, its format.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use switchyard::{config::registry::Limits, model::Digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    rig::{MANIFEST, Rig, files, header, image, limits, refusal},
    support::eventually::eventually,
};

#[tokio::test]
async fn what_is_not_there_is_named_as_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image("there", "a", &[]).await;
    let none = Digest::of(b"none");
    for (path, status, code) in [
        ("/v2/nowhere/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/nowhere/manifests/a".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/there/manifests/b".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/there/manifests/{none}"), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/there/blobs/{none}"), 404, "BLOB_UNKNOWN"),
        ("/v2/there/blobs/sha256:12".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/there/blobs/sha512:12".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/there/manifests/.a".to_owned(), 400, "MANIFEST_INVALID"),
        ("/v2/-x/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a%2F..%2Fb/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("/v2/there/blobs/uploads/r1.nothing".to_owned(), 404, "BLOB_UPLOAD_UNKNOWN"),
        ("/v2/there/blobs/uploads/../../x".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/there/things".to_owned(), 404, "UNSUPPORTED"),
    ] {
        assert_eq!(refusal(rig.get(&path).await).await, (status, code.into()), "{path}");
    }
    let wrong = rig.ask("DELETE", "/v2/there/tags/list").send().await.unwrap();
    assert_eq!(header(&wrong, "allow"), "GET, HEAD");
    assert_eq!(refusal(wrong).await, (405, "UNSUPPORTED".into()));
    let page = rig.get("/nothing/here").await;
    assert_eq!(page.status(), StatusCode::NOT_FOUND);
    assert_eq!(page.text().await.unwrap(), "404 page not found\n");
}

#[tokio::test]
async fn a_manifest_is_refused_for_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(dir.path(), Limits { manifest: 2000, ..limits() }).await;
    rig.blob("m", b"{}").await;
    rig.blob("elsewhere", b"layer").await;
    let with = |change: fn(&mut Value)| {
        let mut manifest = image(b"{}", &[]);
        change(&mut manifest);
        manifest.to_string()
    };
    let cases = [
        ("not json".to_owned(), "a", 400, "MANIFEST_INVALID"),
        ("[]".to_owned(), "a", 400, "MANIFEST_INVALID"),
        (String::new(), "a", 400, "MANIFEST_INVALID"),
        (with(|m| m["layers"] = json!("x")), "a", 400, "MANIFEST_INVALID"),
        (with(|m| m["config"]["digest"] = json!("sha512:00")), "a", 400, "DIGEST_INVALID"),
        (with(|m| m["config"]["size"] = json!(3)), "a", 400, "SIZE_INVALID"),
        (image(b"missing", &[]).to_string(), "a", 400, "MANIFEST_BLOB_UNKNOWN"),
        (image(b"{}", &[b"missing"]).to_string(), "a", 400, "MANIFEST_BLOB_UNKNOWN"),
        // Another repository's blob is not this one's.
        (image(b"{}", &[b"layer"]).to_string(), "a", 400, "MANIFEST_BLOB_UNKNOWN"),
        (with(|_| ()), &Digest::of(b"other").to_string(), 400, "DIGEST_INVALID"),
        (with(|m| m["annotations"] = json!({ "long": "x".repeat(3000) })), "a", 413, "SIZE_INVALID"),
    ];
    for (body, reference, status, code) in cases {
        let put = rig.ask("PUT", &format!("/v2/m/manifests/{reference}")).header("content-type", MANIFEST);
        let put = put.body(body.clone()).send().await.unwrap();
        assert_eq!(refusal(put).await, (status, code.into()), "{body}");
    }
    assert_eq!(rig.get("/v2/m/tags/list").await.status(), StatusCode::NOT_FOUND, "nothing of it is visible");
    // A subject need not be here, and a layer that lies elsewhere need not either.
    let mut odd = image(b"{}", &[b"missing"]);
    odd["layers"][0]["urls"] = json!(["https://example.com/x"]);
    odd["subject"] = json!({ "mediaType": MANIFEST, "digest": Digest::of(b"s").to_string(), "size": 1 });
    assert_eq!(rig.put_manifest("m", "odd", &odd).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_torn_manifest_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.blob("torn", b"{}").await;
    let manifest = image(b"{}", &[]).to_string();
    let mut raw = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let head = format!(
        "PUT /v2/torn/manifests/a HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        manifest.len() + 9
    );
    raw.write_all(head.as_bytes()).await.unwrap();
    raw.write_all(manifest.as_bytes()).await.unwrap();
    raw.shutdown().await.unwrap();
    let mut answer = Vec::new();
    raw.read_to_end(&mut answer).await.unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(rig.get("/v2/torn/tags/list").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn sessions_are_bounded_and_idle_ones_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { uploads: 3, upload_idle: Duration::from_millis(1500), ..limits() };
    let rig = Rig::with(dir.path(), limits).await;
    for _ in 0..3 {
        rig.session("many").await;
    }
    let refused = rig.ask("POST", "/v2/many/blobs/uploads/").send().await.unwrap();
    assert_eq!(header(&refused, "retry-after"), "5");
    assert_eq!(refusal(refused).await, (429, "TOOMANYREQUESTS".into()));
    eventually(Duration::from_secs(20), "idle sessions to be thrown away", || async {
        let left = files(&dir.path().join("uploads"));
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    rig.session("many").await;
}

#[tokio::test]
async fn an_upload_larger_than_the_disk_is_refused_before_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let session = rig.session("huge").await;
    for line in [
        format!("PATCH {session}"),
        format!("PUT {session}?digest={}", Digest::of(b"x")),
        format!("POST /v2/huge/blobs/uploads/?digest={}", Digest::of(b"x")),
    ] {
        let mut raw = tokio::net::TcpStream::connect(rig.address).await.unwrap();
        // No byte of the body is sent, and a client that asks first is not told to go on.
        let head = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 999999999999999\r\n\r\n"
        );
        raw.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let got =
            tokio::time::timeout(Duration::from_secs(10), raw.read(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer[..got]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 507"), "{answer}");
        assert!(answer.contains(r#""needed":"#) && answer.contains("free"), "{answer}");
    }
    assert_eq!(header(&rig.get(&session).await, "range"), "0-0", "the session is still there");
}

#[tokio::test]
async fn a_refused_sender_reads_why_although_it_was_still_sending() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let body = vec![0u8; 8_000_000];
    let refused = rig.ask("PATCH", "/v2/x/blobs/uploads/r1.none").body(body.clone()).send().await.unwrap();
    assert_eq!(refusal(refused).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
    let refused = rig.ask("PUT", "/v2/x/manifests/a").body(body).send().await.unwrap();
    assert_eq!(refusal(refused).await, (413, "SIZE_INVALID".into()));
}

#[tokio::test]
async fn live_ready_and_metrics_tell_what_is() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image("seen", "a", &[b"layer"]).await;
    assert_eq!(rig.get("/livez").await.status(), StatusCode::OK);
    assert_eq!(
        rig.json("/readyz").await,
        json!({ "ready": true, "read": true, "write": true, "why": [], "name": "r1" })
    );
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("switchyard_registry_manifests_total 1"), "{metrics}");
    assert!(metrics.contains(r#"switchyard_http_requests_total{role="registry",status="2xx"}"#), "{metrics}");
    drop(rig);

    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(dir.path(), Limits { reserve: u64::MAX / 2, ..limits() }).await;
    let ready = rig.get("/readyz").await;
    assert_eq!(ready.status(), StatusCode::OK, "it can still be read from");
    let ready: Value = ready.json().await.unwrap();
    assert_eq!((&ready["read"], &ready["write"]), (&json!(true), &json!(false)));
    assert!(ready["why"][0].as_str().unwrap().contains(" free < "), "{ready}");
    let refused = rig.ask("POST", "/v2/a/blobs/uploads/").send().await.unwrap();
    assert_eq!(refusal(refused).await.0, 507);
}
