//! One server, as it really is.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};
use switchyard::{
    health::Found,
    model::{ServerVersion, UpstreamName},
    proxy::retry::{self, What},
    wire::ready::Ready,
};

use super::plan::{MS, Plan};

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Well,
    /// Passes its probes and fails requests.
    Fails,
    /// Answers neither in time.
    Hangs,
    /// Nobody listens.
    Dead,
    /// Every other request fails, by chance.
    Flaky,
}

pub(super) const WAYS: [Way; 5] = [Way::Well, Way::Fails, Way::Hangs, Way::Dead, Way::Flaky];

/// How an attempt ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Answered,
    Status(u16),
    Broken(retry::Event),
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: UpstreamName,
    pub(super) way: Way,
    /// It has ever been anything but well or dead.
    pub(super) faulty: bool,
    /// How long it takes to answer.
    pub(super) takes: Duration,
    /// At least, and at most, since the beginning.
    pub(super) took: (Duration, Duration),
    pub(super) weight: u32,
    pub(super) zone: usize,
    pub(super) most: Option<u64>,
    pub(super) version: ServerVersion,
}

impl Server {
    pub(super) fn new(at: usize, plan: &Plan, version: &ServerVersion, rng: &mut StdRng) -> Self {
        let takes = MS * rng.random_range(1..400);
        Self {
            name: UpstreamName::parse(format!("s{at}")).unwrap(),
            way: Way::Well,
            faulty: false,
            takes,
            took: (takes, takes),
            weight: if plan.even { 1 } else { rng.random_range(1..8) },
            zone: rng.random_range(0..3),
            most: plan.limited.then(|| rng.random_range(1..12)),
            version: version.clone(),
        }
    }

    /// From now on it takes so long.
    pub(super) fn takes(&mut self, takes: Duration) {
        self.takes = takes;
        self.took = (self.took.0.min(takes), self.took.1.max(takes));
    }

    /// What a probe finds.
    pub(super) fn probe(&self) -> Found {
        match self.way {
            Way::Hangs => Found::Bad { why: "no answer".into() },
            Way::Dead => Found::Bad { why: "connect refused".into() },
            Way::Well | Way::Fails | Way::Flaky => {
                let version = Some(self.version.to_string());
                let ready = Ready { ready: true, version, ..Ready::default() };
                Found::Good { seen: "200".into(), ready: Some(ready) }
            }
        }
    }

    /// After so many milliseconds an attempt that begins now ends like this. A poll waits on purpose.
    pub(super) fn attempt(&self, poll: bool, rng: &mut StdRng) -> (u64, End) {
        let takes = if poll { 10_000 } else { self.takes.as_millis() as u64 };
        match self.way {
            Way::Well => (takes, End::Answered),
            Way::Fails => (rng.random_range(1..50), End::Status([500, 502, 503][rng.random_range(0..3)])),
            Way::Hangs => (2250, End::Broken(retry::Event::NoAnswer(What::TimedOut))),
            Way::Dead => (1, End::Broken(retry::Event::ConnectFailed)),
            Way::Flaky if rng.random_bool(0.5) => (rng.random_range(1..300), End::Status(503)),
            Way::Flaky => (takes, End::Answered),
        }
    }
}
