//! An acknowledged start is never lost, and never doubled.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::*;
use crate::{
    config::controller::MacPool,
    controller::writes::{Draft, Patience},
    model::StartId,
    store::faulty::{Fault, On},
    wire::{events::Action, vm::UpdateVm},
};

#[tokio::test]
async fn the_same_key_at_two_controllers_at_once_gives_one_set_of_ids() {
    let world = World::new(2).await;
    for round in 0..10 {
        let caller = keyed(&format!("k{round}"));
        let at = |n: usize| world.ops(n).start_resolved(ask(3), &caller, resolved());
        let (a, b, c) = tokio::join!(at(0), at(1), at(0));
        let a = a.unwrap();
        assert_eq!((&a, &a), (&b.unwrap(), &c.unwrap()));
        let other = world.ops(1).start_resolved(ask(2), &caller, resolved()).await;
        assert_eq!(other, Err(OpsError::KeyReused));
    }
    assert_eq!(world.ops(1).instances().await.unwrap().value.len(), 30);
    world.end().await;
}

#[tokio::test]
async fn keys_of_different_credentials_do_not_meet() {
    let world = World::new(1).await;
    let of = |name: &str| Caller { credential: Some(name.into()), ..keyed("k") };
    let a = world.ops(0).start_resolved(ask(1), &of("a"), resolved()).await.unwrap();
    let b = world.ops(0).start_resolved(ask(1), &of("b"), resolved()).await.unwrap();
    assert_ne!(a, b);
    world.end().await;
}

#[tokio::test]
async fn a_list_right_after_a_start_shows_all_of_it_at_the_other_controller() {
    let world = World::new(2).await;
    let mut all = 0;
    // More than one batch holds: the rest is made after the answer, and shown from the start.
    for count in [1, 120, 7, 200] {
        let ids = world.start(0, count).await;
        all += ids.len();
        let listed = world.ops(1).instances().await.unwrap();
        assert_eq!(listed.stale, None);
        assert_eq!(listed.value.len(), all);
        let last = ids.last().unwrap();
        assert!(world.show(1, last).await.message.contains("no node"), "a wait has a reason");
    }
    world.end().await;
}

#[tokio::test]
async fn an_instance_that_is_not_made_yet_can_be_terminated() {
    let world = World::new(2).await;
    let ids = world.start(0, 400).await;
    let last = ids.last().unwrap();
    world.ops(1).terminate(last).await.unwrap();
    assert_eq!(world.show(0, last).await.state(), crate::model::InstanceState::Terminating);
    world.end().await;
}

