//! Ends starts that no node has taken for too long, and those that none ever will: nothing waits for ever.
//!
//! How long is counted by the wall clock from when the start was accepted, for that outlives every controller and every absence of
//! the store. A clock that jumps ahead ends nothing for a while: all that waits would be ended at once by it.

use std::time::Duration;

use tokio::time::Instant;

use super::{MOST, Pass};
use crate::{
    clock,
    controller::{
        ops::{Beside, Change, GROUP_DELETED, Ops, OpsError},
        records::Phase,
        writes::Fence,
    },
    model::{InstanceId, Timestamp},
};

/// All that waits is looked at so often at least: an instance may come back from a node that is nearly due.
const LOOK: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Scheduling {
    /// Nothing that waited at the last look is due before that: there may be 100,000 of them, and a look is no small thing.
    due: Option<Instant>,
}

impl Pass for Scheduling {
    const NAME: &'static str = "scheduling";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let mut done = 0;
        for (id, group) in ops.of_deleted_groups(MOST) {
            // Only while there is no such group: one that cannot be read here is there all the same.
            let beside = Beside { fence: Some(held), also: Some((group, 0)), ..Beside::default() };
            done += end(ops, &id, GROUP_DELETED, beside).await?;
        }
        if let Some(now) =
            ops.inner.clocks.believed().filter(|_| self.due.is_none_or(|due| due <= clock::now()))
        {
            let (late, rest) = late(ops, now);
            for (id, why) in late {
                done += end(ops, &id, &why, Beside { fence: Some(held), ..Beside::default() }).await?;
            }
            // Only now: what a failure left is looked at in the next pass.
            self.due = Some(clock::now() + rest);
        }
        Ok(done)
    }
}

/// Fails a start that waits. Answers how many that were: none if a node was faster, or it was terminated.
async fn end(ops: &Ops, id: &InstanceId, why: &str, beside: Beside<'_>) -> Result<usize, OpsError> {
    let ended = ops
        .change(id, beside, |record| match record.and_then(|now| now.never_taken(why, clock::wall())) {
            Some(next) => Change::Write(Box::new(next), true),
            None => Change::Leave(false),
        })
        .await;
    match ended {
        Ok(true) => {
            tracing::warn!(instance.id = %id, why, "instance that no node took was failed");
            Ok(1)
        }
        Ok(false) | Err(OpsError::Conflict(_)) => Ok(0),
        // Of this one instance, whatever it is: the others do not wait for it.
        Err(OpsError::BadInput(why)) => {
            tracing::error!(instance.id = %id, error = why, "instance that no node took could not be changed");
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

/// What has waited for too long, and why; and how long nothing else is due.
fn late(ops: &Ops, now: Timestamp) -> (Vec<(InstanceId, String)>, Duration) {
    let limit = ops.inner.config.timeouts.scheduling;
    let within = humantime::format_duration(limit).to_string().replace(' ', "");
    ops.inner.lists.peek(|cache| {
        let mut reasons = ops.reasons(cache);
        let queued = cache.queues().flatten().map(|(_, id, item)| (id, item));
        let (mut late, mut oldest) = (Vec::new(), Duration::ZERO);
        for (id, item) in queued.chain(cache.offers()).filter(|(_, item)| !item.newer) {
            let age = now.since(item.record.created);
            match age >= limit {
                true if late.len() < MOST => late.push((id, item)),
                // In the next pass.
                true => oldest = limit,
                false => oldest = oldest.max(age),
            }
        }
        let late = late.into_iter();
        let late = late.map(|(id, item)| {
            let reason = match &item.record.phase {
                Phase::Offered { node } => format!("node `{node}` has not claimed it"),
                _ => reasons.explain(item.record.clone()).message.clone(),
            };
            (id.clone(), format!("no node took it within {within} (`timeouts.scheduling`): {reason}"))
        });
        (late.collect(), limit.saturating_sub(oldest).min(LOOK))
    })
}
