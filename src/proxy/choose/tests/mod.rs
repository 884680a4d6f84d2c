use ::http::Method;
use proptest::prelude::*;

use super::*;

mod picking;
mod standing;

use crate::{
    clock,
    config::proxy::Kind,
    health::{Found, Verdict, verdict::Tracker},
    model::{Position, UpstreamName},
    proxy::classify,
    wire::ready::Ready,
};

/// `+` up, `-` down, `?` unknown, `w` up without writes, `k` up and knows idempotency keys, `d` up and drained by an operator.
fn verdict(word: char) -> Verdict {
    let mut tracker = Tracker::new(1, 1, clock::now(), clock::wall());
    let good = |ready| Found::Good { seen: "200".into(), ready: Some(ready) };
    let found = match word {
        '?' => return tracker.verdict().clone(),
        '-' => Found::Bad { why: "connect refused".into() },
        'w' => {
            good(Ready { ready: true, write: Some(false), why: vec!["disk full".into()], ..Ready::default() })
        }
        'k' => good(Ready { ready: true, supports: vec!["idempotency-key".into()], ..Ready::default() }),
        _ => good(Ready { ready: true, ..Ready::default() }),
    };
    tracker.record(found, clock::now(), clock::wall());
    tracker.verdict().clone()
}

/// `x` up and ejected, `t` up and waiting for its trial.
fn out(word: char) -> Out {
    match word {
        'x' => Out::Ejected,
        't' => Out::Trial,
        _ => Out::In,
    }
}

struct Case {
    names: Vec<UpstreamName>,
    words: Vec<char>,
    standings: Vec<Standing>,
    want: Want,
    tried: Tried,
    desperate: bool,
}

fn case(words: &str, line: &str) -> Case {
    case_of(Kind::Controller, words, line)
}

fn case_of(kind: Kind, words: &str, line: &str) -> Case {
    let (method, path) = line.split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    Case {
        names: (0..words.len()).map(|at| UpstreamName::parse(format!("u{at}")).unwrap()).collect(),
        words: words.chars().collect(),
        standings: vec![Standing::Unclaimed; words.len()],
        want: Want::plain(classify::route(kind, &method, path)),
        tried: Tried::default(),
        desperate: false,
    }
}

