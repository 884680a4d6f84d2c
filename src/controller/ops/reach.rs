//! Which nodes and templates are whose: resources of groups of callers (`docs/permissions.md`).

use std::collections::{BTreeMap, BTreeSet};

use super::{Ops, OpsError};
use crate::{
    config::auth::Authorization,
    controller::{
        lists::{Cache, Seen},
        records::PermissionRecord,
    },
    model::{NodeId, TemplateId, excerpt},
    wire::permission::{BY_ID, LIST, PULL, Resource, ResourceType},
};

/// Longest id of a resource.
const ID: usize = 128;

/// What a caller may touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reach {
    /// Everything.
    #[default]
    Everything,
    /// The resources of these groups.
    Groups(Vec<String>),
}

impl Reach {
    /// That of a caller who is in these groups.
    pub fn of(groups: &[&str]) -> Self {
        Self::Groups(groups.iter().map(|group| (*group).to_owned()).collect())
    }

    fn has(&self, cache: &Cache, what: (ResourceType, &str), right: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Groups(groups) => cache.permissions().reach(groups, what, right),
        }
    }

    /// Whether it may do this with the node.
    pub(super) fn node(&self, cache: &Cache, id: &NodeId, right: &str) -> bool {
        self.has(cache, (ResourceType::Node, id.as_str()), right)
    }

    fn is_in(&self, group: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Groups(groups) => groups.iter().any(|of| of == group),
        }
    }
}

fn shown(record: &PermissionRecord) -> Vec<Resource> {
    let of = |kind| {
        record.of(kind).iter().map(move |(id, rights)| Resource {
            id: id.clone(),
            id_type: BY_ID.into(),
            kind,
            permissions: rights.iter().cloned().collect(),
        })
    };
    ResourceType::ALL.into_iter().flat_map(of).collect()
}

/// By type and id; entries of one id add up.
fn checked(
    given: Vec<Resource>,
) -> Result<BTreeMap<ResourceType, BTreeMap<String, BTreeSet<String>>>, OpsError> {
    let mut all: BTreeMap<_, BTreeMap<_, BTreeSet<_>>> = BTreeMap::new();
    for (n, one) in given.into_iter().enumerate() {
        let bad = |why: String| OpsError::BadInput(format!("entry {n}: {why}"));
        if one.id.is_empty() || one.id.len() > ID || one.id.chars().any(char::is_control) {
            return Err(bad(format!("id: it has 1 to {ID} bytes and no control characters")));
        }
        if one.id_type != BY_ID {
            return Err(bad(format!("id_type is `{}`; it must be `{BY_ID}`", excerpt(&one.id_type))));
        }
        let rights = one.kind.rights();
        if let Some(unknown) =
            one.permissions.iter().find(|name| !rights.iter().any(|(known, _)| known == name))
        {
            let known: Vec<&str> = rights.iter().map(|(name, _)| *name).collect();
            return Err(bad(format!(
                "permissions: there is no `{}` of a {}; there are `{}`",
                excerpt(unknown),
                one.kind,
                known.join("`, `")
            )));
        }
        all.entry(one.kind).or_default().entry(one.id).or_default().extend(one.permissions);
    }
    Ok(all)
}

impl Ops {
    /// Whether nodes and templates are resources of groups.
    pub fn has_resources(&self) -> bool {
        self.inner.config.auth.authorization == Authorization::Resources
    }

    /// A group's resources; those of a group that has no record are none.
    pub async fn resources(&self, group: &str) -> Result<Seen<Vec<Resource>>, OpsError> {
        self.inner.lists.read(|cache| cache.permissions().group(group).map(shown).unwrap_or_default()).await
    }

    /// Gives a group these resources, and no others.
    ///
    /// # Errors
    /// `BadInput`, `TooMany`, `Conflict` when a newer controller wrote the group, `Unavailable`.
    pub async fn set_resources(&self, group: &str, given: Vec<Resource>) -> Result<(), OpsError> {
        let all = checked(given)?;
        let of = |kind| all.get(&kind).cloned().unwrap_or_default();
        let set = |record: &mut PermissionRecord| {
            (record.nodes, record.templates) = (of(ResourceType::Node), of(ResourceType::Template));
        };
        self.with_permission_group(group, set).await.map(|_| ())
    }

    /// Whether this is so by the watched copy, or else by everything that was acknowledged before: it may have been given
    /// a moment ago. What is so already asks the store for nothing.
    async fn is_so(&self, look: impl Fn(&Cache) -> bool) -> Result<bool, OpsError> {
        Ok(self.inner.lists.peek(&look) || self.inner.lists.read(&look).await?.value)
    }

    /// Refuses whoever may not do this with the node, whether it is there or not.
    pub(super) async fn reaches_node(&self, reach: &Reach, id: &NodeId, right: &str) -> Result<(), OpsError> {
        match self.is_so(|cache| reach.node(cache, id, right)).await? {
            true => Ok(()),
            false => {
                Err(OpsError::Forbidden(format!("node `{id}` is no resource of your groups with `{right}`")))
            }
        }
    }

    /// The same of a template.
    pub async fn reaches_template(
        &self,
        reach: &Reach,
        id: &TemplateId,
        right: &str,
    ) -> Result<(), OpsError> {
        let what = (ResourceType::Template, id.as_str());
        match self.is_so(|cache| reach.has(cache, what, right)).await? {
            true => Ok(()),
            false => Err(OpsError::Forbidden(format!(
                "template `{id}` is no resource of your groups with `{right}`"
            ))),
        }
    }

