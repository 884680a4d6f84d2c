//! Gives back to the pool the MAC addresses of instances that are gone.

use super::{MOST, Pass};
use crate::controller::{
    ops::{Ops, OpsError},
    writes::{Draft, Fence, Outcome, Patience},
};

pub(super) struct MacPool;

impl Pass for MacPool {
    const NAME: &'static str = "mac-pool";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        ops.free_macs(Some(held), MOST).await
    }
}

impl Ops {
    /// Frees addresses whose instance has no record any more, at most so many. The record and its address were made
    /// in one transaction, so one without the other is one that is gone.
    pub(in crate::controller) async fn free_macs(
        &self,
        held: Option<&Fence>,
        most: usize,
    ) -> Result<usize, OpsError> {
        let over: Vec<_> = self.inner.lists.peek(|cache| {
            let gone = cache
                .macs()
                .filter(|(_, item)| !item.newer && cache.instance(&item.record.instance).is_none());
            gone.map(|(mac, item)| (*mac, item.record.instance.clone(), item.mod_revision))
                .take(most)
                .collect()
        });
        let mut done = 0;
        for (mac, instance, revision) in over {
            let key = self.inner.keys.mac(mac);
            let draft = Draft::new(&key)
                .at(&key, revision)
                .at(self.inner.keys.instance(&instance), 0)
                .fenced(held)
                .delete(&key);
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                tracing::debug!(mac.address = %mac, instance.id = %instance, "address went back to the pool");
                done += 1;
            }
        }
        Ok(done)
    }
}
