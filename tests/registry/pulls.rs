//! Pulls: blobs whole and in ranges, manifests as they were pushed, lists in pages.

use std::{os::unix::fs::FileExt, time::Duration};

use reqwest::StatusCode;
use serde_json::{Value, json};
use switchyard::{config::registry::Limits, model::Digest};

use crate::rig::{MANIFEST, Rig, header, image, limits, noise, refusal};

#[tokio::test]
async fn a_blob_is_read_whole_in_part_and_not_past_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let data = noise(1, 1_000_000);
    let path = format!("/v2/ranges/blobs/{}", rig.blob("ranges", &data).await);
    let part = |range: &str| rig.ask("GET", &path).header("range", range).send();

    let head = rig.ask("HEAD", &path).send().await.unwrap();
    assert_eq!((head.status(), header(&head, "content-length").as_str()), (StatusCode::OK, "1000000"));
    assert_eq!(header(&head, "docker-content-digest"), Digest::of(&data).to_string());
    assert_eq!(header(&head, "accept-ranges"), "bytes");
    for (range, from, to) in [
        ("bytes=0-9", 0, 10),
        ("bytes=999990-", 999_990, 1_000_000),
        ("bytes=-5", 999_995, 1_000_000),
        ("bytes=300000-2000000", 300_000, 1_000_000),
    ] {
        let got = part(range).await.unwrap();
        assert_eq!(got.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(header(&got, "content-range"), format!("bytes {from}-{}/1000000", to - 1));
        assert_eq!(got.bytes().await.unwrap(), data[from..to], "{range}");
    }
    let past = part("bytes=1000000-").await.unwrap();
    assert_eq!(header(&past, "content-range"), "bytes */1000000");
    assert_eq!(past.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let several = part("bytes=0-1,5-6").await.unwrap();
    assert_eq!((several.status(), several.bytes().await.unwrap().len()), (StatusCode::OK, data.len()));
    let other = rig.ask("GET", &path).header("range", "bytes=0-9").header("if-range", "\"other\"");
    assert_eq!(other.send().await.unwrap().status(), StatusCode::OK);
    let known = rig.ask("GET", &path).header("if-none-match", header(&head, "etag"));
    assert_eq!(known.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_manifest_comes_back_byte_for_byte_with_the_type_it_was_pushed_with() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.blob("types", b"{}").await;
    let own = format!("\n {} ", serde_json::to_string_pretty(&image(b"{}", &[])).unwrap());
    // One that does not say what it is may be pushed as anything; the type's parameters are not kept.
    let odd = own.replace(&format!("\"mediaType\": \"{MANIFEST}\","), "");
    assert_ne!(odd, own);
    for (tag, text, pushed_as, kind) in
        [("odd", &odd, "application/x-odd; v=1", "application/x-odd"), ("latest+x", &own, MANIFEST, MANIFEST)]
    {
        let put = rig.ask("PUT", &format!("/v2/types/manifests/{tag}")).header("content-type", pushed_as);
        let put = put.body(text.clone()).send().await.unwrap();
        assert_eq!(put.status(), StatusCode::CREATED);
        let digest = Digest::of(text.as_bytes());
        assert_eq!(header(&put, "location"), format!("/v2/types/manifests/{digest}"));
        for reference in [tag.to_owned(), tag.replace('+', "%2B"), digest.to_string()] {
            let path = format!("/v2/types/manifests/{reference}");
            let got = rig.get(&path).await;
            assert_eq!(header(&got, "content-type"), kind);
            assert_eq!(header(&got, "docker-content-digest"), digest.to_string());
            assert_eq!(got.text().await.unwrap(), *text);
            let head = rig.ask("HEAD", &path).send().await.unwrap();
            assert_eq!(header(&head, "content-length"), text.len().to_string());
        }
    }
    // Without a type, the manifest's own is told.
    rig.ask("PUT", "/v2/types/manifests/untyped").body(own).send().await.unwrap();
    assert_eq!(header(&rig.get("/v2/types/manifests/untyped").await, "content-type"), MANIFEST);
}

#[tokio::test]
async fn tags_and_repositories_come_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let tags = ["a", "b", "b+x", "c", "d"];
    for tag in tags {
        rig.image("pages", tag, &[]).await;
    }
    rig.image("a/first", "x", &[]).await;
    let mut next = "/v2/pages/tags/list?n=2".to_owned();
    let mut seen = Vec::new();
    while !next.is_empty() {
        let page = rig.get(&next).await;
        let link = header(&page, "link");
        let list: Value = page.json().await.unwrap();
        assert_eq!(list["name"], "pages");
        seen.push(list["tags"].as_array().unwrap().len());
        next = link
            .strip_prefix('<')
            .and_then(|l| l.split_once('>'))
            .map_or(String::new(), |(l, _)| l.to_owned());
    }
    assert_eq!(seen, [2, 2, 1]);
    assert_eq!(rig.json("/v2/pages/tags/list").await["tags"], json!(tags));
    assert_eq!(rig.json("/v2/pages/tags/list?n=0").await["tags"], json!([]));
    assert_eq!(rig.json("/v2/_catalog").await["repositories"], json!(["a/first", "pages"]));
    let bad = rig.get("/v2/pages/tags/list?n=x").await;
    assert_eq!(refusal(bad).await, (400, "PAGINATION_NUMBER_INVALID".into()));
}

#[tokio::test]
async fn what_is_deleted_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let digest = rig.image("gone", "a", &[b"x"]).await;
    let other = rig.image("gone", "b", &[b"y"]).await;
    let delete = |reference: String| rig.ask("DELETE", &format!("/v2/gone/manifests/{reference}")).send();
    assert_eq!(delete("a".into()).await.unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(refusal(rig.get("/v2/gone/manifests/a").await).await, (404, "MANIFEST_UNKNOWN".into()));
    assert_eq!(rig.get(&format!("/v2/gone/manifests/{digest}")).await.status(), StatusCode::OK);
    assert_eq!(refusal(delete("a".into()).await.unwrap()).await, (404, "MANIFEST_UNKNOWN".into()));
    assert_eq!(delete(other.to_string()).await.unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(rig.json("/v2/gone/tags/list").await["tags"], json!([]));
    assert_eq!(delete(digest.to_string()).await.unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(refusal(rig.get("/v2/gone/tags/list").await).await, (404, "NAME_UNKNOWN".into()));
}

#[tokio::test]
async fn a_blob_that_lost_bytes_on_disk_is_never_given_as_whole() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let digest = rig.image("short", "a", &[&noise(3, 2_000_000)]).await;
    let layer = Digest::of(&noise(3, 2_000_000));
    let hex = layer.hex();
    let file = dir.path().join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
    std::fs::File::options().write(true).open(&file).unwrap().set_len(1_000).unwrap();
    // Its manifest is untouched and goes on; a new manifest that needs the blob's true size is refused.
    assert_eq!(rig.get(&format!("/v2/short/manifests/{digest}")).await.status(), StatusCode::OK);
    let config = br#"{"architecture":"arm64","of":"short:a"}"#;
    let again = rig.put_manifest("short", "b", &image(config, &[&noise(3, 2_000_000)])).await;
    assert_eq!(refusal(again).await, (400, "SIZE_INVALID".into()));
    // Pushing it again heals it.
    rig.blob("short", &noise(3, 2_000_000)).await;
    rig.assert_complete("short", "a").await;
}

#[tokio::test]
async fn a_chunk_that_is_damaged_is_not_sent_and_those_beside_it_are() {
    const CHUNK: usize = 4 * 1024 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(dir.path(), Limits { verify_every: Duration::from_millis(1), ..limits() }).await;
    let data = noise(5, 2 * CHUNK + 1000);
    let digest = rig.blob("rot", &data).await;
    let path = format!("/v2/rot/blobs/{digest}");
    let whole = rig.get(&path).await.bytes().await.unwrap();
    assert!(whole == data);

    let stored = dir.path().join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex());
    let file = std::fs::OpenOptions::new().write(true).open(stored).unwrap();
    file.write_at(&[data[CHUNK + 77] ^ 1], CHUNK as u64 + 77).unwrap();
    // By the server that copies, which a request with an odd header gets, and by the one that does not.
    for odd in [false, true] {
        let part = |range: String| {
            let ask = rig.ask("GET", &path).header("range", range);
            if odd { ask.header("expect", "nothing") } else { ask }.send()
        };
        for (from, to) in [(5, CHUNK), (2 * CHUNK, 2 * CHUNK + 1000)] {
            let got = part(format!("bytes={from}-{}", to - 1)).await.unwrap();
            assert!(got.bytes().await.unwrap() == data[from..to], "{from}");
        }
        let mut broken = part(format!("bytes={}-", CHUNK - 10)).await.unwrap();
        assert_eq!(header(&broken, "content-length"), (CHUNK + 1010).to_string());
        let mut got = Vec::new();
        while let Ok(Some(piece)) = broken.chunk().await {
            got.extend_from_slice(&piece);
        }
        // All before the damage, or less where the end came before it was sent: nothing of what is damaged.
        assert!(data[CHUNK - 10..CHUNK].starts_with(&got), "{} bytes", got.len());
    }
}
