//! Which version agents are served from. Pure: told what the upstreams are and what time it is, it says what should be.
//!
//! What holds, whatever it is told:
//!
//! * one version at a time; it changes in one step;
//! * the choice moves by itself only to a version that was able at the quorum for [`Rules::settle`] without a gap, or,
//!   when nobody of the chosen one was able for [`Rules::fallback`] while others were, to whoever there is;
//! * so two moves by itself are never closer to each other than the shorter of the two;
//! * what an operator has named stays chosen for as long as anybody is of it.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::model::ServerVersion as Version;

/// How long a first choice waits until every upstream was asked once. Longer: it is made from those that answered.
pub(super) const GATHER: Duration = Duration::from_secs(3);

/// When versions take over from each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Share of all upstreams that must be able and of a version before it takes over; rounded up, at least one.
    pub quorum: f64,
    /// For so long.
    pub settle: Duration,
    /// Nobody of the chosen version is able for so long, while others are: they take over.
    pub fallback: Duration,
}

/// One upstream as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it says it is.
    pub version: Option<Version>,
    /// It was asked at least once.
    pub known: bool,
    /// Agents could be served by it, as far as its probes say.
    pub able: bool,
}

/// Why a version is the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// Nothing had been chosen before.
    First,
    /// It was healthy at the quorum for long enough.
    Settled,
    /// Nobody of the one before was able any more.
    Fallback,
    /// An operator said so.
    Ordered,
    /// It was chosen before this process began, or by another proxy.
    Told,
}

impl Why {
    /// The word of logs, metrics and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Settled => "settled",
            Self::Fallback => "fallback",
            Self::Ordered => "ordered",
            Self::Told => "told",
        }
    }

    /// From such a word.
    pub fn parse(word: &str) -> Self {
        let all = [Self::First, Self::Settled, Self::Fallback, Self::Ordered];
        all.into_iter().find(|why| why.as_str() == word).unwrap_or(Self::Told)
    }
}

/// A version that should be the one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub version: Version,
    /// Why.
    pub why: Why,
}

/// How one version stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub version: Version,
    /// Upstreams that say they are of it.
    pub upstreams: usize,
    /// Those of them that are able.
    pub able: usize,
    /// For so long it has been able at the quorum; none while it is not.
    pub settled: Option<Duration>,
}

/// What is chosen, and what may become of it.
#[derive(Debug)]
pub struct Core {
    rules: Rules,
    began: Instant,
    chosen: Option<Version>,
    pin: Option<Version>,
    /// Since when each version has been able at the quorum.
    at_quorum: BTreeMap<Version, Instant>,
    /// Since when the chosen one has not.
    below: Option<Instant>,
    /// Since when nobody of the chosen one is able while others are.
    deserted: Option<Instant>,
    /// Since when somebody of the version that an operator named is able.
    named_able: Option<Instant>,
    /// It was fallen back from.
    fell: bool,
}

