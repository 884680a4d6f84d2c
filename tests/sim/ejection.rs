//! Probes, ejections and requests of one pool, from a seed, in a time of its own: upstreams die, hang, fail and flap,
//! alone and together. What must hold is watched from outside: who is out, for how long, and what was sent to whom.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use switchyard::{
    balance::ejection::{Change, Failure, Outcome, Pool, Rules, Seen, Standing},
    clock,
    health::{Found, State, verdict::Tracker},
    proxy::choose::is_panic,
};
use tokio::time::Instant;

use super::setting;

/// Pools of one change.
const SEEDS: u64 = 256;
/// Simulated time of trouble, then of peace.
const TROUBLE: u64 = 600_000;
const PEACE: u64 = 700_000;
const PANIC: f64 = 0.3;
const RISE: u32 = 2;
const FALL: u32 = 3;
const RULES: Rules = Rules {
    failures: 5,
    ratio: 0.5,
    requests: 20,
    window: Duration::from_secs(10),
    first: Duration::from_secs(5),
    longest: Duration::from_secs(300),
    most: 0.5,
};

/// How an upstream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Well,
    /// Passes its probes and fails requests.
    Fails,
    /// Answers neither in time.
    Hangs,
    /// Nobody listens.
    Dead,
    /// Every other request fails, by chance.
    Flaky,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ask,
    Ended { place: usize, began: u64, trial: u32, fails: Option<u8> },
    Probe { place: usize },
    Turn,
}

struct Watch {
    until: Option<Instant>,
    lasted: Option<Duration>,
    trial: Option<u64>,
    good: u64,
    /// Probes in a row, good above zero and bad below.
    row: i64,
}

