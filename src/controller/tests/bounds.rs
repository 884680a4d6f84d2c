//! What grows with what clients and nodes say has a bound, all of it together too.

use super::*;
use crate::{
    config::events::Events,
    controller::{
        records::{CommandRecord, ImageRecord, StartRecord},
        writes::{Draft, Patience},
    },
    model::{CommandId, ImageId, StartId},
    store::{Consistency, Range},
    wire::{
        command::{CommandReport, CommandState, Order, RemoveTemplate},
        image::{ImageStatus, SaveImage},
        vm::ScriptResult,
    },
};

async fn put<T: serde::Serialize>(world: &World, key: String, record: &T) {
    let draft = Draft::new(&key).put(&key, record).unwrap();
    world.ops(0).inner.writes.commit(draft, Patience::new()).await.unwrap();
    world.ops(0).lists().catch_up().await.unwrap();
}

#[tokio::test]
async fn all_startup_scripts_together_have_a_bound_and_starts_without_one_go_on() {
    let world = World::new(1).await;
    let ops = world.ops(0);
    let with = StartVm { startup_script: Some("ZWNobwo=".into()), ..ask(1) };
    let started = async |ask: &StartVm| ops.start_resolved(ask.clone(), &Caller::default(), resolved()).await;
    started(&with).await.unwrap();
    ops.lists().catch_up().await.unwrap();
    let record = ops.lists().peek(|cache| cache.starts().next().unwrap().1.record.as_ref().clone());
    // 256 MiB in pieces of 200 KiB are 1310, and the first one has one.
    let mut spec = record.spec.clone();
    spec.script.as_mut().unwrap().chunks = 1308;
    let (id, ids) = (StartId::random(), vec![InstanceId::random()]);
    put(&world, ops.inner.keys.start(&id), &StartRecord { ids, spec, ..record }).await;
    started(&with).await.unwrap();
    ops.lists().catch_up().await.unwrap();
    let refused = started(&with).await.unwrap_err();
    assert!(matches!(&refused, OpsError::TooMany(why) if why.contains("256 MiB")), "{refused:?}");
    started(&ask(1)).await.unwrap();
    let scripts = world.store.range(Range::prefix(&ops.inner.keys.all_scripts())).await.unwrap().kvs;
    assert_eq!(scripts.len(), 2, "nothing of the one that was refused");
    world.end().await;
}

#[tokio::test]
async fn output_of_savings_shares_the_bound_of_all_output_and_other_commands_have_none() {
    let world = World::new(1).await;
    let ops = world.ops(0);
    let node = world.node("n1", 2).await;
    let said = ScriptResult { stdout: "x".repeat(100_000), ..ScriptResult::default() };
    let beat = async |task: &StartTask, id: &str, script: Option<&ScriptResult>| {
        let state = if script.is_some() { CommandState::Done } else { CommandState::Running };
        let report = CommandReport {
            id: CommandId::parse(id).unwrap(),
            state,
            progress: Progress::NONE,
            message: String::new(),
            script: script.cloned(),
        };
        let beat = Heartbeat {
            node_id: node.id.clone(),
            session: node.session.clone(),
            facts: NodeFacts { commands: vec!["save".into(), "remove".into()], ..node.facts() },
            vms: vec![vm(task, VmPhase::Running)],
            commands: vec![report],
        };
        ops.heartbeat(beat).await.unwrap();
    };
    let kept = async |id: &str| {
        let prefix = ops.inner.keys.image_outputs(id);
        world.store.range(Range::prefix(&prefix)).await.unwrap().kvs.len()
    };

    world.start(0, 2).await;
    let (mut images, mut tasks) = (Vec::new(), Vec::new());
    for n in 0..2 {
        let task = node.offer(&world, 0).await;
        assert!(ops.claim(node.claim(&task)).await.unwrap().granted);
        assert!(ops.starting(node.claim(&task)).await.unwrap().granted);
        beat(&task, "none", None).await;
        if n == 1 {
            // What others have: with this and the first one's there is no room for a second.
            let full: ImageRecord = serde_json::from_value(serde_json::json!({
                "id": "full", "instance": "i", "node": "n1", "registry": "", "tag": "v1", "suspend": true, "status": "done",
                "output_chunks": 1309, "created": clock::wall(), "ended": clock::wall(),
            }))
            .unwrap();
            put(&world, ops.inner.keys.image(&ImageId::parse("full").unwrap()), &full).await;
        }
        let ask = SaveImage {
            id: Some(task.instance.to_string()),
            tag: Some(format!("v{n}")),
            new_template_name: Some("new".into()),
            ..SaveImage::default()
        };
        let image = ops.save_image(ask, &Reach::Everything).await.unwrap();
        beat(&task, image.as_str(), Some(&said)).await;
        let shown = ops.image(&image).await.unwrap().value;
        assert_eq!(shown.status, ImageStatus::Done);
        let length = shown.script_result.unwrap().stdout.len();
        let (expected, chunks) = if n == 0 { (100_000, 1) } else { (8 * 1024, 0) };
        assert_eq!((length, kept(image.as_str()).await), (expected, chunks));
        // Its VM is gone, as it was told to.
        until("its node has nothing to stop", || async {
            node.beat(ops, &[]).await.unwrap();
            ops.lists().catch_up().await.unwrap();
            ops.lists().peek(|cache| cache.taken(&node.id)) == 0
        })
        .await;
        images.push(image);
        tasks.push(task);
    }
    // With the store out of reach the end of it is shown, and not an error.
    world.faults[0].cut_off();
    until("the end is shown", || async {
        let seen = ops.image(&images[0]).await;
        seen.is_ok_and(|seen| {
            seen.stale.is_some()
                && seen.value.script_result.is_some_and(|script| script.stdout.len() == 8 * 1024)
        })
    })
    .await;
    world.faults[0].heal();
    until("the store is there again", || async { ops.lists().catch_up().await.is_ok() }).await;

    // A command that runs no script: whatever its node says, nothing of that is stored that nobody would delete.
    let order = Order::Remove(RemoveTemplate { template: TemplateId::parse("t1").unwrap() });
    let id = CommandId::parse("removal").unwrap();
    let record = CommandRecord::new(id.clone(), node.id.clone(), order, None, clock::wall());
    put(&world, ops.inner.keys.command(&node.id, &id), &record).await;
    beat(&tasks[0], "removal", Some(&said)).await;
    ops.lists().catch_up().await.unwrap();
    let record = ops.lists().peek(|cache| cache.commands().get(&node.id, &id).unwrap().record.clone());
    assert_eq!((record.state, record.script.as_ref(), kept("removal").await), (CommandState::Done, None, 0));
    world.end().await;
}

#[tokio::test]
async fn the_event_log_keeps_its_bounds_when_how_far_its_receiver_is_cannot_be_read() {
    let events = Events {
        keep: Duration::from_secs(1),
        url: Some("http://127.0.0.1:9/events".parse().unwrap()),
        ..Events::default()
    };
    let world = World::of(1, |name| Config { events: events.clone(), ..config(name, timeouts()) }).await;
    let ops = world.ops(0);
    let position = ops.inner.keys.event_position();
    world.store.txn(crate::store::Txn::new().put(&position, "{\"v\":1,")).await.unwrap();
    world.start(0, 1).await;
    until("the event is forgotten", || async { ops.lists().peek(|cache| cache.events().count()) == 0 }).await;
    let left = world.store.get(&position, Consistency::Linearizable).await.unwrap().kv.unwrap();
    assert_eq!(left.value, "{\"v\":1,", "it is left to those who can read it");
    world.end().await;
}