impl Case {
    fn next(&self, turn: usize) -> Result<Chosen, NoneLeft> {
        let verdicts: Vec<_> = self.words.iter().map(|word| verdict(*word)).collect();
        let candidates: Vec<_> = self
            .names
            .iter()
            .zip(&verdicts)
            .zip(&self.standings)
            .zip(&self.words)
            .map(|(((name, verdict), standing), word)| Candidate {
                out: out(*word),
                drained: *word == 'd',
                standing: *standing,
                ..Candidate::plain(name, verdict)
            })
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
const PUT: &str = "PUT /v2/a/manifests/x";

#[test]
fn only_proven_upstreams_are_chosen() {
    assert_eq!(case("+-?+", READ).places(), [0, 3]);
    assert_eq!(case("?", READ).places(), [0; 0]);
}

#[test]
fn one_that_is_drained_takes_only_what_has_begun_there() {
    let mut drained = case("d++", READ);
    assert_eq!(drained.places(), [1, 2]);
    drained.want.rather = Some(0);
    assert_eq!(drained.places(), [0]);
    assert_eq!(drained.next(0).unwrap().why, Why::Belongs);
    let mut session = case_of(Kind::Registry, "d+", "PATCH /v2/a/blobs/uploads/x");
    session.want.only = Some(0);
    assert_eq!(session.places(), [0]);
    session.want.only = Some(1);
    assert_eq!(session.places(), [1]);
    // Nothing relaxes it.
    let mut last = case("d-", READ);
    last.desperate = true;
    assert_eq!(last.places(), [1]);
    let mut alone = case("d", READ);
    alone.desperate = true;
    assert_eq!(alone.next(0).unwrap_err().to_string(), "u0: drained by an operator");
}

#[test]
fn one_that_is_drained_is_no_part_of_the_pool_that_panics() {
    // One of two that are left is ejected: half of them are well, and the ejection counts.
    assert_eq!(case("dddddx+", READ).places(), [6]);
}

#[test]
fn the_writer_that_is_drained_gets_no_pushes_and_replicas_go_on() {
    let mut push = case_of(Kind::Registry, "d+", PUT);
    push.want.writer = Some(0);
    assert!(push.places().is_empty());
    let mut read = case_of(Kind::Registry, "d+", "GET /v2/a/manifests/x");
    read.want.writer = Some(0);
    assert_eq!(read.places(), [1]);
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
    one.tried.forgive_older();
    assert!(one.next(0).is_err());
    one.tried.forgive_refused();
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
    assert_eq!(mute.next(0).unwrap_err().upstreams[0].1, Reason::Withheld("disk full".into()));
}

#[test]
fn the_ejected_take_nothing_unless_too_few_others_are_left() {
    assert_eq!(case("++x", READ).places(), [0, 1]);
    assert_eq!(case("+xx", READ).places(), [0]);
    let panic = case("+xxx", READ);
    assert_eq!(panic.places(), [0, 1, 2, 3]);
    assert_eq!([0, 1].map(|turn| panic.next(turn).unwrap().why == Why::Panic), [false, true]);
    assert_eq!(case("--x", READ).places(), [2]);
    // Those that cannot do it are none that are left.
    assert_eq!(case("wwwx", WRITE).places(), [3]);
    let mut never = case("-x", READ);
    never.want.panic_threshold = 0.0;
    let none = never.next(0).unwrap_err();
    assert_eq!(none.to_string(), "u0: down, connect refused; u1: ejected, too many requests failed there");
    never.desperate = true;
    assert_eq!((never.places(), never.next(0).unwrap().why), (vec![1], Why::Panic));
}

#[test]
fn panic_relaxes_ejections_and_nothing_else() {
    let writer = |words| {
        let mut case = case_of(Kind::Registry, words, PUT);
        case.want.writer = Some(1);
        case
    };
    assert_eq!(writer("+x+").places(), [1]);
    assert_eq!(writer("+-+").places(), [0; 0]);
    assert_eq!(case("x-", READ).places(), [0]);
    assert_eq!(case("xw", WRITE).places(), [0]);
}

#[test]
fn one_whose_ejection_is_over_takes_a_trial() {
    let trial = case("+t", READ);
    assert_eq!((trial.places(), trial.next(1).unwrap().why), (vec![0, 1], Why::Trial));
    // It does not count as one that is left.
    assert_eq!(case("tx", READ).places(), [0, 1]);
}

#[test]
fn the_writer_alone_will_do_when_it_is_asked_for() {
    let mut one = case_of(Kind::Registry, "++", PUT);
    one.want.writer = Some(1);
    assert_eq!(one.places(), [1]);
    assert_eq!(one.next(0).unwrap().why, Why::Writer);
    let mut down = case_of(Kind::Registry, "+-", PUT);
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
        let verdicts: Vec<_> = words.chars().map(verdict).collect();
        let candidates: Vec<_> =
            names.iter().zip(&verdicts).map(|(name, verdict)| Candidate::plain(name, verdict)).collect();
        failing_for(&candidates, &case("+", READ).want, &Tried::default(), now + Duration::from_secs(60))
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

/// The rules of `docs/replication.md`, on a service whose first upstream is the writer.
mod freshness {
    use super::*;
    use crate::config::proxy::StaleReads;

    const TAG: &str = "GET /v2/a/manifests/x";
    const BLOB: &str = "GET /v2/a/blobs/sha256:1";
    const BLOB_HEAD: &str = "HEAD /v2/a/blobs/sha256:1";
    const PING: &str = "GET /v2/";

    fn at(seq: u64) -> Position {
        Position { epoch: 1, seq }
    }

    /// What registries have, 5 being needed: `5` and more are fresh, less are behind, `.` claims nothing, `f` has
    /// another history.
    fn registries(words: &str, has: &str, line: &str) -> Case {
        let mut case = case_of(Kind::Registry, words, line);
        let standing = |word: char| match word.to_digit(10) {
            None if word == 'f' => Standing::Foreign,
            None => Standing::Unclaimed,
            Some(has) if has >= 5 => Standing::Fresh { has: at(has.into()) },
            Some(has) => {
                Standing::Behind { needed: at(5), has: at(has.into()), patience: Duration::from_millis(300) }
            }
        };
        case.standings = has.chars().map(standing).collect();
        case.want.writer = Some(0);
        case.want.fresh = Some(Fresh { lease: true, stale: StaleReads::WriterLost, listing: false });
        case
    }

    impl Case {
        fn without_lease(mut self) -> Self {
            self.want.fresh = self.want.fresh.map(|fresh| Fresh { lease: false, ..fresh });
            self
        }

        fn stale(mut self, stale: StaleReads) -> Self {
            self.want.fresh = self.want.fresh.map(|fresh| Fresh { stale, ..fresh });
            self
        }

        fn write_only(mut self) -> Self {
            self.want.write_only = true;
            self
        }

        fn waited(mut self) -> Self {
            for standing in &mut self.standings {
                if let Standing::Behind { patience, .. } = standing {
                    *patience = Duration::ZERO;
                }
            }
            self
        }

        fn why(&self) -> Why {
            self.next(0).unwrap().why
        }
    }

    #[test]
    fn fresh_replicas_are_preferred_to_the_writer() {
        let case = registries("+++", "955", TAG);
        assert_eq!(case.places(), [1, 2]);
        assert_eq!(registries("+++", "954", TAG).places(), [1]);
    }

    #[test]
    fn a_lagging_replica_is_waited_for_and_then_the_writer_is_asked() {
        let case = registries("+++", "944", TAG);
        assert_eq!(case.next(0).unwrap_err().wait, Some(Duration::from_millis(300)));
        let case = case.waited();
        assert_eq!((case.places(), case.why()), (vec![0], Why::NoneFresh));
        // One that is down cannot catch up, nor one that is not there.
        for (words, has) in [("+--", "944"), ("+++", "9.."), ("+", "9")] {
            assert_eq!(registries(words, has, TAG).places(), [0], "{words}");
        }
    }

    #[test]
    fn nothing_is_waited_for_once_something_was_sent() {
        let mut case = registries("+++", "954", TAG);
        case.tried.sent(1);
        assert_eq!(case.places(), [0]);
    }

    #[test]
    fn without_a_lease_only_the_writer_is_asked() {
        let case = registries("+++", "999", TAG).without_lease();
        assert_eq!((case.places(), case.why()), (vec![0], Why::NoLease));
        let none = registries("?++", "999", TAG).without_lease().next(0).unwrap_err();
        assert!(none.is_unfresh() && !none.is_settled() && none.wait.is_none(), "{none}");
    }

    #[test]
    fn a_write_only_writer_is_asked_for_no_reads() {
        let case = registries("+++", "944", TAG).write_only().waited();
        let none = case.next(0).unwrap_err();
        assert_eq!(
            none.to_string(),
            "u0: write-only; u1: has 1.4, and 1.5 is needed; u2: has 1.4, and 1.5 is needed"
        );
        assert!(none.is_settled() && none.is_unfresh());
        assert_eq!(registries("+++", "955", BLOB).write_only().places(), [1, 2]);
        // A blob that nobody has copied yet is there all the same.
        assert_eq!(registries("+--", "955", BLOB).write_only().places(), [0]);
        // A push begins with these.
        assert_eq!(registries("+++", "955", BLOB_HEAD).write_only().places(), [0]);
        assert_eq!(registries("+--", "955", PING).write_only().places(), [0]);
    }

    #[test]
    fn with_the_writer_lost_the_replica_that_has_come_furthest_answers_marked() {
        let case = registries("-+++", "9384", TAG).without_lease();
        assert_eq!((case.places(), case.why()), (vec![2], Why::Stale(Stale::Unknown)));
        assert_eq!(case.next(0).unwrap().rank, Rank::Stale(Stale::Unknown));
        let never = registries("-+++", "9384", TAG).without_lease().stale(StaleReads::Never);
        assert!(never.next(0).unwrap_err().is_unfresh());
        // One found out by this request counts as lost, whatever the probes say.
        let mut found = registries("+++", "938", TAG).without_lease();
        found.tried.refused(0);
        assert_eq!(found.places(), [2]);
        let mut frozen = registries("+++", "938", TAG).without_lease();
        frozen.tried.sent(0);
        assert_eq!(frozen.places(), [2]);
        // One that answers is there, whatever it answers.
        frozen.tried.answered(0);
        assert_eq!(frozen.why(), Why::Again);
    }

    #[test]
    fn with_the_writer_lost_one_that_claims_nothing_answers_marked_if_nobody_claims_anything() {
        let case = registries("-++", "9..", TAG).without_lease();
        assert_eq!((case.places(), case.why()), (vec![1, 2], Why::Stale(Stale::Unknown)));
        assert_eq!(registries("-++", "9.3", TAG).without_lease().places(), [2]);
        let never = registries("-++", "9..", TAG).without_lease().stale(StaleReads::Never);
        assert!(never.next(0).is_err());
        // While the lease goes on, or the writer answers, it may miss what was acknowledged.
        assert!(registries("-++", "9..", TAG).next(0).is_err());
        assert_eq!(registries("+++", "9..", TAG).without_lease().places(), [0]);
        let none = registries("-++", "9ff", TAG).without_lease().next(0).unwrap_err();
        assert!(none.to_string().contains("u1: its history is not the writer's"), "{none}");
    }

    #[test]
    fn a_writer_that_is_none_any_more_is_to_reads_what_a_replica_is() {
        let deposed = |words, has, line| {
            let mut case = registries(words, has, line).without_lease();
            case.want.deposed = true;
            case
        };
        let case = deposed("+++", "789", TAG);
        assert_eq!((case.places(), case.why()), (vec![2], Why::Stale(Stale::Unknown)));
        let itself = deposed("+++", "978", TAG);
        assert_eq!((itself.places(), itself.why()), (vec![0], Why::Stale(Stale::Unknown)));
        assert!(deposed("+++", "978", TAG).stale(StaleReads::Never).next(0).is_err());
        assert_eq!(deposed("+++", "978", TAG).write_only().places(), [2]);
        // Changes still go where they are configured to go; it refuses them itself.
        assert_eq!(deposed("+++", "978", PUT).places(), [0]);
        let mut head = deposed("+++", "978", BLOB_HEAD);
        assert_eq!(head.places(), [0]);
        head.tried.absent(0);
        assert_eq!(head.places(), [1, 2]);
    }

    #[test]
    fn panic_does_not_relax_freshness() {
        let mut case = registries("+xx", "95.", TAG);
        assert_eq!(case.places(), [0], "one of three is left, and it is the writer");
        case.want.panic_threshold = 0.5;
        assert_eq!(case.places(), [1]);
        // An ejected writer is no lost one.
        case.words = "x++".chars().collect();
        case.standings[1] = Standing::Foreign;
        assert_eq!((case.places(), case.why()), (vec![0], Why::Panic));
    }

    #[test]
    fn a_lease_outlives_the_writer_for_a_moment() {
        assert_eq!(registries("-++", "954", TAG).places(), [1]);
        let none = registries("-++", "944", TAG).waited().next(0).unwrap_err();
        assert!(none.is_unfresh() && !none.is_settled());
    }

    #[test]
    fn lagging_replicas_answer_when_that_is_allowed_and_nobody_else_will() {
        let allow = |words, has| registries(words, has, TAG).stale(StaleReads::Allow).waited();
        assert_eq!(allow("+++", "934").places(), [0]);
        let marked = allow("+++", "934").write_only();
        assert_eq!((marked.places(), marked.why()), (vec![2], Why::Stale(Stale::Behind)));
        assert_eq!(allow("-++", "934").places(), [2]);
        let unknown = allow("+++", "938").write_only().without_lease();
        assert_eq!((unknown.places(), unknown.why()), (vec![2], Why::Stale(Stale::Unknown)));
        let first = registries("+++", "934", TAG).stale(StaleReads::Allow).write_only();
        assert!(first.next(0).unwrap_err().wait.is_some());
    }

    #[test]
    fn a_blob_is_asked_for_everywhere_once_and_at_the_writer_last() {
        let mut case = registries("+++", "9.4", BLOB).without_lease();
        assert_eq!(case.places(), [1, 2]);
        case.tried.sent(1);
        case.tried.absent(1);
        assert_eq!(case.places(), [2]);
        case.tried.sent(2);
        case.tried.absent(2);
        assert_eq!((case.places(), case.why()), (vec![0], Why::WriterLast));
        case.words[0] = '-';
        let none = case.next(0).unwrap_err();
        assert!(!none.is_settled());
        assert_eq!(none.to_string(), "u0: down, connect refused; u1: does not have it; u2: does not have it");
    }

    #[test]
    fn a_question_for_a_blob_goes_to_a_replica_only_without_the_writer() {
        assert_eq!(registries("+++", "955", BLOB_HEAD).places(), [0]);
        let lost = registries("-++", "9.5", BLOB_HEAD);
        assert_eq!((lost.places(), lost.why()), (vec![1, 2], Why::WriterLost));
    }

    #[test]
    fn changes_go_to_the_writer_and_sessions_to_their_registry() {
        assert_eq!(registries("-++", "999", PUT).places(), [0; 0]);
        let mut session = registries("+++", "999", "PATCH /v2/a/blobs/uploads/r3.u");
        assert_eq!(session.places(), [0]);
        session.want.only = Some(2);
        assert_eq!((session.places(), session.why()), (vec![2], Why::Session));
        session.words[2] = '-';
        session.desperate = true;
        assert_eq!(session.places(), [2]);
        session.tried.refused(2);
        assert!(session.next(0).is_err(), "it is never sent to another");
    }

    #[test]
    fn an_answer_that_was_too_old_bars_its_registry_for_a_while() {
        let mut case = registries("+++", "955", TAG);
        case.tried.sent(1);
        case.tried.older(1);
        assert_eq!(case.places(), [2]);
        assert!(!case.tried.sent_any());
        case.tried.forgive_older();
        assert_eq!(case.places(), [1, 2]);
    }

    proptest! {
        /// Desperation, chance and turns never lead a read to one that may miss something without a mark.
        #[test]
        fn no_read_goes_unmarked_to_one_that_may_be_behind(
            words in "[+?xt-]{4}",
            has in "9[3-7.f]{3}",
            bits in 0u32..64,
            stale in 0usize..3,
            turn in 0usize..8,
        ) {
            let bit = |n: u32| bits & (1 << n) != 0;
            let stale = [StaleReads::WriterLost, StaleReads::Never, StaleReads::Allow][stale];
            let mut case = registries(&words, &has, TAG).stale(stale);
            case.want.fresh = Some(Fresh { lease: bit(0), stale, listing: false });
            case.want.write_only = bit(1);
            case.desperate = bit(2);
            if bit(3) {
                case.tried.refused(0);
            }
            case.want.deposed = bit(5);
            if bit(4) {
                case = case.waited();
            }
            if let Ok(chosen) = case.next(turn) {
                let fresh = matches!(case.standings[chosen.place], Standing::Fresh { .. });
                let marked = matches!(chosen.rank, Rank::Stale(_));
                prop_assert!(marked || (chosen.place == 0 && !bit(5)) || (bit(0) && fresh));
                prop_assert!(case.standings[chosen.place] != Standing::Foreign);
                prop_assert!(!marked || stale != StaleReads::Never);
                prop_assert!(chosen.place != 0 || !bit(1));
            }
        }
    }
}