impl Core {
    /// Nothing chosen yet.
    pub fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            began: now,
            chosen: None,
            pin: None,
            at_quorum: BTreeMap::new(),
            below: None,
            deserted: None,
            named_able: None,
            fell: false,
        }
    }

    /// From now on by these.
    pub fn obey(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// The chosen version.
    pub fn chosen(&self) -> Option<&Version> {
        self.chosen.as_ref()
    }

    /// What an operator has named.
    pub fn pin(&self) -> Option<&Version> {
        self.pin.as_ref()
    }

    /// An operator names a version, or lets go of the one that was named.
    pub fn set_pin(&mut self, pin: Option<Version>) {
        if self.pin != pin {
            (self.named_able, self.fell) = (None, false);
        }
        self.pin = pin;
    }

    /// This is the one from now on.
    pub fn take(&mut self, Choice { version, why }: Choice) {
        if self.chosen.as_ref() != Some(&version) {
            (self.below, self.deserted) = (None, None);
        }
        self.fell = why == Why::Fallback && self.pin.is_some();
        self.chosen = Some(version);
        debug_assert!(self.holds());
    }

    /// Takes in how the upstreams stand; says which version should be the one, if it is another one.
    pub fn look(&mut self, seen: &[Seen], now: Instant) -> Option<Choice> {
        let standings = count(seen);
        self.keep_time(&standings, seen.len(), now);
        debug_assert!(self.holds());
        let next = self.ordered(&standings, now).or_else(|| match &self.chosen {
            None => self.first(&standings, seen, now),
            Some(chosen) => self.settled(chosen, now).or_else(|| self.fallen(&standings, now)),
        })?;
        (self.chosen.as_ref() != Some(&next.version)).then_some(next)
    }

    /// Whether anything can be chosen among: none of those that are able says what it is, and all were asked.
    pub fn is_blind(&self, seen: &[Seen], now: Instant) -> bool {
        self.chosen.is_none()
            && self.gathered(seen, now)
            && seen.iter().any(|one| one.able)
            && seen.iter().all(|one| !one.able || one.version.is_none())
    }

    /// How every version stands, the highest first.
    pub fn standings(&self, seen: &[Seen], now: Instant) -> Vec<Standing> {
        let of = |(version, (upstreams, able)): (Version, (usize, usize))| Standing {
            settled: self.at_quorum.get(&version).map(|since| now.saturating_duration_since(*since)),
            version,
            upstreams,
            able,
        };
        count(seen).into_iter().rev().map(of).collect()
    }

    /// Upstreams that a version needs, of so many.
    pub fn needed(&self, of: usize) -> usize {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the share is between 0 and 1, and of a few upstreams"
        )]
        let needed = (self.rules.quorum * of as f64).ceil() as usize;
        needed.clamp(1, of.max(1))
    }

    fn keep_time(&mut self, standings: &BTreeMap<Version, (usize, usize)>, of: usize, now: Instant) {
        let needed = self.needed(of);
        let able = |version: &Version| standings.get(version).map_or(0, |(_, able)| *able);
        self.at_quorum.retain(|version, _| able(version) >= needed);
        for (version, (_, able)) in standings {
            if *able >= needed {
                self.at_quorum.entry(version.clone()).or_insert(now);
            }
        }
        let since = |holds: bool, before: Option<Instant>| holds.then(|| before.unwrap_or(now));
        let others = standings.values().any(|(_, able)| *able > 0);
        let below = self.chosen.as_ref().is_some_and(|chosen| !self.at_quorum.contains_key(chosen));
        let deserted = others && self.chosen.as_ref().is_some_and(|chosen| able(chosen) == 0);
        self.below = since(below, self.below);
        self.deserted = since(deserted, self.deserted);
        self.named_able = since(self.pin.as_ref().is_some_and(|pin| able(pin) > 0), self.named_able);
    }

    /// What an operator named, while anybody is of it. Once it was fallen back from, it has to settle like any other.
    fn ordered(&self, standings: &BTreeMap<Version, (usize, usize)>, now: Instant) -> Option<Choice> {
        let choice = Choice { version: self.pin.clone()?, why: Why::Ordered };
        if self.chosen.as_ref() == Some(&choice.version) {
            return self.fallen(standings, now).or(Some(choice));
        }
        let able = now.saturating_duration_since(self.named_able?);
        (!self.fell || able >= self.rules.settle).then_some(choice)
    }

    /// From those that are able, once all were asked: what most of them are, the highest of equals.
    fn first(
        &self,
        standings: &BTreeMap<Version, (usize, usize)>,
        seen: &[Seen],
        now: Instant,
    ) -> Option<Choice> {
        if !self.gathered(seen, now) {
            return None;
        }
        most(standings).map(|version| Choice { version, why: Why::First })
    }

    fn gathered(&self, seen: &[Seen], now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= GATHER || seen.iter().all(|one| one.known)
    }

    /// The highest version that has been at the quorum for long enough. One that is lower than the chosen one only when
    /// that has been below the quorum for as long: an upgrade was taken back.
    fn settled(&self, chosen: &Version, now: Instant) -> Option<Choice> {
        let long = |since: &Instant| now.saturating_duration_since(*since) >= self.rules.settle;
        let (version, _) = self.at_quorum.iter().rev().find(|(_, since)| long(since))?;
        let may = version > chosen || self.below.as_ref().is_some_and(long);
        (may && self.pin.is_none()).then(|| Choice { version: version.clone(), why: Why::Settled })
    }

    /// Whether nobody of the chosen version has been able for long enough, while others are.
    pub fn is_deserted(&self, now: Instant) -> bool {
        self.deserted.is_some_and(|since| now.saturating_duration_since(since) >= self.rules.fallback)
    }

    fn fallen(&self, standings: &BTreeMap<Version, (usize, usize)>, now: Instant) -> Option<Choice> {
        if !self.is_deserted(now) {
            return None;
        }
        most(standings).map(|version| Choice { version, why: Why::Fallback })
    }

    fn holds(&self) -> bool {
        (self.below.is_none() && self.deserted.is_none() || self.chosen.is_some())
            && ((self.named_able.is_none() && !self.fell) || self.pin.is_some())
    }
}

