//! Which version agents are served from, over whole upgrades from a seed: controllers that go down and come back as
//! another version, blips, probers that look every two seconds, two proxies, and agents that poll all the while.
//!
//! What decides is the real thing: `Core`, `Tracker`. The links and the loop that the proxy has around them are here
//! once more, without sockets.

use std::{thread, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use switchyard::{
    clock,
    health::{Access, Found, State, verdict::Tracker},
    model::{RouteClass, ServerVersion},
    proxy::cohort::core::{Choice, Core, Rules, Seen, Why},
    wire::ready::Ready,
};
use tokio::time::Instant;

use crate::{THREADS, setting};

/// Runs of one change.
const SEEDS: u64 = 256;

const TICK: Duration = Duration::from_millis(200);
const INTERVAL: Duration = Duration::from_secs(2);
const SECOND: Duration = Duration::from_secs(1);
const RULES: Rules =
    Rules { quorum: 0.5, settle: Duration::from_secs(60), fallback: Duration::from_secs(30) };

fn version(text: &str) -> ServerVersion {
    ServerVersion::parse(text).unwrap()
}

/// One controller as it really is.
struct Server {
    version: ServerVersion,
    /// Until then nothing answers, and then it is this version.
    down: Option<(Instant, ServerVersion)>,
    /// Until then it answers nothing, and goes on as it was.
    stuck: Option<Instant>,
}

impl Server {
    fn answers(&self) -> bool {
        self.down.is_none() && self.stuck.is_none()
    }
}

/// What one proxy holds of one controller.
struct View {
    tracker: Tracker,
    next: Instant,
    doubtful: bool,
}

struct Proxy {
    views: Vec<View>,
    core: Core,
    /// When and why it changed its choice.
    changes: Vec<(Instant, Choice)>,
}

struct Agent {
    proxy: usize,
    /// Parked at this controller until then.
    parked: Option<(usize, Instant)>,
    /// Asks again then.
    next: Instant,
    saw: Vec<ServerVersion>,
    waits: Duration,
    longest: Duration,
}

struct World {
    rng: StdRng,
    now: Instant,
    servers: Vec<Server>,
    proxies: Vec<Proxy>,
    agents: Vec<Agent>,
}

impl World {
    fn new(seed: u64, servers: usize, of: &ServerVersion) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = clock::now();
        let servers: Vec<Server> =
            (0..servers).map(|_| Server { version: of.clone(), down: None, stuck: None }).collect();
        let proxies = (0..2).map(|_| Proxy {
            views: servers
                .iter()
                .map(|_| View {
                    tracker: Tracker::new(2, 3, now, clock::wall()),
                    next: now + SECOND.mul_f64(rng.random_range(0.0..0.5)),
                    doubtful: false,
                })
                .collect(),
            core: Core::new(RULES, now),
            changes: Vec::new(),
        });
        let proxies = proxies.collect();
        let agents = (0..20).map(|n| Agent {
            proxy: n % 2,
            parked: None,
            next: now + SECOND.mul_f64(rng.random_range(0.0..5.0)),
            saw: Vec::new(),
            waits: Duration::ZERO,
            longest: Duration::ZERO,
        });
        let agents = agents.collect();
        Self { rng, now, servers, proxies, agents }
    }

    /// Its connections break, and who had one learns of it.
    fn kill(&mut self, server: usize, back: Instant, as_version: ServerVersion) {
        self.servers[server].down = Some((back, as_version));
        for agent in &mut self.agents {
            if agent.parked.is_some_and(|(at, _)| at == server) {
                agent.parked = None;
                agent.next = self.now + SECOND;
                self.proxies[agent.proxy].views[server].doubtful = true;
            }
        }
    }

    fn step(&mut self) {
        self.now += TICK;
        let now = self.now;
        for server in &mut self.servers {
            if let Some((_, as_version)) = server.down.take_if(|(back, _)| *back <= now) {
                server.version = as_version;
            }
            server.stuck.take_if(|until| *until <= now);
        }
        for proxy in &mut self.proxies {
            let mut probed = false;
            for (view, server) in proxy.views.iter_mut().zip(&self.servers) {
                if view.next <= now {
                    probe(view, server, now, &mut self.rng);
                    probed = true;
                }
            }
            // Nothing else changes what it is told, and there is a probe each second or two.
            if !probed {
                continue;
            }
            let seen: Vec<Seen> = proxy.views.iter().map(seen).collect();
            if let Some(choice) = proxy.core.look(&seen, now) {
                proxy.core.take(choice.clone());
                proxy.changes.push((now, choice));
            }
        }
        for agent in &mut self.agents {
            if agent.parked.is_some_and(|(_, until)| until > now) || agent.next > now {
                continue;
            }
            agent.parked = None;
            ask(agent, &mut self.proxies, &self.servers, now, &mut self.rng);
        }
    }
}

