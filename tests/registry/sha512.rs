//! Content that its client names by sha512: every way in and out, at the writer and at a replica.

use reqwest::StatusCode;
use serde_json::{Value, json};
use switchyard::{
    model::{Algorithm, Digest},
    registry::content::{CHUNK, ChunkList},
};

use crate::{
    replication::{assert_same, caught_up, replica},
    rig::{MANIFEST, Rig, files, header, noise, refusal},
};

fn of(bytes: &[u8]) -> Digest {
    Algorithm::Sha512.of(bytes)
}

fn part(bytes: &[u8]) -> Value {
    json!({ "mediaType": "application/octet-stream", "digest": of(bytes).to_string(), "size": bytes.len() })
}

async fn put(rig: &Rig, path: &str, body: &[u8]) -> reqwest::Response {
    rig.ask("PUT", path).header("content-type", MANIFEST).body(body.to_vec()).send().await.unwrap()
}

/// Config, layers and a manifest, all by sha512, the first layer by a session; gives the manifest's digest.
async fn push(rig: &Rig, name: &str, layers: &[&[u8]]) -> Digest {
    for layer in layers {
        let begun = format!("/v2/{name}/blobs/uploads/?digest-algorithm=sha512");
        let begun = rig.ask("POST", &begun).send().await.unwrap();
        assert_eq!(begun.status(), StatusCode::ACCEPTED);
        let end = format!("{}?digest={}", header(&begun, "location"), of(layer));
        assert_eq!(put(rig, &end, layer).await.status(), StatusCode::CREATED);
    }
    let config = br#"{"architecture":"arm64"}"#;
    let whole = format!("/v2/{name}/blobs/uploads/?digest={}", of(config));
    let pushed = rig.ask("POST", &whole).body(config.to_vec()).send().await.unwrap();
    assert_eq!(pushed.status(), StatusCode::CREATED);
    assert_eq!(header(&pushed, "docker-content-digest"), of(config).to_string());
    let layers: Vec<Value> = layers.iter().map(|layer| part(layer)).collect();
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": part(config), "layers": layers });
    let manifest = manifest.to_string();
    let digest = of(manifest.as_bytes());
    let taken = put(rig, &format!("/v2/{name}/manifests/{digest}"), manifest.as_bytes()).await;
    assert_eq!(taken.status(), StatusCode::CREATED, "{}", taken.text().await.unwrap());
    assert_eq!(header(&taken, "docker-content-digest"), digest.to_string());
    digest
}

#[tokio::test]
async fn a_blob_comes_by_every_way_whenever_its_algorithm_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    // Told at the start of the session, at its end, and not before a chunk had come.
    for (seed, begin, chunks) in
        [(1, "?digest-algorithm=sha512", 2), (2, "", 2), (3, "?digest-algorithm=sha256", 1), (4, "", 0)]
    {
        let data = noise(seed, CHUNK as usize + 77);
        let begun = rig.ask("POST", &format!("/v2/late/blobs/uploads/{begin}")).send().await.unwrap();
        let session = header(&begun, "location");
        let mut rest = data.as_slice();
        for _ in 0..chunks {
            let (now, later) = rest.split_at(1_500_000);
            let sent = rig.ask("PATCH", &session).body(now.to_vec()).send().await.unwrap();
            assert_eq!(sent.status(), StatusCode::ACCEPTED);
            rest = later;
        }
        let end = put(&rig, &format!("{session}?digest={}", of(&data)), rest).await;
        assert_eq!(end.status(), StatusCode::CREATED, "{begin}");
        let location = header(&end, "location");
        assert_eq!(location, format!("/v2/late/blobs/{}", of(&data)));
        let pulled = rig.get(&location).await;
        assert_eq!(header(&pulled, "docker-content-digest"), of(&data).to_string());
        assert_eq!(pulled.bytes().await.unwrap(), data);
        // Its chunks are listed by sha256, like everybody's.
        let hex = of(&data).hex();
        let list =
            std::fs::read(dir.path().join(format!("blobs/sha512/{}/{hex}.chunks", &hex[..2]))).unwrap();
        let wanted = data.chunks(CHUNK as usize).map(Digest::of).collect();
        assert_eq!(ChunkList::from_bytes(&list), Some(ChunkList(wanted)));
        // By its other name it was never pushed.
        assert_eq!(rig.get(&format!("/v2/late/blobs/{}", Digest::of(&data))).await.status(), 404);
    }
    // And a sha256 where sha512 was announced.
    let begun = rig.ask("POST", "/v2/late/blobs/uploads/?digest-algorithm=sha512").send().await.unwrap();
    let end = format!("{}?digest={}", header(&begun, "location"), Digest::of(b"other"));
    assert_eq!(put(&rig, &end, b"other").await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn what_is_not_what_its_sha512_says_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let wrong = of(b"something else");
    let refused = rig.ask("POST", &format!("/v2/wrong/blobs/uploads/?digest={wrong}")).body("data");
    assert_eq!(refusal(refused.send().await.unwrap()).await, (400, "DIGEST_INVALID".into()));
    let session = rig.session("wrong").await;
    let refused = put(&rig, &format!("{session}?digest={wrong}"), b"data").await;
    assert_eq!(refusal(refused).await, (400, "DIGEST_INVALID".into()));
    let refused = put(&rig, &format!("/v2/wrong/manifests/{wrong}"), b"{}").await;
    assert_eq!(refusal(refused).await, (400, "DIGEST_INVALID".into()));
    for bad in ["?digest-algorithm=sha384", "?digest=sha512:00", "?mount=sha512:00&from=a"] {
        let refused = rig.ask("POST", &format!("/v2/wrong/blobs/uploads/{bad}")).send().await.unwrap();
        assert_eq!(refusal(refused).await, (400, "DIGEST_INVALID".into()), "{bad}");
    }
    assert!(files(&dir.path().join("uploads")).is_empty());
    assert!(files(&dir.path().join("blobs")).is_empty());
}

