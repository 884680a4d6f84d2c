//! From an offer to its end, when everybody behaves.

use std::time::Duration;

use switchyard::wire::agent::{OnScriptFailure, StopVm, VmPhase};

use crate::{
    standin::{Held, SOON},
    support::eventually::{eventually, never},
    world::{World, script},
};

#[tokio::test]
async fn a_start_becomes_a_running_vm_and_a_terminate_leaves_nothing() {
    let world = World::start("lifecycle").await;
    let manifest = world.cloud.push(&[b"base layer", b"top layer"]);
    let text = "echo $SWITCHYARD_INSTANCE_ID; echo problems >&2; pwd > here";
    let id = world.cloud.run(manifest, script(text, 30, OnScriptFailure::Stop));
    world.cloud.is(&id, Held::Started).await;

    let (vm, result) = world.cloud.of(&id, |i| (i.last.clone().unwrap(), i.script.clone().unwrap()));
    assert_eq!((result.return_code, result.did_timeout), (0, false));
    assert_eq!((result.stdout.trim(), result.stderr.trim()), (id.as_str(), "problems"));
    let info = vm.info.unwrap();
    assert_eq!(info.name, "mgmtManaged-sonoma-xcode");
    assert_eq!((info.status.as_str(), info.cpu_cores, info.ram.as_str()), ("running", 3, "6G"));
    assert_eq!((info.host_ip.as_str(), info.node_id.as_str()), ("10.20.30.41", "node-1"));
    assert!(info.start_date.is_some());
    let here = world.config.data.join("vms").join(format!("{id}.1")).join("here");
    assert!(std::fs::read_to_string(here).unwrap().trim().ends_with(&format!("{id}.1")));
    world.one_lives(&id).await;
    assert_eq!(world.cloud.of(&id, |i| i.granted.clone()), [1]);

    // It tells the template it has now.
    world
        .cloud
        .until("the template to be told", |inner| {
            let last = inner.heartbeats.last().unwrap();
            last.facts.templates.iter().any(|t| t.uuid == "c0ffee11" && t.tag == "v3+ssh")
        })
        .await;

    world.cloud.terminate(&id);
    world.cloud.is(&id, Held::Terminated).await;
    assert!(world.vm_dirs().is_empty());
    world.cloud.until("it to be forgotten", |inner| inner.told().is_empty()).await;
    assert!(world.vms.of(id.as_str()).is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_data_directory_may_be_named_from_where_the_agent_is() {
    let mut world = World::prepare("relative").await;
    let here = std::env::current_dir().unwrap();
    let up: std::path::PathBuf = here.components().skip(1).map(|_| "..").collect();
    world.config.data = up.join(world.config.data.strip_prefix("/").unwrap());
    assert!(world.config.data.is_relative());
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, script("echo here", 30, OnScriptFailure::Stop));
    world.cloud.is(&id, Held::Started).await;
    assert_eq!(world.cloud.of(&id, |i| i.script.clone().unwrap().stdout), "here\n");
    world.cloud.terminate(&id);
    world.cloud.is(&id, Held::Terminated).await;
    world.end().await;
}

#[tokio::test]
async fn something_that_cannot_be_deleted_among_the_vms_keeps_no_agent_from_working() {
    let mut world = World::prepare("stray").await;
    let vms = world.config.data.join("vms");
    std::fs::create_dir_all(&vms).unwrap();
    // By its name it could be a VM, and it is no directory.
    std::fs::write(vms.join("notes.1"), "a copy").unwrap();
    world.agent().await;
    let id = world.cloud.run(world.cloud.push(&[b"layer"]), None);
    world.cloud.is(&id, Held::Started).await;
    world.end().await;
}

#[tokio::test]
async fn an_agent_joins_then_reports_then_polls() {
    let world = World::start("order").await;
    world.cloud.until("a poll", |inner| inner.calls.iter().any(|c| c.starts_with("poll"))).await;
    let calls = world.cloud.lock().calls.clone();
    assert_eq!(&calls[..2], ["join", "heartbeat"], "{calls:?}");
    assert_eq!(world.cloud.lock().joins[0].wish.name, "mini-07");
    let facts = world.cloud.lock().heartbeats[0].facts.clone();
    assert!(facts.cpu_count > 0 && facts.memory > 0 && facts.runs.len() == 2, "{facts:?}");
    world.end().await;
}

#[tokio::test]
async fn starts_run_side_by_side_up_to_the_capacity_and_not_beyond() {
    let mut world = World::prepare("capacity").await;
    world.process().start_delay = Duration::from_millis(300);
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let ids: Vec<_> = (0..3).map(|_| world.cloud.run(manifest, None)).collect();
    let count = |held: &[Held]| {
        let inner = world.cloud.lock();
        inner.instances.values().filter(|i| held.contains(&i.held)).count()
    };
    eventually(SOON, "two starts at once", || async {
        let starting = count(&[Held::Starting]);
        if starting == 2 { Ok(()) } else { Err(starting) }
    })
    .await;
    eventually(SOON, "two to be up", || async {
        let up = count(&[Held::Started]);
        if up == 2 { Ok(()) } else { Err(up) }
    })
    .await;
    never(Duration::from_secs(1), "a third was taken", || async {
        let queued = count(&[Held::Queued]);
        if queued == 1 { Ok(()) } else { Err(queued) }
    })
    .await;

    // More room by an operator's word, without waiting for a parked poll.
    world.cloud.lock().set_capacity(3);
    for id in &ids {
        world.cloud.is(id, Held::Started).await;
    }
    // One blob was pulled once for all three.
    assert_eq!(world.cloud.lock().blobs_sent, 1);
    world.end().await;
}

#[tokio::test]
async fn room_that_comes_free_is_used_at_once() {
    let mut world = World::prepare("room").await;
    world.config.capacity = 1;
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let first = world.cloud.run(manifest, None);
    world.cloud.is(&first, Held::Started).await;
    let second = world.cloud.run(manifest, None);
    world.cloud.until("a poll for stops only", |inner| inner.calls.iter().any(|c| c == "poll 0")).await;
    world.cloud.terminate(&first);
    world.cloud.is(&second, Held::Started).await;
    world.end().await;
}

#[tokio::test]
async fn a_vm_that_vanishes_is_told() {
    let mut world = World::prepare("vanish").await;
    world.process().vanish_after = Duration::from_millis(500);
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Failed).await;
    let vm = world.cloud.of(&id, |i| i.last.clone().unwrap());
    assert_eq!(vm.message, "VM vanished");
    assert_ne!(vm.info.unwrap().status, "running");
    eventually(SOON, "its files to go", || async {
        if world.vm_dirs().is_empty() { Ok(()) } else { Err(format!("{:?}", world.vm_dirs())) }
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_start_that_fails_is_told_and_not_tried_again() {
    let mut world = World::prepare("fail-starts").await;
    world.process().fail_starts = true;
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Failed).await;
    let message = world.cloud.of(&id, |i| i.last.clone().unwrap().message);
    assert!(message.contains("did not start"), "{message}");
    world.cloud.until("it to be forgotten", |inner| inner.told().is_empty()).await;
    assert_eq!(world.vms.ever(id.as_str()), 0);
    world.end().await;
}

#[tokio::test]
async fn a_vm_that_is_not_here_is_told_as_gone_and_a_newer_one_is_not_touched() {
    let world = World::start("stops").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Started).await;
    let stranger = switchyard::model::InstanceId::random();
    let absent = StopVm { instance: stranger, attempt: 4 };
    let older = StopVm { instance: id.clone(), attempt: 0 };
    world.cloud.lock().stops.extend([absent.clone(), older]);
    world.cloud.until("the absent one to be told", |inner| inner.gone.contains(&absent)).await;
    never(Duration::from_secs(1), "a newer attempt was stopped", || async {
        if world.cloud.of(&id, |i| i.held) == Held::Started { Ok(()) } else { Err("it was") }
    })
    .await;
    world.one_lives(&id).await;
    world.end().await;
}

#[tokio::test]
async fn a_newer_attempt_replaces_the_older_one_and_they_never_live_together() {
    let world = World::start("attempts").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Started).await;
    world.cloud.requeue(&id);
    eventually(SOON, "the second attempt to be up", || async {
        world.cloud.of(&id, |i| {
            if i.held == Held::Started && i.attempt == 2 { Ok(()) } else { Err(format!("{i:?}")) }
        })
    })
    .await;
    eventually(SOON, "only its directory to be left", || async {
        let dirs = world.vm_dirs();
        if dirs == [format!("{id}.2")] { Ok(()) } else { Err(format!("{dirs:?}")) }
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn an_agent_that_is_stopped_takes_its_vms_down_and_says_so() {
    let world = World::start("farewell").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Started).await;
    let before = switchyard::clock::now();
    world.stop_agent().await;
    assert!(switchyard::clock::now() - before < Duration::from_secs(5));
    world.cloud.is(&id, Held::Failed).await;
    let vm = world.cloud.of(&id, |i| i.last.clone().unwrap());
    assert_eq!((vm.phase, vm.message.as_str()), (VmPhase::Failed, "its node's agent was stopped"));
    world.end().await;
}

#[tokio::test]
async fn a_vm_that_comes_up_while_its_agent_is_restarted_is_started_by_the_next_run() {
    let mut world = World::prepare("restart-boot").await;
    // Never up, but it ends with its agent.
    let never = world.place.write("never-up", "#!/bin/sh\ncat > /dev/null\n");
    std::fs::set_permissions(&never, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    world.process().program = Some(never);
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    eventually(SOON, "its directory", || async {
        if world.vm_dirs().is_empty() { Err("none") } else { Ok(()) }
    })
    .await;
    world.stop_agent().await;
    assert!(world.vm_dirs().is_empty());
    assert_eq!(world.cloud.of(&id, |i| i.held), Held::Starting);
    world.process().program = Some(std::path::PathBuf::from(crate::support::process::BINARY));
    world.agent().await;
    world.cloud.is(&id, Held::Started).await;
    assert_eq!(world.cloud.of(&id, |i| i.granted.clone()), [1]);
    world.one_lives(&id).await;
    world.end().await;
}

#[tokio::test]
async fn a_node_whose_record_is_deleted_joins_again_with_its_vms_untouched() {
    let world = World::start("rejoin").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Started).await;
    world.cloud.lock().known = false;
    world.cloud.until("a second join", |inner| inner.joins.len() == 2).await;
    let later = world.cloud.run(manifest, None);
    world.cloud.is(&later, Held::Started).await;
    assert_eq!((world.vms.of(id.as_str()).len(), world.vms.ever(id.as_str())), (1, 1));
    world.end().await;
}

#[tokio::test]
async fn a_node_that_joins_again_goes_by_its_new_record_and_not_by_the_one_that_was_deleted() {
    let world = World::start("rejoin-settings").await;
    let manifest = world.cloud.push(&[b"layer"]);
    world.cloud.lock().set_capacity(0);
    world
        .cloud
        .until("settings that leave no room", |inner| inner.calls.iter().any(|call| call == "poll 0"))
        .await;
    world.cloud.lock().forget_node();
    world.cloud.until("a second join", |inner| inner.joins.len() == 2).await;
    let id = world.cloud.run(manifest, None);
    world.cloud.is(&id, Held::Started).await;
    world.end().await;
}

#[tokio::test]
async fn join_tests_its_connections_and_leave_keeps_the_id() {
    let mut world = World::prepare("join").await;
    world.config.node_id = None;
    let joining = switchyard::agent::join(&world.config).await.unwrap();
    let lines: Vec<String> = joining.checks.iter().map(ToString::to_string).collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.ends_with("Ok")), "{lines:?}");

    // Joined already: the agent begins with a report.
    world.agent().await;
    world.cloud.until("a report", |inner| inner.calls.iter().any(|c| c == "heartbeat")).await;
    assert_eq!(world.cloud.lock().joins.len(), 1);
    let busy = switchyard::agent::leave(&world.config).await.unwrap_err().to_string();
    assert!(busy.contains(&format!("pid {}", std::process::id())), "{busy}");
    world.stop_agent().await;

    let leaving = switchyard::agent::leave(&world.config).await.unwrap();
    assert_eq!(leaving.node, joining.node);
    assert_eq!(switchyard::agent::join(&world.config).await.unwrap().node, joining.node);

    world.cloud.faults(|faults| faults.down = true);
    let refused = switchyard::agent::join(&world.config).await.unwrap_err();
    assert!(matches!(refused, switchyard::agent::AgentError::Unconnected { checks } if checks.len() == 1));
    world.end().await;
}
