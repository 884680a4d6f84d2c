//! What nodes are to do beside starts: given, told, noted, and ended when nothing comes of it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{Ops, OpsError, Reach, lock, output::brief, poll::TOLD_AGAIN};
use crate::{
    clock,
    controller::{
        lists::{Cache, Item, Seen},
        records::{CommandRecord, NodeRecord, OrdersTurn},
        writes::{Draft, Fence, Outcome, Patience, RACES},
    },
    model::{CommandId, DistributionId, ImageId, NodeId, TemplateId, Timestamp},
    store::Consistency,
    wire::{
        agent::Heard,
        command::{AT_ONCE, Command, CommandReport, CommandState, Order, RemoveTemplate, ShownCommand},
        distribution::RemovalsSent,
        permission::{DELETE_TEMPLATE, FORCE_UPGRADE},
    },
};

/// Commands of one node that are not over, at most. More: whoever asks is refused.
pub(super) const OPEN: usize = 64;

/// Commands of all nodes, over or not: every controller keeps all of them. More: whoever asks is refused.
pub(in crate::controller) const ALL: usize = 100_000;

/// Commands that are written in one transaction.
pub(super) const BATCH: usize = crate::store::MAX_OPS / 2 - 2;

/// Of a progress only such steps are written down.
const STEP: f64 = 0.05;

/// Nodes that one request may name.
pub(super) const NAMED: usize = 1000;

/// Commands of one answer, the newest. More: ask for those of one node.
const SHOWN: usize = 10_000;

/// Longest reason that is kept of a node's words.
const MESSAGE: usize = 2000;

impl Ops {
    /// Has a template deleted from nodes, but for versions that are in use there. Nodes that are away do it when they
    /// come back, if that is before the command's time is over.
    ///
    /// # Errors
    /// `BadInput`, `NotFound` for a node, `TooMany`, `Unavailable`.
    pub async fn remove_from_nodes(
        &self,
        template: &TemplateId,
        named: Option<&[String]>,
        reach: &Reach,
    ) -> Result<RemovalsSent, OpsError> {
        self.loaded()?;
        if named.is_some_and(<[String]>::is_empty) {
            return Err(OpsError::BadInput(
                "node_ids is an empty list: name nodes, or leave it out for all".into(),
            ));
        }
        let named = parse_nodes(named.unwrap_or_default())?;
        for node in &named {
            self.reaches_node(reach, node, DELETE_TEMPLATE).await?;
        }
        let order = Order::Remove(RemoveTemplate { template: template.clone() });
        let nodes = self.inner.lists.read(|cache| {
            let all = |node: &NodeId| named.is_empty() && reach.node(cache, node, DELETE_TEMPLATE);
            let wanted = |node: &NodeId| all(node) || named.contains(node);
            let nodes: Vec<_> =
                cache.nodes().filter(|(id, _)| wanted(id)).map(|(_, item)| item.record.clone()).collect();
            let new = nodes.iter().filter(|node| !is_open(cache, &node.id, &order));
            room_for(cache, new.map(|node| &node.id)).map(|()| nodes)
        });
        let nodes = nodes.await?.value?;
        all_known(&named, nodes.iter().map(|node| &node.id))?;
        let id = self.give_all(&nodes, &order).await?;
        tracing::info!(command.id = %id, template.id = %template, nodes = nodes.len(), "template is to be removed from nodes");
        let node_ids: Vec<NodeId> = nodes.iter().map(|node| node.id.clone()).collect();
        Ok(RemovalsSent { requests_sent: node_ids.len(), node_ids })
    }

    /// Has every node's agent replaced by the newest program that its own update command installs. A node that has yet to
    /// do that is not asked once more.
    ///
    /// # Errors
    /// `TooMany`, `Unavailable`.
    pub async fn update_agents(&self, reach: &Reach) -> Result<(), OpsError> {
        self.loaded()?;
        let nodes = self.inner.lists.read(|cache| {
            let mine = cache.nodes().filter(|(id, _)| reach.node(cache, id, FORCE_UPGRADE));
            let nodes: Vec<_> = mine.map(|(_, item)| item.record.clone()).collect();
            let new = nodes.iter().filter(|node| !is_open(cache, &node.id, &Order::Update));
            room_for(cache, new.map(|node| &node.id)).map(|()| nodes)
        });
        let nodes = nodes.await?.value?;
        let id = self.give_all(&nodes, &Order::Update).await?;
        tracing::info!(command.id = %id, nodes = nodes.len(), "agents are to be replaced");
        Ok(())
    }

