//! What waits does not wait for ever, and what fails is not tried for ever.

use super::*;
use crate::{
    controller::writes::{Draft, Patience},
    model::{InstanceState, StartId, Timestamp},
    store::{Consistency, Txn, keys::Keys},
};

async fn failed(world: &World, id: &InstanceId) -> InstanceRecord {
    until("it has failed", || async { world.show(0, id).await.state() == InstanceState::Error }).await;
    let record = world.show(0, id).await;
    assert_eq!((record.node(), record.is_queued()), (None, false));
    let queued =
        world.store.get(&Keys::new("main").queued_start(id), Consistency::Linearizable).await.unwrap();
    assert!(queued.kv.is_none(), "it is in no queue any more");
    record
}

/// As if it had been accepted long ago, by controllers that are gone.
async fn made_old(world: &World, id: &InstanceId) {
    let key = Keys::new("main").instance(id);
    let kept = world.store.get(&key, Consistency::Linearizable).await.unwrap().kv.unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&kept.value).unwrap();
    record["created"] = "2001-01-01T00:00:00Z".into();
    world.store.txn(Txn::new().put(key, record.to_string())).await.unwrap();
}

#[tokio::test]
async fn what_no_node_took_in_time_ends_with_its_reason_however_often_controllers_were_replaced() {
    let world = World::new(2).await;
    let pinned = StartVm { node_id: Some("nonode".into()), ..ask(2) };
    let ids = world.ops(1).start_resolved(pinned, &Caller::default(), resolved()).await.unwrap();
    made_old(&world, &ids[0]).await;
    let record = failed(&world, &ids[0]).await;
    let expected = "no node took it within 1day (`timeouts.scheduling`): no node has joined";
    assert_eq!(record.message, expected);
    let why = world.ops(1).why(&ids[0]).await.unwrap().value.why;
    assert_eq!(why, format!("it failed before its VM was started: {expected}"));
    assert_eq!(world.show(0, &ids[1]).await.state(), InstanceState::Scheduling, "its time is not over");
    let node = world.node("nonode", 2).await;
    assert_eq!(node.offer(&world, 0).await.instance, ids[1]);
    world.end().await;
}

#[tokio::test]
async fn what_a_node_has_taken_is_not_ended_by_the_time_of_waiting() {
    let world = World::new(1).await;
    let ids = world.start(0, 2).await;
    let node = world.node("n1", 1).await;
    let task = node.offer(&world, 0).await;
    assert!(world.ops(0).claim(node.claim(&task)).await.unwrap().granted);
    for id in &ids {
        made_old(&world, id).await;
    }
    let other = ids.iter().find(|id| **id != task.instance).unwrap();
    let record = failed(&world, other).await;
    assert!(record.message.ends_with("no node that could run it has room"), "{}", record.message);
    assert!(world.ops(0).starting(node.claim(&task)).await.unwrap().granted);
    assert!(matches!(world.show(0, &task.instance).await.phase, Phase::Starting { .. }));
    world.end().await;
}

