use proptest::prelude::*;

use super::*;

const WAIT: Duration = Duration::from_secs(1);

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn polled(upto: &str, changes: &[(&str, &str)], lease: u64) -> Polled {
    Polled {
        reigns: Vec::new(),
        head: at(upto),
        upto: at(upto),
        mark: Mark::ZERO,
        changes: changes.iter().map(|(position, repository)| (at(position), name(repository))).collect(),
        lease: ms(lease),
    }
}

/// A writer and two replicas, first asked at 1.10 with a lease until 2 s.
fn begun() -> Freshness {
    let mut fresh = Freshness::new(3, 0, WAIT);
    fresh.polled(polled("1.10", &[], 2000), ms(0), ms(5));
    fresh
}

fn needs(fresh: &Freshness, repository: &str) -> String {
    let name = name(repository);
    fresh.need(Subject::Repository(&name)).map_or_else(String::new, |need| need.to_string())
}

#[test]
fn before_the_first_answer_nothing_is_known_and_there_is_no_lease() {
    let mut fresh = Freshness::new(2, 0, WAIT);
    fresh.reported(1, Some(at("1.99")), ms(1));
    assert_eq!(fresh.standing(1, Subject::All, ms(2)), Standing::Unknown { has: at("1.99") });
    assert_eq!((fresh.need(Subject::All), fresh.lease_live(ms(2)), fresh.after()), (None, false, None));
    assert!(!fresh.seen(Subject::All, at("1.50"), ms(3)));
}

#[test]
fn what_was_there_at_first_is_needed_of_every_repository() {
    let mut fresh = begun();
    assert_eq!((needs(&fresh, "a").as_str(), needs(&fresh, "b").as_str()), ("1.10", "1.10"));
    fresh.polled(polled("1.12", &[("1.11", "a")], 2000), ms(500), ms(600));
    assert_eq!((needs(&fresh, "a").as_str(), needs(&fresh, "b").as_str()), ("1.11", "1.10"));
    // 1.12 changed nothing that is read: a replica without it has every change.
    assert_eq!(fresh.need(Subject::All), Some(at("1.11")));
    assert_eq!(fresh.after().unwrap().0, at("1.12"));
}

#[test]
fn a_lease_counts_from_when_its_poll_was_sent_and_is_never_longer_than_agreed() {
    let mut fresh = begun();
    assert!(fresh.lease_live(ms(1999)) && !fresh.lease_live(ms(2000)));
    fresh.polled(polled("1.10", &[], 60_000), ms(1000), ms(1600));
    assert_eq!(fresh.lease_left(ms(1600)), Some(ms(1400)));
    // One that renews nothing takes nothing away.
    fresh.polled(polled("1.10", &[], 0), ms(1600), ms(2200));
    assert!(fresh.lease_live(ms(2999)) && !fresh.lease_live(ms(3000)));
    fresh.released();
    assert!(!fresh.lease_live(ms(2300)));
}

#[test]
fn a_lease_begins_only_with_an_answer_that_covers_everything() {
    let page = |upto| Polled { head: at("1.90"), ..polled(upto, &[], 2000) };
    let mut fresh = Freshness::new(2, 0, WAIT);
    fresh.polled(polled("1.10", &[], 0), ms(0), ms(1));
    fresh.polled(page("1.50"), ms(10), ms(20));
    assert!(!fresh.lease_live(ms(20)), "changes up to 1.90 were acknowledged without this proxy");
    fresh.polled(page("1.90"), ms(30), ms(40));
    assert!(fresh.lease_live(ms(40)));
    // Under a live one the writer has waited all along.
    fresh.polled(Polled { head: at("1.99"), ..polled("1.95", &[], 2000) }, ms(500), ms(600));
    assert_eq!(fresh.lease_left(ms(600)), Some(ms(1900)));
}