    /// One command for each of these nodes that does not have it to do already, all with the same id: one that has is not given
    /// it twice, however often it is asked for, and wherever at the same moment.
    async fn give_all(&self, nodes: &[Arc<NodeRecord>], order: &Order) -> Result<CommandId, OpsError> {
        let (id, now) = (CommandId::random(), clock::wall());
        let turn = self.inner.keys.orders();
        // Those that this call has given it: what a node cannot do is over at once, and open nowhere.
        let mut given: HashSet<&NodeId> = HashSet::new();
        let mut races = 0;
        while races < RACES {
            // In this order: what somebody else gave before this turn, the cache shows.
            let failed = |why: String| in_part(OpsError::unavailable(why), given.len(), nodes.len());
            let got = self.inner.store.get(&turn, Consistency::Linearizable).await;
            let revision = got.map_err(|error| failed(error.to_string()))?.kv.map_or(0, |kv| kv.mod_revision);
            self.inner.lists.catch_up().await.map_err(|error| failed(error.to_string()))?;
            let left: Vec<&Arc<NodeRecord>> = self.inner.lists.peek(|cache| {
                let has = |node: &NodeId| given.contains(node) || is_open(cache, node, order);
                nodes.iter().filter(|node| !has(&node.id)).collect()
            });
            let have = nodes.len() - left.len();
            let some = left.get(..BATCH.min(left.len())).unwrap_or_default();
            if some.is_empty() {
                return Ok(id);
            }
            let mut draft = Draft::new(&turn).at(&turn, revision).put(&turn, &OrdersTurn {})?;
            for node in some {
                draft = self.draft_command(draft, node, &id, order, None, now)?;
            }
            let done = self.inner.writes.commit(draft, Patience::new()).await;
            match done.map_err(|error| in_part(error, have, nodes.len()))? {
                Outcome::Done => {
                    given.extend(some.iter().map(|node| &node.id));
                    races = 0;
                }
                Outcome::Lost(_) => races += 1,
            }
        }
        Err(OpsError::unavailable(
            "too many give orders to nodes at once; ask again, no node is given it twice",
        ))
    }

    /// The commands of a node, or of all, oldest first; those that are over as long as they are kept.
    pub async fn commands(&self, node: Option<&NodeId>) -> Result<Seen<Vec<ShownCommand>>, OpsError> {
        let all = self.inner.lists.read(|cache| {
            let all = cache.commands().all().map(|item| &item.record);
            let mut all: Vec<_> = all.filter(|one| node.is_none_or(|node| one.node == *node)).collect();
            all.sort_by(|a, b| (a.created, &a.id, &a.node).cmp(&(b.created, &b.id, &b.node)));
            newest(&all, SHOWN).iter().map(|one| one.shown()).collect()
        });
        all.await
    }

    /// Adds a command for a node. One whose agent does not know the order gets it as failed already, with the reason.
    pub(super) fn draft_command(
        &self,
        draft: Draft,
        node: &NodeRecord,
        id: &CommandId,
        order: &Order,
        of: Option<&DistributionId>,
        now: Timestamp,
    ) -> Result<Draft, OpsError> {
        let mut record = CommandRecord::new(id.clone(), node.id.clone(), order.clone(), of.cloned(), now);
        if let Some(why) = cannot(node, order) {
            record = record.failed(&why, now);
        }
        let key = self.inner.keys.command(&node.id, id);
        draft.at(&key, 0).put(&key, &record)
    }

    /// What the node may not have heard of yet and was not told in a poll lately.
    pub(super) fn untold_commands(&self, node: &NodeId) -> Vec<Command> {
        let open: Vec<Command> = self.inner.lists.peek(|cache| {
            let open = cache.commands().open(node).take(AT_ONCE);
            open.filter(|item| !item.record.heard && !item.newer).map(|item| item.record.told()).collect()
        });
        if open.is_empty() {
            return open;
        }
        let now = clock::now();
        let mut heard = lock(&self.inner.heard);
        let told = &mut heard.entry(node.clone()).or_default().told_commands;
        told.retain(|_, at| now.duration_since(*at) < TOLD_AGAIN);
        let untold: Vec<Command> =
            open.into_iter().filter(|command| !told.contains_key(&command.id)).collect();
        told.extend(untold.iter().map(|command| (command.id.clone(), now)));
        untold
    }

