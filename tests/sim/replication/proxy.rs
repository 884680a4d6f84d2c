//! One proxy: how it follows the log of the writer and the state of each registry, as `proxy/follow.rs` does it, and
//! probes them.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use switchyard::{
    clock,
    health::{Found, verdict::Tracker},
    model::{Position, RepositoryName},
    proxy::freshness::{self, Freshness, Subject},
    wire::ready::Ready,
};

use super::{
    engine::{Machine, Pid, Signal},
    feed::{self, Poll, Poller},
    link::{Failed, Node},
    registry::Server,
    world::World,
};

const PARK: Duration = Duration::from_millis(660);
const STATE_PARK: Duration = Duration::from_secs(10);
const WRITER_PAUSE: Duration = Duration::from_secs(1);
const UNCLAIMED_PAUSE: Duration = Duration::from_millis(250);
const BREATH: Duration = Duration::from_millis(20);
const LEAST: Duration = Duration::from_millis(100);
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// A connection on which nothing comes for so long is given up.
const IDLE: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// One proxy's place.
pub(super) struct Seat {
    pub(super) machine: Machine,
    pub(super) proxy: RefCell<Option<Rc<Proxy>>>,
}

/// One run of a proxy.
pub(super) struct Proxy {
    pub(super) world: Rc<World>,
    pub(super) seat: usize,
    pub(super) pid: Pid,
    pub(super) follow: RefCell<Rc<Follow>>,
    pub(super) probes: RefCell<Vec<Tracker>>,
    pub(super) turns: Cell<usize>,
}

/// What is known while one registry is configured as the writer.
pub(super) struct Follow {
    name: String,
    pub(super) writer: usize,
    pub(super) core: RefCell<Freshness>,
    pub(super) news: Signal,
    removed: Cell<bool>,
}

impl World {
    /// The proxies that run, frozen ones too.
    pub(super) fn proxies(&self) -> Vec<Rc<Proxy>> {
        self.seats.iter().filter_map(|seat| seat.proxy.borrow().clone()).collect()
    }

    /// Starts the proxy of this seat, under a name that nobody had.
    pub(super) fn boot_proxy(self: &Rc<Self>, seat: usize) {
        let (now, wall) = (clock::now(), clock::wall());
        let proxy = Rc::new(Proxy {
            world: self.clone(),
            seat,
            pid: self.engine.process(),
            follow: RefCell::new(Rc::new(Follow::new(self, seat))),
            probes: RefCell::new(self.sites.iter().map(|_| Tracker::new(2, 3, now, wall)).collect()),
            turns: Cell::default(),
        });
        self.seats[seat].proxy.replace(Some(proxy.clone()));
        self.trace(|| format!("{} starts", proxy.name()));
        for place in 0..self.sites.len() {
            let prober = proxy.clone();
            self.engine.spawn(proxy.pid, async move { prober.probe(place).await });
        }
        proxy.follows();
    }

    pub(super) fn kill_proxy(&self, seat: usize) {
        if let Some(proxy) = self.seats[seat].proxy.take() {
            self.trace(|| format!("{} dies", proxy.name()));
            self.engine.kill(proxy.pid);
        }
    }
}

impl Follow {
    fn new(world: &World, seat: usize) -> Self {
        let (writer, registries) = (world.configured(), world.sites.len());
        Self {
            name: format!("p{seat}-{}", world.engine.id()),
            writer,
            core: RefCell::new(Freshness::bounded(registries, writer, world.fresh_wait, world.table)),
            news: Signal::default(),
            removed: Cell::default(),
        }
    }
}

impl Proxy {
    pub(super) fn name(&self) -> String {
        self.follow.borrow().name.clone()
    }

    pub(super) fn boot(&self) -> Duration {
        self.world.seats[self.seat].machine.boot()
    }

    pub(super) async fn sleep(&self, time: Duration) {
        self.world.seats[self.seat].machine.sleep(time).await;
    }

    /// What it would answer by, if it may answer by anything but the writer's word.
    pub(super) fn believes(&self, repository: &RepositoryName) -> Option<Position> {
        let follow = self.follow.borrow();
        let core = follow.core.borrow();
        core.lease_live(self.boot()).then(|| core.need(Subject::Repository(repository)))?
    }

    /// A config with another writer: what is known of the one before is dropped, and its lease is given up.
    pub(super) fn reload(self: &Rc<Self>) {
        let next = Rc::new(Follow::new(&self.world, self.seat));
        let before = self.follow.replace(next);
        self.world.trace(|| format!("{} is now {}", before.name, self.name()));
        let proxy = self.clone();
        self.world.engine.spawn(self.pid, async move { proxy.release(&before).await });
        self.follows();
    }

    /// Gives its lease up, and then tells the writer.
    pub(super) async fn release(&self, follow: &Follow) {
        follow.removed.set(true);
        follow.core.borrow_mut().released();
        let name = follow.name.clone();
        let ask = move |server: Rc<Server>| {
            let name = name.clone();
            async move {
                server.leases.borrow_mut().released(&name);
                server.moved.tell();
            }
        };
        let within = Duration::from_secs(1);
        let told = self.world.call(Node::Proxy(self.seat), follow.writer, within, ask).await;
        self.world.trace(|| format!("{} has given its lease up: {told:?}", follow.name));
    }

