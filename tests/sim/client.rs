//! A CI plugin: starts instances under a key until it has an answer, looks whether they are there, terminates them.

use std::{sync::Arc, time::Duration};

use rand::{Rng, rngs::StdRng};
use switchyard::{
    controller::ops::{Caller, Ops, OpsError, templates::Resolved},
    model::{Arch, Digest, InstanceId},
    wire::vm::StartVm,
};

use crate::world::{CAPACITY, NODES, World};

/// Longer than any operation may take.
const ANSWER: Duration = Duration::from_millis(4500);

/// More instances than one batch holds.
const LARGE: i64 = 50;

pub(crate) async fn run(world: Arc<World>, n: usize) {
    let mut rng = world.rng(100 + n as u64);
    let mut mine: Vec<InstanceId> = Vec::new();
    let mut round = 0;
    while !world.stop().is_requested() {
        let pause = if world.is_healed() { 10..150 } else { 10..1500 };
        tokio::time::sleep(Duration::from_millis(rng.random_range(pause))).await;
        let room = (CAPACITY as usize * NODES) / 4;
        if !world.is_healed() && mine.len() < room + 2 && rng.random_bool(0.6) {
            round += 1;
            let count = if world.large && rng.random_ratio(1, 8) { LARGE } else { rng.random_range(1..4) };
            let key = format!("client-{n}-{round}");
            if let Some(ids) = start(&world, &mut rng, &key, count).await {
                mine.extend(ids);
            }
        } else if !mine.is_empty() && (mine.len() > room || !world.is_healed()) {
            let id = mine.swap_remove(rng.random_range(0..mine.len()));
            world.wanted.lock().unwrap().remove(&id);
            terminate(&world, &mut rng, &id).await;
        }
    }
}

async fn start(world: &World, rng: &mut StdRng, key: &str, count: i64) -> Option<Vec<InstanceId>> {
    let caller = Caller { idempotency_key: Some(key.into()), ..Caller::default() };
    let mut answers: Vec<Vec<InstanceId>> = Vec::new();
    // Repeated until answered, and then once more: the same answer.
    while answers.len() < 2 {
        if world.stop().is_requested() {
            return None;
        }
        let Some(ops) = world.any(rng) else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let ask = StartVm { vmid: Some("t1".into()), count: Some(count), ..StartVm::default() };
        let call = ops.start_resolved(ask.clone(), &caller, resolved());
        // Now and then the client's connection is cut in the middle.
        let patience =
            if rng.random_bool(0.1) { Duration::from_millis(rng.random_range(0..20)) } else { ANSWER };
        let answer = tokio::time::timeout(patience, call).await;
        match answer {
            Ok(Ok(ids)) => {
                acknowledged(world, rng, &ids).await;
                answers.push(ids);
            }
            Ok(Err(OpsError::Unavailable { .. } | OpsError::Unknown(_))) => {
                tokio::time::sleep(Duration::from_millis(rng.random_range(10..300))).await;
            }
            Ok(Err(error)) => {
                world.breaks(format!("start {key} was refused: {error}"));
                return None;
            }
            Err(_) if patience == ANSWER => world.breaks(format!("start {key} took longer than {ANSWER:?}")),
            Err(_) => {}
        }
    }
    if answers[0] != answers[1] {
        world.breaks(format!("start {key} was answered with {:?} and with {:?}", answers[0], answers[1]));
    }
    answers.pop()
}

/// What was acknowledged is in the next list of any controller, unless that says it may be behind.
async fn acknowledged(world: &World, rng: &mut StdRng, ids: &[InstanceId]) {
    let news = {
        let mut all = world.acknowledged.lock().unwrap();
        let news = !all.contains(&ids[0]);
        all.extend(ids.iter().cloned());
        if news {
            world.wanted.lock().unwrap().extend(ids.iter().cloned());
        }
        news
    };
    let Some(ops) = world.any(rng).filter(|_| news) else { return };
    if let Ok(Ok(seen)) = tokio::time::timeout(ANSWER, ops.instances()).await
        && seen.stale.is_none()
    {
        let missing = ids.iter().filter(|id| !seen.value.iter().any(|one| one.record.id == **id)).count();
        if missing > 0 {
            world.breaks(format!(
                "{missing} of {} acknowledged instances were not in the next list",
                ids.len()
            ));
        }
    }
}

async fn terminate(world: &World, rng: &mut StdRng, id: &InstanceId) {
    while !world.stop().is_requested() {
        let ops: Option<Ops> = world.any(rng);
        let Some(ops) = ops else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        match tokio::time::timeout(ANSWER, ops.terminate(id)).await {
            Ok(Ok(()) | Err(OpsError::NotFound)) => return,
            Ok(Err(OpsError::Unavailable { .. } | OpsError::Unknown(_))) => {
                tokio::time::sleep(Duration::from_millis(rng.random_range(10..300))).await;
            }
            Ok(Err(error)) => return world.breaks(format!("terminate of {id} was refused: {error}")),
            Err(_) => world.breaks(format!("terminate took longer than {ANSWER:?}")),
        }
    }
}

fn resolved() -> Resolved {
    Resolved {
        template: "t1".parse().unwrap(),
        name: "sonoma".into(),
        repository: "sonoma".parse().unwrap(),
        tag: "v1".into(),
        version: 0,
        manifest: Digest::of(b"manifest"),
        arch: Some(Arch::Arm64),
        layers: Vec::new(),
    }
}
