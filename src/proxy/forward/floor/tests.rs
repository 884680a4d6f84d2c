use proptest::prelude::*;

use super::*;
use crate::clock;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const FLOOR: Floor = Floor { rate: 1000, window: Duration::from_secs(60) };
const IDLE: Duration = Duration::from_secs(60);

/// A transfer that is polled as the engine does it: whenever something moves, and when the meter asks for it.
struct Transfer {
    meter: Meter,
    now: Instant,
    moved: Moved,
    /// Written and not acknowledged, as the system says.
    queued: Option<u64>,
    began: Instant,
    moves: u32,
}

impl Transfer {
    fn new(floor: Floor, idle: Duration) -> Self {
        let now = clock::now();
        // Counters may begin anywhere.
        let moved = Moved { from: u64::MAX - 500, to: 77 };
        let mut meter = Meter::new(floor, idle);
        meter.begin(moved);
        Self { meter, now, moved, queued: Some(0), began: now, moves: 0 }
    }

    fn note(&mut self, waits: Option<Side>) -> Option<Side> {
        match self.meter.note(self.now, self.moved, waits, || self.queued) {
            Noted::Fine => None,
            Noted::Moves => {
                self.moves += 1;
                None
            }
            Noted::Slow(side) => Some(side),
        }
    }

    /// So long passes; whoever is waited for is looked at when the meter wants it. The side that is too slow, if one is.
    fn wait(&mut self, time: Duration, waits: Option<Side>) -> Option<Side> {
        let until = self.now + time;
        while let Some(look) = self.meter.look_at().filter(|look| *look <= until) {
            assert!(look > self.now, "it asks to be looked at in the past");
            self.now = look;
            if let Some(slow) = self.note(waits) {
                return Some(slow);
            }
        }
        self.now = until;
        None
    }

    /// Waits for one side, after which so many bytes go all the way.
    fn step(&mut self, time: Duration, waits: Option<Side>, bytes: u64, next: Option<Side>) -> Option<Side> {
        if let Some(slow) = self.wait(time, waits) {
            return Some(slow);
        }
        self.moved.from = self.moved.from.wrapping_add(bytes);
        self.moved.to = self.moved.to.wrapping_add(bytes);
        self.note(next)
    }

    /// The same again and again, at most so many times.
    fn steps(&mut self, times: u32, time: Duration, side: Side, bytes: u64) -> Option<Side> {
        (0..times).find_map(|_| self.step(time, Some(side), bytes, Some(side)))
    }

    fn after(&self) -> Duration {
        self.now - self.began
    }
}

fn begun(side: Side) -> Transfer {
    let mut transfer = Transfer::new(FLOOR, IDLE);
    assert_eq!(transfer.note(Some(side)), None);
    transfer
}

