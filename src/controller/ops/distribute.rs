//! Templates for many nodes: one record first, then a command for each node, by whoever finds it unfinished.

use std::collections::BTreeMap;

use super::{
    Ops, OpsError, Reach,
    commands::{BATCH, all_known, parse_nodes, room_for},
};
use crate::{
    clock,
    controller::{
        lists::{Cache, Item, Seen},
        records::{CommandRecord, DistributionRecord, NodeRecord, Targets},
        writes::{Draft, Fence, Outcome, Patience, RACES},
    },
    model::{DistributionId, NodeId, Progress, TemplateId},
    store::Revision,
    wire::{
        command::{CommandState, Order, PullTemplate},
        distribution::{Distribute, Distribution, DistributionRequest, NodeProgress},
        events::Action,
        permission::DISTRIBUTE,
    },
};

/// Distributions that are kept, at most. More: whoever asks is refused.
pub(in crate::controller) const DISTRIBUTIONS: usize = 1000;

/// What the API says of a node that was not done when its distribution was canceled. The vendor's words.
pub(in crate::controller) const CANCELED: &str = "request canceled";

/// A progress that is told of a node that is not done: 1 would say that it is.
const NEARLY: f64 = 0.99;

impl Ops {
    /// Has nodes bring a template to their disks, without a start. Durable when it returns.
    ///
    /// # Errors
    /// `BadInput`, `NotInRegistry`, `NoSuchTag`, `RegistryDown`, `TooMany`, `Unavailable`.
    pub async fn distribute(&self, ask: Distribute, reach: &Reach) -> Result<DistributionId, OpsError> {
        self.loaded()?;
        let text =
            ask.template_id.as_deref().ok_or_else(|| OpsError::BadInput("template_id is required".into()))?;
        let template =
            TemplateId::parse(text).map_err(|error| OpsError::BadInput(format!("template_id: {error}")))?;
        let group =
            self.group_of_work((ask.group.as_deref(), ask.group_id.as_deref()), &template, reach).await?;
        let named = parse_nodes(&ask.node_ids)?;
        for node in &named {
            self.reaches_node(reach, node, DISTRIBUTE).await?;
        }
        let to = match (ask.group_id, named) {
            (None, named) if named.is_empty() && group.is_empty() => Targets::All,
            (None, named) if named.is_empty() => Targets::Nodes(self.nodes_for(&group, reach).await?),
            (None, named) => Targets::Nodes(named),
            (Some(group), named) if named.is_empty() => Targets::Group(self.known_group(&group).await?),
            (Some(_), _) => return Err(OpsError::BadInput("give node_ids or group_id, not both".into())),
        };
        let found = self.inner.templates.resolve(&template, ask.tag.as_deref(), ask.version).await?;
        let template = PullTemplate {
            template: found.template,
            template_name: found.name,
            repository: found.repository,
            tag: found.tag,
            manifest: found.manifest,
        };
        let room = self.inner.lists.read(|cache| {
            let nodes = targets(cache, &to, None);
            if let Targets::Nodes(named) = &to {
                all_known(named, nodes.iter().map(|node| &node.id))?;
            }
            if nodes.is_empty() {
                return Err(OpsError::BadInput("there is no node to distribute to".into()));
            }
            if cache.commands().distributions().count() >= DISTRIBUTIONS {
                return Err(OpsError::TooMany(format!(
                    "there are {DISTRIBUTIONS} distributions, which is the most; they are forgotten a day after their end"
                )));
            }
            room_for(cache, nodes.iter().map(|node| &node.id))
        });
        room.await?.value?;
        self.begin_distribution(template, to).await
    }

    /// The nodes that run starts of a group of callers, as far as a caller may bring templates to them.
    async fn nodes_for(&self, group: &str, reach: &Reach) -> Result<Vec<NodeId>, OpsError> {
        let nodes = self.inner.lists.read(|cache| {
            let serving = cache.nodes().filter(|(_, item)| cache.permissions().serves(&item.record, group));
            serving.filter(|(id, _)| reach.node(cache, id, DISTRIBUTE)).map(|(id, _)| id.clone()).collect()
        });
        Ok(nodes.await?.value)
    }