#[test]
fn a_replica_is_fresh_for_what_it_has_and_may_be_waited_for() {
    let mut fresh = begun();
    fresh.reported(1, Some(at("1.10")), ms(20));
    fresh.polled(polled("1.12", &[("1.11", "a"), ("1.12", "b")], 2000), ms(500), ms(600));
    let (a, c) = (name("a"), name("c"));
    assert_eq!(fresh.standing(1, Subject::Repository(&c), ms(700)), Standing::Fresh { has: at("1.10") });
    let behind = |patience| Standing::Behind { needed: at("1.11"), has: at("1.10"), patience };
    assert_eq!(fresh.standing(1, Subject::Repository(&a), ms(700)), behind(ms(900)));
    assert_eq!(fresh.standing(1, Subject::Repository(&a), ms(1600)), behind(ms(0)));
    assert_eq!(fresh.standing(2, Subject::Repository(&a), ms(700)), Standing::Unclaimed);
    fresh.reported(1, Some(at("1.11")), ms(800));
    assert_eq!(fresh.standing(1, Subject::Repository(&a), ms(800)), Standing::Fresh { has: at("1.11") });
    assert!(matches!(fresh.standing(1, Subject::All, ms(800)), Standing::Behind { .. }));
}

#[test]
fn one_that_works_on_an_old_change_is_not_waited_for_because_of_a_new_one() {
    let mut fresh = begun();
    fresh.reported(1, Some(at("1.10")), ms(20));
    fresh.polled(polled("1.11", &[("1.11", "large")], 2000), ms(500), ms(600));
    fresh.polled(polled("1.12", &[("1.12", "small")], 2000), ms(5000), ms(5100));
    let small = name("small");
    let standing = fresh.standing(1, Subject::Repository(&small), ms(5200));
    assert_eq!(standing, Standing::Behind { needed: at("1.12"), has: at("1.10"), patience: ms(0) });
}

#[test]
fn moments_are_bounded_and_one_too_old_to_be_kept_is_not_waited_for() {
    let mut fresh = Freshness::new(2, 0, WAIT);
    fresh.polled(polled("1.1", &[], 2000), ms(0), ms(0));
    fresh.reported(1, Some(at("1.1")), ms(1));
    let changes: Vec<_> =
        (2..MOMENTS as u64 + 10).map(|seq| (Position { epoch: 1, seq }, name("a"))).collect();
    let upto = changes.last().unwrap().0;
    fresh.polled(
        Polled { head: upto, upto, mark: Mark::ZERO, changes, reigns: Vec::new(), lease: ms(2000) },
        ms(2),
        ms(3),
    );
    assert_eq!(fresh.learnt.len(), MOMENTS);
    let Standing::Behind { patience, .. } = fresh.standing(1, Subject::All, ms(4)) else {
        panic!("it is behind")
    };
    assert!(patience.is_zero());
}

#[test]
fn a_full_table_is_emptied_and_everybody_needs_the_newest() {
    let mut fresh = Freshness::bounded(2, 0, WAIT, 2);
    fresh.polled(polled("1.1", &[], 2000), ms(0), ms(0));
    fresh.polled(polled("1.4", &[("1.2", "a"), ("1.3", "b"), ("1.4", "c")], 2000), ms(1), ms(2));
    assert_eq!((fresh.repositories(), fresh.floor()), (0, Some(at("1.4"))));
    assert_eq!(needs(&fresh, "a"), "1.4");
    fresh.polled(polled("1.5", &[("1.5", "a")], 2000), ms(3), ms(4));
    assert_eq!((needs(&fresh, "a").as_str(), needs(&fresh, "b").as_str()), ("1.5", "1.4"));
}

