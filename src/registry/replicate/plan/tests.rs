// The rules one by one, and random worlds in which every chunk comes in the end and no rule is broken.

use proptest::prelude::*;

use super::*;

fn digest(n: u8) -> Digest {
    Digest::of(&[n])
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const T0: Duration = Duration::from_secs(100);

/// A plan with one blob of many chunks, open.
fn opened(sources: usize, chunks: u32) -> Plan {
    let mut plan = Plan::new(sources);
    plan.want(digest(1), true, Priority::Needed);
    let asks = plan.next(T0);
    assert_eq!(asks.len(), 1, "a blob is opened before its chunks are asked for");
    assert_eq!((asks[0].piece, asks[0].source), (Piece::Open { list: true }, 0));
    let open = End::Opened { missing: (0..chunks).collect(), verified: true };
    assert_eq!(plan.ended(&asks[0], open, T0), Then::Nothing);
    plan
}

fn chunk(ask: &Ask) -> u32 {
    match ask.piece {
        Piece::Chunk(chunk) => chunk,
        Piece::Open { .. } => panic!("{ask:?} is no chunk"),
    }
}

#[test]
fn chunks_are_spread_over_the_sources_and_at_most_four_are_under_way() {
    let mut plan = opened(2, 10);
    let asks = plan.next(T0);
    assert_eq!(asks.iter().map(chunk).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(asks.iter().filter(|ask| ask.source == 0).count(), 2);
    assert_eq!(plan.next(T0), []);
    assert_eq!(plan.wake(T0), None, "only an end changes anything");
    plan.ended(&asks[2], End::Arrived, T0);
    assert_eq!(plan.next(T0).iter().map(chunk).collect::<Vec<_>>(), [4]);
}

#[test]
fn a_source_without_the_blob_is_left_alone_for_it_and_sooner_asked_again_when_nobody_has_it() {
    let mut plan = opened(2, 10);
    let asks = plan.next(T0);
    let of = |source| asks.iter().filter(move |ask| ask.source == source);
    for ask in of(1) {
        plan.ended(ask, End::Lacks, T0);
    }
    assert!(plan.next(T0).iter().all(|ask| ask.source == 0));
    for ask in plan.blobs.get(&digest(1)).unwrap().flying.clone() {
        let ask = Ask { blob: digest(1), piece: ask.0, source: ask.1, within: T0 };
        plan.ended(&ask, End::Lacks, T0 + ms(1000));
    }
    assert_eq!(plan.next(T0 + ms(1000)), []);
    assert_eq!(plan.why(&digest(1), T0 + ms(1000)), Some("no registry has it"));
    assert_eq!(plan.wake(T0 + ms(1000)), Some(T0 + ms(1000) + NOWHERE));
    assert_eq!(plan.next(T0 + ms(1000) + NOWHERE).len(), PARALLEL);
}

#[test]
fn a_failing_source_rests_twice_as_long_each_time_and_failures_of_one_moment_count_once() {
    let mut plan = opened(1, 10);
    let mut now = T0;
    for rest in [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
        let asks = plan.next(now);
        assert_eq!(asks.len(), PARALLEL);
        assert_eq!(plan.ended(&asks[0], End::Failed, now), Then::Rests(ms(rest)));
        for ask in &asks[1..] {
            assert_eq!(plan.ended(ask, End::Failed, now), Then::Nothing);
        }
        assert_eq!((plan.next(now), plan.wake(now)), (vec![], Some(now + ms(rest))));
        assert!(plan.why(&digest(1), now).is_some());
        now += ms(rest);
    }
    let asks = plan.next(now);
    plan.ended(&asks[0], End::Arrived, now);
    assert_eq!(plan.ended(&asks[1], End::Failed, now), Then::Rests(ms(250)), "a success forgives");
}

#[test]
fn a_corrupt_chunk_is_asked_of_another_source() {
    let mut plan = opened(2, 1);
    let ask = plan.next(T0)[0];
    let now = T0 + ms(10);
    assert_eq!(plan.ended(&ask, End::Corrupt, now), Then::Rests(ms(250)));
    let again = plan.next(now);
    assert_eq!((again.len(), chunk(&again[0])), (1, 0));
    assert_ne!(again[0].source, ask.source);
    plan.ended(&again[0], End::Failed, now);
    assert_eq!(plan.wake(now), Some(now + ms(250)), "the other one comes first, the corrupt one waits");
}

#[test]
fn what_is_needed_takes_the_next_free_place_and_nothing_is_cut_off() {
    let mut plan = Plan::new(1);
    for n in [1, 2, 3] {
        plan.want(digest(n), false, Priority::Announced);
    }
    let under_way = plan.next(T0);
    assert_eq!(under_way.iter().map(|ask| ask.blob).collect::<Vec<_>>(), [digest(1), digest(2)]);
    for ask in &under_way {
        plan.ended(ask, End::Opened { missing: (0..9).collect(), verified: true }, T0);
    }
    let under_way = plan.next(T0);
    assert_eq!(under_way.len(), 2 * PARALLEL);
    plan.want(digest(9), false, Priority::Needed);
    plan.want(digest(3), false, Priority::Needed);
    assert_eq!(plan.next(T0), []);
    // The first blob goes on; the second one makes place for the needed one.
    for ask in &under_way {
        plan.ended(ask, End::Arrived, T0);
        let next = plan.next(T0);
        assert!(next.iter().all(|ask| ask.blob != digest(2)), "{next:?}");
    }
    let busy: Vec<Digest> = plan.busy.iter().copied().collect();
    assert!(busy.contains(&digest(9)), "{busy:?}");
    // Nobody waits any more: it goes behind what was announced before.
    plan.lower(&digest(9));
    assert_eq!(plan.in_order().last(), Some((Priority::Announced, &digest(9))));
}

#[test]
fn a_blob_whose_list_nobody_has_is_asked_for_without_from_one_source() {
    let mut plan = Plan::new(3);
    plan.want(digest(1), true, Priority::Needed);
    for _ in 0..3 {
        let ask = plan.next(T0)[0];
        assert_eq!(ask.piece, Piece::Open { list: true });
        let end = if ask.source == 2 { End::Lacks } else { End::Listless };
        plan.ended(&ask, end, T0);
    }
    let ask = plan.next(T0)[0];
    assert_eq!(ask.piece, Piece::Open { list: false });
    plan.ended(&ask, End::Opened { missing: (0..9).collect(), verified: false }, T0);
    let asks = plan.next(T0);
    let source = asks[0].source;
    assert!(asks.len() == PARALLEL && asks.iter().all(|ask| ask.source == source));
    // When that one fails, another one takes over.
    for ask in &asks {
        plan.ended(ask, End::Failed, T0);
    }
    while !plan.finishing.contains(&digest(1)) {
        for ask in plan.next(T0) {
            assert_eq!(ask.source, 1 - source);
            plan.ended(&ask, End::Arrived, T0);
        }
    }
    // The whole was wrong: it is not asked of those who gave it for a while.
    plan.spoiled(&digest(1), T0);
    let asks = plan.next(T0);
    assert!(asks.iter().all(|ask| ask.source != 1 - source), "{asks:?}");
}

#[test]
fn a_full_storage_holds_the_blob_and_not_the_others() {
    let mut plan = Plan::new(1);
    plan.want(digest(1), false, Priority::Needed);
    plan.want(digest(2), false, Priority::Announced);
    let asks = plan.next(T0);
    let until = T0 + ms(3000);
    plan.ended(&asks[0], End::Held(until), T0);
    assert_eq!(plan.why(&digest(1), T0), Some("the storage could not take it"));
    plan.ended(&asks[1], End::Here, T0);
    assert_eq!((plan.next(T0), plan.wake(T0)), (vec![], Some(until)));
    plan.unfinished(&digest(2), until);
    assert_eq!(plan.next(until).len(), 2);
}

#[test]
fn of_too_many_announced_blobs_the_oldest_is_forgotten() {
    let mut plan = Plan::new(1);
    let nth = |n: usize| Digest::of(&n.to_le_bytes());
    for n in 0..ANNOUNCED {
        assert_eq!(plan.want(nth(n), false, Priority::Announced), None);
    }
    plan.want(nth(0), false, Priority::Needed);
    assert_eq!(plan.want(nth(ANNOUNCED), false, Priority::Announced), None);
    assert_eq!(plan.want(nth(ANNOUNCED + 1), false, Priority::Announced), Some(nth(1)));
    assert!(plan.wants(&nth(0)) && !plan.wants(&nth(1)));
}

#[test]
fn too_many_open_blobs_are_closed_and_opened_again_later() {
    let mut plan = Plan::new(1);
    for n in 0..OPEN as u8 + 2 {
        plan.want(digest(n), false, Priority::Announced);
        let ask = plan.next(T0).into_iter().find(|ask| ask.blob == digest(n)).unwrap();
        plan.ended(&ask, End::Opened { missing: vec![0, 1], verified: true }, T0);
        // Its chunks cannot be stored now: the next one gets its place.
        for ask in plan.next(T0) {
            plan.ended(&ask, End::Held(T0 + ms(9000)), T0);
        }
    }
    let last = digest(OPEN as u8 + 1);
    assert_eq!(plan.surplus(), Some(last));
    plan.close(&last);
    plan.close(&plan.surplus().unwrap());
    assert_eq!(plan.surplus(), None);
}

#[test]
fn a_chunk_that_takes_too_long_may_take_longer_the_next_time() {
    let mut plan = opened(1, 1);
    let first = plan.next(T0)[0];
    let mut now = T0 + first.within;
    plan.ended(&first, End::Slow, now);
    now += ms(250);
    let second = plan.next(now)[0];
    assert_eq!(second.within, first.within * 2);
}

#[test]
fn after_a_restart_everything_is_opened_again() {
    let mut plan = opened(2, 3);
    let before = plan.next(T0);
    plan.again();
    assert_eq!(plan.ended(&before[0], End::Arrived, T0), Then::Nothing, "of the run before");
    assert!(matches!(plan.next(T0)[..], [Ask { piece: Piece::Open { .. }, .. }]));
}

/// What the storage has, and what the rules are checked against.
struct World {
    plan: Plan,
    now: Duration,
    missing: HashMap<Digest, BTreeSet<u32>>,
    sizes: HashMap<Digest, u32>,
    under_way: Vec<Ask>,
    rests: HashMap<usize, Duration>,
    lacks: HashMap<(usize, Digest), Duration>,
    finishing: Vec<Digest>,
    draws: std::vec::IntoIter<u8>,
}

impl World {
    /// While there are draws the world is hostile; after that it is kind.
    fn draw(&mut self) -> Option<u8> {
        self.draws.next()
    }

    fn ask(&mut self) {
        for ask in self.plan.next(self.now) {
            let rests = self.rests.get(&ask.source).copied().unwrap_or_default();
            let lacks = self.lacks.get(&(ask.source, ask.blob)).copied().unwrap_or_default();
            assert!(rests <= self.now && lacks <= self.now, "{ask:?} at {:?}: {rests:?} {lacks:?}", self.now);
            if let Piece::Chunk(chunk) = ask.piece {
                assert!(self.missing[&ask.blob].contains(&chunk), "{ask:?} is here");
            }
            self.under_way.push(ask);
        }
        let mut of: HashMap<Digest, usize> = HashMap::new();
        for ask in &self.under_way {
            *of.entry(ask.blob).or_default() += 1;
        }
        assert!(of.len() <= BLOBS && of.values().all(|n| *n <= PARALLEL), "{of:?}");
    }

    fn end_one(&mut self) {
        let at = self.draw().map_or(0, usize::from) % self.under_way.len();
        let ask = self.under_way.swap_remove(at);
        let good = match ask.piece {
            Piece::Chunk(_) => End::Arrived,
            Piece::Open { .. } => {
                let missing = self.missing[&ask.blob].iter().copied().collect();
                End::Opened { missing, verified: ask.piece == Piece::Open { list: true } }
            }
        };
        let end = match self.draw().map(|draw| draw % 16) {
            Some(0) => End::Failed,
            Some(1) => End::Lacks,
            Some(2) => End::Slow,
            Some(3) => End::Corrupt,
            Some(4) => End::Held(self.now + ms(3000)),
            Some(5) => End::Gone,
            Some(6) if ask.piece == (Piece::Open { list: true }) => End::Listless,
            _ => good,
        };
        if let (End::Arrived, Piece::Chunk(chunk)) = (&end, ask.piece) {
            self.missing.get_mut(&ask.blob).unwrap().remove(&chunk);
        }
        if matches!(end, End::Lacks | End::Corrupt) {
            self.lacks.insert((ask.source, ask.blob), self.now + NOWHERE);
        }
        match self.plan.ended(&ask, end, self.now) {
            Then::Rests(pause) => drop(self.rests.insert(ask.source, self.now + pause)),
            Then::Finish => {
                assert!(self.missing[&ask.blob].is_empty(), "{} is not whole", ask.blob);
                self.finishing.push(ask.blob);
            }
            Then::Nothing => {}
        }
    }

    fn finish_one(&mut self) {
        let Some(blob) = self.finishing.pop() else { return };
        match self.draw().map(|draw| draw % 8) {
            Some(0) => self.plan.unfinished(&blob, self.now + ms(3000)),
            Some(1) => {
                self.plan.spoiled(&blob, self.now);
                self.missing.insert(blob, (0..self.sizes[&blob]).collect());
            }
            _ => {
                self.plan.finished(&blob);
                self.missing.remove(&blob);
            }
        }
    }

    fn step(&mut self) {
        self.ask();
        while let Some(blob) = self.plan.surplus() {
            self.plan.close(&blob);
        }
        match self.draw() {
            Some(draw) if draw % 16 == 0 => {
                self.plan.again();
                self.under_way.clear();
                self.finishing.clear();
            }
            Some(draw) if draw % 16 == 1 => self.plan.lower(&digest(draw / 16)),
            Some(draw) if draw % 16 < 4 => self.now += ms(u64::from(draw)),
            _ => {}
        }
        if !self.finishing.is_empty() {
            self.finish_one();
        } else if !self.under_way.is_empty() {
            self.end_one();
        } else if !self.missing.is_empty() {
            self.ask();
            if self.under_way.is_empty() {
                let wake = self.plan.wake(self.now);
                assert!(wake.is_some_and(|at| at > self.now), "stuck with {:?}", self.missing);
                self.now = wake.unwrap();
            }
        }
    }
}

proptest! {
    #[test]
    fn every_chunk_comes_in_the_end_and_no_rule_is_broken(
        sources in 1..5usize,
        blobs in prop::collection::vec((1..12u32, any::<bool>()), 1..9),
        draws in prop::collection::vec(any::<u8>(), 0..800),
    ) {
        let mut world = World {
            plan: Plan::new(sources),
            now: T0,
            missing: HashMap::new(),
            sizes: HashMap::new(),
            under_way: Vec::new(),
            rests: HashMap::new(),
            lacks: HashMap::new(),
            finishing: Vec::new(),
            draws: draws.into_iter(),
        };
        for (n, (chunks, needed)) in blobs.iter().enumerate() {
            let blob = digest(n as u8);
            world.missing.insert(blob, (0..*chunks).collect());
            world.sizes.insert(blob, *chunks);
            let priority = if *needed { Priority::Needed } else { Priority::Announced };
            world.plan.want(blob, *chunks > 1, priority);
        }
        for step in 0.. {
            if world.missing.is_empty() {
                break;
            }
            prop_assert!(step < 5000, "it never ends: {:?}", world.missing);
            world.step();
        }
        prop_assert_eq!(world.plan.in_order().count(), 0);
        prop_assert!(world.plan.busy.is_empty() && world.plan.open.is_empty());
    }
}
