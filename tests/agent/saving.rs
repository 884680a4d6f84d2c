//! Restarts and saved images by a real agent, as the product's own controller asks for them.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    commands::{end, prepare},
    kill,
    real::Cloud,
    standin::SOON,
    support::{eventually::eventually, relay::Wire},
};

impl Cloud {
    /// An instance of this template that is up, and whose script has run.
    async fn started(&self, template: &str, script: &str) -> String {
        let ask =
            json!({ "vmid": template, "startup_script": STANDARD.encode(script), "script_monitoring": true });
        let id = self.run(ask).await;
        self.is(&id, "Started").await;
        id
    }

    async fn save(&self, ask: Value) -> String {
        let asked = self.call(Method::POST, "/api/v1/image", Some(ask)).await;
        asked["body"]["request_id"].as_str().unwrap_or_else(|| panic!("{asked}")).to_owned()
    }

    async fn saved(&self, id: &str, status: &str) -> Value {
        eventually(SOON, &format!("the image to be {status}"), || async {
            let shown = self.call(Method::GET, &format!("/api/v1/image?id={id}"), None).await["body"].clone();
            if shown["status"] == status { Ok(shown) } else { Err(shown.to_string()) }
        })
        .await
    }

    /// The files that a version's layers are called after, with what is in them.
    async fn layers(&self, template: &str, tag: &str) -> Vec<(String, String)> {
        let url = format!("{}/v2/{template}/manifests/{tag}", self.registry);
        let manifest: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        let mut all = Vec::new();
        for layer in manifest["layers"].as_array().unwrap_or_else(|| panic!("{manifest}")) {
            let url = format!("{}/v2/{template}/blobs/{}", self.registry, layer["digest"].as_str().unwrap());
            let text = self.http.get(url).send().await.unwrap().text().await.unwrap();
            let title = &layer["annotations"]["org.opencontainers.image.title"];
            all.push((title.as_str().unwrap_or_default().to_owned(), text));
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_vm_is_the_same_one_started_at_another_time() {
    let (mut world, tree, cloud) = prepare("restart").await;
    world.agent().await;
    let template = cloud.push("sonoma", &[b"layer"]).await;
    let id = cloud.started(&template, "echo kept > kept.txt").await;
    let before = cloud.is(&id, "Started").await["vminfo"].clone();
    let restart = json!({ "instance_id": id, "vnc_password": "s3cret" });
    assert_eq!(cloud.call(Method::POST, "/api/v1/rpc/vm/restart", Some(restart)).await["status"], "OK");
    let after = eventually(SOON, "another start date", || async {
        let shown = cloud.call(Method::GET, &format!("/api/v1/vm?id={id}"), None).await["body"].clone();
        // It never shows anything but this on its way.
        assert_eq!(
            (&shown["instance_state"], &shown["vminfo"]["status"]),
            (&json!("Started"), &json!("running"))
        );
        if shown["vminfo"]["start_date"] == before["start_date"] { Err(shown.to_string()) } else { Ok(shown) }
    })
    .await;
    assert_eq!(after["vminfo"]["uuid"], before["uuid"]);
    eventually(SOON, "two processes, one after the other", || async {
        if world.vms.ever(&id) == 2 { Ok(()) } else { Err(world.vms.ever(&id).to_string()) }
    })
    .await;
    let dir = world.vm_dirs().pop().unwrap();
    let kept = world.config.data.join("vms").join(dir).join("kept.txt");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "kept\n", "its files are its own still");
    cloud.call(Method::DELETE, "/api/v1/vm", Some(json!({ "id": id }))).await;
    cloud.is(&id, "Terminated").await;
    end(world, tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_vm_is_a_version_that_can_be_started_and_its_instance_is_gone() {
    let (mut world, tree, cloud) = prepare("save").await;
    world.agent().await;
    let template = cloud.push("sonoma", &[b"base"]).await;
    let first = cloud.started(&template, "echo built > tool.img").await;
    let script = STANDARD.encode("echo flushed; echo late > late.img");
    let ask = json!({
        "id": first, "tag": "v1", "new_template_name": "with-tools", "description": "tools", "script": script,
    });
    let image = cloud.save(ask).await;
    let shown = cloud.saved(&image, "done").await;
    assert_eq!((&shown["script_result"]["return_code"], &shown["error"]), (&json!(0), &Value::Null));
    assert_eq!(shown["script_result"]["stdout"], "flushed\n");
    assert_eq!((&shown["request"]["InstanceID"], &shown["request"]["Tag"]), (&json!(first), &json!("v1")));
    cloud.is(&first, "Terminated").await;
    let text = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let layers = cloud.layers("with-tools", "v1").await;
    assert_eq!(layers, [text("", "base"), text("late.img", "late\n"), text("tool.img", "built\n")]);
    let list = cloud.call(Method::GET, "/api/v1/registry/vm", None).await["body"].clone();
    let found = list.as_array().unwrap().iter().find(|one| one["name"] == "with-tools");
    let made = found.unwrap_or_else(|| panic!("{list}"))["id"].as_str().unwrap().to_owned();
    assert_ne!(made, template);

    // The version that was made is started, and becomes another one, in place of itself.
    let second = cloud.started(&made, "echo more > more.img").await;
    let ask = json!({
        "id": second, "tag": "v2", "target_vm_id": made, "revert_before_push": true, "revert_tag": "v1",
    });
    let image = cloud.save(ask).await;
    cloud.saved(&image, "done").await;
    let shown =
        cloud.call(Method::GET, &format!("/api/v1/registry/vm?id={made}"), None).await["body"].clone();
    // Reverting its only version took the template with it; the push made it anew.
    let there = if shown["versions"].is_array() { shown["versions"].clone() } else { json!(null) };
    let layers = cloud.layers("with-tools", "v2").await;
    assert_eq!(layers.len(), 4, "{layers:?}");
    assert!(
        there.is_null() || there.as_array().unwrap().iter().all(|version| version["tag"] == "v2"),
        "{there}"
    );
    end(world, tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saving_that_fails_leaves_its_instance_and_says_why() {
    let (mut world, tree, cloud) = prepare("save-fails").await;
    world.agent().await;
    let template = cloud.push("sonoma", &[b"base"]).await;
    let id = cloud.started(&template, "true").await;
    // A script that fails leaves the VM as it was, if that is asked for.
    let ask = json!({
        "id": id, "tag": "v9", "target_vm_id": template, "script": STANDARD.encode("echo no >&2; exit 3"),
        "cancel_on_script_failure": true,
    });
    let shown = {
        let image = cloud.save(ask).await;
        cloud.saved(&image, "error").await
    };
    assert!(shown["error"]["Message"].as_str().unwrap().contains("exited with code 3"), "{shown}");
    assert_eq!(shown["script_result"]["stderr"], "no\n");
    assert_eq!(cloud.is(&id, "Started").await["vminfo"]["status"], "running");
    // A tag that is there already is refused before anything is done to the VM.
    let taken = json!({ "id": id, "tag": "v1", "target_vm_id": template });
    let refused = cloud.call(Method::POST, "/api/v1/image", Some(taken)).await;
    assert!(refused["message"].as_str().unwrap().contains("has a tag `v1` already"), "{refused}");
    assert_eq!(cloud.is(&id, "Started").await["vminfo"]["status"], "running");
    // One that comes there meanwhile, or by another way, is seen when the VM is stopped: it stays for whoever wants to look.
    let image = cloud.save(json!({ "id": id, "tag": "v1", "new_template_name": "sonoma" })).await;
    let shown = cloud.saved(&image, "error").await;
    assert!(shown["error"]["Message"].as_str().unwrap().contains("is there already"), "{shown}");
    let left = cloud.is(&id, "Error").await;
    assert!(left["message"].as_str().unwrap().contains("could not be saved"), "{left}");
    assert_eq!((&left["vminfo"]["status"], world.vm_dirs().len()), (&json!("stopped"), 1));
    cloud.call(Method::DELETE, "/api/v1/vm", Some(json!({ "id": id }))).await;
    cloud.is(&id, "Terminated").await;

    // A terminate goes before a saving under way.
    let id = cloud.started(&template, "true").await;
    let ask =
        json!({ "id": id, "tag": "v8", "target_vm_id": template, "script": STANDARD.encode("sleep 600") });
    let image = cloud.save(ask).await;
    cloud.is(&id, "Pushing").await;
    cloud.call(Method::DELETE, "/api/v1/vm", Some(json!({ "id": id }))).await;
    cloud.is(&id, "Terminated").await;
    let shown = cloud.saved(&image, "error").await;
    assert!(shown["error"]["Message"].is_string(), "{shown}");
    end(world, tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saving_whose_agent_is_killed_is_not_done_twice() {
    let (world, tree, cloud) = prepare("save-kill").await;
    let mut agent = kill::agent(&world, "");
    let template = cloud.push("sonoma", &[b"base"]).await;
    let id = cloud.started(&template, "true").await;
    let ask =
        json!({ "id": id, "tag": "v8", "target_vm_id": template, "script": STANDARD.encode("sleep 600") });
    let image = cloud.save(ask).await;
    eventually(SOON, "it to be under way", || async {
        let all = cloud.call(Method::GET, "/switchyard/v1/nodes/commands", None).await;
        if all["body"][0]["state"] == "running" { Ok(()) } else { Err(all.to_string()) }
    })
    .await;
    agent.kill();
    agent.spawn();
    let shown = cloud.saved(&image, "error").await;
    assert!(shown["error"]["Message"].is_string(), "{shown}");
    cloud.is(&id, "Error").await;
    agent.kill();
    end(world, tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saving_goes_on_where_its_agent_went_away_and_sends_nothing_twice() {
    const SIZE: usize = 8_000_000;
    let (world, tree, cloud) = prepare("save-goes-on").await;
    let mut agent = kill::agent(&world, "");
    let template = cloud.push("sonoma", &[b"base"]).await;
    for (tag, by) in [("killed", Signal::KILL), ("stopped", Signal::TERM)] {
        let id = cloud.started(&template, &format!("yes {tag} | head -c {SIZE} > big.img")).await;
        cloud.wire.set(Wire::Narrow(6_000_000));
        let before = cloud.wire.carried();
        let script = STANDARD.encode("echo flushed");
        let ask = json!({ "id": id, "tag": tag, "target_vm_id": template, "script": script });
        let image = cloud.save(ask).await;
        eventually(SOON, "most of it to be sent", || async {
            let sent = cloud.wire.carried() - before;
            if sent > 5_000_000 { Ok(()) } else { Err(sent) }
        })
        .await;
        agent.signal(by);
        agent.ended(SOON).await;
        cloud.wire.set(Wire::Whole);
        let before = cloud.wire.carried();
        agent.spawn();
        let shown = cloud.saved(&image, "done").await;
        let again = cloud.wire.carried() - before;
        assert!(again < 5_000_000, "{again} bytes were sent after {tag}");
        assert_eq!(shown["script_result"]["stdout"], "flushed\n", "of the run before");
        cloud.is(&id, "Terminated").await;
        let layers = cloud.layers("sonoma", tag).await;
        let (name, text) = layers.last().unwrap();
        assert!(name == "big.img" && text.len() == SIZE && text.starts_with(tag), "{name}: {}", text.len());
    }

    // A terminate goes before what another run had begun.
    let id = cloud.started(&template, "true").await;
    cloud.wire.set(Wire::Dark);
    let image = cloud.save(json!({ "id": id, "tag": "never", "target_vm_id": template })).await;
    let saves = world.config.data.join("saves");
    let left = || std::fs::read_dir(&saves).unwrap().count();
    // Its folder alone is none yet.
    let written = || {
        let folders = std::fs::read_dir(&saves).unwrap().flatten();
        folders.filter(|folder| folder.path().join("saving.json").exists()).count()
    };
    eventually(SOON, "it to be written down", || async {
        if written() == 1 { Ok(()) } else { Err(written()) }
    })
    .await;
    agent.kill();
    agent.spawn();
    cloud.last_command("running").await;
    cloud.call(Method::DELETE, "/api/v1/vm", Some(json!({ "id": id }))).await;
    cloud.is(&id, "Terminated").await;
    cloud.saved(&image, "error").await;
    eventually(SOON, "nothing to be left", || async { if left() == 0 { Ok(()) } else { Err(left()) } }).await;
    agent.kill();
    end(world, tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_any_moment_of_a_saving_saves_the_vm_or_says_why_not_and_takes_no_more_back() {
    let (world, tree, cloud) = prepare("save-any").await;
    let mut agent = kill::agent(&world, "");
    let template = cloud.push("sonoma", &[b"base"]).await;
    let tags = async || {
        let shown = cloud.call(Method::GET, &format!("/api/v1/registry/vm?id={template}"), None).await;
        let versions = shown["body"]["versions"].as_array().cloned().unwrap_or_default();
        versions.iter().map(|one| one["tag"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // The newest is taken back each time: the first must stay, however often that is begun.
    let mut newest = "zero".to_owned();
    let id = cloud.started(&template, "true").await;
    let image = cloud.save(json!({ "id": id, "tag": newest, "target_vm_id": template })).await;
    cloud.saved(&image, "done").await;
    let mut done = 0;
    for (round, pause) in [5, 40, 80, 130, 200].into_iter().enumerate() {
        let id = cloud.started(&template, "echo built > tool.img").await;
        let tag = format!("round-{round}");
        let ask = json!({ "id": id, "tag": tag, "target_vm_id": template, "revert_before_push": true });
        let image = cloud.save(ask).await;
        // Not waiting for something: the moment of the kill is what varies.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        agent.kill();
        agent.spawn();
        let shown = eventually(SOON, "the saving to end", || async {
            let path = format!("/api/v1/image?id={image}");
            let shown = cloud.call(Method::GET, &path, None).await["body"].clone();
            if shown["status"] == "pending" { Err(shown.to_string()) } else { Ok(shown) }
        })
        .await;
        if shown["status"] == "done" {
            newest = tag;
            done += 1;
            cloud.is(&id, "Terminated").await;
        } else {
            assert!(shown["error"]["Message"].as_str().is_some_and(|why| !why.is_empty()), "{shown}");
            cloud.is(&id, "Error").await;
            cloud.call(Method::DELETE, "/api/v1/vm", Some(json!({ "id": id }))).await;
            cloud.is(&id, "Terminated").await;
        }
        assert_eq!(tags().await, ["v1", newest.as_str()], "after round {round}: {shown}");
    }
    assert!(done > 0, "none went on");
    agent.kill();
    end(world, tree).await;
}