#[tokio::test(start_paused = true)]
async fn who_moves_less_than_the_floor_is_too_slow_and_who_moves_as_much_never() {
    for side in [Side::From, Side::To] {
        // The receiver's machine keeps nothing back, so what is written is what it has.
        let mut transfer = begun(side);
        assert_eq!(transfer.steps(10_000, SECOND, side, 990), Some(side));
        assert!(transfer.after() >= FLOOR.window && transfer.after() <= FLOOR.window + IDLE);
        let mut transfer = begun(side);
        assert_eq!(transfer.steps(100_000, SECOND, side, 1020), None, "{side:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_moves_nothing_is_too_slow_after_a_window() {
    for side in [Side::From, Side::To] {
        let mut transfer = begun(side);
        let slow = transfer.wait(2 * FLOOR.window, Some(side));
        assert_eq!((slow, transfer.after()), (Some(side), FLOOR.window));
    }
}

#[tokio::test(start_paused = true)]
async fn one_side_is_not_charged_for_the_other() {
    // The sender gives what little the receiver takes, at once.
    let mut transfer = begun(Side::To);
    assert_eq!(transfer.steps(10_000, SECOND, Side::To, 10), Some(Side::To));
    // Each is waited for half of the time, and both are above the floor then.
    let mut transfer = begun(Side::From);
    for _ in 0..10_000 {
        assert_eq!(transfer.step(SECOND, Some(Side::From), 0, Some(Side::To)), None);
        assert_eq!(transfer.step(SECOND, Some(Side::To), 1020, Some(Side::From)), None);
    }
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nobody_is_waited_for_is_nobodys() {
    let mut transfer = Transfer::new(FLOOR, IDLE);
    for _ in 0..1000 {
        assert_eq!(transfer.step(SECOND, None, 1, None), None);
    }
    assert_eq!(transfer.meter.look_at(), None);
    assert_eq!(transfer.note(Some(Side::From)), None);
    transfer.meter.begin(transfer.moved);
    assert_eq!(transfer.wait(10 * FLOOR.window, None), None, "between two senders");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_what_lies_in_buffers_is_not_too_slow() {
    // 4 MiB lie in the machine's buffer, and it speaks up when a third of it is free: nothing is written for 20 minutes.
    let mut transfer = begun(Side::To);
    let mut queued = 4 * 1024 * 1024;
    transfer.moved.to += queued;
    assert_eq!(transfer.note(Some(Side::To)), None);
    let mut silent = Duration::ZERO;
    while queued > 2_800_000 {
        transfer.queued = Some(queued);
        let before = transfer.moves;
        assert_eq!(transfer.wait(SECOND, Some(Side::To)), None, "after {:?}", transfer.after());
        silent = if transfer.moves > before { Duration::ZERO } else { silent + SECOND };
        assert!(silent < IDLE, "who looks at the idle limit alone would have cut it");
        queued -= 1100;
    }
    // Then it takes nothing any more.
    transfer.queued = Some(queued);
    let stood = transfer.now;
    assert_eq!(transfer.wait(SECOND * 1000, Some(Side::To)), Some(Side::To));
    assert!(transfer.now - stood <= 2 * FLOOR.window, "{:?}", transfer.now - stood);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_too_little_of_what_lies_in_buffers_is_too_slow() {
    let mut transfer = begun(Side::To);
    let mut queued = 4 * 1024 * 1024;
    transfer.moved.to += queued;
    assert_eq!(transfer.note(Some(Side::To)), None);
    let slow = (0..1000).find_map(|_| {
        transfer.queued = Some(queued);
        queued -= 900;
        transfer.wait(SECOND, Some(Side::To))
    });
    assert_eq!(slow, Some(Side::To));
    assert!(transfer.after() <= 2 * FLOOR.window, "{:?}", transfer.after());
}

#[tokio::test(start_paused = true)]
async fn without_a_word_of_the_system_what_was_written_counts() {
    let mut transfer = begun(Side::To);
    transfer.queued = None;
    let slow = transfer.wait(2 * FLOOR.window, Some(Side::To));
    assert_eq!((slow, transfer.after()), (Some(Side::To), FLOOR.window));
    let mut transfer = begun(Side::To);
    transfer.queued = None;
    assert_eq!(transfer.steps(10_000, SECOND, Side::To, 1020), None);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_comes_late_is_no_fault_of_the_receiver() {
    let mut transfer = begun(Side::To);
    transfer.queued = Some(1_000_000);
    transfer.now += 3 * FLOOR.window;
    assert_eq!(transfer.note(Some(Side::To)), None, "nobody has looked before");
    assert_eq!(transfer.wait(2 * FLOOR.window, Some(Side::To)), Some(Side::To));
}

fn sides() -> impl Strategy<Value = Option<Side>> {
    prop_oneof![2 => Just(Some(Side::From)), 2 => Just(Some(Side::To)), 1 => Just(None)]
}

proptest! {
    /// Whatever else happens: who always has moved `rate × window` bytes within a window of being waited for goes on.
    #[test]
    fn nobody_above_the_floor_is_cut(
        steps in prop::collection::vec((sides(), 1u64..20_000, 0u64..4000), 1..300),
        rate in 1u64..100_000,
        window in 5u64..120,
        idle in 1u64..120,
        knows in any::<bool>(),
    ) {
        let floor = Floor { rate, window: Duration::from_secs(window) };
        let mut transfer = Transfer::new(floor, Duration::from_secs(idle));
        transfer.queued = knows.then_some(0);
        // Neither has been waited for so long since it has last moved enough.
        let mut debts = [Duration::ZERO; 2];
        let mut waits = None;
        let least = rate * window;
        for (next, ms, spare) in steps {
            let time = ms.min(window * 999) as u32 * MS;
            let debt = match waits {
                Some(Side::From) => Some(&mut debts[0]),
                Some(Side::To) => Some(&mut debts[1]),
                None => None,
            };
            let due = debt.is_some_and(|debt| {
                let due = *debt + time >= floor.window;
                *debt = if due { time } else { *debt + time };
                due
            });
            // It pays before it is too late.
            if due {
                prop_assert_eq!(transfer.step(Duration::ZERO, waits, least, waits), None);
                debts = [Duration::ZERO; 2];
                if let Some(side) = waits {
                    debts[side as usize] = time;
                }
            }
            prop_assert_eq!(transfer.step(time, waits, spare.min(least / 4), next), None);
            waits = next;
        }
    }

    /// Who never moves that much is cut, before it was waited for twice as long.
    #[test]
    fn nobody_below_the_floor_goes_on(
        pieces in prop::collection::vec((1u64..4000, 0u64..1000), 1..50),
        rate in 1u64..100_000,
        window in 5u64..120,
        idle in 5u64..120,
        receives in any::<bool>(),
        knows in any::<bool>(),
    ) {
        let floor = Floor { rate, window: Duration::from_secs(window) };
        let side = if receives { Side::To } else { Side::From };
        let mut transfer = Transfer::new(floor, Duration::from_secs(idle));
        transfer.queued = knows.then_some(0);
        transfer.note(Some(side));
        let mut slow = None;
        for (ms, part) in pieces.iter().cycle() {
            // Half of the floor at most.
            let bytes = rate * ms * part / 2_000_000;
            slow = transfer.step(*ms as u32 * MS, Some(side), bytes, Some(side));
            if slow.is_some() || transfer.after() > 3 * floor.window + 10 * SECOND {
                break;
            }
        }
        prop_assert_eq!(slow, Some(side));
        prop_assert!(transfer.after() >= floor.window);
        prop_assert!(transfer.after() <= 2 * floor.window + 5 * SECOND, "{:?}", transfer.after());
    }

    /// Whatever it is told it does not fail, and does not ask to be looked at in the past.
    #[test]
    fn it_bears_everything(
        steps in prop::collection::vec((sides(), 0u64..200_000, any::<u64>(), any::<u64>(), any::<Option<u64>>()), 1..200),
        rate in 1u64..=u64::MAX,
        window in 1u64..1_000_000,
        idle in 0u64..1_000_000,
    ) {
        let now = clock::now();
        let mut meter = Meter::new(Floor { rate, window: window as u32 * MS }, idle as u32 * MS);
        let mut after = Duration::ZERO;
        for (waits, ms, from, to, queued) in steps {
            after += ms as u32 * MS;
            let noted = meter.note(now + after, Moved { from, to }, waits, || queued);
            if let Some(look) = meter.look_at().filter(|_| !matches!(noted, Noted::Slow(_))) {
                prop_assert!(look > now + after, "{:?}", noted);
            }
        }
    }
}