#[tokio::test]
async fn attempts_that_come_to_nothing_are_bounded_and_unclaimed_offers_are_none() {
    let limits = Limits { attempts: 3, ..Limits::default() };
    let world = World::limited(1, soon_unclaimed(), limits).await;
    let ids = world.start(0, 1).await;
    let nodes = [world.node("n1", 1).await, world.node("n2", 1).await, world.node("n3", 1).await];
    let back = |claim: Claim| crate::wire::agent::GiveBack { claim, why: "no space".into() };

    // Nobody claims it in time: that says nothing of it.
    nodes[0].offer(&world, 0).await;
    until("it goes back", || async { world.show(0, &ids[0]).await.is_queued() }).await;
    assert_eq!(world.show(0, &ids[0]).await.attempts_failed, 0);

    let task = nodes[0].offer(&world, 0).await;
    assert!(world.ops(0).claim(nodes[0].claim(&task)).await.unwrap().granted);
    assert!(world.ops(0).give_back(back(nodes[0].claim(&task))).await.unwrap().granted);
    nodes[1].beat(world.ops(0), &[]).await.unwrap();
    let task = nodes[1].offer(&world, 0).await;
    assert!(world.ops(0).claim(nodes[1].claim(&task)).await.unwrap().granted);
    nodes[1].beat(world.ops(0), &[vm(&task, VmPhase::Gone)]).await.unwrap();
    let shown = world.show(0, &ids[0]).await;
    assert_eq!((shown.is_queued(), shown.attempts_failed), (true, 2));

    nodes[2].beat(world.ops(0), &[]).await.unwrap();
    let task = nodes[2].offer(&world, 0).await;
    assert!(world.ops(0).give_back(back(nodes[2].claim(&task))).await.unwrap().granted);
    let record = failed(&world, &ids[0]).await;
    let expected = "3 attempts to start it came to nothing, and no more are made (`limits.attempts`); the last one: \
                    node `n3` gave it back: no space";
    assert_eq!(record.message, expected);
    assert!(!world.ops(0).give_back(back(nodes[2].claim(&task))).await.unwrap().granted, "it is over");
    world.end().await;
}

#[tokio::test]
async fn an_attempt_whose_node_is_lost_counts() {
    let world = World::limited(1, soon_silent(), Limits { attempts: 1, ..Limits::default() }).await;
    let ids = world.start(0, 1).await;
    let node = world.node("n1", 1).await;
    let task = node.offer(&world, 0).await;
    assert!(world.ops(0).claim(node.claim(&task)).await.unwrap().granted);
    let record = failed(&world, &ids[0]).await;
    assert!(record.message.ends_with("node `n1` is not communicating"), "{}", record.message);
    // Back again it is told to let go of it.
    let heard = node.beat(world.ops(0), &[vm(&task, VmPhase::Claimed)]).await.unwrap();
    assert_eq!(heard.stop.len(), 1);
    world.end().await;
}

#[tokio::test]
async fn a_clock_that_is_ahead_of_every_other_controllers_ends_nothing_that_is_stored() {
    let times = Timeouts { instance_visible: Duration::from_millis(100), ..timeouts() };
    let world = World::with(1, times).await;
    let ops = world.ops(0);
    // What another controller writes whose clock is so many seconds ahead.
    let written = async |seconds: i64| {
        let t = clock::wall().unix_millis() + seconds * 1000;
        let head = serde_json::json!({ "v": 1, "w": "x", "t": t, "by": "c9" }).to_string();
        world.store.txn(Txn::new().put(ops.inner.keys.head(), head)).await.unwrap();
    };
    written(-86_400).await;
    until("it is heard", || async { ops.inner.clocks.believed().is_none() }).await;
    let ended = async || {
        let id = world.start(0, 1).await.remove(0);
        ops.terminate(&id).await.unwrap();
        until("an ended instance is forgotten", || async { ops.instance(&id).await.is_err() }).await;
    };
    // A start whose key's time is over.
    world.start(0, 1).await;
    ops.lists().catch_up().await.unwrap();
    let mut record = ops.lists().peek(|cache| cache.starts().next().unwrap().1.record.as_ref().clone());
    (record.ids, record.made, record.expires) = (Vec::new(), 0, Timestamp::NEVER);
    let id = StartId::random();
    let key = ops.inner.keys.start(&id);
    let draft = Draft::new(&key).at(&key, 0).put(&key, &record).unwrap();
    ops.inner.writes.commit(draft, Patience::new()).await.unwrap();
    // By no wall clock, so it goes on; the second one in a later pass of the same duty.
    ended().await;
    ended().await;
    let kept = || ops.lists().peek(|cache| cache.start(&id).is_some());
    assert!(kept(), "one of the two clocks is wrong");
    written(0).await;
    until("it is forgotten", || async { !kept() }).await;
    world.end().await;
}
