use proptest::prelude::*;

use super::*;
use crate::clock;

const RULES: Rules = Rules {
    failures: 3,
    ratio: 0.5,
    requests: 20,
    window: Duration::from_secs(10),
    first: Duration::from_secs(5),
    longest: Duration::from_secs(300),
    most: 0.5,
};

const GAP: Duration = Duration::from_millis(200);

/// A pool in a time of its own.
struct Case {
    pool: Pool,
    now: Instant,
    good: Vec<u64>,
    moved: Vec<u64>,
    up: Vec<bool>,
}

impl Case {
    fn of(members: usize) -> Self {
        Self::under(RULES, members)
    }

    fn under(rules: Rules, members: usize) -> Self {
        let now = clock::now();
        let mut pool = Pool::new(rules);
        assert!(pool.keep(rules, &vec![None; members], now).is_empty());
        Self { pool, now, good: vec![0; members], moved: vec![0; members], up: vec![true; members] }
    }

    fn tell(&mut self, place: usize, outcome: Outcome) -> Option<Change> {
        self.tell_of(place, outcome, self.now)
    }

    fn tell_of(&mut self, place: usize, outcome: Outcome, began: Instant) -> Option<Change> {
        match outcome {
            Outcome::Answered => self.good[place] += 1,
            Outcome::Moved => self.moved[place] += 1,
            Outcome::Failed(_) | Outcome::Stuck(_) => {}
        }
        let (good, moved, up) = (&self.good, &self.moved, &self.up);
        let seen = |at: usize| Seen { up: up[at], good: good[at], moved: moved[at] };
        self.pool.record(place, outcome, began, self.now, seen)
    }

    /// Each of these fails, and each other one answers; then time goes on.
    fn round(&mut self, failing: &[usize], failure: Failure) -> Vec<(usize, Change)> {
        let mut changes = Vec::new();
        for place in 0..self.good.len() {
            let failed = failing.contains(&place);
            let outcome = if failed { Outcome::Failed(failure) } else { Outcome::Answered };
            changes.extend(self.tell(place, outcome).map(|change| (place, change)));
        }
        self.now += GAP;
        changes
    }

    fn rounds(&mut self, count: usize, failing: &[usize]) -> Vec<(usize, Change)> {
        (0..count).flat_map(|_| self.round(failing, Failure::Status(500))).collect()
    }

    fn until(&self, place: usize) -> Instant {
        match self.pool.standing(place) {
            Some(Standing::Out(out)) => out.until,
            other => panic!("{other:?}"),
        }
    }

    fn is_out(&self, place: usize) -> bool {
        matches!(self.pool.standing(place), Some(Standing::Out(_)))
    }
}

fn ejected(lasts: u64, times: u32, count: Count, last: Failure) -> Change {
    Change::Ejected { lasts: Duration::from_secs(lasts), times, cause: Cause { count, last } }
}

#[test]
fn failures_in_a_row_eject_when_another_one_does_well() {
    let mut case = Case::of(3);
    let changes = case.rounds(3, &[1]);
    assert_eq!(changes, [(1, ejected(5, 1, Count::InARow(3), Failure::Status(500)))]);
    let cause = Cause { count: Count::InARow(3), last: Failure::TimedOut };
    assert_eq!(cause.to_string(), "3 failures in a row, the last: it took too long");
}

#[test]
fn an_answer_in_between_ends_the_row() {
    let mut case = Case::of(2);
    for _ in 0..20 {
        assert_eq!(case.rounds(2, &[0]), []);
        assert_eq!(case.rounds(3, &[]), []);
    }
}

#[test]
fn what_fails_everywhere_ejects_nobody() {
    let mut case = Case::of(4);
    case.rounds(5, &[]);
    assert_eq!(case.rounds(50, &[0, 1, 2, 3]), []);
    // One of them recovers: the others may be ejected, as many as may be out.
    let out: Vec<usize> = case.rounds(6, &[0, 1, 2]).into_iter().map(|(place, _)| place).collect();
    assert_eq!(out, [0, 1]);
}

#[test]
fn one_that_nobody_asked_is_no_better() {
    let mut case = Case::of(2);
    for _ in 0..30 {
        assert_eq!(case.tell(0, Outcome::Failed(Failure::Status(500))), None);
        case.now += GAP;
    }
    // Its probes fail: it is no better either, whatever it answers.
    case.up[1] = false;
    assert_eq!(case.rounds(10, &[0]), []);
    case.up[1] = true;
    assert_eq!(case.rounds(2, &[0]).len(), 1);
}

#[test]
fn a_part_of_many_ejects_as_well() {
    let mut case = Case::of(2);
    let mut changes = Vec::new();
    for round in 0..40 {
        changes.extend(case.round(if round % 2 == 0 { &[] } else { &[0] }, Failure::Status(502)));
    }
    let (_, Change::Ejected { cause, .. }) = changes[0] else { panic!("{changes:?}") };
    assert!(matches!(cause.count, Count::Of { all: 20.., .. }), "{cause}");
    let mut well = Case::of(2);
    for round in 0..200 {
        assert_eq!(well.round(if round % 3 == 0 { &[0] } else { &[] }, Failure::Status(502)), []);
    }
}

