//! Brings waiting polls and waiting starts together within one controller.
//!
//! A start that comes into the queue wakes one poll, the best for it, and only at the controller that is its first
//! choice; the others try it a little later. So a burst is no stampede: neither within a controller nor between
//! controllers. A poll that arrives looks through the queue itself. All of this only shortens waits and spares
//! races; what holds is the transaction of an offer.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    best::best,
    fit::{self, Kind},
    rank::first_choice,
};
use crate::{
    clock,
    controller::{
        lists::{Cache, Item, Lists, Told},
        records::{InstanceRecord, NodeRecord},
    },
    model::{InstanceId, NodeId},
    supervise::Stop,
};

/// How long a start is left to its first choice; then a random part of [`JITTER`] more.
const LEAVE_TO_FIRST: Duration = Duration::from_millis(50);
const JITTER: Duration = Duration::from_millis(30);

/// How long a node does not get a start again that it gave back: what was in the way may pass.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// How long smaller starts may go before one that needs more room than a node has. Then the node is kept free for it.
const SMALLER_GO_FIRST: Duration = Duration::from_secs(60);

/// Layers that are there count in such steps: less is fetched in no time, and an emptier node is better.
const WORTH_A_STEP: u64 = 64 << 20;

/// Starts that are looked at again later, at most. Over it the oldest waits for a poll that arrives.
const LATER: usize = 200_000;

/// The polls that are parked here, and the starts somebody here is about to offer.
pub(in crate::controller) struct Dispatch {
    /// This controller's name among the members.
    name: String,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    seats: HashMap<u64, Parked>,
    by_node: HashMap<NodeId, HashSet<u64>>,
    reserved: HashSet<InstanceId>,
    later: BinaryHeap<Reverse<(Instant, InstanceId)>>,
}

struct Parked {
    node: NodeId,
    wake: Arc<Notify>,
    /// It would take a start now: one held for a seat that would not is one that nobody gets.
    ready: bool,
    hint: Option<InstanceId>,
}

/// A poll's place. Dropping it leaves; a start that was held for it goes to another.
pub(in crate::controller) struct Seat<'a> {
    dispatch: &'a Dispatch,
    number: u64,
    wake: Arc<Notify>,
    /// Starts that this poll could not get: it takes others.
    lost: HashSet<InstanceId>,
}

/// A start that nobody else here offers meanwhile.
pub(in crate::controller) struct Reserved<'a> {
    dispatch: &'a Dispatch,
    pub(in crate::controller) id: InstanceId,
}

