//! How much room a node has whose capacity is counted by resources, and how much a VM takes. Pure.

use std::collections::HashMap;

use crate::{
    controller::records::{InstanceRecord, InstanceSpec, NodeRecord},
    model::Digest,
    wire::node::CapacityMode,
};

/// MB that a node keeps for itself, if nobody has said how much VMs may have.
const OF_THE_NODE: u64 = 2048;

/// Templates of which it is remembered how large their VMs are. Over it nothing new is learned: their VMs then count as
/// what [`share`] says.
const KNOWN: usize = 10_000;

/// Processors and memory: what there is, is taken or needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Virtual processors.
    pub vcpu: u64,
    /// MB.
    pub ram: u64,
}

impl Size {
    /// In words, with what it is of.
    fn of(self, all: Self) -> String {
        format!("{} of {} processors and {} of {} MB of memory", self.vcpu, all.vcpu, self.ram, all.ram)
    }

    fn and(self, more: Self) -> Self {
        Self { vcpu: self.vcpu.saturating_add(more.vcpu), ram: self.ram.saturating_add(more.ram) }
    }

    /// Whether it is within another.
    pub fn fits_in(self, room: Self) -> bool {
        self.vcpu <= room.vcpu && self.ram <= room.ram
    }
}

/// What a node's VMs may have together; none for a node whose VMs are counted.
pub fn limit(node: &NodeRecord) -> Option<Size> {
    if node.settings.capacity_mode != CapacityMode::Resource {
        return None;
    }
    let cores = u64::from(node.facts.cpu_count).saturating_mul(2);
    let rest = (node.facts.memory / (1 << 20)).saturating_sub(OF_THE_NODE);
    Some(Size {
        vcpu: if node.vcpu_override > 0 { node.vcpu_override.into() } else { cores },
        ram: if node.ram_override > 0 { node.ram_override.saturating_mul(1024) } else { rest },
    })
}

/// What a VM of unknown size counts as: the node's part for each place that it would have if VMs were counted.
fn share(limit: Size, node: &NodeRecord) -> Size {
    let places = u64::from(node.settings.capacity.max(1));
    Size { vcpu: (limit.vcpu / places).max(1), ram: (limit.ram / places).max(1) }
}

/// How large VMs of templates are, as nodes have reported them.
#[derive(Debug, Clone, Default)]
pub struct Sizes(HashMap<Digest, Size>);

impl Sizes {
    /// Learns from a VM that a node has reported, unless its start has asked for another size than the template's.
    pub fn learn(&mut self, record: &InstanceRecord) {
        let own = record.spec.vcpu.is_none() && record.spec.vram.is_none();
        let Some(size) = reported(record).filter(|_| own) else { return };
        if self.0.len() < KNOWN || self.0.contains_key(&record.spec.manifest) {
            self.0.insert(record.spec.manifest, size);
        }
    }

    /// Keeps what an older cache knew of templates whose VMs are gone.
    pub fn inherit(&mut self, older: &Self) {
        for (template, size) in &older.0 {
            if self.0.len() < KNOWN {
                self.0.entry(*template).or_insert(*size);
            }
        }
    }

    /// What a VM of this start will take at this node. What the start asks for counts where the node's agent says that
    /// it does, as with the vendor's.
    pub fn need(&self, spec: &InstanceSpec, node: &NodeRecord, limit: Size) -> Size {
        let known = self.0.get(&spec.manifest).copied().unwrap_or_else(|| share(limit, node));
        if !node.force_overrides {
            return known;
        }
        Size { vcpu: spec.vcpu.map_or(known.vcpu, u64::from), ram: spec.vram.unwrap_or(known.ram) }
    }

    /// What these instances take at their node.
    pub fn taken<'a>(
        &self,
        on_node: impl Iterator<Item = &'a InstanceRecord>,
        node: &NodeRecord,
        limit: Size,
    ) -> Size {
        let each = |record: &InstanceRecord| {
            reported(record).unwrap_or_else(|| self.need(&record.spec, node, limit))
        };
        on_node.filter(|record| record.takes_room()).map(each).fold(Size::default(), Size::and)
    }
}

/// The size of a VM, as its node sees it.
fn reported(record: &InstanceRecord) -> Option<Size> {
    let info = record.info.as_ref()?;
    let ram = megabytes(&info.ram)?;
    (info.cpu_cores > 0).then_some(Size { vcpu: info.cpu_cores.into(), ram })
}

/// `4G`, `4096M`, `4096`.
fn megabytes(text: &str) -> Option<u64> {
    let text = text.trim().trim_end_matches(['B', 'b']).trim_end_matches('i');
    let (digits, factor) = match text.chars().last()? {
        'T' | 't' => (text.get(..text.len() - 1)?, 1024 * 1024),
        'G' | 'g' => (text.get(..text.len() - 1)?, 1024),
        'M' | 'm' => (text.get(..text.len() - 1)?, 1),
        _ => (text, 1),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(factor).filter(|ram| *ram > 0)
}

/// What a start needs of this node and what is free there, for nodes whose capacity is counted by resources.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    /// How large VMs are.
    pub sizes: &'a Sizes,
    /// All that VMs may have.
    pub limit: Size,
    /// What they have.
    pub taken: Size,
}

impl Room<'_> {
    /// Whether nothing more fits, whatever it is.
    pub fn is_full(&self) -> bool {
        self.taken.vcpu >= self.limit.vcpu || self.taken.ram >= self.limit.ram
    }

    /// Whether this start fits now.
    pub fn has(&self, spec: &InstanceSpec, node: &NodeRecord) -> bool {
        self.taken.and(self.sizes.need(spec, node, self.limit)).fits_in(self.limit)
    }

    /// In words: what is taken, of what.
    pub fn taken_in_words(&self) -> String {
        format!("{} are taken", self.taken.of(self.limit))
    }

    /// In words: why this start does not fit.
    pub fn lacks(&self, spec: &InstanceSpec, node: &NodeRecord) -> String {
        let need = self.sizes.need(spec, node, self.limit);
        let needs = format!("the start needs {} processors and {} MB of memory", need.vcpu, need.ram);
        if need.fits_in(self.limit) {
            return format!("it has no room: {needs}, {}", self.taken_in_words());
        }
        let limit = self.limit;
        format!(
            "it can never have room: {needs}, all VMs there may have {} processors and {} MB together",
            limit.vcpu, limit.ram
        )
    }

    /// Whether it would fit if nothing else were there.
    pub fn could_have(&self, spec: &InstanceSpec, node: &NodeRecord) -> bool {
        self.sizes.need(spec, node, self.limit).fits_in(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_nodes_write_it() {
        for (text, expected) in [
            ("4G", Some(4096)),
            ("4GB", Some(4096)),
            ("4GiB", Some(4096)),
            ("512M", Some(512)),
            ("8192", Some(8192)),
            ("1T", Some(1 << 20)),
            ("0G", None),
            ("", None),
            ("G", None),
            ("four", None),
            ("99999999999999999999T", None),
            ("é", None),
        ] {
            assert_eq!(megabytes(text), expected, "{text}");
        }
    }
}
