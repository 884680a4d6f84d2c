//! Time, what is due in it, and requests on their way.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use http::Method;
use rand::{Rng, SeedableRng, rngs::StdRng};
use switchyard::{
    balance::{
        ejection::{Change, Failure, Outcome, Standing},
        hash,
    },
    clock,
    config::proxy::{Balance, Kind},
    health::{Found, State},
    model::{RouteClass, ServerVersion},
    proxy::{
        choose::{self, Affinity, By, Candidate, Chosen, Draw, NoneLeft, Out, Tried, Want},
        classify::{self, Route},
        cohort::core::Choice,
        retry::{self, Case, Traffic, Verdict, What},
    },
};
use tokio::time::Instant;

use super::{
    plan::{ATTEMPTS, MS, Plan},
    proxy::Proxy,
    server::{End, Server, Way},
};

/// Clients, and things that requests are about.
const KEYS: u64 = 40;
/// For so long a request that found nobody is held, and so often it looks.
const HOLD: u64 = 4000;
const TICK: u64 = 500;
/// When it is over for a request that is no poll.
const DEADLINE: u64 = 9000;
/// What `retry_status` lists.
const RETRY_STATUS: [u16; 3] = [502, 503, 504];

/// A request, for one of its choices.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) proxy: usize,
    pub(super) agent: Option<usize>,
    pub(super) want: Want,
    pub(super) tried: Tried,
    /// Where it was tried: what `tried` says, once more.
    pub(super) spent: Vec<usize>,
    /// Held for as long as it may be, or in a mood to be sent anywhere.
    pub(super) desperate: bool,
    pub(super) draw: Draw,
    pub(super) sends: u32,
    /// Goes under an `Idempotency-Key` that is honoured.
    keyed: bool,
    status_spent: bool,
    came: u64,
    /// Nobody was looked for yet.
    pub(super) first: bool,
}

impl Asked {
    fn poll(&self) -> bool {
        self.want.route.class == RouteClass::AgentPoll
    }
}

/// An attempt under way.
#[derive(Debug)]
struct Flight {
    asked: Asked,
    place: usize,
    trial: u32,
    began: Instant,
    until: u64,
    end: End,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A probe, and what the proxy held of that server before it.
    Probed { proxy: usize, place: usize, good: bool, before: State },
    /// A proxy serves agents from another version.
    Moved { proxy: usize, from: Option<ServerVersion>, choice: Choice },
    /// An operator has named a version, or let go of it.
    Pinned,
    /// A request has come.
    Came { proxy: usize },
    /// It found an upstream; it is not under way yet.
    Chosen { asked: Asked, chosen: Chosen },
    /// It found none.
    Nobody { asked: Asked, none: NoneLeft },
    /// The pool was told what became of an attempt, of one that was out or not.
    Told { proxy: usize, place: usize, outcome: Outcome, was_out: bool, others: bool, change: Option<Change> },
    /// A trial is over.
    TrialOver { proxy: usize, place: usize },
    /// What follows from a failed attempt: by the table, and whether the budget, if it was asked, has borne it.
    Decided { proxy: usize, case: Case, sends: u32, verdict: Verdict, borne: Option<bool> },
    /// An agent had an answer of a server of this version.
    Shown { agent: usize, version: ServerVersion },
}

/// What is due.
#[derive(Debug)]
pub(super) enum Due {
    Arrive,
    Agent(usize),
    Choose(Box<Asked>),
    Land(u64),
    Probe(usize, usize),
    /// The story goes on.
    Turn,
    /// A server is back as this version.
    Back(usize, ServerVersion),
    /// A blip is over.
    Mend(usize),
    /// A server is taken down, to come back as the next version.
    Upgrade(usize),
}

struct Entry(u64, u64, Due);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// All of it.
pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) plan: Plan,
    began: Instant,
    /// Milliseconds since the beginning.
    pub(super) at: u64,
    pub(super) servers: Vec<Server>,
    pub(super) proxies: Vec<Proxy>,
    due: BinaryHeap<Reverse<Entry>>,
    flights: BTreeMap<u64, Flight>,
    number: u64,
    /// Attempts that were sent off.
    pub(super) chosen: usize,
}

