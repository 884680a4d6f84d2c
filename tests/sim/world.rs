//! One run: what everybody shares, how it begins and how it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use switchyard::{
    clock,
    config::{
        Log, Server,
        controller::{Controller as Config, Limits, Store as StoreConfig, StoreKind, Timeouts},
    },
    controller::{Core, ops::Ops},
    model::{Attempt, InstanceId, NodeId},
    store::{
        Store,
        faulty::{Faults, Faulty},
    },
    supervise::{Stop, StopSource, Tree},
};

use tokio::time::Instant;

use crate::{agent, chaos, client, memory::MemoryStore, observer};

/// How long everything may go wrong, from and to: many short runs meet more than a few long ones do.
const CHAOS: (u64, u64) = (3_000, 12_000);

/// Of so many runs one has starts of more instances than one batch holds: each of them costs as much as a whole run.
const LARGE: u32 = 8;

/// How long the healed cluster may take until nothing waits any more: the longest timeout a few times.
const SETTLE: Duration = Duration::from_secs(90);

pub(crate) const NODES: usize = 4;
pub(crate) const CAPACITY: u32 = 4;
const CLIENTS: usize = 2;

/// One controller's place: it may be running or dead.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) ops: Option<Ops>,
    pub(crate) tree: Option<Tree>,
    pub(crate) faults: Faults,
}

/// What everybody shares.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) store: Arc<dyn Store>,
    places: Mutex<Vec<Place>>,
    /// Everything that went wrong.
    broken: Mutex<Vec<String>>,
    /// Every VM that was ever begun: an instance has one, on one node, by one offer.
    begun: Mutex<BTreeMap<InstanceId, (NodeId, Attempt)>>,
    /// Ids of acknowledged starts that nobody has terminated.
    pub(crate) wanted: Mutex<BTreeSet<InstanceId>>,
    /// Ids of all acknowledged starts.
    pub(crate) acknowledged: Mutex<BTreeSet<InstanceId>>,
    /// Nothing goes wrong any more.
    healed: AtomicBool,
    pub(crate) done: StopSource,
    /// Clients ask for more at once than one batch holds, now and then.
    pub(crate) large: bool,
    /// So many attempts that come to nothing end an instance.
    pub(crate) attempts: u32,
    began: Instant,
    /// Changes of instances that were seen.
    pub(crate) steps: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl World {
    pub(crate) fn rng(&self, who: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(who))
    }

    pub(crate) fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        lock(&self.places)
    }

    /// Some controller that runs, if one does.
    pub(crate) fn any(&self, rng: &mut StdRng) -> Option<Ops> {
        let places = self.places();
        let alive: Vec<&Ops> = places.iter().filter_map(|place| place.ops.as_ref()).collect();
        (!alive.is_empty()).then(|| alive[rng.random_range(0..alive.len())].clone())
    }

    pub(crate) fn breaks(&self, what: String) {
        tracing::error!(target: "sim", what, "promise broken");
        let (at, step) = (self.began.elapsed().as_secs_f64(), self.steps.load(Ordering::SeqCst));
        lock(&self.broken).push(format!("{at:.3} s, step {step}: {what}"));
    }

    /// A VM begins: the first and only one of its instance.
    pub(crate) fn begins(&self, instance: &InstanceId, node: &NodeId, attempt: Attempt) {
        let before = lock(&self.begun).insert(instance.clone(), (node.clone(), attempt));
        if let Some((other, earlier)) = before {
            self.breaks(format!(
                "{instance} was begun by {other} (offer {earlier}) and again by {node} (offer {attempt})"
            ));
        }
    }

    pub(crate) fn is_healed(&self) -> bool {
        self.healed.load(Ordering::SeqCst)
    }

    pub(crate) fn stop(&self) -> Stop {
        self.done.stop()
    }

    /// Starts the controller of this place.
    pub(crate) fn boot(&self, n: usize) {
        let mut places = self.places();
        let place = &mut places[n];
        let tree = Tree::new();
        let store = Arc::new(Faulty::new(self.store.clone(), place.faults.clone()));
        let core = Core::start(
            config(&place.name, self.attempts),
            store,
            &tree.handle(),
            format!("{}:1", place.name),
        )
        .unwrap();
        (place.ops, place.tree) = (Some(core.ops), Some(tree));
    }

    /// Kills it: from this moment on it reaches nothing.
    pub(crate) async fn kill(&self, n: usize) {
        let tree = {
            let mut places = self.places();
            let place = &mut places[n];
            place.faults.cut_off();
            // What is left of it keeps its handle; its successor has another.
            place.faults = Faults::new();
            place.ops = None;
            place.tree.take()
        };
        if let Some(tree) = tree {
            tree.shut_down(Duration::ZERO).await;
        }
    }
}

