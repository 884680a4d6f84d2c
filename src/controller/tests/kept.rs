//! What is stored already, and by whom: own writes, newer controllers' records, what was deleted.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::{
    controller::records::Targets,
    model::{GroupId, ImageId, InstanceState},
    store::{
        Consistency, Txn,
        faulty::{Fault, On},
        keys::Keys,
    },
    wire::{
        command::PullTemplate,
        group::{GroupAsk, NodeGroups},
    },
};

/// Longer than anything else here takes.
const STALL: Duration = Duration::from_secs(1);

async fn stored(world: &World, key: &str) -> Option<Value> {
    let got = world.store.get(key, Consistency::Linearizable).await.unwrap();
    got.kv.map(|kv| serde_json::from_slice(&kv.value).unwrap())
}

async fn put(world: &World, key: &str, record: &Value) {
    world.store.txn(Txn::new().put(key, record.to_string())).await.unwrap();
}

#[tokio::test]
async fn a_distribution_that_somebody_went_on_with_before_its_lost_answer_was_asked_for_is_begun_once() {
    let world = World::new(1).await;
    world.node("n1", 1).await;
    let of = resolved();
    let template = PullTemplate {
        template: of.template,
        template_name: of.name,
        repository: of.repository,
        tag: of.tag,
        manifest: of.manifest,
    };
    let keys = Keys::new("main");
    let mut begun = BTreeSet::new();
    // A transaction of a duty may take a fault instead: then nothing was shown, and it is tried again.
    let mut shown = false;
    while !shown && begun.len() < 10 {
        world.faults[0].next(On::Txn, Fault::LoseAnswer);
        world.faults[0].next(On::Txn, Fault::Stall(STALL));
        let since = clock::now();
        let went_on = async {
            let seen = || {
                world.ops(0).lists().peek(|cache| {
                    let mut all = cache.commands().distributions().map(|item| item.record.id.clone());
                    all.find(|id| !begun.contains(id.as_str()))
                })
            };
            until("it is stored", || async { seen().is_some() }).await;
            let key = keys.distribution(&seen().unwrap());
            let mut record = stored(&world, &key).await.unwrap();
            record["w"] = "another".into();
            put(&world, &key, &record).await;
        };
        let (id, ()) = tokio::join!(world.ops(0).begin_distribution(template.clone(), Targets::All), went_on);
        shown = clock::now() - since >= STALL;
        begun.insert(id.unwrap().to_string());
        world.faults[0].heal();
    }
    assert!(shown, "its own transaction met the faults");
    let all = world.ops(0).distributions().await.unwrap().value;
    let all: Vec<String> = all.iter().map(|one| one.request.request_id.clone()).collect();
    assert_eq!(all.len(), begun.len(), "{all:?}");
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), begun);
    world.end().await;
}

#[tokio::test]
async fn a_saving_whose_instance_a_newer_controller_wrote_is_left_to_it() {
    let world = World::new(1).await;
    let node = world.node("n1", 1).await;
    world.start(0, 1).await;
    let task = node.run(&world, 0).await;
    let (keys, id) = (Keys::new("main"), ImageId::random());
    let mut instance = stored(&world, &keys.instance(&task.instance)).await.unwrap();
    instance["v"] = 99.into();
    instance["saving"] = id.as_str().into();
    put(&world, &keys.instance(&task.instance), &instance).await;
    let at = instance["updated"].clone();
    let command = json!({
        "v": 1, "w": "w", "id": id.as_str(), "node": "n1", "order": { "do": "update" }, "state": "running", "heard": true,
        "session": node.session, "created": at, "updated": at,
    });
    let image = json!({
        "v": 1, "w": "w", "id": id.as_str(), "instance": task.instance.as_str(), "node": "n1", "registry": "", "tag": "v1",
        "suspend": true, "status": "pending", "created": at,
    });
    put(&world, &keys.command(&node.id, &id.as_str().parse().unwrap()), &command).await;
    put(&world, &keys.image(&id), &image).await;
    world.ops(0).lists().catch_up().await.unwrap();
    assert!(!world.ops(0).settle_image(&id, None).await.unwrap());
    assert_eq!(stored(&world, &keys.image(&id)).await.unwrap()["status"], "pending");
    // Of a record that can be written here, the end is taken over.
    instance["v"] = 1.into();
    instance["saving"] = Value::Null;
    instance["message"] = "by hand".into();
    put(&world, &keys.instance(&task.instance), &instance).await;
    until("it has ended", || async { stored(&world, &keys.image(&id)).await.unwrap()["status"] == "error" })
        .await;
    assert_eq!(world.show(0, &task.instance).await.state(), InstanceState::Started);
    world.end().await;
}

#[tokio::test]
async fn a_deleted_group_is_named_by_no_nodes_record() {
    let world = World::new(2).await;
    let node = world.node("n1", 1).await;
    let ask = |name: &str| GroupAsk { name: Some(name.into()), ..GroupAsk::default() };
    let (kept, gone) = (
        world.ops(0).make_group(ask("kept")).await.unwrap().id,
        world.ops(0).make_group(ask("gone")).await.unwrap().id,
    );
    let into = NodeGroups { group_ids: vec![kept.clone(), gone.clone()], node_ids: vec!["n1".into()] };
    world.ops(1).regroup(&into, true).await.unwrap();
    world.ops(0).delete_group(&GroupId::parse(&gone).unwrap()).await.unwrap();
    let key = Keys::new("main").node(&node.id);
    until("it is struck out", || async { stored(&world, &key).await.unwrap()["group_ids"] == json!([kept]) })
        .await;
    world.end().await;
}
