//! Lists of instances and nodes, a page at a time: `/switchyard/v1/…` of our controllers. The vendor's have whole lists
//! alone, and know no filter: in front of those the whole list is read, and filtered here.

use serde::de::DeserializeOwned;

use super::{ClientError, Controllers};
use crate::wire::{
    cloud::{Instances, Nodes},
    node::Node,
    vm::Vm,
};

/// Of one page: the most that a controller gives.
const PAGE: &str = "1000";

/// Pages of one list. More: an error that says to filter. A page with a filter may be short, so it bounds what is looked
/// through (ten million records), not what is found.
const PAGES: usize = 1_000;

/// Which instances: those that fit all that is said.
#[derive(Debug, Clone, Default)]
pub struct InstancesLike {
    /// In one of these states, in any case of letters; none: in any.
    pub states: Vec<String>,
    /// On this node.
    pub node: Option<String>,
    /// Of this template, by its id; at our controllers by its name as well.
    pub template: Option<String>,
    /// Started for this group, by its id; at our controllers by its name as well.
    pub group: Option<String>,
    /// With this free text.
    pub external_id: Option<String>,
    /// With this label.
    pub name: Option<String>,
}

/// Which nodes: those that fit all that is said.
#[derive(Debug, Clone, Default)]
pub struct NodesLike {
    /// In one of these states, in any case of letters; none: in any.
    pub states: Vec<String>,
    /// Of this group, by id or name.
    pub group: Option<String>,
    /// With this name.
    pub name: Option<String>,
}

type Query<'a> = Vec<(&'static str, &'a str)>;

fn is(wanted: Option<&String>, text: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == text)
}

fn in_one_of(states: &[String], state: &str) -> bool {
    states.is_empty() || states.iter().any(|wanted| wanted.eq_ignore_ascii_case(state))
}

fn query<'a>(states: &'a str, others: &[(&'static str, Option<&'a String>)]) -> Query<'a> {
    let states = (!states.is_empty()).then_some(("state", states));
    let others = others.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?.as_str())));
    states.into_iter().chain(others).chain([("limit", PAGE)]).collect()
}

impl InstancesLike {
    fn takes(&self, vm: &Vm) -> bool {
        in_one_of(&self.states, vm.instance_state.as_str())
            && is(self.node.as_ref(), &vm.node_id)
            && is(self.template.as_ref(), &vm.vmid)
            && is(self.group.as_ref(), &vm.group_id)
            && is(self.external_id.as_ref(), &vm.external_id)
            && is(self.name.as_ref(), &vm.name)
    }
}

impl NodesLike {
    fn takes(&self, node: &Node) -> bool {
        let of_group = |group: &String| node.groups.iter().any(|of| of.id == *group || of.name == *group);
        in_one_of(&self.states, node.state.as_str())
            && self.group.as_ref().is_none_or(of_group)
            && is(self.name.as_ref(), &node.node_name)
    }
}

impl Controllers {
    /// These instances, the oldest first as far as the controllers say.
    pub async fn instances_like(&self, like: &InstancesLike) -> Result<Vec<Vm>, ClientError> {
        let states = like.states.join(",");
        let asked = query(
            &states,
            &[
                ("node", like.node.as_ref()),
                ("template", like.template.as_ref()),
                ("group", like.group.as_ref()),
                ("external_id", like.external_id.as_ref()),
                ("name", like.name.as_ref()),
            ],
        );
        let take =
            |page: Instances| (page.instances.into_iter().map(|instance| instance.vm).collect(), page.next);
        if let Some(all) = self.pages("/switchyard/v1/instances", &asked, take).await? {
            return Ok(all);
        }
        let all = self.instances().await?.into_iter().map(|listed| listed.vm);
        Ok(all.filter(|vm| like.takes(vm)).collect())
    }

    /// These nodes, in order of their ids as far as the controllers say.
    pub async fn nodes_like(&self, like: &NodesLike) -> Result<Vec<Node>, ClientError> {
        let states = like.states.join(",");
        let asked = query(&states, &[("group", like.group.as_ref()), ("name", like.name.as_ref())]);
        let take = |page: Nodes| (page.nodes, page.next);
        if let Some(all) = self.pages("/switchyard/v1/nodes", &asked, take).await? {
            return Ok(all);
        }
        let mut all = self.nodes().await?;
        all.retain(|node| like.takes(node));
        Ok(all)
    }

    /// All pages of a list; nothing where nobody knows of pages.
    async fn pages<P: DeserializeOwned, T>(
        &self,
        path: &str,
        query: &[(&'static str, &str)],
        take: impl Fn(P) -> (Vec<T>, Option<String>),
    ) -> Result<Option<Vec<T>>, ClientError> {
        let (mut all, mut cursor): (Vec<T>, Option<String>) = (Vec::new(), None);
        for page in 0..PAGES {
            let mut asked = query.to_vec();
            asked.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let answer = match self.bare(path, &asked).await {
                Ok(answer) => answer,
                Err(ClientError::Refused { status: 404 | 405, .. } | ClientError::Strange { .. })
                    if page == 0 =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let (more, next) = take(answer);
            all.extend(more);
            if next.is_none() {
                return Ok(Some(all));
            }
            if next == cursor {
                return Err(self.strange(path, "the next page is this one again"));
            }
            cursor = next;
        }
        Err(self.strange(path, &format!("it does not end after {PAGES} pages; filters make it shorter")))
    }

    fn strange(&self, path: &str, why: &str) -> ClientError {
        ClientError::Strange { url: self.address().join(path), why: why.to_owned() }
    }
}
