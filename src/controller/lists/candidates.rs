//! Nodes as scheduling sees them, by what is in the cache.

use super::{Cache, Item};
use crate::{
    controller::{
        records::{InstanceRecord, InstanceSpec, NodeRecord, Phase},
        schedule::{
            fit::Candidate,
            room::{self, Room},
        },
    },
    model::NodeId,
    wire::command::Order,
};

impl Cache {
    /// A node as scheduling sees it.
    pub fn candidate<'a>(&'a self, node: &'a NodeRecord) -> Candidate<'a> {
        let pulls =
            |item: &Item<InstanceRecord>| matches!(item.record.phase, Phase::Claimed { pulling: true, .. });
        let holding = self.commands().holding_starts(&node.id);
        Candidate {
            node,
            present: self.presence.contains_key(&node.id) && node.absence.is_none(),
            taken: self.taken(&node.id),
            kept: self.kept(&node.id),
            pulling: self.on_node(&node.id).any(|(_, item)| pulls(item))
                || matches!(holding, Some(Order::Pull(_))),
            updating: matches!(holding, Some(Order::Update)),
            room: room::limit(node).map(|limit| {
                let on_node = self.on_node(&node.id).map(|(_, item)| item.record.as_ref());
                Room { sizes: &self.sizes, limit, taken: self.sizes.taken(on_node, node, limit) }
            }),
            usb_busy: false,
        }
    }

    /// A node as the scheduling of this start sees it.
    pub fn candidate_for<'a>(&'a self, spec: &InstanceSpec, node: &'a NodeRecord) -> Candidate<'a> {
        Candidate { usb_busy: self.usb_busy(&spec.usb_device, &node.id), ..self.candidate(node) }
    }

    /// Whether a VM on the node has this USB device; none is never busy.
    pub fn usb_busy(&self, device: &str, node: &NodeId) -> bool {
        let has =
            |item: &Item<InstanceRecord>| item.record.takes_room() && item.record.spec.usb_device == device;
        !device.is_empty() && self.on_node(node).any(|(_, item)| has(item))
    }

    /// All nodes as the scheduling of this start sees them.
    pub fn candidates_for<'a, 's>(
        &'a self,
        spec: &'s InstanceSpec,
    ) -> impl Iterator<Item = Candidate<'a>> + use<'a, 's> {
        self.nodes.values().map(move |item| self.candidate_for(spec, &item.record))
    }
}
