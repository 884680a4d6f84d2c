//! The start that a poll gets: the first that suits its node, found without looking at those that do not.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    fit,
    rank::{ON_NODE, of_layers},
};
use crate::{
    controller::{
        lists::{Cache, Item},
        records::{InstanceRecord, NodeRecord},
    },
    model::InstanceId,
};

/// Starts that suit a node and that one poll looks at until one is free.
const LOOKS: usize = 2000;

/// The first waiting start that suits the node and is `free`, in the order of priority, age and template or layers on
/// the node: the queues of all kinds that suit it, merged. What does not suit costs one look for each kind, not for
/// each start; and of what suits so many that are not free may come first, and no more: a poll must not hold up
/// the others. Who comes after those finds them free or gone.
pub fn best(
    cache: &Cache,
    node: &NodeRecord,
    free: impl Fn(&InstanceId, &Item<InstanceRecord>) -> bool,
) -> Option<InstanceId> {
    let mut queues = Vec::new();
    let mut firsts = BinaryHeap::new();
    for mut queue in cache.queues() {
        let Some((order, id, item)) = queue.next() else { continue };
        let spec = &item.record.spec;
        if fit::suits(spec, node, cache.grouped(spec, node)).is_err() {
            continue;
        }
        let bonus = match fit::has_template(spec, node) {
            true => ON_NODE,
            false => of_layers(fit::layers_there(spec, node)),
        };
        firsts.push(Reverse((order.sooner_by(bonus), id, queues.len())));
        queues.push((queue, bonus));
    }
    for _ in 0..LOOKS {
        let Reverse((_, id, of)) = firsts.pop()?;
        if cache.instance(id).is_some_and(|item| free(id, item)) {
            return Some(id.clone());
        }
        let Some((queue, bonus)) = queues.get_mut(of) else { continue };
        if let Some((order, id, _)) = queue.next() {
            firsts.push(Reverse((order.sooner_by(*bonus), id, of)));
        }
    }
    None
}
