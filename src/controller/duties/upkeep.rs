//! Forgets history that nobody reads any more, and has members of the store make their files anew, one after the other.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::Pass;
use crate::{
    clock,
    controller::{
        ops::{Ops, OpsError},
        writes::Fence,
    },
    store::{Alarm, Consistency, Revision, Said, Standing},
};

/// How long a round of defragmentation waits for all members to be well before it is put off to the next one.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to do next in a round of defragmentation.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Have this member make its file anew.
    Member(String),
    /// Not now, and why.
    Wait(String),
    /// Everybody's is done.
    Over,
}

/// Pure: who is next, of members that stand so, when these are done. Nobody while one is not well: two that answer
/// nothing may be the majority. The leader is last, for its turn costs an election.
fn next(members: &[Standing], done: &BTreeSet<String>) -> Next {
    let mut well: Vec<(&String, &Said)> = Vec::new();
    for Standing { member, said } in members {
        match said {
            Err(why) => return Next::Wait(format!("{member} does not answer: {why}")),
            Ok(said) if said.alarms.iter().any(|(_, alarm)| *alarm == Alarm::Corrupt) => {
                return Next::Wait(format!(
                    "{member} knows of a member with other data than the rest (CORRUPT)"
                ));
            }
            Ok(said) if said.leader.is_none() => return Next::Wait(format!("{member} knows no leader")),
            Ok(said) => well.push((member, said)),
        }
    }
    let leader = well.first().and_then(|(_, said)| said.leader);
    if let Some((other, _)) = well.iter().find(|(_, said)| said.leader != leader) {
        return Next::Wait(format!("{other} knows another leader"));
    }
    let left = || well.iter().filter(|(member, _)| !done.contains(*member));
    let follower = left().find(|(_, said)| Some(said.id) != leader);
    match follower.or_else(|| left().next()) {
        Some((member, _)) => Next::Member((*member).clone()),
        None => Next::Over,
    }
}

#[derive(Default)]
pub(super) struct Upkeep {
    /// When it was compacted last, and what was the newest revision then.
    compacted: Option<(Instant, Revision)>,
    /// When the last round of defragmentation ended, or when this run began to count.
    rested: Option<Instant>,
    round: Option<Round>,
}

/// A round of defragmentation.
struct Round {
    since: Instant,
    done: BTreeSet<String>,
    told: bool,
}

impl Pass for Upkeep {
    const NAME: &'static str = "upkeep";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let done = self.compact(ops, held).await?;
        Ok(done + self.defragment(ops, held).await?)
    }
}

/// Whether the leader's key still stands, by the store itself: for what is no transaction.
async fn still_held(ops: &Ops, held: &Fence) -> Result<bool, OpsError> {
    let kv = ops.inner.store.get(&held.key, Consistency::Linearizable).await?.kv;
    Ok(kv.is_some_and(|kv| kv.create_revision == held.created))
}

impl Upkeep {
    /// Forgets what was history when it was done last: at least one interval is kept, for watches that go on after a
    /// break. Doing it twice does nothing.
    async fn compact(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let every = ops.inner.config.store.upkeep.compact_every;
        if every.is_zero() || self.compacted.is_some_and(|(at, _)| at.elapsed() < every) {
            return Ok(0);
        }
        let newest = ops.inner.store.get(&ops.inner.keys.head(), Consistency::Linearizable).await?.revision;
        let before = self.compacted.replace((clock::now(), newest));
        let Some((_, revision)) = before.filter(|(_, revision)| *revision > 0) else { return Ok(0) };
        if !still_held(ops, held).await? {
            return Ok(0);
        }
        ops.inner.store.compact(revision).await?;
        tracing::debug!(store.revision = revision, "history of the store was forgotten");
        ops.inner.numbers.compacted();
        Ok(1)
    }

    /// One member in one pass.
    async fn defragment(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let every = ops.inner.config.store.upkeep.defragment_every;
        let now = clock::now();
        if every.is_zero() || self.rested.get_or_insert(now).elapsed() < every {
            return Ok(0);
        }
        let begun = || Round { since: now, done: BTreeSet::new(), told: false };
        let round = self.round.get_or_insert_with(begun);
        let member = match next(&ops.inner.store.standing().await, &round.done) {
            Next::Member(member) => member,
            Next::Wait(why) => {
                if !std::mem::replace(&mut round.told, true) {
                    tracing::warn!(why, "defragmentation waits until all members of the store are well");
                }
                if round.since.elapsed() >= PATIENCE {
                    self.rest();
                }
                return Ok(0);
            }
            Next::Over => {
                self.rest();
                return Ok(0);
            }
        };
        if !still_held(ops, held).await? {
            self.round = None;
            return Ok(0);
        }
        let began = clock::now();
        match ops.inner.store.defragment(&member).await {
            Ok(()) => {
                tracing::info!(
                    store.member = %member,
                    seconds = began.elapsed().as_secs_f64(),
                    "member of the store made its file anew"
                );
                ops.inner.numbers.defragmented();
                round.done.insert(member);
                Ok(1)
            }
            Err(error) => {
                // Of a refusal the next try brings another one; of the rest nobody knows how far it came.
                tracing::warn!(store.member = %member, error = %error, "defragmentation failed and is put off");
                self.rest();
                Ok(0)
            }
        }
    }

    fn rest(&mut self) {
        (self.round, self.rested) = (None, Some(clock::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, id: u64, leader: Option<u64>) -> Standing {
        Standing { member: name.into(), said: Ok(Said { id, leader, ..Said::default() }) }
    }

    fn order(members: &[Standing]) -> Vec<String> {
        let mut done = BTreeSet::new();
        while let Next::Member(member) = next(members, &done) {
            assert!(done.insert(member), "nobody twice");
        }
        assert_eq!(next(members, &done), Next::Over);
        let mut again = BTreeSet::new();
        std::iter::from_fn(|| match next(members, &again) {
            Next::Member(member) => {
                again.insert(member.clone());
                Some(member)
            }
            _ => None,
        })
        .collect()
    }

    #[test]
    fn everybody_has_a_turn_and_the_leader_the_last() {
        let members = [member("a", 1, Some(1)), member("b", 2, Some(1)), member("c", 3, Some(1))];
        assert_eq!(order(&members), ["b", "c", "a"]);
        assert_eq!(order(&[member("a", 1, Some(1))]), ["a"]);
        assert_eq!(next(&[], &BTreeSet::new()), Next::Over);
    }

    #[test]
    fn nobody_has_a_turn_while_one_is_not_well() {
        let away = Standing { member: "c".into(), said: Err("connection refused".into()) };
        let none = BTreeSet::new();
        let waits = |members: &[Standing]| matches!(next(members, &none), Next::Wait(_));
        assert!(waits(&[member("a", 1, Some(1)), member("b", 2, Some(1)), away]));
        assert!(waits(&[member("a", 1, Some(1)), member("b", 2, None)]));
        let corrupt = Said { id: 1, leader: Some(1), alarms: vec![(2, Alarm::Corrupt)], ..Said::default() };
        assert!(waits(&[Standing { member: "a".into(), said: Ok(corrupt.clone()) }]));
        // Without room it is what helps.
        let full = Said { alarms: vec![(2, Alarm::NoSpace)], ..corrupt };
        assert!(!waits(&[Standing { member: "a".into(), said: Ok(full) }]));
        assert!(waits(&[member("a", 1, Some(1)), member("b", 2, Some(2))]));
    }
}
