//! The cache itself: events in, indexes out. Pure: knows neither store nor clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{Commands, Events, Groups, Permissions, changes::What, look::Age, pool::Macs};

use crate::{
    auth::keys::ApiKey,
    controller::{
        records::{self, InstanceRecord, Leader, NodeRecord, Presence, RecordError, Schema, StartRecord},
        schedule::fit::Kind,
        schedule::rank::{Order, order},
        schedule::room::Sizes,
    },
    model::{ApiKeyId, CommandId, DistributionId, GroupId, ImageId, InstanceId, NodeId, StartId, Timestamp},
    store::{
        Event, KeyValue, LeaseId, Member, Revision,
        keys::{Keys, Subject},
    },
};

/// Over so long the rate of offers is taken.
pub(super) const OFFERS_OF: Duration = Duration::from_secs(60);

/// Offers that are remembered for that, a thousand a second. More: the rate is told too low.
const OFFERS: usize = 60_000;

/// A record as the cache has it.
#[derive(Debug, Clone)]
pub struct Item<T> {
    /// The record.
    pub record: Arc<T>,
    /// When it was last put.
    pub mod_revision: Revision,
    /// When this incarnation was made.
    pub create_revision: Revision,
    /// The lease it ends with.
    pub lease: Option<LeaseId>,
    /// When this controller first saw it at this revision, on its own clock: waits are counted from here.
    pub seen: Instant,
    /// A newer controller wrote it in a version of its own: shown, never rewritten.
    pub newer: bool,
}

/// What changed in a way that somebody may wait for.
#[derive(Debug, Default)]
pub struct Effects {
    /// Instances that now wait for a node.
    pub queued: Vec<InstanceId>,
    /// Nodes whose instances, settings or presence changed.
    pub nodes: HashSet<NodeId>,
    /// All of it in order, for those that watch.
    pub(super) changes: Vec<(Revision, What)>,
}

/// Everything below the cluster's prefix, as of one revision.
#[derive(Debug, Default)]
pub struct Cache {
    pub(super) ageing: f64,
    pub(super) applied: Revision,
    pub(super) head: Revision,
    pub(super) instances: HashMap<InstanceId, Item<InstanceRecord>>,
    /// Those that have a record, and those that their start has yet to make.
    pub(super) shown: BTreeSet<Age>,
    pub(super) nodes: BTreeMap<NodeId, Item<NodeRecord>>,
    pub(super) presence: HashMap<NodeId, Item<Presence>>,
    pub(super) groups: Groups,
    pub(super) events: Events,
    pub(super) commands: Commands,
    pub(super) permissions: Permissions,
    pub(super) api_keys: BTreeMap<ApiKeyId, Item<ApiKey>>,
    pub(super) starts: HashMap<StartId, Item<StartRecord>>,
    pub(super) members: BTreeMap<String, Item<Member>>,
    pub(super) leaders: BTreeMap<String, Item<Leader>>,
    /// Of starts that are not finished: which of their ids has no record yet.
    pub(super) unmade: HashMap<InstanceId, StartId>,
    pub(super) by_node: HashMap<NodeId, BTreeSet<InstanceId>>,
    pub(super) by_start: HashMap<StartId, BTreeSet<InstanceId>>,
    /// What waits, in order, by what it asks of a node.
    pub(super) queue: HashMap<Kind, BTreeSet<(Order, InstanceId)>>,
    /// Offers that nobody has claimed yet.
    pub(super) offers: BTreeSet<InstanceId>,
    pub(super) macs: Macs,
    /// Of all startup scripts' output.
    pub(super) output_chunks: usize,
    /// How large VMs of templates are; learned, and never less.
    pub(super) sizes: Sizes,
    /// Why this controller must leave the store alone, if it must.
    pub(super) forbidden: Option<String>,
    /// When this controller saw the offers of the last minute.
    pub(super) offered: VecDeque<Instant>,
    /// Keys whose values cannot be read at all.
    pub(super) unreadable: BTreeMap<String, RecordError>,
}

impl Cache {
    /// An empty one, in which a waiting start gains so many priority points each second.
    pub fn new(ageing: f64) -> Self {
        Self { ageing, ..Self::default() }
    }

    /// One of these keys and values, as of `revision`.
    pub fn of(ageing: f64, keys: &Keys, kvs: Vec<KeyValue>, revision: Revision, now: Instant) -> Self {
        let mut cache = Self::new(ageing);
        let mut effects = Effects::default();
        for kv in kvs {
            cache.put(keys, &kv, now, &mut effects);
        }
        cache.applied = revision;
        cache
    }

