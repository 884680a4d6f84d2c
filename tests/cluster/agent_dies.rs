//! A node's agent dies during a start, or its network does: never two VMs, and no start that waits for ever.

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use rand::Rng;
use serde_json::{Value, json};

use crate::{
    support::{
        cloud::{Cloud, Plan, SOON},
        eventually::{eventually, never},
        image::Image,
        relay::{Relay, Wire},
        scale::scaled,
        seed,
        vms::Vms,
    },
    turn,
};

/// Silence counts soon, so that a start moves while the test watches.
const TIMEOUTS: &str = "[timeouts]\nnode_active = \"3s\"\ninstance_active = \"3s\"\npoll = \"1s\"\nclaim = \"1s\"\ninstance_visible = \"10m\"\n";

/// What holds for so long is no leftover of before a kill: an agent that is back has reported by then.
const STAYS: Duration = Duration::from_secs(1);

/// Moments at which an agent is killed.
fn kills() -> usize {
    scaled(8, 40)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_any_moment_of_a_start_never_doubles_it() {
    let _turn = turn().await;
    let mut chance = seed::chance();
    let plan = Plan {
        capacity: 20,
        controller: TIMEOUTS.into(),
        // Slow enough that a moment falls into each phase.
        agent: "[agent.process]\nstart_delay = \"500ms\"\npull_delay = \"300ms\"\n".into(),
        ..Plan::default()
    };
    let mut cloud = Cloud::start("agentkill", &plan).await;
    let vms = Vms::watch(&cloud.place);
    let ran = cloud.place.path("ran");
    let script = STANDARD.encode(format!("echo $SWITCHYARD_INSTANCE_ID >> '{}'\n", ran.display()));
    let mut ends = BTreeSet::new();
    for kill in 0..kills() {
        // A template of its own each time, so that each start has a pull in it.
        let image = Image::write(&cloud.place.path(&format!("image-{kill}")), 60 + kill as u64, 2, 1);
        let template = cloud.push(&image, &format!("t{kill}"), "v1").await;
        // Spread over all of a start: the first ones come before its VM is begun, and leave it to be started again.
        let part = 2000 / kills() as u64;
        let moment = Duration::from_millis(part * kill as u64 + chance.random_range(0..part));
        let away = Duration::from_millis(chance.random_range(0..1500));
        let start =
            json!({ "vmid": template, "external_id": format!("kill/{kill}"), "startup_script": script });
        let id = cloud.run(start).await.remove(0);
        tokio::time::sleep(moment).await;
        let node = cloud.show(&id).await["node_id"].as_str().unwrap_or_default().to_owned();
        let victim = if node == "node-2" { 1 } else { 0 };
        cloud.agents[victim].kill();
        tokio::time::sleep(away).await;
        cloud.agents[victim].spawn();

        let context = format!("killed {moment:?} after the start, away for {away:?}");
        let (state, shown) = settled(&cloud, &vms, &id, &context).await;
        // One for each life of its agent, and one script altogether: that cannot be repeated.
        assert!(vms.ever(&id) <= 2, "{context}: {} VMs one after the other: {shown}", vms.ever(&id));
        let scripts = std::fs::read_to_string(&ran).unwrap_or_default();
        let scripts = scripts.lines().filter(|line| *line == id).count();
        assert!(scripts <= 1, "{context}: its script ran {scripts} times: {shown}");
        assert!(vms.ever(&id) <= 1 || scripts == 0 || state == "Started", "{context}: {shown}");
        vms.assert_never_two();
        println!("{context}: {state} on {}, ever {}", shown["node_id"], vms.ever(&id));
        ends.insert(state);
        assert!(cloud.terminate(&id).await.is_ok());
        cloud.nodes_are("Active", 2).await;
    }
    eventually(SOON, "all VMs to be gone", || async {
        let running = vms.running();
        if running.is_empty() { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    assert!(ends.contains("Started"), "at least one start survives a restart: {ends:?}");
}

/// Waits until what is shown and what runs agree, and stay so: `Started` with one VM, or `Error` with none. Right
/// after a kill the state is still that of before, and the VM may not have died yet.
async fn settled(cloud: &Cloud, vms: &Vms, id: &str, context: &str) -> (String, Value) {
    let look = || async {
        let shown = cloud.show(id).await;
        let state = shown["instance_state"].as_str().unwrap_or_default().to_owned();
        (state, vms.of(id), shown)
    };
    eventually(SOON, &format!("one VM or an honest end ({context})"), || async {
        let (state, running, shown) = look().await;
        let agree = match state.as_str() {
            "Started" => running.len() == 1,
            "Error" => running.is_empty() && shown["message"].as_str().is_some_and(|m| !m.is_empty()),
            _ => false,
        };
        tokio::time::sleep(STAYS).await;
        let (then, still, shown) = look().await;
        if agree && (&then, &still) == (&state, &running) {
            Ok((state, shown))
        } else {
            Err(format!("{state} with {running:?}, then {still:?} and {shown}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_cut_off_before_its_start_loses_it_and_never_runs_it() {
    let _turn = turn().await;
    let slow = Plan {
        controller: TIMEOUTS.into(),
        // Long in the pull, so that the cut comes before the step after which nothing moves.
        agent: "request_timeout = \"12s\"\n[agent.process]\npull_delay = \"4s\"\n".into(),
        ..Plan::default()
    };
    let quick = Plan { controller: TIMEOUTS.into(), ..Plan::default() };
    let cloud = Cloud::start_without_agents("cutearly", &slow).await;
    let vms = Vms::watch(&cloud.place);
    let image = Image::write(&cloud.place.path("image"), 5, 1, 1);
    let template = cloud.push(&image, "small", "v1").await;

    let wire = Relay::to(cloud.controllers_front).await;
    let _first = cloud.start_agent("node-1", wire.address(), &slow);
    cloud.nodes_are("Active", 1).await;
    let id = cloud.run(json!({ "vmid": template })).await.remove(0);
    eventually(SOON, "node-1 to pull", || async {
        let shown = cloud.show(&id).await;
        if shown["node_id"] == "node-1" && shown["instance_state"] == "Pulling" {
            Ok(())
        } else {
            Err(shown.to_string())
        }
    })
    .await;
    wire.set(Wire::Dark);
    let _second = cloud.start_agent("node-2", cloud.controllers_front, &quick);
    let shown = eventually(SOON, "node-2 to have it", || async {
        let shown = cloud.show(&id).await;
        let has = shown["node_id"] == "node-2" && shown["instance_state"] == "Started";
        if has { Ok(shown) } else { Err(shown.to_string()) }
    })
    .await;
    assert_eq!(vms.of(&id).len(), 1, "{shown}");

    // The node returns, with whatever it wanted to say on the wire.
    wire.set(Wire::Whole);
    cloud.nodes_are("Active", 2).await;
    never(Duration::from_secs(6), "after the return", || async {
        let shown = cloud.show(&id).await;
        if shown["node_id"] != "node-2" || shown["instance_state"] != "Started" {
            return Err(shown.to_string());
        }
        if vms.ever(&id) == 1 { Ok(()) } else { Err(format!("{} VMs: {shown}", vms.ever(&id))) }
    })
    .await;
    vms.assert_never_two();

    // And is of use again.
    let pinned = cloud.run(json!({ "vmid": template, "node_id": "node-1" })).await.remove(0);
    let shown = cloud.reaches(&pinned, &["Started"], SOON).await;
    assert_eq!(shown["node_id"], "node-1");
    vms.assert_never_two();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_cut_off_after_its_start_ends_in_error_and_not_on_another_node() {
    let _turn = turn().await;
    let plan =
        Plan { controller: TIMEOUTS.into(), agent: "request_timeout = \"12s\"\n".into(), ..Plan::default() };
    let cloud = Cloud::start_without_agents("cutlate", &plan).await;
    let vms = Vms::watch(&cloud.place);
    let image = Image::write(&cloud.place.path("image"), 6, 1, 1);
    let template = cloud.push(&image, "small", "v1").await;

    let wire = Relay::to(cloud.controllers_front).await;
    let _first = cloud.start_agent("node-1", wire.address(), &plan);
    cloud.nodes_are("Active", 1).await;
    let id = cloud.run(json!({ "vmid": template })).await.remove(0);
    cloud.reaches(&id, &["Started"], SOON).await;
    let _second = cloud.start_agent("node-2", cloud.controllers_front, &plan);
    cloud.nodes_are("Active", 2).await;

    wire.set(Wire::Dark);
    let shown = cloud.reaches(&id, &["Error"], SOON).await;
    assert_eq!(shown["node_id"], "node-1", "the failed one still names its node: {shown}");
    assert!(shown["message"].as_str().is_some_and(|m| m.contains("node")), "it says why: {shown}");
    never(Duration::from_secs(4), "while the node is away", || async {
        let shown = cloud.show(&id).await;
        if shown["node_id"] == "node-1" && vms.ever(&id) == 1 { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;

    wire.set(Wire::Whole);
    cloud.nodes_are("Active", 2).await;
    assert!(cloud.terminate(&id).await.is_ok());
    cloud.reaches(&id, &["Terminated"], SOON).await;
    eventually(SOON, "its VM to be gone", || async {
        if vms.of(&id).is_empty() { Ok(()) } else { Err("it runs") }
    })
    .await;
    assert_eq!(vms.ever(&id), 1);
    vms.assert_never_two();
}
