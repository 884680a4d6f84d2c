//! Room by processors and memory: as many as fit, and no large start is passed over for ever.

use serde_json::json;

use super::*;
use crate::{store::Txn, wire::node::CapacityMode};

/// A node of 16 processors and 14 GB for VMs, on which what starts ask for counts.
async fn node(world: &World) -> Node {
    let node = Node::new("n1", 2);
    let wish = NodeWish {
        name: "n1".into(),
        host: "127.0.0.1".into(),
        capacity: node.capacity,
        capacity_mode: CapacityMode::Resource,
        vcpu_override: 0,
        ram_override: 0,
        groups: Vec::new(),
        drain_mode: false,
        force_overrides: true,
    };
    let join = Join { node_id: node.id.clone(), wish, facts: node.facts() };
    world.ops(0).join(join).await.unwrap();
    node.beat(world.ops(0), &[]).await.unwrap();
    node
}

async fn start(world: &World, vcpu: i64, vram: i64) -> InstanceId {
    let ask = StartVm { vcpu: Some(vcpu), vram: Some(vram), ..ask(1) };
    world.ops(0).start_resolved(ask, &Caller::default(), resolved()).await.unwrap().remove(0)
}

async fn offered(node: &Node, world: &World) -> Option<StartTask> {
    let poll = Poll { wait: 1, free: 100, ..node.poll(1) };
    world.ops(0).poll(poll, world.stop()).await.unwrap().start
}

async fn claimed(node: &Node, world: &World) -> StartTask {
    let task = offered(node, world).await.expect("an offer");
    assert!(world.ops(0).claim(node.claim(&task)).await.unwrap().granted);
    task
}

#[tokio::test]
async fn as_many_start_as_fit_whatever_the_number_of_places() {
    let world = World::new(1).await;
    let node = node(&world).await;
    for _ in 0..5 {
        start(&world, 4, 2048).await;
    }
    for n in 0..4 {
        claimed(&node, &world).await;
        assert!(n < 4, "four times four processors");
    }
    assert_eq!(offered(&node, &world).await, None, "sixteen are taken, two places are not what counts");
    let waits = world.ops(0).instances().await.unwrap().value;
    assert!(
        waits.iter().any(|one| one.why.as_ref().is_some_and(|why| why.contains("has room"))),
        "{waits:?}"
    );
    world.end().await;
}

#[tokio::test]
async fn smaller_starts_go_before_a_large_one_for_a_while_and_not_for_ever() {
    let world = World::with(1, soon_silent()).await;
    let node = node(&world).await;
    let first = start(&world, 4, 1024).await;
    let task = claimed(&node, &world).await;
    assert_eq!(task.instance, first);
    let large = start(&world, 14, 1024).await;
    let small = start(&world, 2, 1024).await;
    assert_eq!(
        claimed(&node, &world).await.instance,
        small,
        "there is room for it, and none for the large one"
    );

    // A minute later.
    let key = format!("/switchyard/main/instances/{large}");
    let stored = world.store.get(&key, crate::store::Consistency::Linearizable).await.unwrap().kv.unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&stored.value).unwrap();
    record["created"] = json!(clock::wall().minus(Duration::from_secs(61)));
    let head = Txn::new().put(&key, record.to_string()).put("/switchyard/main/head", r#"{"v":1,"w":"x"}"#);
    world.store.txn(head).await.unwrap();
    let later = start(&world, 2, 1024).await;
    assert_eq!(offered(&node, &world).await, None, "the node is kept free for the large one");

    for id in [&first, &small] {
        world.ops(0).terminate(id).await.unwrap();
    }
    // Of these it has nothing, and says so.
    node.beat(world.ops(0), &[]).await.unwrap();
    until("the large one is offered", || async {
        match offered(&node, &world).await {
            Some(task) => {
                assert_eq!(task.instance, large, "and not the one that came later");
                true
            }
            None => {
                node.beat(world.ops(0), &[]).await.unwrap();
                false
            }
        }
    })
    .await;
    assert!(world.show(0, &later).await.is_queued());
    world.end().await;
}
