//! Parts of the lists: pages of instances and nodes that someone asks for.

use std::sync::Arc;

use super::{NodeView, Ops, OpsError};
use crate::{
    controller::{
        lists::{Age, Cache, Changes, NotKept, Seen},
        records::{InstanceRecord, NodeRecord},
    },
    model::{InstanceState, NodeId, NodeState},
    store::{Consistency, Revision},
};

/// Records that are looked at for one page. Reached: the page is short, and the next one goes on from there.
const LOOKS: usize = 10_000;

/// Which instances.
#[derive(Debug, Clone, Default)]
pub struct InstanceFilter {
    /// In one of these states; none: in any.
    pub states: Vec<InstanceState>,
    /// On this node.
    pub node: Option<NodeId>,
    /// Of this template, by id or name.
    pub template: Option<String>,
    /// That asked for this group, by id or name.
    pub group: Option<String>,
    /// With this free text.
    pub external_id: Option<String>,
    /// With this label.
    pub name: Option<String>,
}

/// Which nodes.
#[derive(Debug, Clone, Default)]
pub struct NodeFilter {
    /// In one of these states; none: in any.
    pub states: Vec<NodeState>,
    /// Of this group, by id or name.
    pub group: Option<String>,
    /// With this template on their disk, by id or name.
    pub template: Option<String>,
    /// With this name.
    pub name: Option<String>,
}

/// From where on, and how many.
#[derive(Debug, Clone)]
pub struct From<K> {
    /// Behind this one.
    pub after: Option<K>,
    /// At most so many.
    pub limit: usize,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T, K> {
    /// Up to where everything was seen.
    pub revision: Revision,
    /// In order.
    pub found: Vec<T>,
    /// Behind this one it goes on; nothing: there is no more.
    pub next: Option<K>,
}

impl InstanceFilter {
    fn takes(&self, cache: &Cache, record: &InstanceRecord) -> bool {
        let is = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted == text);
        let spec = &record.spec;
        (self.states.is_empty() || self.states.contains(&record.state()))
            && self.node.as_ref().is_none_or(|node| record.node() == Some(node))
            && is(&self.external_id, record.external_id.as_deref().unwrap_or_default())
            && is(&self.name, record.name.as_deref().unwrap_or_default())
            && (is(&self.template, spec.template.as_str()) || is(&self.template, &spec.template_name))
            && self.group.as_ref().is_none_or(|group| same_group(cache, &spec.group_id, group))
    }
}

/// Whether two words, each an id or a name, mean one group.
fn same_group(cache: &Cache, one: &str, other: &str) -> bool {
    let id = |word: &str| cache.groups().find(word).map(|group| group.id.clone());
    one == other || (!one.is_empty() && id(one).is_some_and(|one| Some(one) == id(other)))
}

impl NodeFilter {
    fn takes(&self, view: &NodeView) -> bool {
        let has = |record: &NodeRecord, wanted: &String| {
            let mut templates = record.facts.templates.iter();
            templates.any(|template| template.uuid == *wanted || template.name == *wanted)
        };
        (self.states.is_empty() || self.states.contains(&view.state))
            && self.name.as_ref().is_none_or(|name| view.record.settings.name == *name)
            && self.template.as_ref().is_none_or(|wanted| has(&view.record, wanted))
            && self
                .group
                .as_ref()
                .is_none_or(|group| view.groups.iter().any(|of| of.id == *group || of.name == *group))
    }
}

impl Ops {
    /// The next instances that fit, the oldest first, with why each waits.
    pub async fn instances_page(
        &self,
        filter: &InstanceFilter,
        from: &From<Age>,
    ) -> Result<Seen<Page<Arc<InstanceRecord>, Age>>, OpsError> {
        let seen = self.inner.lists.read(|cache| {
            let mut page = match &filter.node {
                Some(node) => {
                    let of_node = cache.instances_of_node_after(node, from.after.as_ref());
                    gather(of_node, from.limit, |record| filter.takes(cache, record))
                }
                None => {
                    let all =
                        cache.instances_after(from.after.as_ref()).map(|(age, record)| (age.clone(), record));
                    gather(all, from.limit, |record| filter.takes(cache, record))
                }
            };
            page.revision = cache.applied();
            let mut reasons = self.reasons(cache);
            page.found = page.found.into_iter().map(|record| reasons.explain(record)).collect();
            page
        });
        seen.await
    }

