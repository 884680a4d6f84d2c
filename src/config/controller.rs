//! `controller.toml`, checked.

use std::{path::PathBuf, time::Duration};

use super::{BaseUrl, Etcd, Log, Server, auth::Auth, events::Events};
use crate::model::MacRange;
use crate::tls::Upstream;

/// Everything a controller is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Controller {
    /// `[server]`.
    pub server: Server,
    /// `[log]`.
    pub log: Log,
    /// `[auth]`.
    pub auth: Auth,
    /// `[store]`.
    pub store: Store,
    /// `[registries]`; without it the controller is ready, and template calls fail naming this key.
    pub registries: Option<Registries>,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[limits]`.
    pub limits: Limits,
    /// `[events]`.
    pub events: Events,
    /// `[mac_pool]`.
    pub mac_pool: MacPool,
    /// `[web]`.
    pub web: Web,
}

/// `[web]`: what browsers and installers get beside the API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Web {
    /// Pages of every origin may call the API (`ANKA_ALLOW_CORS`).
    pub allow_cors: bool,
    /// The directory whose files are `/pkg/…`, from which hosts install their agents.
    pub packages: Option<PathBuf>,
}

/// `[mac_pool]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MacPool {
    /// Each instance gets an address that no other has (`ANKA_MANAGE_MAC_ADDRESSES`).
    pub manage: bool,
    /// Which addresses (`ANKA_MAC_ADDR_RANGE`); some that are made of the cluster's name if not given.
    pub range: Option<MacRange>,
}

/// `[store]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Where the state is.
    pub kind: StoreKind,
    /// Which cluster's.
    pub cluster: String,
    /// What is done for an etcd; nothing for an embedded store, which looks after itself.
    pub upkeep: Upkeep,
}

/// What is done for an etcd, by whoever of the controllers leads that duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upkeep {
    /// How often history is forgotten; zero is never. What is younger than this is always kept.
    pub compact_every: Duration,
    /// How often members make their files anew (`ANKA_DEFRAG_DB_INTERVAL`); zero is never.
    pub defragment_every: Duration,
    /// The size at which a member takes no more writes, of members that do not tell: etcd before 3.6.
    pub quota: u64,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            compact_every: Duration::from_secs(5 * 60),
            // A member answers nothing while it does: when that may be, an operator says.
            defragment_every: Duration::ZERO,
            // Etcd's own default.
            quota: 2 << 30,
        }
    }
}

/// Where the state is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    /// An etcd cluster.
    Etcd(Etcd),
    /// A directory of this machine, for one controller process.
    Embedded(PathBuf),
}

/// `[registries]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registries {
    /// The registries' front: asked by the controller and handed to nodes.
    pub address: BaseUrl,
    /// The address for nodes, if another one.
    pub node_address: BaseUrl,
    /// Where nodes push images that they save, if not to `node_address` (`ANKA_PUSH_REGISTRY`).
    pub push_address: Option<BaseUrl>,
    /// How long to wait for an answer; under the clients' 10 s.
    pub timeout: Duration,
    /// Whom to trust and what to show; there if and only if `address` is asked by `https://`.
    pub tls: Option<Upstream>,
}

/// `[timeouts]`: how long silence is borne.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeouts {
    /// A node silent for so long is Offline (`ANKA_NODE_ACTIVE_TIMEOUT`).
    pub node_active: Duration,
    /// An instance whose node is silent for so long is lost (`ANKA_INSTANCE_ACTIVE_TIMEOUT`).
    pub instance_active: Duration,
    /// Ended instances stay visible for so long (`ANKA_INSTANCE_TIME_OUT`).
    pub instance_visible: Duration,
    /// An unclaimed offer goes back after so long.
    pub claim: Duration,
    /// The longest park of a poll (`ANKA_QUERY_TASK_TIMEOUT`).
    pub poll: Duration,
    /// One request to the store.
    pub store: Duration,
    /// How long a start's idempotency key is remembered.
    pub start_memory: Duration,
    /// A command of a node that comes no further for so long has failed.
    pub command: Duration,
    /// A start that no node has taken for so long, since it was accepted, has failed.
    pub scheduling: Duration,
    /// Priority points that a waiting start gains each second.
    pub ageing_per_second: f64,
    /// Share of nodes that may fall silent within one timeout before the fault is taken to be ours.
    pub mass_absence: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            node_active: Duration::from_secs(120),
            instance_active: Duration::from_secs(120),
            instance_visible: Duration::from_secs(60),
            claim: Duration::from_secs(3),
            poll: Duration::from_secs(10),
            store: Duration::from_secs(3),
            start_memory: Duration::from_secs(24 * 3600),
            command: Duration::from_secs(3600),
            // As long as the vendor's queues keep a task.
            scheduling: Duration::from_secs(24 * 3600),
            ageing_per_second: 1.0,
            mass_absence: 0.3,
        }
    }
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body, bytes; scripts are in it.
    pub body: usize,
    /// Most instances of one start.
    pub count: u32,
    /// An instance that nodes gave back, or took and lost before its VM was started, so many times has failed.
    pub attempts: u32,
    /// Most instances that there may be, in whatever state.
    pub instances: usize,
    /// Most nodes that may have joined.
    pub nodes: usize,
    /// A VM that no record knows is stopped after so many reports of it, counted over all controllers
    /// (`ANKA_UNKNOWN_VM_THRESHOLD`).
    pub unknown_vm_reports: u32,
    /// Most heartbeats, polls and API calls under way at once; more are 503.
    pub concurrency: usize,
}

impl Limits {
    /// The most that `count` may be: a start is one record with all its ids, which has to fit the store.
    pub const COUNT: u32 = 2500;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 4 * 1024 * 1024,
            count: 1000,
            attempts: 100,
            instances: 250_000,
            nodes: 20_000,
            unknown_vm_reports: 30,
            concurrency: 20_000,
        }
    }
}
