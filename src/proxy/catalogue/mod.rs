//! What a proxy knows of what registries without positions have: the vendor's, of which each lists its templates. A
//! registry may answer about a template when its entry equals the writer's; what was written through this proxy
//! is the writer's alone until lists that are old enough to show it agree.
//!
//! Pure: lists come in with the moments at which they were asked for. Moments are those of [`crate::clock::boot`]. The
//! rules are told in `docs/in-front-of-anka.md`.

mod entry;
mod writes;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use self::writes::Writes;
pub use self::{
    entry::{Entry, Sum, Versions},
    writes::{Begun, MARKS},
};
use super::freshness::Standing;
use crate::model::TemplateId;

/// Templates of one list. A longer one is not taken, and its registry counts as one that has none.
pub const TEMPLATES: usize = 20_000;

/// Templates whose versions are asked for in one round, at one registry; the others come in the next ones.
pub const ROUND: usize = 512;

/// Templates that a view names.
const NAMED: usize = 8;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About<'a> {
    /// One template.
    Template(&'a TemplateId),
    /// All of them, or nobody can tell which.
    All,
}

/// How long what was told is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// Registries may answer a list out of a cache that is so old.
    pub cache: Duration,
    /// A list that was asked for longer ago says nothing about now.
    pub valid: Duration,
}

/// One registry.
#[derive(Debug, Default)]
struct Registry {
    listing: Option<Listing>,
    /// Of templates whose entries do not say enough.
    versions: HashMap<TemplateId, Known>,
    /// Templates that it does not have as the writer does; for the writer itself, none.
    differing: HashSet<TemplateId>,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Listing {
    entries: HashMap<TemplateId, Entry>,
    sent: Duration,
}

#[derive(Debug)]
struct Known {
    /// `None`: there is no such template.
    versions: Option<Versions>,
    /// What the list said of it when they were asked for.
    entry: Entry,
    sent: Duration,
}

/// How one registry looks to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// How many templates it lists; `None` while its list is not known.
    pub templates: Option<usize>,
    /// Templates that it does not have as the writer does.
    pub differing: usize,
    /// Some of them, in order.
    pub named: Vec<TemplateId>,
    /// How long ago the list was asked for.
    pub age: Option<Duration>,
    /// Why the last list could not be had.
    pub trouble: Option<String>,
}

/// All of it, for one service.
#[derive(Debug)]
pub struct Catalogue {
    writer: usize,
    ages: Ages,
    registries: Vec<Registry>,
    writes: Writes,
}

impl Catalogue {
    /// Of so many registries, of which nothing is known yet: whatever was written before `now` may have been just before
    /// it.
    pub fn new(registries: usize, writer: usize, ages: Ages, now: Duration) -> Self {
        let registries = (0..registries).map(|_| Registry::default()).collect();
        Self { writer, ages, registries, writes: Writes::since(now) }
    }

    /// A registry has answered a list that was asked for at `sent`.
    pub fn listed(&mut self, place: usize, entries: HashMap<TemplateId, Entry>, sent: Duration) {
        let Some(registry) = self.registries.get_mut(place) else { return };
        registry.versions.retain(|id, _| entries.contains_key(id));
        registry.listing = Some(Listing { entries, sent });
        registry.trouble = None;
        if place == self.writer {
            (0..self.registries.len()).for_each(|place| self.compare(place));
        } else {
            self.compare(place);
        }
        let (cache, valid) = (self.ages.cache, self.ages.valid);
        if self.current(self.writer, sent).is_some() {
            // One without a list that counts has to be asked before it does.
            let listings = self.registries.iter().filter_map(|registry| registry.listing.as_ref());
            let oldest = listings.map(|listing| listing.sent).filter(|at| sent <= *at + valid).min();
            let shown = |ended| oldest.is_some_and(|oldest| ended + cache < oldest);
            self.outdate(shown);
            self.writes.forget(shown);
        }
        debug_assert!(self.holds());
    }

    /// A list could not be had. The one before counts until it is too old.
    pub fn failed(&mut self, place: usize, why: String) {
        if let Some(registry) = self.registries.get_mut(place) {
            registry.trouble = Some(why);
        }
    }

