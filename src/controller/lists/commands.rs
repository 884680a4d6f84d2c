//! Commands of nodes and distributions, as the cache has them. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Item;
use crate::{
    controller::records::{CommandRecord, DistributionRecord, ImageRecord},
    model::{CommandId, DistributionId, ImageId, NodeId, Timestamp},
    wire::command::{CommandState, Order},
};

type Open = BTreeSet<(Timestamp, CommandId)>;

/// What nodes are to do beside starts.
#[derive(Debug, Default)]
pub struct Commands {
    by_node: HashMap<NodeId, BTreeMap<CommandId, Item<CommandRecord>>>,
    /// Those that are not over, oldest first.
    open: HashMap<NodeId, Open>,
    parts: HashMap<DistributionId, BTreeSet<NodeId>>,
    /// How many of them are not over.
    open_parts: HashMap<DistributionId, usize>,
    distributions: BTreeMap<DistributionId, Item<DistributionRecord>>,
    images: BTreeMap<ImageId, Item<ImageRecord>>,
    count: usize,
}

impl Commands {
    pub(super) fn put(&mut self, item: Item<CommandRecord>) {
        let (node, id) = (item.record.node.clone(), item.record.id.clone());
        self.remove(&node, &id);
        if !item.record.state.is_over() {
            self.open.entry(node.clone()).or_default().insert((item.record.created, id.clone()));
        }
        if let Some(of) = &item.record.of {
            self.parts.entry(of.clone()).or_default().insert(node.clone());
            if !item.record.state.is_over() {
                *self.open_parts.entry(of.clone()).or_default() += 1;
            }
        }
        self.by_node.entry(node).or_default().insert(id, item);
        self.count += 1;
    }

    pub(super) fn remove(&mut self, node: &NodeId, id: &CommandId) {
        let Some(of_node) = self.by_node.get_mut(node) else { return };
        let Some(old) = of_node.remove(id) else { return };
        self.count -= 1;
        if of_node.is_empty() {
            self.by_node.remove(node);
        }
        if let Some(open) = self.open.get_mut(node) {
            open.remove(&(old.record.created, id.clone()));
            if open.is_empty() {
                self.open.remove(node);
            }
        }
        if let Some(of) = &old.record.of
            && let Some(nodes) = self.parts.get_mut(of)
        {
            nodes.remove(node);
            if nodes.is_empty() {
                self.parts.remove(of);
            }
            if !old.record.state.is_over()
                && let Some(open) = self.open_parts.get_mut(of)
            {
                *open -= 1;
                if *open == 0 {
                    self.open_parts.remove(of);
                }
            }
        }
    }

    pub(super) fn put_distribution(&mut self, id: DistributionId, item: Item<DistributionRecord>) {
        self.distributions.insert(id, item);
    }

    pub(super) fn remove_distribution(&mut self, id: &DistributionId) {
        self.distributions.remove(id);
    }

    pub(super) fn put_image(&mut self, id: ImageId, item: Item<ImageRecord>) {
        self.images.insert(id, item);
    }

    /// Chunks of the output of all savings' scripts. A saving takes over what its command has.
    pub fn output_chunks(&self) -> usize {
        let of = |image: &ImageRecord| {
            let command = image.command().ok().and_then(|command| self.get(&image.node, &command));
            image.output_chunks.max(command.map_or(0, |item| item.record.output_chunks))
        };
        self.images.values().map(|item| of(&item.record)).sum()
    }

    pub(super) fn remove_image(&mut self, id: &ImageId) {
        self.images.remove(id);
    }

    /// One command of a node.
    pub fn get(&self, node: &NodeId, id: &CommandId) -> Option<&Item<CommandRecord>> {
        self.by_node.get(node)?.get(id)
    }

    /// All of a node.
    pub fn of_node(&self, node: &NodeId) -> impl Iterator<Item = &Item<CommandRecord>> {
        self.by_node.get(node).into_iter().flat_map(BTreeMap::values)
    }

    /// Those of a node that are not over, oldest first.
    pub fn open(&self, node: &NodeId) -> impl Iterator<Item = &Item<CommandRecord>> {
        let of_node = self.by_node.get(node);
        let open = self.open.get(node).into_iter().flatten();
        open.filter_map(move |(_, id)| of_node?.get(id))
    }

    /// Nodes with commands that are not over.
    pub fn open_nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.open.keys()
    }

    /// Every command.
    pub fn all(&self) -> impl Iterator<Item = &Item<CommandRecord>> {
        self.by_node.values().flat_map(BTreeMap::values)
    }

    /// How many there are, over or not.
    pub fn count(&self) -> usize {
        self.count
    }

    /// When something last went on that this command waits for, or it did itself.
    pub fn moved(&self, command: &CommandRecord) -> Timestamp {
        moved(command, self.of_node(&command.node).map(|item| &*item.record))
    }

    /// What the node does now for which its starts wait, without one.
    pub fn holding_starts(&self, node: &NodeId) -> Option<&Order> {
        let running = self.open(node).filter(|item| item.record.state == CommandState::Running);
        running.map(|item| &item.record.order).find(|order| order.holds_starts())
    }

    /// A distribution.
    pub fn distribution(&self, id: &DistributionId) -> Option<&Item<DistributionRecord>> {
        self.distributions.get(id)
    }

    /// All distributions.
    pub fn distributions(&self) -> impl Iterator<Item = &Item<DistributionRecord>> {
        self.distributions.values()
    }

    /// A VM that is saved, or was.
    pub fn image(&self, id: &ImageId) -> Option<&Item<ImageRecord>> {
        self.images.get(id)
    }

    /// All of them.
    pub fn images(&self) -> impl Iterator<Item = &Item<ImageRecord>> {
        self.images.values()
    }

    /// How many parts of a distribution are not over.
    pub fn open_parts(&self, of: &DistributionId) -> usize {
        self.open_parts.get(of).copied().unwrap_or(0)
    }

    /// The parts of a distribution that were given, in order of their nodes.
    pub fn parts(&self, of: &DistributionId) -> impl Iterator<Item = &Item<CommandRecord>> {
        let id = CommandId::parse(of.as_str()).ok();
        let nodes = self.parts.get(of).into_iter().flatten();
        nodes.filter_map(move |node| self.by_node.get(node)?.get(id.as_ref()?))
    }
}

