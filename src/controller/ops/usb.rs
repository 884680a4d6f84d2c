//! USB devices of nodes: which there are, and which VMs have.

use std::collections::BTreeMap;

use super::{Ops, OpsError};
use crate::{
    controller::{
        lists::{Cache, Seen},
        records::NodeRecord,
    },
    wire::node::{UsbCount, UsbDevice},
};

/// The devices of a node.
pub(super) fn of_node(cache: &Cache, node: &NodeRecord) -> Vec<UsbDevice> {
    let shown = |name: &String| UsbDevice { name: name.clone(), busy: cache.usb_busy(name, &node.id) };
    node.facts.usb_devices.iter().map(shown).collect()
}

impl Ops {
    /// How many devices of each name there are on nodes that report.
    pub async fn usb_devices(&self) -> Result<Seen<BTreeMap<String, UsbCount>>, OpsError> {
        let all = self.inner.lists.read(|cache| {
            let mut all: BTreeMap<String, UsbCount> = BTreeMap::new();
            let present = cache
                .nodes()
                .filter(|(id, item)| cache.presence(id).is_some() && item.record.absence.is_none());
            for device in present.flat_map(|(_, item)| of_node(cache, &item.record)) {
                let count = all.entry(device.name).or_default();
                *(if device.busy { &mut count.busy } else { &mut count.available }) += 1;
            }
            all
        });
        all.await
    }
}
