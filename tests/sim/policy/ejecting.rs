//! What must hold of ejections.

use std::{collections::BTreeMap, time::Duration};

use switchyard::{
    balance::ejection::{Change, Outcome, Standing},
    config::proxy::Balance,
    health::State,
    proxy::choose::{Candidate, Out, Why},
};
use tokio::time::Instant;

use super::{
    Watcher, check,
    choosing::{heeded, open},
    plan::Story,
    world::{Event, World},
};

/// No pool is left with fewer than it must have, and nobody who is out is asked while enough are left.
pub(super) struct Floor;

impl Watcher for Floor {
    fn see(&mut self, world: &World, all: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        match event {
            Event::Told { proxy, place, outcome, was_out, others, change, .. } => {
                let (of, rules) = (world.servers.len(), world.plan.passive);
                let part = if rules.most > 0.0 { ((of as f64 * rules.most) as usize).max(1) } else { 0 };
                let may = part.min(of - 1);
                let out = world.proxies[*proxy].pool.out();
                check(out <= may, || format!("{out} of {of} are out, and {may} may be"))?;
                let ejected = matches!(change, Some(Change::Ejected { .. }));
                check(!ejected || *was_out || *others, || format!("{place} was the last one"))?;
                check(!ejected || matches!(outcome, Outcome::Failed(_)), || {
                    format!("{place} answered and was ejected")
                })
            }
            Event::Chosen { asked, chosen } => {
                let one = &all[chosen.place];
                // One that is asked again is asked because there is nobody else.
                let may = asked.desperate || !heeded(all, asked) || chosen.why == Why::Again;
                check(one.out != Out::Ejected || may, || {
                    format!("{} is ejected, and enough are left: {:?}", one.name, chosen.why)
                })
            }
            _ => Ok(()),
        }
    }
}

/// What a watcher knows of one server at one proxy.
#[derive(Debug, Default)]
struct Past {
    until: Option<Instant>,
    lasted: Option<Duration>,
    trial: Option<Instant>,
}

/// Nobody flaps faster than the time for which it is left alone, which grows; one trial at a time decides.
#[derive(Default)]
pub(super) struct BackOff {
    of: BTreeMap<(usize, usize), Past>,
}

impl Watcher for BackOff {
    fn see(&mut self, world: &World, all: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        let (now, rules) = (world.now(), world.plan.passive);
        match event {
            Event::Chosen { asked, chosen } if all[chosen.place].out == Out::Trial => {
                let past = self.of.entry((asked.proxy, chosen.place)).or_default();
                check(past.until.is_some_and(|until| now >= until), || {
                    format!("{} is tried too early", chosen.place)
                })?;
                // Only one that has taken too long has another beside it.
                let before = past.trial.replace(now);
                check(before.is_none_or(|before| now - before >= Duration::from_secs(10)), || {
                    format!("{} has two trials at once", chosen.place)
                })
            }
            Event::TrialOver { proxy, place } => {
                self.of.entry((*proxy, *place)).or_default().trial = None;
                Ok(())
            }
            Event::Told { proxy, place, change: Some(Change::Ejected { lasts, .. }), was_out, .. } => {
                let past = self.of.entry((*proxy, *place)).or_default();
                check(past.until.is_none_or(|until| now >= until), || format!("{place} flaps"))?;
                let twice = past.lasted.map_or(rules.first, |before| (before * 2).min(rules.longest));
                let fits = if *was_out { *lasts == twice } else { *lasts >= rules.first && *lasts <= twice };
                check(fits, || format!("{place} is out for {lasts:?} after {:?}", past.lasted))?;
                // What was under way there belongs to the time before.
                *past = Past { until: Some(now + *lasts), lasted: Some(*lasts), trial: None };
                Ok(())
            }
            Event::Told { proxy, place, outcome, change: Some(Change::Back { .. }), .. } => {
                let past = self.of.entry((*proxy, *place)).or_default();
                check(*outcome == Outcome::Answered, || format!("{place} failed and is back"))?;
                check(past.until.is_some_and(|until| now >= until), || format!("{place} is back too early"))
            }
            _ => Ok(()),
        }
    }
}

/// When nothing has failed for long, nobody is out any more who would have been asked meanwhile.
#[derive(Default)]
pub(super) struct Peace {
    /// Since one waits for its trial: how many requests were its part.
    due: BTreeMap<(usize, usize), f64>,
}

/// So many are its part, and it got none: by chance that happens once in three millions.
const SURELY: f64 = 15.0;

impl Watcher for Peace {
    fn see(&mut self, _: &World, all: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        match event {
            Event::Chosen { asked, .. } => {
                let open = open(all, asked);
                let weight: f64 = open.iter().map(|(_, one)| one.part.shown()).sum();
                for (place, one) in open.iter().filter(|(_, one)| one.out == Out::Trial) {
                    *self.due.entry((asked.proxy, *place)).or_default() += one.part.shown() / weight;
                }
            }
            Event::Told { proxy, place, change: Some(_), .. } => {
                self.due.remove(&(*proxy, *place));
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, world: &World) -> Result<(), String> {
        let plan = &world.plan;
        if plan.story != Story::Siege {
            return Ok(());
        }
        // Whoever is asked by nobody has no trial.
        let all_asked = matches!(plan.balance, Balance::RoundRobin | Balance::LeastRequests);
        for (at, proxy) in world.proxies.iter().enumerate() {
            let up = proxy.of.iter().all(|known| known.tracker.verdict().state == State::Up);
            check(up, || "one still fails its probes after a long peace".into())?;
            for place in 0..world.servers.len() {
                let out = matches!(proxy.pool.standing(place), Some(Standing::Out(_)));
                let due = self.due.get(&(at, place)).copied().unwrap_or_default();
                check(!out || !all_asked || plan.sticky || plan.zoned || due < SURELY, || {
                    format!("{place} is still out after a long peace, and {due:.1} requests were its part")
                })?;
            }
        }
        Ok(())
    }
}
