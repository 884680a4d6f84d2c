//! What groups of callers may do. Pure.

use std::collections::BTreeMap;

use super::{Cache, Item};
use crate::{
    controller::records::{NodeRecord, PermissionRecord},
    model::NodeId,
    wire::permission::{CREATE_INSTANCE, ResourceType},
};

/// All groups of callers that have a record.
#[derive(Debug, Default)]
pub struct Permissions {
    by_name: BTreeMap<String, Item<PermissionRecord>>,
    /// Whose the last part of a key is.
    names: BTreeMap<String, String>,
}

impl Permissions {
    /// Tells the nodes that are or were resources of the group: for them something may wait, or wait no longer.
    pub(super) fn put(&mut self, key: &str, item: Item<PermissionRecord>) -> Vec<NodeId> {
        let old = self.group(&item.record.name);
        let nodes = old.into_iter().chain([item.record.as_ref()]).flat_map(|group| group.nodes.keys());
        let nodes = nodes.filter_map(|id| NodeId::parse(id.as_str()).ok()).collect();
        self.names.insert(key.to_owned(), item.record.name.clone());
        self.by_name.insert(item.record.name.clone(), item);
        nodes
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Some(name) = self.names.remove(key) {
            self.by_name.remove(&name);
        }
    }

    /// The group of this name.
    pub fn group(&self, name: &str) -> Option<&PermissionRecord> {
        Some(self.by_name.get(name)?.record.as_ref())
    }

    /// All, by name.
    pub fn all(&self) -> impl Iterator<Item = &PermissionRecord> {
        self.by_name.values().map(|item| item.record.as_ref())
    }

    /// Whether one of these groups may do this: the permissions of all of them add up.
    pub fn allow(&self, groups: &[&str], permission: &str) -> bool {
        let has = |name: &&str| self.group(name).is_some_and(|group| group.permissions.contains(permission));
        groups.iter().any(has)
    }

    /// Whether one of these groups may do this with a node or a template.
    pub fn reach(&self, groups: &[String], (kind, id): (ResourceType, &str), right: &str) -> bool {
        let has =
            |group: &PermissionRecord| group.of(kind).get(id).is_some_and(|rights| rights.contains(right));
        groups.iter().filter_map(|name| self.group(name)).any(has)
    }

    /// Whether a node runs starts of this group: its agent's credential is of the group, or it is a resource of it.
    pub fn serves(&self, node: &NodeRecord, group: &str) -> bool {
        let of_it = || {
            let rights = self.group(group).and_then(|group| group.nodes.get(node.id.as_str()));
            rights.is_some_and(|rights| rights.contains(CREATE_INSTANCE))
        };
        node.caller_groups.iter().any(|of| of == group) || of_it()
    }
}

impl Cache {
    /// What groups of callers may do.
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }
}