    /// Notes what a heartbeat says of the node's commands, and adds to its answer. `current`: the cache shows
    /// everything that was given before, so what it does not show is wanted no more.
    pub(super) async fn note_commands(
        &self,
        node: &NodeId,
        session: &str,
        reports: &[CommandReport],
        current: bool,
        heard: &mut Heard,
    ) -> Result<(), OpsError> {
        for report in reports.iter().take(OPEN) {
            let known = self.inner.lists.peek(|cache| cache.commands().get(node, &report.id).cloned());
            let over = match known {
                None => current,
                Some(item) if item.record.state.is_over() => true,
                Some(item) if item.newer => false,
                Some(item) => self.note_command(&item, session, report).await?,
            };
            if over {
                heard.noted.push(report.id.clone());
            }
        }
        let named: HashSet<&CommandId> = reports.iter().map(|report| &report.id).collect();
        self.end_cut_off(node, session, &named).await?;
        heard.commands = self.inner.lists.peek(|cache| {
            let open = cache.commands().open(node).take(AT_ONCE);
            let untold =
                |item: &&Item<CommandRecord>| !named.contains(&item.record.id) && may_be_told(&item.record);
            open.filter(untold).map(|item| item.record.told()).collect()
        });
        Ok(())
    }

    /// Ends what may not be begun twice and was in the hands of an earlier run of the agent: how far that came is not
    /// known.
    async fn end_cut_off(
        &self,
        node: &NodeId,
        session: &str,
        named: &HashSet<&CommandId>,
    ) -> Result<(), OpsError> {
        let cut_off: Vec<Item<CommandRecord>> = self.inner.lists.peek(|cache| {
            let open = cache.commands().open(node).filter(|item| !item.newer);
            let lost = open.filter(|item| {
                let record = &item.record;
                !may_be_told(record) && record.session != session && !named.contains(&record.id)
            });
            lost.cloned().collect()
        });
        for item in cut_off {
            let why = "the node's agent went away in the middle of it; how far it came is not known, and it is not done twice";
            let next = item.record.failed(why, clock::wall());
            if self.change_command(&item, &next, None).await? {
                tracing::warn!(node.id = %node, command.id = %next.id, what = next.order.word(), error = why, "command failed");
                self.settle_saving(&next).await?;
            }
        }
        Ok(())
    }

    /// The end of a command that saves a VM is the end of the saving.
    async fn settle_saving(&self, command: &CommandRecord) -> Result<(), OpsError> {
        let Some(id) = saving(command) else { return Ok(()) };
        // It decides on what the cache shows. If that takes too long the duty does it.
        if self.inner.lists.catch_up().await.is_ok() {
            self.settle_image(&id, None).await?;
        }
        Ok(())
    }

    /// Whether it is over, and that is stored.
    async fn note_command(
        &self,
        item: &Item<CommandRecord>,
        session: &str,
        report: &CommandReport,
    ) -> Result<bool, OpsError> {
        let limit = self.inner.config.timeouts.command;
        let Some(mut next) = noted(&item.record, session, report, clock::wall(), limit) else {
            return Ok(false);
        };
        let over = next.state.is_over();
        if let (true, Some(script), Some(image)) = (over, &report.script, saving(&next)) {
            next.output_chunks = self.store_image_output(&image, script).await?;
            next.script = Some(brief(script));
        }
        let stored = self.change_command(item, &next, None).await?;
        if stored && over {
            let (node, id, what) = (&next.node, &next.id, next.order.word());
            match next.state {
                CommandState::Failed => {
                    tracing::warn!(node.id = %node, command.id = %id, what, error = next.message, "command failed");
                }
                _ => tracing::info!(node.id = %node, command.id = %id, what, "command is done"),
            }
        }
        if stored && over {
            self.settle_saving(&next).await?;
        }
        // Not stored: somebody was faster, most likely with its end. The next heartbeat sees it.
        Ok(stored && over)
    }

    /// Stores what has become of a command, unless somebody was faster.
    pub(in crate::controller) async fn change_command(
        &self,
        item: &Item<CommandRecord>,
        next: &CommandRecord,
        fence: Option<&Fence>,
    ) -> Result<bool, OpsError> {
        let key = self.inner.keys.command(&next.node, &next.id);
        let draft = Draft::new(&key).at(&key, item.mod_revision).fenced(fence).put(&key, next)?;
        Ok(matches!(self.inner.writes.commit(draft, Patience::new()).await?, Outcome::Done))
    }
}

/// The saving that a command is a part of. No other one has a script, whatever its node reports.
fn saving(command: &CommandRecord) -> Option<ImageId> {
    matches!(command.order, Order::Save(_)).then(|| ImageId::parse(command.id.as_str()).ok()).flatten()
}

/// Whether the node has this order to do.
fn is_open(cache: &Cache, node: &NodeId, order: &Order) -> bool {
    cache.commands().open(node).any(|item| item.record.order == *order)
}