/// A transfer through each: its head, and what became of it. Small requests go well everywhere.
fn transfers(case: &mut Case, ends: &[Outcome]) -> Vec<(usize, Change)> {
    let mut changes = Vec::new();
    for (place, end) in ends.iter().enumerate() {
        for outcome in [Outcome::Answered, *end, Outcome::Answered] {
            changes.extend(case.tell(place, outcome).map(|change| (place, change)));
        }
    }
    case.now += GAP * 5;
    changes
}

const STUCK: Outcome = Outcome::Stuck(Failure::TooSlow);

#[test]
fn one_that_answers_every_head_and_brings_no_transfer_to_its_end_is_ejected() {
    let mut case = Case::of(2);
    let changes: Vec<_> = (0..3).flat_map(|_| transfers(&mut case, &[STUCK, Outcome::Moved])).collect();
    assert_eq!(changes, [(0, ejected(5, 1, Count::Transfers(3), Failure::TooSlow))]);
    let cause = Cause { count: Count::Transfers(3), last: Failure::TooSlow };
    assert_eq!(cause.to_string(), "3 transfers in a row failed, the last: it was too slow");

    // An answer ends the ejection, and the next transfer shows whether that was right.
    case.now = case.until(0);
    assert!(matches!(case.tell(0, Outcome::Answered), Some(Change::Back { .. })));
    case.now += GAP;
    transfers(&mut case, &[Outcome::Answered, Outcome::Moved]);
    assert_eq!(transfers(&mut case, &[STUCK, Outcome::Moved]).len(), 1);
    // One that goes through makes up for all of it.
    case.now = case.until(0);
    case.tell(0, Outcome::Answered).unwrap();
    case.now += GAP;
    transfers(&mut case, &[Outcome::Moved, Outcome::Moved]);
    assert_eq!(transfers(&mut case, &[STUCK, Outcome::Moved]), []);
}

#[test]
fn transfers_that_get_stuck_everywhere_or_now_and_then_eject_nobody() {
    // Heads are answered by both; nobody moves anything.
    let mut case = Case::of(2);
    for _ in 0..8 {
        assert_eq!(transfers(&mut case, &[STUCK, STUCK]), []);
    }
    // Nobody else was asked for a transfer.
    let mut case = Case::of(2);
    for _ in 0..8 {
        assert_eq!(transfers(&mut case, &[STUCK, Outcome::Answered]), []);
    }
    let mut case = Case::of(2);
    for round in 0..30 {
        let end = if round % 3 == 0 { Outcome::Moved } else { STUCK };
        assert_eq!(transfers(&mut case, &[end, Outcome::Moved]), []);
    }
    let mut case = Case::of(2);
    for _ in 0..10 {
        assert_eq!(transfers(&mut case, &[STUCK, Outcome::Moved]), []);
        case.now += ROW;
    }
}

#[test]
fn failures_of_connections_count_once_a_second() {
    let mut case = Case::of(2);
    for _ in 0..5000 {
        assert_eq!(case.tell(0, Outcome::Failed(Failure::Closed)), None);
    }
    // 200 ms apart: the fourth second begins with the third that counts.
    let changes: Vec<_> = (0..20).flat_map(|_| case.round(&[0], Failure::Connect)).collect();
    assert_eq!(changes, [(0, ejected(5, 1, Count::InARow(3), Failure::Connect))]);
}

#[test]
fn it_comes_back_through_one_trial_at_a_time() {
    let mut case = Case::of(2);
    case.rounds(3, &[0]);
    assert_eq!(case.pool.try_one(0, case.now), None);
    case.now = case.until(0);
    let number = case.pool.try_one(0, case.now).unwrap();
    assert_eq!(case.pool.try_one(0, case.now), None);
    assert_eq!(case.pool.try_one(1, case.now), None, "one that is in needs none");
    // Its client has closed: that says nothing, and the next one may go.
    case.pool.trial_over(0, number, case.now);
    let number = case.pool.try_one(0, case.now).unwrap();
    // One that takes hours does not keep the others away for ever, and its end is not theirs.
    case.now += TRIAL;
    assert!(case.pool.try_one(0, case.now).is_some());
    case.pool.trial_over(0, number, case.now);
    assert_eq!(case.pool.try_one(0, case.now), None);
    // What was sent before the time was over says nothing.
    let before = case.until(0) - GAP;
    assert_eq!(case.tell_of(0, Outcome::Answered, before), None);
    assert_eq!(case.tell_of(0, Outcome::Failed(Failure::TimedOut), before), None);
    let out = case.now - (case.until(0) - RULES.first);
    assert_eq!(case.tell(0, Outcome::Answered), Some(Change::Back { out }));
    // Nor does what was sent before it came back.
    for _ in 0..10 {
        assert_eq!(case.tell_of(0, Outcome::Failed(Failure::TimedOut), before), None);
    }
    assert_eq!(case.pool.standing(0), Some(Standing::In { back: Some(case.now), failures: 0, times: 1 }));
}

