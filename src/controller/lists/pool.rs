//! What the cache knows of the pool of MAC addresses, and of who may work on the store.

use std::collections::{BTreeSet, HashMap};

use super::{Cache, Item};
use crate::{
    controller::records::MacRecord,
    model::{MacAddress, NodeId},
};

/// MAC addresses that somebody has.
#[derive(Debug, Default)]
pub(super) struct Macs {
    all: HashMap<MacAddress, Item<MacRecord>>,
    /// Those that are held for VMs which silent nodes may still run.
    left: HashMap<NodeId, BTreeSet<MacAddress>>,
}

impl Macs {
    pub(super) fn put(&mut self, mac: MacAddress, item: Item<MacRecord>) {
        self.remove(&mac);
        if let Some(left) = &item.record.left {
            self.left.entry(left.node.clone()).or_default().insert(mac);
        }
        self.all.insert(mac, item);
    }

    pub(super) fn remove(&mut self, mac: &MacAddress) {
        let Some(old) = self.all.remove(mac) else { return };
        if let Some(left) = &old.record.left
            && let Some(of_node) = self.left.get_mut(&left.node)
        {
            of_node.remove(mac);
            if of_node.is_empty() {
                self.left.remove(&left.node);
            }
        }
    }
}

impl Cache {
    /// Why this controller must leave the store alone, if it must: a newer version has written it.
    pub fn forbidden(&self) -> Option<&str> {
        self.forbidden.as_deref()
    }

    /// MAC addresses that instances have, or had.
    pub fn macs(&self) -> impl Iterator<Item = (&MacAddress, &Item<MacRecord>)> {
        self.macs.all.iter()
    }

    /// Who has this address.
    pub fn mac(&self, mac: &MacAddress) -> Option<&Item<MacRecord>> {
        self.macs.all.get(mac)
    }

    /// Whether somebody has this address, known or not.
    pub fn has_mac(&self, mac: &MacAddress) -> bool {
        self.macs.all.contains_key(mac)
    }

    /// Addresses that are held for VMs which this node may still run, of instances that are gone.
    pub fn left_on(&self, node: &NodeId) -> impl Iterator<Item = (&MacAddress, &Item<MacRecord>)> {
        let of_node = self.macs.left.get(node).into_iter().flatten();
        let held = of_node.filter_map(|mac| self.macs.all.get_key_value(mac));
        held.filter(|(_, item)| !item.newer && !self.instances.contains_key(&item.record.instance))
    }

    /// All of these addresses.
    pub fn held_macs(&self) -> impl Iterator<Item = &MacAddress> {
        self.macs.left.values().flatten()
    }
}
