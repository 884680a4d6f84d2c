//! The event log as the cache has it: in the order in which things happened.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use crate::{store::Revision, wire::events::Event};

/// Where an event stands: its revision, and its id among those of that revision.
pub type EventPlace = (Revision, String);

/// The log.
#[derive(Debug, Default)]
pub struct Events {
    in_order: BTreeMap<EventPlace, Arc<Event>>,
    by_id: HashMap<String, Revision>,
}

impl Events {
    pub(super) fn put(&mut self, id: &str, revision: Revision, event: Arc<Event>) {
        self.remove(id);
        self.by_id.insert(id.to_owned(), revision);
        self.in_order.insert((revision, id.to_owned()), event);
    }

    pub(super) fn remove(&mut self, id: &str) {
        if let Some(revision) = self.by_id.remove(id) {
            self.in_order.remove(&(revision, id.to_owned()));
        }
    }

    /// Those after this place, the oldest first.
    pub fn after(&self, place: Option<&EventPlace>) -> impl Iterator<Item = (&EventPlace, &Arc<Event>)> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.in_order.range::<EventPlace, _>((from, Bound::Unbounded))
    }

    /// Those after this revision, the oldest first.
    pub fn after_revision(&self, revision: Revision) -> impl Iterator<Item = (&EventPlace, &Arc<Event>)> {
        self.in_order.range((revision + 1, String::new())..)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.in_order.len()
    }
}
