//! Every controller is away, for longer than a node may be silent, while many instances run: that is not the nodes'
//! fault, and none of the instances is failed, neither while nobody listens nor when somebody does again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::json;

use crate::{
    alone,
    support::{
        cloud::{Cloud, Plan, SOON},
        eventually::eventually,
        image::Image,
        lives::{self, Lives},
        scale::scaled,
        vms::Vms,
    },
};

const AGENTS: usize = 4;
const INSTANCES: usize = 200;

/// How long a node may be silent: at full size as it is by itself, two minutes.
fn timeouts() -> String {
    let short = "[timeouts]\nnode_active = \"3s\"\ninstance_active = \"3s\"\n";
    scaled(short, "").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_two_hundred_instances_is_failed_while_every_controller_is_away() {
    let _turn = alone().await;
    lives::check();
    let capacity = (INSTANCES / AGENTS) as u32;
    let plan = Plan { agents: AGENTS, capacity, controller: timeouts(), ..Plan::default() };
    let mut cloud = Cloud::start("controllers-away", &plan).await;
    let (vms, lives) = (Vms::watch(&cloud.place), Lives::watch(&cloud.etcd.urls()).await);
    let image = Image::write(&cloud.place.path("image"), 5, 2, 1);
    let template = cloud.push(&image, "small", "v1").await;
    let all: BTreeSet<String> =
        cloud.run(json!({ "vmid": template, "tag": "v1", "count": INSTANCES })).await.into_iter().collect();
    assert_eq!(all.len(), INSTANCES);
    eventually(SOON * 4, "all of them to run", || async { as_before(&cloud, &vms, &all).await }).await;

    // Longer than a node may be silent, with what a kill and a start take on top.
    let silence = Duration::from_secs(scaled(5, 125));
    for controller in &mut cloud.controllers {
        controller.process.kill();
    }
    tokio::time::sleep(silence).await;
    assert_eq!(vms.running(), all, "nothing ends on the nodes because nobody listens");
    for controller in &mut cloud.controllers {
        controller.restart().await;
    }
    cloud.nodes_are("Active", AGENTS).await;
    // Whoever counts from before the absence fails somebody within the time that a node may be silent.
    let until = switchyard::clock::now() + silence;
    while switchyard::clock::now() < until {
        as_before(&cloud, &vms, &all).await.unwrap_or_else(|odd| panic!("after the absence: {odd}"));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(all.iter().all(|id| vms.ever(id) == 1), "each ran once, from the first to the last");
    vms.assert_never_two();
    lives.assert_well();
}

/// Just these are shown, all of them as started, and run.
async fn as_before(cloud: &Cloud, vms: &Vms, all: &BTreeSet<String>) -> Result<(), String> {
    let list = cloud.api.try_call("GET", "/api/v1/vm", None).await?;
    if !list.is_ok() {
        return Err(list.to_string());
    }
    let list = list.ok();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let shown: BTreeMap<String, String> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|vm| (text(&vm["instance_id"]), text(&vm["vm"]["instance_state"])))
        .collect();
    let odd: Vec<_> = shown.iter().filter(|(_, state)| *state != "Started").take(5).collect();
    let (same, running) = (shown.keys().eq(all.iter()), vms.running());
    if odd.is_empty() && same && running == *all {
        return Ok(());
    }
    Err(format!("{} are shown, {} run; of those shown {odd:?}", shown.len(), running.len()))
}
