//! What a node waits for: why it takes no starts, and each command of it that is not over.

use super::{Ops, OpsError};
use crate::{
    controller::{
        lists::{Cache, Item, Seen},
        records::{CommandRecord, NodeRecord},
        schedule::{
            dispatch::waits_for_room,
            fit::{self, Misfit},
        },
    },
    model::NodeId,
    wire::{
        cloud::{CommandWaits, NodeWaits},
        command::{AT_ONCE, CommandState},
    },
};

impl Ops {
    /// What a node waits for.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn node_why(&self, id: &NodeId) -> Result<Seen<NodeWaits>, OpsError> {
        let seen = self.inner.lists.read(|cache| Some(self.tell_node(cache, cache.node(id)?)));
        let Seen { value, stale } = seen.await?;
        match value {
            Some(value) => Ok(Seen { value, stale }),
            None if stale.is_none() => Err(OpsError::NotFound),
            None => {
                Err(OpsError::unavailable("the store is out of reach, and this node is not in the cache"))
            }
        }
    }

    fn tell_node(&self, cache: &Cache, item: &Item<NodeRecord>) -> NodeWaits {
        let node = item.record.as_ref();
        let candidate = cache.candidate(node);
        let reserved = || waits_for_room(cache, node, candidate).map(|_| Misfit::Reserved);
        let misfit = fit::takes_starts(candidate).err().or_else(reserved);
        let commands: Vec<&CommandRecord> =
            cache.commands().open(&node.id).map(|item| item.record.as_ref()).collect();
        let told = commands.iter().enumerate().map(|(at, one)| CommandWaits {
            id: one.id.clone(),
            what: one.order.word().to_owned(),
            state: one.state,
            progress: one.progress,
            created: one.created,
            given_up: cache.commands().moved(one).plus(self.inner.config.timeouts.command),
            why: sentence(&commands, at, candidate.present),
        });
        NodeWaits {
            node_id: node.id.clone(),
            node_name: node.settings.name.clone(),
            takes_starts: misfit.is_none(),
            reason: misfit.map(|misfit| misfit.word().to_owned()).unwrap_or_default(),
            why: misfit.map_or_else(|| "it takes starts".into(), |misfit| misfit.of_node(candidate)),
            commands: told.collect(),
        }
    }
}

/// What the command at this place among those of its node waits for. Pure.
fn sentence(all: &[&CommandRecord], at: usize, present: bool) -> String {
    let Some(one) = all.get(at) else { return String::new() };
    let silent = if present { "" } else { "; the node is not reporting now" };
    if one.state == CommandState::Running {
        let how = match one.message.as_str() {
            "" => format!("the node is at it, {:.0} % are done", f64::from(one.progress) * 100.0),
            message => format!("the node is at it: {message}"),
        };
        return how + silent;
    }
    if !one.heard {
        return match (present, at >= AT_ONCE) {
            (false, _) => "the node has not heard of it, and is not reporting".into(),
            (true, true) => {
                format!("the node is told of it when it has done others: it is given {AT_ONCE} at once")
            }
            (true, false) => "the node is told of it with its next poll or heartbeat".into(),
        };
    }
    let same = |other: &&&CommandRecord| other.order.lane() == one.order.lane() && other.id != one.id;
    let mut others = all.iter().enumerate().filter(|(_, other)| same(other));
    let running = others.clone().find(|(_, other)| other.state == CommandState::Running);
    match running.or_else(|| others.find(|(place, _)| *place < at)) {
        Some((_, other)) => {
            format!("the node does `{}` {} first{silent}", other.order.word(), other.id)
        }
        None => format!("the node has heard of it, and begins soon{silent}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Progress, TemplateId, Timestamp},
        wire::command::{Order, RemoveTemplate},
    };

    fn command(id: &str, order: Order, state: CommandState, heard: bool) -> CommandRecord {
        let node = "n".parse().unwrap();
        let new = CommandRecord::new(id.parse().unwrap(), node, order, None, Timestamp::NEVER);
        CommandRecord { state, heard, progress: Progress::of(0.25), ..new }
    }

    fn remove() -> Order {
        Order::Remove(RemoveTemplate { template: TemplateId::parse("t").unwrap() })
    }

    #[test]
    fn each_command_says_what_it_waits_for() {
        use CommandState::{Running, Waiting};
        let mut update = command("u", Order::Update, Running, true);
        update.message = "no VM is left here: 2 now".into();
        let mut all = vec![
            command("a", remove(), Waiting, true),
            command("b", remove(), Running, true),
            update,
            command("d", remove(), Waiting, false),
        ];
        let says = |all: &[CommandRecord], at: usize, present: bool, what: &str| {
            let all: Vec<_> = all.iter().collect();
            let said = sentence(&all, at, present);
            assert!(said.contains(what), "{said:?} is not {what:?}");
        };
        says(&all, 0, true, "does `remove` b first");
        says(&all, 1, true, "25 % are done");
        says(&all, 1, false, "25 % are done; the node is not reporting now");
        says(&all, 2, true, "2 now");
        says(&all, 3, true, "next poll or heartbeat");
        says(&all, 3, false, "has not heard of it");
        all[1].state = Waiting;
        says(&all, 0, true, "begins soon");
        says(&all, 1, true, "does `remove` a first");
        let many: Vec<_> =
            (0..=AT_ONCE).map(|n| command(&format!("c{n}"), remove(), Waiting, false)).collect();
        says(&many, AT_ONCE, true, "16 at once");
    }
}
