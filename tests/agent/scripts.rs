//! Startup scripts: every way they can end, and what becomes of the VM.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use switchyard::wire::agent::{OnScriptFailure, Script};

use crate::{
    standin::{Held, SOON},
    support::eventually::{eventually, never},
    world::{World, script},
};

#[tokio::test]
async fn a_failing_script_stops_keeps_or_deletes_its_vm_as_asked() {
    let mut world = World::prepare("handlers").await;
    world.config.capacity = 3;
    world.agent().await;
    let manifest = world.cloud.push(&[b"layer"]);
    let text = "echo half; echo why >&2; exit 3";
    let [stop, keep, delete] = [OnScriptFailure::Stop, OnScriptFailure::Keep, OnScriptFailure::Delete]
        .map(|handler| world.cloud.run(manifest, script(text, 30, handler)));
    for id in [&stop, &keep, &delete] {
        world.cloud.is(id, Held::Failed).await;
        let (vm, result) = world.cloud.of(id, |i| (i.last.clone().unwrap(), i.script.clone().unwrap()));
        assert!(vm.message.contains("exited with code 3"), "{}", vm.message);
        assert_eq!((result.return_code, result.did_timeout), (3, false));
        assert_eq!((result.stdout.as_str(), result.stderr.as_str()), ("half\n", "why\n"));
    }
    let status = |id| world.cloud.of(id, |i| i.last.clone().unwrap().info.unwrap().status);
    assert_eq!([status(&stop), status(&keep), status(&delete)], ["stopped", "running", "failed"]);
    let mut dirs = world.vm_dirs();
    dirs.sort();
    let mut expected = [format!("{stop}.1"), format!("{keep}.1")];
    expected.sort();
    assert_eq!(dirs, expected);

    // The kept one is kept, noted or not, until it is terminated.
    never(Duration::from_secs(1), "a kept VM ended", || async {
        if world.vms.of(keep.as_str()).len() == 1 { Ok(()) } else { Err("gone") }
    })
    .await;
    for id in [&stop, &keep, &delete] {
        world.cloud.terminate(id);
        world.cloud.is(id, Held::Terminated).await;
    }
    assert!(world.vm_dirs().is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_script_that_takes_too_long_is_ended_and_told_as_such() {
    let world = World::start("timeout").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, script("echo begun; sleep 60", 1, OnScriptFailure::Stop));
    world.cloud.is(&id, Held::Failed).await;
    let (vm, result) = world.cloud.of(&id, |i| (i.last.clone().unwrap(), i.script.clone().unwrap()));
    assert_eq!((result.return_code, result.did_timeout), (-1, true));
    assert_eq!(result.stdout, "begun\n");
    assert!(vm.message.contains("did not end within 1 s"), "{}", vm.message);
    world.end().await;
}

#[tokio::test]
async fn of_endless_output_the_end_is_told_and_memory_stays_bounded() {
    let world = World::start("output").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let text = "yes 0123456789012345678901234567890123456789 | head -c 20000000; echo; echo the end";
    let id = world.cloud.run(manifest, script(text, 60, OnScriptFailure::Stop));
    world.cloud.is(&id, Held::Started).await;
    eventually(SOON, "all of it to be told", || async {
        let result = world.cloud.of(&id, |i| i.script.clone());
        let length = result.as_ref().map_or(0, |r| r.stdout.len());
        if length == 1024 * 1024 && result.unwrap().stdout.ends_with("the end\n") {
            Ok(())
        } else {
            Err(length)
        }
    })
    .await;
    // It is told once, not with every heartbeat.
    world
        .cloud
        .until("heartbeats without it", |inner| inner.told().iter().all(|vm| vm.script.is_none()))
        .await;
    world.end().await;
}

#[tokio::test]
async fn what_a_script_leaves_running_neither_holds_it_up_nor_outlives_the_vm() {
    let world = World::start("daemon").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let text = "sleep 1000 & echo $! > pid; echo done";
    let id = world.cloud.run(manifest, script(text, 30, OnScriptFailure::Stop));
    world.cloud.is(&id, Held::Started).await;
    let file = world.config.data.join("vms").join(format!("{id}.1")).join("pid");
    let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    assert!(alive());
    world.cloud.terminate(&id);
    world.cloud.is(&id, Held::Terminated).await;
    eventually(SOON, "it to end with its VM", || async { if alive() { Err("alive") } else { Ok(()) } }).await;
    world.end().await;
}

#[tokio::test]
async fn an_unmonitored_script_runs_on_and_holds_nothing_up() {
    let world = World::start("unmonitored").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let body = STANDARD.encode("echo ran > ran; sleep 1000");
    let unmonitored = Script {
        body,
        at_boot: true,
        monitored: false,
        timeout_seconds: 0,
        on_failure: OnScriptFailure::Stop,
    };
    let id = world.cloud.run(manifest, Some(unmonitored));
    world.cloud.is(&id, Held::Started).await;
    let file = world.config.data.join("vms").join(format!("{id}.1")).join("ran");
    eventually(SOON, "it to run", || async { std::fs::metadata(&file).map_err(|e| e.to_string()) }).await;
    assert_eq!(world.cloud.of(&id, |i| i.script.clone()), None);
    world.end().await;
}

#[tokio::test]
async fn a_script_that_is_no_base64_fails_its_instance() {
    let world = World::start("base64").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let mut broken = script("", 30, OnScriptFailure::Delete).unwrap();
    broken.body = "%%%".into();
    let id = world.cloud.run(manifest, Some(broken));
    world.cloud.is(&id, Held::Failed).await;
    let message = world.cloud.of(&id, |i| i.last.clone().unwrap().message);
    assert!(message.contains("base64"), "{message}");
    assert!(world.vm_dirs().is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_terminate_ends_a_running_script() {
    let world = World::start("script-terminate").await;
    let manifest = world.cloud.push(&[b"layer"]);
    let id = world.cloud.run(manifest, script("touch here; sleep 1000", 900, OnScriptFailure::Keep));
    let file = world.config.data.join("vms").join(format!("{id}.1")).join("here");
    eventually(SOON, "it to run", || async { std::fs::metadata(&file).map_err(|e| e.to_string()) }).await;
    world.cloud.terminate(&id);
    world.cloud.is(&id, Held::Terminated).await;
    assert!(world.vm_dirs().is_empty());
    world.end().await;
}
