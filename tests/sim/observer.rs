//! Watches the store itself: every change of every instance, from the first to the last.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use switchyard::{
    controller::records::{self, InstanceRecord, Phase},
    model::{InstanceId, InstanceState, NodeId},
    store::{Event, KeyValue, Range, Revision, WatchItem, keys::Keys, page::read_prefix},
};

use crate::world::{CAPACITY, World};

const PREFIX: &str = "/switchyard/main/instances/";

pub(crate) async fn run(world: Arc<World>) {
    let mut seen = Seen::default();
    let mut from = 1;
    while !world.stop().is_requested() {
        let Ok(mut watch) = world.store.watch(PREFIX, from).await else { return };
        loop {
            let item = tokio::select! {
                () = async { world.stop().requested().await } => return,
                item = watch.next() => item,
            };
            match item {
                Some(Ok(WatchItem::Events { revision, events })) => {
                    for event in events {
                        seen.take(&world, event);
                    }
                    from = revision + 1;
                }
                Some(Ok(WatchItem::Progress(_))) => {}
                // History was forgotten before it was read here: what was missed cannot be judged.
                Some(Ok(WatchItem::Compacted { oldest })) => {
                    (seen, from) = (Seen::default(), oldest);
                    break;
                }
                Some(Err(_)) | None => break,
            }
        }
    }
}

#[derive(Default)]
struct Seen {
    now: BTreeMap<InstanceId, InstanceRecord>,
    gone: BTreeSet<InstanceId>,
}

impl Seen {
    fn take(&mut self, world: &World, event: Event) {
        world.steps.fetch_add(1, Ordering::SeqCst);
        match event {
            Event::Put(kv) => {
                let next: InstanceRecord = records::decode(&kv.value).unwrap();
                if self.gone.contains(&next.id) {
                    world.breaks(format!("{} came back after it was deleted", next.id));
                }
                if let Some(before) = self.now.get(&next.id) {
                    judge(world, before, &next);
                }
                self.now.insert(next.id.clone(), next);
                self.capacity(world);
            }
            Event::Deleted { key, .. } => {
                let id = InstanceId::parse(key.strip_prefix(PREFIX).unwrap_or_default()).unwrap();
                self.now.remove(&id);
                self.gone.insert(id);
            }
        }
    }

    fn capacity(&self, world: &World) {
        let mut taken: BTreeMap<&NodeId, u32> = BTreeMap::new();
        // Not those that end: one that had failed may have been overtaken by others before it was terminated.
        let active =
            |record: &&InstanceRecord| record.takes_room() && record.state() != InstanceState::Terminating;
        for record in self.now.values().filter(active) {
            if let Some(node) = record.node() {
                *taken.entry(node).or_default() += 1;
            }
        }
        if let Some((node, count)) = taken.iter().find(|(_, count)| **count > CAPACITY) {
            world.breaks(format!("{node} has {count} instances, its capacity is {CAPACITY}"));
        }
    }
}

fn judge(world: &World, before: &InstanceRecord, next: &InstanceRecord) {
    let (from, to) = (before.state(), next.state());
    if !from.may_become(to) {
        world.breaks(format!("{} went from {from:?} to {to:?}", next.id));
    }
    if next.attempt < before.attempt {
        world.breaks(format!("{}: offer {} came after {}", next.id, next.attempt, before.attempt));
    }
    let (was, failed) = (before.attempts_failed, next.attempts_failed);
    if failed < was || failed > was + 1 || (next.is_queued() && failed >= world.attempts) {
        world.breaks(format!(
            "{}: {failed} of {} attempts came to nothing, after {was}",
            next.id, world.attempts
        ));
    }
    if to == InstanceState::Error && from != to && next.node().is_none() {
        let bound = failed == world.attempts && next.message.contains("limits.attempts");
        if !bound || matches!(before.phase, Phase::Starting { .. } | Phase::Started { .. }) {
            world.breaks(format!("{} failed at {:?} for no reason: {}", next.id, before.phase, next.message));
        }
    }
    if let Phase::Starting { node } | Phase::Started { node } = &before.phase {
        let elsewhere = next.node().is_some_and(|other| other != node);
        if elsewhere || matches!(next.phase, Phase::Queued { .. }) {
            world.breaks(format!("{} was starting on {node} and then was {:?}", next.id, next.phase));
        }
    }
    if let (Phase::Claimed { node: old, .. }, Phase::Claimed { node: new, .. }) = (&before.phase, &next.phase)
        && old != new
    {
        world.breaks(format!("{} was {old}'s and at once {new}'s", next.id));
    }
}

/// All instances as the store has them. What has not changed since it was read last is not read again.
#[derive(Default)]
struct Look {
    read: BTreeMap<String, (Revision, InstanceRecord)>,
}

impl Look {
    async fn all(&mut self, world: &World) -> impl Iterator<Item = &InstanceRecord> {
        let page = read_prefix(&*world.store, PREFIX, 500).await.unwrap();
        let mut before = std::mem::take(&mut self.read);
        for KeyValue { key, value, mod_revision, .. } in page.kvs {
            let known = before.remove(&key).filter(|(revision, _)| *revision == mod_revision);
            self.read.insert(key, known.unwrap_or_else(|| (mod_revision, records::decode(&value).unwrap())));
        }
        self.read.values().map(|(_, record)| record)
    }

    /// What still waits, and why.
    async fn waits(&mut self, world: &World) -> Vec<String> {
        let wanted = world.wanted.lock().unwrap().clone();
        let (mut waits, mut there) = (Vec::new(), BTreeSet::new());
        for record in self.all(world).await {
            let ended = matches!(record.state(), InstanceState::Started | InstanceState::Error);
            if !wanted.contains(&record.id) {
                waits.push(format!("{} is still {:?}", record.id, record.phase));
            } else if !ended {
                waits.push(format!("{} is {:?}: {}", record.id, record.phase, record.message));
            }
            there.insert(record.id.clone());
        }
        waits.extend(wanted.difference(&there).map(|id| format!("{id} is not there")));
        waits
    }
}

/// Completes when every acknowledged instance that nobody terminated has come to an end of its way.
pub(crate) async fn settled(world: &World) {
    let mut look = Look::default();
    while !look.waits(world).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What still waits, and why.
pub(crate) async fn waiting(world: &World) -> String {
    Look::default().waits(world).await.join("; ")
}

/// Nothing is there that nobody was told of, and the queue says what the instances say.
pub(crate) async fn compare(world: &World) {
    let mut look = Look::default();
    let now: Vec<_> = look.all(world).await.collect();
    let acknowledged = world.acknowledged.lock().unwrap().clone();
    for record in now.iter().filter(|record| !acknowledged.contains(&record.id)) {
        world.breaks(format!("{} was made and nobody was told of it", record.id));
    }
    let keys = Keys::new("main");
    let queue = world.store.range(Range::prefix("/switchyard/main/queue/")).await.unwrap();
    let queued: BTreeSet<String> = queue.kvs.into_iter().map(|kv| kv.key).collect();
    let waiting = now.iter().filter(|record| record.is_queued()).map(|record| keys.queued_start(&record.id));
    let waiting: BTreeSet<String> = waiting.collect();
    if queued != waiting {
        world.breaks(format!("the queue has {queued:?}, the instances say {waiting:?}"));
    }
}
