//! Controllers and registries that refuse, lose answers, go away, and send the wrong bytes.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use switchyard::{config::agent::Reserve, wire::agent::OnScriptFailure};

use crate::{
    kill::agent_by,
    standin::{Held, SOON},
    support::{
        eventually::{eventually, never},
        process::BINARY,
    },
    world::{World, script},
};

#[tokio::test]
async fn a_refused_claim_and_a_refused_start_leave_nothing() {
    for step in ["claim", "starting"] {
        let world = World::start("refused").await;
        world.cloud.faults(|faults| {
            faults.refuse.insert(step);
        });
        let manifest = world.cloud.push(&[b"layer"]);
        let id = world.cloud.run(manifest, None);
        world.cloud.until("the step", |inner| inner.calls.iter().any(|c| c.starts_with(step))).await;
        world.cloud.until("it to be forgotten", |inner| inner.told().is_empty()).await;
        never(Duration::from_millis(700), "it ran all the same", || async {
            if world.vms.ever(id.as_str()) == 0 { Ok(()) } else { Err("it did") }
        })
        .await;
        assert!(world.vm_dirs().is_empty());
        // The place is free again.
        world.cloud.faults(|faults| faults.refuse.clear());
        let ids = [world.cloud.run(manifest, None), world.cloud.run(manifest, None)];
        for id in &ids {
            world.cloud.is(id, Held::Started).await;
        }
        world.end().await;
    }
}

#[tokio::test]
async fn lost_answers_double_nothing_and_lose_nothing() {
    let world = World::start("lost").await;
    world.cloud.faults(|faults| {
        faults.lose = [("claim", 2), ("starting", 2), ("report", 3), ("heartbeat", 1)].into();
    });
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Started).await;
    assert_eq!(world.cloud.of(&id, |i| (i.attempt, i.granted.clone())), (1, vec![1]));
    world.cloud.terminate(&id);
    world.cloud.is(&id, Held::Terminated).await;
    assert_eq!(world.vms.ever(id.as_str()), 1);
    world.end().await;
}

#[tokio::test]
async fn a_lost_offer_is_taken_when_it_comes_again() {
    let world = World::start("lost-offer").await;
    world.cloud.faults(|faults| faults.lose = [("tasks", 1)].into());
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Offered).await;
    world.cloud.until("the answer to get lost", |inner| inner.faults.lose["tasks"] == 0).await;
    world.cloud.requeue(&id);
    world.cloud.is(&id, Held::Started).await;
    assert_eq!(world.cloud.of(&id, |i| i.granted.clone()), [2]);
    world.end().await;
}

#[tokio::test]
async fn a_terminate_wins_over_a_pull_and_the_download_goes_on_next_time() {
    let world = World::start("terminate-pull").await;
    let layer = vec![7u8; 400_000];
    let manifest = world.cloud.push(&[&layer]);
    world.cloud.faults(|faults| faults.hang = true);
    let id = world.cloud.run(manifest, None);
    world.cloud.until("half of it", |inner| inner.is_half_pulled()).await;
    world.cloud.terminate(&id);
    world.cloud.is(&id, Held::Terminated).await;
    assert_eq!(world.vms.ever(id.as_str()), 0);

    world.cloud.faults(|faults| faults.hang = false);
    let next = world.cloud.run(manifest, None);
    world.cloud.is(&next, Held::Started).await;
    world.end().await;
}

#[tokio::test]
async fn a_terminate_wins_over_a_start() {
    let mut world = World::prepare("terminate-start").await;
    world.process().start_delay = Duration::from_secs(30);
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Starting).await;
    world.cloud.terminate(&id);
    world.cloud.is(&id, Held::Terminated).await;
    assert_eq!(world.vms.ever(id.as_str()), 0);
    world.end().await;
}