    /// Writes the distribution of a version down, with the commands of the first nodes.
    pub(in crate::controller) async fn begin_distribution(
        &self,
        template: PullTemplate,
        to: Targets,
    ) -> Result<DistributionId, OpsError> {
        let mut record = DistributionRecord {
            id: DistributionId::random(),
            template,
            to,
            given_up_to: None,
            given: false,
            created: clock::wall(),
            canceled: None,
        };
        let key = self.inner.keys.distribution(&record.id);
        let draft = self.draft_parts(Draft::new(&key).at(&key, 0), &mut record)?;
        let (id, tag) = (record.template.template.as_str(), record.template.tag.clone());
        let event = super::events::of_template(Action::DistributeTemplateToNodes, id, Some(tag));
        let draft = self.logged(draft, Some(event))?;
        match self.inner.writes.commit(draft, Patience::new()).await? {
            Outcome::Done => {}
            // Nobody else writes under a new id: it is this one, whose answer was lost, and somebody went on with it since.
            Outcome::Lost(Some(_)) => {}
            Outcome::Lost(None) => {
                return Err(OpsError::unavailable(
                    "the store did not take it, and nothing was begun; ask again",
                ));
            }
        }
        tracing::info!(
            distribution.id = %record.id, template.name = %record.template.template_name,
            template.tag = %record.template.tag, "template is to be distributed"
        );
        if !record.given {
            let (ops, id) = (self.clone(), record.id.clone());
            self.inner.tasks.finish(format!("distribution {id}"), async move {
                if let Err(error) = ops.give_parts(&id, None).await {
                    tracing::info!(distribution.id = %id, error = %error, "distribution is left to the duty");
                }
            });
        }
        Ok(record.id)
    }

    /// Gives the nodes of a distribution their commands, those that have none yet. Answers how many.
    pub(in crate::controller) async fn give_parts(
        &self,
        id: &DistributionId,
        fence: Option<&Fence>,
    ) -> Result<usize, OpsError> {
        let key = self.inner.keys.distribution(id);
        let mut batches = 0;
        for _ in 0..RACES {
            let Some((mut record, revision)) = self.stored_distribution(id).await? else {
                return Ok(batches);
            };
            if record.given || record.canceled.is_some() {
                return Ok(batches);
            }
            let draft = self.draft_parts(Draft::new(&key).at(&key, revision).fenced(fence), &mut record)?;
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                batches += 1;
            } else {
                // A node that has its part already, by somebody else who does this too: what is there now counts.
                self.inner.lists.catch_up().await?;
            }
        }
        // The rest is for the next pass.
        Ok(batches)
    }

    /// Adds the next nodes' commands to a draft, and the record that says how far this has come.
    fn draft_parts(&self, mut draft: Draft, record: &mut DistributionRecord) -> Result<Draft, OpsError> {
        let command = record.command().map_err(|error| OpsError::BadInput(error.to_string()))?;
        let order = Order::Pull(record.template.clone());
        let nodes = self.inner.lists.peek(|cache| targets(cache, &record.to, record.given_up_to.as_ref()));
        let now = clock::wall();
        for node in nodes.iter().take(BATCH) {
            draft = self.draft_command(draft, node, &command, &order, Some(&record.id), now)?;
            record.given_up_to = Some(node.id.clone());
        }
        record.given = nodes.len() <= BATCH;
        draft.put(self.inner.keys.distribution(&record.id), record)
    }

    /// All distributions, oldest first.
    pub async fn distributions(&self) -> Result<Seen<Vec<Distribution>>, OpsError> {
        self.inner
            .lists
            .read(|cache| {
                let mut all: Vec<_> = cache.commands().distributions().map(|item| &item.record).collect();
                all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
                all.into_iter().map(|record| shown(cache, record)).collect()
            })
            .await
    }

    /// One distribution.
    pub async fn distribution(&self, id: &DistributionId) -> Result<Seen<Distribution>, OpsError> {
        let seen = self
            .inner
            .lists
            .read(|cache| cache.commands().distribution(id).map(|item| shown(cache, &item.record)))
            .await?;
        match seen.value {
            Some(value) => Ok(Seen { value, stale: seen.stale }),
            None if seen.stale.is_none() => Err(OpsError::NotFound),
            None => Err(OpsError::unavailable(
                "the store is out of reach, and this distribution is not in the cache",
            )),
        }
    }

    /// Ends a distribution: nodes that have the template keep it, the others give up. Repeating it changes nothing.
    pub async fn cancel_distribution(&self, id: &DistributionId) -> Result<(), OpsError> {
        self.loaded()?;
        let key = self.inner.keys.distribution(id);
        for _ in 0..RACES {
            let Some((record, revision)) = self.stored_distribution(id).await? else {
                return Err(OpsError::NotFound);
            };
            if record.canceled.is_some() {
                return Ok(());
            }
            let next = DistributionRecord { canceled: Some(clock::wall()), ..record };
            let draft = Draft::new(&key).at(&key, revision).put(&key, &next)?;
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                tracing::info!(distribution.id = %id, "distribution was canceled");
                let (ops, id) = (self.clone(), id.clone());
                // What is shown follows from the record alone; this only tells the nodes sooner than the duty would.
                self.inner.tasks.finish(format!("cancel {id}"), async move {
                    ops.lists().catch_up().await.ok();
                    if let Err(error) = ops.cancel_parts(&id, usize::MAX, None).await {
                        tracing::debug!(distribution.id = %id, error = %error, "nodes are told by the duty");
                    }
                });
                return Ok(());
            }
        }
        Err(OpsError::unavailable("the distribution's record is changed by too many at once"))
    }

    /// Ends the commands of a canceled distribution. Answers how many.
    pub(in crate::controller) async fn cancel_parts(
        &self,
        id: &DistributionId,
        most: usize,
        fence: Option<&Fence>,
    ) -> Result<usize, OpsError> {
        let open: Vec<Item<CommandRecord>> = self.inner.lists.peek(|cache| {
            let parts = cache.commands().parts(id).filter(|item| !item.record.state.is_over() && !item.newer);
            parts.take(most).cloned().collect()
        });
        let mut done = 0;
        for item in open {
            let next = item.record.failed(CANCELED, clock::wall());
            done += usize::from(self.change_command(&item, &next, fence).await?);
        }
        Ok(done)
    }

    async fn stored_distribution(
        &self,
        id: &DistributionId,
    ) -> Result<Option<(DistributionRecord, Revision)>, OpsError> {
        self.record_at(&self.inner.keys.distribution(id)).await
    }
}