    /// The templates whose versions have to be asked for at a registry, the longest unknown first.
    pub fn wanted(&self, place: usize, now: Duration) -> Vec<TemplateId> {
        let Some(registry) = self.registries.get(place) else { return Vec::new() };
        let Some(listing) = &registry.listing else { return Vec::new() };
        let others: Vec<usize> = match place == self.writer {
            true => (0..self.registries.len()).filter(|other| *other != place).collect(),
            false => vec![self.writer],
        };
        let unclear = |id: &TemplateId, entry: &Entry| {
            others.iter().any(|other| {
                let theirs = self.entry(*other, id);
                theirs.is_some_and(|theirs| !entry.says_the_same(theirs))
            })
        };
        let mut wanted: Vec<(Option<Duration>, &TemplateId)> = listing
            .entries
            .iter()
            .filter(|(id, entry)| unclear(id, entry))
            .filter_map(|(id, entry)| {
                let known = registry.versions.get(id).map(|known| known.sent);
                let good = registry.versions.get(id).is_some_and(|known| {
                    let differs = self.registries.iter().any(|registry| registry.differing.contains(id));
                    let old = known.sent + self.ages.cache < now;
                    let last = self.writes.last(About::Template(id));
                    let shown = |at| last.is_none_or(|last| last.is_shown_by(at, self.ages.cache));
                    known.entry == *entry && !differs && !old && (shown(known.sent) || !shown(now))
                });
                (!good).then_some((known, id))
            })
            .collect();
        wanted.sort_unstable();
        wanted.into_iter().take(ROUND).map(|(_, id)| id.clone()).collect()
    }

    /// A registry has told the versions of a template, asked for at `sent`; `None`: it has no such template.
    pub fn versions(&mut self, place: usize, id: TemplateId, versions: Option<Versions>, sent: Duration) {
        let Some(registry) = self.registries.get_mut(place) else { return };
        // The list of the meantime may not have it any more.
        let Some(entry) = registry.listing.as_ref().and_then(|l| l.entries.get(&id)).copied() else { return };
        registry.versions.insert(id.clone(), Known { versions, entry, sent });
        let places = if place == self.writer { 0..self.registries.len() } else { place..place + 1 };
        for place in places {
            let same = self.is_same(place, &id);
            if let Some(registry) = self.registries.get_mut(place) {
                if same {
                    registry.differing.remove(&id);
                } else {
                    registry.differing.insert(id.clone());
                }
            }
        }
        debug_assert!(self.holds());
    }

    /// A write begins that may change this.
    pub fn begin(&mut self, about: About<'_>) -> Begun {
        self.writes.begin(about)
    }

    /// It is over. `refused`: nothing was changed.
    pub fn end(&mut self, about: About<'_>, begun: Begun, refused: bool, now: Duration) {
        self.writes.end(about, begun, refused, now);
        debug_assert!(self.holds());
    }

    /// Whether what the writer has is known.
    pub fn is_known(&self, now: Duration) -> bool {
        self.current(self.writer, now).is_some()
    }

    /// Where a registry stands with regard to what is asked about.
    pub fn standing(&self, place: usize, about: About<'_>, now: Duration) -> Standing {
        let Some(listing) = self.current(place, now) else { return Standing::Unlisted };
        let Some(registry) = self.registries.get(place) else { return Standing::Unlisted };
        if self
            .writes
            .last(about)
            .is_some_and(|last| !last.is_shown_by(self.seen(place, about), self.ages.cache))
        {
            return Standing::Written;
        }
        match about {
            About::Template(id) => {
                let theirs = listing.entries.get(id);
                let known = theirs.is_some() || self.entry(self.writer, id).is_some();
                if known && !registry.differing.contains(id) {
                    return Standing::Same;
                }
                Standing::Differs { pushed: theirs.map_or(0, |entry| entry.pushed) }
            }
            About::All if registry.differing.is_empty() => Standing::Same,
            About::All => {
                let newest = listing.entries.values().map(|entry| entry.pushed).max();
                Standing::Differs { pushed: newest.unwrap_or(0) }
            }
        }
    }

    /// How many templates are the writer's alone because they were written lately; `None`: all are.
    pub fn written(&self) -> Option<usize> {
        self.writes.count()
    }

    /// How a registry looks to people.
    pub fn view(&self, place: usize, now: Duration) -> View {
        let registry = self.registries.get(place);
        let listing = self.current(place, now);
        let mut named: Vec<TemplateId> = Vec::new();
        let differing = registry.map(|registry| &registry.differing);
        if let Some(differing) = differing {
            named = differing.iter().cloned().collect();
            named.sort_unstable();
            named.truncate(NAMED);
        }
        View {
            templates: listing.map(|listing| listing.entries.len()),
            differing: differing.map_or(0, HashSet::len),
            named,
            age: registry.and_then(|r| r.listing.as_ref()).map(|l| now.saturating_sub(l.sent)),
            trouble: registry.and_then(|registry| registry.trouble.clone()),
        }
    }