#[tokio::test]
async fn wrong_bytes_are_pulled_again_but_not_for_ever() {
    let world = World::start("corrupt").await;
    world.cloud.faults(|faults| faults.corrupt = 2);
    let manifest = world.cloud.push(&[b"a layer of some bytes"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Started).await;
    assert_eq!(world.cloud.lock().blobs_sent, 3);

    world.cloud.faults(|faults| faults.corrupt = u32::MAX);
    let other = world.cloud.push(&[b"another layer"]);
    let hopeless = world.cloud.run(other, None);
    world.cloud.is(&hopeless, Held::Failed).await;
    let message = world.cloud.of(&hopeless, |i| i.last.clone().unwrap().message);
    assert!(message.contains("arrived as"), "{message}");
    assert_eq!(world.vms.ever(hopeless.as_str()), 0);
    world.end().await;
}

#[tokio::test]
async fn a_broken_download_goes_on_and_a_registry_that_is_away_is_waited_for() {
    let world = World::start("broken").await;
    let layer: Vec<u8> = (0..300_000u32).flat_map(u32::to_be_bytes).collect();
    let manifest = world.cloud.push(&[&layer]);
    world.cloud.faults(|faults| {
        faults.break_off = 3;
        faults.registry_down = true;
    });
    let id = world.cloud.run(manifest, None);
    world
        .cloud
        .until("the wait to be told with its reason", |inner| {
            inner.told().iter().any(|vm| vm.message.contains("waits for the registry"))
        })
        .await;
    world.cloud.faults(|faults| faults.registry_down = false);
    world.cloud.is(&id, Held::Started).await;
    assert_eq!(world.cloud.of(&id, |i| i.last.clone().unwrap().message), "");
    world.end().await;
}

#[tokio::test]
async fn a_template_that_is_nowhere_fails_its_instance() {
    let world = World::start("missing").await;
    let id = world.cloud.run(switchyard::model::Digest::of(b"never pushed"), None);
    world.cloud.is(&id, Held::Failed).await;
    let message = world.cloud.of(&id, |i| i.last.clone().unwrap().message);
    assert!(message.contains("does not have"), "{message}");
    world.end().await;
}

#[tokio::test]
async fn a_start_that_does_not_fit_is_given_back_with_the_reason_and_not_taken_at_once() {
    let mut world = World::prepare("no-space").await;
    world.config.reserve = Reserve::Bytes(u64::MAX / 2);
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.until("it to be given back", |inner| !inner.instances[&id].given_back.is_empty()).await;
    let why = world.cloud.of(&id, |i| i.given_back[0].clone());
    assert!(why.starts_with("not enough disk space"), "{why}");
    never(Duration::from_secs(2), "it was taken again at once", || async {
        let attempt = world.cloud.of(&id, |i| i.attempt);
        if attempt == 1 { Ok(()) } else { Err(attempt) }
    })
    .await;
    world.end().await;
}

/// It takes the five seconds that a node waits for its disk.
#[tokio::test]
async fn a_start_that_cannot_be_written_down_is_given_back_for_another_node() {
    let world = World::prepare("no-journal").await;
    // A file may have 4 KiB: the claim with its script is written down, and the step after it is not.
    let limited = format!("#!/bin/sh\ntrap '' XFSZ\nulimit -f 8\nexec {BINARY} \"$@\"\n");
    let program = world.place.write("limited.sh", &limited);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut agent = agent_by(&world, &program.display().to_string(), "");
    let long = format!("true # {}", "x".repeat(1600));
    let id = world.cloud.run(world.cloud.push(&[b"layer"]), script(&long, 30, OnScriptFailure::Stop));
    world.cloud.until("it to be given back", |inner| !inner.instances[&id].given_back.is_empty()).await;
    let (why, granted) = world.cloud.of(&id, |i| (i.given_back[0].clone(), i.granted.clone()));
    assert!(why.starts_with("the node's journal could not be written"), "{why}");
    assert!(granted.is_empty(), "it was not begun here: {granted:?}");
    agent.kill();
    world.end().await;
}

#[tokio::test]
async fn controllers_that_are_away_are_waited_for_and_hear_a_report_first() {
    let world = World::start("cut").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Started).await;
    world.cloud.faults(|faults| faults.down = true);
    world
        .cloud
        .until("some failures", |inner| {
            inner.calls.iter().rev().take_while(|c| *c == "heartbeat").count() >= 3
        })
        .await;
    let later = {
        let mut inner = world.cloud.lock();
        inner.calls.clear();
        inner.faults.down = false;
        drop(inner);
        world.cloud.run(manifest, None)
    };
    world.cloud.is(&later, Held::Started).await;
    assert_eq!(world.cloud.lock().calls[0], "heartbeat");
    assert_eq!((world.vms.of(id.as_str()).len(), world.vms.ever(id.as_str())), (1, 1));
    world.end().await;
}

#[tokio::test]
async fn the_next_address_is_asked_when_the_first_is_dead() {
    let mut world = World::prepare("failover").await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.config.controllers.insert(0, format!("http://{dead}").parse().unwrap());
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Started).await;
    world.end().await;
}

#[tokio::test]
async fn an_instance_that_another_node_got_meanwhile_is_stopped_here() {
    let world = World::start("lost-instance").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Started).await;
    {
        let mut inner = world.cloud.lock();
        let instance = inner.instances.get_mut(&id).unwrap();
        instance.attempt = 2;
        instance.held = Held::Claimed;
    }
    eventually(SOON, "it to be stopped", || async {
        if world.vms.of(id.as_str()).is_empty() && world.vm_dirs().is_empty() {
            Ok(())
        } else {
            Err("it runs")
        }
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_controller_that_swallows_everything_does_not_keep_the_agent_from_the_other() {
    let mut world = World::start("swallow").await;
    world.cloud.until("a heartbeat", |inner| !inner.heartbeats.is_empty()).await;
    world.stop_agent().await;
    // The kernel takes the connection, and nobody ever answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let first = format!("http://{}", silent.local_addr().unwrap());
    world.config.controllers = vec![first.parse().unwrap(), world.cloud.url().parse().unwrap()];
    world.config.request_timeout = Duration::from_secs(60);
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Started).await;
    world.end().await;
}

#[tokio::test]
async fn an_offer_beyond_the_nodes_room_is_not_taken() {
    let mut world = World::prepare("pushy").await;
    world.config.capacity = 1;
    world.cloud.faults(|faults| faults.pushy = true);
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let first = world.cloud.run(manifest, None);
    world.cloud.is(&first, Held::Started).await;
    let second = world.cloud.run(manifest, None);
    world.cloud.is(&second, Held::Offered).await;
    never(Duration::from_secs(1), "the second was taken", || async {
        if world.cloud.of(&second, |i| i.held) == Held::Offered { Ok(()) } else { Err("it was") }
    })
    .await;
    world.cloud.faults(|faults| faults.pushy = false);
    world.cloud.terminate(&first);
    world.cloud.is(&first, Held::Terminated).await;
    world.cloud.requeue(&second);
    world.cloud.is(&second, Held::Started).await;
    world.end().await;
}
