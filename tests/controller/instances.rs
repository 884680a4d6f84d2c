//! One instance from its start to its end, as the API shows it and as its node sees it.

use std::time::Duration;

use serde_json::json;
use switchyard::{
    config::controller::Timeouts,
    model::Progress,
    store::Range,
    wire::{
        agent::{SeenVm, VmPhase},
        vm::ScriptResult,
    },
};

use crate::{
    cloud::{Cloud, PATIENCE, Plan, until_state},
    node::{Node, granted, stop_of},
    support::eventually::eventually,
    support::shape::{INSTANCE, LISTED, assert_shape},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_lives_from_scheduling_to_terminated_and_every_answer_has_the_documented_shape() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma-xcode", "v3+ssh").await;
    let api = cloud.api();
    let ask = json!({
        "vmid": template, "tag": "v3+ssh", "count": 1, "external_id": "job/1187", "name": "build", "priority": 500,
        "metadata": { "a": 1, "b": true, "c": "x" },
    });
    let ids = api.post("/api/v1/vm", &ask).await.ok();
    assert_eq!(ids.as_array().unwrap().len(), 1);
    let id = ids[0].as_str().unwrap().to_owned();

    let waiting = api.get(&format!("/api/v1/vm?id={id}")).await.ok();
    assert_shape(&waiting, INSTANCE);
    assert_eq!(waiting["instance_state"], "Scheduling");
    assert!(waiting.get("vminfo").is_none(), "the key itself is left out before the start: {waiting}");
    assert_eq!(waiting["metadata"], ask["metadata"]);
    assert_eq!(waiting["progress"].to_string(), "0");

    let node = Node::joined(api, "n-1").await;
    let task = node.offered().await;
    assert_eq!((task.instance.as_str(), task.tag.as_str()), (id.as_str(), "v3+ssh"));
    assert_eq!(task.registry, cloud.registry);
    assert_eq!(node.claim(&task).await, granted());
    assert_eq!(node.claim(&task).await, granted(), "repeating one's own claim succeeds");

    let mut pulling = node.vm(&task, VmPhase::Pulling);
    pulling.progress = Progress::of(0.25);
    node.beat(vec![pulling]).await;
    let shown = until_state(api, &id, "Pulling").await;
    assert_shape(&shown, INSTANCE);
    assert_eq!((shown["progress"].to_string().as_str(), &shown["node_id"]), ("0.25", &json!("n-1")));

    assert_eq!(node.starting(&task).await, granted());
    let starting = node.vm(&task, VmPhase::Starting);
    node.beat(vec![starting]).await;
    until_state(api, &id, "Scheduling").await;

    let running = node.vm(&task, VmPhase::Running);
    node.report(running.clone()).await;
    let shown = until_state(api, &id, "Started").await;
    assert_shape(&shown, INSTANCE);
    assert_eq!(shown["vminfo"]["port_forwarding"][0]["host_port"], 10002);

    let list = api.get("/api/v1/vm").await.ok();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_shape(&list[0], LISTED);
    assert_eq!(
        (&list[0]["external_id"], &list[0]["vm"]["external_id"]),
        (&json!("job/1187"), &json!("job/1187"))
    );
    assert_eq!(list[0]["vm"], shown, "list and show agree");

    let bye = json!({ "id": id });
    assert!(api.delete("/api/v1/vm", &bye).await.ok().is_null());
    assert!(api.delete("/api/v1/vm", &bye).await.ok().is_null(), "repeating it is fine");
    until_state(api, &id, "Terminating").await;
    let heard = node.beat(vec![running]).await;
    assert_eq!(heard.stop, [stop_of(&task)]);
    let heard = node.beat(vec![node.vm(&task, VmPhase::Gone)]).await;
    assert_eq!(heard.forget, [stop_of(&task)]);
    let shown = until_state(api, &id, "Terminated").await;
    assert_shape(&shown, INSTANCE);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_a_startup_script_said_is_shown_with_its_instance_and_deleted_with_it() {
    let timeouts = Timeouts { instance_visible: Duration::from_millis(500), ..Timeouts::default() };
    let cloud = Cloud::planned(Plan { timeouts, ..Plan::default() }).await;
    let (api, template) = (cloud.api(), cloud.template("sonoma", "v1").await);
    let node = Node::joined(api, "n-1").await;
    let id = cloud.instance(&template).await;
    let task = node.offered().await;
    assert_eq!((node.claim(&task).await, node.starting(&task).await), (granted(), granted()));
    let lines: String = (1..=5000).map(|n| format!("line {n} of \"five thousand\"\n")).collect();
    let said =
        ScriptResult { stdout: lines.clone(), stderr: "one warning\n".into(), ..ScriptResult::default() };
    let running = SeenVm { script: Some(said), ..node.vm(&task, VmPhase::Running) };
    for _ in 0..2 {
        node.report(running.clone()).await;
        node.beat(vec![running.clone()]).await;
    }
    until_state(api, &id, "Started").await;
    let shown = api.get(&format!("/api/v1/vm?id={id}")).await.ok();
    assert_shape(&shown, INSTANCE);
    let script = &shown["startup_script"];
    assert_eq!((&script["stdout"], &script["stderr"]), (&json!(lines), &json!("one warning\n")), "all of it");
    let list = api.get("/api/v1/vm").await.ok();
    let end = list[0]["vm"]["startup_script"]["stdout"].as_str().unwrap();
    assert!(end.len() < 9_000 && lines.ends_with(end) && !end.is_empty(), "in a list the end of it");

    let kept = async || {
        let all = cloud.store.range(Range::prefix("/switchyard-bulk/main/outputs/")).await.unwrap();
        all.kvs.len()
    };
    assert!(kept().await > 0);
    api.delete("/api/v1/vm", &json!({ "id": id })).await.ok();
    node.report(node.vm(&task, VmPhase::Gone)).await;
    eventually(PATIENCE, "it goes with its instance", async || match kept().await {
        0 => Ok(()),
        count => Err(count),
    })
    .await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_of_several_gives_as_many_ids_and_all_are_listed_at_once() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let ids = cloud.api().post("/api/v1/vm", &json!({ "vmid": template, "count": 7 })).await.ok();
    let mut ids: Vec<String> = ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap().into()).collect();
    let list = cloud.api().get("/api/v1/vm").await.ok();
    let list = list.as_array().unwrap().iter();
    let mut listed: Vec<String> = list.map(|vm| vm["instance_id"].as_str().unwrap().into()).collect();
    ids.sort();
    listed.sort();
    assert_eq!(ids, listed);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_makes_no_second_vm_and_with_another_body_is_refused() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let (api, path) = (cloud.api(), "/api/v1/vm");
    let key = [("idempotency-key", "k-1")];
    let ask = json!({ "vmid": template, "count": 2 });
    let first = api.call_with("POST", path, Some(&ask), &key).await.unwrap().ok();
    let again = api.call_with("POST", path, Some(&ask), &key).await.unwrap().ok();
    assert_eq!(first, again);
    let other = json!({ "vmid": template, "count": 3 });
    let refused = api.call_with("POST", path, Some(&other), &key).await.unwrap();
    assert!(refused.is_clean(422), "{refused:?}");
    let keyed = [("idempotency-key", "k-1"), ("authorization", "Basic c29tZWJvZHk6ZWxzZQ==")];
    let stranger = api.call_with("POST", path, Some(&ask), &keyed).await.unwrap().ok();
    assert_ne!(first, stranger, "a key is its caller's own");
    assert_eq!(api.get(path).await.ok().as_array().unwrap().len(), 4);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_before_any_node_took_it_never_shows_terminated() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let id = cloud.instance(&template).await;
    let api = cloud.api();
    api.delete("/api/v1/vm", &json!({ "id": id })).await.ok();
    let shown = api.get(&format!("/api/v1/vm?id={id}")).await.ok();
    assert_eq!(shown["instance_state"], "Terminating");
    let node = Node::joined(api, "n-1").await;
    assert!(node.poll(2, 1).await.start.is_none(), "it is no longer offered");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_it_names_and_replaces_metadata_whole() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let api = cloud.api();
    let ask = json!({ "vmid": template, "name": "a", "external_id": "b", "metadata": { "x": 1 } });
    let id = api.post("/api/v1/vm", &ask).await.ok()[0].as_str().unwrap().to_owned();
    let path = format!("/api/v1/vm?id={id}");
    let answer = api.put(&path, &json!({ "external_id": "c", "metadata": { "jenkins-job-id": "7" } })).await;
    assert_eq!(answer.text, "{\"status\":\"OK\",\"message\":\"\"}\n");
    let shown = api.get(&path).await.ok();
    assert_eq!((&shown["name"], &shown["external_id"]), (&json!("a"), &json!("c")));
    assert_eq!(shown["metadata"], json!({ "jenkins-job-id": "7" }));
    for empty in [json!({ "name": "", "external_id": null, "metadata": "" }), json!({ "metadata": {} })] {
        api.put(&path, &empty).await.ok();
        let still = api.get(&path).await.ok();
        for key in ["name", "external_id", "metadata"] {
            assert_eq!(still[key], shown[key], "what is empty is not given: {empty}");
        }
    }
    api.put(&path, &json!({ "external_id": 5, "name": true, "metadata": { "build": 7, "by": null } }))
        .await
        .ok();
    let shown = api.get(&path).await.ok();
    assert_eq!((&shown["name"], &shown["external_id"]), (&json!("true"), &json!("5")));
    assert_eq!(shown["metadata"], json!({ "build": 7 }));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_sloppy_types_and_empty_values_are_taken() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let ask = json!({
        "vmid": template, "tag": "", "version": "", "count": "2", "priority": "10", "disk": {}, "group": "",
        "script_monitoring": false, "script_timeout": 90, "script_fail_handler": 0, "made_up": [1, 2],
        "port_forwarding_override": [{ "name": "ssh", "guest_port": "22" }], "startup_script": "", "metadata": {},
    });
    let ids = cloud.api().post("/api/v1/vm?made=up", &ask).await.ok();
    assert_eq!(ids.as_array().unwrap().len(), 2);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_no_node_can_take_ends_in_error_says_why_and_is_an_event() {
    let timeouts = Timeouts { scheduling: Duration::from_secs(1), ..Timeouts::default() };
    let cloud = Cloud::planned(Plan { timeouts, ..Plan::default() }).await;
    let template = cloud.template("sonoma", "v1").await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let ask = json!({ "vmid": template, "usb_device": "camera" });
    let id = cloud.api().post("/api/v1/vm", &ask).await.ok()[0].as_str().unwrap().to_owned();
    let shown = until_state(cloud.api(), &id, "Error").await;
    let expected = "no node took it within 1s (`timeouts.scheduling`): no node that could run it has USB device `camera`";
    assert_eq!(shown["message"], expected);
    assert!(shown.get("node_id").is_none() && node.poll(2, 1).await.start.is_none(), "{shown}");
    let told = cloud.api().get("/switchyard/v1/events?action=VMFailedToStart").await.json();
    assert_eq!(
        (&told["events"][0]["instance_ids"], &told["events"][0]["message"]),
        (&json!([id]), &json!(expected))
    );
    cloud.api().delete("/api/v1/vm", &json!({ "id": id })).await.ok();
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_vms_of_one_name_template_have_different_names() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let ask = json!({ "vmid": template, "count": 2, "name_template": "build" });
    cloud.api().post("/api/v1/vm", &ask).await.ok();
    let node = Node::joined(cloud.api(), "n-1").await;
    let names = [node.offered().await.vm_name, node.offered().await.vm_name];
    assert!(names.iter().all(|name| name.starts_with("build-")), "{names:?}");
    assert_ne!(names[0], names[1]);
    cloud.stop().await;
}
