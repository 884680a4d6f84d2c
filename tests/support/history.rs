//! What pushers did and readers saw, and whether it could be so if the promise about freshness holds.
//!
//! Each tag is a register with one writer, whose pushes never overlap, each of another digest. A push that ended
//! without a clear answer may take effect at any later time, so its pusher leaves that tag to the readers and
//! begins another: the check stays exact. A client stands for one who always asks the same proxy.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use switchyard::{clock, model::Position};
use tokio::time::Instant;

/// A change that somebody has seen is known to every proxy after so long, whatever dies: what a proxy knew before
/// is good for no longer than its lease.
pub const LEASE: Duration = Duration::from_secs(2);

/// How a push ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    /// With an answer that says that nothing was done.
    Refused(String),
    /// Without one that says whether it was done.
    Unknown(String),
}

/// What a read gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The manifest with this digest.
    Found(String),
    /// "Not found".
    Missing,
    /// Something that is not whole: wrong bytes, or a blob that is not there.
    Half(String),
    /// No answer about the tag.
    Failed(String),
}

/// A push: from before its manifest was sent until after its answer.
#[derive(Debug, Clone)]
pub struct Push {
    pub tag: String,
    pub digest: String,
    pub begin: Duration,
    pub end: Duration,
    pub outcome: Outcome,
    pub position: Option<Position>,
}

/// A read of a tag.
#[derive(Debug, Clone)]
pub struct Read {
    pub client: String,
    pub tag: String,
    pub begin: Duration,
    pub end: Duration,
    pub answer: Answer,
    /// What the stale mark said.
    pub stale: Option<String>,
    pub position: Option<Position>,
}

/// Everything so far. Cheap to clone; all clones write into one.
#[derive(Clone)]
pub struct History {
    since: Instant,
    all: Arc<Mutex<(Vec<Push>, Vec<Read>)>>,
}

/// How much was proved: a history of failed reads proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub acknowledged: usize,
    pub refused: usize,
    pub unknown: usize,
    pub fresh: usize,
    pub marked: usize,
    pub failed: usize,
}

impl History {
    pub fn begin() -> Self {
        Self { since: clock::now(), all: Arc::default() }
    }

    /// The moment, as it is recorded.
    pub fn now(&self) -> Duration {
        clock::now() - self.since
    }

    pub fn pushed(&self, push: Push) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).0.push(push);
    }

    /// A push begins, and readers may see it from now on; gives its number for [`Self::ends`].
    pub fn begins(&self, tag: String, digest: String) -> usize {
        let (begin, outcome) = (self.now(), Outcome::Unknown("under way".into()));
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.0.push(Push { tag, digest, begin, end: Duration::MAX, outcome, position: None });
        all.0.len() - 1
    }

    /// How it ended.
    pub fn ends(&self, number: usize, outcome: Outcome, position: Option<Position>) {
        let end = self.now();
        let push = &mut self.all.lock().unwrap_or_else(PoisonError::into_inner).0[number];
        (push.end, push.outcome, push.position) = (end, outcome, position);
    }

    pub fn read(&self, read: Read) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).1.push(read);
    }

    pub fn tally(&self) -> Tally {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tally = Tally::default();
        for push in &all.0 {
            match push.outcome {
                Outcome::Acknowledged => tally.acknowledged += 1,
                Outcome::Refused(_) => tally.refused += 1,
                Outcome::Unknown(_) => tally.unknown += 1,
            }
        }
        for read in &all.1 {
            match (&read.answer, &read.stale) {
                (Answer::Failed(_), _) => tally.failed += 1,
                (_, None) => tally.fresh += 1,
                (_, Some(_)) => tally.marked += 1,
            }
        }
        tally
    }

    /// What each tag must hold at the end: the newest acknowledged digest, or one that came after it.
    pub fn last(&self) -> BTreeMap<String, BTreeSet<String>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for push in &all.0 {
            let may = last.entry(push.tag.clone()).or_default();
            match push.outcome {
                Outcome::Acknowledged => *may = BTreeSet::from([push.digest.clone()]),
                Outcome::Refused(_) => {}
                Outcome::Unknown(_) => drop(may.insert(push.digest.clone())),
            }
        }
        last
    }

    /// Every way in which what was seen breaks the promise.
    pub fn faults(&self) -> Vec<String> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tags: BTreeMap<&str, Tag<'_>> = BTreeMap::new();
        for push in &all.0 {
            tags.entry(&push.tag).or_default().pushes.push(push);
        }
        for read in &all.1 {
            tags.entry(&read.tag).or_default().reads.push(read);
        }
        let mut faults = in_order(&all.0);
        for tag in tags.values_mut() {
            tag.check(&mut faults);
        }
        faults
    }

    /// Panics with the first few of them.
    #[track_caller]
    pub fn assert_holds(&self) {
        let faults = self.faults();
        let few: Vec<&String> = faults.iter().take(10).collect();
        assert!(faults.is_empty(), "{} faults in {:?}: {few:#?}", faults.len(), self.tally());
    }
}

