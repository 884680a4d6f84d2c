//! Gives back to the pool the MAC addresses of instances that are gone.
//!
//! That of an instance which was given up with its silent node is held: the VM may run there all the same, and another one
//! with its address would take its packets. It is free once the node is heard without the VM, is deleted or confirmed to be
//! gone by an operator, or after [`HELD`].

use std::time::Duration;

use super::{MOST, Pass};
use crate::{
    controller::{
        lists::Cache,
        ops::{Ops, OpsError, While},
        records::LeftOn,
        writes::{Draft, Fence, Outcome, Patience},
    },
    model::{InstanceId, MacAddress, Timestamp},
    store::Revision,
};

/// So long an address is held for a VM of a node that is not heard any more: a node that is cut off for longer is one that
/// somebody has looked at.
const HELD: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) struct MacPool;

impl Pass for MacPool {
    const NAME: &'static str = "mac-pool";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        ops.free_macs(Some(held), MOST, ops.inner.clocks.believed()).await
    }
}

/// While what an address is free that was left on a silent node, if it is. Pure.
fn free_while(cache: &Cache, left: &LeftOn, now: Option<Timestamp>) -> Option<While> {
    match cache.node(&left.node) {
        None => Some(While::NodeAt(left.node.clone(), 0)),
        Some(item) if item.record.confirmed => Some(While::NodeAt(left.node.clone(), item.mod_revision)),
        Some(_) => now.is_some_and(|now| now.since(left.since) >= HELD).then_some(While::Always),
    }
}

impl Ops {
    /// Frees addresses whose instance has no record any more, at most so many. The record and its address were made
    /// in one transaction, so one without the other is one that is gone. `now`: the time, if it is to be believed.
    pub(in crate::controller) async fn free_macs(
        &self,
        held: Option<&Fence>,
        most: usize,
        now: Option<Timestamp>,
    ) -> Result<usize, OpsError> {
        let over: Vec<_> = self.inner.lists.peek(|cache| {
            let gone = cache
                .macs()
                .filter(|(_, item)| !item.newer && cache.instance(&item.record.instance).is_none());
            let free = gone.filter_map(|(mac, item)| {
                let left = item.record.left.as_ref();
                let also = left.map_or(Some(While::Always), |left| free_while(cache, left, now))?;
                Some((*mac, item.record.clone(), item.mod_revision, also))
            });
            free.take(most).collect()
        });
        let mut done = 0;
        for (mac, record, revision, also) in over {
            done += usize::from(self.free_mac(mac, (&record.instance, revision), also, held).await?);
        }
        Ok(done)
    }

    /// Frees the address of an instance that is gone. Whether it did.
    pub(in crate::controller) async fn free_mac(
        &self,
        mac: MacAddress,
        (instance, revision): (&InstanceId, Revision),
        also: While,
        held: Option<&Fence>,
    ) -> Result<bool, OpsError> {
        let key = self.inner.keys.mac(mac);
        let gone = self.inner.keys.instance(instance);
        let mut draft = Draft::new(&key).at(&key, revision).at(gone, 0).fenced(held).delete(&key);
        if let While::NodeAt(node, at) = also {
            draft = draft.at(self.inner.keys.node(&node), at);
        }
        let done = matches!(self.inner.writes.commit(draft, Patience::new()).await?, Outcome::Done);
        if done {
            tracing::debug!(mac.address = %mac, instance.id = %instance, "address went back to the pool");
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock,
        controller::duties::expiry::tests::silent_node,
        model::NodeId,
        store::{KeyValue, keys::Keys},
    };

    #[test]
    fn an_address_that_was_left_on_a_silent_node_is_free_once_that_is_gone_or_after_long() {
        let (keys, node, now) = (Keys::new("main"), NodeId::parse("n1").unwrap(), clock::wall());
        let left = LeftOn { node: node.clone(), since: now };
        let cache = |confirmed: bool| {
            let record = silent_node(confirmed);
            let kv = KeyValue {
                key: keys.node(&node),
                value: record.to_string().into(),
                create_revision: 1,
                mod_revision: 1,
                version: 1,
                lease: None,
            };
            let cache = Cache::of(1.0, &keys, vec![kv], 1, clock::now());
            assert_eq!(cache.unreadable(), 0);
            cache
        };
        let at = |revision| Some(While::NodeAt(node.clone(), revision));
        assert_eq!(free_while(&cache(false), &left, Some(now)), None, "it may run there");
        assert_eq!(free_while(&cache(true), &left, Some(now)), at(1), "an operator says that it does not");
        assert_eq!(free_while(&Cache::new(1.0), &left, None), at(0), "its node was deleted");
        let later = now.plus(HELD);
        assert_eq!(free_while(&cache(false), &left, Some(later)), Some(While::Always));
        assert_eq!(free_while(&cache(false), &left, None), None, "by no clock that jumped");
    }
}
