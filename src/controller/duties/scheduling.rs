//! Ends starts that no node has taken for too long, and those that none ever will: nothing waits for ever.
//!
//! How long is counted by the wall clock from when the start was accepted, for that outlives every controller and every absence of
//! the store. A clock that jumps ahead ends nothing for a while: all that waits would be ended at once by it.

use std::time::Duration;

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

/// So far a wall clock may be ahead of where it was, as counted by the one that does not jump.
const JUMP: i64 = 60;

/// So long a clock that jumped further is not believed: time to set it right.
const DOUBT: Duration = Duration::from_secs(600);

pub(super) struct Scheduling {
    clock: Steady,
}

impl Default for Scheduling {
    fn default() -> Self {
        Self { clock: Steady { ahead: ahead(clock::wall(), clock::boot()), doubted: None } }
    }
}

/// Whether the wall clock is believed.
struct Steady {
    /// Seconds that it was ahead of the clock that does not jump, when it was last believed.
    ahead: i64,
    /// Since when it is not, by the other clock.
    doubted: Option<Duration>,
}

fn ahead(wall: Timestamp, boot: Duration) -> i64 {
    wall.unix_seconds().saturating_sub(i64::try_from(boot.as_secs()).unwrap_or(i64::MAX))
}

impl Steady {
    /// Whether what waits may be ended by the wall clock. One that goes back, or a little ahead, is believed at once.
    fn believes(&mut self, wall: Timestamp, boot: Duration) -> bool {
        let ahead = ahead(wall, boot);
        let jumped = ahead.saturating_sub(self.ahead);
        if jumped > JUMP {
            if self.doubted.is_none() {
                tracing::warn!(
                    seconds = jumped,
                    "this controller's clock jumped ahead; no start is ended by it for {} minutes, unless it is set back",
                    DOUBT.as_secs() / 60
                );
            }
            if boot.saturating_sub(*self.doubted.get_or_insert(boot)) < DOUBT {
                return false;
            }
        }
        (self.ahead, self.doubted) = (ahead, None);
        true
    }
}

impl Pass for Scheduling {
    const NAME: &'static str = "scheduling";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let mut done = 0;
        for (id, group) in ops.of_deleted_groups(MOST) {
            // Only while there is no such group: one that cannot be read here is there all the same.
            let beside = Beside { fence: Some(held), also: Some((group, 0)), presence: None };
            done += end(ops, &id, GROUP_DELETED, beside).await?;
        }
        if self.clock.believes(clock::wall(), clock::boot()) {
            for (id, why) in late(ops) {
                done += end(ops, &id, &why, Beside { fence: Some(held), ..Beside::default() }).await?;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_ahead_ends_nothing_until_it_was_time_to_set_it_right() {
        let at = |wall: i64, boot: u64| (Timestamp::from_unix_seconds(wall), Duration::from_secs(boot));
        let mut clock = Steady { ahead: 1_000_000, doubted: None };
        let mut believes = |wall, boot| {
            let (wall, boot) = at(wall, boot);
            clock.believes(wall, boot)
        };
        assert!(believes(1_000_010, 10) && believes(1_000_075, 20), "it is corrected a little");
        assert!(!believes(1_100_000, 30) && !believes(1_100_590, 620), "a day ahead");
        assert!(believes(1_000_640, 640), "set back");
        assert!(
            !believes(1_200_000, 700) && !believes(1_200_599, 1299) && believes(1_200_600, 1300),
            "it stays so"
        );
        assert!(believes(1_200_700, 1400) && believes(1_000_000, 1500), "back is no danger");
    }
}