/// The nodes behind `after` that a distribution is for, in the order of their ids.
fn targets(cache: &Cache, to: &Targets, after: Option<&NodeId>) -> Vec<std::sync::Arc<NodeRecord>> {
    let wanted = |node: &NodeRecord| match to {
        Targets::All => true,
        Targets::Group(group) => cache.groups().has(group, node),
        Targets::Nodes(named) => named.contains(&node.id),
    };
    let behind = |id: &NodeId| after.is_none_or(|after| id > after);
    let nodes = cache.nodes().filter(|(id, item)| behind(id) && wanted(&item.record));
    nodes.map(|(_, item)| item.record.clone()).collect()
}

/// A distribution as the API shows it. Nodes that have no command yet wait like the others.
fn shown(cache: &Cache, record: &DistributionRecord) -> Distribution {
    let mut status: BTreeMap<NodeId, NodeProgress> = BTreeMap::new();
    let canceled = record.canceled.is_some();
    let waiting = NodeProgress {
        status: false,
        progress: Progress::NONE,
        error: if canceled { CANCELED.into() } else { String::new() },
    };
    if !record.given {
        let rest = targets(cache, &record.to, record.given_up_to.as_ref());
        status.extend(rest.iter().map(|node| (node.id.clone(), waiting.clone())));
    }
    for part in cache.commands().parts(&record.id) {
        let part = &part.record;
        let under_way = Progress::of(f64::from(part.progress).min(NEARLY));
        let told = match part.state {
            CommandState::Done => {
                NodeProgress { status: true, progress: Progress::ALL, error: String::new() }
            }
            CommandState::Failed => {
                NodeProgress { status: false, progress: under_way, error: part.message.clone() }
            }
            CommandState::Waiting | CommandState::Running => {
                NodeProgress { progress: under_way, ..waiting.clone() }
            }
        };
        status.insert(part.node.clone(), told);
    }
    Distribution {
        request: DistributionRequest {
            request_id: record.id.to_string(),
            template_id: record.template.template.to_string(),
            tag: record.template.tag.clone(),
            time_requested: record.created,
        },
        distribute_status: status,
    }
}
