use super::*;
use crate::{
    controller::records::{InstanceSpec, StartRecord},
    model::{Digest, InstanceId, InstanceState, Progress, StartId, TemplateId},
    wire::vm::VmInfo,
};

const NOW: Timestamp = Timestamp::NEVER;

fn node() -> NodeId {
    NodeId::parse("n1").unwrap()
}

pub(in crate::controller) fn record(phase: Phase, attempt: u32) -> InstanceRecord {
    let start = StartRecord {
        body: Digest::of(b""),
        ids: vec![InstanceId::parse("i1").unwrap()],
        answered: Vec::new(),
        made: 0,
        created: NOW,
        expires: NOW,
        name: None,
        external_id: None,
        metadata: Default::default(),
        spec: InstanceSpec {
            template: TemplateId::parse("t1").unwrap(),
            template_name: "t".into(),
            repository: "t".parse().unwrap(),
            tag: "v1".into(),
            version: 0,
            manifest: Digest::of(b""),
            arch: None,
            layers: Vec::new(),
            node: None,
            group_id: String::new(),
            permission_group: String::new(),
            priority: 1000,
            name_template: String::new(),
            vcpu: None,
            vram: None,
            mac_address: String::new(),
            vlan: String::new(),
            usb_device: String::new(),
            network_mode: String::new(),
            disk: None,
            port_forwarding_override: None,
            devices: Default::default(),
            script: None,
        },
    };
    let made = start.instance(&StartId::parse("s1").unwrap(), &start.ids[0]);
    InstanceRecord { phase, attempt, ..made }
}

fn phases(at: &NodeId) -> Vec<Phase> {
    let (node, since) = (at.clone(), NOW);
    vec![
        Phase::Queued { since },
        Phase::Offered { node: node.clone() },
        Phase::Claimed { node: node.clone(), pulling: false, progress: Progress::NONE },
        Phase::Claimed { node: node.clone(), pulling: true, progress: Progress::NONE },
        Phase::Starting { node: node.clone() },
        Phase::Started { node: node.clone() },
        Phase::Failed { node: Some(node.clone()), running: true },
        Phase::Failed { node: Some(node.clone()), running: false },
        Phase::Terminating { node: Some(node.clone()), since },
        Phase::Terminated { node, since },
    ]
}

const SEEN: [VmPhase; 6] =
    [VmPhase::Claimed, VmPhase::Pulling, VmPhase::Starting, VmPhase::Running, VmPhase::Failed, VmPhase::Gone];

fn seen(attempt: u32, phase: VmPhase, status: Option<&str>) -> SeenVm {
    let info = status.map(VmInfo::in_state);
    SeenVm {
        instance: InstanceId::parse("i1").unwrap(),
        attempt,
        phase,
        progress: Progress::NONE,
        info,
        script: None,
        message: String::new(),
    }
}

#[test]
fn whatever_is_reported_moves_along_a_documented_edge_and_stays_on_its_node() {
    for phase in phases(&node()) {
        for vm in SEEN {
            let before = record(phase.clone(), 3);
            if let Verdict::Store(next) = judge(&before, &node(), &seen(3, vm, None), NOW) {
                assert!(before.state().may_become(next.state()), "{phase:?} × {vm:?} → {:?}", next.phase);
                assert_eq!(next.attempt, 3);
                let after_starting = matches!(phase, Phase::Starting { .. } | Phase::Started { .. });
                assert!(!(after_starting && next.is_queued()), "{phase:?} × {vm:?}");
            }
        }
    }
}

#[test]
fn what_was_stored_is_settled_or_settles_in_one_more_look() {
    for phase in phases(&node()) {
        for vm in SEEN {
            let vm = seen(3, vm, Some("running"));
            let Verdict::Store(next) = judge(&record(phase.clone(), 3), &node(), &vm, NOW) else { continue };
            let again = judge(&next, &node(), &vm, NOW);
            assert!(
                !matches!(again, Verdict::Store(_)),
                "{phase:?} × {:?} is written again and again",
                vm.phase
            );
        }
    }
}

