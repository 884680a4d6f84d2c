//! What goes wrong: controllers die, are cut off and return; watches break and fall silent; history is forgotten.

use std::time::Duration;

use rand::Rng;
use switchyard::{clock, store::Consistency, store::faulty::Faults};
use tokio::time::Instant;

use crate::world::World;

pub(crate) async fn run(world: &World, end: Instant) {
    let mut rng = world.rng(1);
    let count = world.places().len();
    while clock::now() < end {
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..4000))).await;
        let n = rng.random_range(0..count);
        match rng.random_range(0..10) {
            0..3 => {
                tracing::info!(target: "sim", n, "killed");
                world.kill(n).await;
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..5000))).await;
                world.places()[n].faults = Faults::seeded(rng.random(), 0.03);
                world.boot(n);
            }
            3..6 => {
                tracing::info!(target: "sim", n, "cut off");
                let faults = world.places()[n].faults.clone();
                faults.cut_off();
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..8000))).await;
                faults.heal();
            }
            6 => world.places()[n].faults.break_watches(),
            7 => world.places()[n].faults.compact_watches(),
            8 => {
                let faults = world.places()[n].faults.clone();
                faults.silence_watches(true);
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..6000))).await;
                faults.silence_watches(false);
            }
            _ => {
                let at = world.store.get("x", Consistency::Linearizable).await.unwrap().revision;
                world.store.compact(at).await.unwrap();
            }
        }
    }
}
