//! The store is out of reach: reads go on, marked; everything else is a clean 503; recovery needs nobody.

use std::time::Duration;

use serde_json::json;
use switchyard::store::faulty::Faults;

use crate::{
    cloud::{Cloud, PATIENCE, Plan},
    node::Node,
    support::eventually::eventually,
};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_reads_are_marked_and_writes_are_told_to_come_back() {
    let faults = Faults::new();
    let cloud = Cloud::planned(Plan { faults: faults.clone(), ..Plan::default() }).await;
    let template = cloud.template("sonoma", "v1").await;
    let id = cloud.instance(&template).await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let task = node.offered().await;
    let api = cloud.api();
    assert!(api.get("/api/v1/vm").await.header("switchyard-stale").is_none());

    faults.cut_off();
    let one = format!("/api/v1/vm?id={id}");
    for path in ["/api/v1/vm", one.as_str(), "/api/v1/node", "/api/v1/node?id=n-1"] {
        let answer = api.get(path).await;
        assert!(answer.is_ok() && answer.text.contains(&*id) == path.contains("/vm"), "{path}: {answer:?}");
        assert_eq!(answer.header("switchyard-stale"), Some("store-unavailable"), "{path}");
        assert!(answer.took < Duration::from_secs(5), "clients give up at 5 s: {path}: {answer:?}");
    }
    for answer in [
        api.post("/api/v1/vm", &json!({ "vmid": template })).await,
        api.put(&one, &json!({ "name": "x" })).await,
        api.delete("/api/v1/vm", &json!({ "id": id })).await,
        api.post("/api/v1/node/config", &json!({ "node_id": "n-1", "drain_mode": true })).await,
        node.call("claim", &node.claim_of(&task)).await,
        node.call("heartbeat", &node.heartbeat(Vec::new())).await,
    ] {
        assert!(answer.is_clean(503) && answer.header("retry-after").is_some(), "{answer:?}");
        assert!(answer.took < Duration::from_secs(10), "clients give up at 10 s: {answer:?}");
    }
    assert_eq!(api.get("/livez").await.status, 200);
    let ready = eventually(PATIENCE, "readyz says what still works", async || {
        let ready = api.get("/readyz").await;
        if ready.json()["write"] == false { Ok(ready) } else { Err(ready) }
    })
    .await;
    assert_eq!((ready.status, &ready.json()["read"]), (200, &json!(true)), "nobody is ejected for it");

    faults.heal();
    eventually(PATIENCE, "writes go again", async || {
        let answer = api.post("/api/v1/vm", &json!({ "vmid": template })).await;
        if answer.is_ok() { Ok(()) } else { Err(answer) }
    })
    .await;
    let list = eventually(PATIENCE, "reads are no longer marked", async || {
        let answer = api.get("/api/v1/vm").await;
        if answer.header("switchyard-stale").is_none() { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert_eq!(list.ok().as_array().unwrap().len(), 2, "what was refused did not happen");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn until_the_cache_is_loaded_everything_but_livez_is_a_clean_503() {
    let faults = Faults::new();
    faults.cut_off();
    let plan = Plan { faults: faults.clone(), until_ready: false, ..Plan::default() };
    let cloud = Cloud::planned(plan).await;
    let api = cloud.api();
    assert_eq!((api.get("/livez").await.status, api.get("/healthz").await.status), (200, 200));
    let ready = api.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (503, &json!(false)));
    assert!(!ready.json()["why"].as_array().unwrap().is_empty(), "{ready:?}");
    let node = Node::new(api, "n-1");
    for answer in [
        api.get("/api/v1/status").await,
        api.get("/api/v1/vm").await,
        api.get("/nothing").await,
        api.post("/api/v1/vm", &json!({ "vmid": "x" })).await,
        api.get(&node.tasks(1, 10)).await,
        node.call("heartbeat", &node.heartbeat(Vec::new())).await,
    ] {
        assert!(answer.is_clean(503) && answer.header("retry-after").is_some(), "{answer:?}");
        assert!(answer.took < Duration::from_secs(2), "at once: {answer:?}");
    }
    faults.heal();
    eventually(PATIENCE, "the controller is ready by itself", async || {
        let answer = api.get("/api/v1/vm").await;
        if answer.is_ok() { Ok(()) } else { Err(answer) }
    })
    .await;
    cloud.stop().await;
}