#[test]
fn a_reader_never_goes_back_behind_what_it_saw() {
    let mut fresh = begun();
    let a = name("a");
    assert!(fresh.seen(Subject::Repository(&a), at("1.15"), ms(100)));
    assert!(!fresh.seen(Subject::Repository(&a), at("1.14"), ms(110)));
    assert_eq!((needs(&fresh, "a").as_str(), needs(&fresh, "b").as_str()), ("1.15", "1.10"));
    assert_eq!(fresh.need(Subject::All), Some(at("1.15")));
    assert!(fresh.seen(Subject::All, at("1.20"), ms(120)));
    // Of which repository that was is not known before the log tells, a little later.
    assert_eq!((needs(&fresh, "a").as_str(), fresh.need(Subject::All)), ("1.20", Some(at("1.20"))));
    fresh.polled(polled("1.20", &[("1.15", "a"), ("1.20", "b")], 2000), ms(130), ms(140));
    assert_eq!((needs(&fresh, "a").as_str(), needs(&fresh, "b").as_str()), ("1.15", "1.20"));
}

#[test]
fn answers_correct_what_a_registry_has_but_not_with_what_was_under_way() {
    let mut fresh = begun();
    fresh.reported(1, Some(at("1.10")), ms(100));
    assert!(fresh.answered(1, Some(at("1.12")), ms(110), ms(120)));
    assert_eq!(fresh.have(1), Some(at("1.12")));
    assert!(!fresh.answered(1, Some(at("1.11")), ms(115), ms(130)), "sent before it said 1.12");
    assert!(fresh.answered(1, Some(at("1.9")), ms(140), ms(150)));
    assert_eq!(fresh.have(1), Some(at("1.9")));
    assert!(fresh.answered(1, None, ms(160), ms(170)));
    assert_eq!(fresh.have(1), None);
    assert!(!fresh.answered(1, Some(at("1.12")), ms(180), ms(190)), "only its state makes a claim");
    assert!(!fresh.answered(9, None, ms(180), ms(190)));
}

#[test]
fn after_another_history_nothing_counts_until_it_was_learnt_anew() {
    let mut fresh = begun();
    fresh.reported(1, Some(at("1.10")), ms(20));
    fresh.reported(2, Some(at("1.4")), ms(20));
    fresh.diverged(Some(at("1.5")));
    assert_eq!((fresh.after(), fresh.lease_live(ms(30)), fresh.need(Subject::All)), (None, false, None));
    assert_eq!(fresh.standing(1, Subject::All, ms(30)), Standing::Foreign);
    assert_eq!(fresh.have(2), Some(at("1.4")), "up to 1.5 the histories are one");
    fresh.polled(polled("1.7", &[], 2000), ms(40), ms(50));
    // It has not noticed yet.
    fresh.reported(1, Some(at("1.10")), ms(60));
    assert_eq!((fresh.have(1), fresh.is_foreign(1)), (None, true));
    fresh.reported(1, None, ms(70));
    fresh.reported(1, Some(at("1.7")), ms(80));
    assert_eq!(fresh.standing(1, Subject::All, ms(80)), Standing::Fresh { has: at("1.7") });
}

#[test]
fn a_replica_that_noticed_another_history_first_counts_at_once() {
    let mut fresh = begun();
    fresh.reported(1, Some(at("1.10")), ms(20));
    fresh.reported(1, None, ms(30));
    fresh.reported(1, Some(at("1.7")), ms(40));
    fresh.diverged(None);
    assert_eq!(fresh.have(1), Some(at("1.7")));
}

#[test]
fn an_odd_answer_is_no_sign_that_a_replica_has_noticed_another_history() {
    let mut fresh = begun();
    fresh.reported(1, Some(at("1.80")), ms(20));
    fresh.answered(1, None, ms(30), ms(40));
    fresh.reported(1, Some(at("1.80")), ms(50));
    fresh.diverged(Some(at("1.50")));
    assert_eq!((fresh.is_foreign(1), fresh.have(1)), (true, None));
}

