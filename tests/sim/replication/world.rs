//! One run: what everybody shares, how it begins and how it ends.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use rand::Rng;
use switchyard::{
    model::{Digest, Position, RepositoryName},
    registry::{
        content::Catalogue,
        journal::{Claim, ROLE},
    },
    wire::replication::{BlobRef, Change, Entry, Epoch},
};

use super::{
    chaos::Operator,
    clients,
    engine::{Engine, Machine, OUTSIDE},
    link::Net,
    proxy::Seat,
    registry::{Disk, Role, Site},
    truth::Truth,
};

/// The healed world may take so long until all is the same everywhere.
const SETTLE: Duration = Duration::from_secs(90);

/// How long a proxy is slow in a world that is well otherwise.
const LAGS: Duration = Duration::from_secs(40);

/// A lease, a poll, and what the messages take.
const ACKNOWLEDGED: Duration = Duration::from_secs(4);

pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) chaos: Duration,
    pub(super) sites: Vec<Site>,
    pub(super) seats: Vec<Seat>,
    pub(super) net: Net,
    /// Which registry is the writer, by the operator's will.
    pub(super) writer: Cell<usize>,
    pub(super) repositories: Vec<RepositoryName>,
    pub(super) truth: RefCell<Truth>,
    /// Entries that a log keeps.
    pub(super) keep: u64,
    pub(super) fresh_wait: Duration,
    /// Repositories whose need a proxy keeps one by one.
    pub(super) table: usize,
    pub(super) write_only: bool,
    /// The next writer that comes up begins another history.
    pub(super) succession: Cell<bool>,
    /// Those that nobody starts.
    pub(super) retired: RefCell<BTreeSet<usize>>,
    pub(super) healed: Cell<bool>,
    pub(super) over: Cell<bool>,
    pub(super) faults: Cell<usize>,
    pub(super) slow: RefCell<Vec<(Duration, Duration)>>,
    pub(super) reads: Cell<usize>,
    pub(super) busy: Rc<Cell<usize>>,
    broken: RefCell<Vec<String>>,
    images: RefCell<BTreeMap<Digest, Vec<Digest>>>,
    slow_storage: f64,
    logs: bool,
}

/// What a run did, if nothing was wrong.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Report {
    pub(crate) acknowledged: usize,
    pub(crate) reads: usize,
    pub(crate) faults: usize,
    pub(crate) slow: usize,
}

impl std::ops::Add for Report {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            acknowledged: self.acknowledged + other.acknowledged,
            reads: self.reads + other.reads,
            faults: self.faults + other.faults,
            slow: self.slow + other.slow,
        }
    }
}

