// Publications, deletions and two collectors, who take turns by a lease, whose steps mix in every way.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const GRACE: u64 = 3;
const TRASH: u64 = 8;
const BLOBS: u8 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Stored(u64),
    Trash(u64),
}

/// A push, as far as it has come.
#[derive(Debug, Clone)]
enum Push {
    /// It has found or sent this, and publishes next.
    Kept { tag: u8, blob: u8, since: u64 },
    /// Its tag is visible; it looks once more next.
    Visible { tag: u8, blob: u8 },
}

/// A collection, as far as it has come. Each call to the storage is a step of its own, for another registry may come between.
#[derive(Debug, Clone)]
enum Step {
    ListTrash,
    ReadReferences(Vec<Stored>),
    Trash(Vec<Stored>),
    Stored(u8),
    /// It saw that nobody wanted it, and moves it next.
    Move(u8),
    /// It saw that this lay there for long enough, and deletes it next.
    Purge(u8, Vec<Stored>),
}

/// One registry's collector.
struct Collector {
    step: Step,
    began: u64,
    referenced: HashSet<Digest>,
    /// Until then others take it for alive.
    lease: u64,
}

/// Times that a holder of the lease may be silent.
const SILENCE: u64 = 4;

struct World {
    now: u64,
    places: BTreeMap<u8, Place>,
    /// Which blob a tag needs, and whether its push was acknowledged.
    tags: BTreeMap<u8, (u8, bool)>,
    pushes: Vec<Push>,
    collectors: [Collector; 2],
    rules: Kind,
}

/// What holds in a world.
#[derive(Clone, Copy)]
struct Kind {
    /// No publication takes longer than the second grace.
    bounded: bool,
    second_mark: bool,
    /// The last call of one of the collectors, who lost its lease, may come true however late.
    late: bool,
}

