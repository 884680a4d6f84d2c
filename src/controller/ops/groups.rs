//! Groups of nodes: make, list, change, delete, and who is in them.

use std::collections::BTreeSet;

use super::{Beside, Change, Ops, OpsError};
use crate::{
    clock,
    controller::{
        lists::{Cache, Item, Seen},
        records::{self, GroupName, GroupRecord, InstanceRecord, InstanceSpec, NodeRecord, Phase},
        writes::{Draft, Fence, Outcome, Patience, RACES},
    },
    model::{GroupId, InstanceId, NodeId, excerpt},
    store::Consistency,
    wire::{
        group::{GroupAsk, NodeGroups},
        node::NodeGroup,
    },
};

/// Most groups that operators can make: every controller keeps all of them.
const GROUPS: usize = 1000;

/// Longest name or description.
const TEXT: usize = 1024;

/// Most nodes and groups of one call.
const AT_ONCE: usize = 100;

/// Most groups that follow one another, each the fallback of the one before.
const FALLBACKS: usize = 64;

/// Why a start has failed that was accepted while its group was being deleted.
pub(in crate::controller) const GROUP_DELETED: &str = "its group was deleted";

/// A group as the API shows it.
fn shown(record: &GroupRecord) -> NodeGroup {
    NodeGroup {
        id: record.id.to_string(),
        name: record.name.clone(),
        description: record.description.clone(),
        fallback_group_id: record.fallback.as_ref().map(GroupId::to_string),
    }
}

/// One that is only a name that agents have joined with.
fn bare(name: &str) -> NodeGroup {
    NodeGroup { id: name.into(), name: name.into(), description: String::new(), fallback_group_id: None }
}

/// The groups of a node.
pub(super) fn groups_of(cache: &Cache, node: &records::NodeRecord) -> Vec<NodeGroup> {
    let (made, names) = cache.groups().of(node);
    made.into_iter().map(shown).chain(names.into_iter().map(bare)).collect()
}

impl Ops {
    /// All groups: those that were made, and those that agents have joined with.
    pub async fn groups(&self) -> Result<Seen<Vec<NodeGroup>>, OpsError> {
        let all = self.inner.lists.read(|cache| {
            let mut all: Vec<NodeGroup> = cache.groups().all().map(shown).collect();
            let joined = cache.nodes().flat_map(|(_, item)| item.record.groups.iter());
            let names: std::collections::BTreeSet<&String> = joined.collect();
            all.extend(
                names.into_iter().filter(|name| cache.groups().find(name).is_none()).map(|name| bare(name)),
            );
            all.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
            all
        });
        all.await
    }

    /// Makes a group. Nodes that have joined with its name are in it.
    ///
    /// # Errors
    /// `BadInput`, `Conflict` when another has the name, `TooMany`, `Unavailable`.
    pub async fn make_group(&self, ask: GroupAsk) -> Result<NodeGroup, OpsError> {
        self.loaded()?;
        check(&ask)?;
        let name = ask.name.ok_or_else(|| OpsError::BadInput("name is required".into()))?;
        if self.inner.lists.read(|cache| cache.groups().all().count()).await?.value >= GROUPS {
            return Err(OpsError::TooMany(format!("there are {GROUPS} groups, which is the most")));
        }
        let description = ask.description.unwrap_or_default();
        let mut record =
            GroupRecord { id: GroupId::random(), name, description, fallback: None, created: clock::wall() };
        let key = self.inner.keys.group(&record.id);
        let named = self.inner.keys.group_name(&record.name);
        let wanted = ask.fallback_group_id.as_deref().filter(|text| !text.is_empty());
        for _ in 0..RACES {
            // A group that was made with this name at the same moment has this key.
            let mut draft = Draft::new(&named).at(&named, 0);
            if let Some(text) = wanted {
                let chain = self.fallback(text, &record.id).await?;
                record.fallback = chain.first().map(|item| item.record.id.clone());
                draft = self.falls_back(draft, &chain)?;
            }
            let draft = draft.put(&named, &GroupName { id: record.id.clone() })?.put(&key, &record)?;
            match self.inner.writes.commit(draft, Patience::new()).await? {
                Outcome::Done => return Ok(shown(&record)),
                Outcome::Lost(Some(_)) => return Err(taken(&record.name)),
                // Something changed on the way that its starts fall back on.
                Outcome::Lost(None) => {}
            }
        }
        Err(OpsError::unavailable("the group's fallback is changed by too many at once"))
    }

