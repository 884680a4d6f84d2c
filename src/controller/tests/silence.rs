//! Silent nodes and those that come back.

use super::*;
use crate::{
    config::controller::MacPool,
    controller::{
        records::{Absence, Presence},
        writes::{Draft, Patience},
    },
    model::{InstanceState, NodeState},
    wire::node::NodeConfig,
};

/// Keeps nodes reporting until `done`.
async fn while_beating<T>(
    world: &World,
    nodes: &[&Node],
    vms: &[SeenVm],
    done: impl Future<Output = T>,
) -> T {
    let beats = async {
        loop {
            for node in nodes {
                // A cut-off controller refuses; the node goes on.
                node.beat(world.ops(0), vms).await.ok();
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::select! {
        done = done => done,
        () = beats => unreachable!("never ends"),
    }
}

#[tokio::test]
async fn a_node_that_falls_silent_before_starting_loses_the_instance_to_another() {
    let world = World::with(2, soon_silent()).await;
    let (gone, other) = (world.node("n1", 1).await, world.node("n2", 1).await);
    let ids = world.start(0, 1).await;
    let task = gone.offer(&world, 0).await;
    assert!(world.ops(0).claim(gone.claim(&task)).await.unwrap().granted);
    let again = while_beating(&world, &[&other], &[], async {
        loop {
            if let Some(task) = other.tasks(world.ops(1), world.stop()).await.start {
                break task;
            }
        }
    })
    .await;
    assert_eq!((&again.instance, again.attempt), (&ids[0], 2));
    assert!(world.ops(1).claim(other.claim(&again)).await.unwrap().granted);
    // It comes back, and thinks it still has it.
    assert!(!world.ops(0).starting(gone.claim(&task)).await.unwrap().granted);
    let heard = gone.beat(world.ops(1), &[vm(&task, VmPhase::Claimed)]).await.unwrap();
    assert_eq!(heard.stop.len(), 1, "superseded: stopped at once");
    assert!(world.ops(0).starting(other.claim(&again)).await.unwrap().granted);
    let shown = world.ops(0).node(&gone.id).await.unwrap().value;
    assert_eq!(
        (shown.state, shown.record.absence),
        (NodeState::Active, None),
        "its report took the absence back"
    );
    world.end().await;
}

#[tokio::test]
async fn a_node_that_falls_silent_after_starting_keeps_the_instance_in_error() {
    let world = World::with(2, soon_silent()).await;
    let (gone, other) = (world.node("n1", 1).await, world.node("n2", 1).await);
    world.start(0, 1).await;
    let task = gone.run(&world, 0).await;
    while_beating(&world, &[&other], &[], async {
        until("the instance fails", || async {
            world.show(1, &task.instance).await.state() == InstanceState::Error
        })
        .await;
    })
    .await;
    let shown = world.show(0, &task.instance).await;
    assert_eq!(shown.message, "node `n1` is not communicating");
    assert_eq!((shown.attempt, shown.node()), (1, Some(&gone.id)), "never another node");
    assert!(shown.info.is_some(), "what was last known of the VM stays");
    assert_eq!(world.ops(1).node(&gone.id).await.unwrap().value.state, NodeState::Offline);
    // It comes back with the VM: that is left alone until somebody terminates the instance.
    let heard = gone.beat(world.ops(1), &[vm(&task, VmPhase::Running)]).await.unwrap();
    assert_eq!((heard.stop.len(), heard.forget.len()), (0, 0));
    world.ops(0).terminate(&task.instance).await.unwrap();
    let heard = gone.beat(world.ops(1), &[vm(&task, VmPhase::Running)]).await.unwrap();
    assert_eq!(heard.stop.len(), 1);
    world.end().await;
}

#[tokio::test]
async fn the_address_of_a_vm_that_a_silent_node_may_still_run_is_given_to_nobody() {
    let mac_pool = MacPool { manage: true, range: None };
    let times = Timeouts { instance_visible: Duration::from_millis(500), ..soon_silent() };
    let world = World::of(2, |name| Config { mac_pool, ..config(name, times.clone()) }).await;
    let (gone, other) = (world.node("n1", 2).await, world.node("n2", 1).await);
    world.start(0, 2).await;
    let tasks = [gone.run(&world, 0).await, gone.run(&world, 1).await];
    let addresses = [&tasks[0], &tasks[1]].map(|task| task.hardware.mac_address.clone());
    while_beating(&world, &[&other], &[], async {
        for task in &tasks {
            until("the instance fails", || async {
                world.show(1, &task.instance).await.state() == InstanceState::Error
            })
            .await;
            world.ops(0).terminate(&task.instance).await.unwrap();
            until("it is given up", || async { world.ops(1).instance(&task.instance).await.is_err() }).await;
        }
    })
    .await;
    let started = async |mac: &String| {
        let ask = StartVm { mac_address: Some(mac.clone()), ..ask(1) };
        world.ops(1).start_resolved(ask, &Caller::default(), resolved()).await
    };
    let held = async || {
        world.ops(1).lists().catch_up().await.unwrap();
        world.ops(1).lists().peek(|cache| cache.held_macs().count())
    };
    for mac in &addresses {
        world.ops(0).refill_macs().await.unwrap();
        let refused = started(mac).await.unwrap_err();
        assert!(
            matches!(&refused, OpsError::Conflict(why) if why.contains("may still run on node `n1`")),
            "{refused:?}"
        );
    }
    // It is heard again, and has one of the two.
    for _ in 0..3 {
        gone.beat(world.ops(0), &[vm(&tasks[0], VmPhase::Running)]).await.unwrap();
    }
    assert_eq!(held().await, 1);
    started(&addresses[1]).await.unwrap();
    started(&addresses[0]).await.unwrap_err();
    // Its operator says that it is gone for good.
    world.ops(0).delete_node(&gone.id, &Reach::Everything).await.unwrap();
    until("its address is free", || async { held().await == 0 }).await;
    started(&addresses[0]).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn when_most_nodes_fall_silent_at_once_nothing_is_failed_until_an_operator_confirms() {
    let world = World::with(2, soon_silent()).await;
    let nodes = [
        world.node("n1", 1).await,
        world.node("n2", 1).await,
        world.node("n3", 1).await,
        world.node("n4", 1).await,
    ];
    let mut tasks = Vec::new();
    for node in &nodes {
        world.start(0, 1).await;
        tasks.push(node.run(&world, 0).await);
    }
    let alive = [&nodes[0]];
    let vms = [vm(&tasks[0], VmPhase::Running)];
    let held = || {
        let lists = world.ops(1).lists();
        lists.peek(|c| c.nodes().filter(|(_, item)| item.record.absence == Some(Absence::Held)).count())
    };
    while_beating(&world, &alive, &vms, async {
        until("the silent nodes are held", || async { held() == 3 }).await;
        // Longer than any timeout.
        tokio::time::sleep(soon_silent().instance_active).await;
    })
    .await;
    for task in &tasks {
        assert_eq!(world.show(1, &task.instance).await.state(), InstanceState::Started);
    }
    use crate::http::Readiness;
    let why = world.cores[0].health.ready().why;
    assert!(why.iter().any(|why| why.contains("3 nodes fell silent at once")), "{why:?}");

    // One returns, and has lost nothing; the others are confirmed to be gone.
    nodes[1].beat(world.ops(0), &[vm(&tasks[1], VmPhase::Running)]).await.unwrap();
    until("it is no longer held", || async { held() == 2 }).await;
    // Another has just been heard, and its record does not say so yet: it is no more gone than the first.
    let inner = &world.ops(0).inner;
    let key = inner.keys.node_alive(&nodes[2].id);
    let heard = Presence { lease: 1, session: nodes[2].session.clone(), former: Vec::new(), offers: 0 };
    inner.writes.commit(Draft::new(&key).put(&key, &heard).unwrap(), Patience::new()).await.unwrap();
    assert_eq!(world.ops(1).confirm_absence().await.unwrap(), 1);
    inner.writes.commit(Draft::new(&key).delete(&key), Patience::new()).await.unwrap();
    assert_eq!(world.ops(1).confirm_absence().await.unwrap(), 1);
    while_beating(&world, &alive, &vms, async {
        until("the others' instances fail", || async {
            let mut failed = 0;
            for task in &tasks[2..] {
                failed += u8::from(world.show(0, &task.instance).await.state() == InstanceState::Error);
            }
            failed == 2
        })
        .await;
    })
    .await;
    assert_eq!(world.show(0, &tasks[0].instance).await.state(), InstanceState::Started);
    world.end().await;
}

#[tokio::test]
async fn while_the_store_is_out_of_reach_no_silence_counts() {
    let world = World::with(1, soon_silent()).await;
    let nodes = [world.node("n1", 1).await, world.node("n2", 1).await];
    let mut tasks = Vec::new();
    for node in &nodes {
        world.start(0, 1).await;
        tasks.push(node.run(&world, 0).await);
    }
    world.faults[0].cut_off();
    // Heartbeats fail meanwhile, and the presences run out.
    tokio::time::sleep(soon_silent().instance_active * 2).await;
    world.faults[0].heal();
    tokio::time::sleep(soon_silent().instance_active / 3).await;
    for (node, task) in nodes.iter().zip(&tasks) {
        node.beat(world.ops(0), &[vm(task, VmPhase::Running)]).await.unwrap();
        assert_eq!(world.show(0, &task.instance).await.state(), InstanceState::Started);
    }
    world.end().await;
}

#[tokio::test]
async fn a_vm_that_vanishes_from_its_nodes_reports_is_an_error() {
    let world = World::with(2, soon_silent()).await;
    let node = world.node("n1", 1).await;
    world.start(0, 1).await;
    let task = node.run(&world, 0).await;
    node.beat(world.ops(0), &[]).await.unwrap();
    assert_eq!(world.show(1, &task.instance).await.state(), InstanceState::Started, "one report may be old");
    while_beating(&world, &[&node], &[], async {
        until("it is an error", || async {
            world.show(1, &task.instance).await.state() == InstanceState::Error
        })
        .await;
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_vm_that_no_record_knows_is_stopped_after_the_threshold_only() {
    for most in [30, 4] {
        let limits = Limits { unknown_vm_reports: most, ..Limits::default() };
        let world = World::limited(1, timeouts(), limits).await;
        let node = world.node("n1", 1).await;
        let stray = seen(&InstanceId::random(), 1, VmPhase::Running);
        for report in 1..most {
            let heard = node.beat(world.ops(0), std::slice::from_ref(&stray)).await.unwrap();
            assert!(heard.stop.is_empty(), "after {report} of {most} reports");
        }
        let heard = node.beat(world.ops(0), &[stray]).await.unwrap();
        assert_eq!(heard.stop.len(), 1);
        world.end().await;
    }
}

#[tokio::test]
async fn a_second_agent_with_the_same_id_is_refused_and_a_restart_is_not() {
    let world = World::new(2).await;
    let node = world.node("n1", 1).await;
    let again = Node { session: "n1-second".into(), ..Node::new("n1", 1) };
    again.beat(world.ops(1), &[]).await.unwrap();
    let refused = node.beat(world.ops(0), &[]).await.unwrap_err();
    assert!(matches!(&refused, OpsError::Conflict(why) if why.contains("another agent")), "{refused:?}");
    let poll = world.ops(0).poll(node.poll(1), world.stop()).await;
    assert!(matches!(poll, Err(OpsError::Conflict(_))));
    again.beat(world.ops(0), &[]).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn drained_unknown_and_deleted_nodes_get_nothing() {
    let world = World::new(2).await;
    let node = world.node("n1", 1).await;
    let ids = world.start(0, 1).await;
    let drain = |on| NodeConfig { node_id: Some("n1".into()), drain_mode: Some(on), ..NodeConfig::default() };
    world.ops(0).configure_node(drain(true), &Reach::Everything).await.unwrap();
    assert_eq!(world.ops(1).node(&node.id).await.unwrap().value.state, NodeState::DrainMode);
    let none = world.ops(1).poll(Poll { wait: 1, ..node.poll(1) }, world.stop()).await.unwrap();
    assert!(none.start.is_none());
    assert!(world.show(1, &ids[0]).await.message.contains("drain"), "a wait has a reason");
    // A later join does not undo what the operator said.
    node.join(world.ops(1)).await.unwrap();
    assert!(world.ops(0).node(&node.id).await.unwrap().value.record.settings.drain_mode);
    let (tasks, ()) = tokio::join!(node.tasks(world.ops(1), world.stop()), async {
        world.ops(0).configure_node(drain(false), &Reach::Everything).await.unwrap();
    });
    assert!(tasks.start.is_some(), "undrained: its waiting poll gets it at once");

    let stranger = Node::new("n9", 1);
    assert_eq!(world.ops(0).poll(stranger.poll(1), world.stop()).await, Err(OpsError::NotFound));
    assert!(!stranger.beat(world.ops(0), &[]).await.unwrap().known);
    world.ops(0).delete_node(&node.id, &Reach::Everything).await.unwrap();
    assert_eq!(world.ops(1).delete_node(&node.id, &Reach::Everything).await, Err(OpsError::NotFound));
    assert!(!node.beat(world.ops(1), &[]).await.unwrap().known);
    world.end().await;
}

#[tokio::test]
async fn a_node_leaves_only_when_nothing_is_on_it() {
    let world = World::new(2).await;
    let node = world.node("n1", 1).await;
    world.start(0, 1).await;
    let task = node.run(&world, 1).await;
    let leave = crate::wire::agent::Leave { node_id: node.id.clone() };
    assert!(!world.ops(0).leave(leave.clone()).await.unwrap().granted);
    world.ops(1).terminate(&task.instance).await.unwrap();
    node.beat(world.ops(0), &[vm(&task, VmPhase::Gone)]).await.unwrap();
    assert!(world.ops(0).leave(leave.clone()).await.unwrap().granted);
    assert!(world.ops(1).leave(leave).await.unwrap().granted, "repeated");
    assert!(world.ops(1).nodes().await.unwrap().value.is_empty());
    world.end().await;
}
