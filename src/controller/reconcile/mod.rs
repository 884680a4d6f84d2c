//! What a node says of one VM × what the record says of the instance → what to do. Pure, one table.

use crate::{
    controller::records::{InstanceRecord, Phase},
    model::{NodeId, Timestamp},
    wire::agent::{NOT_CLEARED, SeenVm, VmPhase},
};

/// Longest word of a node about what it waits for; the rest is left out.
const WORD: usize = 1000;

/// What follows from one VM of a report.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// Nothing, or nothing yet.
    Nothing,
    /// Store this; then judge again.
    Store(Box<InstanceRecord>),
    /// The node has to stop it and delete it.
    Stop,
    /// It is noted; the node may forget it.
    Forget,
    /// The node knows more than the record: what was looked at is behind, or the store was restored from a backup.
    Behind,
}

/// Whether there is, or may be, anything of it on the node.
pub(super) fn is_there(vm: &SeenVm) -> bool {
    match vm.phase {
        VmPhase::Gone => false,
        VmPhase::Failed => vm.info.is_some(),
        VmPhase::Claimed | VmPhase::Pulling | VmPhase::Starting | VmPhase::Running => true,
    }
}

/// Judges one VM that `node` reports, of an instance that has a record.
pub(super) fn judge(record: &InstanceRecord, node: &NodeId, vm: &SeenVm, now: Timestamp) -> Verdict {
    if vm.attempt > record.attempt {
        return Verdict::Behind;
    }
    let theirs = vm.attempt == record.attempt && record.node() == Some(node);
    if !theirs {
        // An older offer, or one that went to another node or back to the queue: never again this node's.
        return if is_there(vm) { Verdict::Stop } else { Verdict::Forget };
    }
    let store = |phase: Phase, message: &str| {
        let mut next = record.in_phase(phase, now);
        if !message.is_empty() {
            next.message = message.to_owned();
        }
        next.info = vm.info.clone().or(next.info);
        next.script = vm.script.clone().or(next.script);
        Verdict::Store(Box::new(next))
    };
    // On the way its message is what the node waits for, and goes when the node does not say it any more.
    let going = |phase: Phase| match store(phase, "") {
        Verdict::Store(next) => Verdict::Store(Box::new(InstanceRecord { message: word(vm), ..*next })),
        verdict => verdict,
    };
    let fail = |default: &str| {
        let message = if vm.message.is_empty() { default } else { &vm.message };
        store(Phase::Failed { node: Some(node.clone()), running: vm.takes_room() }, message)
    };
    match (&record.phase, vm.phase) {
        // It has claimed it, so this record is behind; or its claim is about to be repeated.
        (Phase::Queued { .. } | Phase::Offered { .. }, _) => Verdict::Behind,

        (Phase::Claimed { pulling, progress, .. }, VmPhase::Pulling) => {
            if *pulling && *progress == vm.progress && says_the_same(record, vm) {
                return Verdict::Nothing;
            }
            going(Phase::Claimed { node: node.clone(), pulling: true, progress: vm.progress })
        }
        // The pull is done. A report from before it began says the same, and the next one corrects it.
        (Phase::Claimed { pulling: true, .. }, VmPhase::Claimed | VmPhase::Starting) => {
            going(Phase::Claimed { node: node.clone(), pulling: false, progress: vm.progress })
        }
        (Phase::Claimed { .. } | Phase::Starting { .. }, VmPhase::Claimed | VmPhase::Starting) => {
            if says_the_same(record, vm) {
                return Verdict::Nothing;
            }
            Verdict::Store(Box::new(InstanceRecord { message: word(vm), updated: now, ..record.clone() }))
        }
        // Only `starting` gives the right to run it.
        (Phase::Claimed { .. }, VmPhase::Running) => Verdict::Behind,
        (Phase::Claimed { .. }, VmPhase::Failed) => fail("the node could not start it"),
        (Phase::Claimed { .. }, VmPhase::Gone) => {
            Verdict::Store(Box::new(record.attempt_failed("its node dropped it", now)))
        }

        (Phase::Starting { .. }, VmPhase::Running) => going(Phase::Started { node: node.clone() }),
        (Phase::Starting { .. }, VmPhase::Failed) => fail("the node could not start it"),
        (Phase::Starting { .. }, VmPhase::Gone) => fail("the VM is gone from its node"),
        (Phase::Starting { .. }, VmPhase::Pulling) => Verdict::Nothing,

        (Phase::Started { .. }, VmPhase::Running) => {
            if same_vm(record, vm) {
                Verdict::Nothing
            } else {
                store(Phase::Started { node: node.clone() }, "")
            }
        }
        (Phase::Started { .. }, VmPhase::Failed) => fail("the VM has failed"),
        (Phase::Started { .. }, VmPhase::Gone) => fail("the VM is gone from its node"),
        // A report from before it was up, overtaken by a newer one.
        (Phase::Started { .. }, VmPhase::Claimed | VmPhase::Pulling | VmPhase::Starting) => Verdict::Nothing,

        // Its place is free again: what was kept has ended, or the node that was silent has lost it.
        (Phase::Failed { running: true, .. }, VmPhase::Failed | VmPhase::Gone) if !vm.takes_room() => {
            store(Phase::Failed { node: Some(node.clone()), running: false }, "")
        }
        (Phase::Failed { .. }, VmPhase::Gone) => Verdict::Forget,
        (Phase::Failed { .. }, VmPhase::Failed) if vm.info.is_none() => Verdict::Forget,
        // What is left of it stays for who wants to look, until it is terminated.
        (Phase::Failed { .. }, _) => Verdict::Nothing,

        (Phase::Terminating { .. }, VmPhase::Gone) => Verdict::Store(Box::new(terminated(record, node, now))),
        // Why it failed stays its message; that it cannot be deleted is worth more.
        (Phase::Terminating { .. }, _)
            if vm.message.starts_with(NOT_CLEARED) && !says_the_same(record, vm) =>
        {
            Verdict::Store(Box::new(InstanceRecord { message: word(vm), updated: now, ..record.clone() }))
        }
        (Phase::Terminating { .. }, _) => Verdict::Stop,
        (Phase::Terminated { .. }, VmPhase::Gone) => Verdict::Forget,
        (Phase::Terminated { .. }, _) => Verdict::Stop,
    }
}