#[tokio::test]
async fn a_session_goes_on_by_sha512_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let data = noise(9, 3 * CHUNK as usize);
    let begun = rig.ask("POST", "/v2/again/blobs/uploads/?digest-algorithm=sha512").send().await.unwrap();
    let session = header(&begun, "location");
    let (first, rest) = data.split_at(2 * CHUNK as usize + 5);
    assert_eq!(rig.ask("PATCH", &session).body(first.to_vec()).send().await.unwrap().status(), 202);
    let rig = rig.restarted().await;
    assert_eq!(header(&rig.get(&session).await, "range"), format!("0-{}", first.len() - 1));
    let end = put(&rig, &format!("{session}?digest={}", of(&data)), rest).await;
    assert_eq!(end.status(), StatusCode::CREATED);
    assert_eq!(rig.get(&header(&end, "location")).await.bytes().await.unwrap(), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_mounts_referrers_and_deletes_know_it_and_replicas_copy_it() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Rig::new(&dir.path().join("w")).await;
    let copy = replica(&dir.path().join("a"), "a", &writer, &[]).await;
    let big = noise(5, 2 * CHUNK as usize + 9);
    let image = push(&writer, "mac/long", &[&big, b"small"]).await;
    // The same bytes under a tag are another manifest, by the registry's own algorithm.
    let bytes = writer.get(&format!("/v2/mac/long/manifests/{image}")).await.bytes().await.unwrap();
    let tagged = put(&writer, "/v2/mac/long/manifests/v1", &bytes).await;
    assert_eq!(header(&tagged, "docker-content-digest"), Digest::of(&bytes).to_string());

    let mount = format!("/v2/other/blobs/uploads/?mount={}&from=mac/long", of(&big));
    assert_eq!(writer.ask("POST", &mount).send().await.unwrap().status(), StatusCode::CREATED);
    let about = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "x/y", "layers": [],
        "subject": { "mediaType": MANIFEST, "digest": image.to_string(), "size": bytes.len() } });
    let signed = put(&writer, "/v2/mac/long/manifests/signature", about.to_string().as_bytes()).await;
    assert_eq!(header(&signed, "oci-subject"), image.to_string());
    caught_up(&copy, &writer).await;
    assert_same(&writer, &copy);
    for rig in [&writer, &copy] {
        let head = rig.ask("HEAD", &format!("/v2/mac/long/manifests/{image}")).send().await.unwrap();
        assert_eq!(header(&head, "docker-content-digest"), image.to_string());
        let pulled = rig.get(&format!("/v2/mac/long/manifests/{image}")).await.bytes().await.unwrap();
        assert_eq!(pulled, bytes);
        let referrers = rig.json(&format!("/v2/mac/long/referrers/{image}")).await;
        assert_eq!(referrers["manifests"].as_array().unwrap().len(), 1, "{referrers}");
        for (name, blob) in [("mac/long", &big[..]), ("mac/long", b"small"), ("other", &big)] {
            let pulled = rig.get(&format!("/v2/{name}/blobs/{}", of(blob))).await;
            assert_eq!(pulled.bytes().await.unwrap(), blob);
        }
        // An older one of one chunk has its list made when it is asked for.
        let list = rig.get(&format!("/replication/v1/blobs/{}/chunks", of(b"small"))).await;
        let list = ChunkList::from_bytes(&list.bytes().await.unwrap());
        assert_eq!(list, Some(ChunkList(vec![Digest::of(b"small")])));
    }
    let gone = writer.ask("DELETE", &format!("/v2/mac/long/manifests/{image}")).send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::ACCEPTED);
    caught_up(&copy, &writer).await;
    for rig in [&writer, &copy] {
        assert_eq!(rig.get(&format!("/v2/mac/long/manifests/{image}")).await.status(), 404);
        rig.assert_complete("mac/long", "v1").await;
    }
}
