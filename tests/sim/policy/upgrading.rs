//! What must hold of the version that agents are served from.

use std::{collections::BTreeMap, time::Duration};

use switchyard::{
    model::ServerVersion,
    proxy::{choose::Candidate, cohort::core::Why},
};
use tokio::time::Instant;

use super::{
    Watcher, check,
    plan::Story,
    world::{Event, World, versions},
};

/// What one proxy has seen of the versions.
#[derive(Default)]
struct Past {
    /// Since when each has been able at the quorum.
    quorum: BTreeMap<ServerVersion, Instant>,
    /// Since when nobody of the chosen one has been able, while others were.
    deserted: Option<Instant>,
    moved: Option<Instant>,
    /// What it has moved to.
    chosen: Option<ServerVersion>,
}

/// The version changes only when it may: settled, deserted, or told to; and never twice in a short time by itself.
pub(super) struct Moves {
    of: Vec<Past>,
}

impl Moves {
    pub(super) fn of(world: &World) -> Self {
        Self { of: world.proxies.iter().map(|_| Past::default()).collect() }
    }
}

fn able(world: &World, proxy: usize, version: &ServerVersion) -> usize {
    let of = &world.proxies[proxy].of;
    of.iter().filter(|known| known.able() && known.tracker.verdict().version() == Some(version)).count()
}

impl Watcher for Moves {
    fn see(&mut self, world: &World, _: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        let (now, rules) = (world.now(), world.plan.cohorts);
        match event {
            // A look follows each probe.
            Event::Probed { proxy, .. } => {
                let past = &mut self.of[*proxy];
                let needed = ((world.servers.len() as f64 * rules.quorum).ceil() as usize).max(1);
                for version in versions() {
                    if able(world, *proxy, &version) >= needed {
                        past.quorum.entry(version).or_insert(now);
                    } else {
                        past.quorum.remove(&version);
                    }
                }
            }
            Event::Pinned => self.of.iter_mut().for_each(|past| past.moved = None),
            Event::Moved { proxy, from, choice } => {
                let past = &mut self.of[*proxy];
                let long = |since: Option<Instant>, than| since.is_some_and(|since| now - since >= than);
                let pin = world.proxies[*proxy].core.pin();
                let may = match choice.why {
                    Why::First => from.is_none(),
                    Why::Settled => {
                        long(past.quorum.get(&choice.version).copied(), rules.settle) && pin.is_none()
                    }
                    Why::Fallback => long(past.deserted, rules.fallback),
                    Why::Ordered => pin == Some(&choice.version),
                    Why::Told => false,
                };
                check(may, || format!("{choice:?} after {from:?}"))?;
                check(from.as_ref() != Some(&choice.version), || format!("{choice:?} is no change"))?;
                check(able(world, *proxy, &choice.version) > 0, || format!("{choice:?}, and nobody is"))?;
                let soon = past.moved.is_some_and(|moved| now - moved < rules.fallback.min(rules.settle));
                check(choice.why == Why::Ordered || !soon, || format!("{choice:?}: it never rests"))?;
                (past.moved, past.deserted) = (Some(now), None);
                past.chosen = Some(choice.version.clone());
            }
            _ => {}
        }
        if let Event::Probed { proxy, .. } | Event::Moved { proxy, .. } = event {
            self.deserted(world, *proxy, now);
        }
        Ok(())
    }
}

impl Moves {
    fn deserted(&mut self, world: &World, proxy: usize, now: Instant) {
        // The proxy may have moved already: that is told next.
        let chosen = self.of[proxy].chosen.clone();
        let others = versions().iter().any(|version| able(world, proxy, version) > 0);
        let alone = others && chosen.is_some_and(|chosen| able(world, proxy, &chosen) == 0);
        let past = &mut self.of[proxy];
        past.deserted = alone.then(|| past.deserted.unwrap_or(now));
    }
}

/// In a rolling upgrade each agent sees one change of version, is never left alone for long, and the proxies move alike.
pub(super) struct OneChange {
    saw: Vec<Vec<ServerVersion>>,
    last: Vec<u64>,
    moves: Vec<Vec<(Instant, Why)>>,
}

impl OneChange {
    pub(super) fn of(world: &World) -> Self {
        Self {
            saw: vec![Vec::new(); world.plan.agents],
            last: vec![0; world.plan.agents],
            moves: vec![Vec::new(); world.proxies.len()],
        }
    }
}

impl Watcher for OneChange {
    fn see(&mut self, world: &World, _: &[Candidate<'_>], event: &Event) -> Result<(), String> {
        if world.plan.story != Story::Upgrade {
            return Ok(());
        }
        match event {
            Event::Shown { agent, version } => {
                let (saw, last) = (&mut self.saw[*agent], &mut self.last[*agent]);
                if saw.last() != Some(version) {
                    saw.push(version.clone());
                }
                check(saw.len() <= 2, || format!("agent {agent} saw {saw:?}"))?;
                let alone = Duration::from_millis(world.at - *last);
                // Twice, for the others may be away for a moment, too, and then the time begins anew; and a poll or two.
                let most = world.plan.cohorts.fallback * 2 + Duration::from_secs(30);
                check(alone <= most, || format!("agent {agent} was served by nobody for {alone:?}"))?;
                *last = world.at;
                Ok(())
            }
            Event::Moved { proxy, choice, .. } => {
                let moves = &mut self.moves[*proxy];
                moves.push((world.now(), choice.why));
                check(moves.len() <= 2, || format!("proxy {proxy} moved more than once: {moves:?}"))
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self, world: &World) -> Result<(), String> {
        if world.plan.story != Story::Upgrade {
            return Ok(());
        }
        let [_, old, new] = versions();
        for (agent, saw) in self.saw.iter().enumerate() {
            check(*saw == [old.clone(), new.clone()], || format!("agent {agent} saw {saw:?}"))?;
        }
        let mut at = Vec::new();
        for moves in &self.moves {
            let [(_, Why::First), (moved, _)] = moves.as_slice() else {
                return Err(format!("a proxy changed its choice otherwise than once: {moves:?}"));
            };
            at.push(*moved);
        }
        // They decide by themselves and alike: a blip that only one of them saw begins the time anew, once.
        let apart =
            at.iter().max().zip(at.iter().min()).map(|(last, first)| *last - *first).unwrap_or_default();
        let most = world.plan.cohorts.settle + Duration::from_secs(8);
        check(apart <= most, || format!("the proxies moved {apart:?} apart"))
    }
}
