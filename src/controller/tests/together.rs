//! What two ask for at the same moment, each of whom alone would get it.

use super::*;
use crate::{
    model::{GroupId, InstanceState},
    store::Consistency,
    wire::{
        group::{GroupAsk, NodeGroups},
        image::RestartInstance,
    },
};

fn named(name: &str) -> GroupAsk {
    GroupAsk { name: Some(name.into()), ..GroupAsk::default() }
}

fn falling_back(on: &str) -> GroupAsk {
    GroupAsk { fallback_group_id: Some(on.into()), ..GroupAsk::default() }
}

async fn group(world: &World, ask: GroupAsk) -> GroupId {
    GroupId::parse(world.ops(0).make_group(ask).await.unwrap().id).unwrap()
}

fn in_group(group: &str) -> StartVm {
    StartVm { group_id: Some(group.into()), ..ask(1) }
}

#[tokio::test]
async fn of_two_restarts_with_one_usb_device_one_gets_it() {
    let world = World::new(2).await;
    let node = world.node("n1", 2).await;
    let devices: Vec<String> = (0..8).map(|n| format!("iPad {n}")).collect();
    world.start(0, 2).await;
    let tasks = [node.run(&world, 0).await, node.run(&world, 0).await];
    let beat = Heartbeat {
        node_id: node.id.clone(),
        session: node.session.clone(),
        facts: NodeFacts { commands: vec!["restart".into()], usb_devices: devices.clone(), ..node.facts() },
        vms: tasks.iter().map(|task| vm(task, VmPhase::Running)).collect(),
        commands: Vec::new(),
    };
    world.ops(0).heartbeat(beat).await.unwrap();
    for device in &devices {
        let ask = RestartInstance { usb_device: Some(device.clone()), ..RestartInstance::default() };
        let (one, other) = tokio::join!(
            world.ops(0).restart(&tasks[0].instance, &ask),
            world.ops(1).restart(&tasks[1].instance, &ask),
        );
        let refused: Vec<_> = [one.err(), other.err()].into_iter().flatten().collect();
        assert!(
            matches!(&refused[..], [OpsError::Conflict(why)] if why.contains("another VM's")),
            "{device}: {refused:?}"
        );
        let having = world.ops(0).instances().await.unwrap().value;
        assert_eq!(having.iter().filter(|one| one.record.spec.usb_device == *device).count(), 1);
    }
    // Nobody knows what a silent node gives to whom meanwhile.
    world
        .store
        .txn(crate::store::Txn::new().delete(world.ops(0).inner.keys.node_alive(&node.id)))
        .await
        .unwrap();
    world.ops(0).lists().catch_up().await.unwrap();
    let silent = |cache: &crate::controller::lists::Cache| cache.presence(&node.id).is_none();
    until("its presence is gone", || async { world.ops(0).lists().peek(silent) }).await;
    let all = world.ops(0).instances().await.unwrap().value;
    let free =
        devices.iter().find(|free| all.iter().all(|one| one.record.spec.usb_device != **free)).unwrap();
    let ask = RestartInstance { usb_device: Some(free.clone()), ..RestartInstance::default() };
    let refused = world.ops(0).restart(&tasks[0].instance, &ask).await.unwrap_err();
    assert!(matches!(&refused, OpsError::Conflict(why) if why.contains("does not report")), "{refused:?}");
    world.end().await;
}