fn probe(view: &mut View, server: &Server, now: Instant, rng: &mut StdRng) {
    let found = if server.answers() {
        let version = Some(server.version.to_string());
        Found::Good { seen: "200".into(), ready: Some(Ready { ready: true, version, ..Ready::default() }) }
    } else {
        Found::Bad { why: "connect refused".into() }
    };
    let good = matches!(found, Found::Good { .. });
    view.tracker.record(found, now, clock::wall());
    view.doubtful = !(good && view.tracker.verdict().state == State::Up);
    let pause = if view.tracker.changing() { INTERVAL / 4 } else { INTERVAL };
    view.next = now + pause.mul_f64(rng.random_range(0.9..1.1));
}

fn seen(view: &View) -> Seen {
    let verdict = view.tracker.verdict();
    Seen {
        version: verdict.version().cloned(),
        known: verdict.state != State::Unknown,
        able: verdict.state == State::Up && verdict.may(RouteClass::AgentPoll, Access::Write).is_yes(),
    }
}

/// One request of an agent: to anybody of the chosen version who is believed to be of it; else it waits a tick.
fn ask(agent: &mut Agent, proxies: &mut [Proxy], servers: &[Server], now: Instant, rng: &mut StdRng) {
    let proxy = &mut proxies[agent.proxy];
    let chosen = proxy.core.chosen().cloned();
    let fits = |view: &View| {
        let verdict = view.tracker.verdict();
        chosen.is_some()
            && verdict.state == State::Up
            && !view.doubtful
            && verdict.version() == chosen.as_ref()
    };
    let mut places: Vec<usize> = (0..servers.len()).filter(|place| fits(&proxy.views[*place])).collect();
    places.shuffle(rng);
    for place in places {
        if servers[place].answers() {
            let shown = &servers[place].version;
            if agent.saw.last() != Some(shown) {
                agent.saw.push(shown.clone());
            }
            agent.waits = Duration::ZERO;
            // A poll that is parked, or a heartbeat.
            let poll = rng.random_bool(0.7);
            agent.parked = poll.then(|| (place, now + Duration::from_secs(10)));
            agent.next = now + Duration::from_secs(if poll { 10 } else { 1 });
            return;
        }
        // Refused, or cut: traffic has seen what the verdict does not say.
        proxy.views[place].doubtful = true;
        proxy.views[place].next = now + TICK;
    }
    agent.waits += TICK;
    agent.longest = agent.longest.max(agent.waits);
    agent.next = now + TICK;
}

/// A rolling upgrade of ten minutes, at any pace, with blips.
fn upgrade(seed: u64) -> Result<(), String> {
    let (old, new) = (version("1.50.3-0a1b2c3d"), version("1.51.2-5e6f7a8b"));
    let mut draw = StdRng::seed_from_u64(seed ^ 0x5eed);
    let count = draw.random_range(2..=7);
    let mut world = World::new(seed, count, &old);
    let begun = world.now;
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut draw);
    let mut at = begun + Duration::from_secs(30);
    let plan: Vec<(Instant, usize)> = order
        .into_iter()
        .map(|server| {
            let when = at;
            at += Duration::from_secs(draw.random_range(5..80));
            (when, server)
        })
        .collect();
    let mut plan = plan.into_iter().peekable();
    while world.now < begun + Duration::from_secs(600) {
        while let Some((_, server)) = plan.next_if(|(when, _)| *when <= world.now) {
            // Longer than the time between two probes: shorter, and one without a connection could go unnoticed.
            let back = world.now + Duration::from_secs(draw.random_range(3..20));
            world.kill(server, back, new.clone());
        }
        if draw.random_bool(0.002) {
            let server = draw.random_range(0..count);
            world.servers[server].stuck = Some(world.now + SECOND.mul_f64(draw.random_range(0.2..4.0)));
        }
        world.step();
    }
    for (n, agent) in world.agents.iter().enumerate() {
        if agent.saw != [old.clone(), new.clone()] {
            return Err(format!("agent {n} saw {:?} of {count} controllers", agent.saw));
        }
        // Twice, for the others may be away for a moment, too, and then the time begins anew.
        if agent.longest > RULES.fallback * 2 + INTERVAL * 4 {
            return Err(format!("agent {n} was served by nobody for {:?}", agent.longest));
        }
    }
    for proxy in &world.proxies {
        let whys: Vec<Why> = proxy.changes.iter().map(|(_, choice)| choice.why).collect();
        if whys.len() != 2 || whys[0] != Why::First {
            return Err(format!("a proxy changed its choice otherwise than once: {:?}", proxy.changes));
        }
    }
    // They decide by themselves and alike: a blip that only one of them saw begins the time anew, once.
    let moved = |proxy: &Proxy| proxy.changes[1].0;
    let (a, b) = (moved(&world.proxies[0]), moved(&world.proxies[1]));
    let apart = a.max(b) - a.min(b);
    if apart > RULES.settle + INTERVAL * 4 {
        return Err(format!("the proxies moved {apart:?} apart"));
    }
    Ok(())
}