#[test]
fn a_change_beyond_what_the_writer_has_is_forgotten_once_a_later_poll_shows_that() {
    let mut fresh = begun();
    let a = name("a");
    fresh.seen(Subject::Repository(&a), at("999.1"), ms(100));
    // This one was on its way already, and shows a change besides.
    fresh.polled(polled("1.11", &[("1.11", "b")], 2000), ms(90), ms(110));
    assert_eq!(fresh.need(Subject::All), Some(at("999.1")));
    fresh.polled(polled("1.12", &[("1.12", "c")], 2000), ms(120), ms(130));
    assert_eq!((needs(&fresh, "a").as_str(), needs(&fresh, "b").as_str()), ("1.12", "1.11"));
    assert_eq!(fresh.need(Subject::All), Some(at("1.12")));
    fresh.seen(Subject::All, at("999.2"), ms(140));
    fresh.polled(polled("1.12", &[], 2000), ms(150), ms(160));
    assert_eq!((fresh.need(Subject::All), needs(&fresh, "d").as_str()), (Some(at("1.12")), "1.10"));
}

#[test]
fn a_claim_beyond_what_the_writer_has_is_of_another_history() {
    let mut fresh = Freshness::new(2, 0, WAIT);
    fresh.reported(1, Some(at("1.90")), ms(10));
    fresh.polled(polled("1.10", &[], 2000), ms(20), ms(30));
    assert_eq!((fresh.have(1), fresh.is_foreign(1)), (None, true));
    // One that got a change sooner than this proxy is no such case: the poll was sent before it said so.
    let mut fresh = begun();
    fresh.reported(1, Some(at("1.11")), ms(150));
    fresh.polled(polled("1.10", &[], 2000), ms(100), ms(200));
    assert_eq!(fresh.have(1), Some(at("1.11")));
}

#[test]
fn a_claim_of_a_reign_that_had_ended_before_counts_at_no_time() {
    let mut fresh = begun();
    // The writer went on from 1.10 in another reign, and this replica has a change that is in neither.
    fresh.reported(1, Some(at("1.11")), ms(20));
    fresh.reported(2, Some(at("1.10")), ms(20));
    let reigns = vec![(1, at("0.0")), (2, at("1.10"))];
    fresh.polled(Polled { reigns, ..polled("2.3", &[], 2000) }, ms(10), ms(30));
    assert_eq!((fresh.have(1), fresh.is_foreign(1)), (None, true));
    assert_eq!(fresh.have(2), Some(at("1.10")));
    fresh.reported(2, Some(at("1.12")), ms(40));
    assert!(fresh.is_foreign(2));
    // Both notice, and nobody sees them claim nothing meanwhile.
    fresh.reported(1, Some(at("2.3")), ms(50));
    fresh.reported(2, Some(at("1.10")), ms(50));
    assert_eq!((fresh.have(1), fresh.have(2)), (Some(at("2.3")), Some(at("1.10"))));
}

#[test]
fn a_replica_that_noticed_between_two_looks_counts_again() {
    let mut fresh = begun();
    fresh.reported(1, Some(at("1.10")), ms(20));
    fresh.reported(2, Some(at("1.9")), ms(20));
    // It has the new history already when this proxy hears of it, and the other one soon after.
    fresh.reported(1, Some(at("2.4")), ms(30));
    fresh.diverged(Some(Position::ZERO));
    assert_eq!((fresh.have(1), fresh.have(2)), (None, None));
    fresh.polled(polled("2.4", &[], 2000), ms(40), ms(50));
    assert_eq!((fresh.have(1), fresh.have(2)), (Some(at("2.4")), None));
    fresh.reported(2, Some(at("2.4")), ms(60));
    assert_eq!(fresh.have(2), Some(at("2.4")));
}

#[test]
fn what_a_list_showed_is_needed_of_every_repository_until_the_log_tells_of_which() {
    let mut fresh = begun();
    let (a, b) = (name("a"), name("b"));
    // One that a read of another repository made known already says nothing of the rest of the list.
    assert!(fresh.seen(Subject::Repository(&a), at("1.15"), ms(20)));
    assert!(fresh.seen(Subject::All, at("1.15"), ms(30)));
    assert_eq!(fresh.need(Subject::Repository(&b)), Some(at("1.15")));
    assert!(!fresh.seen(Subject::All, at("1.15"), ms(40)));
    fresh.polled(polled("1.16", &[("1.13", "b"), ("1.15", "a")], 2000), ms(50), ms(60));
    assert_eq!(fresh.need(Subject::Repository(&b)), Some(at("1.13")));
    assert!(!fresh.seen(Subject::All, at("1.16"), ms(70)), "the log has told of all up to there");
}

