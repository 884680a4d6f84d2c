//! Whole runs of what the proxy decides about its upstreams, from a seed and without a socket: several proxies before the
//! same servers, which die, come back, become slow and refuse, while requests of every kind arrive.
//!
//! What decides is the real thing (`choose`, `balance`, `health::verdict`); [`world`] has the servers, the time and what each
//! proxy keeps. What must hold is watched by [`Watcher`]s, one file for each subject: they are shown every [`Event`] with the
//! world as it is at that moment. A subject that adds state to a proxy adds it in [`world::Proxy`].

mod choosing;
mod world;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use world::{Event, World};

use crate::{THREADS, setting};

/// Runs of one change.
const SEEDS: u64 = 256;

/// What a run consists of.
const STEPS: usize = 1500;

/// Sees whether a promise is kept.
trait Watcher {
    /// Something has happened; the world is as it was when it did.
    fn see(&mut self, world: &World, event: &Event) -> Result<(), String>;

    /// The run is over.
    fn end(&mut self, world: &World) -> Result<(), String>;
}

/// Everything that is watched in one run.
fn watchers() -> Vec<Box<dyn Watcher>> {
    vec![
        Box::new(choosing::Eligible),
        Box::new(choosing::Bounds),
        Box::new(choosing::Zones),
        Box::new(choosing::Ties::default()),
        Box::new(choosing::Turns::default()),
        Box::new(choosing::Speeds::default()),
    ]
}

/// One run; how many requests found an upstream.
fn run(seed: u64) -> Result<usize, String> {
    let (mut world, mut watchers) = (World::new(seed), watchers());
    let broken = |step: usize, why: String| format!("seed {seed}, step {step}: {why}");
    for step in 0..STEPS {
        for event in world.step() {
            for watcher in &mut watchers {
                watcher.see(&world, &event).map_err(|why| broken(step, why))?;
            }
            world.take(&event);
        }
    }
    for watcher in &mut watchers {
        watcher.end(&world).map_err(|why| broken(STEPS, why))?;
    }
    Ok(world.chosen)
}

#[test]
fn upstreams_are_chosen_by_the_rules_whatever_fails() {
    if let Some(seed) = setting("SWITCHYARD_SIM_SEED") {
        run(seed).unwrap_or_else(|broken| panic!("{broken}"));
        return;
    }
    let seeds = setting("SWITCHYARD_SIM_SEEDS").unwrap_or(SEEDS);
    let first: u64 = rand::random_range(0..1_000_000);
    let (next, chosen) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let mut failed = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::SeqCst);
            if n >= seeds {
                return failed;
            }
            match run(first + n) {
                Ok(count) => drop(chosen.fetch_add(count as u64, Ordering::SeqCst)),
                Err(broken) => failed.push(broken),
            }
        }
    };
    let failed: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let chosen = chosen.into_inner();
    println!("{seeds} seeds from {first}: {chosen} requests were sent");
    assert!(failed.is_empty(), "run again with SWITCHYARD_SIM_SEED=N\n{}", failed.join("\n"));
    assert!(chosen > seeds * 100, "nothing was tried: {chosen}");
}
