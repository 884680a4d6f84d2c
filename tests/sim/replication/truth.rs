//! What really happened, seen from outside with one clock, and whether answers agree with it.
//!
//! A *line* is one writer's history. It begins anew when an operator makes another registry the writer or its storage
//! is replaced; what is then not in it any more is the tail of the old line, and may be shown only while a lease of
//! the writer before may be live.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use switchyard::{
    model::{Position, RepositoryName},
    registry::{content::Catalogue, writer::leases::AT_WRITER},
};

use super::{
    proxy::Proxy,
    registry::Server,
    world::World,
    writer::{Question, Shown},
};

/// One state of one repository; `None` before its first change.
struct State {
    catalogue: Option<Rc<Catalogue>>,
    acknowledged: Option<Duration>,
}

#[derive(Default)]
pub(super) struct Truth {
    line: u32,
    since: Duration,
    states: BTreeMap<RepositoryName, Vec<State>>,
    /// How many of its states a repository kept from the line before.
    kept: BTreeMap<RepositoryName, usize>,
    tail: BTreeMap<RepositoryName, Vec<Rc<Catalogue>>>,
    pub(super) acknowledged: usize,
}

/// What one reader has seen.
#[derive(Default)]
pub(super) struct Memory {
    line: u32,
    seen: BTreeMap<RepositoryName, usize>,
}

/// A read as its client made it.
pub(super) struct Read {
    began: Duration,
    line: u32,
    /// The last acknowledged state of each repository, before it began.
    due: BTreeMap<RepositoryName, usize>,
}

fn empty(catalogue: Option<&Rc<Catalogue>>) -> bool {
    catalogue.is_none_or(|catalogue| catalogue.is_empty())
}

impl Truth {
    /// The writer has this catalogue now.
    pub(super) fn shows(&mut self, catalogue: &Rc<Catalogue>) {
        let states = states(&mut self.states, &catalogue.name);
        let newest = states.last().and_then(|state| state.catalogue.as_ref());
        if newest.is_none_or(|newest| newest.changed < catalogue.changed) {
            states.push(State { catalogue: Some(catalogue.clone()), acknowledged: None });
        }
    }

    fn acknowledge(&mut self, repository: &RepositoryName, position: Position, now: Duration) -> bool {
        self.acknowledged += 1;
        let states = states(&mut self.states, repository);
        let at = |state: &&mut State| state.catalogue.as_ref().is_some_and(|it| it.changed == position);
        states.iter_mut().find(at).map(|state| state.acknowledged = Some(now)).is_some()
    }

    /// Another history is the history from now on: that of these catalogues.
    pub(super) fn begin_line(&mut self, catalogues: &BTreeMap<RepositoryName, Rc<Catalogue>>, now: Duration) {
        (self.line, self.since) = (self.line + 1, now);
        for (name, states) in &mut self.states {
            let upto = catalogues.get(name).map(|catalogue| catalogue.changed);
            let kept = |state: &State| state.catalogue.as_ref().is_none_or(|it| Some(it.changed) <= upto);
            let keep = states.iter().take_while(|state| kept(state)).count();
            let tail = states.split_off(keep).into_iter().filter_map(|state| state.catalogue);
            self.tail.entry(name.clone()).or_default().extend(tail);
            self.kept.insert(name.clone(), keep);
        }
        // A change that was in the log, and that the writer before did not come to show.
        catalogues.values().for_each(|catalogue| self.shows(catalogue));
    }

    /// A client asks.
    pub(super) fn ask(&self, now: Duration) -> Read {
        let due = |states: &Vec<State>| {
            states.iter().rposition(|state| state.acknowledged.is_some_and(|at| at <= now)).unwrap_or(0)
        };
        let due = self.states.iter().map(|(name, states)| (name.clone(), due(states))).collect();
        Read { began: now, line: self.line, due }
    }

