//! What must hold of verdicts, and of the weight of one that comes back.

use std::{collections::BTreeMap, time::Duration};

use switchyard::{
    balance::{LEAST_SHARE, ejection::Change},
    health::State,
    proxy::choose::{Candidate, Out},
};
use tokio::time::Instant;

use super::{
    Watcher, check,
    world::{Event, World},
};

/// A verdict turns after so many probes in a row that say otherwise, no sooner and no later.
#[derive(Default)]
pub(super) struct Verdicts {
    /// For each proxy and server: good probes in a row above zero, bad ones below.
    rows: BTreeMap<(usize, usize), i64>,
}

impl Watcher for Verdicts {
    fn see(&mut self, world: &World, _: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        let Event::Probed { proxy, place, good, before } = event else { return Ok(()) };
        let row = self.rows.entry((*proxy, *place)).or_default();
        *row = if *good { (*row).max(0) + 1 } else { (*row).min(0) - 1 };
        let after = world.proxies[*proxy].of[*place].tracker.verdict().state;
        let wanted = match before {
            State::Unknown if *good => State::Up,
            State::Unknown => State::Down,
            State::Up if *row <= -i64::from(world.plan.fall) => State::Down,
            State::Down if *row >= i64::from(world.plan.rise) => State::Up,
            same => *same,
        };
        check(after == wanted, || format!("{place} went from {before:?} to {after:?} after {row} in a row"))
    }
}

/// One that comes back has its weight little by little, from a tenth to all of it.
#[derive(Default)]
pub(super) struct SlowStart {
    /// For each proxy and server: since when it may be asked.
    since: BTreeMap<(usize, usize), Instant>,
}

impl Watcher for SlowStart {
    fn see(&mut self, world: &World, all: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        match event {
            Event::Probed { proxy, place, before, .. } => {
                let verdict = world.proxies[*proxy].of[*place].tracker.verdict();
                if *before != State::Up && verdict.state == State::Up {
                    self.since.insert((*proxy, *place), world.now());
                }
            }
            Event::Told { proxy, place, change: Some(Change::Back { .. }), .. } => {
                self.since.insert((*proxy, *place), world.now());
            }
            Event::Chosen { asked, .. } => {
                let ramp = world.plan.slow_start;
                for (place, one) in all.iter().enumerate() {
                    let up = one.verdict.state == State::Up && one.out == Out::In;
                    let Some(since) = self.since.get(&(asked.proxy, place)).filter(|_| up) else { continue };
                    let passed = world.now() - *since;
                    let wanted = if passed >= ramp || ramp == Duration::ZERO {
                        1.0
                    } else {
                        (passed.as_secs_f64() / ramp.as_secs_f64()).max(LEAST_SHARE)
                    };
                    let has = one.part.shown() / one.weight.shown();
                    check((has - wanted).abs() < 0.01, || {
                        format!("{} has {has} of its weight {passed:?} after it came back", one.name)
                    })?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
