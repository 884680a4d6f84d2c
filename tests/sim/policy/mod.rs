//! Whole runs of what the proxy decides about its upstreams, from a seed and without a socket: several proxies before the
//! same servers, which die, come back, hang, fail, become slow and are upgraded, while requests of every kind arrive and
//! agents poll.
//!
//! What decides is the real thing: `choose` and `balance` (with ejections, slow start and the budget of retries),
//! `health::verdict`, `retry`, the core of `cohort`. [`plan`] draws what a run is to be, [`story`] what goes wrong in it,
//! [`server`] is how servers really are and [`proxy`] what a proxy keeps of them; [`world`] lets time pass. What must hold is
//! watched by [`Watcher`]s, one file for each subject: they are shown every [`Event`] with the world as it is at that moment.

mod plan;
mod story;
mod server;
mod proxy;
mod world;
mod choosing;
mod ejecting;
mod retrying;
mod probing;
mod upgrading;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use switchyard::proxy::choose::Candidate;
use world::{Event, World};

use crate::{THREADS, setting};

/// Runs of one change.
const SEEDS: u64 = 256;

/// Sees whether a promise is kept.
trait Watcher {
    /// Something has happened; the world is as it was when it did. `all` is what the proxy knew of the servers, if it was a
    /// choice.
    fn see(&mut self, world: &World, all: &[Candidate<'_>], event: &Event) -> Result<(), String>;

    /// The run is over.
    fn end(&mut self, _: &World) -> Result<(), String> {
        Ok(())
    }
}

fn check(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

/// Everything that is watched in one run.
fn watchers(world: &World) -> Vec<Box<dyn Watcher>> {
    vec![
        Box::new(choosing::Eligible),
        Box::new(choosing::Bounds),
        Box::new(choosing::Zones),
        Box::new(choosing::Ties::default()),
        Box::new(choosing::Turns::default()),
        Box::new(choosing::Speeds::default()),
        Box::new(ejecting::Floor),
        Box::new(ejecting::BackOff::default()),
        Box::new(ejecting::Peace::default()),
        Box::new(retrying::Budget::of(world)),
        Box::new(retrying::Repeats),
        Box::new(probing::Verdicts::default()),
        Box::new(probing::SlowStart::default()),
        Box::new(upgrading::Moves::of(world)),
        Box::new(upgrading::OneChange::of(world)),
    ]
}

/// What a run has shown.
#[derive(Debug, Default)]
struct Shown {
    /// Attempts, ejections, retries that the budget bore and that it did not, changes of version.
    counts: [AtomicU64; 5],
}

const COUNTED: [&str; 5] =
    ["attempts", "ejections", "retries", "refused by the budget", "changes of version"];

impl Shown {
    fn count(&self, event: &Event) {
        use switchyard::balance::ejection::Change;
        let at = match event {
            Event::Chosen { .. } => 0,
            Event::Told { change: Some(Change::Ejected { .. }), .. } => 1,
            Event::Decided { borne: Some(true), .. } => 2,
            Event::Decided { borne: Some(false), .. } => 3,
            Event::Moved { from: Some(_), .. } => 4,
            _ => return,
        };
        self.counts[at].fetch_add(1, Ordering::Relaxed);
    }
}

fn run(seed: u64, shown: &Shown) -> Result<(), String> {
    let mut world = World::new(seed);
    let mut watchers = watchers(&world);
    let mut step = 0;
    let broken = |world: &World, step: usize, why: String| {
        format!("seed {seed}, step {step}, {} ms of {:?}: {why}", world.at, world.plan.story)
    };
    while let Some(events) = world.step() {
        step += 1;
        for event in events {
            let all = match &event {
                Event::Chosen { asked, .. } | Event::Nobody { asked, .. } => world.candidates(asked),
                _ => Vec::new(),
            };
            for watcher in &mut watchers {
                watcher.see(&world, &all, &event).map_err(|why| broken(&world, step, why))?;
            }
            drop(all);
            shown.count(&event);
            world.take(event);
        }
    }
    for watcher in &mut watchers {
        watcher.end(&world).map_err(|why| broken(&world, step, why))?;
    }
    Ok(())
}

#[test]
fn what_is_decided_about_upstreams_keeps_to_the_rules_whatever_fails() {
    let shown = Shown::default();
    if let Some(seed) = setting("SWITCHYARD_SIM_SEED") {
        run(seed, &shown).unwrap_or_else(|broken| panic!("{broken}"));
        return;
    }
    let seeds = setting("SWITCHYARD_SIM_SEEDS").unwrap_or(SEEDS);
    let first: u64 = rand::random_range(0..1_000_000);
    let next = AtomicU64::new(0);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::SeqCst);
            if n >= seeds {
                return failed;
            }
            failed.extend(run(first + n, &shown).err());
        }
    };
    let failed: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let counts = shown.counts.map(AtomicU64::into_inner);
    let told = COUNTED.iter().zip(&counts).map(|(what, count)| format!("{count} {what}"));
    println!("{seeds} seeds from {first}: {}", told.collect::<Vec<_>>().join(", "));
    assert!(
        failed.is_empty(),
        "{} of {seeds}; run again with SWITCHYARD_SIM_SEED=N\n{}",
        failed.len(),
        failed.join("\n")
    );
    let least = [500, 2, 2, 2, 0].map(|each| each * seeds);
    for ((what, count), least) in COUNTED.iter().zip(&counts).zip(least) {
        assert!(*count >= least, "{count} {what} show nothing");
    }
}