fn digest(blob: u8) -> Digest {
    Digest::of(&[blob])
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

impl World {
    fn new(rules: Kind) -> Self {
        Self {
            now: 0,
            places: BTreeMap::new(),
            tags: BTreeMap::new(),
            pushes: Vec::new(),
            collectors: [(); 2].map(|()| Collector {
                step: Step::ListTrash,
                began: 0,
                referenced: HashSet::new(),
                lease: 0,
            }),
            rules,
        }
    }

    fn cut(&self, who: usize) -> Cut {
        let rules = Rules { grace: Duration::from_secs(GRACE), trash: Duration::from_secs(TRASH) };
        rules.at(at(self.collectors[who].began))
    }

    fn stored(&self, blob: u8) -> Option<(Stored, bool)> {
        self.places.get(&blob).map(|place| {
            let (touched, trash) = match *place {
                Place::Stored(touched) => (touched, false),
                Place::Trash(touched) => (touched, true),
            };
            (Stored { digest: digest(blob), size: 1, touched: at(touched) }, trash)
        })
    }

    /// One step of somebody.
    fn step(&mut self, choice: u16) {
        let (tag, blob) = ((choice >> 4) as u8 % 8, (choice >> 8) as u8 % BLOBS);
        match choice % 16 {
            // A push finds its blob, or sends it.
            0..=2 => {
                self.places.insert(blob, Place::Stored(self.now));
                self.pushes.push(Push::Kept { tag, blob, since: self.now });
            }
            3..=5 => self.go_on(),
            6 => drop(self.tags.remove(&tag)),
            7 => self.now += 1,
            // A kill: pushes end where they are, and so does the collection.
            8 if choice >> 12 == 0 => {
                self.pushes.clear();
                self.collectors[0].step = Step::ListTrash;
            }
            8 => self.now += 1,
            9 => self.now += u64::from(choice >> 12),
            _ => self.collect(usize::from(choice >> 15)),
        }
    }

    fn go_on(&mut self) {
        if self.pushes.is_empty() {
            return;
        }
        match self.pushes.remove(0) {
            // Its server was down for longer than any publication may take, and with it this.
            Push::Kept { since, .. } if self.rules.bounded && self.now - since >= TRASH => {}
            Push::Kept { tag, blob, .. } => {
                self.tags.insert(tag, (blob, false));
                self.pushes.push(Push::Visible { tag, blob });
            }
            Push::Visible { tag, blob } => {
                let here = self.places.contains_key(&blob);
                if here {
                    self.places.insert(blob, Place::Stored(self.now));
                }
                match self.tags.get_mut(&tag) {
                    Some(state) if state.0 == blob && here => state.1 = true,
                    Some(state) if state.0 == blob && !state.1 => drop(self.tags.remove(&tag)),
                    _ => {}
                }
            }
        }
    }

    /// A step of one of them, as far as it has the lease. Of one that has lost it a call may be under way still.
    fn collect(&mut self, who: usize) {
        let step = std::mem::replace(&mut self.collectors[who].step, Step::ListTrash);
        let other = &self.collectors[1 - who];
        let others = other.lease > self.now && !matches!(other.step, Step::ListTrash);
        let lost = others || (self.collectors[who].lease <= self.now && !matches!(step, Step::ListTrash));
        if lost && !(self.rules.late && who == 1 && matches!(step, Step::Move(_) | Step::Purge(..))) {
            return;
        }
        if !lost {
            self.collectors[who].lease = self.now + SILENCE;
        }
        let next = self.collect_on(who, step);
        self.collectors[who].step = if lost { Step::ListTrash } else { next };
    }

    fn collect_on(&mut self, who: usize, step: Step) -> Step {
        match step {
            Step::ListTrash => {
                self.collectors[who].began = self.now;
                let there = (0..BLOBS).filter_map(|blob| self.stored(blob));
                Step::ReadReferences(there.filter(|(_, trash)| *trash).map(|(blob, _)| blob).collect())
            }
            Step::ReadReferences(listed) => {
                self.collectors[who].referenced = self.tags.values().map(|(blob, _)| digest(*blob)).collect();
                Step::Trash(listed)
            }
            Step::Trash(mut listed) => match listed.pop() {
                None => Step::Stored(0),
                Some(blob) => self.second(who, &blob, listed),
            },
            // Whoever took it out meanwhile, and whatever came there since.
            Step::Purge(blob, listed) => {
                if let Some(Place::Trash(_)) = self.places.get(&blob) {
                    self.places.remove(&blob);
                }
                Step::Trash(listed)
            }
            Step::Stored(BLOBS..) => Step::ListTrash,
            Step::Stored(blob) => match self.stored(blob) {
                Some((stored, false)) if goes(&stored, &self.collectors[who].referenced, &self.cut(who)) => {
                    Step::Move(blob)
                }
                _ => Step::Stored(blob + 1),
            },
            // Whoever wanted it since the look has touched what is moved.
            Step::Move(blob) => {
                if let Some(Place::Stored(_)) = self.places.get(&blob) {
                    self.places.insert(blob, Place::Trash(self.now));
                }
                Step::Stored(blob + 1)
            }
        }
    }

    /// Rename and removal are one step each: what is not there any more is not moved.
    fn second(&mut self, who: usize, listed: &Stored, rest: Vec<Stored>) -> Step {
        let none = HashSet::new();
        let referenced = if self.rules.second_mark { &self.collectors[who].referenced } else { &none };
        let Some(blob) = (0..BLOBS).find(|blob| digest(*blob) == listed.digest) else {
            return Step::Trash(rest);
        };
        // Looked at once more, for another collector may have moved it there since the list.
        let Some((now, true)) = self.stored(blob) else { return Step::Trash(rest) };
        match fate(listed, referenced, &self.cut(who)) {
            Fate::PutBack => drop(self.places.insert(blob, Place::Stored(self.now))),
            Fate::Purge if now.touched <= self.cut(who).discarded_before => return Step::Purge(blob, rest),
            Fate::Purge | Fate::Waits => {}
        }
        Step::Trash(rest)
    }

    /// A tag that lacks its layer: any that is visible, as long as publications are bounded and no call comes late; else one of
    /// those that were acknowledged.
    fn broken(&self) -> bool {
        let counts = |acknowledged: bool| acknowledged || (self.rules.bounded && !self.rules.late);
        let mut tags = self.tags.values().filter(|(_, acknowledged)| counts(*acknowledged));
        tags.any(|(blob, _)| !self.places.contains_key(blob))
    }
}

/// Runs it; tells the first step after which a tag lacked its layer.
fn run(choices: &[u16], rules: Kind) -> Option<usize> {
    let mut world = World::new(rules);
    choices.iter().position(|choice| {
        world.step(*choice);
        world.broken()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_tag_ever_lacks_a_layer(
        choices in prop::collection::vec(any::<u16>(), 600),
        bounded: bool,
        late: bool,
    ) {
        prop_assert_eq!(run(&choices, Kind { bounded, second_mark: true, late }), None);
    }
}

#[test]
fn without_the_second_mark_one_does() {
    use rand::{Rng as _, SeedableRng as _};
    let mut chance = rand::rngs::StdRng::seed_from_u64(1);
    let lost = (0..200).filter(|_| {
        let choices: Vec<u16> = (0..600).map(|_| chance.random()).collect();
        run(&choices, Kind { bounded: true, second_mark: false, late: false }).is_some()
    });
    let lost = lost.count();
    assert!(lost > 0, "{lost}: the model does not know what the second mark is for");
}

#[test]
fn what_nothing_references_goes_and_is_deleted_after_both_graces() {
    let mut world = World::new(Kind { bounded: true, second_mark: true, late: false });
    world.places.insert(0, Place::Stored(0));
    let mut seen = BTreeSet::new();
    for now in 0..GRACE + TRASH + 10 {
        world.now = now;
        for _ in 0..20 {
            world.collect(0);
        }
        seen.insert(format!("{:?}", world.places.get(&0).map(|place| matches!(place, Place::Trash(_)))));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["None", "Some(false)", "Some(true)"]);
}
