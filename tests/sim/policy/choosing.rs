//! What must hold of every choice.

use std::collections::BTreeMap;

use switchyard::{
    balance::{BOUND, SPARE},
    config::proxy::Balance,
    health::State,
    proxy::choose::{Affinity, Candidate, Tie, Tried, Why, Within},
};

use super::{
    Watcher,
    world::{Asked, Event, World},
};

fn check(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

/// Those that could take the request, and those that did not need to be left out for being full.
fn open<'a>(all: &'a [Candidate<'a>], asked: &Asked) -> Vec<(usize, &'a Candidate<'a>)> {
    let up = |(_, one): &(usize, &Candidate<'_>)| one.verdict.state == State::Up && !one.is_full();
    all.iter().enumerate().filter(up).filter(|(place, _)| !was_refused(&asked.tried, *place)).collect()
}

fn was_refused(tried: &Tried, place: usize) -> bool {
    let mut one = Tried::default();
    one.refused(place);
    *tried == one
}

/// Nobody is asked who may not be, and nobody waits while somebody may.
pub(super) struct Eligible;

impl Watcher for Eligible {
    fn see(&mut self, world: &World, event: &Event) -> Result<(), String> {
        match event {
            Event::Chosen { asked, chosen } => {
                let all = world.candidates(asked.proxy);
                let one = &all[chosen.place];
                let up = one.verdict.state == State::Up;
                check(up || chosen.why == Why::Desperate, || {
                    format!("{} is {:?}", one.name, one.verdict.state)
                })?;
                check(up || all.iter().all(|one| one.verdict.state != State::Up), || {
                    format!("{} fails its probes and another does not", one.name)
                })?;
                check(!one.is_full(), || format!("{} is full: {} under way", one.name, one.outstanding))?;
                check(!was_refused(&asked.tried, chosen.place), || format!("{} was tried", one.name))
            }
            Event::Nobody { asked, none } => {
                let all = world.candidates(asked.proxy);
                let tied = matches!(asked.want.affinity, Affinity::Stick(..)) && !asked.desperate;
                let open = open(&all, asked);
                let waits = tied && none.to_string().contains("at its limit");
                check(open.is_empty() || waits, || format!("{} could be asked: {none}", open[0].1.name))
            }
            Event::Turned => Ok(()),
        }
    }

    fn end(&mut self, _: &World) -> Result<(), String> {
        Ok(())
    }
}

/// Nobody has more of what is hashed than a quarter above its part.
pub(super) struct Bounds;

impl Watcher for Bounds {
    #[expect(clippy::cast_precision_loss)]
    fn see(&mut self, world: &World, event: &Event) -> Result<(), String> {
        let Event::Chosen { asked, chosen } = event else { return Ok(()) };
        let (Affinity::Key(_), Why::Balanced { by: Balance::ConsistentHash, within, .. }) =
            (asked.want.affinity, chosen.why)
        else {
            return Ok(());
        };
        let all = world.candidates(asked.proxy);
        let mut among = open(&all, asked);
        among.retain(|(_, one)| match within {
            Within::Anywhere => true,
            Within::Zone => one.local,
            Within::Beyond => !one.local,
        });
        let load: u64 = among.iter().map(|(_, one)| one.outstanding).sum();
        let weight: f64 = among.iter().map(|(_, one)| one.part.shown()).sum();
        let one = &all[chosen.place];
        let bound = (BOUND * (load + 1) as f64 * one.part.shown() / weight + 1e-9).ceil();
        check((one.outstanding + 1) as f64 <= bound, || {
            format!("{} gets {} of {load}, and {bound} is its bound", one.name, one.outstanding + 1)
        })
    }

    fn end(&mut self, _: &World) -> Result<(), String> {
        Ok(())
    }
}

/// Nothing leaves a zone that has enough left.
pub(super) struct Zones;

impl Watcher for Zones {
    fn see(&mut self, world: &World, event: &Event) -> Result<(), String> {
        let Event::Chosen { asked, chosen } = event else { return Ok(()) };
        let Why::Balanced { within, .. } = chosen.why else { return Ok(()) };
        check(world.rules.zoned || within == Within::Anywhere, || "there are no zones".into())?;
        let all = world.candidates(asked.proxy);
        let here = open(&all, asked).into_iter().filter(|(_, one)| one.local);
        let now: f64 = here.map(|(_, one)| one.part.shown()).sum();
        let whole: f64 = all.iter().filter(|one| one.local).map(|one| one.weight.shown()).sum();
        check(within != Within::Beyond || now * SPARE < whole + 1e-6, || {
            format!("it left a zone that has {now} of {whole}")
        })?;
        check(within == Within::Anywhere || all[chosen.place].local == (within == Within::Zone), || {
            format!("{} is not {within:?}", all[chosen.place].name)
        })
    }

    fn end(&mut self, _: &World) -> Result<(), String> {
        Ok(())
    }
}

/// A client keeps its upstream, at every proxy, for as long as that can be asked; and comes back to it.
#[derive(Default)]
pub(super) struct Ties {
    /// Whose each client is.
    owners: BTreeMap<u64, usize>,
}

impl Watcher for Ties {
    fn see(&mut self, world: &World, event: &Event) -> Result<(), String> {
        let Event::Chosen { asked, chosen } = event else { return Ok(()) };
        let (Affinity::Stick(_, key), Why::Tied(Tie { own, .. })) = (asked.want.affinity, chosen.why) else {
            return Ok(());
        };
        let all = world.candidates(asked.proxy);
        // Learnt once, from whichever proxy: all of them must agree from then on.
        if own {
            let owner = *self.owners.entry(key).or_insert(chosen.place);
            check(owner == chosen.place, || format!("{} and {}", all[owner].name, all[chosen.place].name))
        } else {
            let Some(owner) = self.owners.get(&key) else { return Ok(()) };
            let can = open(&all, asked).iter().any(|(place, _)| place == owner);
            check(!can, || format!("{} could be asked, and {} was", all[*owner].name, all[chosen.place].name))
        }
    }

    fn end(&mut self, _: &World) -> Result<(), String> {
        Ok(())
    }
}

/// In turn everybody gets its part, weights that grow included.
#[derive(Default)]
pub(super) struct Turns {
    /// For each proxy and server: what it got, and what was its part.
    of: BTreeMap<(usize, usize), (f64, f64)>,
    /// For each proxy: how often those that are eligible were others than before.
    changes: BTreeMap<usize, (Vec<usize>, f64)>,
}

impl Watcher for Turns {
    fn see(&mut self, world: &World, event: &Event) -> Result<(), String> {
        let Event::Chosen { asked, chosen } = event else { return Ok(()) };
        let Why::Balanced { by: Balance::RoundRobin, within: Within::Anywhere, .. } = chosen.why else {
            return Ok(());
        };
        let all = world.candidates(asked.proxy);
        let open = open(&all, asked);
        let weight: f64 = open.iter().map(|(_, one)| one.part.shown()).sum();
        for (place, one) in &open {
            let (got, part) = self.of.entry((asked.proxy, *place)).or_default();
            *part += one.part.shown() / weight;
            *got += f64::from(u8::from(*place == chosen.place));
        }
        let places: Vec<usize> = open.iter().map(|(place, _)| *place).collect();
        let (before, changes) = self.changes.entry(asked.proxy).or_default();
        if *before != places {
            (*before, *changes) = (places, *changes + 1.0);
        }
        Ok(())
    }

    fn end(&mut self, world: &World) -> Result<(), String> {
        for ((proxy, place), (got, part)) in &self.of {
            let changes = self.changes.get(proxy).map_or(0.0, |(_, changes)| *changes);
            // Turns that went to others, when somebody else was eligible, are chance; their sum grows with its root.
            let bound = 6.0 + 3.0 * changes.sqrt();
            check((got - part).abs() <= bound, || {
                let name = &world.servers[*place].name;
                format!("proxy {proxy}: {name} got {got}, its part is {part:.1}, of {changes} changes")
            })?;
        }
        Ok(())
    }
}

/// By latency a slow one gets no more than a fast one of its weight.
#[derive(Default)]
pub(super) struct Speeds {
    /// For each server: how often it was chosen when all were there.
    got: BTreeMap<usize, f64>,
    of: f64,
}

impl Watcher for Speeds {
    fn see(&mut self, world: &World, event: &Event) -> Result<(), String> {
        let Event::Chosen { chosen, .. } = event else { return Ok(()) };
        let Why::Balanced { by: Balance::PeakEwma, among, .. } = chosen.why else { return Ok(()) };
        if among == world.servers.len() {
            *self.got.entry(chosen.place).or_default() += 1.0;
            self.of += 1.0;
        }
        Ok(())
    }

    fn end(&mut self, world: &World) -> Result<(), String> {
        if self.of < 300.0 {
            return Ok(());
        }
        let got = |place: usize| self.got.get(&place).copied().unwrap_or_default();
        for (slow, a) in world.servers.iter().enumerate() {
            for (fast, b) in world.servers.iter().enumerate() {
                let slower = a.took.0 > b.took.1 * 10 && a.weight == b.weight;
                check(!slower || got(slow) <= got(fast) + 30.0, || {
                    format!("{} got {} and {}, which is faster, {}", a.name, got(slow), b.name, got(fast))
                })?;
            }
        }
        Ok(())
    }
}
