//! What an upload may take: how many, how old, how slow, and whose.

use std::time::Duration;

use switchyard::{
    config::{proxy::Network, registry::Limits},
    model::Digest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    rig::{Rig, files, header, limits, refusal},
    support::eventually::eventually,
};

const SOON: Duration = Duration::from_secs(20);

async fn begin(rig: &Rig, client: &str) -> reqwest::Response {
    rig.ask("POST", "/v2/a/blobs/uploads/").header("x-forwarded-for", client).send().await.unwrap()
}

async fn metric(rig: &Rig, line: &str) -> String {
    let text = rig.get("/metrics").await.text().await.unwrap();
    text.lines().find_map(|one| one.strip_prefix(line)).unwrap_or(" 0").trim().to_owned()
}

fn behind_a_proxy() -> Limits {
    let loopback = Network { address: "127.0.0.0".parse().unwrap(), bits: 8 };
    Limits { uploads_per_client: Some(2), trusted: vec![loopback], ..limits() }
}

#[tokio::test]
async fn one_client_has_a_bounded_number_of_uploads_and_others_their_own() {
    const REFUSED: &str = "switchyard_registry_uploads_refused_total{why=\"client\"}";
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(dir.path(), behind_a_proxy()).await;
    let session = header(&begin(&rig, "192.0.2.1").await, "location");
    // What a client writes there itself does not count, only what the proxy put behind it.
    assert_eq!(begin(&rig, "198.51.100.9, 192.0.2.1").await.status(), 202);
    let third = begin(&rig, "192.0.2.1").await;
    assert_eq!(header(&third, "retry-after"), "5");
    assert_eq!(refusal(third).await, (429, "TOOMANYREQUESTS".into()));
    let whole = format!("/v2/a/blobs/uploads/?digest={}", Digest::of(b"x"));
    let whole =
        rig.ask("POST", &whole).header("x-forwarded-for", "192.0.2.1").body("x").send().await.unwrap();
    assert_eq!(whole.status(), 429);
    assert_eq!(begin(&rig, "192.0.2.2").await.status(), 202);
    assert_eq!(metric(&rig, REFUSED).await, "2");

    // They are still theirs after a restart.
    rig.stop().await;
    let rig = Rig::with(dir.path(), behind_a_proxy()).await;
    assert_eq!(begin(&rig, "192.0.2.1").await.status(), 429);
    assert_eq!(rig.ask("DELETE", &session).send().await.unwrap().status(), 204);
    assert_eq!(begin(&rig, "192.0.2.1").await.status(), 202);
}

#[tokio::test]
async fn who_is_not_trusted_does_not_say_who_the_client_is() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(dir.path(), Limits { trusted: Vec::new(), ..behind_a_proxy() }).await;
    for client in ["192.0.2.1", "192.0.2.2"] {
        assert_eq!(begin(&rig, client).await.status(), 202);
    }
    assert_eq!(refusal(begin(&rig, "192.0.2.3").await).await, (429, "TOOMANYREQUESTS".into()));
}

#[tokio::test]
async fn an_upload_that_was_begun_too_long_ago_goes_although_bytes_come() {
    const EXPIRED: &str = "switchyard_registry_uploads_expired_total{why=\"age\"}";
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(dir.path(), Limits { upload_age: Duration::from_millis(600), ..limits() }).await;
    let session = rig.session("old").await;
    assert_eq!(rig.ask("PATCH", &session).body("some").send().await.unwrap().status(), 202);
    eventually(SOON, "the session to go", || async {
        match rig.ask("PATCH", &session).body("more").send().await.unwrap().status().as_u16() {
            404 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    eventually(SOON, "it to be counted", || async {
        let count = metric(&rig, EXPIRED).await;
        if count == "1" { Ok(()) } else { Err(count) }
    })
    .await;
    assert!(files(&dir.path().join("uploads")).is_empty());
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up_and_what_came_stays() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(dir.path(), Limits { body_idle: Duration::from_millis(300), ..limits() }).await;
    let session = rig.session("slow").await;
    let mut wire = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let head = format!("PATCH {session} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n12345");
    wire.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(SOON, wire.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("BLOB_UPLOAD_INVALID"), "{answer}");
    eventually(SOON, "what came", || async {
        let range = header(&rig.get(&session).await, "range");
        if range == "0-4" { Ok(()) } else { Err(range) }
    })
    .await;
}
