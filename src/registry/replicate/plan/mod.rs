//! Which chunk of which blob is asked for next, and from whom. Pure: is told what came of each ask, and when.
//!
//! Blobs go in order: needed ones first, each kind by age. A better one that comes later takes the next place that
//! is free; nothing under way is cut off. A blob is first *opened*: its fill is taken up, with a chunk list from one
//! of the sources if it has more than one chunk; then its missing chunks are asked for; then it is *finished*. A blob
//! whose list no source has is asked for without, from one source as long as that answers.

mod blob;
mod source;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use crate::model::Digest;

use blob::{Blob, Stage};
use source::Source;

/// Chunks of one blob that are under way at once.
pub const PARALLEL: usize = 4;

/// Blobs of which something is under way at once.
pub const BLOBS: usize = 2;

/// Blobs that are kept open at once; more are closed, the last in order first, while nothing of them is under way.
pub const OPEN: usize = 4;

/// Blobs that are being finished at once; while there are so many, no other is opened.
pub const FINISHING: usize = 4;

/// Announced blobs that wait. One more, and the oldest is forgotten: the entry that needs it brings it again.
pub const ANNOUNCED: usize = 10_000;

/// A source that does not have a blob, or has it wrong, is not asked for it for so long.
pub const LACKS: Duration = Duration::from_secs(30);

/// The same while no source has it.
pub const NOWHERE: Duration = Duration::from_secs(5);

/// In order: needed ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for it.
    Needed,
    /// It will be needed.
    Announced,
}

/// Part of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Take its fill up.
    Open {
        /// With the chunk list of the source.
        list: bool,
    },
    /// A chunk.
    Chunk(u32),
}

/// Something to be asked for now. Each ends in one [`Plan::ended`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Of which blob.
    pub blob: Digest,
    /// Which part.
    pub piece: Piece,
    /// Place of the source.
    pub source: usize,
    /// Given up when it takes longer.
    pub within: Duration,
}

/// What came of an ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The fill is open.
    Opened {
        /// What is to be fetched.
        missing: Vec<u32>,
        /// Whether chunks are verified one by one.
        verified: bool,
    },
    /// The blob is here.
    Here,
    /// The chunk is verified and written.
    Arrived,
    /// The source does not have the blob.
    Lacks,
    /// The source has the blob, but no chunk list of it.
    Listless,
    /// The source could not be reached, fell silent, refused or answered nonsense.
    Failed,
    /// The source took longer than [`Ask::within`].
    Slow,
    /// The source's bytes are not those of the blob.
    Corrupt,
    /// The storage could not take it: not before then.
    Held(Duration),
    /// The fill is not the one that was opened any more.
    Gone,
}

/// What follows from an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Ask on.
    Nothing,
    /// All of the blob is here: finish it, and say [`Plan::finished`], [`Plan::unfinished`] or [`Plan::spoiled`].
    Finish,
    /// The source is left alone for so long.
    Rests(Duration),
}

/// The plan. Times are since any one moment.
#[derive(Debug)]
pub struct Plan {
    sources: Vec<Source>,
    blobs: HashMap<Digest, Blob>,
    order: BTreeSet<(Priority, u64, Digest)>,
    /// Blobs of which something is under way.
    busy: BTreeSet<Digest>,
    /// Blobs that are open.
    open: BTreeSet<Digest>,
    /// Blobs that are being finished.
    finishing: BTreeSet<Digest>,
    announced: usize,
    wanted: u64,
}

impl Plan {
    /// With so many sources; the first one is the writer.
    pub fn new(sources: usize) -> Self {
        Self {
            sources: vec![Source::default(); sources],
            blobs: HashMap::new(),
            order: BTreeSet::new(),
            busy: BTreeSet::new(),
            open: BTreeSet::new(),
            finishing: BTreeSet::new(),
            announced: 0,
            wanted: 0,
        }
    }

    /// Adds a blob, or raises it. `long`: it has more than one chunk. Tells which blob was forgotten for it.
    pub fn want(&mut self, blob: Digest, long: bool, priority: Priority) -> Option<Digest> {
        match self.blobs.get(&blob).map(|known| known.rank.0) {
            Some(known) if known <= priority => return None,
            Some(_) => self.rank(&blob, priority),
            None => {
                self.blobs.insert(blob, Blob::new(long, self.sources.len()));
                self.enter(blob, priority);
            }
        }
        let dropped = if self.announced > ANNOUNCED { self.oldest_announced() } else { None };
        if let Some(dropped) = dropped {
            self.forget(&dropped);
        }
        debug_assert!(self.holds());
        dropped
    }

    /// Nobody waits for it any more: it goes on as if it had been announced now.
    pub fn lower(&mut self, blob: &Digest) {
        if self.blobs.contains_key(blob) {
            self.rank(blob, Priority::Announced);
        }
        debug_assert!(self.holds());
    }

