//! One blob of the plan.

use std::{collections::BTreeSet, time::Duration};

use super::{LACKS, NOWHERE, PARALLEL, Piece, Priority, source::Source};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nobody holds its fill.
    Closed,
    /// Its chunks are asked for.
    Open {
        /// Not here and not under way.
        missing: BTreeSet<u32>,
        verified: bool,
    },
    /// All of it is here.
    Finishing,
}

#[derive(Debug)]
pub(super) struct Blob {
    /// Priority, and age within it.
    pub(super) rank: (Priority, u64),
    /// It has more than one chunk.
    long: bool,
    pub(super) stage: Stage,
    /// Piece, source, since when.
    pub(super) flying: Vec<(Piece, usize, Duration)>,
    /// By source: not asked for this blob before then.
    lacks: Vec<Duration>,
    /// Sources that have it without a list.
    pub(super) listless: BTreeSet<usize>,
    /// Nothing is asked before then.
    pub(super) held: Duration,
    /// Sources whose bytes are in it.
    pub(super) gave: BTreeSet<usize>,
    /// The one source of a blob whose chunks cannot be verified.
    only: Option<usize>,
}

impl Blob {
    pub(super) fn new(long: bool, sources: usize) -> Self {
        Self {
            rank: (Priority::Announced, 0),
            long,
            stage: Stage::Closed,
            flying: Vec::new(),
            lacks: vec![Duration::ZERO; sources],
            listless: BTreeSet::new(),
            held: Duration::ZERO,
            gave: BTreeSet::new(),
            only: None,
        }
    }

    /// What could be asked for now, and of whom.
    pub(super) fn next(&self, sources: &[Source], now: Duration) -> Option<(Piece, usize)> {
        if now < self.held || !self.has_next() || self.flying.len() >= PARALLEL {
            return None;
        }
        let may = |place: &usize| self.asked_at(sources, *place).is_some_and(|at| at <= now);
        let least = |able: &dyn Fn(&usize) -> bool| {
            let able = (0..sources.len()).filter(|place| may(place) && able(place));
            able.min_by_key(|place| sources.get(*place).map(Source::load))
        };
        match &self.stage {
            Stage::Closed if self.long => {
                let with = least(&|place| !self.listless.contains(place));
                let with = with.map(|place| (Piece::Open { list: true }, place));
                with.or_else(|| Some((Piece::Open { list: false }, least(&|_| true)?)))
            }
            Stage::Closed => Some((Piece::Open { list: false }, least(&|_| true)?)),
            Stage::Open { missing, verified } => {
                let only = self.only.filter(|only| !verified && may(only));
                let source = only.or_else(|| least(&|_| true))?;
                Some((Piece::Chunk(*missing.first()?), source))
            }
            Stage::Finishing => None,
        }
    }

    /// Whether there is anything to ask for, by whatever source.
    pub(super) fn has_next(&self) -> bool {
        match &self.stage {
            Stage::Closed => self.flying.is_empty(),
            Stage::Open { missing, .. } => !missing.is_empty(),
            Stage::Finishing => false,
        }
    }

    /// When the first source may be asked; `None` without sources.
    pub(super) fn earliest(&self, sources: &[Source]) -> Option<Duration> {
        let first = (0..sources.len()).filter_map(|place| self.asked_at(sources, place)).min();
        first.map(|at| at.max(self.held))
    }

    fn asked_at(&self, sources: &[Source], place: usize) -> Option<Duration> {
        Some(sources.get(place)?.rests.max(*self.lacks.get(place)?))
    }

    pub(super) fn asked(&mut self, piece: Piece, source: usize, now: Duration) {
        self.flying.push((piece, source, now));
        if let (Piece::Chunk(chunk), Stage::Open { missing, verified }) = (piece, &mut self.stage) {
            missing.remove(&chunk);
            self.only = (!*verified).then_some(source);
        }
    }

    /// Tells since when it was under way, if it was.
    pub(super) fn landed(&mut self, piece: Piece, source: usize) -> Option<Duration> {
        let at = self.flying.iter().position(|(flying, from, _)| (*flying, *from) == (piece, source))?;
        Some(self.flying.swap_remove(at).2)
    }

    /// A piece did not come.
    pub(super) fn back(&mut self, piece: Piece) {
        if let (Piece::Chunk(chunk), Stage::Open { missing, .. }) = (piece, &mut self.stage) {
            missing.insert(chunk);
        }
    }

    pub(super) fn opened(&mut self, missing: Vec<u32>, verified: bool) {
        self.stage = Stage::Open { missing: missing.into_iter().collect(), verified };
    }

    pub(super) fn lacks(&mut self, source: usize, now: Duration) {
        if let Some(until) = self.lacks.get_mut(source) {
            *until = now + LACKS;
        }
        if self.is_nowhere(now) {
            for until in &mut self.lacks {
                *until = (*until).min(now + NOWHERE);
            }
        }
    }

    pub(super) fn is_nowhere(&self, now: Duration) -> bool {
        self.lacks.iter().all(|until| *until > now)
    }

    pub(super) fn close(&mut self) {
        self.stage = Stage::Closed;
        self.listless.clear();
        self.only = None;
    }

    /// Open, and nothing is missing or under way.
    pub(super) fn is_whole(&self) -> bool {
        self.flying.is_empty() && matches!(&self.stage, Stage::Open { missing, .. } if missing.is_empty())
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open { .. })
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.stage == Stage::Finishing
    }

    /// Nothing of it was begun.
    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Closed && self.flying.is_empty()
    }

    /// No chunk is both missing and under way, or under way twice; what is finished has nothing under way.
    pub(super) fn holds(&self) -> bool {
        let chunks: Vec<u32> = self.flying.iter().filter_map(|(piece, ..)| piece.chunk()).collect();
        let once: BTreeSet<u32> = chunks.iter().copied().collect();
        once.len() == chunks.len()
            && match &self.stage {
                Stage::Closed => true,
                Stage::Open { missing, .. } => missing.is_disjoint(&once),
                Stage::Finishing => self.flying.is_empty(),
            }
    }
}

impl Piece {
    fn chunk(self) -> Option<u32> {
        match self {
            Self::Open { .. } => None,
            Self::Chunk(chunk) => Some(chunk),
        }
    }
}
