//! Offers that nobody claimed go back. Not a singleton: every controller counts by its own watch and clock, so an
//! offer does not wait for a leader, and whoever is second finds it done.

use std::time::Duration;

use crate::{
    controller::ops::{Ops, OpsError},
    model::NodeId,
    supervise::Stop,
};

/// How often open offers are looked at, as a part of the claim's time.
const LOOKS: u32 = 10;

/// The loop.
pub(in crate::controller) struct Offers {
    pub(in crate::controller) ops: Ops,
}

impl Offers {
    /// Returns offers until `stop`.
    pub(in crate::controller) async fn run(self, stop: Stop) {
        let claim = self.ops.inner.config.timeouts.claim;
        let every = (claim / LOOKS).clamp(Duration::from_millis(10), Duration::from_millis(300));
        loop {
            let jitter = every.mul_f64(rand::random_range(0.8..1.2));
            tokio::select! {
                () = stop.requested() => return,
                () = tokio::time::sleep(jitter) => {}
            }
            if !self.ops.inner.health.cache_live() {
                continue;
            }
            let late: Vec<_> = self.ops.inner.lists.peek(|cache| {
                let late = cache.offers().filter(|(_, item)| !item.newer && item.seen.elapsed() >= claim);
                let named = late.filter_map(|(id, item)| {
                    let node: NodeId = item.record.node()?.clone();
                    Some((id.clone(), node, item.record.attempt))
                });
                named.take(super::MOST).collect()
            });
            for (id, node, attempt) in late {
                match self.ops.return_offer(&id, &node, attempt).await {
                    Ok(true) => {
                        tracing::info!(instance.id = %id, node.id = %node, attempt, "offer was not claimed in time");
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(instance.id = %id, error = %error, "offer could not be returned yet");
                        // With the store out of reach the others would only wait as long for the same answer.
                        if matches!(error, OpsError::Unavailable { .. } | OpsError::Unknown(_)) {
                            break;
                        }
                    }
                }
            }
        }
    }
}