    /// Whether the blob is in the plan.
    pub fn wants(&self, blob: &Digest) -> bool {
        self.blobs.contains_key(blob)
    }

    /// The blobs of the plan, in order.
    pub fn in_order(&self) -> impl Iterator<Item = (Priority, &Digest)> {
        self.order.iter().map(|(priority, _, blob)| (*priority, blob))
    }

    /// What to ask for now. Each ask is under way from here on.
    pub fn next(&mut self, now: Duration) -> Vec<Ask> {
        let mut asks = Vec::new();
        let full = self.finishing.len() >= FINISHING;
        let ready = |blob: &Blob| {
            !blob.flying.is_empty() || (!(full && blob.is_idle()) && blob.next(&self.sources, now).is_some())
        };
        let in_order = self.order.iter().map(|(_, _, digest)| *digest);
        let first: Vec<Digest> =
            in_order.filter(|digest| self.blobs.get(digest).is_some_and(ready)).take(BLOBS).collect();
        for digest in first {
            if !self.busy.contains(&digest) && self.busy.len() >= BLOBS {
                continue;
            }
            let Some(blob) = self.blobs.get_mut(&digest) else { continue };
            while let Some((piece, place)) = blob.next(&self.sources, now) {
                let Some(source) = self.sources.get_mut(place) else { break };
                source.asked();
                blob.asked(piece, place, now);
                self.busy.insert(digest);
                asks.push(Ask { blob: digest, piece, source: place, within: source.patience() });
            }
        }
        debug_assert!(self.holds());
        asks
    }

    /// When something may be asked for that may not be now; `None` while only an end can change that.
    pub fn wake(&self, now: Duration) -> Option<Duration> {
        let waiting = self.blobs.values().filter(|blob| blob.flying.len() < PARALLEL && blob.has_next());
        waiting.filter_map(|blob| blob.earliest(&self.sources)).filter(|at| *at > now).min()
    }

    /// Takes in what came of an ask.
    pub fn ended(&mut self, ask: &Ask, end: End, now: Duration) -> Then {
        let then = self.take_in(ask, end, now);
        debug_assert!(self.holds());
        then
    }

    fn take_in(&mut self, ask: &Ask, end: End, now: Duration) -> Then {
        let Some(source) = self.sources.get_mut(ask.source) else { return Then::Nothing };
        let Some(blob) = self.blobs.get_mut(&ask.blob) else { return Then::Nothing };
        // One that is not under way belongs to an earlier run.
        let Some(since) = blob.landed(ask.piece, ask.source) else { return Then::Nothing };
        source.landed();
        if blob.flying.is_empty() {
            self.busy.remove(&ask.blob);
        }
        match end {
            End::Opened { missing, verified } => {
                blob.opened(missing, verified);
                self.open.insert(ask.blob);
                // Without a list the source was not asked for anything.
                if ask.piece == (Piece::Open { list: true }) {
                    source.answered();
                    blob.gave.insert(ask.source);
                }
            }
            End::Arrived => {
                source.arrived(now.saturating_sub(since));
                blob.gave.insert(ask.source);
            }
            End::Here => blob.stage = Stage::Finishing,
            End::Lacks => {
                source.answered();
                blob.back(ask.piece);
                blob.lacks(ask.source, now);
            }
            End::Listless => {
                source.answered();
                blob.listless.insert(ask.source);
            }
            End::Failed | End::Slow | End::Corrupt => {
                blob.back(ask.piece);
                if end == End::Corrupt {
                    blob.lacks(ask.source, now);
                }
                if end == End::Slow {
                    source.slow();
                }
                return source.failed(now).map_or(Then::Nothing, Then::Rests);
            }
            End::Held(until) => {
                blob.back(ask.piece);
                blob.held = blob.held.max(until);
            }
            End::Gone => self.close(&ask.blob),
        }
        self.finish_if_whole(&ask.blob)
    }

    fn finish_if_whole(&mut self, digest: &Digest) -> Then {
        let Some(blob) = self.blobs.get_mut(digest) else { return Then::Nothing };
        if blob.is_whole() {
            blob.stage = Stage::Finishing;
        }
        if blob.stage == Stage::Finishing && blob.flying.is_empty() {
            self.open.remove(digest);
            self.finishing.insert(*digest);
            return Then::Finish;
        }
        Then::Nothing
    }

    /// The blob is done: it leaves the plan.
    pub fn finished(&mut self, blob: &Digest) {
        self.forget(blob);
        debug_assert!(self.holds());
    }

    /// The storage could not finish the blob: not before then.
    pub fn unfinished(&mut self, blob: &Digest, until: Duration) {
        self.close(blob);
        if let Some(blob) = self.blobs.get_mut(blob) {
            blob.held = blob.held.max(until);
        }
        debug_assert!(self.holds());
    }