impl Dispatch {
    pub(in crate::controller) fn new(name: String) -> Self {
        Self { name, state: Mutex::default(), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every step leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a poll of this node.
    pub(in crate::controller) fn park(&self, node: &NodeId) -> Seat<'_> {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        let wake = Arc::new(Notify::new());
        state
            .seats
            .insert(number, Parked { node: node.clone(), wake: wake.clone(), ready: false, hint: None });
        state.by_node.entry(node.clone()).or_default().insert(number);
        Seat { dispatch: self, number, wake, lost: HashSet::new() }
    }

    /// Takes in what the cache was told.
    pub(in crate::controller) fn told(&self, told: Told, lists: &Lists) {
        let (queued, nodes) = match told {
            Told::Changes(effects) => (effects.queued, effects.nodes),
            Told::Everything => {
                for parked in self.lock().seats.values() {
                    parked.wake.notify_one();
                }
                // What is new in it is left to its first choice like any other, and so looked at again.
                lists.peek(|cache| {
                    let new =
                        cache.queues().flatten().filter(|(_, _, item)| item.seen.elapsed() < LEAVE_TO_FIRST);
                    new.for_each(|(_, id, _)| self.leave_to_first(id.clone()));
                });
                return;
            }
        };
        {
            let state = self.lock();
            let seats = nodes.iter().filter_map(|node| state.by_node.get(node)).flatten();
            for parked in seats.filter_map(|number| state.seats.get(number)) {
                parked.wake.notify_one();
            }
        }
        lists.peek(|cache| {
            let mut nobody = HashSet::new();
            for id in queued {
                if self.is_first_choice(cache, &id) {
                    self.hand_out(cache, &id, &mut nobody);
                } else {
                    self.leave_to_first(id);
                }
            }
            if !nodes.is_empty() {
                for id in cache.may_fall_back() {
                    self.hand_out(cache, &id, &mut nobody);
                }
            }
        });
    }

    fn leave_to_first(&self, id: InstanceId) {
        self.look_later(id, LEAVE_TO_FIRST + JITTER.mul_f64(rand::random()));
    }

    fn look_later(&self, id: InstanceId, wait: Duration) {
        let mut state = self.lock();
        if state.later.len() < LATER {
            state.later.push(Reverse((clock::now() + wait, id)));
            self.wake.notify_one();
        }
    }

    fn is_first_choice(&self, cache: &Cache, id: &InstanceId) -> bool {
        let members = cache.members("controller").map(|(name, _)| name);
        first_choice(id, members).is_none_or(|name| name == self.name)
    }

    /// Gives a waiting start to the parked poll that suits it best, if there is one. `nobody`: kinds that no poll
    /// suited a moment ago; a burst of a thousand does not ask all polls a thousand times.
    fn hand_out(&self, cache: &Cache, id: &InstanceId, nobody: &mut HashSet<Kind>) {
        let Some(item) = cache.instance(id).filter(|item| item.record.is_queued()) else { return };
        let kind = Kind::of(&item.record.spec);
        if nobody.contains(&kind) {
            return;
        }
        let mut state = self.lock();
        if state.reserved.contains(id) {
            return;
        }
        let best = state
            .seats
            .iter()
            .filter(|(_, parked)| parked.ready && parked.hint.is_none())
            .filter_map(|(number, parked)| {
                let node = &cache.node(&parked.node)?.record;
                if !may_get(item, node) {
                    return None;
                }
                let candidate = cache.candidate_for(&item.record.spec, node);
                let grouped = cache.grouped(&item.record.spec, node);
                fit::fits(&item.record.spec, candidate, grouped).ok()?;
                let room = node.settings.capacity.saturating_sub(candidate.taken);
                let here = fit::has_template(&item.record.spec, node);
                let layers = fit::layers_there(&item.record.spec, node) / WORTH_A_STEP;
                Some(((grouped, here, layers, room, Reverse(*number)), *number))
            })
            .max_by_key(|(worth, _)| *worth);
        if let Some(parked) = best.and_then(|(_, number)| state.seats.get_mut(&number)) {
            parked.hint = Some(id.clone());
            parked.wake.notify_one();
            state.reserved.insert(id.clone());
        } else if item.record.refused_by.is_empty() && !item.newer {
            nobody.insert(kind);
        }
    }

    /// The best start for a node, reserved: the one held for this seat, else what the queue has.
    pub(in crate::controller) fn choose(
        &self,
        cache: &Cache,
        seat: &Seat<'_>,
        node: &NodeRecord,
    ) -> Option<Reserved<'_>> {
        let candidate = cache.candidate(node);
        let mut state = self.lock();
        let hint = state.seats.get_mut(&seat.number).and_then(|parked| parked.hint.take());
        let held = hint.map(|id| Reserved { dispatch: self, id });
        if let Err(misfit) = fit::takes_starts(candidate) {
            // What was held for this seat when it still had room goes to another.
            drop(state);
            drop(held);
            tracing::trace!(node.id = %node.id, ?misfit, "node takes no starts");
            return None;
        }
        // One that has waited long for more room than there ever is at once comes before all others: nothing else is
        // given to the node until there is.
        if waits_for_room(cache, node, candidate).is_some() {
            drop(state);
            drop(held);
            tracing::trace!(node.id = %node.id, "node is kept free for a larger start");
            return None;
        }
        let still = |held: &Reserved<'_>| {
            !seat.lost.contains(&held.id)
                && cache.instance(&held.id).is_some_and(|item| {
                    let spec = &item.record.spec;
                    let candidate = cache.candidate_for(spec, node);
                    item.record.is_queued() && fit::fits(spec, candidate, cache.grouped(spec, node)).is_ok()
                })
        };
        if held.as_ref().is_some_and(still) {
            return held;
        }
        let id = best(cache, node, |id, item| {
            let mine = || item.seen.elapsed() >= LEAVE_TO_FIRST || self.is_first_choice(cache, id);
            let usb_free = || !cache.usb_busy(&item.record.spec.usb_device, &node.id);
            !seat.lost.contains(id)
                && !state.reserved.contains(id)
                && may_get(item, node)
                && fit::has_room(&item.record.spec, candidate)
                && mine()
                && usb_free()
        });
        state.reserved.extend(id.clone());
        // Only now: giving back what was held takes the same lock.
        drop(state);
        drop(held);
        id.map(|id| Reserved { dispatch: self, id })
    }

    /// Hands out the starts that were left to their first choice, when their time has come.
    pub(in crate::controller) async fn run(&self, lists: &Lists, stop: Stop) {
        loop {
            let due = self.lock().later.peek().map(|Reverse((due, _))| *due);
            tokio::select! {
                () = stop.requested() => return,
                () = self.wake.notified() => continue,
                () = async {
                    match due {
                        Some(due) => tokio::time::sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
            let mut ready = Vec::new();
            {
                let (mut state, now) = (self.lock(), clock::now());
                while state.later.peek().is_some_and(|Reverse((due, _))| *due <= now) {
                    ready.extend(state.later.pop().map(|Reverse((_, id))| id));
                }
            }
            let mut nobody = HashSet::new();
            lists.peek(|cache| ready.iter().for_each(|id| self.hand_out(cache, id, &mut nobody)));
        }
    }
}

/// The oldest start of some kind that the node could have, were it empty, and that has waited for room for so long that
/// smaller ones must not go before it any more. Where VMs are counted all are of one size.
pub(in crate::controller) fn waits_for_room<'a>(
    cache: &'a Cache,
    node: &NodeRecord,
    candidate: fit::Candidate<'_>,
) -> Option<&'a InstanceId> {
    let room = candidate.room?;
    let now = clock::wall();
    let mut firsts = cache.queues().filter_map(|mut queue| queue.next());
    let larger = firsts.find(|(_, _, item)| {
        let spec = &item.record.spec;
        now.since(item.record.created) >= SMALLER_GO_FIRST
            && may_get(item, node)
            && fit::suits(spec, node, cache.grouped(spec, node)).is_ok()
            && room.could_have(spec, node)
            && !room.has(spec, node)
    });
    larger.map(|(_, id, _)| id)
}