    /// Judges what an answer shows of one repository. Says what is wrong with it.
    fn judge(
        &self,
        read: &Read,
        memory: &mut Memory,
        marked: bool,
        name: &RepositoryName,
        fits: &dyn Fn(Option<&Rc<Catalogue>>) -> bool,
    ) -> Result<(), String> {
        let none = Vec::new();
        let states = self.states.get(name).unwrap_or(&none);
        let fitting: Vec<usize> = if states.is_empty() && fits(None) {
            vec![0]
        } else {
            let fitting = states.iter().enumerate().filter(|(_, state)| fits(state.catalogue.as_ref()));
            fitting.map(|(at, _)| at).collect()
        };
        let in_tail = self.tail.get(name).is_some_and(|tail| tail.iter().any(|it| fits(Some(it))));
        if fitting.is_empty() && !in_tail {
            return Err(format!("NEVER WRONG: {name} never was so"));
        }
        // Who asked one writer and was answered under the next may be told of either.
        if marked || read.line != self.line {
            return Ok(());
        }
        if memory.line != self.line {
            memory.line = self.line;
            for (name, seen) in &mut memory.seen {
                *seen = (*seen).min(self.kept.get(name).copied().unwrap_or(1).saturating_sub(1));
            }
        }
        let due = read.due.get(name).copied().unwrap_or(0);
        let seen = memory.seen.get(name).copied().unwrap_or(0);
        if let Some(shown) = fitting.iter().find(|at| **at >= due.max(seen)) {
            memory.seen.insert(name.clone(), *shown);
            return Ok(());
        }
        let kept = self.kept.get(name).copied().unwrap_or(1);
        if in_tail && due < kept.max(1) && read.began < self.since + AT_WRITER {
            return Ok(());
        }
        let told = |at: usize| match states.get(at).and_then(|state| state.catalogue.as_ref()) {
            Some(catalogue) => {
                format!("{} ({})", catalogue.changed, if catalogue.is_empty() { "empty" } else { "full" })
            }
            None => "nothing".to_owned(),
        };
        let shown: Vec<String> = fitting.iter().map(|at| told(*at)).collect();
        let which = shown.join(" or ");
        if fitting.is_empty() {
            return Err(format!(
                "NEVER WRONG: {name} is shown as an earlier writer had it, and no other has"
            ));
        }
        if fitting.iter().all(|at| *at < due) {
            return Err(format!(
                "ACKNOWLEDGED MEANS VISIBLE: {name} at {} was acknowledged, and {which} is shown",
                told(due)
            ));
        }
        Err(format!("MONOTONIC: {name} was seen at {}, and {which} is shown", told(seen)))
    }
}

fn states<'a>(
    all: &'a mut BTreeMap<RepositoryName, Vec<State>>,
    name: &RepositoryName,
) -> &'a mut Vec<State> {
    all.entry(name.clone()).or_insert_with(|| vec![State { catalogue: None, acknowledged: None }])
}

impl World {
    /// An answer has come to its client: `None` is "not found".
    pub(super) fn check(
        &self,
        who: &str,
        read: &Read,
        memory: &mut Memory,
        marked: bool,
        question: &Question,
        shown: Option<&Shown>,
    ) {
        let truth = self.truth.borrow();
        let mut faults = Vec::new();
        let mut judge = |name: &RepositoryName, fits: &dyn Fn(Option<&Rc<Catalogue>>) -> bool| {
            faults.extend(truth.judge(read, memory, marked, name, fits).err());
        };
        match (question, shown) {
            (Question::Tags(name), None) => judge(name, &empty),
            (Question::Tags(name), Some(Shown::Tags(shown))) => judge(name, &|it| it == Some(shown)),
            (Question::Manifest(name, tag), None) => {
                judge(name, &|it| it.is_none_or(|it| !it.tags.contains_key(tag)));
            }
            (Question::Manifest(name, tag), Some(Shown::Manifest(digest))) => {
                judge(name, &|it| it.and_then(|it| it.tags.get(tag)).is_some_and(|it| it.digest == *digest));
            }
            (Question::All, Some(Shown::All(all))) => {
                for name in &self.repositories {
                    match all.get(name) {
                        Some(shown) => judge(name, &|it| it == Some(shown)),
                        None => judge(name, &empty),
                    }
                }
            }
            // A blob is needed by every state since before the read that still has its manifest.
            (Question::Blob(name, digest), None) if !marked && read.line == truth.line => {
                let due = read.due.get(name).copied().unwrap_or(0);
                let has = |it: &Rc<Catalogue>| self.blobs(it).iter().any(|blob| blob.digest == *digest);
                let states = truth.states.get(name).into_iter().flatten().skip(due);
                let mut states = states.map(|state| state.catalogue.as_ref()).peekable();
                if states.peek().is_some() && states.all(|it| it.is_some_and(has)) {
                    faults.push(format!("NEVER WRONG: a blob of {name} was not found"));
                }
            }
            _ => {}
        }
        for fault in faults {
            self.breaks(format!("{who}: {fault} (asked at {:.3} s)", read.began.as_secs_f64()));
        }
    }