impl World {
    /// Something that was promised is not so.
    pub(super) fn breaks(&self, what: String) {
        self.trace(|| format!("BROKEN: {what}"));
        let at = self.engine.now().as_secs_f64();
        self.broken.borrow_mut().push(format!("{at:.3} s, step {}: {what}", self.engine.steps()));
    }

    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        if self.logs {
            tracing::debug!(target: "sim", "{:9.3} {}", self.engine.now().as_secs_f64(), what());
        }
    }

    /// The writer's log is an old one: nobody has noted a lease in it.
    fn begin_long_ago(&self) {
        let position = Position { epoch: 1, seq: 1 };
        let opened = Epoch { epoch: 1, after: Position::ZERO, writer: "r0".into(), id: "first".into() };
        let entry = Entry {
            position,
            prev: Position::ZERO,
            time: 0,
            change: Change::Opened,
            repository: None,
            opened: Some(opened),
            digest: None,
            blobs: Vec::new(),
            patch: None,
        };
        let line = serde_json::to_vec(&entry).unwrap().into();
        self.log(0).append(&[(entry, line)]).unwrap();
        self.log(0).put_note(ROLE, Some(b"writer")).unwrap();
    }

    /// What a step of a storage takes.
    pub(super) fn storage(&self) -> Duration {
        match self.engine.draw(|rng| rng.random::<f64>()) {
            _ if self.healed.get() => self.engine.ms(0, 1),
            draw if draw < self.slow_storage * 0.2 => self.engine.ms(20, 400),
            draw if draw < self.slow_storage => self.engine.ms(1, 20),
            _ => self.engine.ms(0, 1),
        }
    }

    /// What the bytes of a blob take.
    pub(super) fn transfer(&self) -> Duration {
        match self.engine.draw(|rng| rng.random::<f64>()) {
            _ if self.healed.get() => self.engine.ms(1, 20),
            draw if draw < 0.05 => self.engine.ms(1000, 6000),
            draw if draw < 0.2 => self.engine.ms(100, 1000),
            _ => self.engine.ms(2, 100),
        }
    }

    /// The writer, as the config of a proxy that is read now says.
    pub(super) fn configured(&self) -> usize {
        self.writer.get()
    }

    /// A new image; it may share a blob with an earlier one.
    pub(super) fn image(&self, name: &RepositoryName) -> Digest {
        let new = |what: &str| Digest::of(format!("{what} {name} {}", self.engine.id()).as_bytes());
        let mut images = self.images.borrow_mut();
        let (manifest, mut parts) = (new("manifest"), vec![new("blob")]);
        if let Some(shared) = images.values().next().filter(|_| self.engine.chance(0.5)) {
            parts.push(shared[0]);
        }
        images.insert(manifest, parts);
        manifest
    }

    /// The blobs of an image beside its manifest.
    pub(super) fn parts(&self, manifest: &Digest) -> Vec<Digest> {
        self.images.borrow()[manifest].clone()
    }

    pub(super) fn blob_ref(&self, digest: Digest) -> BlobRef {
        BlobRef { digest, size: 1, chunks: None }
    }

    /// All blobs that a repository needs.
    pub(super) fn blobs(&self, catalogue: &Catalogue) -> Vec<BlobRef> {
        let images = self.images.borrow();
        let whole =
            |manifest: &Digest| images[manifest].iter().copied().chain([*manifest]).collect::<Vec<_>>();
        let blobs: BTreeSet<Digest> = catalogue.manifests.keys().flat_map(whole).collect();
        blobs.into_iter().map(|digest| self.blob_ref(digest)).collect()
    }

    /// What keeps the healed world from being the same everywhere.
    fn unsettled(&self) -> Option<String> {
        let writer = self.writer.get();
        let Some(server) = self.sites[writer].server.borrow().clone() else {
            return Some("the writer is down".into());
        };
        let (head, own) = (server.at().position, self.sites[writer].disk.borrow());
        for (place, site) in self.sites.iter().enumerate().filter(|(place, _)| *place != writer) {
            let Some(server) = site.server.borrow().clone() else {
                return Some(format!("{} is down", site.name));
            };
            let at = server.at();
            if at.position != head || at.claim != Claim::Confirmed || at.mark != self.log(writer).head().1 {
                return Some(format!("{} claims {at:?}, and the writer is at {head}", site.name));
            }
            let theirs = site.disk.borrow();
            if theirs.catalogues != own.catalogues {
                return Some(format!("{} (place {place}) has other catalogues than the writer", site.name));
            }
        }
        for seat in &self.seats {
            let Some(proxy) = seat.proxy.borrow().clone() else { return Some("a proxy is down".into()) };
            let follow = proxy.follow.borrow();
            let core = follow.core.borrow();
            if follow.writer != writer || !core.lease_live(proxy.boot()) {
                return Some(format!("{} has no lease", proxy.name()));
            }
            if let Some(place) =
                (0..self.sites.len()).find(|place| *place != writer && core.have(*place) != Some(head))
            {
                return Some(format!(
                    "{} takes {} for {:?}",
                    proxy.name(),
                    self.sites[place].name,
                    core.have(place)
                ));
            }
        }
        None
    }
}

