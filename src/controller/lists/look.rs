//! Parts of what is in the cache, at the cost of the part.

use std::{ops::Bound, sync::Arc};

use super::{Cache, changes::What};
use crate::{
    controller::{
        records::{InstanceRecord, NodeRecord},
        schedule::{fit::Kind, rank::Order},
    },
    model::{InstanceId, NodeId, Timestamp},
    store::Revision,
};

use super::Item;

/// Where an instance stands among those that are shown: the oldest first, and nobody ever moves.
pub type Age = (Timestamp, InstanceId);

impl Cache {
    /// The instances after this one, the oldest first, those of unfinished starts too.
    pub fn instances_after(&self, after: Option<&Age>) -> impl Iterator<Item = (&Age, Arc<InstanceRecord>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ages = self.shown.range::<Age, _>((from, Bound::Unbounded));
        ages.filter_map(|age| Some((age, self.shown_instance(&age.1)?)))
    }

    /// Those of them that are on a node.
    pub fn instances_of_node_after(
        &self,
        node: &NodeId,
        after: Option<&Age>,
    ) -> impl Iterator<Item = (Age, Arc<InstanceRecord>)> {
        let age = |record: &Arc<InstanceRecord>| (record.created, record.id.clone());
        let mut found: Vec<_> =
            self.on_node(node).map(|(_, item)| (age(&item.record), item.record.clone())).collect();
        found.retain(|(age, _)| after.is_none_or(|after| age > after));
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        found.into_iter()
    }

    /// The nodes after this one, in order of their ids.
    pub fn nodes_after(&self, after: Option<&NodeId>) -> impl Iterator<Item = (&NodeId, &Item<NodeRecord>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.nodes.range::<NodeId, _>((from, Bound::Unbounded))
    }

    /// How many waiting starts come before this place, in all and of this kind, and how many there are.
    pub fn ahead_of(&self, order: Order, id: &InstanceId, kind: &Kind) -> (usize, usize, usize) {
        let place = (order, id.clone());
        let (mut all, mut own, mut waiting) = (0, 0, 0);
        for (of, places) in &self.queue {
            let before = places.range(..&place).count();
            all += before;
            waiting += places.len();
            if of == kind {
                own = before;
            }
        }
        (all, own, waiting)
    }

    /// What this one has otherwise than an earlier one, as if it had been told one by one.
    pub(super) fn differs_from(&self, earlier: &Self) -> Vec<(Revision, What)> {
        let new = |revision: &Revision| *revision > earlier.applied;
        let made = self.instances.iter().filter(|(_, item)| new(&item.mod_revision));
        let made =
            made.map(|(id, item)| (item.mod_revision, What::Instance(id.clone(), Some(item.record.clone()))));
        let gone = earlier.instances.keys().filter(|id| !self.instances.contains_key(*id));
        let gone = gone.map(|id| (self.applied, What::Instance(id.clone(), None)));
        let nodes = self.nodes.iter().filter(|(_, item)| new(&item.mod_revision));
        let nodes = nodes.map(|(id, item)| (item.mod_revision, What::Node(id.clone())));
        let present = self.presence.iter().filter(|(_, item)| new(&item.mod_revision));
        let present = present.map(|(id, item)| (item.mod_revision, What::Node(id.clone())));
        let lost = earlier.nodes.keys().filter(|id| !self.nodes.contains_key(*id));
        let silent = earlier.presence.keys().filter(|id| !self.presence.contains_key(*id));
        let lost = lost.chain(silent).map(|id| (self.applied, What::Node(id.clone())));
        let events = self.events.after_revision(earlier.applied);
        let events = events.map(|(place, event)| (place.0, What::Event(event.clone())));
        let made = made.chain(events);
        let mut all: Vec<_> = made.chain(gone).chain(nodes).chain(present).chain(lost).collect();
        all.sort_by_key(|(revision, _)| *revision);
        all
    }
}
