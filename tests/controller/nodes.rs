//! Nodes through the API.

use serde_json::json;

use crate::{
    cloud::Cloud,
    node::Node,
    support::shape::{NODE, assert_shape},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_the_documented_shape_alone_and_in_the_list() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    Node::joined(api, "i-0abc").await;
    let alone = api.get("/api/v1/node?id=i-0abc").await.ok();
    assert_eq!(alone.as_array().unwrap().len(), 1, "always an array");
    assert_shape(&alone[0], NODE);
    for key in ["product", "version", "build", "license", "expires"] {
        assert!(alone[0]["anka_version"][key].is_string(), "also when it is empty, `{key}`: {alone}");
    }
    let list = api.get("/api/v1/node").await.ok();
    assert_eq!(list[0]["node_id"], "i-0abc");
    assert_eq!(list[0]["templates"], json!([{ "uuid": "c0ffee11", "name": "old", "tag": "base" }]));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_of_an_operator_survives_the_nodes_next_join() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let node = Node::joined(api, "n-1").await;
    let ask = json!({ "node_id": "n-1", "max_vm_count": 5, "name": "renamed", "host": "mini.example", "drain_mode": true,
        "disable_central_logging": true });
    api.post("/api/v1/node/config", &ask).await.ok();
    let told = node.beat(Vec::new()).await.config.unwrap();
    assert!(told.version > 1 && told.disable_central_logging, "{told:?}");
    let joined = node.join().await;
    assert!(joined.config.disable_central_logging);
    assert_eq!((joined.config.capacity, joined.config.name.as_str()), (5, "renamed"));
    assert!(joined.config.drain_mode);
    assert_eq!(joined.registry, cloud.registry);
    let shown = api.get("/api/v1/node?id=n-1").await.ok();
    assert_eq!((&shown[0]["capacity"], &shown[0]["ip_address"]), (&json!(5), &json!("mini.example")));
    assert_eq!(shown[0]["disable_central_logging"], true);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_is_offered_nothing() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let drain = |on: bool| json!({ "node_id": "n-1", "drain_mode": on });
    cloud.api().post("/api/v1/node/config", &drain(true)).await.ok();
    cloud.instance(&template).await;
    assert!(node.poll(2, 1).await.start.is_none());
    cloud.api().post("/api/v1/node/config", &drain(false)).await.ok();
    node.offered().await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_node_is_told_that_it_is_not_known() {
    let cloud = Cloud::start().await;
    let node = Node::joined(cloud.api(), "n-1").await;
    cloud.api().delete("/api/v1/node", &json!({ "node_id": "n-1" })).await.ok();
    assert!(!node.beat(Vec::new()).await.known);
    node.join().await;
    assert!(node.beat(Vec::new()).await.known);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_for_a_group_goes_to_a_node_of_it_and_to_no_other() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let outside = Node::joined(cloud.api(), "outside").await;
    let ask = json!({ "vmid": template, "group_id": "lab" });
    let refused = cloud.api().post("/api/v1/vm", &ask).await;
    assert!(refused.is_clean(400) && refused.failure().unwrap().contains("`lab`"), "{refused:?}");
    let inside = Node { groups: vec!["lab".into()], ..Node::new(cloud.api(), "inside") };
    inside.join().await;
    inside.beat(Vec::new()).await;
    let shown = cloud.api().get("/api/v1/node?id=inside").await.ok();
    let group = json!([{ "id": "lab", "name": "lab", "description": "", "fallback_group_id": null }]);
    assert_eq!(shown[0]["groups"], group, "a text that clients never find null");
    cloud.api().post("/api/v1/vm", &ask).await.ok();
    assert!(outside.poll(2, 1).await.start.is_none());
    inside.offered().await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_confirms_an_absence_by_one_call_without_a_body() {
    let cloud = Cloud::start().await;
    Node::joined(cloud.api(), "n-1").await;
    let answer = cloud.api().call("POST", "/switchyard/v1/nodes/confirm-absence", None).await;
    assert_eq!(answer.ok(), json!({ "nodes": 0 }), "nobody is held, and nobody who reports is touched");
    assert_eq!(cloud.api().get("/api/v1/node?id=n-1").await.ok()[0]["state"], "Active");
    cloud.stop().await;
}
