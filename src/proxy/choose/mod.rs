//! Step 6: which upstream takes the next attempt, and why. Reads what it is given; opens nothing.
//!
//! Filters first, balance second. What a filter dropped keeps its reason, so that log, error answer and
//! admin API say the same.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::classify::Route;
use crate::{
    balance,
    config::proxy::Balance,
    health::{May, State, Verdict},
    model::UpstreamName,
};

/// One upstream as it stands now.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a UpstreamName,
    /// What probes say.
    pub verdict: Arc<Verdict>,
    /// Requests under way.
    pub outstanding: u64,
}

/// What the request needs.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// What it is.
    pub route: Route,
    /// Only this place will do: the write registry.
    pub writer: Option<usize>,
    /// Only an upstream that declares this ability will do.
    pub ability: Option<&'static str>,
}

/// What the attempts so far have taught.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tried {
    /// Places where the request was sent.
    sent: Vec<usize>,
    /// Places that could not be connected to; forgotten after a while, for nothing was sent.
    refused: Vec<usize>,
    /// One was asked twice already.
    again: bool,
}

impl Tried {
    /// It was sent there.
    pub fn sent(&mut self, place: usize) {
        self.again |= self.sent.contains(&place);
        self.sent.push(place);
    }

    /// Connecting there failed.
    pub fn refused(&mut self, place: usize) {
        self.refused.push(place);
    }

    /// Lets those that could not be connected to be tried once more.
    pub fn forgive(&mut self) {
        self.refused.clear();
    }

    /// Whether anything was sent to anyone.
    pub fn sent_any(&self) -> bool {
        !self.sent.is_empty()
    }
}

/// Chance and turn of one choice.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Counts up by one per choice.
    pub turn: usize,
    /// Evenly spread.
    pub chance: u64,
}

/// The pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Its place among the candidates.
    pub place: usize,
    /// Why this one.
    pub why: Why,
}

/// Why an upstream was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// By balance, among so many.
    Balanced {
        /// How.
        by: Balance,
        /// How many were eligible.
        among: usize,
    },
    /// It is the writer.
    Writer,
    /// Nothing else was eligible.
    Only,
    /// It was asked before without an answer and there is no other.
    Again,
    /// Its probes fail, but so do all others' and the hold is over.
    Desperate,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balanced { by: Balance::RoundRobin, among } => write!(f, "round-robin among {among}"),
            Self::Balanced { by: Balance::LeastRequests, among } => write!(f, "least-requests among {among}"),
            Self::Writer => f.write_str("the writer"),
            Self::Only => f.write_str("the only eligible one"),
            Self::Again => f.write_str("asked again, there is no other"),
            Self::Desperate => f.write_str("tried although its probes fail, all others' do too"),
        }
    }
}

/// Why one was not eligible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Its probes fail.
    Down(String),
    /// Not probed yet.
    Unknown,
    /// It says that it cannot serve this kind of request.
    Withheld(String),
    /// It is not the writer.
    NotWriter,
    /// It does not declare the ability that a repeat needs.
    Unable,
    /// It was tried for this request.
    Tried,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(why) => write!(f, "down, {why}"),
            Self::Unknown => f.write_str("not probed yet"),
            Self::Withheld(why) => f.write_str(why),
            Self::NotWriter => f.write_str("not the writer"),
            Self::Unable => f.write_str("does not support repeats"),
            Self::Tried => f.write_str("tried already"),
        }
    }
}

/// Nothing was eligible: each upstream with its reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoneLeft(pub Vec<(String, Reason)>);

impl fmt::Display for NoneLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, reason)) in self.0.iter().enumerate() {
            let gap = if at > 0 { "; " } else { "" };
            write!(f, "{gap}{name}: {reason}")?;
        }
        Ok(())
    }
}

/// Chooses the upstream of the next attempt. With `desperate`, and only if none passes its probes, one whose
/// probes fail will do; nothing else is relaxed by it.
pub fn next(
    candidates: &[Candidate<'_>],
    want: &Want,
    tried: &Tried,
    how: Balance,
    desperate: bool,
    draw: Draw,
) -> Result<Chosen, NoneLeft> {
    let mut fresh = Vec::with_capacity(candidates.len());
    let mut asked = None;
    let mut hopeless = Vec::new();
    let mut proven = false;
    for (place, candidate) in candidates.iter().enumerate() {
        if barred(place, candidate, want).is_some() {
            continue;
        }
        let up = candidate.verdict.state == State::Up;
        proven |= up;
        let sent = tried.sent.contains(&place);
        match (up, sent || tried.refused.contains(&place)) {
            (true, false) => fresh.push(place),
            (true, true) if sent => asked = Some(place),
            (false, false) => hopeless.push(place),
            _ => {}
        }
    }
    if let Some(place) = pick(candidates, &fresh, how, draw) {
        let why = match fresh.len() {
            _ if want.writer == Some(place) => Why::Writer,
            1 => Why::Only,
            among => Why::Balanced { by: how, among },
        };
        return Ok(Chosen { place, why });
    }
    if let Some(place) = asked
        && !tried.again
    {
        return Ok(Chosen { place, why: Why::Again });
    }
    if desperate
        && !proven
        && let Some(place) = pick(candidates, &hopeless, how, draw)
    {
        return Ok(Chosen { place, why: Why::Desperate });
    }
    Err(none_left(candidates, want))
}

/// For how long none that could serve such a request has passed its probes; `None` when one does, or when
/// one was never asked.
pub fn failing_for(candidates: &[Candidate<'_>], want: &Want, now: Instant) -> Option<Duration> {
    let mut since = None;
    for (_, candidate) in candidates.iter().enumerate().filter(|(place, c)| barred(*place, c, want).is_none())
    {
        if candidate.verdict.state != State::Down {
            return None;
        }
        since = since.max(Some(candidate.verdict.since));
    }
    since.map(|since| now.saturating_duration_since(since))
}

/// What nothing relaxes.
fn barred(place: usize, candidate: &Candidate<'_>, want: &Want) -> Option<Reason> {
    if want.writer.is_some_and(|writer| writer != place) {
        return Some(Reason::NotWriter);
    }
    if let May::No(why) = candidate.verdict.may(want.route.class, want.route.access) {
        return Some(Reason::Withheld(why.clone()));
    }
    if want.ability.is_some_and(|ability| !candidate.verdict.supports(ability)) {
        return Some(Reason::Unable);
    }
    None
}

fn pick(candidates: &[Candidate<'_>], places: &[usize], how: Balance, draw: Draw) -> Option<usize> {
    let at = match how {
        Balance::RoundRobin => balance::round_robin(places.len(), draw.turn),
        Balance::LeastRequests => {
            let load = |place: &usize| candidates.get(*place).map_or(u64::MAX, |c| c.outstanding);
            let loads: Vec<u64> = places.iter().map(load).collect();
            balance::least_requests(&loads, draw.chance)
        }
    };
    places.get(at?).copied()
}

fn none_left(candidates: &[Candidate<'_>], want: &Want) -> NoneLeft {
    let reason = |(place, candidate): (usize, &Candidate<'_>)| {
        let reason = barred(place, candidate, want).unwrap_or_else(|| match candidate.verdict.state {
            State::Down => Reason::Down(candidate.verdict.evidence.clone()),
            State::Unknown => Reason::Unknown,
            State::Up => Reason::Tried,
        });
        (candidate.name.to_string(), reason)
    };
    NoneLeft(candidates.iter().enumerate().map(reason).collect())
}

#[cfg(test)]
mod tests;