/// A push that began after another was acknowledged has a later position.
fn in_order(pushes: &[Push]) -> Vec<String> {
    let placed = |push: &&Push| push.outcome == Outcome::Acknowledged && push.position.is_some();
    let mut by_begin: Vec<&Push> = pushes.iter().filter(placed).collect();
    let mut by_end = by_begin.clone();
    by_begin.sort_by_key(|push| push.begin);
    by_end.sort_by_key(|push| push.end);
    let mut ended = by_end.into_iter().peekable();
    let (mut newest, mut faults): (Option<&Push>, Vec<String>) = (None, Vec::new());
    for push in by_begin {
        while let Some(before) = ended.next_if(|before| before.end < push.begin) {
            newest = newest.filter(|newest| newest.position > before.position).or(Some(before));
        }
        if let Some(before) = newest.filter(|before| before.position >= push.position) {
            faults.push(format!("positions go back: {push:?} after {before:?}"));
        }
    }
    faults
}

/// One tag's part. The state of a tag is a number: 0 is "not there", n is the n-th push.
#[derive(Default)]
struct Tag<'a> {
    pushes: Vec<&'a Push>,
    reads: Vec<&'a Read>,
}

impl Tag<'_> {
    fn check(&mut self, faults: &mut Vec<String>) {
        self.pushes.sort_by_key(|push| push.begin);
        self.reads.sort_by_key(|read| read.begin);
        self.is_a_register(faults);
        let seen: Vec<Option<usize>> = self.reads.iter().map(|read| self.state(read, faults)).collect();
        for (n, read) in self.reads.iter().enumerate() {
            let Some(state) = seen[n] else { continue };
            let newest = self.acknowledged_before(read.begin);
            if state == 0 && newest > 0 {
                // A mark does not make it better: only who is fresh may say that something is not there.
                faults.push(format!("missing: {read:?} after {:?}", self.pushes[newest - 1]));
            } else if read.stale.is_none() && state < newest {
                faults.push(format!("old and unmarked: {read:?} after {:?}", self.pushes[newest - 1]));
            }
            if read.stale.is_some() {
                continue;
            }
            if let Some(push) = newest.checked_sub(1).map(|at| self.pushes[at])
                && let (Some(told), Some(needed)) = (read.position, push.position)
                && told < needed
            {
                faults.push(format!("a position that is too old: {read:?} after {push:?}"));
            }
            // Any order of reads that overlap is as good as another.
            let before = self.reads[..n].iter().zip(&seen).filter(|(other, _)| other.end < read.begin);
            for (other, earlier) in before {
                let known = other.end + LEASE < read.begin;
                if earlier.is_some_and(|earlier| earlier > state) && (other.client == read.client || known) {
                    faults.push(format!("went back: {read:?} after {other:?}"));
                    break;
                }
            }
        }
    }

    /// What the check stands on; a fault here is one of the test.
    fn is_a_register(&self, faults: &mut Vec<String>) {
        for pair in self.pushes.windows(2) {
            if pair[0].end > pair[1].begin || matches!(pair[0].outcome, Outcome::Unknown(_)) {
                faults.push(format!("pushes of one tag overlap: {:?} and {:?}", pair[0], pair[1]));
            }
            if self.pushes.iter().filter(|push| push.digest == pair[0].digest).count() > 1 {
                faults.push(format!("pushed twice: {:?}", pair[0]));
            }
        }
    }

    /// The state that a read saw; `None` when it tells nothing.
    fn state(&self, read: &Read, faults: &mut Vec<String>) -> Option<usize> {
        let digest = match &read.answer {
            Answer::Missing => return Some(0),
            Answer::Failed(_) => return None,
            Answer::Half(_) => {
                faults.push(format!("half: {read:?}"));
                return None;
            }
            Answer::Found(digest) => digest,
        };
        let Some(at) = self.pushes.iter().position(|push| push.digest == *digest) else {
            faults.push(format!("never pushed: {read:?}"));
            return None;
        };
        let push = self.pushes[at];
        if matches!(push.outcome, Outcome::Refused(_)) {
            faults.push(format!("was refused: {read:?} of {push:?}"));
        }
        if push.begin > read.end {
            faults.push(format!("not pushed yet: {read:?} of {push:?}"));
        }
        Some(at + 1)
    }

    /// The newest push that was acknowledged before this moment.
    fn acknowledged_before(&self, moment: Duration) -> usize {
        let newest =
            self.pushes.iter().rposition(|push| push.outcome == Outcome::Acknowledged && push.end < moment);
        newest.map_or(0, |at| at + 1)
    }
}
