//! Commands of nodes and distributions: finishes what a controller did not live to give, ends what nothing comes of,
//! forgets what is over.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{MOST, Pass};
use crate::{
    clock,
    controller::{
        lists::{Cache, Item},
        ops::{Ops, OpsError, commands::ALL, distribute::DISTRIBUTIONS},
        records::{CommandRecord, DistributionRecord},
        writes::{Draft, Fence, Outcome, Patience},
    },
    model::{DistributionId, Timestamp},
};

/// A distribution that is over is shown for so long.
const DISTRIBUTION_SHOWN: Duration = Duration::from_secs(24 * 3600);

/// What became of a command of its own is kept for so long.
const COMMAND_KEPT: Duration = Duration::from_secs(3600);

/// How often it is looked for what may be forgotten: that is a look at every command there is.
const FORGET_EVERY: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Commands {
    forgot: Option<Instant>,
}

impl Pass for Commands {
    const NAME: &'static str = "commands";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let (ungiven, canceled) = ops.inner.lists.peek(unfinished);
        let mut done = 0;
        for id in ungiven {
            done += ops.give_parts(&id, Some(held)).await?;
        }
        for id in canceled {
            done += ops.cancel_parts(&id, MOST, Some(held)).await?;
        }
        done += end_stuck(ops, held).await?;
        if self.forgot.is_none_or(|forgot| forgot.elapsed() >= FORGET_EVERY) {
            done += forget(ops, held).await?;
            self.forgot = Some(clock::now());
        }
        Ok(done)
    }
}

/// Distributions that have nodes without a command, and canceled ones with nodes that do not know.
fn unfinished(cache: &Cache) -> (Vec<DistributionId>, Vec<DistributionId>) {
    let all = || cache.commands().distributions().filter(|item| !item.newer).map(|item| &item.record);
    let open = |of: &DistributionRecord| cache.commands().open_parts(&of.id) > 0;
    let ungiven = all().filter(|of| !of.given && of.canceled.is_none()).map(|of| of.id.clone());
    let canceled = all().filter(|of| of.canceled.is_some() && open(of)).map(|of| of.id.clone());
    (ungiven.collect(), canceled.collect())
}

/// Commands of nodes that are gone, and those that their nodes have come no further with for too long.
async fn end_stuck(ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
    let limit = ops.inner.config.timeouts.command;
    // Those of nodes that are gone end at any time.
    let (now, believed) = (clock::wall(), ops.inner.clocks.believed());
    let stuck: Vec<(Item<CommandRecord>, String)> = ops.inner.lists.peek(|cache| {
        let open = cache.commands().open_nodes().flat_map(|node| cache.commands().open(node));
        let open = open.filter(|item| !item.newer);
        let stuck = open.filter_map(|item| {
            let silent = ops.silent_for(&item.record.node);
            Some((item.clone(), why_end(cache, &item.record, limit, silent, believed)?))
        });
        stuck.take(MOST).collect()
    });
    let mut done = 0;
    for (item, why) in stuck {
        let next = item.record.failed(&why, now);
        if ops.change_command(&item, &next, Some(held)).await? {
            let (node, id) = (&next.node, &next.id);
            tracing::warn!(node.id = %node, command.id = %id, what = next.order.word(), error = why, "command was given up");
            done += 1;
        }
    }
    Ok(done)
}

/// Why a command comes to nothing, if it does. `silent`: for so long its node has not reported; `now`: if it may be believed.
fn why_end(
    cache: &Cache,
    command: &CommandRecord,
    limit: Duration,
    silent: Duration,
    now: Option<Timestamp>,
) -> Option<String> {
    let node = &command.node;
    if cache.node(node).is_none() {
        return Some("the node has left the cloud".into());
    }
    if now?.since(cache.commands().moved(command)) < limit {
        return None;
    }
    Some(stuck_for(limit, silent))
}

