//! USB devices: which nodes have which, and who gets a start that asks for one.

use serde_json::json;

use crate::{
    cloud::{Cloud, until_state},
    node::Node,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_asks_for_a_device_goes_where_one_is_free() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let template = cloud.template("sonoma", "v1").await;
    assert_eq!(api.get("/api/v1/usb").await.ok(), json!({}));
    let without = Node::joined(api, "without").await;
    let with = Node { usb_devices: vec!["iPad".into(), "iPhone".into()], ..Node::new(api, "with") };
    with.join().await;
    with.beat(Vec::new()).await;
    let free = json!({ "available": 1, "busy": 0 });
    assert_eq!(api.get("/api/v1/usb").await.ok(), json!({ "iPad": free, "iPhone": free }));

    let start = json!({ "vmid": template, "usb_device": "iPad" });
    let first = api.post("/api/v1/vm", &start).await.ok()[0].as_str().unwrap().to_owned();
    assert!(without.poll(1, 1).await.start.is_none(), "it has no such device");
    let task = with.offered().await;
    assert_eq!((task.instance.as_str(), task.hardware.usb_device.as_str()), (first.as_str(), "iPad"));
    let vm = with.run(&task).await;
    until_state(api, &first, "Started").await;
    assert_eq!(api.get("/api/v1/usb").await.ok()["iPad"], json!({ "available": 0, "busy": 1 }));
    let shown = api.get("/api/v1/node?id=with").await.ok();
    let devices = json!([{ "name": "iPad", "busy": true }, { "name": "iPhone", "busy": false }]);
    assert_eq!(shown[0]["usb_devices"], devices);

    // The next one waits for it, although there is room, and says so.
    let second = api.post("/api/v1/vm", &start).await.ok()[0].as_str().unwrap().to_owned();
    assert!(with.poll(1, 1).await.start.is_none());
    let why = api.get(&format!("/api/v1/vm?id={second}")).await.ok()["message"].clone();
    assert!(why.as_str().unwrap().contains("USB device `iPad` is another VM's"), "{why}");
    // A restart may change to another one that is free, and makes the first free.
    let restart = json!({ "instance_id": first, "usb_device": "iPhone" });
    assert!(api.post("/api/v1/rpc/vm/restart", &restart).await.is_ok());
    let (next, _) = tokio::join!(with.offered(), with.beat(vec![vm]));
    assert_eq!(next.instance.as_str(), second);
    cloud.stop().await;
}
