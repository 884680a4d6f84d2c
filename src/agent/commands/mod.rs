//! What controllers ask of this node beside starts and stops, and how far it is with it.
//!
//! The controllers have each command until its end is noted, so nothing of it is kept here over a restart: it is told
//! again, and what can be repeated is simply begun again; what cannot is begun only once the controllers have heard that it
//! is here, so that they never tell it to another run of this agent. A saving whose VM was stopped for it is the exception:
//! the next run names it by itself, and goes on with it (`saves.rs`).

mod restart;
mod save;
mod update;
mod work;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

pub(super) use update::Program;
pub(super) use work::work;

use super::driver::VmKey;
use crate::{
    model::{CommandId, Progress},
    wire::{
        command::{Command, CommandReport, CommandState, Lane, Order},
        vm::ScriptResult,
    },
};

/// Commands that are kept, at most. More: told again when these are over.
const HELD: usize = 64;

/// One command.
#[derive(Debug)]
struct Held {
    order: Order,
    state: CommandState,
    progress: Progress,
    message: String,
    /// How its script ended.
    script: Option<ScriptResult>,
    /// The controllers have heard that it is here: only then is begun what may not be begun twice.
    heard: bool,
    /// False: the controllers want it no more.
    wanted: watch::Sender<bool>,
    /// Its place: those that came first are done first.
    place: u64,
}

#[derive(Debug, Default)]
struct Inner {
    all: BTreeMap<CommandId, Held>,
    next: u64,
}

/// The commands of this node. Cheap to clone; never waits and does no I/O.
#[derive(Debug, Clone, Default)]
pub(super) struct Commands {
    inner: Arc<Mutex<Inner>>,
    /// There is something to do.
    work: Arc<Notify>,
}

/// A command that is to be carried out now.
#[derive(Debug)]
struct Due {
    id: CommandId,
    order: Order,
    wanted: watch::Receiver<bool>,
}

impl Commands {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked left a map that is whole at every step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes those that are new. Whether there were any.
    pub(super) fn take(&self, commands: Vec<Command>) -> bool {
        let mut inner = self.lock();
        let mut new = false;
        for command in commands {
            if inner.all.contains_key(&command.id) || inner.all.len() >= HELD {
                continue;
            }
            info!(command.id = %command.id, what = command.order.word(), "command was taken");
            let place = inner.next;
            inner.next += 1;
            let held = Held {
                order: command.order,
                state: CommandState::Waiting,
                progress: Progress::NONE,
                message: String::new(),
                script: None,
                heard: false,
                wanted: watch::Sender::new(true),
                place,
            };
            inner.all.insert(command.id, held);
            new = true;
        }
        drop(inner);
        if new {
            self.work.notify_waiters();
        }
        new
    }

    /// Takes up one that an earlier run was in the middle of.
    pub(super) fn resume(&self, id: CommandId, order: Order, script: Option<ScriptResult>) {
        self.take(vec![Command { id: id.clone(), order }]);
        if let Some(script) = script {
            self.script(&id, script);
        }
    }

    /// Whether a VM is being saved, or is to be: stopped, it has not vanished then.
    pub(super) fn saves(&self, vm: &VmKey) -> bool {
        let of = |held: &Held| match &held.order {
            Order::Save(order) => order.instance == vm.instance && order.attempt == vm.attempt,
            _ => false,
        };
        self.lock().all.values().any(|held| of(held) && held.state != CommandState::Failed)
    }

    /// The controllers have no use for these any more: over, canceled or never heard of.
    pub(super) fn noted(&self, ids: &[CommandId]) {
        let mut inner = self.lock();
        for id in ids {
            match inner.all.get(id).map(|held| held.state) {
                Some(CommandState::Running) => {
                    if let Some(held) = inner.all.get(id) {
                        // Whoever carries it out drops it and strikes it out.
                        held.wanted.send_replace(false);
                    }
                }
                Some(CommandState::Waiting | CommandState::Done | CommandState::Failed) => {
                    inner.all.remove(id);
                }
                None => {}
            }
        }
    }

    /// What a heartbeat says of them.
    pub(super) fn reports(&self) -> Vec<CommandReport> {
        let report = |(id, held): (&CommandId, &Held)| CommandReport {
            id: id.clone(),
            state: held.state,
            progress: held.progress,
            message: held.message.clone(),
            script: held.script.clone(),
        };
        // One output at a time: together they could be longer than what a controller takes. The end of another is told
        // when that one was noted.
        let mut told = false;
        let one_output = |mut report: CommandReport| {
            if report.script.is_some() && (!report.state.is_over() || std::mem::replace(&mut told, true)) {
                report.script = None;
                if report.state.is_over() {
                    report.state = CommandState::Running;
                }
            }
            report
        };
        self.lock().all.iter().map(report).map(one_output).collect()
    }

    /// A heartbeat with these was answered: the controllers know that they are here.
    pub(super) fn heard(&self, reports: &[CommandReport]) {
        let mut inner = self.lock();
        let mut new = false;
        for report in reports {
            if let Some(held) = inner.all.get_mut(&report.id) {
                new |= !std::mem::replace(&mut held.heard, true);
            }
        }
        drop(inner);
        if new {
            self.work.notify_waiters();
        }
    }

    /// Whether starts have to wait for a command: a template is being brought here, or the agent is being replaced.
    pub(super) fn hold_starts(&self) -> bool {
        let holds = |held: &Held| held.state == CommandState::Running && held.order.holds_starts();
        self.lock().all.values().any(holds)
    }