/// When something last went on that this command waits for, or it did itself. One that waits behind another is not stuck
/// while that one goes on; what came after it, and what is done beside it, says nothing of it. Pure.
fn moved<'a>(command: &CommandRecord, of_node: impl Iterator<Item = &'a CommandRecord>) -> Timestamp {
    let place = |record: &'a CommandRecord| (record.created, &record.id);
    // A node is told of so many at once: until it names this one, this waits behind all that were given before.
    let before = of_node.filter(|other| {
        place(other) < (command.created, &command.id)
            && (!command.heard || other.order.lane() == command.order.lane())
    });
    before.map(|other| other.updated).fold(command.updated, Timestamp::max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use std::time::Duration;

    use crate::{
        clock,
        model::Digest,
        wire::command::{PullTemplate, RemoveTemplate},
    };

    const STATES: [CommandState; 4] =
        [CommandState::Waiting, CommandState::Running, CommandState::Done, CommandState::Failed];

    fn at(seconds: u64) -> Timestamp {
        Timestamp::NEVER.plus(Duration::from_secs(seconds))
    }

    fn given(id: &str, order: Order, created: u64, updated: u64, heard: bool) -> CommandRecord {
        let new = CommandRecord::new(id.parse().unwrap(), "n".parse().unwrap(), order, None, at(created));
        CommandRecord { heard, updated: at(updated), ..new }
    }

    fn remove() -> Order {
        Order::Remove(RemoveTemplate { template: "t".parse().unwrap() })
    }

    fn item(node: u8, of: u8, state: CommandState) -> Item<CommandRecord> {
        let template = PullTemplate {
            template: "t".parse().unwrap(),
            template_name: "t".into(),
            repository: "t".parse().unwrap(),
            tag: "v1".into(),
            manifest: Digest::of(b""),
        };
        let id: CommandId = format!("d{of}").parse().unwrap();
        let node: NodeId = format!("n{node}").parse().unwrap();
        let of = (of > 0).then(|| id.as_str().parse().unwrap());
        let new = CommandRecord::new(id, node, Order::Pull(template), of, Timestamp::NEVER);
        Item {
            record: std::sync::Arc::new(CommandRecord { state, ..new }),
            mod_revision: 1,
            create_revision: 1,
            lease: None,
            seen: clock::now(),
            newer: false,
        }
    }

    #[test]
    fn only_what_a_command_waits_behind_keeps_it_from_being_stuck() {
        let hung = given("b", remove(), 10, 20, true);
        let moved = |command: &CommandRecord, others: &[CommandRecord]| {
            moved(command, others.iter().chain([command]))
        };
        assert_eq!(moved(&hung, &[]), at(20));
        assert_eq!(moved(&hung, &[given("a", remove(), 50, 60, true)]), at(20), "it came later");
        assert_eq!(moved(&hung, &[given("c", Order::Update, 1, 60, true)]), at(20), "it goes on beside it");
        let before = given("c", remove(), 1, 60, true);
        assert_eq!(moved(&hung, std::slice::from_ref(&before)), at(60), "its turn comes after that");
        let over = CommandRecord { state: CommandState::Done, ..before };
        assert_eq!(moved(&hung, &[over]), at(60), "its turn has just come");
        let untold = CommandRecord { heard: false, ..hung };
        assert_eq!(moved(&untold, &[given("c", Order::Update, 1, 60, true)]), at(60), "told after that");
    }

    proptest! {
        #[test]
        fn the_indexes_say_what_the_commands_say(
            steps in prop::collection::vec((0u8..3, 0u8..3, 0usize..5), 0..60)
        ) {
            let mut commands = Commands::default();
            for (node, of, state) in steps {
                let one = item(node, of, STATES[state % 4]);
                match state {
                    4 => commands.remove(&one.record.node, &one.record.id),
                    _ => commands.put(one),
                }
                let all: Vec<_> = commands.all().map(|item| item.record.clone()).collect();
                prop_assert_eq!(commands.count(), all.len());
                for node in 0..3u8 {
                    let node: NodeId = format!("n{node}").parse().unwrap();
                    let open = all.iter().filter(|one| one.node == node && !one.state.is_over());
                    prop_assert_eq!(commands.open(&node).count(), open.clone().count());
                    prop_assert_eq!(commands.holding_starts(&node).is_some(), open.clone().any(|one| one.state == CommandState::Running));
                    prop_assert_eq!(commands.open_nodes().any(|one| *one == node), open.count() > 0);
                }
                for of in 1..3u8 {
                    let of: DistributionId = format!("d{of}").parse().unwrap();
                    let parts = all.iter().filter(|one| one.of.as_ref() == Some(&of));
                    prop_assert_eq!(commands.parts(&of).count(), parts.clone().count());
                    prop_assert_eq!(commands.open_parts(&of), parts.filter(|one| !one.state.is_over()).count());
                }
            }
        }
    }
}