#[test]
fn an_older_offer_is_stopped_at_once_whatever_the_record_says() {
    let other = NodeId::parse("n2").unwrap();
    for phase in phases(&other) {
        for vm in [VmPhase::Claimed, VmPhase::Pulling, VmPhase::Starting, VmPhase::Running] {
            assert_eq!(judge(&record(phase.clone(), 4), &node(), &seen(3, vm, None), NOW), Verdict::Stop);
        }
        for vm in [VmPhase::Failed, VmPhase::Gone] {
            assert_eq!(judge(&record(phase.clone(), 4), &node(), &seen(3, vm, None), NOW), Verdict::Forget);
        }
    }
}

#[test]
fn a_claim_that_went_back_to_the_queue_is_no_longer_its_nodes() {
    let back = record(Phase::Queued { since: NOW }, 3);
    assert_eq!(judge(&back, &node(), &seen(3, VmPhase::Claimed, None), NOW), Verdict::Stop);
}

#[test]
fn a_vm_without_the_right_to_run_is_never_taken_for_started() {
    for phase in &phases(&node())[..4] {
        let verdict = judge(&record(phase.clone(), 3), &node(), &seen(3, VmPhase::Running, None), NOW);
        assert!(!matches!(verdict, Verdict::Store(_)), "{phase:?}: {verdict:?}");
    }
}

#[test]
fn terminating_wins_over_every_report_until_the_vm_is_gone() {
    let ending = record(Phase::Terminating { node: Some(node()), since: NOW }, 3);
    for vm in &SEEN[..5] {
        assert_eq!(judge(&ending, &node(), &seen(3, *vm, None), NOW), Verdict::Stop);
    }
    let Verdict::Store(next) = judge(&ending, &node(), &seen(3, VmPhase::Gone, None), NOW) else {
        panic!("not noted")
    };
    assert_eq!(next.state(), InstanceState::Terminated);
}

#[test]
fn a_failed_instance_keeps_what_was_known_of_its_vm() {
    let mut started = record(Phase::Started { node: node() }, 3);
    started.info = seen(3, VmPhase::Running, Some("running")).info;
    let Verdict::Store(next) = judge(&started, &node(), &seen(3, VmPhase::Failed, None), NOW) else {
        panic!("not noted")
    };
    assert_eq!((next.state(), next.message.as_str()), (InstanceState::Error, "the VM has failed"));
    assert!(next.info.is_some());
}

#[test]
fn a_heartbeat_that_says_nothing_new_writes_nothing() {
    let mut started = record(Phase::Started { node: node() }, 3);
    let mut vm = seen(3, VmPhase::Running, Some("running"));
    started.info = vm.info.clone();
    if let Some(info) = &mut vm.info {
        info.timestamp = Some(Timestamp::from_unix_seconds(5));
    }
    assert_eq!(judge(&started, &node(), &vm, NOW), Verdict::Nothing);
    if let Some(info) = &mut vm.info {
        info.ip = "10.0.0.9".into();
    }
    assert!(matches!(judge(&started, &node(), &vm, NOW), Verdict::Store(_)));
}

#[test]
fn what_a_full_report_does_not_name_is_judged_by_its_phase() {
    let missing = |phase: Phase| judge_missing(&record(phase, 3), true, NOW).map(|next| next.state());
    let states: Vec<_> = phases(&node()).into_iter().map(missing).collect();
    use InstanceState::{Error, Scheduling, Terminated};
    let expected = [
        None,
        None,
        Some(Scheduling),
        Some(Scheduling),
        Some(Error),
        Some(Error),
        Some(Error),
        None,
        Some(Terminated),
        None,
    ];
    assert_eq!(states, expected);
    for phase in phases(&node()) {
        assert_eq!(judge_missing(&record(phase, 3), false, NOW), None, "not before it is sure");
    }
}