    /// Keeps since when unchanged records have been seen, so that a new listing restarts no wait.
    pub fn inherit(&mut self, older: &Self) {
        self.sizes.inherit(&older.sizes);
        for (id, item) in &mut self.instances {
            if let Some(old) = older.instances.get(id).filter(|old| old.mod_revision == item.mod_revision) {
                item.seen = old.seen;
            }
        }
        for (id, item) in &mut self.starts {
            if let Some(old) = older.starts.get(id).filter(|old| old.mod_revision == item.mod_revision) {
                item.seen = old.seen;
            }
        }
    }

    /// Takes the events of whole revisions, up to `revision`.
    pub fn apply(&mut self, keys: &Keys, revision: Revision, events: &[Event], now: Instant) -> Effects {
        let mut effects = Effects::default();
        for event in events {
            match event {
                Event::Put(kv) => self.put(keys, kv, now, &mut effects),
                Event::Deleted { key, mod_revision } => self.delete(keys, key, *mod_revision, &mut effects),
            }
        }
        self.applied = self.applied.max(revision);
        debug_assert!(self.holds(), "the indexes say the same as the records");
        effects
    }

    fn put(&mut self, keys: &Keys, kv: &KeyValue, now: Instant, effects: &mut Effects) {
        self.take_in(keys, kv, now, effects);
        if let Some(error) = self.unreadable.remove(&kv.key) {
            // What was there before is no longer what is there: acting on it would lose every race for ever.
            self.delete(keys, &kv.key, kv.mod_revision, effects);
            self.unreadable.insert(kv.key.clone(), error);
        }
    }

    fn take_in(&mut self, keys: &Keys, kv: &KeyValue, now: Instant, effects: &mut Effects) {
        self.unreadable.remove(&kv.key);
        match keys.subject(&kv.key) {
            Subject::Head => self.head = self.head.max(kv.mod_revision),
            Subject::Schema => self.forbidden = Schema::read(&kv.value).forbids(records::VERSION),
            Subject::Instance(id) => {
                let Ok(id) = InstanceId::parse(id) else { return };
                let Some(item) = self.read::<InstanceRecord>(kv, now) else { return };
                let what = What::Instance(id.clone(), Some(item.record.clone()));
                effects.changes.push((kv.mod_revision, what));
                self.put_instance(id, item, effects);
            }
            Subject::Node(id) => {
                let (Ok(id), Some(item)) = (NodeId::parse(id), self.read(kv, now)) else { return };
                effects.nodes.insert(id.clone());
                effects.changes.push((kv.mod_revision, What::Node(id.clone())));
                self.nodes.insert(id, item);
            }
            Subject::NodeAlive(id) => {
                let (Ok(id), Some(item)) = (NodeId::parse(id), self.read(kv, now)) else { return };
                effects.nodes.insert(id.clone());
                effects.changes.push((kv.mod_revision, What::Node(id.clone())));
                self.presence.insert(id, item);
            }
            Subject::Group(id) => {
                let (Ok(id), Some(item)) = (GroupId::parse(id), self.read(kv, now)) else { return };
                self.groups.put(id, item);
            }
            Subject::Command(node, _) => {
                let (Ok(node), Some(item)) = (NodeId::parse(node), self.read(kv, now)) else { return };
                self.commands.put(item);
                effects.nodes.insert(node);
            }
            Subject::Distribution(id) => {
                let (Ok(id), Some(item)) = (DistributionId::parse(id), self.read(kv, now)) else { return };
                self.commands.put_distribution(id, item);
            }
            Subject::ApiKey(id) => {
                let (Ok(id), Some(item)) = (ApiKeyId::parse(id), self.read(kv, now)) else { return };
                self.api_keys.insert(id, item);
            }
            Subject::PermissionGroup(key) => {
                let key = key.to_owned();
                if let Some(item) = self.read(kv, now) {
                    effects.nodes.extend(self.permissions.put(&key, item));
                }
            }
            Subject::Image(id) => {
                let (Ok(id), Some(item)) = (ImageId::parse(id), self.read(kv, now)) else { return };
                self.commands.put_image(id, item);
            }
            Subject::Start(id) => {
                let (Ok(id), Some(item)) = (StartId::parse(id), self.read(kv, now)) else { return };
                self.put_start(id, item);
            }
            Subject::Member(role, name) => {
                let name = format!("{role}/{name}");
                if let Some(item) = self.read(kv, now) {
                    self.members.insert(name, item);
                }
            }
            Subject::Leader(duty) => {
                let duty = duty.to_owned();
                if let Some(item) = self.read(kv, now) {
                    self.leaders.insert(duty, item);
                }
            }
            Subject::Event(id) => {
                let id = id.to_owned();
                if let Some(item) = self.read::<crate::wire::events::Event>(kv, now) {
                    self.events.put(&id, kv.mod_revision, item.record.clone());
                    effects.changes.push((kv.mod_revision, What::Event(item.record)));
                }
            }
            Subject::Mac(mac) => {
                let (Ok(mac), Some(item)) = (mac.parse(), self.read(kv, now)) else { return };
                self.macs.put(mac, item);
            }
            // The queue's keys say nothing that the instances do not.
            Subject::QueuedStart(_) | Subject::Other => {}
        }
    }

