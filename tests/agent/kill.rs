//! An agent that is killed at every step of a start, and started again: nothing doubled, nothing lost.

use std::time::Duration;

use switchyard::{clock, model::InstanceId, wire::agent::OnScriptFailure};

use crate::{
    standin::{Held, SOON},
    support::{
        eventually::eventually,
        process::{BINARY, Process},
    },
    world::{World, script},
};

/// Controllers take an offer back that nobody has claimed for so long; the stand-in leaves that to the test.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(3);

/// A child process that runs the agent of a world.
pub(crate) fn agent(world: &World, more: &str) -> Process {
    agent_by(world, BINARY, more)
}

/// The same, by a program that becomes the product.
pub(crate) fn agent_by(world: &World, program: &str, more: &str) -> Process {
    let text = format!(
        "[agent]\ncontrollers = [\"{}\"]\ndriver = \"process\"\ndata = \"{}\"\nnode_id = \"node-1\"\ncapacity = 2\n\
         heartbeat = \"300ms\"\nreserve = \"1MB\"\nhost = \"10.20.30.41\"\n{more}\n",
        world.config.controllers[0],
        world.config.data.display(),
    );
    let config = world.place.write("agent.toml", &text);
    Process::start_by(&world.place, "agent", program, &["agent", "run", "-c", &config.display().to_string()])
}

/// Kills the agent as soon as `reached`, starts it again, and waits for the instance to be up.
async fn killed_when(
    name: &str,
    more: &str,
    prepare: impl FnOnce(&World),
    reached: impl AsyncFn(&World, &InstanceId),
    heal: impl FnOnce(&World, &InstanceId),
) {
    let world = World::prepare(name).await;
    prepare(&world);
    let layer = vec![3u8; 500_000];
    let manifest = world.cloud.push(&[&layer]);
    let mut agent = agent(&world, more);
    let id = world.cloud.run(manifest, script("echo up", 30, OnScriptFailure::Stop));
    reached(&world, &id).await;
    agent.kill();
    world.none_lives().await;
    heal(&world, &id);
    agent.spawn();
    world.cloud.is(&id, Held::Started).await;
    world.one_lives(&id).await;
    let granted = world.cloud.of(&id, |i| i.granted.clone());
    assert_eq!(granted, [1], "it went on with the same attempt");
    world.cloud.terminate(&id);
    world.cloud.is(&id, Held::Terminated).await;
    agent.kill();
    world.end().await;
}

#[tokio::test]
async fn killed_while_the_claim_is_answered_it_claims_again() {
    let lose = |world: &World| world.cloud.faults(|f| f.lose = [("claim", u32::MAX)].into());
    killed_when(
        "kill-claim",
        "",
        lose,
        async |world, id| world.cloud.is(id, Held::Claimed).await,
        |world, _| world.cloud.faults(|f| f.lose.clear()),
    )
    .await;
}

#[tokio::test]
async fn killed_while_it_pulls_it_goes_on_with_the_pull() {
    killed_when(
        "kill-pull",
        "",
        |world| world.cloud.faults(|f| f.hang = true),
        async |world, _| {
            world.cloud.until("half of it", |inner| inner.is_half_pulled()).await;
        },
        |world, _| {
            let mut inner = world.cloud.lock();
            inner.faults.hang = false;
        },
    )
    .await;
}

#[tokio::test]
async fn killed_while_the_start_is_granted_it_asks_again() {
    let lose = |world: &World| world.cloud.faults(|f| f.lose = [("starting", u32::MAX)].into());
    killed_when(
        "kill-grant",
        "",
        lose,
        async |world, id| world.cloud.is(id, Held::Starting).await,
        |world, _| world.cloud.faults(|f| f.lose.clear()),
    )
    .await;
}

const SLOW: &str = "[agent.process]\nstart_delay = \"700ms\"";

/// What is on disk when an agent is killed between making a VM's directory and having its process up.
fn half_started(world: &World, id: &InstanceId) {
    std::fs::create_dir_all(world.config.data.join("vms").join(format!("{id}.1"))).unwrap();
}

#[tokio::test]
async fn killed_before_the_vm_was_begun_it_goes_on_with_the_same_attempt() {
    let starting = async |world: &World, id: &InstanceId| world.cloud.is(id, Held::Starting).await;
    killed_when("kill-start", SLOW, |_| {}, starting, |_, _| {}).await;
}

#[tokio::test]
async fn killed_while_the_vm_comes_up_it_starts_it_again_under_the_same_attempt() {
    let starting = async |world: &World, id: &InstanceId| world.cloud.is(id, Held::Starting).await;
    killed_when("kill-boot", SLOW, |_| {}, starting, half_started).await;
}