    /// The first that waits in this lane; it is under way from now on.
    fn begin(&self, lane: Lane) -> Option<Due> {
        let mut inner = self.lock();
        let waiting = inner.all.iter_mut().filter(|(_, held)| {
            let may = held.heard || held.order.may_be_repeated();
            held.state == CommandState::Waiting && held.order.lane() == lane && may
        });
        let (id, held) = waiting.min_by_key(|(_, held)| held.place)?;
        held.state = CommandState::Running;
        Some(Due { id: id.clone(), order: held.order.clone(), wanted: held.wanted.subscribe() })
    }

    /// How far it is.
    fn progress(&self, id: &CommandId, progress: Progress, message: String) {
        if let Some(held) = self.lock().all.get_mut(id) {
            (held.progress, held.message) = (progress, message);
        }
    }

    /// How its script ended.
    fn script(&self, id: &CommandId, script: ScriptResult) {
        if let Some(held) = self.lock().all.get_mut(id) {
            held.script = Some(script);
        }
    }

    /// Nothing more will come of it. One that is wanted no more is struck out: nobody waits to hear.
    fn end(&self, id: &CommandId, outcome: Result<(), String>) {
        let mut inner = self.lock();
        let Some(held) = inner.all.get_mut(id) else { return };
        if !*held.wanted.borrow() {
            info!(command.id = %id, what = held.order.word(), "command was given up: it is wanted no more");
            inner.all.remove(id);
            return;
        }
        match outcome {
            Ok(()) => {
                info!(command.id = %id, what = held.order.word(), "command is done");
                (held.state, held.progress) = (CommandState::Done, Progress::ALL);
                held.message.clear();
            }
            Err(why) => {
                warn!(command.id = %id, what = held.order.word(), error = why, "command failed");
                held.state = CommandState::Failed;
                held.message = why;
            }
        }
    }

    /// It is to be begun once more: the agent stops in its middle.
    fn put_back(&self, id: &CommandId) {
        if let Some(held) = self.lock().all.get_mut(id) {
            held.state = CommandState::Waiting;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::command::{RemoveTemplate, RestartVm};

    fn command(id: &str) -> Command {
        let order = Order::Remove(RemoveTemplate { template: "t".parse().unwrap() });
        Command { id: id.parse().unwrap(), order }
    }

    fn restart(id: &str) -> Command {
        let order = Order::Restart(RestartVm {
            instance: "i".parse().unwrap(),
            attempt: 1,
            usb_device: String::new(),
            vnc_password: String::new(),
        });
        Command { id: id.parse().unwrap(), order }
    }

    #[test]
    fn what_may_not_be_repeated_is_begun_only_when_the_controllers_know_of_it() {
        let commands = Commands::default();
        commands.take(vec![restart("r"), command("a")]);
        assert!(commands.begin(Lane::Restart).is_none());
        assert_eq!(commands.begin(Lane::Disk).unwrap().id.as_str(), "a");
        commands.heard(&commands.reports());
        assert_eq!(
            commands.begin(Lane::Restart).unwrap().id.as_str(),
            "r",
            "it waits for nobody else's lane"
        );
    }

    #[test]
    fn outputs_are_told_one_at_a_time_and_no_end_without_its_own() {
        let commands = Commands::default();
        commands.take(vec![command("a"), command("b")]);
        for id in ["a", "b"] {
            let due = commands.begin(Lane::Disk).unwrap();
            commands.script(&due.id, ScriptResult { stdout: id.into(), ..ScriptResult::default() });
            commands.end(&due.id, Ok(()));
        }
        let told = |report: &CommandReport| (report.state, report.script.clone().map(|script| script.stdout));
        let both: Vec<_> = commands.reports().iter().map(told).collect();
        assert_eq!(both, [(CommandState::Done, Some("a".into())), (CommandState::Running, None)]);
        commands.noted(&["a".parse().unwrap()]);
        let rest: Vec<_> = commands.reports().iter().map(told).collect();
        assert_eq!(rest, [(CommandState::Done, Some("b".into()))]);
    }

    fn states(commands: &Commands) -> Vec<(String, CommandState)> {
        commands.reports().into_iter().map(|report| (report.id.to_string(), report.state)).collect()
    }

    #[test]
    fn told_twice_it_is_done_once_and_in_the_order_of_coming() {
        let commands = Commands::default();
        assert!(commands.take(vec![command("b"), command("a")]));
        assert!(!commands.take(vec![command("a")]));
        let first = commands.begin(Lane::Disk).unwrap();
        assert_eq!(first.id.as_str(), "b");
        commands.end(&first.id, Ok(()));
        assert!(!commands.take(vec![command("b")]), "until it was noted it is known");
        assert_eq!(commands.begin(Lane::Disk).unwrap().id.as_str(), "a");
        assert!(commands.begin(Lane::Disk).is_none());
        assert_eq!(
            states(&commands),
            [("a".into(), CommandState::Running), ("b".into(), CommandState::Done)]
        );
        commands.noted(&["b".parse().unwrap(), "never heard of".replace(' ', "-").parse().unwrap()]);
        assert_eq!(states(&commands), [("a".into(), CommandState::Running)]);
    }

    #[test]
    fn one_that_is_wanted_no_more_is_given_up_and_told_to_nobody() {
        let commands = Commands::default();
        commands.take(vec![command("a"), command("b")]);
        let due = commands.begin(Lane::Disk).unwrap();
        commands.noted(&["a".parse().unwrap(), "b".parse().unwrap()]);
        assert!(!*due.wanted.borrow());
        assert_eq!(states(&commands), [("a".into(), CommandState::Running)], "the other had not begun");
        commands.end(&due.id, Err("given up".into()));
        assert!(commands.reports().is_empty());
    }

    #[test]
    fn more_than_can_be_kept_are_left_to_be_told_again() {
        let commands = Commands::default();
        commands.take((0..HELD + 5).map(|n| command(&format!("c{n}"))).collect());
        assert_eq!(commands.reports().len(), HELD);
    }
}
