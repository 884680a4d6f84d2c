//! What a real agent does beside starts, as the product's own controller asks for it.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use switchyard::supervise::Tree;

use crate::{
    kill,
    real::Cloud,
    standin::SOON,
    support::{eventually::eventually, process::BINARY},
    world::World,
};

const PATH: &str = "/api/v1/registry/vm/distribute";

/// A world whose agent speaks with the product's own controller.
pub(crate) async fn prepare(name: &str) -> (World, Tree, Cloud) {
    let mut world = World::prepare(name).await;
    let tree = Tree::new();
    let cloud = Cloud::start(&world, &tree).await;
    world.config.controllers = vec![cloud.controller.parse().unwrap()];
    (world, tree, cloud)
}

pub(crate) async fn end(world: World, tree: Tree) {
    world.stop_agent().await;
    tree.shut_down(Duration::from_secs(10)).await;
    world.end().await;
}

impl Cloud {
    async fn node_is(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(SOON, what, || async {
            let node = self.call(Method::GET, "/api/v1/node?id=node-1", None).await["body"][0].clone();
            if is(&node) { Ok(node) } else { Err(node.to_string()) }
        })
        .await
    }

    /// The newest command of the node, when it is in this state.
    pub(crate) async fn last_command(&self, state: &str) -> Value {
        eventually(SOON, &format!("the last command to be {state}"), || async {
            let all = self.call(Method::GET, "/switchyard/v1/nodes/commands?node=node-1", None).await;
            let last = all["body"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
            if last["state"] == state { Ok(last) } else { Err(all.to_string()) }
        })
        .await
    }

    async fn distribute(&self, template: &str) -> String {
        let asked = self.call(Method::POST, PATH, Some(json!({ "template_id": template }))).await;
        asked["body"]["request_id"].as_str().unwrap_or_else(|| panic!("{asked}")).to_owned()
    }

    async fn distributed(&self, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(SOON, what, || async {
            let shown = self.call(Method::GET, &format!("{PATH}?id={id}"), None).await;
            let node = shown["body"]["distribute_status"]["node-1"].clone();
            if is(&node) { Ok(node) } else { Err(shown.to_string()) }
        })
        .await
    }
}

fn under_way(node: &Value) -> bool {
    node["status"] == false && node["progress"].as_f64().is_some_and(|share| share > 0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distributed_template_is_there_before_its_first_start_and_goes_when_it_is_to() {
    let (mut world, tree, cloud) = prepare("distribute").await;
    world.agent().await;
    cloud.node_is("the node to be there", |node| node["state"] == "Active").await;
    let template = cloud.push("sonoma", &[&[7; 300_000], b"top"]).await;
    let id = cloud.distribute(&template).await;
    cloud.distributed(&id, "the template to be there", |node| node["status"] == true).await;
    let has = |node: &Value| node["templates"].to_string().contains(&template);
    cloud.node_is("the node to tell of it", has).await;

    let instance = cloud.run(json!({ "vmid": template })).await;
    cloud.is(&instance, "Started").await;
    let remove = format!("/api/v1/registry/vm/remove?id={template}");
    let sent = cloud.call(Method::DELETE, &remove, None).await;
    assert_eq!(sent["body"], json!({ "requests_sent": 1, "node_ids": ["node-1"] }));
    let ended = async |state: &str| cloud.last_command(state).await;
    let refused = ended("failed").await;
    assert!(
        refused["message"].as_str().unwrap().contains("in use on this node, and left there: `v1`"),
        "{refused}"
    );
    cloud.node_is("it to be there still", has).await;

    assert_eq!(
        cloud.call(Method::DELETE, "/api/v1/vm", Some(json!({ "id": instance }))).await["status"],
        "OK"
    );
    cloud.is(&instance, "Terminated").await;
    cloud.call(Method::DELETE, &remove, None).await;
    ended("done").await;
    cloud.node_is("it to be gone", |node| node["templates"] == json!([])).await;
    let left = std::fs::read_dir(world.config.data.join("cache/layers")).unwrap().count();
    assert_eq!(left, 0, "its files are gone as well");

    assert_eq!(cloud.call(Method::PUT, "/api/v1/node/update", None).await["status"], "OK");
    let refused = ended("failed").await;
    assert!(refused["message"].as_str().unwrap().contains("[agent.update]"), "{refused}");
    end(world, tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_distribution_leaves_its_node_free_for_starts() {
    let (mut world, tree, cloud) = prepare("cancel").await;
    // The second layer would come in a minute.
    world.process().pull_delay = Duration::from_secs(60);
    world.agent().await;
    let template = cloud.push("sonoma", &[b"one", b"two"]).await;
    cloud.node_is("the node to be there", |node| node["state"] == "Active").await;
    let id = cloud.distribute(&template).await;
    let running = async |running: bool| {
        eventually(SOON, "the command's state", || async {
            let all = cloud.call(Method::GET, "/switchyard/v1/nodes/commands", None).await;
            if (all["body"][0]["state"] == "running") == running { Ok(()) } else { Err(all.to_string()) }
        })
        .await;
    };
    running(true).await;
    let waits = cloud.run(json!({ "vmid": template })).await;
    let shown = cloud.is(&waits, "Scheduling").await;
    assert!(shown["message"].as_str().unwrap().contains("pulling a template"), "{shown}");
    let canceled = cloud.call(Method::DELETE, &format!("{PATH}?id={id}"), None).await;
    assert_eq!(canceled["status"], "OK");
    let shown = cloud.distributed(&id, "the word of it", |node| node["error"].is_string()).await;
    assert_eq!(shown, json!({ "status": false, "progress": 0, "error": "request canceled" }));
    running(false).await;
    // The start that waited is taken: the pull was given up.
    cloud.is(&waits, "Pulling").await;
    end(world, tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distribution_goes_on_when_its_node_comes_back() {
    let (world, tree, cloud) = prepare("distribute-kill").await;
    let layers: [&[u8]; 4] = [&[1; 200_000], &[2; 200_000], &[3; 200_000], &[4; 200_000]];
    let template = cloud.push("sonoma", &layers).await;
    let mut agent = kill::agent(&world, "[agent.process]\npull_delay = \"700ms\"");
    cloud.node_is("the node to be there", |node| node["state"] == "Active").await;
    let id = cloud.distribute(&template).await;
    cloud.distributed(&id, "a part to be there", under_way).await;
    agent.kill();
    agent.spawn();
    cloud.distributed(&id, "all to be there", |node| node["status"] == true).await;
    agent.kill();
    end(world, tree).await;
}

/// A program that says when it begins, and then is the product under its own name.
fn program(world: &World, says: &str) -> String {
    let began = world.place.path("began");
    format!(
        "#!/bin/bash\n[ \"$1\" = --version ] || echo {says} >> '{}'\nexec -a \"$0\" '{BINARY}' \"$@\"\n",
        began.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_installs_a_newer_one_and_goes_on_as_that_when_its_last_vm_has_ended() {
    let (world, tree, cloud) = prepare("update").await;
    let [path, new, install] = ["switchyard", "new", "install.sh"].map(|name| world.place.path(name));
    let runs = |path: &Path, text: &str| {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let installs = |text: &str| {
        runs(&new, text);
        std::fs::write(
            &install,
            format!("cp '{}' '{1}.next'; mv '{1}.next' '{1}'", new.display(), path.display()),
        )
        .unwrap();
    };
    runs(&path, &program(&world, "old"));
    let config = format!("[agent.update]\ncommand = [\"sh\", \"{}\"]", install.display());
    let mut agent = kill::agent_by(&world, &path.display().to_string(), &config);
    let template = cloud.push("sonoma", &[b"layer"]).await;
    cloud.node_is("the node to be there", |node| node["state"] == "Active").await;
    let pid = agent.pid();
    let asked = async |state: &str| {
        assert_eq!(cloud.call(Method::PUT, "/api/v1/node/update", None).await["status"], "OK");
        cloud.last_command(state).await
    };

    std::fs::write(&install, "echo nothing newer").unwrap();
    asked("done").await;
    std::fs::write(&install, "echo no route >&2; exit 4").unwrap();
    let failed = asked("failed").await;
    assert!(failed["message"].as_str().unwrap().contains("exit status: 4: no route"), "{failed}");
    installs("#!/bin/sh\nexit 9\n");
    let failed = asked("failed").await;
    assert!(failed["message"].as_str().unwrap().contains("is not begun"), "{failed}");

    let first = cloud.run(json!({ "vmid": template })).await;
    cloud.is(&first, "Started").await;
    installs(&program(&world, "new"));
    asked("running").await;
    // Asked again, it is the same one.
    assert_eq!(cloud.call(Method::PUT, "/api/v1/node/update", None).await["status"], "OK");
    eventually(SOON, "it to wait for the VM", || async {
        let waits = cloud.last_command("running").await;
        if waits["message"].as_str().unwrap().contains("no VM is left here: 1 now") {
            Ok(())
        } else {
            Err(waits.to_string())
        }
    })
    .await;
    let second = cloud.run(json!({ "vmid": template })).await;
    let shown = cloud.is(&second, "Scheduling").await;
    assert!(shown["message"].as_str().unwrap().contains("being replaced"), "{shown}");
    cloud.node_is("the node to say so", |node| node["state"] == "Updating").await;
    let began = || std::fs::read_to_string(world.place.path("began")).unwrap();
    assert_eq!(began(), "old\n");
    cloud.call(Method::DELETE, "/api/v1/vm", Some(json!({ "id": first }))).await;
    cloud.is(&first, "Terminated").await;
    cloud.last_command("done").await;
    assert_eq!((began().as_str(), agent.pid()), ("old\nnew\n", pid), "the same process is another program");
    cloud.is(&second, "Started").await;
    let all = cloud.call(Method::GET, "/switchyard/v1/nodes/commands?node=node-1", None).await;
    assert_eq!(all["body"].as_array().unwrap().len(), 4, "{all}");
    agent.kill();
    end(world, tree).await;
}