/// Not to a node that has just given it back, unless some time has passed; and not what only a newer controller
/// may write.
fn may_get(item: &Item<InstanceRecord>, node: &NodeRecord) -> bool {
    !item.newer && (!item.record.refused_by.contains(&node.id) || item.seen.elapsed() >= REFUSED_FOR)
}

impl Seat<'_> {
    /// Says whether a start may be held for it from now on.
    pub(in crate::controller) fn ready(&self, ready: bool) {
        if let Some(parked) = self.dispatch.lock().seats.get_mut(&self.number) {
            parked.ready = ready;
        }
    }

    /// Says that it could not get this start, so that [`Dispatch::choose`] has another one for it.
    pub(in crate::controller) fn lost(&mut self, id: InstanceId) {
        self.lost.insert(id);
    }

    /// Forgets what it could not get: something has changed.
    pub(in crate::controller) fn try_all(&mut self) {
        self.lost.clear();
    }

    /// Completes when there may be something new for this seat. Cancel-safe.
    pub(in crate::controller) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.dispatch.lock();
        let Some(parked) = state.seats.remove(&self.number) else { return };
        if let Some(numbers) = state.by_node.get_mut(&parked.node) {
            numbers.remove(&self.number);
            if numbers.is_empty() {
                state.by_node.remove(&parked.node);
            }
        }
        if let Some(id) = parked.hint {
            state.reserved.remove(&id);
            drop(state);
            self.dispatch.look_later(id, Duration::ZERO);
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.dispatch.lock().reserved.remove(&self.id);
        // If it is still queued, somebody else may try; if not, looking costs nothing.
        self.dispatch.look_later(self.id.clone(), LEAVE_TO_FIRST);
    }
}