#[tokio::test]
async fn two_changes_of_fallbacks_at_once_make_no_circle_and_no_fallback_that_is_gone() {
    let world = World::new(2).await;
    for round in 0..8 {
        let a = group(&world, named(&format!("a{round}"))).await;
        let b = group(&world, named(&format!("b{round}"))).await;
        // Over a third one, so that neither writes what the other one compares alone.
        let c =
            group(&world, GroupAsk { fallback_group_id: Some(a.to_string()), ..named(&format!("c{round}")) })
                .await;
        let (one, other) = tokio::join!(
            world.ops(0).change_group(&a, falling_back(b.as_str())),
            world.ops(1).change_group(&b, falling_back(c.as_str())),
        );
        let refused: Vec<_> = [one.err(), other.err()].into_iter().flatten().collect();
        assert!(
            matches!(&refused[..], [OpsError::BadInput(why)] if why.contains("go round")),
            "{round}: {refused:?}"
        );
    }
    for round in 0..8 {
        let gone = group(&world, named(&format!("gone{round}"))).await;
        let on = group(&world, named(&format!("on{round}"))).await;
        let ask = GroupAsk { name: Some(format!("new{round}")), ..falling_back(gone.as_str()) };
        let (deleted, changed, made) = tokio::join!(
            world.ops(0).delete_group(&gone),
            world.ops(1).change_group(&on, falling_back(gone.as_str())),
            world.ops(1).make_group(ask),
        );
        let said = format!("{round}: {deleted:?} {changed:?} {made:?}");
        assert_eq!(deleted.is_ok(), changed.is_err() && made.is_err(), "{said}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_group_is_not_deleted_under_starts_that_have_yet_to_begin_and_none_is_accepted_for_one_that_is_gone()
 {
    let world = World::new(2).await;
    let lab = group(&world, named("lab")).await;
    let node = world.node("n1", 1).await;
    let into = NodeGroups { group_ids: vec![lab.to_string()], node_ids: vec!["n1".into()] };
    world.ops(0).regroup(&into, true).await.unwrap();
    let refused = async |id: &GroupId, waits: usize| {
        let error = world.ops(1).delete_group(id).await.unwrap_err();
        let said = format!("{waits} starts wait for it");
        assert!(matches!(&error, OpsError::Conflict(why) if why.starts_with(&said)), "{said}: {error:?}");
    };
    let started = async |ask: StartVm| world.ops(0).start_resolved(ask, &Caller::default(), resolved()).await;
    started(in_group(lab.as_str())).await.unwrap();
    refused(&lab, 1).await;
    let task = node.offer(&world, 0).await;
    refused(&lab, 1).await;
    assert!(world.ops(0).claim(node.claim(&task)).await.unwrap().granted);
    refused(&lab, 1).await;
    assert!(world.ops(0).starting(node.claim(&task)).await.unwrap().granted);
    world.ops(1).delete_group(&lab).await.unwrap();
    let error = started(in_group(lab.as_str())).await.unwrap_err();
    assert!(matches!(&error, OpsError::BadInput(why) if why.contains("group_id: no node")), "{error:?}");

    // Both at the same moment: either it is refused, or its start has an end.
    for round in 0..8 {
        let id = group(&world, named(&format!("g{round}"))).await;
        let (deleted, begun) = tokio::join!(world.ops(1).delete_group(&id), started(in_group(id.as_str())));
        let Ok(ids) = begun else { continue };
        if deleted.is_ok() {
            until("what nobody will ever take has failed", || async {
                let record = world.show(0, &ids[0]).await;
                record.state() == InstanceState::Error && record.message == "its group was deleted"
            })
            .await;
        }
    }
    world.end().await;
}

#[tokio::test]
async fn a_deleted_group_is_struck_out_of_nodes_records_though_its_controller_ended_before_it_did() {
    let world = World::new(1).await;
    let node = world.node("n1", 1).await;
    let kept = group(&world, named("kept")).await;
    let gone = GroupId::random();
    let record = |record: &mut crate::controller::records::NodeRecord| {
        record.group_ids = vec![gone.clone(), kept.clone()];
    };
    world.ops(0).change_node(&node.id, record).await.unwrap();
    until("it is struck out", || async {
        world.ops(0).node(&node.id).await.unwrap().value.record.group_ids == [kept.clone()]
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn starts_for_a_deleted_group_end_though_its_controller_ended_before_it_ended_them() {
    let world = World::new(2).await;
    let node = world.node("n1", 1).await;
    let started = async |group: &str| {
        let ask = StartVm { count: Some(60), ..in_group(group) };
        let ids = world.ops(0).start_resolved(ask, &Caller::default(), resolved()).await.unwrap();
        // One batch of them was made with the start; the others are made by then.
        until("all are made", || async {
            world.ops(0).lists().peek(|cache| ids.iter().all(|id| cache.instance(id).is_some()))
        })
        .await;
        ids
    };
    let (gone, kept) = (group(&world, named("gone")).await, group(&world, named("kept")).await);
    let mut beat = Join {
        node_id: node.id.clone(),
        wish: NodeWish { groups: vec!["lab".into()], ..node.wish() },
        facts: node.facts(),
    };
    world.ops(0).join(beat.clone()).await.unwrap();
    let of_name = started("lab").await;
    beat.wish.groups.clear();
    world.ops(0).join(beat).await.unwrap();
    let (of_gone, of_kept) = (started(gone.as_str()).await, started(kept.as_str()).await);
    // All that a controller does that ends right after it has deleted the group.
    let keys = &world.ops(0).inner.keys;
    let delete = crate::store::Txn::new().delete(keys.group(&gone)).delete(keys.group_name("gone"));
    world.store.txn(delete).await.unwrap();
    until("what nobody will ever take has failed", || async {
        let all = world.ops(1).instances().await.unwrap().value;
        let over = all.iter().map(|one| &one.record).filter(|record| {
            record.state() == InstanceState::Error && record.message == "its group was deleted"
        });
        let over: Vec<_> = over.map(|record| record.id.clone()).collect();
        assert!(over.iter().all(|id| of_gone.contains(id)), "{over:?}");
        over.len() == of_gone.len()
    })
    .await;
    for waits in [&of_name[0], &of_kept[0]] {
        assert_eq!(world.show(1, waits).await.state(), InstanceState::Scheduling, "a node may join");
    }
    world.end().await;
}

/// Nodes whose agents know the orders for many nodes.
async fn obedient(world: &World, count: usize) {
    for n in 0..count {
        let node = world.node(&format!("n{n}"), 1).await;
        let facts = NodeFacts { commands: vec!["remove".into(), "update".into()], ..node.facts() };
        let beat = Heartbeat {
            node_id: node.id.clone(),
            session: node.session.clone(),
            facts,
            vms: Vec::new(),
            commands: Vec::new(),
        };
        world.ops(0).heartbeat(beat).await.unwrap();
    }
}

async fn commands(world: &World) -> usize {
    world.ops(0).commands(None).await.unwrap().value.len()
}

#[tokio::test]
async fn an_order_that_came_to_some_of_the_nodes_is_doubled_nowhere_when_it_is_asked_for_again() {
    let world = World::new(1).await;
    let ops = world.ops(0);
    obedient(&world, 4).await;
    let template = TemplateId::parse("t1").unwrap();
    // As far as a controller may have come that ended then.
    let some = ["n0".to_owned(), "n2".to_owned()];
    ops.remove_from_nodes(&template, Some(&some), &Reach::Everything).await.unwrap();
    assert_eq!(commands(&world).await, 2);
    for _ in 0..2 {
        let sent = ops.remove_from_nodes(&template, None, &Reach::Everything).await.unwrap();
        assert_eq!(
            (sent.requests_sent, commands(&world).await),
            (4, 4),
            "those that had it are told as well"
        );
    }
    ops.remove_from_nodes(&TemplateId::parse("t2").unwrap(), Some(&some), &Reach::Everything).await.unwrap();
    assert_eq!(commands(&world).await, 6, "of another template it is another order");
    for _ in 0..2 {
        ops.update_agents(&Reach::Everything).await.unwrap();
        assert_eq!(commands(&world).await, 10);
    }
    // One that cannot do it has failed at once, and is told so once each time.
    world.node("old", 1).await;
    ops.update_agents(&Reach::Everything).await.unwrap();
    assert_eq!(commands(&world).await, 11);
    world.end().await;
}

#[tokio::test]
async fn an_order_that_is_asked_of_two_controllers_at_the_same_moment_is_doubled_nowhere() {
    let world = World::new(2).await;
    obedient(&world, 60).await;
    for round in 1..=4 {
        let template = TemplateId::parse(format!("t{round}")).unwrap();
        let ask = |n: usize| world.ops(n).remove_from_nodes(&template, None, &Reach::Everything);
        let (one, other) = tokio::join!(ask(0), ask(1));
        assert_eq!((one.unwrap().requests_sent, other.unwrap().requests_sent), (60, 60));
        assert_eq!(commands(&world).await, 60 * round, "in two transactions, and each time once");
    }
    let update = |n: usize| world.ops(n).update_agents(&Reach::Everything);
    let (one, other) = tokio::join!(update(0), update(1));
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    assert_eq!(commands(&world).await, 60 * 5);
    world.end().await;
}

#[tokio::test]
async fn an_offer_that_was_ended_is_refused_with_what_became_of_it() {
    let world = World::new(1).await;
    let node = world.node("n1", 2).await;
    world.start(0, 1).await;
    let task = node.offer(&world, 0).await;
    world.ops(0).terminate(&task.instance).await.unwrap();
    let refused = world.ops(0).claim(node.claim(&task)).await.unwrap();
    assert_eq!((refused.granted, refused.why.as_str()), (false, "the instance is Terminating"));
    world.end().await;
}

#[tokio::test]
async fn of_a_started_instance_that_cannot_be_restarted_the_reason_is_told() {
    let world = World::new(1).await;
    let node = world.node("n1", 2).await;
    world.start(0, 1).await;
    let task = node.run(&world, 0).await;
    let key = world.ops(0).inner.keys.instance(&task.instance);
    let kept = world.store.get(&key, Consistency::Linearizable).await.unwrap().kv.unwrap();
    let mut newer: serde_json::Value = serde_json::from_slice(&kept.value).unwrap();
    newer["v"] = 99.into();
    world.store.txn(crate::store::Txn::new().put(&key, newer.to_string())).await.unwrap();
    until("it is seen", || async {
        world.ops(0).lists().peek(|cache| cache.instance(&task.instance).is_some_and(|item| item.newer))
    })
    .await;
    let ask = RestartInstance::default();
    let refused = world.ops(0).restart(&task.instance, &ask).await.unwrap_err();
    assert!(matches!(&refused, OpsError::Conflict(why) if why.contains("newer controller")), "{refused:?}");
    world.end().await;
}