/// The failure of giving an order to the next of many nodes: how many have it, and what asking again does.
fn in_part(error: OpsError, have: usize, of: usize) -> OpsError {
    let told = |why: String| {
        format!("at least {have} of {of} nodes have the command: {why}; ask again, no node is given it twice")
    };
    match error {
        OpsError::Unavailable { why, retry_after } => OpsError::Unavailable { why: told(why), retry_after },
        OpsError::Unknown(why) => OpsError::Unknown(told(why)),
        other => other,
    }
}

/// Whether a node may be told of it once more: what may not be begun twice is told until it was heard.
fn may_be_told(record: &CommandRecord) -> bool {
    !record.heard || record.order.may_be_repeated()
}

/// What a report changes in a record that is not over, which is given up when nothing has changed it for `limit`. Pure.
fn noted(
    record: &CommandRecord,
    session: &str,
    report: &CommandReport,
    now: Timestamp,
    limit: Duration,
) -> Option<CommandRecord> {
    let message: String = report.message.chars().take(MESSAGE).collect();
    // A report from before it began, or of an agent that has started anew, says less than is known: it changes nothing.
    let state = match (record.state, report.state) {
        (CommandState::Running, CommandState::Waiting) => CommandState::Running,
        (_, reported) => reported,
    };
    let moved = f64::from(report.progress) - f64::from(record.progress);
    let next = CommandRecord {
        heard: true,
        session: session.to_owned(),
        state,
        progress: if state == CommandState::Done { crate::model::Progress::ALL } else { report.progress },
        message: if state == CommandState::Done { String::new() } else { message },
        updated: now,
        ..record.clone()
    };
    let news =
        !record.heard || record.session != session || state != record.state || next.message != record.message;
    let slow = moved > 0.0 && now.since(record.updated) >= SLOW;
    // VMs may run for as long as they like: what its node says to wait for them with is not stuck.
    let waits =
        matches!(record.order, Order::Update) && state == CommandState::Running && !next.message.is_empty();
    (news || moved.abs() >= STEP || slow || waits && now.since(record.updated) >= limit / 4).then_some(next)
}

/// A progress that is smaller than a step is written down after so long: it is progress all the same.
const SLOW: Duration = Duration::from_secs(30);

/// Why the node's agent cannot do this, if it cannot.
pub(super) fn cannot(node: &NodeRecord, order: &Order) -> Option<String> {
    let word = order.word();
    if node.facts.commands.iter().any(|known| known == word) {
        return None;
    }
    let version = &node.facts.agent_version;
    Some(format!(
        "the agent of this node, version `{version}`, does not know the command `{word}`; install a newer one"
    ))
}

/// The last ones of a list, at most so many: of what is too much the oldest are left out.
fn newest<T>(all: &[T], most: usize) -> &[T] {
    all.get(all.len().saturating_sub(most)..).unwrap_or_default()
}

/// Whether so many more commands may be given.
pub(super) fn room_for<'a>(cache: &Cache, nodes: impl Iterator<Item = &'a NodeId>) -> Result<(), OpsError> {
    let mut count = cache.commands().count();
    for node in nodes {
        count += 1;
        if cache.commands().open(node).count() >= OPEN {
            return Err(OpsError::TooMany(format!(
                "node `{node}` has {OPEN} commands to do, which is the most"
            )));
        }
    }
    if count > ALL {
        return Err(OpsError::TooMany(format!(
            "there would be {count} commands of nodes, the most is {ALL}"
        )));
    }
    Ok(())
}

/// Node ids as a request names them.
pub(super) fn parse_nodes(named: &[String]) -> Result<Vec<NodeId>, OpsError> {
    if named.len() > NAMED {
        return Err(OpsError::BadInput(format!(
            "node_ids: {} nodes are named, the most is {NAMED}",
            named.len()
        )));
    }
    let mut nodes: Vec<NodeId> = named
        .iter()
        .map(|id| NodeId::parse(id).map_err(|error| OpsError::BadInput(format!("node_ids: {error}"))))
        .collect::<Result<_, _>>()?;
    nodes.sort();
    nodes.dedup();
    Ok(nodes)
}