/// What the node says of it, no longer than a message may be.
fn word(vm: &SeenVm) -> String {
    vm.message.chars().take(WORD).collect()
}

/// Whether the node still says what the record has. A number in it that counts is no news, or every heartbeat would be a
/// write.
fn says_the_same(record: &InstanceRecord, vm: &SeenVm) -> bool {
    let said = vm.message.chars().take(WORD).filter(|c| !c.is_ascii_digit());
    said.eq(record.message.chars().filter(|c| !c.is_ascii_digit()))
}

/// Deleted; that it could not be is over.
fn terminated(record: &InstanceRecord, node: &NodeId, now: Timestamp) -> InstanceRecord {
    let mut next = record.in_phase(Phase::Terminated { node: node.clone(), since: now }, now);
    if next.message.starts_with(NOT_CLEARED) {
        next.message.clear();
    }
    next
}

/// Whether the report says nothing new. The time of looking is no news, or every heartbeat would be a write.
fn same_vm(record: &InstanceRecord, vm: &SeenVm) -> bool {
    let timeless = |info: &crate::wire::vm::VmInfo| {
        let mut info = info.clone();
        (info.timestamp, info.access_date) = (None, None);
        info
    };
    let same_info = vm.info.is_none() || record.info.as_ref().map(timeless) == vm.info.as_ref().map(timeless);
    let same_script = vm.script.is_none() || record.script == vm.script;
    same_info && same_script
}

/// What follows when a full report of `node` does not name an instance whose record says it is there: the
/// whole truth is that it is not. `sure` once that cannot be a report from before the node had it.
pub(super) fn judge_missing(record: &InstanceRecord, sure: bool, now: Timestamp) -> Option<InstanceRecord> {
    match &record.phase {
        Phase::Terminating { node: Some(node), .. } if sure => Some(terminated(record, node, now)),
        Phase::Claimed { .. } if sure => Some(record.attempt_failed("its node no longer has it", now)),
        Phase::Starting { .. } | Phase::Started { .. } if sure => {
            Some(record.failed("the VM is gone from its node", false, now))
        }
        Phase::Failed { node: Some(node), running: true } if sure => {
            Some(record.in_phase(Phase::Failed { node: Some(node.clone()), running: false }, now))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests;
