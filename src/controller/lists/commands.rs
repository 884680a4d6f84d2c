//! Commands of nodes and distributions, as the cache has them. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Item;
use crate::{
    controller::records::{CommandRecord, DistributionRecord},
    model::{CommandId, DistributionId, NodeId, Timestamp},
    wire::command::{CommandState, Order},
};

type Open = BTreeSet<(Timestamp, CommandId)>;

/// What nodes are to do beside starts.
#[derive(Debug, Default)]
pub struct Commands {
    by_node: HashMap<NodeId, BTreeMap<CommandId, Item<CommandRecord>>>,
    /// Those that are not over, oldest first.
    open: HashMap<NodeId, Open>,
    parts: HashMap<DistributionId, BTreeSet<NodeId>>,
    distributions: BTreeMap<DistributionId, Item<DistributionRecord>>,
    count: usize,
}

impl Commands {
    pub(super) fn put(&mut self, item: Item<CommandRecord>) {
        let (node, id) = (item.record.node.clone(), item.record.id.clone());
        self.remove(&node, &id);
        if !item.record.state.is_over() {
            self.open.entry(node.clone()).or_default().insert((item.record.created, id.clone()));
        }
        if let Some(of) = &item.record.of {
            self.parts.entry(of.clone()).or_default().insert(node.clone());
        }
        self.by_node.entry(node).or_default().insert(id, item);
        self.count += 1;
    }

    pub(super) fn remove(&mut self, node: &NodeId, id: &CommandId) {
        let Some(of_node) = self.by_node.get_mut(node) else { return };
        let Some(old) = of_node.remove(id) else { return };
        self.count -= 1;
        if of_node.is_empty() {
            self.by_node.remove(node);
        }
        if let Some(open) = self.open.get_mut(node) {
            open.remove(&(old.record.created, id.clone()));
            if open.is_empty() {
                self.open.remove(node);
            }
        }
        if let Some(of) = &old.record.of
            && let Some(nodes) = self.parts.get_mut(of)
        {
            nodes.remove(node);
            if nodes.is_empty() {
                self.parts.remove(of);
            }
        }
    }

    pub(super) fn put_distribution(&mut self, id: DistributionId, item: Item<DistributionRecord>) {
        self.distributions.insert(id, item);
    }

    pub(super) fn remove_distribution(&mut self, id: &DistributionId) {
        self.distributions.remove(id);
    }

    /// One command of a node.
    pub fn get(&self, node: &NodeId, id: &CommandId) -> Option<&Item<CommandRecord>> {
        self.by_node.get(node)?.get(id)
    }

    /// All of a node.
    pub fn of_node(&self, node: &NodeId) -> impl Iterator<Item = &Item<CommandRecord>> {
        self.by_node.get(node).into_iter().flat_map(BTreeMap::values)
    }

    /// Those of a node that are not over, oldest first.
    pub fn open(&self, node: &NodeId) -> impl Iterator<Item = &Item<CommandRecord>> {
        let of_node = self.by_node.get(node);
        let open = self.open.get(node).into_iter().flatten();
        open.filter_map(move |(_, id)| of_node?.get(id))
    }

    /// Nodes with commands that are not over.
    pub fn open_nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.open.keys()
    }

    /// Every command.
    pub fn all(&self) -> impl Iterator<Item = &Item<CommandRecord>> {
        self.by_node.values().flat_map(BTreeMap::values)
    }

    /// How many there are, over or not.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether the node brings a template to its disk now, without a start.
    pub fn pulls(&self, node: &NodeId) -> bool {
        self.open(node).any(|item| {
            item.record.state == CommandState::Running && matches!(item.record.order, Order::Pull(_))
        })
    }

    /// A distribution.
    pub fn distribution(&self, id: &DistributionId) -> Option<&Item<DistributionRecord>> {
        self.distributions.get(id)
    }

    /// All distributions.
    pub fn distributions(&self) -> impl Iterator<Item = &Item<DistributionRecord>> {
        self.distributions.values()
    }

    /// The parts of a distribution that were given, in order of their nodes.
    pub fn parts(&self, of: &DistributionId) -> impl Iterator<Item = &Item<CommandRecord>> {
        let id = CommandId::parse(of.as_str()).ok();
        let nodes = self.parts.get(of).into_iter().flatten();
        nodes.filter_map(move |node| self.by_node.get(node)?.get(id.as_ref()?))
    }
}