/// Every node that was named is among these.
pub(super) fn all_known<'a>(
    named: &[NodeId],
    known: impl Iterator<Item = &'a NodeId>,
) -> Result<(), OpsError> {
    let known: HashSet<&NodeId> = known.collect();
    match named.iter().find(|node| !known.contains(node)) {
        None => Ok(()),
        Some(node) => Err(OpsError::BadInput(format!(
            "node_ids: there is no node `{node}`; GET /api/v1/node lists them"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Progress;

    const LIMIT: Duration = Duration::from_secs(3600);

    fn record(state: CommandState, share: f64, heard: bool) -> CommandRecord {
        let order = Order::Remove(RemoveTemplate { template: "t".parse().unwrap() });
        let new =
            CommandRecord::new("c".parse().unwrap(), "n".parse().unwrap(), order, None, Timestamp::NEVER);
        CommandRecord { state, progress: Progress::of(share), heard, ..new }
    }

    fn report(state: CommandState, share: f64) -> CommandReport {
        CommandReport {
            id: "c".parse().unwrap(),
            state,
            progress: Progress::of(share),
            message: String::new(),
            script: None,
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::NEVER.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn only_what_matters_is_written() {
        use CommandState::{Done, Running, Waiting};
        let running = record(Running, 0.5, true);
        assert_eq!(noted(&running, "", &report(Running, 0.5), at(9), LIMIT), None, "nothing new");
        assert_eq!(noted(&running, "", &report(Running, 0.52), at(9), LIMIT), None, "too little");
        assert!(
            noted(&running, "", &report(Running, 0.52), at(31), LIMIT).is_some(),
            "little, but it goes on"
        );
        assert_eq!(noted(&running, "", &report(Running, 0.5), at(31), LIMIT), None, "it does not");
        assert!(noted(&running, "", &report(Running, 0.56), at(1), LIMIT).is_some());
        assert!(noted(&record(Waiting, 0.0, false), "", &report(Waiting, 0.0), at(1), LIMIT).unwrap().heard);
        let done = noted(&running, "", &report(Done, 0.5), at(1), LIMIT).unwrap();
        assert_eq!((done.state, done.progress), (Done, Progress::ALL));
    }

    #[test]
    fn an_update_that_waits_for_vms_goes_on_as_long_as_its_node_says_so() {
        let (quarter, running) = (at(LIMIT.as_secs() / 4), CommandState::Running);
        let waits = CommandReport { message: "1 VM is left".into(), ..report(running, 0.0) };
        let update = CommandRecord { order: Order::Update, ..record(running, 0.0, true) };
        let told = CommandRecord { message: waits.message.clone(), ..update.clone() };
        assert_eq!(noted(&told, "", &waits, at(100), LIMIT), None, "not at every report");
        assert_eq!(noted(&told, "", &waits, quarter, LIMIT).unwrap().updated, quarter);
        let silent = noted(&update, "", &report(running, 0.0), quarter, LIMIT);
        assert_eq!(silent, None, "it does not say that it waits");
        let pull = CommandRecord { message: waits.message.clone(), ..record(running, 0.0, true) };
        assert_eq!(noted(&pull, "", &waits, quarter, LIMIT), None, "what waits for no VM may be stuck");
    }

    #[test]
    fn an_order_that_came_halfway_says_how_far_and_that_it_may_be_asked_for_again() {
        let OpsError::Unavailable { why, .. } = in_part(OpsError::unavailable("the store is away"), 48, 60)
        else {
            panic!("another failure");
        };
        assert!(why.starts_with("at least 48 of 60 nodes have the command: the store is away"), "{why}");
        assert!(
            matches!(in_part(OpsError::Unknown("x".into()), 0, 1), OpsError::Unknown(why) if why.contains("ask again"))
        );
    }

    #[test]
    fn of_a_list_that_is_too_long_the_oldest_are_left_out() {
        assert_eq!(newest(&[1, 2, 3], 2), [2, 3]);
        assert_eq!(newest(&[1, 2], 2), [1, 2]);
        assert!(newest::<u32>(&[], 2).is_empty());
    }

    proptest! {
        #[test]
        fn a_report_never_takes_back_what_is_known(
            before in prop::sample::select(vec![CommandState::Waiting, CommandState::Running]),
            said in prop::sample::select(vec![
                CommandState::Waiting, CommandState::Running, CommandState::Done, CommandState::Failed,
            ]),
            from in 0.0f64..=1.0, to in 0.0f64..=1.0, seconds in 0u64..100,
        ) {
            let old = record(before, from, true);
            let Some(next) = noted(&old, "", &report(said, to), at(seconds), LIMIT) else { return Ok(()) };
            prop_assert!(next.state == said || (before, said) == (CommandState::Running, CommandState::Waiting));
            prop_assert!(next.heard && next.id == old.id && next.created == old.created);
            prop_assert!(next.state != CommandState::Done || next.progress == Progress::ALL);
        }
    }
}