#[test]
fn a_failed_vm_takes_a_place_as_long_as_its_node_says_that_it_runs() {
    let starting = record(Phase::Starting { node: node() }, 3);
    let stored = |record: &InstanceRecord, vm: &SeenVm| match judge(record, &node(), vm, NOW) {
        Verdict::Store(next) => *next,
        other => panic!("{:?} was not noted: {other:?}", vm.phase),
    };
    let kept = stored(&starting, &seen(3, VmPhase::Failed, Some("running")));
    assert!(kept.takes_room() && kept.is_kept());
    for status in [Some("stopped"), Some("failed"), None] {
        let ended = seen(3, VmPhase::Failed, status);
        assert!(!stored(&starting, &ended).takes_room(), "{status:?}");
        let free = stored(&kept, &ended);
        assert!(!free.takes_room(), "it ended by itself: {status:?}");
        assert_eq!(free.state(), InstanceState::Error);
        // A report from before that, overtaken by it.
        let late = judge(&free, &node(), &seen(3, VmPhase::Failed, Some("running")), NOW);
        assert_eq!(late, Verdict::Nothing);
    }
    assert!(!stored(&kept, &seen(3, VmPhase::Gone, None)).takes_room());
    assert!(!judge_missing(&kept, true, NOW).unwrap().takes_room());
    // Failed because its node was silent: nobody knows, until the node says.
    let silent = starting.failed("node is not communicating", true, NOW);
    assert!(silent.takes_room());
    assert_eq!(judge(&silent, &node(), &seen(3, VmPhase::Running, Some("running")), NOW), Verdict::Nothing);
    assert!(!stored(&silent, &seen(3, VmPhase::Failed, None)).takes_room());
    // A record of an earlier version says nothing of it.
    let old: Phase = serde_json::from_str(r#"{"is":"failed","node":"n1"}"#).unwrap();
    assert_eq!(old, Phase::Failed { node: Some(node()), running: true });
    let nowhere: Phase = serde_json::from_str(r#"{"is":"failed"}"#).unwrap();
    assert!(!record(nowhere, 3).takes_room());
}

#[test]
fn what_a_node_waits_for_is_the_message_until_it_does_not_any_more() {
    let says = |phase, message: &str| SeenVm { message: message.into(), ..seen(3, phase, None) };
    let stored = |record: &InstanceRecord, vm: &SeenVm| match judge(record, &node(), vm, NOW) {
        Verdict::Store(next) => *next,
        other => panic!("{vm:?} was not noted: {other:?}"),
    };
    let pulling = Phase::Claimed { node: node(), pulling: true, progress: Progress::NONE };
    let waits = says(VmPhase::Pulling, "waits for the registry: refused, try 1");
    let waiting = stored(&record(pulling.clone(), 3), &waits);
    assert_eq!(waiting.message, waits.message);
    // Not with every heartbeat, whatever counts in it.
    for again in ["waits for the registry: refused, try 1", "waits for the registry: refused, try 27"] {
        assert_eq!(judge(&waiting, &node(), &says(VmPhase::Pulling, again), NOW), Verdict::Nothing);
    }
    assert_eq!(stored(&waiting, &says(VmPhase::Pulling, "")).message, "");
    assert_eq!(stored(&waiting, &says(VmPhase::Starting, "")).message, "");
    let long = stored(&waiting, &says(VmPhase::Pulling, &"é".repeat(5000)));
    assert_eq!(long.message.chars().count(), WORD);
    assert_eq!(judge(&long, &node(), &says(VmPhase::Pulling, &"é".repeat(5000)), NOW), Verdict::Nothing);

    let starting = record(Phase::Starting { node: node() }, 3);
    let waiting = stored(&starting, &says(VmPhase::Starting, "the node's journal could not be written"));
    assert!(waiting.message.contains("journal"), "{}", waiting.message);
    assert_eq!(stored(&waiting, &says(VmPhase::Running, "")).message, "");

    let mut ending = record(Phase::Terminating { node: Some(node()), since: NOW }, 3);
    ending.message = "exited with code 3".into();
    let stuck = says(VmPhase::Running, &format!("{NOT_CLEARED}device is busy"));
    let waiting = stored(&ending, &stuck);
    assert_eq!(waiting.message, stuck.message);
    assert_eq!(judge(&waiting, &node(), &stuck, NOW), Verdict::Stop);
    assert_eq!(stored(&waiting, &says(VmPhase::Gone, "")).message, "");
    assert_eq!(judge(&ending, &node(), &says(VmPhase::Failed, "anything else"), NOW), Verdict::Stop);
    assert_eq!(stored(&ending, &says(VmPhase::Gone, "")).message, "exited with code 3");
}
