//! The vendor's API: what was pushed by the other is listed, numbered, reverted and deleted.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Rig, noise};

async fn envelope(rig: &Rig, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let mut ask = rig.ask(method.as_str(), path);
    if let Some(body) = body {
        ask = ask.body(body.to_string());
    }
    let answer = ask.send().await.unwrap();
    let status = answer.status().as_u16();
    let envelope: Value = answer.json().await.unwrap();
    assert!(envelope["message"].is_string(), "{envelope}");
    let said = if status == 200 { "OK" } else { "FAIL" };
    assert_eq!(envelope["status"], said, "{envelope}");
    (status, envelope)
}

async fn get(rig: &Rig, path: &str) -> Value {
    let (status, envelope) = envelope(rig, Method::GET, path, None).await;
    assert_eq!(status, 200, "{path}: {envelope}");
    envelope["body"].clone()
}

/// The id of a repository's template.
async fn id(rig: &Rig, name: &str) -> String {
    let list = get(rig, "/registry/v2/vm").await;
    let found =
        list.as_array().unwrap().iter().find(|t| t["name"] == name).unwrap_or_else(|| panic!("{list}"));
    found["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn status_and_disk_have_the_shape_clients_read() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let status = get(&rig, "/registry/status").await;
    assert_eq!(status["status"], "Running");
    assert!(status["version"].as_str().unwrap().starts_with("1.51.2-switchyard."));
    let disk = get(&rig, "/registry/disk").await;
    assert!(disk["free"].as_u64().unwrap() <= disk["total"].as_u64().unwrap());
    assert_eq!(get(&rig, "/registry/vm").await, json!([]));
    assert_eq!(get(&rig, "/registry/v2/vm").await, json!([]));
}

#[tokio::test]
async fn repositories_are_templates_and_tags_are_versions_in_order_of_publication() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let (base, top) = (noise(1, 1000), noise(2, 500));
    rig.image("sonoma", "zz-base", &[&base]).await;
    rig.image("sonoma", "v3+ssh", &[&base, &top]).await;
    rig.image("sonoma", "zz-base", &[&base]).await;
    let id = id(&rig, "sonoma").await;
    assert_eq!(get(&rig, "/registry/vm").await, json!([{ id.clone(): "sonoma" }]));

    let list = get(&rig, "/registry/v2/vm").await;
    let config = |tag: &str| format!(r#"{{"architecture":"arm64","of":"sonoma:{tag}"}}"#).len();
    let configs = config("zz-base") + config("v3+ssh");
    assert_eq!(list[0]["size"], 1500 + configs, "each blob once");
    assert_eq!(list[0]["arch"], "arm64");

    let template = get(&rig, &format!("/registry/v2/vm?id={id}")).await;
    let versions = template["versions"].as_array().unwrap();
    let order: Vec<_> =
        versions.iter().map(|v| (v["number"].as_i64().unwrap(), v["tag"].as_str().unwrap())).collect();
    assert_eq!(order, [(0, "zz-base"), (1, "v3+ssh")]);
    let images = versions[1]["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(images[1], versions[0]["images"][0], "newest layer first, base last");
    assert_eq!(versions[1]["size"], 1500 + config("v3+ssh"));
    assert_eq!(versions[0]["config_file"], format!("{id}.yaml"));
    assert_eq!((&versions[0]["nvram"], &versions[0]["state_file"]), (&json!("nvram"), &json!("")));
    assert!(versions[0]["digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(template["repository"], "sonoma");

    let old = get(&rig, &format!("/registry/vm?id={id}")).await;
    assert!(old.get("last_push").is_none() && old["versions"][0].get("last_pull").is_none(), "{old}");
    assert_eq!(old["versions"][1]["tag"], "v3+ssh");
}

#[tokio::test]
async fn pulls_are_counted_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image("pulled", "a", &[]).await;
    let digest = rig.image("pulled", "b", &[b"x"]).await;
    let id = id(&rig, "pulled").await;
    let path = format!("/registry/v2/vm?id={id}");
    assert_eq!(get(&rig, &path).await["last_pull"], 0);
    rig.ask("HEAD", "/v2/pulled/manifests/a").send().await.unwrap();
    assert_eq!(get(&rig, &path).await["last_pull"], 0, "a look is no pull");
    rig.get(&format!("/v2/pulled/manifests/{digest}")).await;
    let pulled = |template: &Value| {
        (0..2).map(|n| template["versions"][n]["last_pull"].as_i64().unwrap() > 0).collect::<Vec<_>>()
    };
    assert_eq!(pulled(&get(&rig, &path).await), [false, true]);
    let rig = rig.restarted().await;
    assert_eq!(pulled(&get(&rig, &path).await), [false, true]);
    assert_eq!(get(&rig, "/registry/v2/vm").await[0]["last_pull"].as_i64().map(|at| at > 0), Some(true));
}

#[tokio::test]
async fn an_id_comes_from_config_annotation_or_name_and_is_never_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image("plain", "a", &[]).await;
    let derived = id(&rig, "plain").await;
    let carried =
        r#"{"switchyard.template.id":"c0ffee11-2233-4455-8677-8899aabbccdd","architecture":"amd64"}"#;
    rig.image_with("carried", "a", carried, &[]).await;
    assert_eq!(id(&rig, "carried").await, "c0ffee11-2233-4455-8677-8899aabbccdd");
    rig.image_with("copy", "a", carried, &[]).await;
    assert_ne!(id(&rig, "copy").await, "c0ffee11-2233-4455-8677-8899aabbccdd");
    // The first version decides; a later one that carries an id does not move the template.
    rig.image_with("plain", "b", r#"{"switchyard.template.id":"other"}"#, &[]).await;
    assert_eq!(id(&rig, "plain").await, derived);
    let rig = rig.restarted().await;
    assert_eq!(id(&rig, "plain").await, derived);
    assert_eq!(get(&rig, "/registry/v2/vm?id=c0ffee11-2233-4455-8677-8899aabbccdd").await["name"], "carried");
}

#[tokio::test]
async fn an_unknown_template_is_404_with_the_text_clients_compare() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    for path in [
        "/registry/v2/vm?id=nope",
        "/registry/vm?id=nope",
        "/registry/vm?id=a%2F..%2Fb",
        "/registry/vm/info?id=nope",
    ] {
        let (status, said) = envelope(&rig, Method::GET, path, None).await;
        assert_eq!((status, said["message"].as_str()), (404, Some("Not found")), "{path}");
    }
    for path in ["/registry/vm?id=nope", "/registry/revert?id=nope"] {
        assert_eq!(envelope(&rig, Method::DELETE, path, None).await.0, 404, "{path}");
    }
    assert_eq!(envelope(&rig, Method::DELETE, "/registry/vm", None).await.0, 400);
    assert_eq!(envelope(&rig, Method::POST, "/registry/status", None).await.0, 405);
}

#[tokio::test]
async fn a_revert_by_query_or_body_takes_the_version_and_all_later() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    for tag in ["a", "b+1", "c", "d", "e", "f"] {
        rig.image("back", tag, &[tag.as_bytes()]).await;
    }
    let id = id(&rig, "back").await;
    let revert = |query: String, body: Option<Value>| {
        let path = format!("/registry/revert?id={id}{query}");
        let rig = &rig;
        async move { envelope(rig, Method::DELETE, &path, body).await }
    };
    let (status, said) = revert("&tag=nope".into(), None).await;
    assert_eq!((status, said["message"].as_str()), (400, Some("Did not find any versions with tag nope")));
    let tags = || async { rig.json("/v2/back/tags/list").await["tags"].clone() };
    for (query, body, left) in [
        ("", None, json!(["a", "b+1", "c", "d", "e"])),
        ("&number=4", None, json!(["a", "b+1", "c", "d"])),
        ("", Some(json!({ "version": "3" })), json!(["a", "b+1", "c"])),
        ("", Some(json!({ "tag_name": "c" })), json!(["a", "b+1"])),
        ("&tag=b+1", None, json!(["a"])),
    ] {
        let (status, said) = revert(query.into(), body.clone()).await;
        assert_eq!((status, &said["body"]), (200, &Value::Null), "{query} {body:?}");
        assert_eq!(tags().await, left, "{query} {body:?}");
    }
    rig.image("back", "again", &[]).await;
    assert_eq!(
        get(&rig, &format!("/registry/v2/vm?id={id}")).await["versions"][1]["number"],
        6,
        "not given twice"
    );
    assert_eq!(revert("&version=0".into(), None).await.0, 200);
    assert_eq!(get(&rig, "/registry/v2/vm").await, json!([]));
    assert_eq!(rig.get("/v2/back/tags/list").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn deleting_a_template_leaves_what_others_share() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let layer = noise(4, 100_000);
    rig.image("one", "a", &[&layer]).await;
    rig.image("two", "a", &[&layer]).await;
    let one = id(&rig, "one").await;
    assert_eq!(envelope(&rig, Method::DELETE, &format!("/registry/vm?id={one}"), None).await.0, 200);
    assert_eq!(rig.get("/v2/one/manifests/a").await.status(), StatusCode::NOT_FOUND);
    rig.assert_complete("two", "a").await;
    assert_eq!(get(&rig, "/registry/vm").await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_architecture_is_corrected_by_hand_until_a_push_says_another() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image_with("arch", "a", r#"{"n":1}"#, &[]).await;
    let id = id(&rig, "arch").await;
    let shown = || async { get(&rig, "/registry/v2/vm").await[0]["arch"].clone() };
    let put = |arch: &str| {
        envelope(&rig, Method::PUT, "/registry/vm/arch", Some(json!({ "id": id, "arch": arch })))
    };
    assert_eq!(shown().await, Value::Null);
    assert_eq!(put("sparc").await.0, 400);
    assert_eq!(put("amd64").await.0, 200);
    assert_eq!(shown().await, "amd64");
    rig.image_with("arch", "b", r#"{"n":2}"#, &[]).await;
    assert_eq!(shown().await, "amd64");
    rig.image("arch", "c", &[]).await;
    assert_eq!(shown().await, "arm64");
}

#[tokio::test]
async fn a_versions_config_is_told_and_an_unknown_tag_is_not_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image_with("info", "a", r#"{"ram":"4G"}"#, &[]).await;
    rig.image_with("info", "b", r#"{"ram":"8G"}"#, &[]).await;
    let id = id(&rig, "info").await;
    let info = |query: &str| format!("/registry/vm/info?id={id}{query}");
    assert_eq!(get(&rig, &info("")).await, json!({ "ram": "8G" }));
    assert_eq!(get(&rig, &info("&tag=a")).await, json!({ "ram": "4G" }));
    assert_eq!(get(&rig, &info("&version=0")).await, json!({ "ram": "4G" }));
    assert_eq!(envelope(&rig, Method::GET, &info("&tag=c"), None).await.0, 404);
}

#[tokio::test]
async fn a_broken_template_is_skipped_named_and_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    rig.image("good", "a", &[]).await;
    rig.image("torn", "a", &[]).await;
    let lost = rig.image("lost", "a", &[]).await;
    rig.stop().await;
    let torn = dir.path().join("repositories/torn/_catalogue.json");
    std::fs::write(&torn, "{\"v\":1,").unwrap();
    let hex = lost.hex();
    std::fs::remove_file(dir.path().join(format!("blobs/sha256/{}/{hex}", &hex[..2]))).unwrap();
    std::fs::create_dir_all(dir.path().join("repositories/empty")).unwrap();

    let rig = Rig::new(dir.path()).await;
    let list = get(&rig, "/registry/v2/vm").await;
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list[0]["name"], "good");
    assert_eq!(get(&rig, "/registry/vm").await.as_array().unwrap().len(), 1);
    rig.assert_complete("good", "a").await;
    let refused = crate::rig::refusal(rig.get("/v2/torn/manifests/a").await).await;
    assert_eq!(refused, (503, "UNKNOWN".into()), "another registry may have it");
    rig.blob("torn", b"{}").await;
    let put = rig.put_manifest("torn", "b", &crate::rig::image(b"{}", &[])).await;
    assert_eq!(put.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(std::fs::read_to_string(torn).unwrap(), "{\"v\":1,");
}
