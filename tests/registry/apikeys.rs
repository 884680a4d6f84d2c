//! API keys of registries: made at the writer, good at every replica, shown to nobody.

use serde_json::{Value, json};
use switchyard::config::registry::Registry as Config;

use crate::{
    auth::{TOKEN, asked},
    replication::{SOON, replica_config, url},
    rig::{Rig, config, limits},
    support::{
        eventually::eventually,
        holder::{Holder, bearer},
    },
};

const HIDDEN: &str = "switchyard-internal/api-keys";

fn with_auth(config: Config) -> Config {
    Config { auth: asked(), ..config }
}

async fn root(rig: &Rig, method: &str, path: &str, body: &Value) -> (u16, String) {
    let ask = rig.ask(method, path).basic_auth("root", Some(TOKEN)).body(body.to_string());
    let answer = ask.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn post(rig: &Rig, path: &str, body: Value) -> (u16, String) {
    let answer = rig.ask("POST", path).body(body.to_string()).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn status(rig: &Rig, authorization: &str) -> u16 {
    rig.ask("GET", "/registry/status")
        .header("authorization", authorization)
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_made_at_the_writer_opens_replicas_and_is_gone_there_when_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let writer = Rig::of(with_auth(config(&one, limits())), &one).await;
    let copy = Rig::of(with_auth(replica_config(&two, "r2", url(&writer), Vec::new())), &two).await;
    let (code, text) =
        root(&writer, "POST", "/v1/apikey", &json!({"id": "ci-bot", "ttl": 3600, "groups": "a,b"})).await;
    assert_eq!(code, 200, "{text}");
    assert!(text.starts_with(r#"{"status":"OK","body":""#), "a registry says the body first: {text}");
    let holder = Holder::given(&serde_json::from_str::<Value>(&text).unwrap()["body"]);
    let (code, text) = root(&copy, "POST", "/v1/apikey", &json!({"id": "x", "ttl": 5, "groups": []})).await;
    assert!(code == 403 && text.contains("replica"), "{code} {text}");

    eventually(SOON, "the replica to have the key", || async {
        let (code, text) = post(&copy, "/tap/v1/hand", json!({"id": "ci-bot"})).await;
        if code == 200 { Ok(()) } else { Err(text) }
    })
    .await;
    // Begun at the replica, ended at the writer, and the other way round.
    for (hands, shakes) in [(&copy, &writer), (&writer, &copy)] {
        let (_, handed) = post(hands, "/tap/v1/hand", json!({"id": "ci-bot"})).await;
        let secret = holder.decrypt(&handed);
        let (code, shaken) = post(shakes, "/tap/v1/shake", json!({"id": "ci-bot", "secret": secret})).await;
        assert_eq!(code, 200, "{shaken}");
        for rig in [&writer, &copy] {
            assert_eq!(status(rig, &bearer(&shaken)).await, 200);
            let log = rig.ask("GET", "/replication/v1/state").header("authorization", bearer(&shaken));
            assert_eq!(log.send().await.unwrap().status(), 403, "that is for registries");
        }
    }
    let (_, handed) = post(&copy, "/tap/v1/hand", json!({"id": "ci-bot"})).await;
    let secret = holder.decrypt(&handed);
    let (_, shaken) = post(&copy, "/tap/v1/shake", json!({"id": "ci-bot", "secret": secret})).await;
    let (code, _) = root(&writer, "PUT", "/v1/apikey", &json!({"id": "ci-bot", "groups": ["c"]})).await;
    assert_eq!((code, status(&writer, &bearer(&shaken)).await), (200, 200));
    let (_, text) = root(&writer, "GET", "/v1/apikey?id=ci-bot", &Value::Null).await;
    assert!(text.contains(r#""groups":["c"]"#), "{text}");
    assert_eq!(root(&writer, "DELETE", "/v1/apikey", &json!({"id": "ci-bot"})).await.0, 200);
    assert_eq!(status(&writer, &bearer(&shaken)).await, 401);
    eventually(SOON, "the session to end at the replica", || async {
        let code = status(&copy, &bearer(&shaken)).await;
        if code == 401 { Ok(()) } else { Err(code) }
    })
    .await;
    assert_eq!(root(&writer, "DELETE", "/v1/apikey", &json!({"id": "ci-bot"})).await.0, 404);
    copy.stop().await;
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_outlive_a_restart_and_neither_api_shows_or_changes_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::of(with_auth(config(dir.path(), limits())), dir.path()).await;
    let (_, text) = root(&rig, "POST", "/v1/apikey", &json!({"id": "k:1@x", "ttl": 60, "groups": []})).await;
    Holder::given(&serde_json::from_str::<Value>(&text).unwrap()["body"]);
    let again = root(&rig, "POST", "/v1/apikey", &json!({"id": "k:1@x", "ttl": 60, "groups": []})).await;
    assert_eq!(again.0, 409);
    rig.stop().await;
    let rig = Rig::of(with_auth(config(dir.path(), limits())), dir.path()).await;
    let (_, text) = root(&rig, "GET", "/v1/apikey", &Value::Null).await;
    assert!(text.contains(r#""id":"k:1@x""#), "{text}");
    for path in ["/v2/_catalog", "/registry/vm", "/registry/v2/vm"] {
        let (code, text) = root(&rig, "GET", path, &Value::Null).await;
        assert!(code == 200 && !text.contains("internal"), "{path}: {text}");
    }
    let space = uuid::uuid!("6f1c52d0-9f0b-5b5e-8f3e-0a6a4d1f7c11");
    let id = uuid::Uuid::new_v5(&space, HIDDEN.as_bytes());
    for (method, path) in [
        ("GET", format!("/v2/{HIDDEN}/tags/list")),
        ("GET", format!("/v2/{}/tags/list", HIDDEN.to_uppercase())),
        ("PUT", format!("/v2/{HIDDEN}/manifests/mine")),
        ("DELETE", format!("/v2/{HIDDEN}/manifests/mine")),
        ("POST", format!("/v2/{HIDDEN}/blobs/uploads/")),
        ("DELETE", format!("/registry/vm?id={id}")),
    ] {
        let (code, text) = root(&rig, method, &path, &json!({})).await;
        assert_eq!(code, 404, "{method} {path}: {text}");
    }
    rig.stop().await;
}
