//! Finishes starts whose controller did not live to do it.

use std::time::Duration;

use super::{MOST, Pass};
use crate::controller::{
    ops::{Ops, OpsError},
    writes::Fence,
};

/// A start is left to whoever accepted it for so long since its last step.
const LEAVE_IT: Duration = Duration::from_secs(1);

pub(super) struct Starts;

impl Pass for Starts {
    const NAME: &'static str = "starts";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let unfinished: Vec<_> = ops.inner.lists.peek(|cache| {
            let open = cache.starts().filter(|(_, item)| !item.newer && !item.record.unmade().is_empty());
            open.filter(|(_, item)| item.seen.elapsed() >= LEAVE_IT)
                .map(|(id, _)| id.clone())
                .take(MOST)
                .collect()
        });
        let mut done = 0;
        for id in unfinished {
            match ops.make_instances(&id, Some(held)).await {
                Ok(()) => {
                    tracing::info!(start.id = %id, "start was finished by the duty");
                    done += 1;
                }
                Err(OpsError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