#[test]
fn a_log_that_goes_backwards_is_another_history() {
    let mut fresh = begun();
    assert!(!fresh.polled(polled("1.3", &[], 2000), ms(20), ms(30)));
    assert_eq!((fresh.after(), fresh.lease_live(ms(40))), (None, false));
    let mut fresh = begun();
    fresh.compacted();
    assert_eq!((fresh.after(), fresh.lease_live(ms(40))), (None, false));
}

/// One step of a run: what a proxy may meet.
#[derive(Debug, Clone)]
enum Step {
    Change(u8),
    Poll { most: u8, lost: bool },
    Apply(u8),
    Report,
    Time(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..5).prop_map(Step::Change),
        ((1u8..4), any::<bool>()).prop_map(|(most, lost)| Step::Poll { most, lost }),
        (0u8..4).prop_map(Step::Apply),
        Just(Step::Report),
        (0u16..900).prop_map(Step::Time),
    ]
}

proptest! {
    /// Against a writer that pages, answers that are lost, and a replica that lags: with a live lease, every change
    /// that the writer may have acknowledged is needed, and whoever is called fresh has it.
    #[test]
    fn a_lease_never_hides_an_acknowledged_change(steps in prop::collection::vec(step(), 1..120), most in 1usize..6) {
        let mut fresh = Freshness::bounded(2, 0, WAIT, most);
        let position = |seq: usize| Position { epoch: 1, seq: seq as u64 };
        let mut log: Vec<RepositoryName> = Vec::new();
        let (mut replica, mut now) = (0usize, ms(1));
        // The writer's side: how far this proxy has confirmed, and until when it waits for it.
        let (mut confirmed, mut lease_until, mut acknowledged) = (0usize, ms(0), 0usize);
        for step in steps {
            match step {
                Step::Change(repository) => log.push(name(&format!("r{repository}"))),
                Step::Apply(count) => replica = (replica + usize::from(count)).min(log.len()),
                Step::Report => {
                    fresh.reported(1, Some(position(replica)), now);
                }
                Step::Time(passed) => now += ms(passed.into()),
                Step::Poll { most, lost } => {
                    let sent = now;
                    let after = fresh.after().map(|(after, _)| usize::try_from(after.seq).unwrap());
                    if let Some(after) = after {
                        (confirmed, lease_until) = (after, now + ms(3000));
                    }
                    let upto = after.map_or(log.len(), |after| (after + usize::from(most)).min(log.len()));
                    let from = after.unwrap_or(upto);
                    let changes = (from..upto).map(|at| (position(at + 1), log[at].clone())).collect();
                    now += ms(7);
                    if !lost {
                        let lease = if after.is_some() { ms(2000) } else { ms(0) };
                        let (head, upto) = (position(log.len()), position(upto));
                        fresh.polled(Polled { head, upto, mark: Mark::ZERO, changes, reigns: Vec::new(), lease }, sent, now);
                    }
                }
            }
            acknowledged = if now < lease_until { acknowledged.max(confirmed) } else { log.len() };
            if !fresh.lease_live(now) {
                continue;
            }
            for repository in (0..5).map(|r| name(&format!("r{r}"))) {
                let changed = log[..acknowledged].iter().rposition(|name| *name == repository);
                let changed = changed.map_or(Position::ZERO, |at| position(at + 1));
                let subject = Subject::Repository(&repository);
                prop_assert!(fresh.need(subject).unwrap() >= changed, "{repository} changed at {changed}");
                if let Standing::Fresh { has } = fresh.standing(1, subject, now) {
                    prop_assert!(has >= changed);
                    prop_assert!(fresh.need(Subject::All) >= fresh.need(subject));
                }
            }
        }
    }
}
