//! What was written lately, and is the writer's alone until lists show it.

use std::{collections::HashMap, time::Duration};

use super::About;
use crate::model::TemplateId;

/// Templates that are kept apart. With more of them written at a time, all count as written: the writer then answers for
/// quiet ones too.
pub const MARKS: usize = 1024;

/// The writes of one template, or of nobody knows which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    under_way: u32,
    ended: Option<Duration>,
}

impl Mark {
    /// Whether lists that were asked for at `seen`, and may be older by `cache`, show it.
    pub(super) fn is_shown_by(&self, seen: Duration, cache: Duration) -> bool {
        self.under_way == 0 && self.ended.is_none_or(|ended| ended + cache < seen)
    }

    fn with(&self, other: &Self) -> Self {
        let under_way = self.under_way.saturating_add(other.under_way);
        Self { under_way, ended: self.ended.max(other.ended) }
    }
}

/// A write that has begun, and how it was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun(u64);

#[derive(Debug, Default)]
pub(super) struct Writes {
    of: HashMap<TemplateId, Mark>,
    /// Of those that name no template; counts for each.
    any: Mark,
    /// How often there were too many: writes that began before are counted in `any` since.
    merged: u64,
}

impl Writes {
    /// Any may have been until this moment.
    pub(super) fn since(now: Duration) -> Self {
        Self { any: Mark { under_way: 0, ended: Some(now) }, ..Self::default() }
    }

    pub(super) fn begin(&mut self, about: About<'_>) -> Begun {
        let mark = self.mark(about);
        mark.under_way = mark.under_way.saturating_add(1);
        // Behind it: this one may have been the one too many.
        Begun(self.merged)
    }

    pub(super) fn end(&mut self, about: About<'_>, begun: Begun, refused: bool, now: Duration) {
        let about = if begun == Begun(self.merged) { about } else { About::All };
        let mark = self.mark(about);
        mark.under_way = mark.under_way.saturating_sub(1);
        if !refused {
            mark.ended = mark.ended.max(Some(now));
        }
        self.of.retain(|_, mark| *mark != Mark::default());
    }

    /// What bears on this.
    pub(super) fn last(&self, about: About<'_>) -> Option<Mark> {
        let mark = match about {
            About::Template(id) => self.of.get(id).map_or(self.any, |mark| mark.with(&self.any)),
            About::All => self.of.values().fold(self.any, |all, mark| all.with(mark)),
        };
        (mark != Mark::default()).then_some(mark)
    }

    /// Drops those that everybody's lists show by now.
    pub(super) fn forget(&mut self, shown: impl Fn(Duration) -> bool) {
        let done = |mark: &Mark| mark.under_way == 0 && mark.ended.is_none_or(&shown);
        self.of.retain(|_, mark| !done(mark));
        if done(&self.any) {
            self.any = Mark::default();
        }
    }

    /// Whether any has ended that is `shown`.
    pub(super) fn any_ended(&self, shown: impl Fn(Duration) -> bool) -> bool {
        self.of.values().chain([&self.any]).any(|mark| mark.ended.is_some_and(&shown))
    }

    /// When the last that bears on this template has ended, of those that are `shown`.
    pub(super) fn ended(&self, id: &TemplateId, shown: impl Fn(Duration) -> bool) -> Option<Duration> {
        let own = self.of.get(id).and_then(|mark| mark.ended);
        [own, self.any.ended].into_iter().flatten().filter(|ended| shown(*ended)).max()
    }

    pub(super) fn count(&self) -> Option<usize> {
        (self.any == Mark::default()).then_some(self.of.len())
    }

    pub(super) fn holds(&self) -> bool {
        self.of.len() <= MARKS && self.of.values().all(|mark| *mark != Mark::default())
    }

    fn mark(&mut self, about: About<'_>) -> &mut Mark {
        let About::Template(id) = about else { return &mut self.any };
        if !self.of.contains_key(id) && self.of.len() >= MARKS {
            self.any = self.of.drain().fold(self.any, |all, (_, mark)| all.with(&mark));
            self.merged += 1;
        }
        self.of.entry(id.clone()).or_default()
    }
}
