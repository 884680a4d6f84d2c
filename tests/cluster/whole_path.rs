//! The whole path once: push with the real client, start with the real curl, see it, end it.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    support::{
        cloud::{Cloud, Plan, SOON},
        eventually::eventually,
        image::Image,
        outside::{self, curl},
        scale::scaled,
        shape::{self, assert_shape},
        vms::Vms,
    },
    turn,
};

/// A pull of 200 MB (1 GB at full size) and its checks, on a machine that does other things.
const PULLED: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_image_is_started_shown_and_terminated() {
    let _turn = turn().await;
    let cloud = Cloud::start("path", &Plan::default()).await;
    let vms = Vms::watch(&cloud.place);
    let url = |path: &str| format!("http://{}{path}", cloud.controllers_front);

    let image = Image::write(&cloud.place.path("image"), 1, 4, scaled(50, 250));
    let template = cloud.push(&image, "mac/sonoma", "v3-ssh").await;

    // Start, as the documentation shows it.
    let script = BASE64_STANDARD.encode("echo from the script\nexit 0\n");
    let start = json!({
        "vmid": template, "tag": "v3-ssh", "count": 1, "external_id": "job/1187", "name": "one", "priority": 500,
        "metadata": { "branch": "main", "number": 7, "nightly": true },
        "startup_script": script, "script_monitoring": true, "script_timeout": 30,
    });
    let (status, answer) = curl(&cloud.place, "POST", &url("/api/v1/vm"), Some(&start)).await;
    assert_eq!((status, &answer["status"], &answer["message"]), (200, &json!("OK"), &json!("")), "{answer}");
    let ids = answer["body"].as_array().expect("a list of ids");
    assert_eq!(ids.len(), 1, "{answer}");
    let id = ids[0].as_str().expect("an id is a text").to_owned();

    // It is in the list of every controller at once, not only of the one that took it.
    for controller in &cloud.controllers {
        let list = controller.api().get("/api/v1/vm").await.ok();
        let seen = list.as_array().expect("a list").iter().any(|vm| vm["instance_id"] == *id);
        assert!(seen, "{} does not list {id}: {list}", controller.address);
    }

    // On its way every answer has the shape of the reference; then it is up.
    let shown = eventually(PULLED, "the instance to be Started", || async {
        let (status, answer) = curl(&cloud.place, "GET", &url(&format!("/api/v1/vm?id={id}")), None).await;
        assert_eq!((status, &answer["status"]), (200, &json!("OK")), "{answer}");
        assert_shape(&answer["body"], shape::INSTANCE);
        match answer["body"]["instance_state"].as_str() {
            Some("Started") => Ok(answer["body"].clone()),
            Some("Scheduling" | "Pulling") => Err(answer.to_string()),
            _ => panic!("a start never passes through another state: {answer}"),
        }
    })
    .await;
    assert_eq!(vms.of(&id).len(), 1, "one VM runs");
    let expected = json!({
        "vmid": template, "tag": "v3-ssh", "name": "one", "external_id": "job/1187", "metadata": start["metadata"],
        "anka_registry": format!("http://{}", cloud.registries_front),
    });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&shown[key], value, "{key} in {shown}");
    }
    assert_eq!(shown["vminfo"]["status"], "running", "{shown}");
    assert_eq!(shown["vminfo"]["node_id"], shown["node_id"], "{shown}");
    assert_eq!(shown["startup_script"]["return_code"], 0, "{shown}");
    assert_eq!(shown["startup_script"]["stdout"], "from the script\n", "{shown}");

    list_and_show_agree(&cloud, &id, &shown).await;
    the_rest_of_the_api_agrees(&cloud, &template, shown["node_id"].as_str().unwrap_or_default(), &image)
        .await;

    // End.
    let (status, answer) = curl(&cloud.place, "DELETE", &url("/api/v1/vm"), Some(&json!({ "id": id }))).await;
    assert_eq!((status, &answer["status"]), (200, &json!("OK")), "{answer}");
    let ended = cloud.reaches(&id, &["Terminated"], SOON).await;
    assert_shape(&ended, shape::INSTANCE);
    eventually(SOON, "the VM to be gone", || async {
        if vms.of(&id).is_empty() { Ok(()) } else { Err("it runs") }
    })
    .await;
    assert!(cloud.terminate(&id).await.is_ok(), "ending it again is fine");
    vms.assert_never_two();
    assert_eq!(vms.ever(&id), 1);
}

async fn list_and_show_agree(cloud: &Cloud, id: &str, shown: &Value) {
    let list = cloud.list().await;
    assert_eq!(list.len(), 1, "{list:?}");
    assert_shape(&list[0], shape::LISTED);
    let (listed, vm) = (&list[0], &list[0]["vm"]);
    assert_eq!(listed["instance_id"], id);
    assert_eq!((&listed["external_id"], &vm["external_id"]), (&json!("job/1187"), &json!("job/1187")));
    assert_eq!((&listed["name"], &vm["name"]), (&json!("one"), &json!("one")));
    for key in
        ["instance_state", "vmid", "tag", "version", "node_id", "cr_time", "progress", "group_id", "arch"]
    {
        assert_eq!(vm.get(key), shown.get(key), "{key} in the list and alone");
    }
    assert_eq!(vm["vminfo"]["uuid"], shown["vminfo"]["uuid"]);
}

async fn the_rest_of_the_api_agrees(cloud: &Cloud, template: &str, node: &str, image: &Image) {
    assert_shape(&cloud.api.get("/api/v1/status").await.ok(), shape::STATUS);

    let nodes = cloud.api.get("/api/v1/node").await.ok();
    let nodes = nodes.as_array().expect("a list");
    assert_eq!(nodes.len(), 2);
    for node in nodes {
        assert_shape(node, shape::NODE);
    }
    let alone = cloud.api.get(&format!("/api/v1/node?id={node}")).await.ok();
    assert_eq!(alone.as_array().expect("a list even for one").len(), 1);
    eventually(SOON, "the node to tell of its VM and template", || async {
        let node = cloud.api.get(&format!("/api/v1/node?id={node}")).await.ok()[0].clone();
        let has = node["templates"].as_array().into_iter().flatten().any(|t| t["uuid"] == template);
        if node["vm_count"] == 1 && has { Ok(()) } else { Err(node.to_string()) }
    })
    .await;

    let known = cloud.api.get(&format!("/api/v1/registry/vm?id={template}")).await.ok();
    assert_eq!(
        (&known["name"], &known["versions"][0]["tag"]),
        (&json!("mac/sonoma"), &json!("v3-ssh")),
        "{known}"
    );
    let bytes: u64 = image.layers.iter().map(|(_, size)| size).sum();
    assert!(known["size"].as_u64().is_some_and(|size| size >= bytes), "{known}");

    let copy = cloud.place.path("copy");
    let said =
        outside::pull(&cloud.place, &format!("{}/mac/sonoma:v3-ssh", cloud.registries_front), &copy).await;
    assert!(said.ok, "{}", said.err);
    let index = std::fs::read_to_string(copy.join("index.json")).expect("an index");
    assert!(index.contains(&image.manifest), "the same image comes back: {index}");
}
