//! What must hold of every choice.

use std::collections::BTreeMap;

use switchyard::{
    balance::{BOUND, FLOOR, SPARE},
    config::proxy::Balance,
    health::State,
    proxy::choose::{Affinity, Candidate, Out, Tie, Why, Within},
};

use super::{
    Watcher, check,
    world::{Asked, Event, World},
};

/// Whether ejections count: enough of those that would do are left.
pub(super) fn heeded(all: &[Candidate<'_>], asked: &Asked) -> bool {
    let left =
        all.iter().filter(|one| one.verdict.state == State::Up && one.out == Out::In && !one.apart).count();
    left as f64 >= asked.want.panic_threshold * all.len() as f64
}

/// Those that could take the request.
pub(super) fn open<'a>(all: &'a [Candidate<'a>], asked: &Asked) -> Vec<(usize, &'a Candidate<'a>)> {
    let heeded = heeded(all, asked);
    let can = |(place, one): &(usize, &Candidate<'_>)| {
        let well = one.verdict.state == State::Up && !one.apart && !(heeded && one.out == Out::Ejected);
        well && !one.is_full() && !asked.spent.contains(place)
    };
    all.iter().enumerate().filter(can).collect()
}

/// Nobody is asked who may not be, and nobody waits while somebody may.
pub(super) struct Eligible;

impl Watcher for Eligible {
    fn see(&mut self, _: &World, all: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        match event {
            Event::Chosen { asked, chosen } => {
                let one = &all[chosen.place];
                let up = one.verdict.state == State::Up;
                let again = chosen.why == Why::Again;
                check(up || chosen.why == Why::Desperate, || {
                    format!("{} is {:?}", one.name, one.verdict.state)
                })?;
                check(up || all.iter().all(|one| one.apart || one.verdict.state != State::Up), || {
                    format!("{} fails its probes and another does not", one.name)
                })?;
                check(!one.apart, || format!("{} is of another version", one.name))?;
                check(!one.is_full(), || format!("{} is full: {} under way", one.name, one.outstanding))?;
                check(!asked.spent.contains(&chosen.place) || again, || format!("{} was tried", one.name))?;
                check(!again || open(all, asked).is_empty(), || format!("{} is asked again", one.name))
            }
            Event::Nobody { asked, none } => {
                let tied = matches!(asked.want.affinity, Affinity::Stick(..)) && !asked.desperate;
                let open = open(all, asked);
                // Its own is waited for while that is only full.
                let waits = tied && all.iter().any(|one| one.verdict.state == State::Up && one.is_full());
                check(open.is_empty() || waits, || format!("{} could be asked: {none}", open[0].1.name))
            }
            _ => Ok(()),
        }
    }
}

/// Nobody has more of what is hashed than a quarter above its part, and two.
pub(super) struct Bounds;

impl Watcher for Bounds {
    #[expect(clippy::cast_precision_loss)]
    fn see(&mut self, _: &World, all: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        let Event::Chosen { asked, chosen } = event else { return Ok(()) };
        let (Affinity::Key(_), Why::Balanced { by: Balance::ConsistentHash, within, .. }) =
            (asked.want.affinity, chosen.why)
        else {
            return Ok(());
        };
        let mut among = open(all, asked);
        among.retain(|(_, one)| match within {
            Within::Anywhere => true,
            Within::Zone => one.local,
            Within::Beyond => !one.local,
        });
        let load: u64 = among.iter().map(|(_, one)| one.outstanding).sum();
        let weight: f64 = among.iter().map(|(_, one)| one.part.shown()).sum();
        let one = &all[chosen.place];
        let bound = (BOUND * (load + 1) as f64 * one.part.shown() / weight + 1e-9).ceil().max(FLOOR as f64);
        check((one.outstanding + 1) as f64 <= bound, || {
            format!("{} gets {} of {load}, and {bound} is its bound", one.name, one.outstanding + 1)
        })
    }
}

/// Nothing leaves a zone that has enough left.
pub(super) struct Zones;

impl Watcher for Zones {
    fn see(&mut self, _: &World, all: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        let Event::Chosen { asked, chosen } = event else { return Ok(()) };
        let Why::Balanced { within, .. } = chosen.why else { return Ok(()) };
        check(asked.want.zoned || within == Within::Anywhere, || "there are no zones".into())?;
        let here = open(all, asked).into_iter().filter(|(_, one)| one.local);
        let now: f64 = here.map(|(_, one)| one.part.shown()).sum();
        let whole: f64 = all.iter().filter(|one| one.local).map(|one| one.weight.shown()).sum();
        check(within != Within::Beyond || now * SPARE < whole + 1e-6, || {
            format!("it left a zone that has {now} of {whole}")
        })?;
        check(within == Within::Anywhere || all[chosen.place].local == (within == Within::Zone), || {
            format!("{} is not {within:?}", all[chosen.place].name)
        })
    }
}

/// A client keeps its upstream, at every proxy, for as long as that can be asked; and comes back to it.
#[derive(Default)]
pub(super) struct Ties {
    /// Whose each client is.
    owners: BTreeMap<u64, usize>,
}

impl Watcher for Ties {
    fn see(&mut self, _: &World, all: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        let Event::Chosen { asked, chosen } = event else { return Ok(()) };
        let (Affinity::Stick(_, key), Why::Tied(Tie { own, .. })) = (asked.want.affinity, chosen.why) else {
            return Ok(());
        };
        // Learnt once, from whichever proxy: all of them must agree from then on.
        if own {
            let owner = *self.owners.entry(key).or_insert(chosen.place);
            check(owner == chosen.place, || format!("{} and {}", all[owner].name, all[chosen.place].name))
        } else {
            let Some(owner) = self.owners.get(&key) else { return Ok(()) };
            let can = open(all, asked).iter().any(|(place, _)| place == owner);
            check(!can, || format!("{} could be asked, and {} was", all[*owner].name, all[chosen.place].name))
        }
    }
}

/// In turn everybody gets its part, weights that grow included.
#[derive(Default)]
pub(super) struct Turns {
    /// For each proxy and server: what it got, and what was its part.
    of: BTreeMap<(usize, usize), (f64, f64)>,
    /// For each proxy.
    noise: BTreeMap<usize, Noise>,
}

/// What keeps the count of turns from being exact.
#[derive(Debug, Default)]
struct Noise {
    /// Those that were eligible last.
    before: Vec<usize>,
    /// How often they were others than before.
    changes: f64,
    /// Requests that went by chance, or took a turn for something else.
    others: f64,
    /// Times in which somebody was out and could be asked: each ends with the turn of that one.
    trials: f64,
}

impl Watcher for Turns {
    fn see(&mut self, _: &World, all: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        let Event::Chosen { asked, chosen } = event else { return Ok(()) };
        let noise = self.noise.entry(asked.proxy).or_default();
        let open = open(all, asked);
        // A trial, or one that is ejected and asked for want of others, has a reason of its own.
        let odd = open.iter().any(|(_, one)| one.out != Out::In);
        let anywhere =
            matches!(chosen.why, Why::Balanced { by: Balance::RoundRobin, within: Within::Anywhere, .. });
        if odd || !anywhere {
            noise.others += f64::from(u8::from(asked.first));
            if odd && !noise.before.is_empty() {
                noise.trials += 1.0;
                noise.before.clear();
            }
            return Ok(());
        }
        let weight: f64 = open.iter().map(|(_, one)| one.part.shown()).sum();
        for (place, one) in &open {
            let (got, part) = self.of.entry((asked.proxy, *place)).or_default();
            *part += one.part.shown() / weight;
            *got += f64::from(u8::from(*place == chosen.place));
        }
        let places: Vec<usize> = open.iter().map(|(place, _)| *place).collect();
        if !asked.first {
            noise.others += 1.0;
        } else if noise.before != places {
            (noise.before, noise.changes) = (places, noise.changes + 1.0);
        }
        Ok(())
    }

    fn end(&mut self, world: &World) -> Result<(), String> {
        for ((proxy, place), (got, part)) in &self.of {
            let Some(noise) = self.noise.get(proxy) else { continue };
            // Turns that went to others, when somebody else was eligible, are chance, and so are retries; the sum of each grows
            // with its root.
            let bound = 6.0 + 3.0 * (noise.changes.sqrt() + noise.others.sqrt()) + noise.trials;
            check((got - part).abs() <= bound, || {
                let name = &world.servers[*place].name;
                format!(
                    "proxy {proxy}: {name} got {got}, its part is {part:.1}, of {noise:?}; {:?}",
                    world.plan
                )
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
    fn see(&mut self, world: &World, _: &[Candidate<'_>], event: &Event) -> Result<(), String> {
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
                let slower = a.took.0 > b.took.1 * 10 && a.weight == b.weight && !a.faulty && !b.faulty;
                check(!slower || got(slow) <= got(fast) + 30.0, || {
                    format!("{} got {} and {}, which is faster, {}", a.name, got(slow), b.name, got(fast))
                })?;
            }
        }
        Ok(())
    }
}
