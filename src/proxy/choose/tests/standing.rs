//! What is said of each upstream is what the choice goes by.

use super::*;
use crate::proxy::{lane::Lane, room::Bound};

const WAYS: [Balance; 3] = [Balance::RoundRobin, Balance::LeastRequests, Balance::PeakEwma];

fn candidates<'a>(words: &[char], names: &'a [UpstreamName], verdicts: &'a [Verdict]) -> Vec<Candidate<'a>> {
    let of = |((name, verdict), word): ((&'a UpstreamName, &'a Verdict), &char)| {
        let mut candidate = Candidate { out: out(*word), ..Candidate::plain(name, verdict) };
        match word {
            // Full, and ejected and full.
            'f' => (candidate.most, candidate.outstanding) = (Some(3), 3),
            'F' => (candidate.most, candidate.outstanding, candidate.out) = (Some(3), 3, Out::Ejected),
            'b' => candidate.bound = Some(Bound::Pending(1)),
            'q' => candidate.bound = Some(Bound::Queue(Some(Lane::Control))),
            'a' => candidate.apart = true,
            _ => {}
        }
        candidate
    };
    names.iter().zip(verdicts).zip(words).map(of).collect()
}

fn names(count: usize) -> Vec<UpstreamName> {
    (0..count).map(|at| UpstreamName::parse(format!("u{at}")).unwrap()).collect()
}

#[test]
fn in_panic_one_that_is_full_is_not_told_to_be_ejected() {
    // Of four that are ejected none counts as left.
    let words: Vec<char> = "FFFF".chars().collect();
    let (names, verdicts) = (names(4), vec![verdict('+'); 4]);
    let all = candidates(&words, &names, &verdicts);
    let want = case("+", READ).want;
    let draw = Draw { turn: 0, chance: 0 };
    let none = next(&all, &want, &Tried::default(), Balance::RoundRobin, false, draw).unwrap_err();
    assert!(none.upstreams.iter().all(|(_, reason)| *reason == Reason::Full { most: 3 }), "{none}");
    assert!(none.is_full(), "it is called when there is room");
    // Where ejections count, they are what is in the way, until the hold is over.
    let heeding = Want { panic_threshold: 0.0, ..want };
    let none = next(&all, &heeding, &Tried::default(), Balance::RoundRobin, false, draw).unwrap_err();
    assert!(none.upstreams.iter().all(|(_, reason)| *reason == Reason::Ejected), "{none}");
    let none = next(&all, &heeding, &Tried::default(), Balance::RoundRobin, true, draw).unwrap_err();
    assert!(none.is_full(), "{none}");
}

#[test]
fn one_that_could_take_it_while_a_better_one_is_waited_for_is_not_told_to_be_tried() {
    let mut lagging = case_of(Kind::Registry, "++", "GET /v2/a/manifests/x");
    lagging.want.writer = Some(0);
    lagging.want.fresh =
        Some(Fresh { lease: true, stale: crate::config::proxy::StaleReads::WriterLost, listing: false });
    let (needed, has) = (Position { epoch: 1, seq: 2 }, Position { epoch: 1, seq: 1 });
    lagging.standings[1] = Standing::Behind { needed, has, patience: Duration::from_secs(1) };
    let none = lagging.next(0).unwrap_err();
    assert_eq!(
        none.to_string(),
        "u0: could take it, a better one is waited for; u1: has 1.1, and 1.2 is needed"
    );
}

proptest! {
    #[test]
    fn who_is_chosen_could_take_it_and_who_could_not_is_never_chosen(
        words in "[-+?wxtfFbqak]{1,10}",
        write: bool,
        sent in prop::collection::vec(0usize..10, 0..3),
        refused in prop::collection::vec(0usize..10, 0..3),
        absent in prop::collection::vec(0usize..10, 0..2),
        threshold in prop_oneof![Just(0.0), Just(0.3)],
        key in prop::option::of(0usize..10),
        desperate: bool,
        turn in 0usize..100,
    ) {
        let words: Vec<char> = words.chars().collect();
        let (names, verdicts) = (names(words.len()), words.iter().map(|word| verdict(*word)).collect::<Vec<_>>());
        let all = candidates(&words, &names, &verdicts);
        let affinity = key.map_or(Affinity::Free, |key| Affinity::Stick(By::Header, key as u64));
        let want = Want { panic_threshold: threshold, affinity, ..case("+", if write { WRITE } else { READ }).want };
        let mut tried = Tried::default();
        sent.iter().for_each(|place| tried.sent(*place));
        refused.iter().for_each(|place| tried.refused(*place));
        absent.iter().for_each(|place| tried.absent(*place));
        for how in WAYS {
            let draw = Draw { turn, chance: turn as u64 * 7919 };
            let each = each(&all, &want, &tried, desperate);
            match next(&all, &want, &tried, how, desperate, draw) {
                Ok(chosen) => {
                    let told = &each[chosen.place];
                    let brief = chosen.stood[chosen.place];
                    prop_assert_eq!(chosen.stood.len(), all.len());
                    match chosen.why {
                        Why::Again => prop_assert_eq!(told, &Err(Reason::Tried)),
                        Why::Desperate => prop_assert!(matches!(told, Err(Reason::Down(_) | Reason::Unknown))),
                        Why::Panic => prop_assert!(told.is_ok()),
                        _ => prop_assert!(told.is_ok() && brief.is_able(), "{told:?} {brief:?}"),
                    }
                    for (brief, told) in chosen.stood.iter().zip(&each) {
                        match told {
                            Ok(rank) => prop_assert!(*brief == Brief::Able(*rank) || desperate),
                            Err(reason) => prop_assert!(*brief == reason.brief() || desperate),
                        }
                    }
                }
                Err(none) => {
                    prop_assert_eq!(none.upstreams.len(), all.len());
                    for ((_, reason), told) in none.upstreams.iter().zip(each) {
                        prop_assert_eq!(reason, &told.err().unwrap_or(Reason::Able));
                    }
                }
            }
        }
    }

    #[test]
    fn every_one_that_could_take_it_is_chosen_at_some_turn(words in "[-+?wxfbqak]{1,8}") {
        let words: Vec<char> = words.chars().collect();
        let (names, verdicts) = (names(words.len()), words.iter().map(|word| verdict(*word)).collect::<Vec<_>>());
        let all = candidates(&words, &names, &verdicts);
        let (want, tried) = (case("+", READ).want, Tried::default());
        let each = each(&all, &want, &tried, false);
        let mut seen = vec![false; all.len()];
        for turn in 0..all.len() * 4 {
            if let Ok(chosen) = next(&all, &want, &tried, Balance::RoundRobin, false, Draw { turn, chance: 0 }) {
                seen[chosen.place] = true;
            }
        }
        for (told, seen) in each.iter().zip(seen) {
            prop_assert_eq!(told.is_ok(), seen);
        }
    }
}
