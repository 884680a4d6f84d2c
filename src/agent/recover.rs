//! Taking up what an earlier run left: what the journal says × what the driver finds, before anything is told.

use std::{collections::BTreeSet, sync::Arc};

use tracing::{error, info, warn};

use super::{
    AgentError,
    act::{Left, Seen},
    driver::{Found, VmKey},
    join::with_causes,
    node::Node,
    settle::ended,
    vms::Vm,
};
use crate::wire::{agent::VmPhase, command::Order};

/// A start that ended so often with its agent is given up.
const CUT_OFF: u32 = 3;

/// Takes up what an earlier run left: nothing of it may still run when this agent acts on its own.
pub(super) async fn recover(node: &Arc<Node>) -> Result<(), AgentError> {
    let (entries, whole): (Vec<_>, bool) = {
        let journal = node.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (journal.entries().cloned().collect(), journal.is_whole())
    };
    let (mut known, mut saved) = (BTreeSet::new(), BTreeSet::new());
    for entry in entries {
        let mut vm = Vm::new(entry.task.clone());
        let key = vm.key();
        let found = node.driver.inspect(&key).await?;
        // Without its files there is nothing to save.
        let saving = node.saves.of(&key).filter(|_| found != Found::Nothing);
        vm.begun = true;
        vm.message = entry.message.clone();
        vm.info = entry.info.clone();
        vm.script = entry.script.clone();
        vm.script_begun = entry.script_begun;
        vm.cut_off = entry.cut_off;
        match entry.phase {
            VmPhase::Claimed | VmPhase::Pulling => vm.seen = Seen::Offered,
            // It was never begun: it is asked for once more, and goes on.
            VmPhase::Starting if found == Found::Nothing && !entry.script_begun => {
                vm.granted = true;
                vm.seen = Seen::Claimed;
            }
            VmPhase::Starting => {
                clear(node, &key).await?;
                match start_again(node, &mut vm, whole).await {
                    Ok(()) => {
                        vm.granted = true;
                        vm.seen = Seen::Claimed;
                    }
                    Err(why) => fail(node, &mut vm, &why).await,
                }
            }
            VmPhase::Running if let Some(saving) = saving => {
                vm.pin = Some(node.cache.pin(vm.task.manifest));
                vm.seen = Seen::Running;
                if found == Found::Stopped {
                    vm.info = vm.info.take().map(|info| ended(info, "stopped"));
                }
                info!(vm = %key, command.id = %saving.id, "a saving is gone on with");
                node.commands.resume(saving.id, Order::Save(Box::new(saving.order)), saving.script);
                saved.insert(key.to_string());
            }
            VmPhase::Running if found == Found::Running => {
                vm.pin = Some(node.cache.pin(vm.task.manifest));
                vm.seen = Seen::Running;
            }
            VmPhase::Running => {
                clear(node, &key).await?;
                fail(node, &mut vm, "VM vanished while its agent was away").await;
            }
            VmPhase::Failed => {
                let left = match found {
                    Found::Running => Left::Running,
                    Found::Stopped => {
                        node.driver.stop(&key).await?;
                        vm.info = vm.info.take().map(|info| ended(info, "stopped"));
                        Left::Stopped
                    }
                    Found::Nothing => Left::Nothing,
                };
                if found == Found::Nothing {
                    vm.info = vm.info.take().map(|info| ended(info, "failed"));
                }
                vm.seen = Seen::Failed(left);
            }
            VmPhase::Gone => vm.seen = Seen::Gone,
        }
        info!(vm = %key, phase = ?entry.phase, found = ?found, "vm of an earlier run was taken up");
        known.insert(key);
        node.vms.restore(vm);
    }
    node.saves.keep(|name| saved.contains(name));
    for key in node.driver.list().await? {
        if !known.contains(&key) {
            warn!(vm = %key, "a vm that the journal does not know is removed");
            clear(node, &key).await?;
        }
    }
    Ok(())
}

/// Stops what may run of a VM, and deletes it. That its files cannot be deleted is no reason for a node not to work; they are
/// tried again at the next start.
async fn clear(node: &Node, key: &VmKey) -> Result<(), AgentError> {
    node.driver.stop(key).await?;
    if let Err(error) = node.driver.delete(key).await {
        error!(vm = %key, error = %with_causes(&error), "what is left of a vm could not be deleted");
    }
    Ok(())
}

/// Whether a start that an earlier run left half done, and of which nothing is left now, may be done over under
/// the same attempt. Nobody saw that VM: it was never told as running. But what its script did cannot be undone.
async fn start_again(node: &Node, vm: &mut Vm, whole: bool) -> Result<(), String> {
    if vm.script_begun {
        return Err(
            "its node's agent went away after the startup script had begun; how far the script came is \
                    not known, and it is not run twice"
                .into(),
        );
    }
    if !whole {
        return Err(
            "its node's agent went away while the VM was started, and its journal is damaged: whether \
                    the startup script had begun is not known"
                .into(),
        );
    }
    vm.cut_off += 1;
    if vm.cut_off >= CUT_OFF {
        return Err(format!("its node's agent went away {CUT_OFF} times while the VM was started"));
    }
    // Counted before it is tried: a VM that takes its agent down with it must not do so for ever.
    let counted = node.write(vm.entry(VmPhase::Starting)).await;
    counted.map_err(|error| {
        format!(
            "its node's agent went away while the VM was started, and its journal cannot be written: {error}"
        )
    })
}

/// A VM of an earlier run has failed, and nothing is left of it.
async fn fail(node: &Node, vm: &mut Vm, why: &str) {
    vm.info = vm.info.take().map(|info| ended(info, "failed"));
    vm.message = why.into();
    vm.seen = Seen::Failed(Left::Nothing);
    if let Err(error) = node.write(vm.entry(VmPhase::Failed)).await {
        // The next run finds what this one found, and nothing of the VM.
        error!(vm = %vm.key(), error = %error, "the journal could not be written");
    }
}
