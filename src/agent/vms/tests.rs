use super::*;
use crate::agent::journal::tests::entry;

fn task(instance: &str, attempt: Attempt) -> StartTask {
    entry(instance, attempt, VmPhase::Claimed).task
}

fn key(instance: &str, attempt: Attempt) -> VmKey {
    VmKey { instance: InstanceId::parse(instance).unwrap(), attempt }
}

fn order(instance: &str, attempt: Attempt) -> StopVm {
    StopVm { instance: InstanceId::parse(instance).unwrap(), attempt }
}

fn shown(vms: &Vms) -> Vec<(String, Attempt, VmPhase)> {
    vms.all().into_iter().map(|n| (n.vm.instance.to_string(), n.vm.attempt, n.vm.phase)).collect()
}

fn next(vms: &Vms, key: &VmKey) -> Option<Action> {
    vms.next(key).map(|(action, _)| action)
}

#[test]
fn an_offer_takes_a_place_at_once_and_is_told_only_when_it_was_claimed() {
    let vms = Vms::default();
    vms.offer(task("a", 1));
    assert_eq!((vms.used(), shown(&vms)), (1, vec![]));
    vms.change(&key("a", 1), |vm| vm.begun = true);
    assert_eq!(shown(&vms), [("a".into(), 1, VmPhase::Claimed)]);
}

#[test]
fn one_at_a_time_is_busy_with_a_vm() {
    let vms = Vms::default();
    vms.offer(task("a", 1));
    assert_eq!(vms.due(), [key("a", 1)]);
    assert_eq!(vms.due(), []);
    vms.change(&key("a", 1), |vm| vm.seen = Seen::Running);
    assert_eq!(next(&vms, &key("a", 1)), None);
    vms.stop(&order("a", 1));
    assert_eq!(vms.due(), [key("a", 1)]);
}

#[test]
fn a_newer_attempt_waits_until_the_older_one_is_cleared_away() {
    let vms = Vms::default();
    vms.offer(task("a", 1));
    vms.change(&key("a", 1), |vm| vm.seen = Seen::Running);
    vms.offer(task("a", 2));
    vms.offer(task("a", 2));
    vms.offer(task("a", 1));
    assert_eq!(vms.used(), 1);
    assert_eq!(next(&vms, &key("a", 1)), Some(Action::Delete));
    assert_eq!(next(&vms, &key("a", 2)), None);
    vms.change(&key("a", 1), |vm| vm.seen = Seen::Gone);
    assert_eq!(next(&vms, &key("a", 1)), Some(Action::Forget));
    vms.forget(&key("a", 1));
    assert_eq!(next(&vms, &key("a", 2)), Some(Action::Claim));
    // What is said of the older one now is about nothing.
    assert!(vms.change(&key("a", 1), |_| ()).is_none());
}

#[test]
fn a_stop_meets_the_attempt_it_means_and_the_one_that_waits_behind_it() {
    let vms = Vms::default();
    vms.offer(task("a", 3));
    vms.change(&key("a", 3), |vm| vm.seen = Seen::Running);
    vms.stop(&order("a", 2));
    assert_eq!(next(&vms, &key("a", 3)), None);
    vms.offer(task("a", 4));
    vms.stop(&order("a", 4));
    vms.change(&key("a", 3), |vm| vm.seen = Seen::Gone);
    vms.forget(&key("a", 3));
    assert_eq!(vms.used(), 0, "the one that waited was stopped, too");
    vms.stop(&order("a", 4));
    assert_eq!(shown(&vms), [("a".into(), 4, VmPhase::Gone)]);
    vms.noted(&order("a", 4));
    assert_eq!(shown(&vms), []);
}

#[test]
fn an_end_is_repeated_until_it_is_noted() {
    let vms = Vms::default();
    vms.offer(task("a", 1));
    vms.change(&key("a", 1), |vm| vm.seen = Seen::Failed(Left::Nothing));
    for _ in 0..2 {
        let news = vms.all();
        assert_eq!(news[0].vm.phase, VmPhase::Failed);
        vms.told(&news[0]);
    }
    assert!(vms.untold().is_empty());
    vms.noted(&order("a", 1));
    assert_eq!(next(&vms, &key("a", 1)), Some(Action::Forget));
}

