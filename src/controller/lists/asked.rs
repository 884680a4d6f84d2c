//! What may be asked of the cache, beside what the other files of this room ask of their own part.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Cache, Commands, Events, Item, cache::OFFERS_OF};
use crate::{
    auth::keys::ApiKey,
    controller::{
        records::{InstanceRecord, Leader, NodeRecord, Presence, StartRecord},
        schedule::rank::Order,
    },
    model::{ApiKeyId, InstanceId, NodeId, StartId},
    store::{Member, Revision},
};

impl Cache {
    /// The revision up to which everything is in here.
    pub fn applied(&self) -> Revision {
        self.applied
    }

    /// The `head` that is in here.
    pub fn head(&self) -> Revision {
        self.head
    }

    /// The event log.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// An instance that has a record.
    pub fn instance(&self, id: &InstanceId) -> Option<&Item<InstanceRecord>> {
        self.instances.get(id)
    }

    /// Chunks of all startup scripts' output.
    pub fn output_chunks(&self) -> usize {
        self.output_chunks
    }

    /// All instances that have a record.
    pub fn instances(&self) -> impl Iterator<Item = (&InstanceId, &Item<InstanceRecord>)> {
        self.instances.iter()
    }

    /// How many there are, those that their start has yet to make too.
    pub fn instance_count(&self) -> usize {
        self.shown.len()
    }

    /// How many nodes have a record.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The instance, made or yet to be made.
    pub fn shown_instance(&self, id: &InstanceId) -> Option<Arc<InstanceRecord>> {
        if let Some(item) = self.instances.get(id) {
            return Some(item.record.clone());
        }
        let start = self.unmade.get(id)?;
        Some(Arc::new(self.starts.get(start)?.record.instance(start, id)))
    }

    /// All instances, those of unfinished starts too, oldest first.
    pub fn shown_instances(&self) -> Vec<Arc<InstanceRecord>> {
        self.instances_after(None).map(|(_, record)| record).collect()
    }

    /// The start that has yet to make this instance.
    pub fn unmade(&self, id: &InstanceId) -> Option<&StartId> {
        self.unmade.get(id)
    }

    /// The instances that are, were or may be on a node.
    pub fn on_node<'a>(
        &'a self,
        node: &NodeId,
    ) -> impl Iterator<Item = (&'a InstanceId, &'a Item<InstanceRecord>)> {
        let ids = self.by_node.get(node).into_iter().flatten();
        ids.filter_map(|id| self.instances.get_key_value(id))
    }

    /// The instances that a start has made and that are still there.
    pub fn of_start<'a>(&'a self, start: &StartId) -> impl Iterator<Item = &'a Item<InstanceRecord>> {
        self.by_start.get(start).into_iter().flatten().filter_map(|id| self.instances.get(id))
    }

    /// Nodes that instances are on, with or without a record.
    pub fn placed_nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.by_node.keys()
    }

    /// How many of a node's places are taken.
    pub fn taken(&self, node: &NodeId) -> u32 {
        let taken = self.on_node(node).filter(|(_, item)| item.record.takes_room()).count();
        u32::try_from(taken).unwrap_or(u32::MAX)
    }

    /// How many of these are taken by what has failed.
    pub fn kept(&self, node: &NodeId) -> u32 {
        let kept = self.on_node(node).filter(|(_, item)| item.record.is_kept()).count();
        u32::try_from(kept).unwrap_or(u32::MAX)
    }

    /// Waiting instances by kind; those of one kind in the order of priority and age, never none.
    pub fn queues(
        &self,
    ) -> impl Iterator<Item = impl Iterator<Item = (Order, &InstanceId, &Item<InstanceRecord>)>> {
        self.queue
            .values()
            .map(|places| places.iter().filter_map(|(order, id)| Some((*order, id, self.instances.get(id)?))))
    }

    /// Offers that nobody has claimed yet.
    pub fn offers(&self) -> impl Iterator<Item = (&InstanceId, &Item<InstanceRecord>)> {
        self.offers.iter().filter_map(|id| self.instances.get_key_value(id))
    }

    /// Offers a second, of the whole cloud, over the last minute.
    pub fn offers_a_second(&self, now: Instant) -> f64 {
        let young = |at: &&Instant| now.saturating_duration_since(**at) <= OFFERS_OF;
        self.offered.iter().filter(young).count() as f64 / OFFERS_OF.as_secs_f64()
    }

    /// A node.
    pub fn node(&self, id: &NodeId) -> Option<&Item<NodeRecord>> {
        self.nodes.get(id)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &Item<NodeRecord>)> {
        self.nodes.iter()
    }

    /// A node's presence.
    pub fn presence(&self, id: &NodeId) -> Option<&Item<Presence>> {
        self.presence.get(id)
    }

    /// What nodes are to do beside starts.
    pub fn commands(&self) -> &Commands {
        &self.commands
    }

    /// A start.
    pub fn start(&self, id: &StartId) -> Option<&Item<StartRecord>> {
        self.starts.get(id)
    }

    /// All starts.
    pub fn starts(&self) -> impl Iterator<Item = (&StartId, &Item<StartRecord>)> {
        self.starts.iter()
    }

    /// Live members of a role: name and record.
    pub fn members<'a>(&'a self, role: &str) -> impl Iterator<Item = (&'a str, &'a Item<Member>)> {
        let prefix = format!("{role}/");
        self.members.iter().filter_map(move |(name, item)| Some((name.strip_prefix(&prefix)?, item)))
    }

    /// An API key.
    pub fn api_key(&self, id: &ApiKeyId) -> Option<&Item<ApiKey>> {
        self.api_keys.get(id)
    }

    /// Every API key, by id.
    pub fn api_keys(&self) -> impl Iterator<Item = (&ApiKeyId, &Item<ApiKey>)> {
        self.api_keys.iter()
    }

    /// Who leads a duty.
    pub fn leader(&self, duty: &str) -> Option<&Item<Leader>> {
        self.leaders.get(duty)
    }

    /// Records that nobody here can read, for `readyz`.
    pub fn unreadable(&self) -> usize {
        self.unreadable.len()
    }
}
