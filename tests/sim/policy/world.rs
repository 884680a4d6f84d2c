//! Servers, time, and what each proxy keeps of them.

use std::time::Duration;

use http::Method;
use rand::{Rng, SeedableRng, rngs::StdRng};
use switchyard::{
    balance::{PeakEwma, Weight, hash, slow_start},
    clock,
    config::proxy::{Balance, Kind},
    health::{Found, State, verdict::Tracker},
    model::UpstreamName,
    proxy::{
        choose::{self, Affinity, By, Candidate, Chosen, Draw, NoneLeft, Tried, Want},
        classify,
    },
};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

/// Clients, and things that requests are about.
const KEYS: u64 = 40;

/// One server, as it is.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: UpstreamName,
    pub(super) alive: bool,
    /// How long it takes to answer.
    pub(super) takes: Duration,
    /// At least, and at most, since the beginning.
    pub(super) took: (Duration, Duration),
    pub(super) weight: u32,
    pub(super) zone: usize,
    pub(super) most: Option<u64>,
}

/// What one proxy keeps of one server.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) tracker: Tracker,
    next_probe: Instant,
    pub(super) outstanding: u64,
    mean: PeakEwma,
}

/// One proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) zone: usize,
    turn: usize,
    pub(super) of: Vec<Known>,
}

/// How requests of this run are spread; the same at every proxy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) balance: Balance,
    pub(super) sticky: bool,
    pub(super) zoned: bool,
    slow_start: Duration,
}

/// A request under way.
#[derive(Debug)]
struct Flight {
    proxy: usize,
    place: usize,
    began: Instant,
    until: Instant,
    /// A poll: it waits on purpose.
    parked: bool,
}

/// A request that arrives.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) proxy: usize,
    pub(super) want: Want,
    pub(super) tried: Tried,
    pub(super) desperate: bool,
    pub(super) draw: Draw,
    parked: bool,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A proxy has changed its mind about a server.
    Turned,
    /// A request found an upstream; it is not under way yet.
    Chosen { asked: Asked, chosen: Chosen },
    /// It found none.
    Nobody { asked: Asked, none: NoneLeft },
}

