//! What falls between two parts: a controller that was not told yet, two who ask for the same, what nobody takes away.

use super::*;
use crate::{
    controller::{
        duties::{self, Pass},
        records::Phase,
        writes::Fence,
    },
    model::StartId,
    store::{Consistency, Txn},
    wire::{
        command::{Order, SaveVm},
        image::RestartInstance,
        node::NodeConfig,
    },
};

/// Reports with all its VMs, as one whose agent can do everything.
async fn able(world: &World, node: &Node, tasks: &[StartTask]) {
    let beat = Heartbeat {
        node_id: node.id.clone(),
        session: node.session.clone(),
        facts: NodeFacts { commands: vec!["restart".into(), "save".into()], ..node.facts() },
        vms: tasks.iter().map(|task| vm(task, VmPhase::Running)).collect(),
        commands: Vec::new(),
    };
    world.ops(0).heartbeat(beat).await.unwrap();
}

#[tokio::test]
async fn a_controller_that_was_not_told_of_a_drain_yet_gives_the_node_nothing() {
    let world = World::new(2).await;
    let node = world.node("n1", 2).await;
    let ids = world.start(0, 1).await;
    until("both show the start", || async {
        world
            .ops(1)
            .lists()
            .peek(|cache| cache.instance(&ids[0]).is_some() && cache.presence(&node.id).is_some())
    })
    .await;
    world.faults[1].silence_watches(true);
    let drain = NodeConfig { node_id: Some("n1".into()), drain_mode: Some(true), ..NodeConfig::default() };
    world.ops(0).configure_node(drain, &Reach::Everything).await.unwrap();
    assert!(
        !world.ops(1).lists().peek(|cache| cache.node(&node.id).unwrap().record.settings.drain_mode),
        "it was not told"
    );
    let given = world.ops(1).poll(node.poll(1), world.stop()).await;
    assert!(given.as_ref().map_or(true, |tasks| tasks.start.is_none()), "{given:?}");
    assert!(matches!(world.show(0, &ids[0]).await.phase, Phase::Queued { .. }));
    world.faults[1].silence_watches(false);
    world.end().await;
}

#[tokio::test]
async fn of_two_restarts_of_one_instance_at_one_moment_one_is_given() {
    let world = World::new(2).await;
    let node = world.node("n1", 6).await;
    world.start(0, 6).await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(node.run(&world, 0).await);
    }
    able(&world, &node, &tasks).await;
    let ask = RestartInstance::default();
    for task in &tasks {
        let (one, other) = tokio::join!(
            world.ops(0).restart(&task.instance, &ask),
            world.ops(1).restart(&task.instance, &ask)
        );
        one.unwrap();
        other.unwrap();
    }
    let given = world.ops(0).commands(None).await.unwrap().value;
    assert_eq!(given.len(), tasks.len(), "{given:?}");
    world.end().await;
}

#[tokio::test]
async fn there_are_no_more_instances_and_nodes_than_there_may_be() {
    let limits = Limits { instances: 3, nodes: 1, ..Limits::default() };
    let world = World::limited(2, timeouts(), limits).await;
    let ids = world.start(0, 2).await;
    world.ops(1).lists().catch_up().await.unwrap();
    let started = async |n: usize, count, caller: Caller| {
        world.ops(n).start_resolved(ask(count), &caller, resolved()).await
    };
    let refused = started(1, 2, Caller::default()).await.unwrap_err();
    assert!(matches!(&refused, OpsError::TooMany(why) if why.contains("`limits.instances`")), "{refused:?}");
    let third = started(1, 1, keyed("k")).await.unwrap();
    world.ops(1).lists().catch_up().await.unwrap();
    assert!(started(1, 1, Caller::default()).await.is_err());
    world.ops(0).terminate(&ids[0]).await.unwrap();
    assert_eq!(world.show(0, &third[0]).await.id, third[0]);

    world.node("n1", 1).await;
    until("it is seen", || async { world.ops(1).lists().peek(|cache| cache.node_count() == 1) }).await;
    let refused = Node::new("n2", 1).join(world.ops(1)).await.unwrap_err();
    assert!(matches!(&refused, OpsError::TooMany(why) if why.contains("`limits.nodes`")), "{refused:?}");
    Node::new("n1", 2).join(world.ops(1)).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn scripts_that_no_start_points_to_are_removed_however_many_there_are() {
    let world = World::new(1).await;
    let ops = world.ops(0);
    let keys = &ops.inner.keys;
    for some in (0..1100).collect::<Vec<_>>().chunks(100) {
        let put = |txn: Txn, _: &i32| txn.put(keys.script_chunk(&StartId::random(), 0), "exit 0");
        world.store.txn(some.iter().fold(Txn::new(), put)).await.unwrap();
    }
    let leads =
        |cache: &crate::controller::lists::Cache| cache.leader("expiry").map(|item| item.create_revision);
    until("somebody leads the duty", || async { ops.lists().peek(leads).is_some() }).await;
    let held = Fence { key: keys.leader("expiry"), created: ops.lists().peek(leads).unwrap() };
    let mut duty = duties::expiry_looking(Duration::ZERO);
    // One that was just stored may have a start in a moment.
    assert_eq!(duty.pass(ops, &held).await.unwrap(), 0);
    assert!(duty.pass(ops, &held).await.unwrap() > 0);
    world.end().await;
}

#[tokio::test]
async fn a_start_that_a_newer_controller_has_written_is_not_rewritten() {
    let world = World::new(1).await;
    let ops = world.ops(0);
    let ids = world.start(0, 1).await;
    let start = world.show(0, &ids[0]).await.start;
    let key = ops.inner.keys.start(&start);
    let kept = world.store.get(&key, Consistency::Linearizable).await.unwrap().kv.unwrap();
    let mut newer: serde_json::Value = serde_json::from_slice(&kept.value).unwrap();
    newer["v"] = 99.into();
    newer["ids"].as_array_mut().unwrap().push("i-unmade".into());
    world.store.txn(Txn::new().put(&key, newer.to_string())).await.unwrap();
    let unmade = InstanceId::parse("i-unmade").unwrap();
    until("it is seen", || async { ops.lists().peek(|cache| cache.unmade(&unmade).is_some()) }).await;
    let refused = ops.terminate(&unmade).await.unwrap_err();
    assert!(matches!(&refused, OpsError::Conflict(why) if why.contains("version 99")), "{refused:?}");
    let now = world.store.get(&key, Consistency::Linearizable).await.unwrap().kv.unwrap();
    assert_eq!(now.value, newer.to_string());
    world.end().await;
}

#[test]
fn what_is_shown_of_a_command_has_no_script() {
    let save = SaveVm {
        instance: "i".parse().unwrap(),
        attempt: 1,
        registry: String::new(),
        repository: "sonoma".parse().unwrap(),
        tag: "v2".parse().unwrap(),
        description: String::new(),
        suspend: false,
        suspend_test: false,
        script: "ZXhwb3J0IFRPS0VOPXMzY3JldA==".into(),
        cancel_on_script_failure: false,
        revert: None,
    };
    let (id, node) = ("c".parse().unwrap(), "n".parse().unwrap());
    let record = crate::controller::records::CommandRecord::new(
        id,
        node,
        Order::Save(Box::new(save)),
        None,
        clock::wall(),
    );
    let shown = serde_json::to_string(&record.shown()).unwrap();
    assert!(shown.contains("sonoma") && !shown.contains("ZXhw"), "{shown}");
}
