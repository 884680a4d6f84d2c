//! Groups of nodes: which there are, who is in them, and who takes over when one is full. Pure.
//!
//! A group is made by an operator and has an id of its own; or it is just a name that agents join with, which is its id
//! then. Making a group of that name gives it an id and keeps its nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cache, Item};
use crate::{
    controller::{
        records::{GroupRecord, InstanceSpec, NodeRecord},
        schedule::fit::{self, Grouped},
    },
    model::GroupId,
};

/// Groups that are followed from one to its fallback, and on. Longer chains end there.
const CHAIN: usize = 8;

/// The groups that operators have made.
#[derive(Debug, Default)]
pub struct Groups {
    by_id: BTreeMap<GroupId, Item<GroupRecord>>,
    by_name: BTreeMap<String, GroupId>,
}

impl Groups {
    pub(super) fn put(&mut self, id: GroupId, item: Item<GroupRecord>) {
        self.remove(&id);
        self.by_name.insert(item.record.name.clone(), id.clone());
        self.by_id.insert(id, item);
    }

    pub(super) fn remove(&mut self, id: &GroupId) {
        if let Some(old) = self.by_id.remove(id)
            && self.by_name.get(&old.record.name) == Some(id)
        {
            self.by_name.remove(&old.record.name);
        }
    }

    /// The group with this id, or else with this name.
    pub fn find(&self, id_or_name: &str) -> Option<&GroupRecord> {
        let by_id = GroupId::parse(id_or_name).ok().and_then(|id| self.by_id.get(&id));
        let item = by_id.or_else(|| self.by_id.get(self.by_name.get(id_or_name)?))?;
        Some(&item.record)
    }

    /// By id.
    pub fn get(&self, id: &GroupId) -> Option<&Item<GroupRecord>> {
        self.by_id.get(id)
    }

    /// All, in order of id.
    pub fn all(&self) -> impl Iterator<Item = &GroupRecord> {
        self.by_id.values().map(|item| item.record.as_ref())
    }

    /// This group, its fallback, and on; each once.
    pub fn chain(&self, from: &GroupId) -> Vec<&Item<GroupRecord>> {
        let (mut seen, mut chain) = (BTreeSet::new(), Vec::new());
        let mut at = self.by_id.get(from);
        while let Some(item) = at.filter(|item| seen.insert(&item.record.id)) {
            chain.push(item);
            at = item.record.fallback.as_ref().and_then(|id| self.by_id.get(id));
        }
        chain
    }

    /// Whether the node is in this group, given by id or name.
    pub fn has(&self, group: &str, node: &NodeRecord) -> bool {
        match self.find(group) {
            Some(group) => node.group_ids.contains(&group.id) || node.groups.contains(&group.name),
            None => node.groups.iter().any(|name| name == group),
        }
    }

    /// The groups of a node that operators have made, and the bare names of the others.
    pub fn of<'a>(&'a self, node: &'a NodeRecord) -> (Vec<&'a GroupRecord>, Vec<&'a str>) {
        let made = |name: &String| self.by_name.get(name);
        let ids: BTreeSet<&GroupId> = node.groups.iter().filter_map(made).chain(&node.group_ids).collect();
        let records = ids.into_iter().filter_map(|id| Some(self.by_id.get(id)?.record.as_ref()));
        let bare = node.groups.iter().filter(|name| made(name).is_none()).map(String::as_str);
        (records.collect(), bare.collect())
    }
}

impl Cache {
    /// The groups that operators have made.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// What the node is to a start, as far as its group goes: a fallback gets it only while no node of the groups before
    /// could.
    pub fn grouped(&self, spec: &InstanceSpec, node: &NodeRecord) -> Grouped {
        if !spec.permission_group.is_empty() && !self.permissions.serves(node, &spec.permission_group) {
            return Grouped::Outside;
        }
        if spec.group_id.is_empty() {
            return Grouped::Member;
        }
        let mut group = spec.group_id.as_str();
        for step in 0..CHAIN {
            if self.groups.has(group, node) {
                return if step == 0 { Grouped::Member } else { Grouped::Fallback };
            }
            let next = self.groups.find(group).and_then(|record| record.fallback.as_ref());
            let Some(next) = next.filter(|_| !self.has_room(group, spec)) else { break };
            group = next.as_str();
        }
        Grouped::Outside
    }

    /// Whether a node of this group could take the start now.
    fn has_room(&self, group: &str, spec: &InstanceSpec) -> bool {
        self.nodes().any(|(_, item)| {
            let node = item.record.as_ref();
            self.groups.has(group, node)
                && fit::fits(spec, self.candidate_for(spec, node), Grouped::Member).is_ok()
        })
    }

    /// One waiting start of each kind whose group has a fallback: when a group fills up, nobody there is told.
    pub fn may_fall_back(&self) -> Vec<crate::model::InstanceId> {
        // The common case, and asked with every change of a node: there may be as many kinds as nodes.
        if self.groups.all().all(|group| group.fallback.is_none()) {
            return Vec::new();
        }
        let falls = |group: &str| self.groups.find(group).is_some_and(|record| record.fallback.is_some());
        let first = self.queues().filter_map(|mut queue| queue.next());
        first.filter(|(_, _, item)| falls(&item.record.spec.group_id)).map(|(_, id, _)| id.clone()).collect()
    }
}