fn config(name: &str, attempts: u32) -> Config {
    Config {
        auth: Default::default(),
        server: Server {
            listen: ([127, 0, 0, 1], 0).into(),
            name: name.into(),
            grace: Duration::from_secs(1),
            address_file: None,
            advertise: None,
            zone: None,
            tls: None,
        },
        log: Log::default(),
        store: StoreConfig {
            kind: StoreKind::Embedded("unused".into()),
            cluster: "main".into(),
            upkeep: Default::default(),
        },
        registries: None,
        timeouts: Timeouts {
            node_active: Duration::from_secs(9),
            instance_active: Duration::from_secs(9),
            instance_visible: Duration::from_secs(5),
            claim: Duration::from_secs(1),
            poll: Duration::from_secs(5),
            store: Duration::from_secs(1),
            ..Timeouts::default()
        },
        limits: Limits { attempts, ..Limits::default() },
        events: Default::default(),
        mac_pool: Default::default(),
        web: Default::default(),
    }
}

/// What a run was.
pub(crate) struct Told {
    pub(crate) broken: Vec<String>,
    pub(crate) acknowledged: usize,
    pub(crate) begun: usize,
    pub(crate) changes: u64,
}

/// Runs one seed.
pub(crate) async fn run(seed: u64) -> Told {
    let ground = Tree::new();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::open(Some(seed), &ground.handle()));
    let mut rng = StdRng::seed_from_u64(seed);
    let places = (0..rng.random_range(2..=3)).map(|n| Place {
        name: format!("c{n}"),
        ops: None,
        tree: None,
        faults: Faults::seeded(seed + n, 0.03),
    });
    let world = Arc::new(World {
        seed,
        store,
        places: Mutex::new(places.collect()),
        broken: Mutex::default(),
        begun: Mutex::default(),
        wanted: Mutex::default(),
        acknowledged: Mutex::default(),
        healed: AtomicBool::new(false),
        done: StopSource::new(),
        large: rng.random_ratio(1, LARGE),
        attempts: rng.random_range(1..=4),
        began: clock::now(),
        steps: AtomicU64::new(0),
    });
    let count = world.places().len();
    (0..count).for_each(|n| world.boot(n));
    let actors = Tree::new();
    let handle = actors.handle();
    handle.finish("observer", observer::run(world.clone()));
    (0..NODES).for_each(|n| handle.finish(format!("node {n}"), agent::run(world.clone(), n)));
    (0..CLIENTS).for_each(|n| handle.finish(format!("client {n}"), client::run(world.clone(), n)));

    let bad = Duration::from_millis(rng.random_range(CHAOS.0..CHAOS.1));
    chaos::run(&world, clock::now() + bad).await;
    (0..count).for_each(|n| world.places()[n].faults.heal());
    for n in 0..count {
        if world.places()[n].ops.is_none() {
            world.boot(n);
        }
    }
    world.healed.store(true, Ordering::SeqCst);
    let settled = tokio::time::timeout(SETTLE, observer::settled(&world)).await;
    if settled.is_err() {
        let waits = observer::waiting(&world).await;
        world.breaks(format!("still not settled: {waits}"));
    }
    observer::compare(&world).await;
    world.done.request();
    actors.shut_down(Duration::from_secs(30)).await;
    for n in 0..count {
        world.kill(n).await;
    }
    ground.shut_down(Duration::from_secs(5)).await;
    Told {
        broken: lock(&world.broken).clone(),
        acknowledged: lock(&world.acknowledged).len(),
        begun: lock(&world.begun).len(),
        changes: world.steps.load(Ordering::SeqCst),
    }
}