/// What held up a command that came no further for `limit`. Pure.
fn stuck_for(limit: Duration, silent: Duration) -> String {
    let (limit, silent) = (limit.as_secs(), silent.as_secs());
    match silent {
        0 => format!("it came no further for {limit} s"),
        _ if silent >= limit => format!("the node did not report for {silent} s"),
        _ => format!("it came no further for {limit} s, and its node did not report for the last {silent} s"),
    }
}

/// What has been shown for long enough; sooner, oldest first, when there is too much of it.
async fn forget(ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
    let now = ops.inner.clocks.believed();
    let over: Vec<DistributionId> = ops.inner.lists.peek(|cache| distributions_over(cache, now));
    let mut done = 0;
    for id in over {
        done += forget_distribution(ops, &id, held).await?;
    }
    let old: Vec<Item<CommandRecord>> = ops.inner.lists.peek(|cache| {
        let old = |item: &&Item<CommandRecord>| {
            let kept = match &item.record.of {
                // Its distribution is gone: a step of forgetting it was not taken.
                Some(of) => cache.commands().distribution(of).is_none(),
                None => now.is_some_and(|now| now.since(item.record.updated) >= COMMAND_KEPT),
            };
            kept && item.record.state.is_over() && !item.newer
        };
        cache.commands().all().filter(old).take(MOST).cloned().collect()
    });
    for item in old {
        let key = ops.inner.keys.command(&item.record.node, &item.record.id);
        let draft = Draft::new(&key).at(&key, item.mod_revision).fenced(Some(held)).delete(&key);
        done += usize::from(matches!(ops.inner.writes.commit(draft, Patience::new()).await?, Outcome::Done));
    }
    Ok(done)
}

/// Distributions that are over and were shown for long enough; more of them while there is hardly room for new ones.
fn distributions_over(cache: &Cache, now: Option<Timestamp>) -> Vec<DistributionId> {
    let commands = cache.commands();
    let mut ended = BTreeSet::new();
    for item in commands.distributions().filter(|item| !item.newer) {
        let record = &item.record;
        if commands.open_parts(&record.id) > 0 || !record.given && record.canceled.is_none() {
            continue;
        }
        let last = commands.parts(&record.id).map(|part| part.record.updated).max();
        ended.insert((last.max(record.canceled).unwrap_or(record.created), record.id.clone()));
    }
    let count = commands.distributions().count();
    let crowded = count > DISTRIBUTIONS * 9 / 10 || commands.count() > ALL * 9 / 10;
    let surplus = if crowded { (count / 10).max(1) } else { 0 };
    let due = |at: usize, end: &Timestamp| {
        at < surplus || now.is_some_and(|now| now.since(*end) >= DISTRIBUTION_SHOWN)
    };
    let due = ended.iter().enumerate().filter(|(at, (end, _))| due(*at, end));
    due.map(|(_, (_, id))| id.clone()).take(MOST).collect()
}

/// The record first: what is left of it then is found by the next pass.
async fn forget_distribution(ops: &Ops, id: &DistributionId, held: &Fence) -> Result<usize, OpsError> {
    let revision =
        ops.inner.lists.peek(|cache| cache.commands().distribution(id).map(|item| item.mod_revision));
    let Some(revision) = revision else { return Ok(0) };
    let key = ops.inner.keys.distribution(id);
    let draft = Draft::new(&key).at(&key, revision).fenced(Some(held)).delete(&key);
    Ok(usize::from(matches!(ops.inner.writes.commit(draft, Patience::new()).await?, Outcome::Done)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_held_up_a_command_is_not_what_holds_it_up_now() {
        let after = |seconds| stuck_for(Duration::from_secs(3600), Duration::from_secs(seconds));
        assert_eq!(after(0), "it came no further for 3600 s");
        assert_eq!(after(10), "it came no further for 3600 s, and its node did not report for the last 10 s");
        assert_eq!(after(4000), "the node did not report for 4000 s");
    }
}