#[tokio::test]
async fn a_start_whose_controller_dies_is_finished_by_another() {
    let world = World::new(2).await;
    // It accepts the start, and never reaches the store again.
    let ids = world.start(0, 300).await;
    world.faults[0].cut_off();
    until("all instances are made", || async {
        world.ops(1).lists().peek(|cache| ids.iter().all(|id| cache.instance(id).is_some()))
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_start_survives_lost_answers_without_a_double() {
    let world = World::new(1).await;
    for (n, fault) in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Conflict].into_iter().enumerate() {
        world.faults[0].next(On::Txn, fault);
        let ids = world.ops(0).start_resolved(ask(2), &Caller::default(), resolved()).await.unwrap();
        assert_eq!(ids.len(), 2);
        assert_eq!(world.ops(0).instances().await.unwrap().value.len(), 2 * (n + 1), "{fault:?}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_script_reaches_the_node_whole() {
    let world = World::new(2).await;
    let node = world.node("n1", 1).await;
    let script: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
    let text = BASE64_STANDARD.encode(&script);
    let with = StartVm { startup_script: Some(text.clone()), script_monitoring: Some(true), ..ask(1) };
    world.ops(0).start_resolved(with, &Caller::default(), resolved()).await.unwrap();
    // On a busy machine all this may have taken longer than a presence lasts.
    node.beat(world.ops(1), &[]).await.unwrap();
    let task = node.offer(&world, 1).await;
    let got = task.script.unwrap();
    assert!(got.body == text && got.monitored);
    assert_eq!(got.timeout_seconds, 90);
    world.end().await;
}

#[tokio::test]
async fn a_start_that_makes_no_sense_is_refused_and_leaves_nothing() {
    let world = World::new(1).await;
    let refuse = |with: StartVm| {
        let ops = world.ops(0).clone();
        async move { ops.start_resolved(with, &Caller::default(), resolved()).await.unwrap_err() }
    };
    assert_eq!(refuse(StartVm::default()).await, OpsError::BadInput("vmid is required".into()));
    for bad in [
        ask(0),
        ask(-1),
        ask(1001),
        StartVm { startup_script: Some("no base64!".into()), ..ask(1) },
        StartVm { script_fail_handler: Some(3), ..ask(1) },
        StartVm { node_id: Some("a/b".into()), ..ask(1) },
        StartVm { name: Some("x".repeat(5000)), ..ask(1) },
        StartVm { vcpu: Some(-2), ..ask(1) },
    ] {
        let shown = format!("{bad:?}");
        assert!(matches!(refuse(bad).await, OpsError::BadInput(_)), "{shown}");
    }
    let odd = StartVm { vmid: Some("../x".into()), ..ask(1) };
    assert_eq!(refuse(odd).await, OpsError::NotInRegistry);
    assert!(world.ops(0).instances().await.unwrap().value.is_empty());
    world.end().await;
}

#[tokio::test]
async fn priority_decides_before_age_and_is_brought_into_its_range() {
    let world = World::new(1).await;
    let with = |priority| StartVm { priority: Some(priority), ..ask(1) };
    let mut ids = Vec::new();
    for priority in [20_000, 1000, 500, -5] {
        let started = world.ops(0).start_resolved(with(priority), &Caller::default(), resolved()).await;
        ids.extend(started.unwrap());
    }
    assert_eq!(world.show(0, &ids[0]).await.spec.priority, 10_000);
    assert_eq!(world.show(0, &ids[3]).await.spec.priority, 1);
    let node = world.node("n1", 4).await;
    for expected in ids.iter().rev() {
        let task = node.offer(&world, 0).await;
        assert_eq!(task.instance, *expected);
        assert!(world.ops(0).claim(node.claim(&task)).await.unwrap().granted);
    }
    world.end().await;
}

#[tokio::test]
async fn what_the_pool_has_no_address_for_waits_in_peace_says_so_and_is_made_when_it_has() {
    let range = "02:00:00:00:00:00-02:00:00:00:00:2F".parse().unwrap();
    let mac_pool = MacPool { manage: true, range: Some(range) };
    let times = Timeouts { instance_visible: Duration::from_secs(1), ..timeouts() };
    let world = World::of(1, |name| Config { mac_pool, ..config(name, times.clone()) }).await;
    let ops = world.ops(0);
    let _node = world.node("n1", 2).await;
    let first = world.start(0, 10).await;
    // Accepted by a controller that has not seen those ten yet: 48 for the 38 that are left.
    ops.lists().catch_up().await.unwrap();
    let mut record = ops.lists().peek(|cache| cache.starts().next().unwrap().1.record.as_ref().clone());
    record.ids = (0..48).map(|_| InstanceId::random()).collect();
    record.made = 0;
    let (id, last) = (StartId::random(), record.ids[47].clone());
    let key = ops.inner.keys.start(&id);
    let draft = Draft::new(&key).at(&key, 0).put(&key, &record).unwrap();
    ops.inner.writes.commit(draft, Patience::new()).await.unwrap();
    until("what can be made is made", || async {
        ops.lists().peek(|cache| cache.of_start(&id).count() == 38)
    })
    .await;
    // It does not go round and round meanwhile: neither this nor the duty.
    let said = tokio::time::timeout(PATIENCE, ops.make_instances(&id, None)).await.expect("it gives up");
    let none = "no MAC address is free";
    let renamed = UpdateVm { name: Some("new".into()), ..UpdateVm::default() };
    for said in [said.unwrap_err(), ops.update(&last, renamed).await.unwrap_err()] {
        assert!(matches!(&said, OpsError::Conflict(why) if why.contains(none)), "{said:?}");
    }
    let why = ops.why(&last).await.unwrap().value;
    assert!(why.why.contains(none) && why.nodes.is_empty(), "{why:?}");
    assert!(world.show(0, &last).await.message.contains(none));

    // It need not be made to be terminated, and ends like every other. What its start was answered with stays as it was.
    let gone = record.ids[45].clone();
    ops.terminate(&gone).await.unwrap();
    ops.terminate(&gone).await.unwrap();
    let shown = world.show(0, &gone).await;
    assert_eq!(shown.phase, Phase::Terminating { node: None, since: shown.updated });
    assert_eq!(shown.spec.mac_address, "");
    let start = ops.lists().peek(|cache| cache.start(&id).unwrap().record.clone());
    assert_eq!((start.answer(), start.unmade().len()), (&record.ids[..], 9));
    until("it is gone", || async { ops.instance(&gone).await == Err(OpsError::NotFound) }).await;
    let told = ops.lists().peek(|cache| {
        let of = cache.events().after(None).filter(|(_, event)| event.instance_ids == [gone.to_string()]);
        of.map(|(_, event)| event.action).collect::<Vec<_>>()
    });
    assert_eq!(told, [Action::TerminateVM, Action::VMTerminated]);

    // Enough of them end.
    for instance in first.iter().chain(&record.ids[..1]) {
        ops.terminate(instance).await.unwrap();
    }
    until("the rest is made", || async { ops.lists().peek(|cache| cache.unmade(&last).is_none()) }).await;
    assert!(!world.show(0, &last).await.spec.mac_address.is_empty());
    world.end().await;
}

#[tokio::test]
async fn addresses_that_a_start_has_yet_to_take_are_not_promised_again() {
    let range = "02:00:00:00:00:00-02:00:00:00:00:C7".parse().unwrap();
    let mac_pool = MacPool { manage: true, range: Some(range) };
    let world = World::of(1, |name| Config { mac_pool, ..config(name, timeouts()) }).await;
    // 200 for 200: made in several steps, the last ones after the answer.
    world.start(0, 200).await;
    let more = world.ops(0).start_resolved(ask(1), &Caller::default(), resolved()).await.unwrap_err();
    assert!(matches!(&more, OpsError::Conflict(why) if why.starts_with("0 MAC addresses")), "{more:?}");
    world.end().await;
}
