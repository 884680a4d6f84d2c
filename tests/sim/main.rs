//! Whole runs from a seed: several controllers, nodes and clients over one real store that misbehaves, in paused
//! time. What `design.md` §6.2 promises is watched from outside, at the store and at the nodes.
//!
//! Each broken promise is printed with its seed, the moment in simulated time and the step: how many changes of
//! instances had been seen. `SWITCHYARD_SIM_SEED=N` runs that seed again (`SWITCHYARD_SIM_LOG=1`: with its log),
//! `SWITCHYARD_SIM_SEEDS=N` so many.

#![allow(clippy::unwrap_used, reason = "what a run needs and does not get fails it")]

mod agent;
mod chaos;
mod client;
#[path = "../support/memory.rs"]
mod memory;
mod observer;
mod policy;
mod replication;
mod world;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use world::Told;

/// Runs of one change.
const SEEDS: u64 = 1_000;

/// Runs at a time.
const THREADS: usize = 2;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn run(seed: u64) -> Told {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(world::run(seed))
}

#[test]
fn no_promise_is_broken_whatever_fails() {
    if let Some(seed) = setting("SWITCHYARD_SIM_SEED") {
        if std::env::var("SWITCHYARD_SIM_LOG").is_ok() {
            tracing_subscriber::fmt().with_env_filter("switchyard=debug,sim=debug").init();
        }
        let told = run(seed);
        assert!(told.broken.is_empty(), "{}", told.broken.join("\n"));
        return;
    }
    let seeds = setting("SWITCHYARD_SIM_SEEDS").unwrap_or(SEEDS);
    let first: u64 = rand::random_range(0..1_000_000);
    let (next, all) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    thread::scope(|scope| {
        let work = || {
            loop {
                let seed = first + next.fetch_add(1, Ordering::SeqCst);
                if seed >= first + seeds {
                    return;
                }
                let told = run(seed);
                all.lock().unwrap().add(seed, told);
            }
        };
        (0..THREADS).for_each(|_| drop(scope.spawn(work)));
    });
    let Sum { broken, acknowledged, begun, changes } = all.into_inner().unwrap();
    println!(
        "{seeds} seeds from {first}: {acknowledged} starts acknowledged, {begun} VMs begun, {changes} changes seen"
    );
    assert!(broken.is_empty(), "run again with SWITCHYARD_SIM_SEED=N\n{}", broken.join("\n"));
    // A world in which hardly anything happens breaks no promise either.
    assert!(acknowledged >= 5 * seeds && begun >= 4 * seeds && changes >= 40 * seeds, "too little happened");
}

#[derive(Default)]
struct Sum {
    broken: Vec<String>,
    acknowledged: u64,
    begun: u64,
    changes: u64,
}

impl Sum {
    fn add(&mut self, seed: u64, told: Told) {
        if !told.broken.is_empty() {
            self.broken.push(format!("seed {seed}:\n  {}", told.broken.join("\n  ")));
        }
        self.acknowledged += told.acknowledged as u64;
        self.begun += told.begun as u64;
        self.changes += told.changes;
    }
}