#[test]
fn script_output_is_told_until_it_was_answered_and_then_no_more() {
    let vms = Vms::default();
    vms.offer(task("a", 1));
    let long = ScriptResult { stdout: "ä".repeat(BRIEF), ..ScriptResult::default() };
    vms.change(&key("a", 1), |vm| {
        vm.script = Some(long.clone());
        vm.seen = Seen::Running;
    });
    let untold = vms.untold();
    assert_eq!(untold[0].vm.script.as_ref(), Some(&long));
    // Too long for a heartbeat: that neither cuts it, nor tells what it belongs to, nor takes it to be told.
    let beat = vms.all();
    assert_eq!((beat[0].vm.phase, &beat[0].vm.script), (VmPhase::Starting, &None));
    vms.told(&beat[0]);
    assert!(vms.has_untold());
    // Something changed while the report was on its way: that one is not covered.
    vms.change(&key("a", 1), |vm| vm.message = "x".into());
    vms.told(&untold[0]);
    assert_eq!(vms.untold().len(), 1);
    vms.told(&vms.untold()[0]);
    assert_eq!((vms.all()[0].vm.phase, &vms.all()[0].vm.script), (VmPhase::Running, &None));
    assert!(!vms.has_untold());
    let short = ScriptResult { stdout: "ä".repeat(BRIEF / 2), ..long };
    vms.change(&key("a", 1), |vm| vm.script = Some(short.clone()));
    assert_eq!((vms.all()[0].vm.phase, &vms.all()[0].vm.script), (VmPhase::Running, &Some(short)));
    vms.told(&vms.all()[0]);
    assert!(!vms.has_untold());
}

#[test]
fn a_heartbeat_stays_short_whatever_scripts_have_said() {
    let vms = Vms::default();
    for n in 0..200 {
        let name = format!("i{n}");
        vms.offer(task(&name, 1));
        vms.change(&key(&name, 1), |vm| {
            let noise = "\u{1}".repeat(10_000);
            vm.script =
                Some(ScriptResult { stdout: noise.clone(), stderr: noise, ..ScriptResult::default() });
            vm.seen = Seen::Failed(Left::Stopped);
        });
    }
    let all: Vec<_> = vms.all().into_iter().map(|news| news.vm).collect();
    assert_eq!(all.len(), 200);
    let with = all.iter().filter(|vm| vm.script.is_some()).count();
    assert_eq!(with, BRIEFS / 20_000);
    assert!(all.iter().all(|vm| vm.script.is_some() == (vm.phase == VmPhase::Failed)));
    assert!(serde_json::to_vec(&all).unwrap().len() < 2 * 1024 * 1024);
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_now_and_then_and_a_new_reason_at_once() {
    let vms = Vms::default();
    let a = key("a", 1);
    vms.offer(task("a", 1));
    vms.change(&a, |vm| vm.begun = true);
    let told = |vms: &Vms| {
        let untold = vms.untold();
        untold.iter().for_each(|news| vms.told(news));
        untold.len()
    };
    told(&vms);
    vms.progress(&a, Progress::of(0.1), String::new());
    assert_eq!(told(&vms), 1);
    vms.progress(&a, Progress::of(0.2), String::new());
    assert_eq!(told(&vms), 0);
    vms.progress(&a, Progress::of(0.2), "waits".into());
    assert_eq!(told(&vms), 1);
    tokio::time::advance(PROGRESS).await;
    vms.progress(&a, Progress::of(0.3), "waits".into());
    assert_eq!(told(&vms), 1);
}

#[tokio::test]
async fn whoever_is_busy_hears_that_something_else_is_wanted() {
    let vms = Vms::default();
    let a = key("a", 1);
    vms.offer(task("a", 1));
    let mut wanted = vms.follow(&a).unwrap();
    vms.stop(&order("a", 1));
    wanted.changed().await.unwrap();
    assert_eq!(*wanted.borrow_and_update(), Wanted::Gone);
    vms.disown(&a);
    wanted.changed().await.unwrap();
    // What is not ours does not become it again.
    vms.stop(&order("a", 1));
    assert_eq!(*wanted.borrow_and_update(), Wanted::Forgotten);
}

#[test]
fn what_takes_a_place_here_is_told_as_taking_one() {
    let all = [
        (Seen::Claimed, "running"),
        (Seen::Pulled, "running"),
        (Seen::Granted, "running"),
        (Seen::Booted, "running"),
        (Seen::Running, "running"),
        (Seen::Failed(Left::Running), "running"),
        (Seen::Failed(Left::Stopped), "stopped"),
        (Seen::Failed(Left::Nothing), "failed"),
        (Seen::Gone, "deleted"),
    ];
    for (seen, status) in all {
        let vms = Vms::default();
        vms.offer(task("a", 1));
        vms.change(&key("a", 1), |vm| {
            vm.begun = true;
            vm.info = Some(VmInfo::in_state(status));
            vm.seen = seen;
        });
        let told = vms.all().remove(0).vm;
        assert_eq!(told.takes_room(), vms.used() == 1, "{seen:?}");
    }
}