/// All of it.
pub(super) struct World {
    rng: StdRng,
    pub(super) now: Instant,
    began: Instant,
    pub(super) rules: Rules,
    pub(super) servers: Vec<Server>,
    pub(super) proxies: Vec<Proxy>,
    flights: Vec<Flight>,
    /// Requests that found an upstream.
    pub(super) chosen: usize,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = clock::now();
        let rules = Rules {
            balance: Balance::ALL[rng.random_range(0..Balance::ALL.len())],
            sticky: rng.random_bool(0.3),
            zoned: rng.random_bool(0.4),
            slow_start: MS * [0, 5_000, 60_000][rng.random_range(0..3)],
        };
        let (even, limited) = (rng.random_bool(0.4), rng.random_bool(0.3));
        let count = rng.random_range(1..12);
        let mut servers = Vec::with_capacity(count);
        for at in 0..count {
            let takes = MS * rng.random_range(1..400);
            servers.push(Server {
                name: UpstreamName::parse(format!("s{at}")).unwrap(),
                alive: true,
                takes,
                took: (takes, takes),
                weight: if even { 1 } else { rng.random_range(1..8) },
                zone: rng.random_range(0..3),
                most: limited.then(|| rng.random_range(1..12)),
            });
        }
        let known = || Known {
            tracker: Tracker::new(2, 3, now, clock::wall()),
            next_probe: now,
            outstanding: 0,
            mean: PeakEwma::default(),
        };
        let mut proxies = Vec::new();
        for _ in 0..rng.random_range(1..4) {
            let of = (0..count).map(|_| known()).collect();
            proxies.push(Proxy { zone: rng.random_range(0..3), turn: 0, of });
        }
        Self { rng, now, began: now, rules, servers, proxies, flights: Vec::new(), chosen: 0 }
    }

    /// What one proxy knows at this moment, for its next choice.
    pub(super) fn candidates(&self, proxy: usize) -> Vec<Candidate<'_>> {
        let proxy = &self.proxies[proxy];
        let mut all = Vec::with_capacity(self.servers.len());
        for (server, known) in self.servers.iter().zip(&proxy.of) {
            let (verdict, weight) = (known.tracker.verdict(), Weight::of(server.weight));
            let part = match verdict.state {
                State::Up => slow_start(weight, self.now - verdict.since, self.rules.slow_start),
                _ => weight,
            };
            all.push(Candidate {
                outstanding: known.outstanding,
                most: server.most,
                weight,
                part,
                local: server.zone == proxy.zone,
                latency: known.mean.latency(self.millis()),
                ..Candidate::plain(&server.name, verdict)
            });
        }
        all
    }

    /// What that proxy would choose.
    pub(super) fn choose(&self, proxy: usize, asked: &Asked) -> Result<Chosen, NoneLeft> {
        let Asked { want, tried, desperate, draw, .. } = asked;
        choose::next(&self.candidates(proxy), want, tried, self.rules.balance, *desperate, *draw)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a run is short")]
    fn millis(&self) -> u32 {
        (self.now - self.began).as_millis() as u32
    }

    /// Lets a little time pass, and one request arrive.
    pub(super) fn step(&mut self) -> Vec<Event> {
        self.now += MS * self.rng.random_range(1..60);
        self.land();
        self.disturb();
        let mut events = self.probe();
        let asked = self.arrive();
        events.push(match self.choose(asked.proxy, &asked) {
            Ok(chosen) => Event::Chosen { asked, chosen },
            Err(none) => Event::Nobody { asked, none },
        });
        events
    }

    /// Does what was decided.
    pub(super) fn take(&mut self, event: &Event) {
        let Event::Chosen { asked, chosen } = event else { return };
        let takes = if asked.parked { MS * 3000 } else { self.servers[chosen.place].takes };
        let flight = Flight {
            proxy: asked.proxy,
            place: chosen.place,
            began: self.now,
            until: self.now + takes,
            parked: asked.parked,
        };
        self.proxies[asked.proxy].of[chosen.place].outstanding += 1;
        self.chosen += 1;
        self.flights.push(flight);
    }

    /// Ends what is over.
    fn land(&mut self) {
        let (now, millis) = (self.now, self.millis());
        let proxies = &mut self.proxies;
        self.flights.retain(|flight| {
            if flight.until > now {
                return true;
            }
            let known = &mut proxies[flight.proxy].of[flight.place];
            known.outstanding -= 1;
            if !flight.parked {
                known.mean = known.mean.observe(flight.until - flight.began, millis);
            }
            false
        });
    }

    /// Something goes wrong, or is mended.
    fn disturb(&mut self) {
        let place = self.rng.random_range(0..self.servers.len());
        match self.rng.random_range(0..200) {
            0 | 1 => self.servers[place].alive = false,
            2..=5 => self.servers.iter_mut().for_each(|server| server.alive = true),
            6 => {
                let server = &mut self.servers[place];
                server.takes = MS * self.rng.random_range(1..4000);
                server.took = (server.took.0.min(server.takes), server.took.1.max(server.takes));
            }
            7 => self
                .servers
                .iter_mut()
                .filter(|server| server.zone == 0)
                .for_each(|server| server.alive = false),
            _ => {}
        }
    }

    /// The probes that are due.
    fn probe(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for proxy in &mut self.proxies {
            for (known, server) in proxy.of.iter_mut().zip(&self.servers) {
                if known.next_probe > self.now {
                    continue;
                }
                known.next_probe = self.now + MS * self.rng.random_range(180..220);
                let found = if server.alive {
                    Found::Good { seen: "200".into(), ready: None }
                } else {
                    Found::Bad { why: "connect refused".into() }
                };
                if known.tracker.record(found, self.now, clock::wall()).is_some() {
                    events.push(Event::Turned);
                }
            }
        }
        events
    }

    fn arrive(&mut self) -> Asked {
        let proxy = self.rng.random_range(0..self.proxies.len());
        let key = hash(&self.rng.random_range(0..KEYS).to_le_bytes());
        let parked = self.rng.random_bool(0.05);
        let path = if parked { "/switchyard/v1/tasks" } else { "/api/v1/vm" };
        let want = Want {
            affinity: match (self.rules.sticky, self.rules.balance) {
                (true, _) => Affinity::Stick(By::Address, key),
                (false, Balance::ConsistentHash) if self.rng.random_bool(0.9) => Affinity::Key(key),
                _ => Affinity::Free,
            },
            zoned: self.rules.zoned,
            ..Want::plain(classify::route(Kind::Controller, &Method::GET, path))
        };
        let mut tried = Tried::default();
        if self.rng.random_bool(0.1) {
            tried.refused(self.rng.random_range(0..self.servers.len()));
        }
        let own = &mut self.proxies[proxy];
        own.turn += 1;
        let draw = Draw { turn: own.turn, chance: self.rng.random() };
        Asked { proxy, want, tried, desperate: self.rng.random_bool(0.05), draw, parked }
    }
}
