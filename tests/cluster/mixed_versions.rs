//! Controllers of two versions on one store: what a newer one has written the older ones show and leave alone, and a store
//! that needs a newer version is refused in words, by those that run and by those that start.

use serde_json::{Value, json};
use std::time::Duration;
use switchyard::store::{Consistency, Store, Txn, etcd::EtcdStore};

use crate::{
    support::{
        cloud::{Cloud, Plan, SOON},
        eventually::eventually,
        image::Image,
    },
    turn,
};

const SCHEMA: &str = "/switchyard/main/schema";

async fn value(store: &EtcdStore, key: &str) -> Option<bytes::Bytes> {
    store.get(key, Consistency::Linearizable).await.expect("etcd answers").kv.map(|kv| kv.value)
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_records_are_left_alone_and_a_newer_store_is_refused_in_words() {
    let _turn = turn().await;
    let controller = "[timeouts]\ninstance_visible = \"200ms\"\n".to_owned();
    let plan = Plan { agents: 0, controller, ..Plan::default() };
    let mut cloud = Cloud::start_without_agents("mixed", &plan).await;
    let image = Image::write(&cloud.place.path("image"), 1, 2, 1);
    let template = cloud.push(&image, "mac/sonoma", "v1").await;
    let ids = cloud.run(json!({ "vmid": template, "count": 2 })).await;
    let store = EtcdStore::connect(&cloud.etcd.urls(), Duration::from_secs(4)).await.expect("a client");

    // As a newer controller would write it: another version, and something that we know nothing of.
    let key = format!("/switchyard/main/instances/{}", ids[0]);
    let mut record: Value =
        serde_json::from_slice(&value(&store, &key).await.expect("a record")).expect("JSON");
    record["v"] = json!(2);
    record["later"] = json!({ "anything": [1, 2, 3] });
    let newer = record.to_string();
    store
        .txn(Txn::new().put(&key, newer.clone()).put("/switchyard/main/head", "{\"v\":1,\"w\":\"x\"}"))
        .await
        .expect("a put");
    for controller in &cloud.controllers {
        let api = controller.api();
        let shown = eventually(SOON, "it is shown as far as it can be read", || async {
            let shown = api.try_call("GET", &format!("/api/v1/vm?id={}", ids[0]), None).await?;
            if shown.is_ok() { Ok(shown.ok()) } else { Err(shown.to_string()) }
        })
        .await;
        assert_eq!(shown["instance_state"], "Scheduling");
        let ended = api.delete("/api/v1/vm", &json!({ "id": ids[0] })).await;
        assert!(!ended.is_ok() && ended.failure().is_some(), "it is the newer controllers' to end: {ended}");
        let other = api.put(&format!("/api/v1/vm?id={}", ids[1]), &json!({ "name": "x" })).await;
        assert!(other.is_ok(), "all else goes on: {other}");
    }
    cloud.terminate(&ids[1]).await.ok();
    eventually(SOON, "the other one is ended and removed", || async {
        let list = cloud.list().await;
        if list.len() == 1 { Ok(()) } else { Err(format!("{list:?}")) }
    })
    .await;
    assert_eq!(value(&store, &key).await.as_deref(), Some(newer.as_bytes()), "not a byte of it was changed");

    // A version beside which this one cannot work has come.
    store.txn(Txn::new().put(SCHEMA, r#"{"v":2,"w":"x","needs":2}"#)).await.expect("a put");
    let refused = async |cloud: &Cloud, place: usize| {
        let api = cloud.controllers[place].api();
        eventually(SOON, "it refuses in words", || async {
            let ready = api.try_call("GET", "/readyz", None).await?;
            let said = ready.text.contains("know version 2 of its records; this one knows version 1");
            if ready.status == 503 && said { Ok(()) } else { Err(ready.to_string()) }
        })
        .await;
        let list = api.get("/api/v1/vm").await;
        assert!(list.is_clean(503) && list.header("retry-after").is_some(), "{list}");
        assert_eq!(api.get("/livez").await.status, 200);
    };
    for place in 0..2 {
        refused(&cloud, place).await;
    }
    cloud.controllers[0].process.kill();
    cloud.controllers[0].restart().await;
    refused(&cloud, 0).await;
    assert!(cloud.controllers[0].process.log().contains("store must be left alone"));

    // It was a mistake, or the store was restored.
    store.txn(Txn::new().delete(SCHEMA)).await.expect("a delete");
    eventually(SOON, "all is served again", || async {
        let list = cloud.api.try_call("GET", "/api/v1/vm", None).await?;
        let one = list.is_ok() && list.ok().as_array().map(Vec::len) == Some(1);
        if one { Ok(()) } else { Err(list.to_string()) }
    })
    .await;
    cloud.upstreams_are("up").await;
}
