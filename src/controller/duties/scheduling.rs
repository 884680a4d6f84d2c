//! Ends starts that no node has taken for too long: nothing waits for ever.
//!
//! Counted by the wall clock from when the start was accepted, for that outlives every controller and every absence of
//! the store.

use super::{MOST, Pass};
use crate::{
    clock,
    controller::{
        ops::{Beside, Change, Ops, OpsError},
        records::Phase,
        writes::Fence,
    },
    model::InstanceId,
};

pub(super) struct Scheduling;

impl Pass for Scheduling {
    const NAME: &'static str = "scheduling";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let mut done = 0;
        for (id, why) in late(ops) {
            let beside = Beside { fence: Some(held), ..Beside::default() };
            let ended = ops
                .change(&id, beside, |record| {
                    match record.and_then(|now| now.never_taken(&why, clock::wall())) {
                        Some(next) => Change::Write(Box::new(next), true),
                        None => Change::Leave(false),
                    }
                })
                .await;
            match ended {
                Ok(true) => {
                    tracing::warn!(instance.id = %id, why, "instance waited too long for a node and was failed");
                    done += 1;
                }
                // A node was faster, or it was terminated.
                Ok(false) | Err(OpsError::Conflict(_)) => {}
                // Of this one instance, whatever it is: the others do not wait for it.
                Err(OpsError::BadInput(why)) => {
                    tracing::error!(instance.id = %id, error = why, "instance that waited too long could not be changed");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// What has waited for too long, and why.
fn late(ops: &Ops) -> Vec<(InstanceId, String)> {
    let (limit, now) = (ops.inner.config.timeouts.scheduling, clock::wall());
    let within = humantime::format_duration(limit).to_string().replace(' ', "");
    ops.inner.lists.peek(|cache| {
        let mut reasons = ops.reasons(cache);
        let queued = cache.queues().flatten().map(|(_, id, item)| (id, item));
        let late = queued
            .chain(cache.offers())
            .filter(|(_, item)| !item.newer && now.since(item.record.created) >= limit)
            .take(MOST);
        late.map(|(id, item)| {
            let reason = match &item.record.phase {
                Phase::Offered { node } => format!("node `{node}` has not claimed it"),
                _ => reasons.explain(item.record.clone()).message.clone(),
            };
            (id.clone(), format!("no node took it within {within} (`timeouts.scheduling`): {reason}"))
        })
        .collect()
    })
}
