//! Parts of what is in the cache, at the cost of the part.

use std::{ops::Bound, sync::Arc};

use super::{Cache, Item, changes::What};
use crate::{
    controller::{
        records::{InstanceRecord, NodeRecord},
        schedule::{fit::Kind, rank::Order},
    },
    model::{InstanceId, NodeId, Timestamp},
    store::Revision,
};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock,
        controller::records::{self, WriteId},
        model::GroupId,
        store::{KeyValue, keys::Keys},
        wire::events::{Action, Event},
    };

    fn stored<T: serde::Serialize>(key: String, revision: Revision, record: &T) -> KeyValue {
        let value = records::encode(record, &WriteId::default()).unwrap();
        KeyValue { key, value, create_revision: revision, mod_revision: revision, version: 1, lease: None }
    }

    fn presence(node: &str, revision: Revision, keys: &Keys) -> KeyValue {
        let record = records::Presence { lease: 1, session: "s".into(), former: Vec::new(), offers: 0 };
        stored(keys.node_alive(&NodeId::parse(node).unwrap()), revision, &record)
    }

    #[test]
    fn what_a_new_listing_has_otherwise_is_told_as_if_it_had_been_watched() {
        let keys = Keys::new("main");
        let event = |n: i64| {
            let event = Event::new(Action::StartVM, Timestamp::from_unix_seconds(n));
            (event.id.clone(), event)
        };
        let ((old_id, old), (new_id, new)) = (event(1), event(2));
        let of = |kvs, revision| Cache::of(1.0, &keys, kvs, revision, clock::now());
        let before = of(
            vec![
                presence("stays", 3, &keys),
                presence("goes", 4, &keys),
                presence("again", 5, &keys),
                stored(keys.event(&old_id), 6, &old),
            ],
            10,
        );
        let after = of(
            vec![
                presence("stays", 3, &keys),
                presence("again", 15, &keys),
                presence("comes", 12, &keys),
                stored(keys.event(&old_id), 6, &old),
                stored(keys.event(&new_id), 14, &new),
                // Of no kind that is watched.
                stored(keys.group_name("x"), 13, &records::GroupName { id: GroupId::parse("g").unwrap() }),
            ],
            20,
        );
        let told = after.differs_from(&before).into_iter().map(|(revision, what)| match what {
            What::Instance(id, _) => (revision, id.to_string()),
            What::Node(id) => (revision, id.to_string()),
            What::Event(event) => (revision, format!("{:?}", event.action)),
        });
        let wanted = [(12, "comes"), (14, "StartVM"), (15, "again"), (20, "goes")];
        assert_eq!(told.collect::<Vec<_>>(), wanted.map(|(revision, what)| (revision, what.to_owned())));
        assert!(after.differs_from(&after).is_empty(), "nothing is told twice");
    }
}