    fn follows(self: &Rc<Self>) {
        let follow = self.follow.borrow().clone();
        let (proxy, log) = (self.clone(), follow.clone());
        self.world.engine.spawn(self.pid, async move { proxy.follow_log(&log).await });
        for place in 0..self.world.sites.len() {
            let (proxy, follow) = (self.clone(), follow.clone());
            self.world.engine.spawn(self.pid, async move { proxy.follow_state(&follow, place).await });
        }
    }

    /// What an answer brought is noted before the poll that confirms it is sent, and the lease is counted from when its
    /// poll was sent.
    async fn follow_log(&self, follow: &Follow) {
        let mut pause = PAUSE[0];
        let mut at_once = true;
        while !follow.removed.get() {
            let after = follow.core.borrow().after();
            let wait = if at_once { Duration::ZERO } else { PARK };
            let poll = Poll { by: Poller::Proxy(follow.name.clone()), after, wait };
            let sent = self.boot();
            let within =
                self.world.seats[self.seat].machine.real(if at_once { IDLE } else { freshness::LEASE });
            let ask = move |there| feed::poll(there, poll.clone());
            let answer = self.world.call(Node::Proxy(self.seat), follow.writer, within, ask).await;
            if follow.removed.get() {
                return;
            }
            let polled = self.polled(follow, answer, sent);
            follow.news.tell();
            match polled {
                Some(moved) => {
                    pause = PAUSE[0];
                    let parked = !at_once && after.is_some();
                    at_once = after.is_none();
                    if parked && !moved && self.boot().saturating_sub(sent) < LEAST {
                        self.sleep(LEAST).await;
                    }
                }
                None => {
                    at_once = true;
                    self.sleep(pause).await;
                    pause = (pause * 2).min(PAUSE[1]);
                }
            }
        }
    }

    /// Whether it moved on; `None`: the next poll cannot go on from this one.
    fn polled(&self, follow: &Follow, answer: Result<feed::Polled, Failed>, sent: Duration) -> Option<bool> {
        let mut core = follow.core.borrow_mut();
        match answer {
            Err(_) | Ok(feed::Polled::Lines(..) | feed::Polled::NotNow) => None,
            Ok(feed::Polled::Changes(head, _)) if !head.writes => None,
            Ok(feed::Polled::Changes(head, changes)) => {
                let moved = core.after().is_none_or(|(after, _)| head.upto > after);
                let (upto, mark, lease) = (head.upto, head.mark, head.lease);
                let reigns = head.reigns;
                let polled = freshness::Polled { head: head.head, upto, mark, changes, reigns, lease };
                if !core.polled(polled, sent, self.boot()) {
                    return None;
                }
                let left = core.lease_left(self.boot());
                self.world.trace(|| {
                    format!("{} knows {upto} of {}, lease {lease:?}, left {left:?}", follow.name, head.head)
                });
                drop(core);
                self.world.audit(self);
                Some(moved)
            }
            Ok(feed::Polled::Diverged { common, .. }) => {
                core.diverged(common);
                None
            }
            Ok(feed::Polled::Compacted) => {
                core.compacted();
                None
            }
        }
    }

    async fn follow_state(&self, follow: &Follow, place: usize) {
        let mut pause = PAUSE[0];
        let mut after = None;
        while !follow.removed.get() {
            let begun = self.boot();
            let wait = if after.is_some() { STATE_PARK } else { Duration::ZERO };
            let asked = after;
            let ask = move |there| feed::state(there, asked, wait);
            let answer = self.world.call(Node::Proxy(self.seat), place, IDLE * 2, ask).await;
            if follow.removed.get() {
                return;
            }
            let Ok(position) = answer else {
                after = None;
                self.sleep(pause).await;
                pause = (pause * 2).min(PAUSE[1]);
                continue;
            };
            pause = PAUSE[0];
            let at = self.boot();
            if follow.core.borrow_mut().reported(place, position, at) {
                follow.news.tell();
            }
            let idle = after.is_some() && position == after && at.saturating_sub(begun) < LEAST;
            after = position;
            match position {
                None => self.sleep(UNCLAIMED_PAUSE).await,
                Some(_) if place == follow.writer => self.sleep(WRITER_PAUSE).await,
                Some(_) if idle => self.sleep(LEAST).await,
                Some(_) => self.sleep(BREATH).await,
            }
        }
    }

    async fn probe(&self, place: usize) {
        loop {
            let ask = |server: Rc<Server>| async move {
                Ready {
                    ready: true,
                    read: Some(server.at().claim.unknown().is_none()),
                    write: Some(server.is_writer()),
                    ..Ready::default()
                }
            };
            let within = Duration::from_secs(1);
            let found = match self.world.call(Node::Proxy(self.seat), place, within, ask).await {
                Ok(ready) => Found::Good { seen: "200".into(), ready: Some(ready) },
                Err(failed) => Found::Bad { why: format!("{failed:?}") },
            };
            self.probes.borrow_mut()[place].record(found, clock::now(), clock::wall());
            self.follow.borrow().news.tell();
            self.sleep(PROBE_EVERY).await;
        }
    }
}