pub(super) fn versions() -> [ServerVersion; 3] {
    ["1.49.0-00112233", "1.50.3-0a1b2c3d", "1.51.2-5e6f7a8b"].map(|text| ServerVersion::parse(text).unwrap())
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let plan = Plan::draw(&mut rng);
        let now = clock::now();
        let version = &versions()[1];
        let servers = (0..plan.servers).map(|at| Server::new(at, &plan, version, &mut rng)).collect();
        let proxies = (0..plan.proxies).map(|_| Proxy::new(&plan, now, &mut rng)).collect();
        let mut world = Self {
            rng,
            plan,
            began: now,
            at: 0,
            servers,
            proxies,
            due: BinaryHeap::new(),
            flights: BTreeMap::new(),
            number: 0,
            chosen: 0,
        };
        for proxy in 0..plan.proxies {
            for place in 0..plan.servers {
                world.after(world.proxies[proxy].of[place].probe, Due::Probe(proxy, place));
            }
        }
        world.after(5, Due::Arrive);
        for agent in 0..plan.agents {
            let pause = world.rng.random_range(0..5000);
            world.after(pause, Due::Agent(agent));
        }
        world.begin();
        world
    }

    pub(super) fn now(&self) -> Instant {
        self.began + MS * u32::try_from(self.at).unwrap()
    }

    /// For counting by seconds.
    pub(super) fn second(&self) -> u64 {
        100 + self.at / 1000
    }

    pub(super) fn after(&mut self, pause: u64, due: Due) {
        self.number += 1;
        self.due.push(Reverse(Entry(self.at + pause, self.number, due)));
    }

    /// What the proxy of this request knows at this moment.
    pub(super) fn candidates(&self, asked: &Asked) -> Vec<Candidate<'_>> {
        let times = (self.now(), u32::try_from(self.at).unwrap());
        let kind = (asked.want.route.repeatable, asked.agent.is_some());
        self.proxies[asked.proxy].candidates(&self.servers, &self.plan, times, kind)
    }

    fn choose(&self, asked: &Asked, draw: Draw) -> Result<Chosen, NoneLeft> {
        let all = self.candidates(asked);
        choose::next(&all, &asked.want, &asked.tried, self.plan.balance, asked.desperate, draw)
    }

    /// The next thing that is due; what happened with it, in order. A choice is the last of it.
    pub(super) fn step(&mut self) -> Option<Vec<Event>> {
        let Reverse(Entry(at, _, due)) = self.due.pop()?;
        if at > self.plan.end {
            return None;
        }
        self.at = at;
        Some(match due {
            Due::Arrive => {
                let pause = self.rng.random_range(1..self.plan.pace);
                self.after(pause, Due::Arrive);
                let asked = self.arrive();
                self.come(asked)
            }
            Due::Agent(agent) => {
                let asked = self.agent(agent);
                self.come(asked)
            }
            Due::Choose(asked) => vec![self.chosen(*asked)],
            Due::Land(flight) => self.land(flight),
            Due::Probe(proxy, place) => self.probe(proxy, place),
            Due::Turn => self.turn(),
            Due::Back(place, version) => {
                self.servers[place].version = version;
                self.set(place, Way::Well);
                Vec::new()
            }
            Due::Upgrade(place) => {
                self.upgrade(place);
                Vec::new()
            }
            Due::Mend(place) => {
                if self.servers[place].way == Way::Hangs {
                    self.set(place, Way::Well);
                }
                Vec::new()
            }
        })
    }

    /// Does what was decided.
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Chosen { asked, chosen } => self.send(asked, chosen.place),
            Event::Nobody { mut asked, .. } => {
                asked.first = false;
                // Once something was sent, waiting would only delay an error.
                if asked.tried.sent_any() || asked.desperate {
                    return self.over(&asked, false);
                }
                asked.tried.forgive_refused();
                asked.spent.clear();
                asked.desperate = self.at >= asked.came + HOLD;
                self.after(TICK, Due::Choose(Box::new(asked)));
            }
            _ => {}
        }
    }

    fn come(&mut self, asked: Asked) -> Vec<Event> {
        let (proxy, second) = (asked.proxy, self.second());
        self.proxies[proxy].count(second);
        vec![Event::Came { proxy }, self.chosen(asked)]
    }

    fn chosen(&mut self, mut asked: Asked) -> Event {
        let own = &mut self.proxies[asked.proxy];
        // A request takes one turn; what is tied, has waited or is asked again goes by chance.
        let turn = if asked.first && !asked.want.is_bound() {
            own.turn += 1;
            own.turn
        } else {
            self.rng.random::<u32>() as usize
        };
        asked.draw = Draw { turn, chance: self.rng.random() };
        match self.choose(&asked, asked.draw) {
            Ok(chosen) => Event::Chosen { asked, chosen },
            Err(none) => Event::Nobody { asked, none },
        }
    }

    fn send(&mut self, mut asked: Asked, place: usize) {
        let out = self.candidates(&asked)[place].out;
        let now = self.now();
        let trial = match out {
            Out::Trial => self.proxies[asked.proxy].pool.try_one(place, now).expect("it waits for a trial"),
            Out::In | Out::Ejected => 0,
        };
        let (pause, end) = self.servers[place].attempt(asked.poll(), &mut self.rng);
        if end != End::Broken(retry::Event::ConnectFailed) {
            asked.tried.sent(place);
            asked.sends += 1;
        }
        asked.spent.push(place);
        asked.first = false;
        self.proxies[asked.proxy].of[place].outstanding += 1;
        self.chosen += 1;
        self.number += 1;
        let flight = self.number;
        self.flights.insert(flight, Flight { asked, place, trial, began: now, until: self.at + pause, end });
        self.after(pause, Due::Land(flight));
    }

    /// From now on that server is like this; who is there when it dies learns of it.
    pub(super) fn set(&mut self, place: usize, way: Way) {
        let server = &mut self.servers[place];
        server.way = way;
        server.faulty |= !matches!(way, Way::Well | Way::Dead);
        if way != Way::Dead {
            return;
        }
        let mut cut = Vec::new();
        for (number, flight) in &mut self.flights {
            if flight.place == place && flight.end != End::Broken(retry::Event::ConnectFailed) {
                (flight.until, flight.end) = (self.at, End::Broken(retry::Event::NoAnswer(What::Closed)));
                cut.push(*number);
            }
        }
        cut.into_iter().for_each(|flight| self.after(0, Due::Land(flight)));
    }

    fn land(&mut self, number: u64) -> Vec<Event> {
        if self.flights.get(&number).is_none_or(|flight| flight.until != self.at) {
            return Vec::new();
        }
        let Some(flight) = self.flights.remove(&number) else { return Vec::new() };
        let (now, millis) = (self.now(), u32::try_from(self.at).unwrap());
        let Flight { mut asked, place, trial, began, end, .. } = flight;
        let (proxy, poll) = (asked.proxy, asked.poll());
        let others = (0..self.servers.len()).any(|at| at != place && self.takes(proxy, at));
        let own = &mut self.proxies[proxy];
        let was_out = own.pool.standing(place).is_some_and(|s| matches!(s, Standing::Out(_)));
        let known = &mut own.of[place];
        known.outstanding -= 1;
        known.good += u64::from(end == End::Answered);
        if end == End::Answered && !poll {
            known.mean = known.mean.observe(now - began, millis);
        }
        if matches!(end, End::Broken(_)) {
            known.doubtful = true;
        }
        let mut events = Vec::new();
        let outcome = match end {
            End::Answered => Some(Outcome::Answered),
            End::Status(status) => Some(Outcome::Failed(Failure::Status(status))),
            End::Broken(retry::Event::ConnectFailed) => Some(Outcome::Failed(Failure::Connect)),
            End::Broken(retry::Event::NoAnswer(What::TimedOut)) if poll => None,
            End::Broken(retry::Event::NoAnswer(What::TimedOut)) => Some(Outcome::Failed(Failure::TimedOut)),
            End::Broken(_) => Some(Outcome::Failed(Failure::Closed)),
        };
        if let Some(outcome) = outcome {
            let change = own.record(place, outcome, began, now);
            events.push(Event::Told { proxy, place, outcome, was_out, others, change });
        }
        if trial != 0 {
            own.pool.trial_over(place, trial, now);
            events.push(Event::TrialOver { proxy, place });
        }
        if matches!(end, End::Broken(_)) {
            self.proxies[proxy].of[place].probe = self.at;
            self.after(0, Due::Probe(proxy, place));
        }
        let event = match end {
            End::Answered | End::Status(500) => {
                if let (End::Answered, Some(agent)) = (end, asked.agent) {
                    events.push(Event::Shown { agent, version: self.servers[place].version.clone() });
                }
                self.over(&asked, end == End::Answered);
                return events;
            }
            End::Status(status) => {
                assert!(RETRY_STATUS.contains(&status));
                asked.tried.answered(place);
                retry::Event::BadStatus(status)
            }
            End::Broken(event) => event,
        };
        if event == retry::Event::ConnectFailed {
            asked.tried.refused(place);
        }
        events.push(self.decide(asked, place, event));
        events
    }

    /// Whether a server is up and in, at a proxy.
    fn takes(&self, proxy: usize, place: usize) -> bool {
        let own = &self.proxies[proxy];
        own.of[place].tracker.verdict().state == State::Up
            && !own.pool.standing(place).is_some_and(|s| matches!(s, Standing::Out(_)))
    }

    /// What follows from an attempt that failed.
    fn decide(&mut self, mut asked: Asked, place: usize, event: retry::Event) -> Event {
        let (proxy, poll) = (asked.proxy, asked.poll());
        let sent = if event == retry::Event::ConnectFailed { 0 } else { 100 };
        let calm = Asked { desperate: false, ..asked.clone() };
        let other = self.choose(&calm, Draw { turn: 0, chance: 0 }).is_ok_and(|chosen| chosen.place != place);
        let case = Case {
            route: asked.want.route,
            event,
            traffic: Traffic { sent, whole: true, ..Traffic::default() },
            sends_left: asked.sends < ATTEMPTS,
            time_left: poll || self.at < asked.came + DEADLINE,
            body_at_hand: true,
            keyed: asked.keyed,
            other,
            status_spent: asked.status_spent,
        };
        let (mut verdict, mut borne, second) = (retry::verdict(&case), None, self.second());
        if matches!(verdict, Verdict::Again(why) if why.costs()) {
            let may = self.proxies[proxy].may_retry(&self.plan, second);
            borne = Some(may);
            if !may {
                verdict = retry::verdict(&Case { sends_left: false, ..case });
            }
        }
        let sends = asked.sends;
        match verdict {
            Verdict::Again(_) if self.at < asked.came + DEADLINE => {
                asked.status_spent |= matches!(event, retry::Event::BadStatus(_));
                self.after(0, Due::Choose(Box::new(asked)));
            }
            _ => self.over(&asked, false),
        }
        Event::Decided { proxy, case, sends, verdict, borne }
    }

    /// The request is over. An agent that was served asks on, another one waits a little.
    fn over(&mut self, asked: &Asked, well: bool) {
        if let Some(agent) = asked.agent {
            let pause = if well && asked.poll() { 1 } else { 1000 };
            self.after(pause, Due::Agent(agent));
        }
    }

    fn probe(&mut self, proxy: usize, place: usize) -> Vec<Event> {
        let (at, now) = (self.at, self.now());
        let own = &mut self.proxies[proxy];
        if own.of[place].probe != at {
            return Vec::new();
        }
        let before = own.of[place].tracker.verdict().state;
        let found = self.servers[place].probe();
        let good = matches!(found, Found::Good { .. });
        let pause = own.probed(place, found, &self.plan, now, &mut self.rng).max(1);
        own.of[place].probe = at + pause;
        let mut events = vec![Event::Probed { proxy, place, good, before }];
        let from = own.core.chosen().cloned();
        events.extend(own.look(now).map(|choice| Event::Moved { proxy, from, choice }));
        self.after(pause, Due::Probe(proxy, place));
        events
    }

    fn asked(&mut self, proxy: usize, agent: Option<usize>, route: Route, affinity: Affinity) -> Asked {
        let want = Want {
            affinity,
            zoned: self.plan.zoned && agent.is_none(),
            panic_threshold: self.plan.panic,
            ..Want::plain(route)
        };
        Asked {
            proxy,
            agent,
            want,
            tried: Tried::default(),
            spent: Vec::new(),
            desperate: false,
            draw: Draw { turn: 0, chance: 0 },
            sends: 0,
            keyed: self.rng.random_bool(0.5),
            status_spent: false,
            came: self.at,
            first: true,
        }
    }

    fn arrive(&mut self) -> Asked {
        let proxy = self.rng.random_range(0..self.proxies.len());
        let key = hash(&self.rng.random_range(0..KEYS).to_le_bytes());
        let (method, path) = match self.rng.random_range(0..20) {
            0 => (Method::GET, "/switchyard/v1/tasks"),
            1..4 => (Method::POST, "/api/v1/vm"),
            4 => (Method::PUT, "/api/v1/vm"),
            _ => (Method::GET, "/api/v1/vm"),
        };
        let affinity = match (self.plan.sticky, self.plan.balance) {
            (true, _) => Affinity::Stick(By::Address, key),
            (false, Balance::ConsistentHash) if self.rng.random_bool(0.9) => Affinity::Key(key),
            _ => Affinity::Free,
        };
        let route = classify::route(Kind::Controller, &method, path);
        let mut asked = self.asked(proxy, None, route, affinity);
        asked.desperate = self.rng.random_bool(0.03);
        asked
    }

    fn agent(&mut self, agent: usize) -> Asked {
        let path = if self.rng.random_bool(0.7) { "/switchyard/v1/tasks" } else { "/api/v1/status" };
        let route = classify::route(Kind::Controller, &Method::GET, path);
        self.asked(agent % self.proxies.len(), Some(agent), route, Affinity::Free)
    }
}
