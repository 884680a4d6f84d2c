//! Removes what has been shown long enough: ended instances, start records, API keys, scripts that nothing points to.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use super::{MOST, Pass};
use crate::{
    clock,
    controller::{
        lists::{Cache, Item},
        ops::{Beside, Change, Ops, OpsError},
        records::{Absence, InstanceRecord, Phase},
        writes::{Draft, Fence, Outcome, Patience},
    },
    model::{InstanceId, StartId},
    store::Range,
};

/// How often scripts without a start are looked for. A script is one only if two looks in a row find it: it is
/// stored before the start that points to it.
const ORPHANS_EVERY: Duration = Duration::from_secs(1800);

/// Keys of one look.
const ORPHANS_PAGE: i64 = 1000;

#[derive(Default)]
pub(super) struct Expiry {
    looked: Option<Instant>,
    suspects: HashSet<String>,
    after: Option<String>,
}

impl Pass for Expiry {
    const NAME: &'static str = "expiry";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let mut done = instances(ops, held).await?;
        done += starts(ops, held).await?;
        done += api_keys(ops, held).await?;
        if self.looked.is_none_or(|looked| looked.elapsed() >= ORPHANS_EVERY) {
            self.looked = Some(clock::now());
            done += self.scripts(ops, held).await?;
        }
        Ok(done)
    }
}

/// Whether an ended instance has been shown for long enough. Counted since this controller saw it end, not by the
/// record's time: wall clocks differ.
fn is_over(cache: &Cache, item: &Item<InstanceRecord>, visible: Duration) -> bool {
    let lost = |node| cache.node(node).is_none_or(|node| node.record.absence == Some(Absence::Lost));
    let ended = match &item.record.phase {
        Phase::Terminated { .. } | Phase::Terminating { node: None, .. } => true,
        // Its node will not confirm it any more. Should the node return, it stops what no record knows.
        Phase::Terminating { node: Some(node), .. } => lost(node),
        _ => false,
    };
    ended && !item.newer && item.seen.elapsed() >= visible
}

async fn instances(ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
    let visible = ops.inner.config.timeouts.instance_visible;
    let over: Vec<(InstanceId, Phase)> = ops.inner.lists.peek(|cache| {
        let over = cache.instances().filter(|(_, item)| is_over(cache, item, visible));
        over.map(|(id, item)| (id.clone(), item.record.phase.clone())).take(MOST).collect()
    });
    let mut done = 0;
    for (id, phase) in over {
        let beside = Beside { fence: Some(held), ..Beside::default() };
        let removed = ops
            .change(&id, beside, |now| match now {
                Some(now) if now.phase == phase => Change::Delete(true),
                _ => Change::Leave(false),
            })
            .await;
        match removed {
            Ok(removed) => done += usize::from(removed),
            Err(OpsError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Start records whose key's time is over, with their scripts. One whose instances may still be offered stays:
/// the offer reads the script.
async fn starts(ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
    let now = clock::wall();
    let over: Vec<_> = ops.inner.lists.peek(|cache| {
        let waits = |id: &StartId| {
            cache.of_start(id).any(|item| {
                let phase = &item.record.phase;
                matches!(phase, Phase::Queued { .. } | Phase::Offered { .. } | Phase::Claimed { .. })
            })
        };
        let over = cache.starts().filter(|(id, item)| {
            item.record.expires < now && item.record.unmade().is_empty() && !item.newer && !waits(id)
        });
        over.map(|(id, item)| (id.clone(), item.record.clone(), item.mod_revision)).take(MOST).collect()
    });
    let mut done = 0;
    for (id, record, revision) in over {
        let key = ops.inner.keys.start(&id);
        let mut draft = Draft::new(&key).at(&key, revision).fenced(Some(held)).delete(&key);
        if let Some(script) = &record.spec.script {
            draft = draft.delete_prefix(&ops.inner.keys.scripts(&script.at));
        }
        if let Outcome::Done = ops.inner.writes.commit(draft, Patience::new()).await? {
            done += 1;
        }
    }
    Ok(done)
}

/// API keys that have been refused for so long that nobody will prolong them.
async fn api_keys(ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
    let now = clock::wall();
    let over: Vec<_> = ops.inner.lists.peek(|cache| {
        let over = cache.api_keys().filter(|(_, item)| item.record.is_over(now) && !item.newer);
        over.map(|(id, item)| (id.clone(), item.mod_revision)).take(MOST).collect()
    });
    let mut done = 0;
    for (id, revision) in over {
        let key = ops.inner.keys.api_key(&id);
        let draft = Draft::new(&key).at(&key, revision).fenced(Some(held)).delete(&key);
        if let Outcome::Done = ops.inner.writes.commit(draft, Patience::new()).await? {
            done += 1;
        }
    }
    Ok(done)
}

impl Expiry {
    /// Scripts whose start was never accepted: its controller ended in between.
    async fn scripts(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let prefix = ops.inner.keys.all_scripts();
        let mut range = Range { keys_only: true, ..Range::prefix(&prefix) }.limit(ORPHANS_PAGE);
        if let Some(after) = &self.after {
            range = range.after(after);
        }
        let page = ops.inner.store.range(range).await?;
        self.after = if page.more { page.kvs.last().map(|kv| kv.key.clone()) } else { None };
        let folders: HashSet<String> = page
            .kvs
            .iter()
            .filter_map(|kv| kv.key.strip_prefix(&prefix)?.split_once('/').map(|(at, _)| at.to_owned()))
            .collect();
        let known: HashSet<String> = ops.inner.lists.peek(|cache| {
            let of_starts = cache.starts().filter_map(|(_, item)| item.record.spec.script.as_ref());
            let of_instances = cache.instances().filter_map(|(_, item)| item.record.spec.script.as_ref());
            of_starts.chain(of_instances).map(|script| script.at.to_string()).collect()
        });
        let mut done = 0;
        let orphans: HashSet<String> = folders.difference(&known).cloned().collect();
        for at in orphans.intersection(&self.suspects) {
            let Ok(at) = StartId::parse(at.clone()) else { continue };
            let folder = ops.inner.keys.scripts(&at);
            let first = ops.inner.keys.script_chunk(&at, 0);
            let draft = Draft::new(first).fenced(Some(held)).delete_prefix(&folder);
            if let Outcome::Done = ops.inner.writes.commit(draft, Patience::new()).await? {
                tracing::info!(script.at = %at, "script without a start was removed");
                done += 1;
            }
        }
        self.suspects = orphans;
        Ok(done)
    }
}