/// Anything at all happens to a handful of upstreams; the promises of the core's page are watched from outside.
fn chaos(seed: u64) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let versions: Vec<ServerVersion> =
        ["1.49.0", "1.50.3", "1.51.2"].iter().map(|text| version(text)).collect();
    let count = rng.random_range(1..=6);
    let mut now = clock::now();
    let mut core = Core::new(RULES, now);
    let mut seen: Vec<Seen> =
        (0..count).map(|_| Seen { version: Some(versions[0].clone()), known: true, able: true }).collect();
    let restless = rng.random_range(0.001..0.1);
    let mut last: Option<Instant> = None;
    // For each version, since when it has been at the quorum; and since when the chosen one was deserted.
    let mut quorum: Vec<Option<Instant>> = vec![None; versions.len()];
    let mut deserted: Option<Instant> = None;
    for step in 0..3000 {
        now += TICK;
        for one in &mut seen {
            if rng.random_bool(restless) {
                one.able = rng.random_bool(0.7);
            }
            if rng.random_bool(restless / 3.0) {
                one.version = versions.get(rng.random_range(0..4)).cloned();
            }
        }
        if rng.random_bool(0.0005) {
            let pin = rng.random_bool(0.5).then(|| versions[rng.random_range(0..3)].clone());
            core.set_pin(pin);
            last = None;
        }
        let able =
            |v: &ServerVersion| seen.iter().filter(|one| one.able && one.version.as_ref() == Some(v)).count();
        for (version, since) in versions.iter().zip(&mut quorum) {
            *since = (able(version) >= core.needed(count)).then(|| since.unwrap_or(now));
        }
        let chosen = core.chosen().cloned();
        let others = versions.iter().any(|version| able(version) > 0);
        let alone = others && chosen.as_ref().is_some_and(|chosen| able(chosen) == 0);
        deserted = alone.then(|| deserted.unwrap_or(now));
        let Some(choice) = core.look(&seen, now) else { continue };
        let at = versions.iter().position(|version| *version == choice.version).unwrap();
        let long = |since: Option<Instant>, than| since.is_some_and(|since| now - since >= than);
        let broken = match choice.why {
            Why::First => chosen.is_some(),
            Why::Settled => !long(quorum[at], RULES.settle) || core.pin().is_some(),
            Why::Fallback => !long(deserted, RULES.fallback),
            Why::Ordered => core.pin() != Some(&choice.version),
            Why::Told => true,
        };
        let nobody = able(&choice.version) == 0;
        let soon = choice.why != Why::Ordered && last.is_some_and(|last| now - last < RULES.fallback);
        if broken || nobody || soon || chosen.as_ref() == Some(&choice.version) {
            return Err(format!(
                "step {step}: {choice:?} after {chosen:?} (broken {broken}, nobody {nobody}, soon {soon})"
            ));
        }
        core.take(choice);
        (last, deserted) = (Some(now), None);
    }
    Ok(())
}

fn over_seeds(run: impl Fn(u64) -> Result<(), String> + Sync) {
    if let Some(seed) = setting("SWITCHYARD_SIM_SEED") {
        return run(seed).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
    let first: u64 = rand::random_range(0..1_000_000);
    let end = first + setting("SWITCHYARD_SIM_SEEDS").unwrap_or(SEEDS);
    let of = |n| (first + n..end).step_by(THREADS);
    let run = &run;
    let failed: Vec<String> = thread::scope(|scope| {
        let failed = |n: usize| {
            move || {
                of(n as u64).filter_map(|seed| Some(format!("seed {seed}: {}", run(seed).err()?))).collect()
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(failed(n))).collect();
        threads.into_iter().flat_map(|thread| -> Vec<String> { thread.join().unwrap() }).collect()
    });
    assert!(failed.is_empty(), "run again with SWITCHYARD_SIM_SEED=N\n{}", failed.join("\n"));
}

#[test]
fn in_an_upgrade_each_agent_sees_one_change_of_version() {
    over_seeds(upgrade);
}

#[test]
fn the_version_changes_only_when_it_may() {
    over_seeds(chaos);
}
