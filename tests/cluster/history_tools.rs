//! The checker of histories, proved before it proves anything: each kind of fault is found, and nothing else is.

use std::time::Duration;

use crate::support::history::{Answer, History, Outcome, Push, Read};

struct Told(History);

impl Told {
    fn push(&self, digest: &str, begin: u64, end: u64, outcome: Outcome) {
        self.push_at(digest, begin, end, outcome, None);
    }

    fn push_at(&self, digest: &str, begin: u64, end: u64, outcome: Outcome, position: Option<&str>) {
        let (begin, end) = (Duration::from_millis(begin), Duration::from_millis(end));
        let position = position.map(|text| text.parse().expect("a position"));
        self.0.pushed(Push { tag: "t".into(), digest: digest.into(), begin, end, outcome, position });
    }

    fn read(&self, client: &str, begin: u64, end: u64, answer: &str, stale: bool) {
        self.read_at(client, begin, end, answer, stale, None);
    }

    fn read_at(&self, client: &str, begin: u64, end: u64, answer: &str, stale: bool, position: Option<&str>) {
        let answer = match answer {
            "" => Answer::Missing,
            "half" => Answer::Half("a blob is missing".into()),
            "failed" => Answer::Failed("503".into()),
            digest => Answer::Found(digest.into()),
        };
        self.0.read(Read {
            client: client.into(),
            tag: "t".into(),
            begin: Duration::from_millis(begin),
            end: Duration::from_millis(end),
            answer,
            stale: stale.then(|| "unknown".into()),
            position: position.map(|text| text.parse().expect("a position")),
        });
    }
}

fn unknown() -> Outcome {
    Outcome::Unknown("502".into())
}

/// `a` is acknowledged at 20, `b` is pushed from 100 to 200.
fn two_pushes(second: Outcome) -> Told {
    let told = Told(History::begin());
    told.push("a", 10, 20, Outcome::Acknowledged);
    told.push("b", 100, 200, second);
    told
}

#[track_caller]
fn check(told: &Told, expected: &[&str]) {
    let faults = told.0.faults();
    let good = faults.len() == expected.len() && faults.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(good, "expected {expected:?}, found {faults:#?}");
}

#[test]
fn a_history_that_keeps_the_promise_has_no_fault() {
    let told = two_pushes(Outcome::Acknowledged);
    told.read("one", 0, 15, "", false);
    told.read("one", 16, 18, "a", false);
    // Another proxy need not know of it before it is acknowledged.
    told.read("two", 19, 25, "", false);
    told.read("two", 50, 60, "failed", false);
    told.read("one", 110, 120, "b", false);
    told.read("two", 130, 140, "a", false);
    told.read("two", 190, 210, "a", false);
    told.read("two", 201, 220, "b", false);
    // Marked, an old answer is allowed.
    told.read("two", 300, 310, "a", true);
    check(&told, &[]);
    let tally = told.0.tally();
    assert_eq!((tally.acknowledged, tally.fresh, tally.marked, tally.failed), (2, 7, 1, 1));
}

#[test]
fn an_acknowledged_push_that_is_not_seen_is_found() {
    let told = two_pushes(Outcome::Acknowledged);
    told.read("one", 201, 210, "a", false);
    check(&told, &["old and unmarked"]);

    let told = two_pushes(Outcome::Acknowledged);
    told.read("one", 21, 30, "", false);
    check(&told, &["missing"]);
}

#[test]
fn a_mark_does_not_excuse_not_found() {
    let told = two_pushes(Outcome::Acknowledged);
    told.read("one", 21, 30, "", true);
    check(&told, &["missing"]);
}

#[test]
fn a_client_that_goes_back_is_found_and_two_clients_are_not_one() {
    let told = two_pushes(Outcome::Acknowledged);
    told.read("one", 110, 120, "b", false);
    told.read("two", 130, 140, "a", false);
    check(&told, &[]);
    told.read("one", 150, 160, "a", false);
    check(&told, &["went back"]);
}

#[test]
fn a_client_may_go_back_only_with_a_mark() {
    let told = two_pushes(unknown());
    told.read("one", 110, 120, "b", true);
    told.read("one", 130, 140, "a", true);
    check(&told, &[]);
    told.read("one", 150, 160, "a", false);
    check(&told, &["went back"]);
}

#[test]
fn a_push_of_unknown_outcome_may_appear_at_any_time_and_then_stays() {
    let told = two_pushes(unknown());
    told.read("one", 210, 220, "a", false);
    told.read("two", 5000, 5010, "b", false);
    told.read("one", 5020, 5030, "a", false);
    check(&told, &[]);
    // Every proxy knows of it by now.
    told.read("one", 7100, 7110, "a", false);
    check(&told, &["went back"]);
}

#[test]
fn a_push_that_is_under_way_may_be_seen() {
    let told = Told(History::begin());
    let push = told.0.begins("t".into(), "a".into());
    let now = u64::try_from(told.0.now().as_millis()).unwrap();
    told.read("one", now + 1, now + 2, "a", false);
    told.read("two", now + 3, now + 4, "", false);
    check(&told, &[]);
    // So that it ends after those reads.
    std::thread::sleep(Duration::from_millis(20));
    told.0.ends(push, Outcome::Acknowledged, None);
    assert_eq!((told.0.tally().acknowledged, told.0.tally().unknown), (1, 0));
    told.read("two", now + 1000, now + 1001, "", false);
    check(&told, &["missing"]);
}

#[test]
fn what_was_never_pushed_or_refused_or_is_half_is_found() {
    let told = two_pushes(Outcome::Refused("503".into()));
    told.read("one", 210, 220, "c", false);
    told.read("one", 230, 240, "b", false);
    told.read("one", 250, 260, "half", true);
    told.read("two", 30, 40, "b", true);
    check(&told, &["was refused", "not pushed yet", "never pushed", "was refused", "half"]);
}

#[test]
fn a_position_that_goes_back_is_found() {
    let told = Told(History::begin());
    told.push_at("a", 10, 20, Outcome::Acknowledged, Some("1.9"));
    told.push_at("b", 30, 40, Outcome::Acknowledged, Some("1.10"));
    told.read_at("one", 41, 50, "b", false, Some("1.10"));
    check(&told, &[]);
    told.read_at("one", 51, 60, "b", false, Some("1.9"));
    told.push_at("c", 70, 80, Outcome::Acknowledged, Some("1.10"));
    check(&told, &["positions go back", "a position that is too old"]);
}

#[test]
fn a_history_that_cannot_be_checked_says_so() {
    let told = two_pushes(unknown());
    told.push("c", 300, 310, Outcome::Acknowledged);
    check(&told, &["pushes of one tag overlap"]);
    let told = two_pushes(Outcome::Acknowledged);
    told.push("c", 150, 250, Outcome::Acknowledged);
    check(&told, &["pushes of one tag overlap"]);
    let told = two_pushes(Outcome::Acknowledged);
    told.push("a", 300, 310, Outcome::Acknowledged);
    check(&told, &["pushed twice"]);
}

#[test]
fn what_a_tag_may_hold_at_the_end_is_the_newest_acknowledged_or_what_may_have_come_after() {
    let last = two_pushes(unknown()).0.last();
    assert_eq!(last["t"].iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b"]);
    let last = two_pushes(Outcome::Acknowledged).0.last();
    assert_eq!(last["t"].iter().map(String::as_str).collect::<Vec<_>>(), ["b"]);
}