#[tokio::test]
async fn a_start_that_takes_its_agent_down_each_time_is_given_up() {
    let world = World::prepare("kill-often").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let mut agent = agent(&world, SLOW);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Starting).await;
    for kill in 1..=3 {
        let asked =
            |inner: &crate::standin::Inner| inner.calls.iter().filter(|c| c.starts_with("starting")).count();
        world.cloud.until("it to be started", |inner| asked(inner) >= kill).await;
        agent.kill();
        half_started(&world, &id);
        agent.spawn();
    }
    world.cloud.is(&id, Held::Failed).await;
    let message = world.cloud.of(&id, |i| i.last.clone().unwrap().message);
    assert!(message.contains("went away 3 times"), "{message}");
    assert!(world.vm_dirs().is_empty());
    agent.kill();
    world.end().await;
}

#[tokio::test]
async fn killed_after_the_script_had_begun_it_fails_and_the_script_is_not_run_a_second_time() {
    let world = World::prepare("kill-script").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let mut agent = agent(&world, "");
    let ran = world.place.path("ran");
    let text = format!("echo ran >> '{}'; sleep 30", ran.display());
    let id = world.cloud.run(manifest, script(&text, 60, OnScriptFailure::Stop));
    eventually(SOON, "its script", || async { if ran.exists() { Ok(()) } else { Err("none") } }).await;
    agent.kill();
    world.none_lives().await;
    agent.spawn();
    world.cloud.is(&id, Held::Failed).await;
    let message = world.cloud.of(&id, |i| i.last.clone().unwrap().message);
    assert!(message.contains("after the startup script had begun"), "{message}");
    assert!(world.vms.ever(id.as_str()) <= 1);
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "ran\n");
    assert!(world.vm_dirs().is_empty());
    agent.kill();
    world.end().await;
}

#[tokio::test]
async fn a_vm_dies_with_its_killed_agent_and_is_told_as_vanished_by_the_next() {
    let world = World::prepare("kill-running").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let mut agent = agent(&world, "");
    let id = world.cloud.run(manifest, script("sleep 1000 & echo $! > pid", 30, OnScriptFailure::Stop));
    world.cloud.is(&id, Held::Started).await;
    let file = world.config.data.join("vms").join(format!("{id}.1")).join("pid");
    let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    agent.kill();
    world.none_lives().await;
    eventually(SOON, "what its script left to end with it", || async {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z')) { Ok(()) } else { Err(stat) }
    })
    .await;

    agent.spawn();
    world.cloud.is(&id, Held::Failed).await;
    let vm = world.cloud.of(&id, |i| i.last.clone().unwrap());
    assert!(vm.message.contains("VM vanished"), "{}", vm.message);
    assert_ne!(vm.info.unwrap().status, "running");
    assert_eq!(world.vms.ever(id.as_str()), 1);
    assert!(world.vm_dirs().is_empty());
    // And the node takes work as before.
    let next = world.cloud.run(manifest, None);
    world.cloud.is(&next, Held::Started).await;
    agent.kill();
    world.end().await;
}

#[tokio::test]
async fn killed_again_and_again_at_any_moment_never_two_live_and_all_come_up_or_fail_honestly() {
    let world = World::prepare("kill-any").await;
    let layer = vec![9u8; 200_000];
    let manifest = world.cloud.push(&[&layer]);
    let mut agent = agent(&world, "[agent.process]\nstart_delay = \"50ms\"");
    let ran = world.place.path("ran");
    let text = format!("echo $SWITCHYARD_INSTANCE_ID >> '{}'", ran.display());
    let ids =
        [world.cloud.run(manifest, None), world.cloud.run(manifest, script(&text, 9, OnScriptFailure::Keep))];
    for pause in [15, 40, 90, 150, 220, 300, 60, 120] {
        // Not waiting for something: the moment of the kill is what varies.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        agent.kill();
        for id in &ids {
            // An offer that nobody claimed goes back, as after the claim timeout.
            if world.cloud.of(id, |i| i.held) == Held::Offered {
                world.cloud.requeue(id);
            }
        }
        agent.spawn();
    }
    for id in &ids {
        let offered = std::cell::Cell::new(None);
        eventually(SOON, "an end", || async {
            let held = world.cloud.of(id, |i| i.held);
            // The poll of an agent that is dead may still have been parked when it was put back.
            let since = offered.take().filter(|_| held == Held::Offered).unwrap_or_else(clock::now);
            if since.elapsed() > CLAIM_TIMEOUT {
                world.cloud.requeue(id);
            } else {
                offered.set(Some(since));
            }
            match held {
                Held::Started | Held::Failed => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let (held, granted) = world.cloud.of(id, |i| (i.held, i.granted.clone()));
        assert_eq!(granted.len(), 1);
        // Once more only after an agent that went away in the middle, and not for ever.
        assert!(world.vms.ever(id.as_str()) <= 3, "{} VMs one after the other", world.vms.ever(id.as_str()));
        let scripts = std::fs::read_to_string(&ran).unwrap_or_default();
        assert!(scripts.lines().filter(|line| *line == id.as_str()).count() <= 1, "{scripts}");
        if held == Held::Started {
            world.one_lives(id).await;
        }
    }
    agent.kill();
    world.none_lives().await;
    world.end().await;
}