    fn read<T: DeserializeOwned>(&mut self, kv: &KeyValue, now: Instant) -> Option<Item<T>> {
        match records::decode_for_show(&kv.value) {
            Ok((record, newer)) => Some(Item {
                record: Arc::new(record),
                mod_revision: kv.mod_revision,
                create_revision: kv.create_revision,
                lease: kv.lease,
                seen: now,
                newer,
            }),
            Err(error) => {
                tracing::warn!(store.key = %kv.key, error = %error, "record could not be read and was left alone");
                self.unreadable.insert(kv.key.clone(), error);
                None
            }
        }
    }

    fn put_instance(&mut self, id: InstanceId, item: Item<InstanceRecord>, effects: &mut Effects) {
        let old = self.instances.remove(&id);
        if let Some(old) = &old {
            self.shown.remove(&(old.record.created, id.clone()));
            self.unindex(&id, &old.record);
            effects.nodes.extend(old.record.node().cloned());
        }
        let record = &item.record;
        self.sizes.learn(record);
        self.output_chunks += record.output_chunks();
        if let Some(node) = record.node() {
            self.by_node.entry(node.clone()).or_default().insert(id.clone());
            effects.nodes.insert(node.clone());
        }
        self.by_start.entry(record.start.clone()).or_default().insert(id.clone());
        if record.is_queued() {
            let place = (self.order_of(record), id.clone());
            self.queue.entry(Kind::of(&record.spec)).or_default().insert(place);
            effects.queued.push(id.clone());
        }
        if record.is_offer(record.attempt) {
            self.offers.insert(id.clone());
            let new = old.is_none_or(|old| !old.record.is_offer(record.attempt));
            if new {
                self.note_offer(item.seen);
            }
        }
        self.shown.insert((item.record.created, id.clone()));
        self.instances.insert(id, item);
    }

    /// It is no longer shown, unless it still has a record or is yet to be made.
    fn hide(&mut self, created: Timestamp, id: &InstanceId) {
        if !self.instances.contains_key(id) && !self.unmade.contains_key(id) {
            self.shown.remove(&(created, id.clone()));
        }
    }

    fn note_offer(&mut self, now: Instant) {
        let over = |at: &Instant| now.saturating_duration_since(*at) > OFFERS_OF;
        while self.offered.front().is_some_and(over) || self.offered.len() >= OFFERS {
            self.offered.pop_front();
        }
        self.offered.push_back(now);
    }

    fn unindex(&mut self, id: &InstanceId, record: &InstanceRecord) {
        self.output_chunks -= record.output_chunks();
        if record.is_queued() {
            let (kind, place) = (Kind::of(&record.spec), (self.order_of(record), id.clone()));
            if let Some(places) = self.queue.get_mut(&kind) {
                places.remove(&place);
                if places.is_empty() {
                    self.queue.remove(&kind);
                }
            }
        }
        self.offers.remove(id);
        if let Some(node) = record.node() {
            remove_from(&mut self.by_node, node, id);
        }
        remove_from(&mut self.by_start, &record.start, id);
    }

    /// The place of a waiting start.
    pub fn order_of(&self, record: &InstanceRecord) -> Order {
        order(record.spec.priority, record.created, self.ageing)
    }

