//! One upstream as it stands at the moment of a choice.

use super::Out;
use crate::{
    balance::{Entry, Latency, Weight, hash, mix},
    health::{State, Verdict},
    model::UpstreamName,
    proxy::{freshness::Standing, room::Bound},
};

/// One upstream as it stands now.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a UpstreamName,
    /// What probes say.
    pub verdict: &'a Verdict,
    /// Requests under way.
    pub outstanding: u64,
    /// It takes no more than so many at once.
    pub most: Option<u64>,
    /// It is at another bound.
    pub bound: Option<Bound>,
    /// Where it stands with what became of requests.
    pub out: Out,
    /// Whether it has what the request needs; read only when [`super::Want::fresh`] is given.
    pub standing: Standing,
    /// It is of another version than the request, which is an agent's, may be served from.
    pub apart: bool,
    /// An operator says that it takes nothing new.
    pub drained: bool,
    /// Its part of the whole, as it is configured.
    pub weight: Weight,
    /// What it has of that now: less while it comes back.
    pub part: Weight,
    /// It is in the proxy's own zone.
    pub local: bool,
    /// How fast it answers; known only when it is balanced by.
    pub latency: Latency,
    /// Stands for its name in hashes.
    pub seed: u64,
}

impl<'a> Candidate<'a> {
    /// One with nothing under way, of weight 1, of no zone and without a limit.
    pub fn plain(name: &'a UpstreamName, verdict: &'a Verdict) -> Self {
        Self {
            name,
            verdict,
            outstanding: 0,
            most: None,
            bound: None,
            out: Out::In,
            standing: Standing::Unclaimed,
            apart: false,
            drained: false,
            weight: Weight::of(1),
            part: Weight::of(1),
            local: false,
            latency: Latency::UNKNOWN,
            seed: seed(name),
        }
    }

    /// Whether it passes its probes.
    pub(super) fn is_up(&self) -> bool {
        self.verdict.state == State::Up
    }

    /// Whether it is at one of its bounds, or what it takes next waits already.
    pub fn is_full(&self) -> bool {
        self.bound.is_some() || self.most.is_some_and(|most| self.outstanding >= most)
    }

    /// Whether it has all of its weight, as one that has been there for a while.
    pub fn is_whole(&self) -> bool {
        self.part >= self.weight
    }

    /// What it has of its weight, from 0 to 1.
    pub fn wholeness(&self) -> f64 {
        self.part.shown() / self.weight.shown()
    }

    /// Whether it takes requests as they come.
    pub fn takes(&self) -> bool {
        self.is_up() && !self.is_full() && self.out == Out::In
    }

    /// For a choice by weight and load.
    pub(super) fn entry(&self) -> Entry {
        Entry { weight: self.part, load: self.outstanding, latency: self.latency, seed: self.seed }
    }

    /// For a choice that all proxies make alike: what only this one sees does not count.
    pub(super) fn lasting(&self) -> Entry {
        Entry { weight: self.weight, ..Entry::plain(self.seed, 0) }
    }
}

/// What stands for a name in hashes.
pub fn seed(name: &UpstreamName) -> u64 {
    hash(name.as_str().as_bytes())
}

/// What a cookie calls an upstream of this seed: always the same, and it does not say its name.
pub fn tag(seed: u64) -> u64 {
    mix(seed ^ 0x5357_4954_4348_5944)
}
