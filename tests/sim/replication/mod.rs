//! Whole runs of log, replicas, leases and freshness from a seed, in simulated time: one writer, its replicas, proxies
//! and their clients, over links that delay, lose and repeat, on machines whose clocks disagree and drift, while
//! processes are frozen, killed between any two steps and started again.
//!
//! What decides is the real thing: `Log`, `Leases`, `Catalogue`, `Freshness`, `choose`, `weigh`, `retry`. What carries
//! it out is written here once more, without sockets and files: each file names the shell that it stands for, and does
//! the same steps in the same order.

#![expect(clippy::cast_possible_truncation, reason = "seconds of a run are few")]

mod engine;
mod link;
mod registry;
mod writer;
mod feed;
mod replica;
mod proxy;
mod request;
mod clients;
mod chaos;
mod truth;
mod world;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use crate::{THREADS, setting};

/// Runs of one change.
const SEEDS: u64 = 256;

fn run(seed: u64, logs: bool) -> Result<world::Report, String> {
    world::run(seed, logs).map_err(|broken| format!("seed {seed}:\n  {}", broken.join("\n  ")))
}

#[test]
fn an_acknowledged_push_is_seen_by_the_next_read_whatever_fails() {
    if let Some(seed) = setting("SWITCHYARD_SIM_SEED") {
        let logs = std::env::var("SWITCHYARD_SIM_LOG").is_ok();
        if logs {
            tracing_subscriber::fmt().with_env_filter("sim=debug").without_time().init();
        }
        run(seed, logs).unwrap_or_else(|broken| panic!("{broken}"));
        return;
    }
    let seeds = setting("SWITCHYARD_SIM_SEEDS").unwrap_or(SEEDS);
    let first: u64 = rand::random_range(0..1_000_000);
    let next = AtomicU64::new(0);
    let work = || {
        let (mut failed, mut sum) = (Vec::new(), world::Report::default());
        loop {
            let n = next.fetch_add(1, Ordering::SeqCst);
            if n >= seeds {
                return (failed, sum);
            }
            match run(first + n, false) {
                Ok(report) => sum = sum + report,
                Err(broken) => failed.push(broken),
            }
        }
    };
    let (failed, sum) = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let done = threads.into_iter().map(|thread| thread.join().unwrap());
        done.reduce(|a, b| ([a.0, b.0].concat(), a.1 + b.1)).unwrap()
    });
    println!("{seeds} seeds from {first}: {sum:?}");
    assert!(failed.is_empty(), "run again with SWITCHYARD_SIM_SEED=N\n{}", failed.join("\n"));
    assert!(
        seeds < 32 || (sum.acknowledged as u64 > seeds && sum.reads as u64 > seeds),
        "nothing was tried: {sum:?}"
    );
}