    /// Changes what is given of a group.
    ///
    /// # Errors
    /// `NotFound`, `BadInput` (a fallback that leads back to it among others), `Conflict`, `Unavailable`.
    pub async fn change_group(&self, id: &GroupId, ask: GroupAsk) -> Result<(), OpsError> {
        self.loaded()?;
        check(&ask)?;
        let key = self.inner.keys.group(id);
        for _ in 0..RACES {
            let Some((old, revision)) = self.record_at::<GroupRecord>(&key).await? else {
                return Err(OpsError::NotFound);
            };
            let mut next = old.clone();
            next.name = ask.name.clone().unwrap_or(next.name);
            next.description = ask.description.clone().unwrap_or(next.description);
            let mut draft = Draft::new(&key).at(&key, revision);
            match ask.fallback_group_id.as_deref() {
                None => {}
                Some("") => next.fallback = None,
                Some(text) => {
                    let chain = self.fallback(text, id).await?;
                    next.fallback = chain.first().map(|item| item.record.id.clone());
                    draft = self.falls_back(draft, &chain)?;
                }
            }
            draft = draft.put(&key, &next)?;
            if next.name != old.name {
                let (from, to) =
                    (self.inner.keys.group_name(&old.name), self.inner.keys.group_name(&next.name));
                if self.stored(&to).await? {
                    return Err(taken(&next.name));
                }
                draft = draft.at(&to, 0).delete(from).put(to, &GroupName { id: id.clone() })?;
            }
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                return Ok(());
            }
        }
        Err(OpsError::unavailable("the group's record is changed by too many at once"))
    }

    /// The group that `of` is to fall back on, and those that this one falls back on, in their order.
    async fn fallback(&self, text: &str, of: &GroupId) -> Result<Vec<Item<GroupRecord>>, OpsError> {
        let chain = self.inner.lists.read(|cache| {
            let found = cache.groups().find(text)?;
            Some(cache.groups().chain(&found.id).into_iter().cloned().collect::<Vec<_>>())
        });
        let chain = chain.await?.value.ok_or_else(|| unknown("fallback_group_id", text))?;
        let bad = |why: &str| Err(OpsError::BadInput(format!("fallback_group_id `{text}`: {why}")));
        if chain.iter().any(|item| item.record.id == *of) {
            return bad("its own fallbacks lead back to this group, and a start would go round for ever");
        }
        if chain.len() > FALLBACKS {
            return bad(&format!("more than {FALLBACKS} groups would follow one another"));
        }
        Ok(chain)
    }

    /// Only while all of these fall back on one another as they do now. The first of them is written once more as it is:
    /// whoever deletes it at the same moment sees that something changed.
    fn falls_back(&self, mut draft: Draft, chain: &[Item<GroupRecord>]) -> Result<Draft, OpsError> {
        for (n, item) in chain.iter().enumerate() {
            let key = self.inner.keys.group(&item.record.id);
            draft = draft.at(&key, item.mod_revision);
            if n == 0 && !item.newer {
                draft = draft.put(key, item.record.as_ref())?;
            }
        }
        Ok(draft)
    }

    /// Deletes a group. Its nodes lose it; those whose agents name it keep that name.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it is another's fallback, or starts wait for it; `Unavailable`.
    pub async fn delete_group(&self, id: &GroupId) -> Result<(), OpsError> {
        self.loaded()?;
        let key = self.inner.keys.group(id);
        for _ in 0..RACES {
            let Some((record, revision)) = self.record_at::<GroupRecord>(&key).await? else {
                return Err(OpsError::NotFound);
            };
            // After it was read: who makes it a fallback in between changes it, and the comparison fails.
            let used = self.inner.lists.read(|cache| {
                let falls = cache.groups().all().find(|group| group.fallback.as_ref() == Some(id));
                (falls.map(|group| group.name.clone()), waiting_for(cache, &record))
            });
            match used.await?.value {
                (Some(name), _) => {
                    return Err(OpsError::Conflict(format!(
                        "it is the fallback of group `{name}`; change that first"
                    )));
                }
                (None, waits @ 1..) => {
                    return Err(OpsError::Conflict(format!(
                        "{waits} starts wait for it, or were given to a node and have not begun; terminate them first"
                    )));
                }
                (None, 0) => {}
            }
            let named = self.inner.keys.group_name(&record.name);
            let draft = Draft::new(&key).at(&key, revision).delete(&key).delete(named);
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                let (ops, id) = (self.clone(), id.clone());
                // Nothing shows it any more; this only keeps it from being carried along for ever.
                self.inner.tasks.finish(format!("members of group {id}"), async move {
                    if let Err(error) = ops.leave_group(&id, None).await {
                        tracing::info!(group.id = %id, %error, "some nodes' records still name a deleted group");
                    }
                    if let Err(error) = ops.end_waiting(&id).await {
                        tracing::info!(group.id = %id, %error, "starts may still wait for a deleted group");
                    }
                });
                return Ok(());
            }
        }
        Err(OpsError::unavailable("the group's record is changed by too many at once"))
    }

    /// Ends starts that were accepted while their group was being deleted: no node will ever be in it.
    async fn end_waiting(&self, id: &GroupId) -> Result<(), OpsError> {
        self.inner.lists.catch_up().await?;
        let waiting: Vec<InstanceId> = self.inner.lists.peek(|cache| {
            let of = cache.queues().flatten().filter(|(_, _, item)| item.record.spec.group_id == id.as_str());
            of.map(|(_, instance, _)| instance.clone()).collect()
        });
        for instance in waiting {
            self.change(&instance, Beside::default(), |record| {
                match record.and_then(|now| now.never_taken(GROUP_DELETED, clock::wall())) {
                    Some(next) => Change::Write(Box::new(next), ()),
                    None => Change::Leave(()),
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Starts that wait for a group that was deleted, and its key; at most so many. Its controller may have ended before it had
    /// ended them, and an offer or what was yet to be made may have come back since.
    pub(in crate::controller) fn of_deleted_groups(&self, most: usize) -> Vec<(InstanceId, String)> {
        self.inner.lists.peek(|cache| {
            let mut ended = Vec::new();
            // Those of one queue are all for the same group.
            for mut queue in cache.queues().map(Iterator::peekable) {
                let Some((.., first)) = queue.peek() else { continue };
                let Some(id) = deleted(cache, &first.record.spec.group_id) else { continue };
                let key = self.inner.keys.group(&id);
                let waiting = queue.filter(|(.., item)| !item.newer);
                let room = most.saturating_sub(ended.len());
                ended.extend(waiting.take(room).map(|(_, id, _)| (id.clone(), key.clone())));
            }
            ended
        })
    }

    /// Groups that nodes' records name and that are gone: a controller that deletes one may end before it has struck it out.
    pub(in crate::controller) async fn gone_groups(&self) -> Result<Vec<GroupId>, OpsError> {
        let unknown: BTreeSet<GroupId> = self.inner.lists.peek(|cache| {
            let named = cache.nodes().flat_map(|(_, item)| &item.record.group_ids);
            named.filter(|id| cache.groups().get(id).is_none()).take(AT_ONCE).cloned().collect()
        });
        let mut gone = Vec::new();
        for id in unknown {
            // One that cannot be read here is there all the same.
            if !self.stored(&self.inner.keys.group(&id)).await? {
                gone.push(id);
            }
        }
        Ok(gone)
    }

    /// Strikes a deleted group out of its nodes' records.
    pub(in crate::controller) async fn leave_group(
        &self,
        id: &GroupId,
        fence: Option<&Fence>,
    ) -> Result<(), OpsError> {
        self.inner.lists.catch_up().await?;
        let nodes: Vec<NodeId> = self.inner.lists.peek(|cache| {
            let within = cache.nodes().filter(|(_, item)| !item.newer && item.record.group_ids.contains(id));
            within.map(|(node, _)| node.clone()).collect()
        });
        for node in nodes {
            let leave = |record: &mut NodeRecord| record.group_ids.retain(|group| group != id);
            match self.change_node_as(&node, None, fence, leave).await {
                // One that has left has left the group as well.
                Ok(()) | Err(OpsError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Puts nodes into groups, or takes them out. A node's later joins do not undo it.
    ///
    /// # Errors
    /// `BadInput`, `NotFound` for a node that is not known, `Unavailable`; nodes before it are changed then.
    pub async fn regroup(&self, ask: &NodeGroups, into: bool) -> Result<(), OpsError> {
        self.loaded()?;
        for (key, given) in [("group_ids", &ask.group_ids), ("node_ids", &ask.node_ids)] {
            if given.is_empty() || given.len() > AT_ONCE {
                let why = format!("`{key}` is required: a list with 1 to {AT_ONCE} of them");
                return Err(OpsError::BadInput(why));
            }
        }
        let mut ids = Vec::new();
        let mut names = Vec::new();
        for group in &ask.group_ids {
            let found = self.inner.lists.read(|cache| {
                cache.groups().find(group).map(|record| (record.id.clone(), record.name.clone()))
            });
            match found.await?.value {
                Some((id, name)) => {
                    ids.push(id);
                    names.push(name);
                }
                // One that is only a name: nodes can be taken out of it, and get it from their agents.
                None if !into && self.is_joined(group) => names.push(group.clone()),
                None => return Err(unknown("group_ids", group)),
            }
        }
        let nodes: Result<Vec<NodeId>, _> = ask.node_ids.iter().map(NodeId::parse).collect();
        for node in nodes.map_err(|_| OpsError::NotFound)? {
            self.change_node(&node, |record| {
                if into {
                    let new = ids.iter().filter(|id| !record.group_ids.contains(id));
                    let new: Vec<GroupId> = new.cloned().collect();
                    record.group_ids.extend(new);
                } else {
                    record.group_ids.retain(|id| !ids.contains(id));
                    record.groups.retain(|name| !names.contains(name));
                }
                record.fixed.groups = true;
            })
            .await?;
        }
        Ok(())
    }

    /// Whether an agent has joined with this name of a group.
    fn is_joined(&self, group: &str) -> bool {
        self.inner.lists.peek(|cache| {
            cache.nodes().flat_map(|(_, item)| &item.record.groups).any(|joined| joined == group)
        })
    }

    async fn stored(&self, key: &str) -> Result<bool, OpsError> {
        let got = self.inner.store.get(key, Consistency::Linearizable).await;
        Ok(got.map_err(|error| OpsError::unavailable(error.to_string()))?.kv.is_some())
    }
}

/// The id that a start names of a group that was made and is gone. A bare name of agents' is none: nodes may join with it
/// again.
fn deleted(cache: &Cache, group: &str) -> Option<GroupId> {
    let id = GroupId::parse(group).ok().filter(GroupId::is_random)?;
    let joined = || cache.nodes().any(|(_, item)| item.record.groups.iter().any(|name| name == group));
    (cache.groups().get(&id).is_none() && !joined()).then_some(id)
}

/// How many instances have yet to begin on a node of the group, those that are not made yet too.
fn waiting_for(cache: &Cache, group: &GroupRecord) -> usize {
    // A start may name it by its name alone, from before it was made; agents that do so too keep it.
    let joined = cache.nodes().any(|(_, item)| item.record.groups.contains(&group.name));
    let of =
        |spec: &InstanceSpec| spec.group_id == group.id.as_str() || !joined && spec.group_id == group.name;
    let waits = |record: &InstanceRecord| {
        matches!(record.phase, Phase::Queued { .. } | Phase::Offered { .. } | Phase::Claimed { .. })
    };
    let made = cache.instances().filter(|(_, item)| waits(&item.record) && of(&item.record.spec)).count();
    let starts = cache.starts().filter(|(_, item)| of(&item.record.spec));
    made + starts.map(|(_, item)| item.record.unmade().len()).sum::<usize>()
}

fn taken(name: &str) -> OpsError {
    OpsError::Conflict(format!("there is a group `{name}` already; choose another name"))
}

fn unknown(key: &str, text: &str) -> OpsError {
    let text = excerpt(text);
    OpsError::BadInput(format!("{key}: there is no group `{text}`; GET /api/v1/group lists them"))
}

fn check(ask: &GroupAsk) -> Result<(), OpsError> {
    if ask.name.as_ref().is_some_and(|name| name.trim().is_empty()) {
        return Err(OpsError::BadInput("name is empty".into()));
    }
    for (key, text) in [("name", &ask.name), ("description", &ask.description)] {
        let Some(text) = text else { continue };
        if text.len() > TEXT || text.chars().any(char::is_control) {
            return Err(OpsError::BadInput(format!(
                "{key}: at most {TEXT} bytes, without control characters"
            )));
        }
    }
    Ok(())
}