struct World {
    rng: StdRng,
    base: Instant,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    pool: Pool,
    ways: Vec<Way>,
    probes: Vec<Tracker>,
    watch: Vec<Watch>,
    ejections: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let base = clock::now();
        let most = [0.0, 0.1, 0.34, 0.5, 1.0][rng.random_range(0..5)];
        let (count, rules) = (rng.random_range(1..9), Rules { most, ..RULES });
        let mut pool = Pool::new(rules);
        pool.keep(rules, &vec![None; count], base);
        let watch = || Watch { until: None, lasted: None, trial: None, good: 0, row: 0 };
        let mut world = Self {
            rng,
            base,
            now: 0,
            events: BinaryHeap::new(),
            number: 0,
            pool,
            ways: vec![Way::Well; count],
            probes: (0..count).map(|_| Tracker::new(RISE, FALL, base, clock::wall())).collect(),
            watch: (0..count).map(|_| watch()).collect(),
            ejections: 0,
        };
        (0..count).for_each(|place| world.after(0, Event::Probe { place }));
        world.after(100, Event::Ask);
        world.after(5_000, Event::Turn);
        world
    }

    fn after(&mut self, millis: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((self.now + millis, self.number, event)));
    }

    fn at(&self, millis: u64) -> Instant {
        self.base + Duration::from_millis(millis)
    }

    fn is_up(&self, place: usize) -> bool {
        self.probes[place].verdict().state == State::Up
    }

    fn is_out(&self, place: usize) -> bool {
        matches!(self.pool.standing(place), Some(Standing::Out(_)))
    }

    fn step(&mut self) -> Result<(), String> {
        let Some(Reverse((at, _, event))) = self.events.pop() else { return Err("nothing happens".into()) };
        self.now = at;
        match event {
            Event::Ask => self.ask()?,
            Event::Ended { place, began, trial, fails } => self.ended(place, began, trial, fails)?,
            Event::Probe { place } => self.probe(place)?,
            Event::Turn => self.turn(),
        }
        let (out, may) = (self.pool.out(), self.pool.rules().may_be_out(self.ways.len()));
        check(out <= may && (out < self.ways.len() || out == 0), || format!("{out} are out, {may} may be"))
    }

    /// Something becomes of one, or of all together.
    fn turn(&mut self) {
        let peace = self.now >= TROUBLE;
        let all = [Way::Well, Way::Fails, Way::Hangs, Way::Dead, Way::Flaky];
        let way = if peace { Way::Well } else { all[self.rng.random_range(0..5)] };
        if peace || self.rng.random_bool(0.1) {
            self.ways.fill(way);
        } else {
            let place = self.rng.random_range(0..self.ways.len());
            self.ways[place] = way;
        }
        let pause = self.rng.random_range(500..20_000);
        self.after(pause, Event::Turn);
    }

    fn ask(&mut self) -> Result<(), String> {
        let (count, now) = (self.ways.len(), self.at(self.now));
        let left: Vec<usize> = (0..count).filter(|at| self.is_up(*at) && !self.is_out(*at)).collect();
        let panic = is_panic(left.len(), count, PANIC);
        let open: Vec<usize> = (0..count)
            .filter(|at| self.is_up(*at))
            .filter(|at| match self.pool.standing(*at) {
                Some(Standing::Out(out)) => panic || now >= out.next,
                _ => true,
            })
            .collect();
        let pause = self.rng.random_range(10..120);
        self.after(pause, Event::Ask);
        if open.is_empty() {
            return Ok(());
        }
        let place = open[self.rng.random_range(0..open.len())];
        let mut trial = 0;
        if self.is_out(place) && !panic {
            let Some(number) = self.pool.try_one(place, now) else {
                return Err(format!("{place} waits for a trial and takes none"));
            };
            trial = number;
            let before = self.watch[place].trial.replace(self.now);
            // Only one that has taken too long has another beside it.
            check(before.is_none_or(|before| self.now - before >= 10_000), || {
                format!("{place} has two trials at once")
            })?;
        }
        let (millis, fails) = match self.ways[place] {
            Way::Well => (self.rng.random_range(1..300), None),
            Way::Fails => (self.rng.random_range(1..50), Some(2)),
            Way::Hangs => (2250, Some(1)),
            Way::Dead => (0, Some(0)),
            Way::Flaky => (self.rng.random_range(1..300), self.rng.random_bool(0.5).then_some(2)),
        };
        self.after(millis, Event::Ended { place, began: self.now, trial, fails });
        Ok(())
    }

    fn ended(&mut self, place: usize, began: u64, trial: u32, fails: Option<u8>) -> Result<(), String> {
        let now = self.at(self.now);
        let outcome = match fails {
            None => Outcome::Answered,
            Some(0) => Outcome::Failed(Failure::Connect),
            Some(1) => Outcome::Failed(Failure::TimedOut),
            Some(_) => Outcome::Failed(Failure::Status(500)),
        };
        self.watch[place].good += u64::from(fails.is_none());
        let (was_out, others) = (
            self.is_out(place),
            (0..self.ways.len()).any(|at| at != place && self.is_up(at) && !self.is_out(at)),
        );
        let (probes, watch) = (&self.probes, &self.watch);
        let seen = |at: usize| Seen { up: probes[at].verdict().state == State::Up, good: watch[at].good };
        let change = self.pool.record(place, outcome, self.base + Duration::from_millis(began), now, seen);
        if trial != 0 {
            self.pool.trial_over(place, trial, now);
            self.watch[place].trial = None;
        }
        match change {
            Some(Change::Ejected { lasts, .. }) => {
                self.ejections += 1;
                let watch = &mut self.watch[place];
                check(watch.until.is_none_or(|until| now >= until), || format!("{place} flaps"))?;
                check(was_out || others, || format!("{place} was the last one"))?;
                let most = watch.lasted.map_or(RULES.first, |before| (before * 2).min(RULES.longest));
                check(lasts >= RULES.first && lasts <= most, || format!("{place} is out for {lasts:?}"))?;
                (watch.until, watch.lasted) = (Some(now + lasts), Some(lasts));
                check(fails.is_some(), || format!("{place} answered and was ejected"))
            }
            Some(Change::Back { .. }) => {
                let until = self.watch[place].until;
                check(fails.is_none(), || format!("{place} failed and is back"))?;
                check(until.is_some_and(|until| now >= until), || format!("{place} is back too early"))
            }
            None => Ok(()),
        }
    }

    fn probe(&mut self, place: usize) -> Result<(), String> {
        let good = !matches!(self.ways[place], Way::Hangs | Way::Dead);
        let found = if good {
            Found::Good { seen: "200".into(), ready: None }
        } else {
            Found::Bad { why: "no answer".into() }
        };
        let row = &mut self.watch[place].row;
        *row = if good { (*row).max(0) + 1 } else { (*row).min(0) - 1 };
        let (row, before) = (*row, self.probes[place].verdict().state);
        let now = self.at(self.now);
        self.probes[place].record(found, now, clock::wall());
        let after = self.probes[place].verdict().state;
        let wanted = match before {
            State::Unknown if good => State::Up,
            State::Unknown => State::Down,
            State::Up if row <= -i64::from(FALL) => State::Down,
            State::Down if row >= i64::from(RISE) => State::Up,
            same => same,
        };
        check(after == wanted, || format!("{place} went from {before:?} to {after:?} after {row} in a row"))?;
        let pause = if self.probes[place].changing() { 500 } else { 2000 };
        let jitter = self.rng.random_range(9..=11);
        self.after(pause * jitter / 10, Event::Probe { place });
        Ok(())
    }
}

fn check(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

/// How many ejections there were.
fn run(seed: u64) -> Result<u64, String> {
    let mut world = World::new(seed);
    let mut step = 0u64;
    while world.now < TROUBLE + PEACE {
        step += 1;
        world.step().map_err(|why| format!("seed {seed}, step {step}, {} ms: {why}", world.now))?;
    }
    let left = (0..world.ways.len()).find(|place| !world.is_up(*place) || world.is_out(*place));
    check(left.is_none(), || format!("seed {seed}: {left:?} is still out after a long peace"))?;
    Ok(world.ejections)
}

#[test]
fn pools_never_fall_below_their_floor_and_nobody_flaps() {
    if let Some(seed) = setting("SWITCHYARD_SIM_SEED") {
        run(seed).unwrap();
        return;
    }
    let first: u64 = rand::random_range(0..1_000_000);
    let seeds = setting("SWITCHYARD_SIM_SEEDS").unwrap_or(SEEDS).max(SEEDS);
    let runs: Vec<_> = (first..first + seeds).map(run).collect();
    let failed: Vec<_> = runs.iter().filter_map(|run| run.as_ref().err()).map(String::as_str).collect();
    assert!(failed.is_empty(), "run again with SWITCHYARD_SIM_SEED=N\n{}", failed.join("\n"));
    let ejections: u64 = runs.into_iter().flatten().sum();
    assert!(ejections > seeds, "{ejections} ejections are too few to have shown anything");
}