/// Every seed is another world.
fn world(seed: u64, logs: bool) -> (Rc<World>, Operator) {
    let engine = Engine::new(seed);
    let site = |place: usize| Site {
        name: format!("r{place}"),
        machine: Machine::new(&engine),
        disk: RefCell::new(Disk::new()),
        role: Cell::new(if place == 0 { Role::Writer { alone: false } } else { Role::Replica { writer: 0 } }),
        pid: Cell::default(),
        server: RefCell::default(),
        fuse: Cell::default(),
    };
    let sites: Vec<Site> = (0..engine.draw(|rng| rng.random_range(3..=4))).map(site).collect();
    let seat = |_| Seat { machine: Machine::new(&engine), proxy: RefCell::default() };
    let seats: Vec<Seat> = (0..engine.draw(|rng| rng.random_range(1..=3))).map(seat).collect();
    let names = (0..engine.draw(|rng| rng.random_range(1..=4))).map(|n| format!("r{n}"));
    let repositories = names.map(|name| RepositoryName::parse(name).unwrap()).collect();
    let operator = match engine.draw(|rng| rng.random_range(0..10)) {
        0 => Operator::Promotes,
        1 => Operator::Wipes,
        2 => Operator::Restores,
        _ => Operator::Nothing,
    };
    // Every eighth world is well but for one proxy that is always slow.
    let lags = operator == Operator::Nothing && engine.chance(0.15);
    let rough = |most: f64| if lags { 0.0 } else { engine.draw(|rng| rng.random_range(0.0..most)) };
    let net = Net {
        loss: rough(0.03),
        repeat: rough(0.05),
        late: [rough(0.2), rough(0.03)],
        laggard: Cell::new(lags.then_some(0)),
        ..Net::default()
    };
    let world = World {
        chaos: if lags { LAGS } else { engine.ms(8000, 16_000) },
        sites,
        seats,
        net,
        writer: Cell::new(0),
        repositories,
        truth: RefCell::default(),
        keep: engine.draw(|rng| if rng.random_bool(0.5) { rng.random_range(3..20) } else { 1000 }),
        fresh_wait: engine.ms(0, 1000),
        table: engine.draw(|rng| if rng.random_bool(0.3) { rng.random_range(1..3) } else { 1000 }),
        write_only: engine.chance(0.15),
        succession: Cell::default(),
        retired: RefCell::default(),
        healed: Cell::default(),
        over: Cell::default(),
        faults: Cell::default(),
        slow: RefCell::default(),
        reads: Cell::default(),
        busy: Rc::default(),
        broken: RefCell::default(),
        images: RefCell::default(),
        slow_storage: rough(0.1),
        logs,
        engine,
    };
    (Rc::new(world), operator)
}

/// Runs one seed.
pub(crate) fn run(seed: u64, logs: bool) -> Result<Report, Vec<String>> {
    let (world, operator) = world(seed, logs);
    let engine = world.engine.clone();
    if engine.chance(0.3) {
        world.begin_long_ago();
    }
    (0..world.sites.len()).for_each(|place| world.boot(place));
    (0..world.seats.len()).for_each(|seat| world.boot_proxy(seat));
    let lags = world.net.laggard.get().is_some();
    // One push after the other, so that each that is slow counts.
    let pushers = if lags { 1 } else { world.repositories.len() };
    for name in world.repositories.iter().take(pushers).cloned() {
        engine.spawn(OUTSIDE, clients::pusher(world.clone(), name));
    }
    for seat in (0..world.seats.len()).chain(0..world.seats.len()) {
        engine.spawn(OUTSIDE, clients::reader(world.clone(), seat));
    }
    for place in 0..world.sites.len() {
        engine.spawn(OUTSIDE, world.clone().caretaker(place));
    }
    if !lags {
        engine.spawn(OUTSIDE, world.clone().chaos());
    }
    engine.spawn(OUTSIDE, world.clone().operator(operator));

    let broken = || !world.broken.borrow().is_empty();
    engine.run(world.chaos, broken);
    world.heal();
    let began = engine.now();
    let mut why = Some(String::new());
    while why.is_some() && !broken() && engine.now() < began + SETTLE {
        engine.run(engine.now() + Duration::from_millis(200), broken);
        why = world.unsettled();
    }
    if let Some(why) = why.filter(|_| !broken()) {
        world.breaks(format!("LIVENESS: {why}"));
    }
    clients::last_words(&world, ACKNOWLEDGED);
    let until = engine.now() + Duration::from_secs(60);
    engine.run(until, || broken() || world.busy.get() == 0);
    let (bouts, disturbances) = (world.slow_bouts(), world.faults.get() + world.net.hiccups.get());
    // The slow one gets its lease back only after it has kept pace for 5 s, and then delays one push again.
    let most = if lags { began.as_secs() as usize / 7 + 2 } else { disturbances };
    world.trace(|| format!("pushes were slow {bouts} times, at most {most} may be; lags {lags}"));
    if bouts > most && !broken() {
        world
            .breaks(format!("ONE PUSH: pushes were slow {bouts} times, and at most {most} can be explained"));
    }
    world.over.set(true);
    engine.clear();
    world.sites.iter().for_each(|site| drop(site.server.take()));
    world.seats.iter().for_each(|seat| drop(seat.proxy.take()));
    let broken = world.broken.take();
    let report = Report {
        acknowledged: world.truth.borrow().acknowledged,
        reads: world.reads.get(),
        faults: world.faults.get(),
        slow: bouts,
    };
    if broken.is_empty() { Ok(report) } else { Err(broken) }
}
