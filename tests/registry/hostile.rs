//! Pushes and directories made to break things: each was a fault once.

use reqwest::StatusCode;
use serde_json::json;
use switchyard::model::Digest;

use crate::rig::{MANIFEST, Rig, header, image, refusal};

#[tokio::test]
async fn sizes_that_no_disk_has_do_not_break_the_list_of_templates() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image("good", "a", &[b"x"]).await;
    rig.blob("huge", b"{}").await;
    let mut manifest = image(b"{}", &[b"1", b"2", b"3"]);
    for layer in manifest["layers"].as_array_mut().unwrap() {
        layer["urls"] = json!(["https://example.com/x"]);
        layer["size"] = json!(i64::MAX);
    }
    assert_eq!(rig.put_manifest("huge", "a", &manifest).await.status(), StatusCode::CREATED);
    let list = rig.json("/registry/v2/vm").await;
    assert_eq!(list["body"].as_array().unwrap().len(), 2, "{list}");
    assert_eq!(list["body"][1]["size"], json!(i64::MAX));
    manifest["layers"][0]["size"] = json!(u64::MAX);
    assert_eq!(
        refusal(rig.put_manifest("huge", "b", &manifest).await).await,
        (400, "MANIFEST_INVALID".into())
    );
}

#[tokio::test]
async fn a_media_type_that_no_answer_can_carry_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.blob("m", b"{}").await;
    for kind in ["a\nb", "\u{e9}", &"x".repeat(300)] {
        let mut manifest = image(b"{}", &[]);
        manifest["mediaType"] = json!(kind);
        let put = rig.ask("PUT", "/v2/m/manifests/a").body(manifest.to_string()).send().await.unwrap();
        assert_eq!(refusal(put).await, (400, "MANIFEST_INVALID".into()), "{kind:?}");
    }
    assert_eq!(rig.get("/v2/m/tags/list").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_config_that_lies_elsewhere_does_not_show_another_repositorys_blob() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let secret = br#"{"password":"hunter2"}"#;
    rig.blob("theirs", secret).await;
    for (tag, size) in [("a", secret.len()), ("b", 1)] {
        let mut manifest = image(secret, &[]);
        manifest["config"]["urls"] = json!(["https://example.com/x"]);
        manifest["config"]["size"] = json!(size);
        assert_eq!(rig.put_manifest("mine", tag, &manifest).await.status(), StatusCode::CREATED);
    }
    let list = rig.json("/registry/v2/vm").await;
    let id = list["body"][0]["id"].as_str().unwrap();
    for tag in ["a", "b"] {
        let shown = rig.json(&format!("/registry/vm/info?id={id}&tag={tag}")).await;
        assert_eq!((&shown["status"], &shown["body"]), (&json!("OK"), &json!({})), "{tag}");
    }
}

#[tokio::test]
async fn referrers_come_in_pages_and_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.blob("r", b"{}").await;
    let subject = Digest::of(b"subject");
    let mut pushed = std::collections::BTreeSet::new();
    for n in 0..4 {
        let mut manifest = image(b"{}", &[]);
        manifest["subject"] = json!({ "mediaType": MANIFEST, "digest": subject.to_string(), "size": 7 });
        manifest["artifactType"] = json!("x/y+z");
        manifest["annotations"] = json!({ "n": n.to_string(), "long": "x".repeat(3 << 20) });
        let digest = Digest::of(manifest.to_string().as_bytes()).to_string();
        assert_eq!(rig.put_manifest("r", &digest, &manifest).await.status(), StatusCode::CREATED);
        pushed.insert(digest);
    }
    let mut next = format!("/v2/r/referrers/{subject}?artifactType=x/y%2Bz");
    let mut pages = Vec::new();
    while !next.is_empty() {
        let page = rig.get(&next).await;
        let link = header(&page, "link");
        let list: serde_json::Value = page.json().await.unwrap();
        let listed = list["manifests"].as_array().unwrap();
        pages.push(listed.len());
        assert!(listed.iter().all(|one| pushed.remove(one["digest"].as_str().unwrap())), "each once");
        next =
            link.strip_prefix('<').and_then(|l| l.split_once('>')).map_or(String::new(), |(l, _)| l.into());
    }
    assert_eq!((pages, pushed.len()), (vec![2, 2], 0));
}

#[tokio::test]
async fn a_catalogue_that_the_start_could_not_reach_is_not_replaced_by_a_push() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image("kept", "old", &[b"x"]).await;
    rig.stop().await;
    // As a mount that comes up late.
    let (place, away) = (dir.path().join("repositories/kept"), dir.path().join("away"));
    std::fs::rename(&place, &away).unwrap();
    let rig = Rig::new(dir.path()).await;
    assert_eq!(rig.get("/v2/kept/tags/list").await.status(), StatusCode::NOT_FOUND);
    std::fs::rename(&away, &place).unwrap();
    rig.image("kept", "new", &[b"y"]).await;
    assert_eq!(rig.json("/v2/kept/tags/list").await["tags"], json!(["new", "old"]));
    let rig = rig.restarted().await;
    assert_eq!(rig.json("/v2/kept/tags/list").await["tags"], json!(["new", "old"]));
}

#[tokio::test]
async fn pull_times_that_cannot_be_read_hide_no_template() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    for name in ["directory", "garbage"] {
        rig.image(name, "a", &[b"x"]).await;
    }
    rig.stop().await;
    std::fs::create_dir(dir.path().join("repositories/directory/_pulls.json")).unwrap();
    std::fs::write(dir.path().join("repositories/garbage/_pulls.json"), "{\"a\":").unwrap();
    let rig = Rig::new(dir.path()).await;
    let list = rig.json("/registry/v2/vm").await;
    assert_eq!(list["body"].as_array().unwrap().len(), 2, "{list}");
    for one in list["body"].as_array().unwrap() {
        let shown = rig.json(&format!("/registry/v2/vm?id={}", one["id"].as_str().unwrap())).await;
        assert_eq!(shown["body"]["last_pull"], 0, "{shown}");
    }
}