    /// The whole was not what its name says: it begins anew, and whoever gave of it is left alone for a while.
    pub fn spoiled(&mut self, blob: &Digest, now: Duration) {
        self.close(blob);
        if let Some(blob) = self.blobs.get_mut(blob) {
            for place in std::mem::take(&mut blob.gave) {
                blob.lacks(place, now);
                if let Some(source) = self.sources.get_mut(place) {
                    source.failed(now);
                }
            }
        }
        debug_assert!(self.holds());
    }

    /// The blob that is to be closed, if more are open than should be.
    pub fn surplus(&self) -> Option<Digest> {
        if self.open.len() <= OPEN {
            return None;
        }
        let mut last = self.order.iter().rev().map(|(_, _, blob)| *blob);
        last.find(|blob| self.open.contains(blob) && !self.busy.contains(blob))
    }

    /// The blob's fill is not open any more; it is opened again when it is its turn.
    pub fn close(&mut self, digest: &Digest) {
        self.open.remove(digest);
        self.finishing.remove(digest);
        if let Some(blob) = self.blobs.get_mut(digest) {
            blob.close();
        }
        debug_assert!(self.holds());
    }

    /// Nothing is under way any more: whoever asked was stopped. What was open is opened again.
    pub fn again(&mut self) {
        for source in &mut self.sources {
            source.grounded();
        }
        for blob in self.blobs.values_mut() {
            blob.flying.clear();
            blob.close();
        }
        self.busy.clear();
        self.open.clear();
        self.finishing.clear();
        debug_assert!(self.holds());
    }

    /// Why a blob does not go on, if it does not.
    pub fn why(&self, blob: &Digest, now: Duration) -> Option<&'static str> {
        let blob = self.blobs.get(blob)?;
        if !blob.flying.is_empty() || !blob.has_next() {
            return None;
        }
        if blob.held > now {
            Some("the storage could not take it")
        } else if blob.is_nowhere(now) {
            Some("no registry has it")
        } else if blob.earliest(&self.sources).is_none_or(|at| at > now) {
            Some("no registry that may have it can be asked")
        } else {
            None
        }
    }

    /// Whether a source is left alone now, after a failure.
    pub fn rests(&self, source: usize, now: Duration) -> bool {
        self.sources.get(source).is_some_and(|source| source.rests > now)
    }

    fn enter(&mut self, digest: Digest, priority: Priority) {
        self.wanted += 1;
        if let Some(blob) = self.blobs.get_mut(&digest) {
            blob.rank = (priority, self.wanted);
            self.order.insert((priority, self.wanted, digest));
            self.announced += usize::from(priority == Priority::Announced);
        }
    }

    fn leave(&mut self, digest: &Digest) {
        if let Some((priority, age)) = self.blobs.get(digest).map(|blob| blob.rank)
            && self.order.remove(&(priority, age, *digest))
        {
            self.announced -= usize::from(priority == Priority::Announced);
        }
    }

    fn rank(&mut self, digest: &Digest, priority: Priority) {
        self.leave(digest);
        self.enter(*digest, priority);
    }

    fn forget(&mut self, digest: &Digest) {
        self.leave(digest);
        self.busy.remove(digest);
        self.open.remove(digest);
        self.finishing.remove(digest);
        for (_, place, _) in self.blobs.remove(digest).map(|blob| blob.flying).unwrap_or_default() {
            if let Some(source) = self.sources.get_mut(place) {
                source.landed();
            }
        }
    }

    fn oldest_announced(&self) -> Option<Digest> {
        let announced = self.order.iter().filter(|(priority, ..)| *priority == Priority::Announced);
        let idle = |blob: &Digest| self.blobs.get(blob).is_some_and(Blob::is_idle);
        announced.map(|(_, _, blob)| *blob).find(idle)
    }

    /// Bounds are kept, and what is counted is what is there.
    fn holds(&self) -> bool {
        let flying = |digest: &Digest| self.blobs.get(digest).map_or(0, |blob| blob.flying.len());
        let under_way: usize = self.busy.iter().map(flying).sum();
        self.order.len() == self.blobs.len()
            && self.busy.len() <= BLOBS
            && self.busy.iter().all(|digest| (1..=PARALLEL).contains(&flying(digest)))
            && self.sources.iter().map(Source::flying).sum::<usize>() == under_way
            && self.open.iter().all(|digest| self.blobs.get(digest).is_some_and(Blob::is_open))
            && self.finishing.iter().all(|digest| self.blobs.get(digest).is_some_and(Blob::is_finishing))
            && self.busy.iter().filter_map(|digest| self.blobs.get(digest)).all(Blob::holds)
    }
}

#[cfg(test)]
mod tests;
