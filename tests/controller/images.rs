//! Restarts and saved images: what the API takes and shows, and what the node's side of the protocol hears.

use serde_json::{Value, json};
use switchyard::wire::{
    agent::{Heartbeat, VmPhase},
    command::{Command, CommandReport, CommandState, Order},
    vm::ScriptResult,
};

use crate::{
    cloud::{Cloud, PATIENCE, Plan, until_state},
    node::{Node, bare},
    support::eventually::eventually,
};

const RESTART: &str = "/api/v1/rpc/vm/restart";
const IMAGE: &str = "/api/v1/image";

/// A node with a started instance: both, the template, and the VM as the node tells of it.
async fn started(cloud: &Cloud) -> (Node, String, String, switchyard::wire::agent::SeenVm) {
    let template = cloud.template("sonoma", "v1").await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let id = cloud.instance(&template).await;
    let vm = node.run(&node.offered().await).await;
    until_state(cloud.api(), &id, "Started").await;
    (node, id, template, vm)
}

/// What the node is told to do, in one heartbeat.
async fn told(node: &Node, vm: &switchyard::wire::agent::SeenVm) -> Vec<Command> {
    node.beat(vec![vm.clone()]).await.commands
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_told_once_and_never_to_another_run_of_the_agent() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let (mut node, id, _, vm) = started(&cloud).await;
    let ask = json!({ "instance_id": id, "vnc_password": "verySecret" });
    for _ in 0..2 {
        assert!(api.post(RESTART, &ask).await.is_ok(), "asked for twice it is one");
    }
    let commands = told(&node, &vm).await;
    let [Command { id: command, order: Order::Restart(order) }] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!((order.instance.as_str(), order.attempt), (id.as_str(), vm.attempt));
    assert_eq!(order.vnc_password, "verySecret");
    for path in ["/switchyard/v1/nodes/commands?node=n-1".to_owned(), format!("/api/v1/vm?id={id}")] {
        let shown = api.get(&path).await;
        assert!(shown.status == 200 && !shown.text.contains("verySecret"), "{shown:?}");
    }
    assert_eq!(told(&node, &vm).await, commands, "until it was heard");
    node.command(command, CommandState::Running, 0.0).await;
    assert!(told(&node, &vm).await.is_empty(), "what is under way may not be begun once more");
    until_state(api, &id, "Started").await;
    // The agent is started anew and knows nothing of it.
    node.session = "n-1-s2".into();
    assert!(told(&node, &vm).await.is_empty());
    let all = api.get("/switchyard/v1/nodes/commands?node=n-1").await.ok();
    assert_eq!(all[0]["state"], "failed");
    assert!(all[0]["message"].as_str().unwrap().contains("not done twice"), "{all}");
    // The next one is another command.
    assert!(api.post(RESTART, &ask).await.is_ok());
    assert_ne!(told(&node, &vm).await[0].id, *command);

    for (ask, status, word) in [
        (json!({}), 400, "`instance_id` is required"),
        (json!({ "instance_id": "nobody" }), 200, "Not found"),
        (json!({ "instance_id": id, "vnc_password": "x".repeat(200) }), 400, "at most 128"),
        (json!({ "instance_id": id, "usb_device": "iPhone" }), 400, "has no USB device `iPhone`"),
    ] {
        let refused = api.post(RESTART, &ask).await;
        assert!(refused.is_clean(status) && refused.failure().unwrap().contains(word), "{refused:?}");
    }
    api.delete("/api/v1/vm", &json!({ "id": id })).await.ok();
    let refused = api.post(RESTART, &ask).await;
    assert!(refused.is_clean(409) && refused.failure().unwrap().contains("Terminating"), "{refused:?}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saving_is_shown_with_the_vendors_names_and_ends_with_its_nodes_word() {
    let writer = "http://writer.example:8089";
    let cloud = Cloud::planned(Plan { push_address: Some(writer.parse().unwrap()), ..Plan::default() }).await;
    let api = cloud.api();
    let (node, id, template, vm) = started(&cloud).await;
    assert_eq!(api.get(IMAGE).await.ok(), json!([]));
    let ask = json!({
        "id": id, "tag": "v2", "target_vm_id": template, "description": "d", "suspend": false, "script": "dHJ1ZQo=",
        "revert_before_push": true, "revert_tag": "v1", "do_suspend_sanity_test": true,
        "cancel_on_script_failure": true,
    });
    let image = api.post(IMAGE, &ask).await.ok()["request_id"].as_str().unwrap().to_owned();
    until_state(api, &id, "Pushing").await;
    let again = api.post(IMAGE, &ask).await;
    assert!(again.is_clean(409) && again.failure().unwrap().contains("Pushing"), "one at a time: {again:?}");
    let shown = api.get(&format!("{IMAGE}?id={image}")).await.ok();
    let request = &shown["request"];
    let node_id = "n-1";
    for (key, value) in [
        ("RequestId", json!(image)),
        ("VMID", json!(format!("vm-{id}"))),
        ("InstanceID", json!(id)),
        ("NodeID", json!(node_id)),
        ("TemplateID", json!(template)),
        ("NewTemplateName", json!("")),
        ("Tag", json!("v2")),
        ("Description", json!("d")),
        ("Suspend", json!(false)),
        ("Script", json!("dHJ1ZQo=")),
        ("DoSuspendTest", json!(true)),
        ("RevertBeforePush", json!(true)),
        ("RevertTag", json!("v1")),
        ("CancelOnScriptFailure", json!(true)),
        ("RegistryAddr", json!(writer)),
    ] {
        assert_eq!(request[key], value, "{key}: {shown}");
    }
    assert!(request["Timestamp"].is_i64() && request["Priority"].is_u64());
    assert_eq!(
        (&shown["status"], &shown["error"], &shown["script_result"]),
        (&json!("pending"), &Value::Null, &Value::Null)
    );

    let commands = told(&node, &vm).await;
    let Order::Save(order) = &commands[0].order else { panic!("{commands:?}") };
    assert_eq!(
        (order.repository.as_str(), order.tag.as_str(), order.script.as_str()),
        ("sonoma", "v2", "dHJ1ZQo=")
    );
    assert_eq!(order.registry, writer, "it is pushed where images go, and pulled from where it was");
    assert!(order.suspend_test && !order.suspend && order.cancel_on_script_failure);
    assert_eq!(order.revert.as_ref().map(|revert| revert.tag.as_str()), Some("v1"));
    // The VM is stopped for it; that is no end of the instance.
    let mut stopped = vm.clone();
    stopped.info.as_mut().unwrap().status = "stopped".into();
    let long = format!("{}the end", "x".repeat(900_000));
    let script = ScriptResult { stdout: long.clone(), ..ScriptResult::default() };
    let report = CommandReport {
        id: commands[0].id.clone(),
        state: CommandState::Done,
        progress: 1.0.into(),
        message: String::new(),
        script: Some(script),
    };
    let beat = Heartbeat { commands: vec![report], ..node.heartbeat(vec![stopped]) };
    let heard: switchyard::wire::agent::Heard = bare(&node.call("heartbeat", &beat).await);
    assert_eq!(heard.noted, std::slice::from_ref(&commands[0].id));
    let shown = api.get(&format!("{IMAGE}?id={image}")).await.ok();
    assert_eq!(
        (&shown["status"], &shown["script_result"]["stdout"]),
        (&json!("done"), &json!(long)),
        "all of it"
    );
    let list = api.get(IMAGE).await.ok();
    let brief = list[0]["script_result"]["stdout"].as_str().unwrap();
    assert!(brief.len() < 10_000 && brief.ends_with("the end"), "in a list the end of it");
    until_state(api, &id, "Terminating").await;
    node.report(node.vm(&node_task(&vm), VmPhase::Gone)).await;
    until_state(api, &id, "Terminated").await;
    let log = api.get("/switchyard/v1/events?limit=1000").await.json();
    let told =
        log["events"].as_array().unwrap().iter().filter(|event| event["instance_ids"][0] == id.as_str());
    let told: Vec<&str> = told.map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(told, ["StartVM", "VMStarted", "TerminateVM", "VMTerminated"]);
    cloud.stop().await;
}

/// A task with this VM's name alone.
fn node_task(vm: &switchyard::wire::agent::SeenVm) -> switchyard::wire::agent::StartTask {
    serde_json::from_value(json!({
        "instance": vm.instance, "attempt": vm.attempt, "template": "t", "template_name": "t", "repository": "t",
        "tag": "t", "manifest": format!("sha256:{}", "0".repeat(64)), "registry": "", "vm_name": "",
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saving_that_comes_to_nothing_leaves_its_instance_as_it_is() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let (node, id, template, vm) = started(&cloud).await;
    for (ask, status, word) in [
        (json!({ "tag": "v2", "target_vm_id": template }), 400, "id is required"),
        (json!({ "id": id, "target_vm_id": template }), 400, "tag is required"),
        (json!({ "id": id, "tag": "a b", "target_vm_id": template }), 400, "tag:"),
        (json!({ "id": id, "tag": "v2" }), 400, "new_template_name is required"),
        (json!({ "id": id, "tag": "v2", "new_template_name": "a//b" }), 400, "new_template_name:"),
        (
            json!({ "id": id, "tag": "v2", "new_template_name": "a", "target_vm_id": template }),
            400,
            "not both",
        ),
        (
            json!({ "id": id, "tag": "v2", "new_template_name": "a", "revert_before_push": true }),
            400,
            "target_vm_id",
        ),
        (json!({ "id": id, "tag": "v2", "target_vm_id": "nobody" }), 400, "VM not in the registry"),
        (json!({ "id": id, "tag": "v2", "target_vm_id": template, "script": "?" }), 400, "base64"),
        (
            json!({ "id": id, "tag": "v2", "target_vm_id": template, "script": "A".repeat(200_000) }),
            400,
            "the most",
        ),
        (json!({ "id": id, "tag": "v1", "target_vm_id": template }), 400, "has a tag `v1` already"),
        (json!({ "id": "nobody", "tag": "v2", "target_vm_id": template }), 200, "Not found"),
    ] {
        let refused = api.post(IMAGE, &ask).await;
        assert!(refused.is_clean(status) && refused.failure().unwrap().contains(word), "{ask}: {refused:?}");
        assert_eq!(api.get(&format!("/api/v1/vm?id={id}")).await.ok()["instance_state"], "Started");
    }
    let missing = api.get(&format!("{IMAGE}?id=nobody")).await;
    assert_eq!(missing.failure().as_deref(), Some("Not found"));

    let ask = json!({ "id": id, "tag": "v2", "new_template_name": "other" });
    let image = api.post(IMAGE, &ask).await.ok()["request_id"].as_str().unwrap().to_owned();
    let command = told(&node, &vm).await.remove(0);
    assert_eq!(
        node.command(&command.id, CommandState::Failed, 0.0).await.noted,
        std::slice::from_ref(&command.id)
    );
    let shown = api.get(&format!("{IMAGE}?id={image}")).await.ok();
    assert_eq!((&shown["status"], &shown["error"]["Message"]), (&json!("error"), &json!("the disk is full")));
    until_state(api, &id, "Started").await;

    // A terminate goes before it, and ends it.
    let image = api.post(IMAGE, &ask).await.ok()["request_id"].as_str().unwrap().to_owned();
    api.delete("/api/v1/vm", &json!({ "id": id })).await.ok();
    let shown = eventually(PATIENCE, "the image to have failed", async || {
        let shown = api.get(&format!("{IMAGE}?id={image}")).await.ok();
        if shown["status"] == "error" { Ok(shown) } else { Err(shown) }
    })
    .await;
    assert!(shown["error"]["Message"].as_str().unwrap().contains("Terminating"), "{shown}");
    assert!(told(&node, &vm).await.is_empty(), "and nobody is asked to do it any more");
    cloud.stop().await;
}
