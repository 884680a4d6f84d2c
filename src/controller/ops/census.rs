//! How many there are of what: for metrics, looked at when they are asked for.

use std::time::Duration;

use super::{Ops, macs};
use crate::{
    clock,
    controller::{lists::Cache, records::Absence},
    http::Readiness,
    model::{InstanceState, NodeState},
};

/// How many there are of what.
#[derive(Debug, Default)]
pub(in crate::controller) struct Census {
    /// By state; each state is there.
    pub(in crate::controller) instances: Vec<(InstanceState, i64)>,
    /// By state; each state is there.
    pub(in crate::controller) nodes: Vec<(NodeState, i64)>,
    /// Nodes of which nothing is failed, though they are silent.
    pub(in crate::controller) held: usize,
    /// Records that cannot be read.
    pub(in crate::controller) unreadable: usize,
    /// Addresses of the pool: free, taken, held.
    pub(in crate::controller) macs: Option<[u64; 3]>,
}

/// One more of this.
fn count<T: PartialEq>(of: &mut [(T, i64)], what: &T) {
    if let Some((_, count)) = of.iter_mut().find(|(known, _)| known == what) {
        *count += 1;
    }
}

impl Ops {
    /// Brings the metrics up to date that are what the cache shows now.
    pub(in crate::controller) fn count(&self) {
        let wall = clock::wall();
        let (census, waiting, oldest) = self.inner.lists.peek(|cache| {
            let ages = cache.queues().flatten().map(|(_, _, item)| wall.since(item.record.created));
            let (waiting, oldest) =
                ages.fold((0, Duration::ZERO), |(count, oldest), age| (count + 1, oldest.max(age)));
            (self.census(cache), waiting, oldest)
        });
        self.inner.numbers.ready(&self.inner.health.ready());
        self.inner.numbers.census(&census);
        self.inner.numbers.queue(waiting, oldest);
    }

    fn census(&self, cache: &Cache) -> Census {
        let mut instances: Vec<_> = InstanceState::ALL.iter().map(|state| (*state, 0)).collect();
        for (_, item) in cache.instances() {
            count(&mut instances, &item.record.state());
        }
        // Those that their start has yet to make wait like others.
        for (_, item) in cache.starts() {
            item.record.unmade().iter().for_each(|_| count(&mut instances, &InstanceState::Scheduling));
        }
        let mut nodes: Vec<_> = NodeState::ALL.iter().map(|state| (*state, 0)).collect();
        let mut held = 0;
        for (_, item) in cache.nodes() {
            count(&mut nodes, &self.state_of(cache, &item.record));
            held += usize::from(item.record.absence == Some(Absence::Held));
        }
        let macs = self.mac_range().map(|range| {
            let (free, held) = (macs::free(cache, range), macs::held(cache, range));
            [free, range.count().saturating_sub(free).saturating_sub(held), held]
        });
        Census { instances, nodes, held, unreadable: cache.unreadable(), macs }
    }
}