    fn current(&self, place: usize, now: Duration) -> Option<&Listing> {
        let listing = self.registries.get(place)?.listing.as_ref()?;
        (now <= listing.sent + self.ages.valid).then_some(listing)
    }

    fn entry(&self, place: usize, id: &TemplateId) -> Option<&Entry> {
        self.registries.get(place)?.listing.as_ref()?.entries.get(id)
    }

    /// When the oldest of what is compared for this was asked for, of the writer and of the registry.
    fn seen(&self, place: usize, about: About<'_>) -> Duration {
        let of = |at: usize| self.registries.get(at).and_then(|registry| registry.listing.as_ref());
        let (Some(writers), Some(theirs)) = (of(self.writer), of(place)) else { return Duration::ZERO };
        let lists = writers.sent.min(theirs.sent);
        let versions = |id: &TemplateId| {
            let of = |at: usize| Some(self.registries.get(at)?.versions.get(id)?.sent);
            let both = [of(self.writer), of(place)];
            both.into_iter().flatten().filter(|_| !self.is_clear(id, place)).min()
        };
        match about {
            About::Template(id) => versions(id).map_or(lists, |versions| versions.min(lists)),
            // Only while something was written lately, and for lists of everything, which are few.
            About::All => writers.entries.keys().filter_map(versions).fold(lists, Duration::min),
        }
    }

    /// Whether the lists alone tell that both have the same.
    fn is_clear(&self, id: &TemplateId, place: usize) -> bool {
        match (self.entry(self.writer, id), self.entry(place, id)) {
            (Some(writers), Some(theirs)) => writers.says_the_same(theirs),
            _ => true,
        }
    }

    fn is_same(&self, place: usize, id: &TemplateId) -> bool {
        if place == self.writer {
            return true;
        }
        match (self.entry(self.writer, id), self.entry(place, id)) {
            (None, None) => true,
            (Some(writers), Some(theirs)) if writers.says_the_same(theirs) => true,
            (Some(writers), Some(theirs)) => {
                let of = |place: usize, entry: &Entry| {
                    let known = self.registries.get(place)?.versions.get(id)?;
                    // What was asked for before the list has changed says nothing.
                    if known.entry == *entry { known.versions.as_ref() } else { None }
                };
                let (writers, theirs) = (of(self.writer, writers), of(place, theirs));
                writers.zip(theirs).is_some_and(|(writers, theirs)| writers.are_those_of(theirs))
            }
            _ => false,
        }
    }

    fn compare(&mut self, place: usize) {
        let of = |place: usize| self.registries.get(place).and_then(|r| r.listing.as_ref());
        let ids: HashSet<&TemplateId> = [of(self.writer), of(place)]
            .into_iter()
            .flatten()
            .flat_map(|listing| listing.entries.keys())
            .collect();
        let differing = ids.into_iter().filter(|id| !self.is_same(place, id)).cloned().collect();
        if let Some(registry) = self.registries.get_mut(place) {
            registry.differing = differing;
        }
    }

    /// Drops versions that were asked for before they would show a write which is forgotten now, for nothing says any more
    /// that they are old. They are asked for again.
    fn outdate(&mut self, shown: impl Fn(Duration) -> bool) {
        if !self.writes.any_ended(&shown) {
            return;
        }
        let mut dropped = false;
        for registry in &mut self.registries {
            let before = registry.versions.len();
            registry.versions.retain(|id, known| {
                let ended = self.writes.ended(id, &shown);
                ended.is_none_or(|ended| ended + self.ages.cache < known.sent)
            });
            dropped |= registry.versions.len() < before;
        }
        if dropped {
            (0..self.registries.len()).for_each(|place| self.compare(place));
        }
    }

    fn holds(&self) -> bool {
        let bounded = |registry: &Registry| {
            let listed = registry.listing.as_ref().map_or(0, |listing| listing.entries.len());
            registry.versions.len() <= listed
        };
        self.registries.iter().all(bounded)
            && self.registries.get(self.writer).is_none_or(|writer| writer.differing.is_empty())
            && self.writes.holds()
    }
}

#[cfg(test)]
mod tests;
