//! A node as its agent would behave, with a link that loses and delays, and a life that is interrupted.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use rand::{Rng, rngs::StdRng};
use switchyard::{
    controller::ops::{Ops, OpsError},
    model::{Arch, Attempt, InstanceId, NodeId, Progress},
    wire::{
        agent::{
            Claim, GiveBack, Heard, Heartbeat, Join, NodeFacts, NodeWish, Poll, SeenVm, StopVm, VmPhase,
        },
        node::{CapacityMode, HypervisorVersion},
    },
};

use crate::world::{CAPACITY, World};

/// How long an agent waits for an answer that is no poll.
const ANSWER: Duration = Duration::from_secs(5);

/// What the agent has of an instance.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Has {
    /// An offer; whether the claim was granted is not known.
    Offer,
    Claimed,
    Pulling,
    Running,
    Failed,
    Gone,
}

struct Agent {
    world: Arc<World>,
    rng: StdRng,
    id: NodeId,
    session: u32,
    vms: BTreeMap<(InstanceId, Attempt), Has>,
}

pub(crate) async fn run(world: Arc<World>, n: usize) {
    let id = NodeId::parse(format!("n{n}")).unwrap();
    let rng = world.rng(200 + n as u64);
    let mut agent = Agent { world: world.clone(), rng, id, session: 0, vms: BTreeMap::new() };
    agent.join().await;
    while !world.stop().is_requested() {
        let chance = agent.rng.random_range(0..1000);
        if !world.is_healed() {
            match chance {
                // Its network is cut, often for longer than a node may be silent; what runs goes on.
                0..35 => tokio::time::sleep(Duration::from_millis(agent.rng.random_range(500..20_000))).await,
                // It dies and its VMs with it; the journal remains.
                35..45 => agent.restart().await,
                _ => {}
            }
        }
        agent.beat().await;
        agent.go_on().await;
        agent.poll().await;
    }
}