    /// The templates that a caller may know of; `None`: all.
    pub async fn templates_seen(&self, reach: &Reach) -> Result<Option<BTreeSet<String>>, OpsError> {
        let Reach::Groups(groups) = reach else { return Ok(None) };
        let seen = self.inner.lists.read(|cache| {
            let own = groups.iter().filter_map(|name| cache.permissions().group(name));
            let listed = own.flat_map(|group| &group.templates).filter(|(_, rights)| rights.contains(LIST));
            listed.map(|(id, _)| id.clone()).collect()
        });
        Ok(Some(seen.await?.value))
    }

    /// Whether a caller may know of a node that was just read.
    pub fn sees_node(&self, reach: &Reach, id: &NodeId) -> bool {
        self.inner.lists.peek(|cache| reach.node(cache, id, LIST))
    }

    /// Leaves what is of nodes that a caller may know of.
    pub fn seen_by_id<T>(&self, reach: &Reach, all: &mut Vec<T>, node: impl Fn(&T) -> &str) {
        if *reach != Reach::Everything {
            let lists = &self.inner.lists;
            lists.peek(|cache| all.retain(|one| reach.has(cache, (ResourceType::Node, node(one)), LIST)));
        }
    }

    /// The group of callers that a start or a distribution of this template is one of; empty without resource
    /// management.
    pub(super) async fn group_of_work(
        &self,
        (group, group_id): (Option<&str>, Option<&str>),
        template: &TemplateId,
        reach: &Reach,
    ) -> Result<String, OpsError> {
        let bad = |why: &str| Err(OpsError::BadInput(why.into()));
        let group = match (group, group_id) {
            (None, _) if !self.has_resources() => return Ok(String::new()),
            (Some(_), Some(_)) => {
                return bad(
                    "group and group_id exclude each other: one names people, with resource management, the other nodes, \
                     without it",
                );
            }
            (Some(_), None) if !self.has_resources() => {
                return bad("group needs resource management, which is off");
            }
            (None, Some(_)) => {
                return bad(
                    "group_id: there are no groups of nodes while resource management is on; name one of your \
                            groups by `group`",
                );
            }
            (None, None) => {
                return bad(
                    "group is required while resource management is on: the one of your groups that this is for",
                );
            }
            (Some(group), None) => group,
        };
        let named = excerpt(group);
        if !reach.is_in(group) {
            return Err(OpsError::Forbidden(format!("group: `{named}` is none of your groups")));
        }
        let of_it = [group.to_owned()];
        let what = (ResourceType::Template, template.as_str());
        if !self.is_so(|cache| cache.permissions().reach(&of_it, what, PULL)).await? {
            return Err(OpsError::Forbidden(format!(
                "template `{template}` is no resource of group `{named}` with `{PULL}`"
            )));
        }
        Ok(group.to_owned())
    }

    /// Refuses whoever is not of the group whose start an instance was.
    pub(super) fn of_group(&self, reach: &Reach, group: &str) -> Result<(), OpsError> {
        if reach.is_in(group) {
            return Ok(());
        }
        Err(OpsError::Forbidden("the instance was started for none of your groups".into()))
    }

    /// Notes the groups of an agent's credential. An unchanged one writes nothing.
    ///
    /// # Errors
    /// `Conflict`, `Unavailable`, `Unknown`. A node that is not known is none.
    pub async fn note_caller_groups(&self, node: &NodeId, groups: &[&str]) -> Result<(), OpsError> {
        let lists = &self.inner.lists;
        if lists.peek(|cache| cache.node(node).is_none()) {
            // It may have joined a moment ago.
            lists.catch_up().await?;
        }
        let noted = lists.peek(|cache| {
            cache.node(node).is_none_or(|item| item.newer || item.record.caller_groups == groups)
        });
        if noted {
            return Ok(());
        }
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        match self.change_node(node, |record| record.caller_groups.clone_from(&groups)).await {
            Err(OpsError::NotFound) => Ok(()),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::permission::CREATE_INSTANCE;

    fn resource(kind: ResourceType, id: &str, permissions: &[&str]) -> Resource {
        let permissions = permissions.iter().map(|name| (*name).to_owned()).collect();
        Resource { id: id.into(), id_type: BY_ID.into(), kind, permissions }
    }

    #[test]
    fn entries_of_one_id_add_up_and_each_fault_is_named() {
        let (node, template) = (ResourceType::Node, ResourceType::Template);
        let all = checked(vec![
            resource(node, "n1", &[LIST]),
            resource(template, "n1", &[PULL]),
            resource(node, "n1", &[CREATE_INSTANCE]),
        ]);
        let all = all.unwrap();
        assert_eq!(all[&node]["n1"].len(), 2);
        assert_eq!(all[&template]["n1"].len(), 1);
        let long = "x".repeat(ID + 1);
        for (bad, says) in [
            (resource(node, "", &[]), "entry 0: id: "),
            (resource(node, &long, &[]), "entry 0: id: "),
            (resource(node, "n1", &[PULL]), "no `pull` of a node; there are `list`"),
            (Resource { id_type: "name".into(), ..resource(template, "t", &[]) }, "id_type is `name`"),
        ] {
            let why = checked(vec![bad]).unwrap_err().to_string();
            assert!(why.contains(says), "{why}");
        }
    }
}