    /// The next nodes that fit, in order of their ids.
    pub async fn nodes_page(
        &self,
        filter: &NodeFilter,
        from: &From<NodeId>,
    ) -> Result<Seen<Page<NodeView, NodeId>>, OpsError> {
        let seen = self.inner.lists.read(|cache| {
            let all =
                cache.nodes_after(from.after.as_ref()).map(|(id, item)| (id.clone(), self.view(cache, item)));
            let mut page = gather(all, from.limit, |view| filter.takes(view));
            page.revision = cache.applied();
            page
        });
        seen.await
    }

    /// A node as it is in the cache now.
    pub fn node_now(&self, id: &NodeId) -> Option<NodeView> {
        self.inner.lists.peek(|cache| cache.node(id).map(|item| self.view(cache, item)))
    }

    /// An instance, with why it waits as the cache knows it now.
    pub fn explained_now(&self, record: Arc<InstanceRecord>) -> Arc<InstanceRecord> {
        self.inner.lists.peek(|cache| self.reasons(cache).explain(record))
    }

    /// The last changes, once everything is in them that was acknowledged before this call began.
    pub async fn changes(&self) -> Result<&Changes, OpsError> {
        self.loaded()?;
        self.inner.lists.catch_up().await?;
        Ok(self.inner.lists.changes())
    }

    /// From where a watch goes on here that was at `from`.
    ///
    /// A place that another controller gave may be ahead of all that this one was told of: what ends with a lease, or was
    /// written outside of what is watched, moves the store's revision and not every cache. Such a watch goes on from what is
    /// here, and is told again what came in between; nothing is lost.
    pub async fn watch_from(&self, from: Revision) -> Result<Result<Revision, NotKept>, OpsError> {
        let gone = match self.changes().await?.after(from, 1) {
            Ok(_) => return Ok(Ok(from)),
            Err(gone) => gone,
        };
        Ok(if from > gone.newest && self.is_reached(from).await? { Ok(gone.newest) } else { Err(gone) })
    }

    /// Whether the store is as far as this revision. If not, a revision that was given once is of another store, or of one
    /// that was restored.
    pub async fn is_reached(&self, revision: Revision) -> Result<bool, OpsError> {
        let head = self.inner.keys.head();
        Ok(self.inner.store.get(&head, Consistency::Linearizable).await?.revision >= revision)
    }
}

/// The first that are taken, until there are enough or too many were looked at.
pub(super) fn gather<T, K: Clone>(
    all: impl Iterator<Item = (K, T)>,
    limit: usize,
    mut takes: impl FnMut(&T) -> bool,
) -> Page<T, K> {
    let mut page = Page { revision: 0, found: Vec::new(), next: None };
    let mut last = None;
    for (looked, (key, one)) in all.enumerate() {
        if page.found.len() >= limit || looked >= LOOKS {
            page.next = last;
            break;
        }
        if takes(&one) {
            page.found.push(one);
        }
        last = Some(key);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_and_the_last_one_says_so() {
        let all = || (0..10).map(|n| (n, n));
        let first = gather(all(), 4, |_| true);
        assert_eq!((first.found, first.next), (vec![0, 1, 2, 3], Some(3)));
        let rest = gather(all().skip(4), 6, |_| true);
        assert_eq!((rest.found.len(), rest.next), (6, None), "exactly what is left");
        let few = gather(all(), 4, |n| *n == 7);
        assert_eq!((few.found, few.next), (vec![7], None));
        assert_eq!(gather(all().take(0), 4, |_| true).next, None::<i32>);
    }

    #[test]
    fn what_fits_seldom_does_not_cost_the_whole_list_at_once() {
        let page = gather((0..LOOKS * 3).map(|n| (n, n)), 5, |_| false);
        assert_eq!((page.found.len(), page.next), (0, Some(LOOKS - 1)));
    }
}
