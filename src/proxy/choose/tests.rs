use ::http::Method;
use proptest::prelude::*;

use super::*;
use crate::{
    clock,
    config::proxy::Kind,
    health::{Found, verdict::Tracker},
    proxy::classify,
    wire::ready::Ready,
};

/// `+` up, `-` down, `?` unknown, `w` up without writes, `k` up and knows idempotency keys.
fn verdict(word: char) -> Arc<Verdict> {
    let mut tracker = Tracker::new(1, 1, clock::now(), clock::wall());
    let good = |ready| Found::Good { seen: "200".into(), ready: Some(ready) };
    let found = match word {
        '?' => return Arc::new(tracker.verdict().clone()),
        '-' => Found::Bad { why: "connect refused".into() },
        'w' => {
            good(Ready { ready: true, write: Some(false), why: vec!["disk full".into()], ..Ready::default() })
        }
        'k' => good(Ready { ready: true, supports: vec!["idempotency-key".into()], ..Ready::default() }),
        _ => good(Ready { ready: true, ..Ready::default() }),
    };
    tracker.record(found, clock::now(), clock::wall());
    Arc::new(tracker.verdict().clone())
}

struct Case {
    names: Vec<UpstreamName>,
    words: Vec<char>,
    want: Want,
    tried: Tried,
    desperate: bool,
}

fn case(words: &str, line: &str) -> Case {
    let (method, path) = line.split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    Case {
        names: (0..words.len()).map(|at| UpstreamName::parse(format!("u{at}")).unwrap()).collect(),
        words: words.chars().collect(),
        want: Want { route: classify::route(Kind::Controller, &method, path), writer: None, ability: None },
        tried: Tried::default(),
        desperate: false,
    }
}

impl Case {
    fn next(&self, turn: usize) -> Result<Chosen, NoneLeft> {
        let candidates: Vec<_> = self
            .names
            .iter()
            .zip(&self.words)
            .map(|(name, word)| Candidate { name, verdict: verdict(*word), outstanding: 0 })
            .collect();
        let draw = Draw { turn, chance: 0 };
        next(&candidates, &self.want, &self.tried, Balance::RoundRobin, self.desperate, draw)
    }

    fn places(&self) -> Vec<usize> {
        let mut seen: Vec<usize> = (0..12).filter_map(|turn| self.next(turn).ok()).map(|c| c.place).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }
}

const READ: &str = "GET /api/v1/vm";
const WRITE: &str = "POST /api/v1/vm";

#[test]
fn only_proven_upstreams_are_chosen() {
    assert_eq!(case("+-?+", READ).places(), [0, 3]);
    assert_eq!(case("?", READ).places(), [0; 0]);
}

#[test]
fn one_that_cannot_write_gets_reads_only() {
    assert_eq!(case("w+", READ).places(), [0, 1]);
    assert_eq!(case("w+", WRITE).places(), [1]);
}

#[test]
fn what_was_tried_is_avoided_and_asked_again_once_if_there_is_no_other() {
    let mut two = case("++", READ);
    two.tried.sent(0);
    assert_eq!(two.places(), [1]);
    two.tried.sent(1);
    let again = two.next(0).unwrap();
    assert_eq!(again.why, Why::Again);
    two.tried.sent(again.place);
    assert!(two.next(0).is_err());
}

#[test]
fn one_that_could_not_be_connected_to_is_not_asked_again_until_forgiven() {
    let mut one = case("+", READ);
    one.tried.refused(0);
    assert_eq!(one.next(0).unwrap_err().to_string(), "u0: tried already");
    one.tried.forgive();
    assert!(one.next(0).is_ok());
    assert!(!one.tried.sent_any());
}

#[test]
fn desperation_relaxes_probes_and_nothing_else() {
    let mut all = case("-?-", READ);
    assert!(all.places().is_empty());
    all.desperate = true;
    assert_eq!(all.places(), [0, 1, 2]);
    assert_eq!(all.next(0).unwrap().why, Why::Desperate);
    all.tried.refused(0);
    assert_eq!(all.places(), [1, 2]);
    // One passes its probes: the others stay out, even if that one was tried.
    let mut one = case("+--", READ);
    one.desperate = true;
    one.tried.refused(0);
    assert!(one.places().is_empty());
    // Its own word is not overruled.
    let mut mute = case("w", WRITE);
    mute.desperate = true;
    assert_eq!(mute.next(0).unwrap_err().0[0].1, Reason::Withheld("disk full".into()));
}

#[test]
fn the_writer_alone_will_do_when_it_is_asked_for() {
    let mut one = case("++", WRITE);
    one.want.writer = Some(1);
    assert_eq!(one.places(), [1]);
    assert_eq!(one.next(0).unwrap().why, Why::Writer);
    let mut down = case("+-", WRITE);
    down.want.writer = Some(1);
    assert_eq!(down.next(0).unwrap_err().to_string(), "u0: not the writer; u1: down, connect refused");
}

#[test]
fn a_repeat_under_a_key_goes_only_where_keys_are_known() {
    let mut one = case("+k", WRITE);
    one.want.ability = Some("idempotency-key");
    assert_eq!(one.places(), [1]);
}

#[test]
fn failing_is_reckoned_from_the_last_one_that_fell() {
    let now = clock::now();
    let names: Vec<UpstreamName> = ["a", "b"].map(|n| UpstreamName::parse(n).unwrap()).to_vec();
    let of = |words: &str| {
        let candidates: Vec<_> = names
            .iter()
            .zip(words.chars())
            .map(|(name, word)| Candidate { name, verdict: verdict(word), outstanding: 0 })
            .collect();
        failing_for(&candidates, &case("+", READ).want, now + Duration::from_secs(60))
    };
    assert!(of("--").unwrap() > Duration::from_secs(50));
    assert_eq!(of("-+"), None);
    assert_eq!(of("-?"), None);
}

proptest! {
    #[test]
    fn turns_reach_every_eligible_one_equally(words in "[+?-]{1,8}") {
        let case = case(&words, READ);
        let eligible = words.matches('+').count();
        let mut seen = vec![0; words.len()];
        for turn in 0..eligible * 3 {
            seen[case.next(turn).unwrap().place] += 1;
        }
        for (word, count) in words.chars().zip(seen) {
            prop_assert_eq!(count, if word == '+' { 3 } else { 0 });
        }
    }
}