impl Agent {
    /// Calls some controller; the answer may be lost on the way.
    async fn call<T, F: Future<Output = Result<T, OpsError>>>(
        &mut self,
        call: impl FnOnce(Ops) -> F,
    ) -> Option<Result<T, OpsError>> {
        let Some(ops) = self.world.any(&mut self.rng) else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            return None;
        };
        let answer = tokio::time::timeout(ANSWER, call(ops)).await.ok()?;
        let lost = !self.world.is_healed() && self.rng.random_bool(0.05);
        (!lost).then_some(answer)
    }

    async fn join(&mut self) {
        loop {
            let wish = NodeWish {
                name: self.id.to_string(),
                host: "127.0.0.1".into(),
                capacity: CAPACITY,
                capacity_mode: CapacityMode::Number,
                vcpu_override: 0,
                ram_override: 0,
                groups: Vec::new(),
                drain_mode: false,
                force_overrides: false,
            };
            let join = Join { node_id: self.id.clone(), wish, facts: facts() };
            if matches!(self.call(|ops| async move { ops.join(join).await }).await, Some(Ok(_))) {
                return;
            }
            if self.world.stop().is_requested() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn restart(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(10..3000))).await;
        self.session += 1;
        for has in self.vms.values_mut() {
            if *has == Has::Running {
                *has = Has::Failed;
            }
        }
    }

    fn seen(&self) -> Vec<SeenVm> {
        let vms = self.vms.iter().map(|((instance, attempt), has)| SeenVm {
            instance: instance.clone(),
            attempt: *attempt,
            phase: match has {
                Has::Offer | Has::Claimed => VmPhase::Claimed,
                Has::Pulling => VmPhase::Pulling,
                Has::Running => VmPhase::Running,
                Has::Failed => VmPhase::Failed,
                Has::Gone => VmPhase::Gone,
            },
            progress: Progress::NONE,
            info: None,
            script: None,
            message: String::new(),
        });
        vms.collect()
    }

    async fn beat(&mut self) {
        let beat = Heartbeat {
            node_id: self.id.clone(),
            session: self.session.to_string(),
            facts: facts(),
            vms: self.seen(),
            commands: Vec::new(),
        };
        match self.call(|ops| async move { ops.heartbeat(beat).await }).await {
            Some(Ok(heard)) if !heard.known => self.join().await,
            Some(Ok(heard)) => self.obey(heard),
            Some(Err(OpsError::Conflict(why))) => self.world.breaks(format!("{}: {why}", self.id)),
            Some(Err(_)) | None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }

    fn obey(&mut self, heard: Heard) {
        self.stop(&heard.stop);
        for forget in heard.forget {
            self.vms.remove(&(forget.instance, forget.attempt));
        }
    }

    fn stop(&mut self, stops: &[StopVm]) {
        for stop in stops {
            for ((instance, attempt), has) in &mut self.vms {
                if *instance == stop.instance && *attempt <= stop.attempt {
                    *has = Has::Gone;
                }
            }
        }
    }

    /// Moves each instance one step on.
    async fn go_on(&mut self) {
        let all: Vec<_> = self.vms.iter().map(|(key, has)| (key.clone(), *has)).collect();
        for ((instance, attempt), has) in all {
            let claim = Claim { node_id: self.id.clone(), instance: instance.clone(), attempt };
            let key = (instance.clone(), attempt);
            match has {
                // Not now: it may be offered the same once more before it claims this.
                Has::Offer if !self.world.is_healed() && self.rng.random_bool(0.15) => {}
                Has::Offer => match self.call(|ops| async move { ops.claim(claim).await }).await {
                    Some(Ok(granted)) if granted.granted => {
                        self.vms.insert(key, Has::Claimed);
                    }
                    Some(Ok(_)) => {
                        self.vms.remove(&key);
                    }
                    Some(Err(_)) | None => {}
                },
                Has::Claimed if self.rng.random_bool(0.3) => {
                    self.vms.insert(key, Has::Pulling);
                }
                Has::Claimed if self.rng.random_bool(0.05) => {
                    let back = GiveBack { claim, why: "no space".into() };
                    if let Some(Ok(_)) = self.call(|ops| async move { ops.give_back(back).await }).await {
                        self.vms.remove(&key);
                    }
                }
                Has::Claimed | Has::Pulling => {
                    match self.call(|ops| async move { ops.starting(claim).await }).await {
                        Some(Ok(granted)) if granted.granted => {
                            self.world.begins(&instance, &self.id, attempt);
                            self.vms.insert(key, Has::Running);
                        }
                        Some(Ok(_)) => {
                            self.vms.remove(&key);
                        }
                        Some(Err(_)) | None => {}
                    }
                }
                Has::Running if !self.world.is_healed() && self.rng.random_bool(0.003) => {
                    self.vms.insert(key, Has::Failed);
                }
                Has::Running | Has::Failed | Has::Gone => {}
            }
        }
    }

    async fn poll(&mut self) {
        let busy = self.vms.values().filter(|has| !matches!(has, Has::Failed | Has::Gone)).count() as u32;
        // Now and then it does not know what is free.
        let free = if self.rng.random_bool(0.1) { 10 } else { CAPACITY.saturating_sub(busy) };
        let poll = Poll { node: self.id.clone(), session: self.session.to_string(), free, wait: 1 };
        let dropped = Duration::from_millis(match self.rng.random_range(0..10) {
            0 => self.rng.random_range(0..300),
            _ => 5000,
        });
        // Something in between may have sent it twice: the answers are two offers, or there is no room for the second.
        let twice = !self.world.is_healed() && self.rng.random_bool(0.2);
        let (first, second) = (self.world.any(&mut self.rng), self.world.any(&mut self.rng));
        let ask = |ops: Option<Ops>| {
            let (poll, stop) = (poll.clone(), self.world.stop());
            async move { ops?.poll(poll, stop).await.ok() }
        };
        let second = second.filter(|_| twice);
        let both = async { tokio::join!(ask(first), ask(second)) };
        let answers = tokio::time::timeout(dropped, both).await.map_or(Vec::new(), |(a, b)| vec![a, b]);
        let lost = !self.world.is_healed() && self.rng.random_bool(0.05);
        let answers: Vec<_> = answers.into_iter().flatten().filter(|_| !lost).collect();
        if answers.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for tasks in answers {
            self.stop(&tasks.stop);
            if let Some(task) = tasks.start {
                self.vms.insert((task.instance, task.attempt), Has::Offer);
                // Sometimes too slow for the claim's time.
                let late = if self.rng.random_bool(0.1) { 2000 } else { self.rng.random_range(0..200) };
                tokio::time::sleep(Duration::from_millis(late)).await;
            }
        }
    }
}

fn facts() -> NodeFacts {
    NodeFacts {
        host_arch: Arch::Arm64,
        runs: vec![Arch::Arm64],
        driver: "process".into(),
        hypervisor: HypervisorVersion::default(),
        agent_version: "1".into(),
        cpu_count: 8,
        memory: 16 << 30,
        disk_size: 100 << 30,
        disk_free: 50 << 30,
        disk_used: 0,
        templates: Vec::new(),
        layers: Default::default(),
        cpu_util: 0.1,
        ram_util: 0.1,
        usb_devices: Vec::new(),
        commands: Vec::new(),
    }
}