    fn put_start(&mut self, id: StartId, item: Item<StartRecord>) {
        let old = self.starts.remove(&id);
        for unmade in old.iter().flat_map(|old| old.record.unmade()) {
            self.unmade.remove(unmade);
        }
        for unmade in item.record.unmade() {
            self.unmade.insert(unmade.clone(), id.clone());
            self.shown.insert((item.record.created, unmade.clone()));
        }
        self.starts.insert(id, item);
        for unmade in old.iter().flat_map(|old| old.record.unmade()) {
            self.hide(old.as_ref().map_or(Timestamp::NEVER, |old| old.record.created), unmade);
        }
    }

    fn delete(&mut self, keys: &Keys, key: &str, revision: Revision, effects: &mut Effects) {
        self.unreadable.remove(key);
        match keys.subject(key) {
            Subject::Instance(id) => {
                let Ok(id) = InstanceId::parse(id) else { return };
                if let Some(old) = self.instances.remove(&id) {
                    self.unindex(&id, &old.record);
                    effects.nodes.extend(old.record.node().cloned());
                    self.hide(old.record.created, &id);
                    effects.changes.push((revision, What::Instance(id, None)));
                }
            }
            Subject::Node(id) => {
                let Ok(id) = NodeId::parse(id) else { return };
                self.nodes.remove(&id);
                effects.changes.push((revision, What::Node(id.clone())));
                effects.nodes.insert(id);
            }
            Subject::NodeAlive(id) => {
                let Ok(id) = NodeId::parse(id) else { return };
                self.presence.remove(&id);
                effects.changes.push((revision, What::Node(id.clone())));
                effects.nodes.insert(id);
            }
            Subject::ApiKey(id) => {
                let Ok(id) = ApiKeyId::parse(id) else { return };
                self.api_keys.remove(&id);
            }
            Subject::PermissionGroup(key) => self.permissions.remove(key),
            Subject::Schema => self.forbidden = None,
            Subject::Mac(mac) => {
                let Ok(mac) = mac.parse() else { return };
                self.macs.remove(&mac);
            }
            Subject::Group(id) => {
                let Ok(id) = GroupId::parse(id) else { return };
                self.groups.remove(&id);
            }
            Subject::Command(node, id) => {
                let (Ok(node), Ok(id)) = (NodeId::parse(node), CommandId::parse(id)) else { return };
                self.commands.remove(&node, &id);
                effects.nodes.insert(node);
            }
            Subject::Distribution(id) => {
                let Ok(id) = DistributionId::parse(id) else { return };
                self.commands.remove_distribution(&id);
            }
            Subject::Image(id) => {
                let Ok(id) = ImageId::parse(id) else { return };
                self.commands.remove_image(&id);
            }
            Subject::Start(id) => {
                let Ok(id) = StartId::parse(id) else { return };
                if let Some(old) = self.starts.remove(&id) {
                    for unmade in old.record.unmade() {
                        self.unmade.remove(unmade);
                        self.hide(old.record.created, unmade);
                    }
                }
            }
            Subject::Member(role, name) => {
                self.members.remove(&format!("{role}/{name}"));
            }
            Subject::Leader(duty) => {
                self.leaders.remove(duty);
            }
            Subject::Event(id) => self.events.remove(id),
            Subject::Head | Subject::QueuedStart(_) | Subject::Other => {}
        }
    }

    /// Every index says what the records say, and nothing else.
    fn holds(&self) -> bool {
        let queued = self.instances.values().filter(|item| item.record.is_queued()).count();
        let placed = self.instances.values().filter(|item| item.record.node().is_some()).count();
        let unmade: usize = self.starts.values().map(|item| item.record.unmade().len()).sum();
        // Large caches are checked in their small tests: this would cost more than the change it checks.
        self.instances.len() > 256
            || (queued == self.queue.values().map(BTreeSet::len).sum::<usize>()
                && placed == self.by_node.values().map(BTreeSet::len).sum::<usize>()
                && self.instances.len() == self.by_start.values().map(BTreeSet::len).sum::<usize>()
                && unmade == self.unmade.len()
                && self.output_chunks
                    == self.instances.values().map(|item| item.record.output_chunks()).sum::<usize>()
                && self.shown.len()
                    == self.instances.len()
                        + self.unmade.keys().filter(|id| !self.instances.contains_key(*id)).count())
    }
}

fn remove_from<K: std::hash::Hash + Eq>(
    index: &mut HashMap<K, BTreeSet<InstanceId>>,
    key: &K,
    id: &InstanceId,
) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}