/// Each version with its upstreams and those of them that are able.
fn count(seen: &[Seen]) -> BTreeMap<Version, (usize, usize)> {
    let mut all: BTreeMap<Version, (usize, usize)> = BTreeMap::new();
    for one in seen {
        if let Some(version) = &one.version {
            let (upstreams, able) = all.entry(version.clone()).or_default();
            *upstreams += 1;
            *able += usize::from(one.able);
        }
    }
    all
}

/// What most are that are able; the highest of equals.
fn most(standings: &BTreeMap<Version, (usize, usize)>) -> Option<Version> {
    let able = standings.iter().filter(|(_, (_, able))| *able > 0);
    able.max_by(|(a, (_, x)), (b, (_, y))| x.cmp(y).then_with(|| a.cmp(b)))
        .map(|(version, _)| version.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const RULES: Rules =
        Rules { quorum: 0.5, settle: Duration::from_secs(60), fallback: Duration::from_secs(30) };

    /// One letter for each upstream: its version, upper case if it is able; `.` is able and says none, `?` not asked yet.
    struct Story {
        core: Core,
        begun: Instant,
    }

    impl Story {
        fn new() -> Self {
            let begun = clock::now();
            Self { core: Core::new(RULES, begun), begun }
        }

        fn at(&mut self, second: u64, upstreams: &str) -> Option<(String, Why)> {
            let seen: Vec<Seen> = upstreams.chars().map(seen).collect();
            let choice = self.core.look(&seen, self.begun + Duration::from_secs(second))?;
            self.core.take(choice.clone());
            Some((choice.version.to_string(), choice.why))
        }

        fn chosen(&self) -> &str {
            self.core.chosen().map_or("none", Version::as_str)
        }
    }

    fn seen(letter: char) -> Seen {
        let version = letter.is_ascii_alphabetic().then(|| letter.to_ascii_lowercase().to_string());
        Seen {
            version: version.as_deref().and_then(Version::parse),
            known: letter != '?',
            able: letter.is_ascii_uppercase() || letter == '.',
        }
    }

    fn told(version: &str, why: Why) -> Option<(String, Why)> {
        Some((version.into(), why))
    }

    #[test]
    fn the_first_choice_is_what_most_are_once_all_were_asked() {
        let mut story = Story::new();
        assert_eq!(story.at(0, "?B?"), None, "the others may be another one");
        assert_eq!(story.at(1, "ABA"), told("a", Why::First));
        let mut story = Story::new();
        assert_eq!(story.at(2, "AB?"), None);
        assert_eq!(story.at(3, "AB?"), told("b", Why::First), "one that never answers is not waited for");
    }

    #[test]
    fn a_new_version_takes_over_in_one_step_once_it_has_settled() {
        let mut story = Story::new();
        story.at(0, "AAA");
        for (second, upstreams) in [(10, "aAA"), (20, "BAA"), (30, "BaA"), (40, "BBA"), (99, "BBA")] {
            assert_eq!(story.at(second, upstreams), None, "{second}");
        }
        assert_eq!(story.at(100, "BBA"), told("b", Why::Settled));
        assert_eq!(story.at(200, "BBA"), None);
    }

    #[test]
    fn a_gap_begins_the_time_anew() {
        let mut story = Story::new();
        story.at(0, "AA");
        story.at(10, "AB");
        story.at(60, "Ab");
        story.at(61, "AB");
        assert_eq!(story.at(120, "AB"), None);
        assert_eq!(story.at(121, "AB"), told("b", Why::Settled));
    }

    #[test]
    fn an_upgrade_that_is_taken_back_goes_back() {
        let mut story = Story::new();
        story.at(0, "BBB");
        assert_eq!(story.at(10, "ABB"), None);
        assert_eq!(story.at(100, "ABB"), None, "a lower one at less than the quorum");
        assert_eq!(story.at(110, "AAB"), None);
        assert_eq!(story.at(170, "AAB"), told("a", Why::Settled));
    }

    #[test]
    fn nobody_of_it_for_long_while_others_are_means_whoever_there_is() {
        let mut story = Story::new();
        story.at(0, "AAB");
        story.at(10, "aaB");
        assert_eq!(story.at(39, "aaB"), None);
        assert_eq!(story.at(40, "aaB"), told("b", Why::Fallback));
        // With nobody at all there is nobody to go to, however long that lasts, and who comes back first is no reason.
        let mut story = Story::new();
        story.at(0, "AAB");
        story.at(10, "aab");
        assert_eq!(story.at(500, "aab"), None);
        assert_eq!(story.at(501, "aaB"), None);
        assert_eq!(story.at(510, "AaB"), None);
        assert_eq!(story.chosen(), "a");
    }

    #[test]
    fn what_an_operator_names_is_taken_at_once_and_kept() {
        let mut story = Story::new();
        story.at(0, "BBA");
        story.core.set_pin(Version::parse("a"));
        assert_eq!(story.at(1, "BBA"), told("a", Why::Ordered));
        assert_eq!(story.at(500, "BBA"), None, "the rule says nothing while it is named");
        // Nobody of it: whoever there is; and back once it has settled.
        assert_eq!(story.at(510, "BBa"), None);
        assert_eq!(story.at(540, "BBa"), told("b", Why::Fallback));
        assert_eq!(story.at(550, "BBA"), None);
        assert_eq!(story.at(610, "BBA"), told("a", Why::Ordered));
        story.core.set_pin(None);
        assert_eq!(story.at(611, "BBA"), told("b", Why::Settled));
    }

    #[test]
    fn without_a_word_about_versions_there_is_nothing_to_choose() {
        let core = Core::new(RULES, clock::now());
        let of = |upstreams: &str| upstreams.chars().map(seen).collect::<Vec<_>>();
        assert!(core.is_blind(&of(".."), clock::now()));
        assert!(!core.is_blind(&of(".A"), clock::now()));
        assert!(!core.is_blind(&of(".?"), clock::now()), "not all were asked");
    }

    #[test]
    fn the_quorum_is_rounded_up_and_never_nobody() {
        let of = |quorum, upstreams| Core::new(Rules { quorum, ..RULES }, clock::now()).needed(upstreams);
        assert_eq!([of(0.5, 1), of(0.5, 2), of(0.5, 3), of(0.5, 4), of(0.5, 5)], [1, 1, 2, 2, 3]);
        assert_eq!([of(0.0, 4), of(1.0, 4), of(0.5, 0)], [1, 4, 1]);
    }
}