    /// The writer acknowledges a change, now.
    pub(super) fn acknowledged(
        &self,
        server: &Server,
        repository: &RepositoryName,
        position: Position,
        appended: Duration,
    ) {
        let now = self.engine.now();
        self.trace(|| format!("{} acknowledges {position} of {repository}", server.name()));
        if !self.truth.borrow_mut().acknowledge(repository, position, now) {
            self.breaks(format!("{position} of {repository} was acknowledged and never shown"));
        }
        for proxy in self.proxies() {
            if let Some(need) = proxy.believes(repository)
                && need < position
            {
                let name = proxy.name();
                self.breaks(format!(
                    "LEASES: {position} of {repository} was acknowledged while {name} has a lease and knows of {need}"
                ));
            }
        }
        let took = now - appended;
        if took > SLOW {
            self.slow.borrow_mut().push((appended, now));
        }
    }

    /// A lease is good only with all that was acknowledged before it was given.
    pub(super) fn audit(&self, proxy: &Proxy) {
        let truth = self.truth.borrow();
        for (name, states) in
            truth.states.iter().filter(|_| proxy.follow.borrow().writer == self.writer.get())
        {
            let acknowledged = states.iter().rev().find(|state| state.acknowledged.is_some());
            let Some(due) = acknowledged.and_then(|state| state.catalogue.as_ref()) else { continue };
            if let Some(need) = proxy.believes(name)
                && need < due.changed
            {
                let (who, at) = (proxy.name(), due.changed);
                self.breaks(format!(
                    "LEASES: {who} has a lease, and knows of {name} only up to {need}, not {at}"
                ));
            }
        }
    }

    /// Whether all that it shows is here.
    pub(super) fn complete(&self, server: &Server, catalogue: &Catalogue) {
        let disk = self.sites[server.place].disk.borrow();
        if let Some(blob) = self.blobs(catalogue).iter().find(|blob| !disk.blobs.contains(&blob.digest)) {
            let (name, at, who) = (&catalogue.name, catalogue.changed, server.name());
            self.breaks(format!("NEVER WRONG: {who} shows {name} at {at} without blob {}", blob.digest));
        }
    }

    /// Pushes that took long, together where they waited at the same time: each needs a disturbance of its own.
    pub(super) fn slow_bouts(&self) -> usize {
        let mut slow = self.slow.borrow().clone();
        slow.sort();
        let (mut bouts, mut until) = (0, Duration::ZERO);
        for (from, to) in slow {
            if from >= until {
                bouts += 1;
            }
            until = until.max(to);
        }
        bouts
    }

    /// A registry has come up as the writer.
    pub(super) fn reigns(&self, place: usize) {
        if self.succession.take() {
            self.trace(|| format!("{} begins another history", self.sites[place].name));
            let now = self.engine.now();
            self.truth.borrow_mut().begin_line(&self.sites[place].disk.borrow().catalogues, now);
        }
    }
}

/// An acknowledgement that takes longer is slow: healthy proxies confirm within the time of two messages.
const SLOW: Duration = Duration::from_millis(1500);
