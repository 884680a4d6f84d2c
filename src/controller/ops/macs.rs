//! The pool of MAC addresses: which are free, who gets one, what operators see of it.

use std::collections::HashSet;

use super::{Ops, OpsError, lock};
use crate::{
    controller::{
        lists::{Cache, Seen},
        reconcile::is_there,
    },
    model::{InstanceId, MacAddress, MacRange, NodeId},
    store::Revision,
    wire::agent::SeenVm,
};

/// Most addresses of one page.
const PAGE: usize = 1000;

/// Why the rest of a start is not made yet.
pub(super) const NONE: &str = "no MAC address is free for it: terminate other instances, or give `range` in `[mac_pool]` \
                               more of them";

/// What else must hold when an address is freed.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::controller) enum While {
    /// Nothing.
    Always,
    /// The node's record is as it was put at this revision: one that comes back in between may have the VM.
    NodeAt(NodeId, Revision),
}

/// What is asked of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacAsk {
    /// How many there are.
    All,
    /// How many instances have.
    InUse,
    /// How many nobody has.
    Free,
    /// The addresses behind this one, at most so many.
    Page(Option<MacAddress>, usize),
}

/// What the pool answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MacAnswer {
    /// A number of them.
    Count(u64),
    /// Some of them, in order.
    Page(Vec<MacAddress>),
}

fn in_use(cache: &Cache, range: MacRange) -> u64 {
    cache.macs().filter(|(mac, _)| range.contains(**mac)).count() as u64
}

/// Addresses that nobody has.
pub(super) fn free(cache: &Cache, range: MacRange) -> u64 {
    range.count().saturating_sub(in_use(cache, range))
}

/// Addresses whose instance is gone, and which a silent node's VM may still have.
pub(super) fn held(cache: &Cache, range: MacRange) -> u64 {
    cache.held_macs().filter(|mac| range.contains(**mac)).count() as u64
}

/// So many free addresses, from a random place on; fewer when there are no more.
pub(super) fn draw(cache: &Cache, range: MacRange, count: usize, start: u64) -> Vec<MacAddress> {
    range.starting_at(start).filter(|mac| !cache.has_mac(mac)).take(count).collect()
}

impl Ops {
    /// The range of the pool, if instances get their addresses from it.
    pub(super) fn mac_range(&self) -> Option<MacRange> {
        let pool = self.inner.config.mac_pool;
        pool.manage
            .then(|| pool.range.unwrap_or_else(|| MacRange::of_cluster(&self.inner.config.store.cluster)))
    }

    /// Frees the addresses of VMs that a node, which was silent, does not have: two reports have not named them. The first may
    /// have been written down before the node had looked.
    pub(super) async fn release_macs(&self, node: &NodeId, vms: &[SeenVm]) -> Result<(), OpsError> {
        let there: HashSet<&InstanceId> =
            vms.iter().filter(|vm| is_there(vm)).map(|vm| &vm.instance).collect();
        let left: Vec<(MacAddress, InstanceId, Revision)> = self.inner.lists.peek(|cache| {
            let not_there = cache.left_on(node).filter(|(_, item)| !there.contains(&item.record.instance));
            not_there.map(|(mac, item)| (*mac, item.record.instance.clone(), item.mod_revision)).collect()
        });
        if left.is_empty() {
            return Ok(());
        }
        let sure: Vec<_> = {
            let mut memory = lock(&self.inner.heard);
            let counts = &mut memory.entry(node.clone()).or_default().left;
            counts.retain(|mac, _| left.iter().any(|(of, ..)| of == mac));
            let mut sure = Vec::new();
            for one in left {
                let count = counts.entry(one.0).or_default();
                *count += 1;
                if *count >= 2 {
                    sure.push(one);
                }
            }
            sure
        };
        for (mac, instance, revision) in sure {
            self.free_mac(mac, (&instance, revision), While::Always, None).await?;
        }
        Ok(())
    }

    fn managed(&self) -> Result<MacRange, OpsError> {
        self.mac_range().ok_or_else(|| {
            OpsError::Conflict("MAC addresses are not managed here: `manage` in `[mac_pool]` is off".into())
        })
    }

    /// Looks at the pool.
    ///
    /// # Errors
    /// `Conflict` when addresses are not managed; `Unavailable`.
    pub async fn macs(&self, ask: MacAsk) -> Result<Seen<MacAnswer>, OpsError> {
        let range = self.managed()?;
        let seen = self.inner.lists.read(|cache| match ask {
            MacAsk::All => MacAnswer::Count(range.count()),
            MacAsk::InUse => MacAnswer::Count(in_use(cache, range)),
            MacAsk::Free => MacAnswer::Count(free(cache, range)),
            MacAsk::Page(last, limit) => {
                MacAnswer::Page(range.after(last).take(limit.clamp(1, PAGE)).collect())
            }
        });
        seen.await
    }

    /// Has every address of an instance that is gone be free at once, without waiting for the duty.
    ///
    /// # Errors
    /// `Conflict` when addresses are not managed; `Unavailable`.
    pub async fn refill_macs(&self) -> Result<(), OpsError> {
        self.managed()?;
        self.loaded()?;
        self.inner.lists.catch_up().await?;
        self.free_macs(None, usize::MAX, None).await.map(drop)
    }

    /// Refuses a start for which the pool has too few, before anything of it is stored.
    pub(super) fn has_macs(&self, given: Option<MacAddress>, count: usize) -> Result<(), OpsError> {
        let Some(range) = self.mac_range() else { return Ok(()) };
        self.inner.lists.peek(|cache| match given {
            Some(mac) => match cache.mac(&mac).map(|item| &item.record) {
                Some(of) => Err(OpsError::Conflict(match &of.left {
                    None => format!("mac_address {mac} is that of instance `{}`", of.instance),
                    Some(left) => format!(
                        "mac_address {mac} was that of instance `{}`, whose VM may still run on node `{}`: delete that node if \
                         it is gone",
                        of.instance, left.node
                    ),
                })),
                None => Ok(()),
            },
            None => {
                // What starts that were accepted have yet to make needs its addresses too.
                let promised: usize = cache.starts().map(|(_, item)| item.record.unmade().len()).sum();
                let free = free(cache, range).saturating_sub(promised as u64);
                if free >= count as u64 {
                    return Ok(());
                }
                let held = match held(cache, range) {
                    0 => String::new(),
                    held => format!(" ({held} are held for VMs that silent nodes may still run)"),
                };
                Err(OpsError::Conflict(format!(
                    "{free} MAC addresses are free{held}, and the start needs {count}: terminate instances, or give \
                     `range` in `[mac_pool]` more of them"
                )))
            }
        })
    }

    /// VLANs that instances on nodes use, each once.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn vlans(&self) -> Result<Seen<Vec<String>>, OpsError> {
        let seen = self.inner.lists.read(|cache| {
            let placed = cache.instances().filter(|(_, item)| item.record.node().is_some());
            let used: HashSet<&String> =
                placed.map(|(_, item)| &item.record.spec.vlan).filter(|vlan| !vlan.is_empty()).collect();
            let mut used: Vec<String> = used.into_iter().cloned().collect();
            used.sort_by_key(|vlan| (vlan.parse::<u32>().unwrap_or(u32::MAX), vlan.clone()));
            used
        });
        seen.await
    }
}