#[test]
fn each_ejection_is_twice_as_long_and_health_makes_up_for_it() {
    let mut case = Case::of(2);
    case.rounds(3, &[0]);
    for lasts in [10, 20, 40, 80, 160, 300, 300] {
        case.now = case.until(0);
        case.pool.try_one(0, case.now).unwrap();
        let change = case.tell(0, Outcome::Failed(Failure::TimedOut)).unwrap();
        let Change::Ejected { lasts: took, cause, .. } = change else { panic!("{change:?}") };
        assert_eq!((took.as_secs(), cause.count), (lasts, Count::Trial));
    }
    case.now = case.until(0);
    case.tell(0, Outcome::Answered).unwrap();
    // 160, 80 and 40 s of health are three steps, and what is left is none.
    case.now += Duration::from_secs(160 + 80 + 40 + 19);
    let lasts = |case: &mut Case| match case.rounds(3, &[0])[..] {
        [(0, Change::Ejected { lasts, .. })] => lasts.as_secs(),
        ref other => panic!("{other:?}"),
    };
    assert_eq!(lasts(&mut case), 40);
    case.now = case.until(0);
    case.tell(0, Outcome::Answered).unwrap();
    case.now += Duration::from_secs(3600);
    assert_eq!(lasts(&mut case), 5);
}

#[test]
fn so_many_may_be_out_and_never_the_last_one() {
    let may = |most, of| Rules { most, ..RULES }.may_be_out(of);
    assert_eq!([1, 2, 3, 4, 5, 10].map(|of| may(0.5, of)), [0, 1, 1, 2, 2, 5]);
    assert_eq!([1, 2, 3, 10].map(|of| may(1.0, of)), [0, 1, 2, 9]);
    assert_eq!([1, 2, 3, 10].map(|of| may(0.1, of)), [0, 1, 1, 1]);
    assert_eq!([0, 1, 2, 10].map(|of| may(0.0, of)), [0; 4]);
    let mut case = Case::under(Rules { most: 0.0, ..RULES }, 3);
    assert_eq!(case.rounds(30, &[0]), []);
}

#[test]
fn a_pool_that_changes_keeps_what_it_knows_and_lets_in_whom_it_must() {
    let mut case = Case::of(4);
    case.rounds(3, &[1, 3]);
    assert!(case.is_out(1) && case.is_out(3));
    case.now += GAP;
    // 0 is gone, 1 and 3 have changed places: of three only one may be out, and the first in was the first out.
    let back = case.pool.keep(RULES, &[Some(3), Some(1), Some(2)], case.now);
    assert_eq!(back.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0]);
    assert!(!case.is_out(0) && case.is_out(1));
    let back = case.pool.keep(Rules { most: 0.0, ..RULES }, &[Some(0), Some(1), None], case.now);
    assert_eq!(back.len(), 1);
    assert_eq!(case.pool.out(), 0);
}

#[test]
fn what_is_handed_on_goes_on_where_it_was() {
    let mut before = Case::of(3);
    before.rounds(3, &[1]);
    let standing = before.pool.standing(1).unwrap();
    let mut after = Case::of(3);
    after.pool.hand(1, standing);
    assert_eq!(after.pool.standing(1), Some(standing));
    // There is room for one only.
    after.pool.hand(2, standing);
    assert!(!after.is_out(2));
    after.pool.hand(0, Standing::In { back: Some(after.now), failures: 0, times: 3 });
    assert_eq!(after.pool.standing(0), Some(Standing::In { back: Some(after.now), failures: 0, times: 3 }));
}

proptest! {
    /// Whatever happens: never more are out than may be, and none is out again before its time.
    #[test]
    fn the_pool_is_never_emptied_and_nobody_flaps(
        members in 1usize..8,
        most in 0.0f64..=1.0,
        steps in prop::collection::vec((0usize..8, 0usize..11, 0u64..4000), 1..400),
    ) {
        let mut case = Case::under(Rules { most, ..RULES }, members);
        let mut until: Vec<Option<Instant>> = vec![None; members];
        for (place, what, gap) in steps {
            let place = place % members;
            case.now += Duration::from_millis(gap);
            let outcome = match what {
                0 => Outcome::Failed(Failure::Connect),
                1..4 => Outcome::Failed(Failure::TimedOut),
                4 => { case.up[place] = !case.up[place]; continue }
                5 => { case.pool.try_one(place, case.now); continue }
                6..8 => Outcome::Stuck(Failure::TooSlow),
                8 => Outcome::Moved,
                _ => Outcome::Answered,
            };
            let others = (0..members).any(|at| at != place && case.up[at] && !case.is_out(at));
            let was_out = case.is_out(place);
            match case.tell(place, outcome) {
                Some(Change::Ejected { lasts, .. }) => {
                    prop_assert!(until[place].is_none_or(|until| case.now >= until));
                    prop_assert!(was_out || others);
                    until[place] = Some(case.now + lasts);
                }
                Some(Change::Back { .. }) => prop_assert!(until[place].is_some_and(|until| case.now >= until)),
                None => {}
            }
            prop_assert!(case.pool.out() <= case.pool.rules().may_be_out(members));
            prop_assert!(case.pool.out() < members);
        }
    }
}
