//! Templates through the controller: fresh, resolved, and what happens when the registries are not there.

use std::time::Duration;

use serde_json::json;
use switchyard::supervise::{Stage, Tree};
use tokio::net::TcpListener;

use crate::{
    cloud::{Cloud, Plan},
    push,
    support::eventually::eventually,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_pushed_can_be_started_at_once() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v0").await;
    for number in 1..20 {
        let tag = format!("v{number}");
        push::image(&cloud.registry, "sonoma", &tag, &[tag.as_bytes()]).await;
        let answer = cloud.api().post("/api/v1/vm", &json!({ "vmid": template, "tag": tag })).await;
        assert_eq!(answer.ok().as_array().unwrap().len(), 1, "{tag}");
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_means_a_tag_or_a_number_or_the_newest() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "first").await;
    cloud.template("sonoma", "second").await;
    let api = cloud.api();
    for (ask, tag) in [
        (json!({ "vmid": template }), "second"),
        (json!({ "vmid": template, "version": 0 }), "first"),
        (json!({ "vmid": template, "tag": "first" }), "first"),
        (json!({ "vmid": template, "tag": "second", "version": 0 }), "second"),
    ] {
        let id = api.post("/api/v1/vm", &ask).await.ok()[0].as_str().unwrap().to_owned();
        let shown = api.get(&format!("/api/v1/vm?id={id}")).await.ok();
        assert_eq!(shown["tag"], tag, "{ask}");
        assert_eq!(shown["arch"], "arm64");
    }
    let wrong = api.post("/api/v1/vm", &json!({ "vmid": template, "version": 7 })).await;
    assert!(wrong.is_clean(400), "{wrong:?}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_shows_its_versions_oldest_first_and_nothing_of_ours() {
    let cloud = Cloud::start().await;
    let template = cloud.template("mac/sonoma", "a+b").await;
    cloud.template("mac/sonoma", "c").await;
    let shown = cloud.api().get(&format!("/api/v1/registry/vm?id={template}")).await.ok();
    let versions = shown["versions"].as_array().unwrap();
    let told: Vec<_> =
        versions.iter().map(|v| (v["number"].as_i64().unwrap(), v["tag"].as_str().unwrap())).collect();
    assert_eq!(told, [(0, "a+b"), (1, "c")]);
    assert_eq!((&shown["id"], &shown["name"]), (&json!(template), &json!("mac/sonoma")));
    assert!(shown.get("repository").is_none() && versions[0].get("digest").is_none(), "{shown}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_registries_template_calls_name_the_config_key_and_everything_else_works() {
    let cloud = Cloud::planned(Plan { registry: false, ..Plan::default() }).await;
    let api = cloud.api();
    let status = api.get("/api/v1/status").await.ok();
    assert_eq!((&status["registry_status"], &status["registry_address"]), (&json!("FAIL"), &json!("")));
    for answer in [
        api.post("/api/v1/vm", &json!({ "vmid": "x" })).await,
        api.get("/api/v1/registry/vm").await,
        api.get("/api/v1/registry/vm?id=x").await,
        api.get("/api/v1/registry/disk").await,
    ] {
        assert!(answer.is_clean(503), "{answer:?}");
        assert!(answer.failure().unwrap().contains("registries.address"), "{answer:?}");
    }
    assert_eq!(api.get("/api/v1/vm").await.ok(), json!([]));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_are_down_or_silent_fail_a_start_in_time_and_start_nothing() {
    // A listener that never accepts stands for a front that hangs; a closed port for one that is down.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), closed] {
        let at = Some(format!("http://{address}").parse().unwrap());
        let cloud = Cloud::planned(Plan { registries_at: at, ..Plan::default() }).await;
        let api = cloud.api();
        let answer = api.post("/api/v1/vm", &json!({ "vmid": "x" })).await;
        assert!(answer.is_clean(503) && answer.header("retry-after").is_some(), "{answer:?}");
        assert!(answer.took < Duration::from_secs(10), "the clients' limit: {answer:?}");
        let status = api.get("/api/v1/status").await;
        assert!(status.took < Duration::from_secs(3), "never slow: {status:?}");
        assert_eq!(status.ok()["registry_status"], "FAIL");
        assert_eq!(api.get("/api/v1/vm").await.ok(), json!([]));
        cloud.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_status_follows_the_registry() {
    let cloud = Cloud::start().await;
    eventually(Duration::from_secs(10), "registry_status is Running", async || {
        let status = cloud.api().get("/api/v1/status").await.ok();
        if status["registry_status"] == "Running" { Ok(()) } else { Err(status) }
    })
    .await;
    cloud.stop().await;
}

/// A registry that speaks the vendor's dialect: nulls, empty architectures, and its own words for "not there".
async fn vendors() -> String {
    let vm = |query: axum::extract::RawQuery| async move {
        let body = match query.0.as_deref() {
            None | Some("") => json!([{ "id": "c0ffee11", "name": "sonoma", "size": 5 }]),
            Some("id=c0ffee11") => json!({
                "id": "c0ffee11", "name": "sonoma", "size": 5, "arch": "",
                "versions": [{ "number": 0, "tag": "base", "images": ["00.ank"], "state_files": null, "arch": "" }],
            }),
            Some(_) => {
                let fail = json!({ "status": "FAIL", "message": "Server Internal error: no such directory" });
                return (axum::http::StatusCode::BAD_REQUEST, axum::Json(fail));
            }
        };
        let ok = json!({ "status": "OK", "message": "", "body": body });
        (axum::http::StatusCode::OK, axum::Json(ok))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/registry/v2/vm", axum::routing::get(vm));
    Tree::new().handle().finish_at(Stage::Edge, "a vendor's registry", |_| async move {
        axum::serve(listener, router).await.ok();
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vendors_registries_are_read_as_well() {
    let at = Some(vendors().await.parse().unwrap());
    let cloud = Cloud::planned(Plan { registries_at: at, ..Plan::default() }).await;
    let api = cloud.api();
    assert_eq!(api.get("/api/v1/registry/vm").await.ok()[0]["id"], "c0ffee11");
    let shown = api.get("/api/v1/registry/vm?id=c0ffee11").await.ok();
    assert_eq!(shown["versions"][0]["tag"], "base");
    assert!(shown.get("arch").is_none_or(|arch| arch.is_string()), "never null: {shown}");
    let gone = api.get("/api/v1/registry/vm?id=nobody").await;
    assert_eq!(gone.failure().as_deref(), Some("Not found"), "settled by the list: {gone:?}");
    let unknown = api.post("/api/v1/vm", &json!({ "vmid": "nobody" })).await;
    assert_eq!((unknown.status, unknown.failure().as_deref()), (400, Some("VM not in the registry")));
    // They do not name manifests, and a start without one could not be pulled: that is said, not tried.
    let start = api.post("/api/v1/vm", &json!({ "vmid": "c0ffee11" })).await;
    assert!(start.is_clean(503) && start.failure().unwrap().contains("Switchyard's registries"), "{start:?}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_templates_are_deleted_through_the_controller_in_every_spelling() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let tags = async |id: &str| -> Vec<String> {
        let shown = api.get(&format!("/api/v1/registry/vm?id={id}")).await.ok();
        let tags =
            shown["versions"].as_array().unwrap().iter().map(|v| v["tag"].as_str().unwrap().to_owned());
        tags.collect()
    };
    let none = json!({});
    // What is asked, by query and body; and what is left of a, b+1, c, d.
    for (query, body, left) in [
        ("", none.clone(), 3),
        ("&tag=b+1", none.clone(), 1),
        ("&tag=b%2B1", none.clone(), 1),
        ("&tag_name=c", none.clone(), 2),
        ("&version=1", none.clone(), 1),
        ("&number=3", none.clone(), 3),
        ("", json!({ "tag": "b+1" }), 1),
        ("", json!({ "tag_name": "d" }), 3),
        ("", json!({ "version": 2 }), 2),
        ("", json!({ "number": "2" }), 2),
        // The query is what counts.
        ("&tag=d", json!({ "tag": "a" }), 3),
    ] {
        let name = "spelt";
        let mut id = String::new();
        for tag in ["a", "b+1", "c", "d"] {
            id = cloud.template(name, tag).await;
        }
        let done = api.delete(&format!("/api/v1/registry/revert?id={id}{query}"), &body).await;
        assert!(done.is_ok(), "{query} {body}: {done:?}");
        assert_eq!(tags(&id).await, ["a", "b+1", "c", "d"][..left], "{query} {body}");
        assert!(api.delete(&format!("/api/v1/registry/vm?id={id}"), &none).await.is_ok());
        assert_eq!(api.get("/api/v1/registry/vm").await.ok(), json!([]));
    }
    let id = cloud.template("last", "a").await;
    let unknown = api.delete(&format!("/api/v1/registry/revert?id={id}&tag=z"), &none).await;
    assert!(unknown.is_clean(400), "{unknown:?}");
    assert!(unknown.failure().unwrap().starts_with("Did not find any versions with tag z"), "{unknown:?}");
    let wrong = api.delete(&format!("/api/v1/registry/revert?id={id}&version=x"), &none).await;
    assert!(wrong.is_clean(400) && wrong.failure().unwrap().contains("version"), "{wrong:?}");
    for path in ["/api/v1/registry/vm", "/api/v1/registry/revert"] {
        assert!(api.delete(path, &none).await.is_clean(400), "{path} without an id");
        let nobody = api.delete(&format!("{path}?id=nobody"), &none).await;
        assert_eq!(nobody.failure().as_deref(), Some("Not found"), "{nobody:?}");
    }
    // Back to its first version: all of it.
    assert!(api.delete("/api/v1/registry/revert", &json!({ "id": id, "number": 0 })).await.is_ok());
    let gone = api.get(&format!("/api/v1/registry/vm?id={id}")).await;
    assert_eq!(gone.failure().as_deref(), Some("Not found"));
    cloud.stop().await;
}
