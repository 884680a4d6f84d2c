//! All that may be done to a resource, one file each. Knows the store and the cache; knows no HTTP.

mod agents;
mod apikeys;
mod change;
pub(super) mod commands;
pub(super) mod distribute;
mod error;
mod events;
mod groups;
mod hardware;
mod heartbeat;
pub(super) mod images;
mod instances;
pub mod look;
mod macs;
mod nodes;
mod permissions;
mod reach;
mod output;
mod poll;
mod census;
mod restart;
mod scripts;
mod start;
pub mod templates;
mod together;
mod why;
mod why_node;
mod usb;
mod vm_name;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub(super) use census::Census;
pub(super) use change::{Beside, Change};
pub use error::{OpsError, RETRY_AFTER};
pub use events::Pushed;
pub(super) use groups::GROUP_DELETED;
pub use instances::Shown;
pub(super) use macs::While;
pub use macs::{MacAnswer, MacAsk};
pub use nodes::NodeView;
pub use reach::Reach;

use super::{
    Health,
    absence::{Hearing, Silence},
    clocks::Clocks,
    lists::Lists,
    noted::Noted,
    numbers::Numbers,
    records::{self, Absence, NodeRecord},
    schedule::dispatch::Dispatch,
    writes::Writes,
};
use crate::{
    clock,
    config::controller::Controller as Config,
    controller::ops::templates::Templates,
    model::{NodeId, StartId},
    store::{Consistency, Revision, Store, keys::Keys},
    supervise::{Handle, Stop},
};

/// How often every controller looks who is silent: well under the shortest presence.
const LISTEN_EVERY: Duration = Duration::from_millis(500);

/// Who calls, as far as a start cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Its name, or the bytes of `Authorization`, if any.
    pub credential: Option<Vec<u8>>,
    /// `Idempotency-Key`, if any.
    pub idempotency_key: Option<String>,
    /// What it may touch.
    pub reach: Reach,
    /// When the answer has to be there, if it has to.
    pub deadline: Option<Instant>,
}

/// The least time for a transaction of the store and its answer. With less a write is refused before it has any
/// effect.
pub const WRITE_TIME: Duration = Duration::from_millis(200);

impl Caller {
    /// Refuses what cannot be finished in time. To be asked after slow preparations, right before the effect.
    pub fn has_time_to_write(&self) -> Result<(), OpsError> {
        match self.deadline {
            Some(end) if clock::now() + WRITE_TIME > end => {
                Err(OpsError::unavailable("not done: its time was used up before it was begun"))
            }
            _ => Ok(()),
        }
    }
}

/// Does things. Cheap to clone; every handler has one.
#[derive(Clone)]
pub struct Ops {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Keys,
    pub(super) templates: Templates,
    pub(super) tasks: Handle,
    pub(super) health: Health,
    pub(super) numbers: Numbers,
    pub(super) lists: Lists,
    pub(super) writes: Writes,
    pub(super) clocks: Clocks,
    pub(super) dispatch: Dispatch,
    /// Starts that are being finished here, so that one is not finished twice at a time.
    making: Mutex<HashSet<StartId>>,
    /// Chunks of scripts whose starts are about to be accepted here.
    storing: AtomicUsize,
    /// What nodes said lately that is not worth a record. Losing it costs a little time, nothing else.
    heard: Mutex<HashMap<NodeId, heartbeat::Memory>>,
    hearing: Mutex<Hearing>,
    pub(super) pushed: Pushed,
}

impl Ops {
    /// A record as it is stored, and when it was put. Nothing is begun by a read: one without an answer leaves nothing
    /// unknown.
    async fn record_at<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, Revision)>, OpsError> {
        let got = self.inner.store.get(key, Consistency::Linearizable).await;
        let got = got.map_err(|error| OpsError::unavailable(error.to_string()))?;
        got.kv.map(|kv| Ok((records::decode(&kv.value)?, kv.mod_revision))).transpose()
    }

    /// Over this store; nothing runs yet. See [`super::Core::start`].
    pub(super) fn new(
        config: Config,
        store: Arc<dyn Store>,
        tasks: Handle,
        health: Health,
        numbers: Numbers,
    ) -> Result<Self, reqwest::Error> {
        let patience = config.timeouts.store;
        let store: Arc<dyn Store> = Arc::new(Noted::new(store, health.clone(), numbers.clone(), patience));
        let keys = Keys::new(&config.store.cluster);
        let ageing = config.timeouts.ageing_per_second;
        let lists = Lists::new(store.clone(), keys.clone(), health.clone(), ageing);
        let clocks = Clocks::new(config.server.name.clone(), numbers.clone());
        let presence = Duration::from_secs(heartbeat::presence_seconds(&config.timeouts).into());
        Ok(Self {
            inner: Arc::new(Inner {
                templates: Templates::new(config.registries.clone(), config.auth.root_token.as_ref())?,
                writes: Writes::new(store.clone(), &keys, clocks.clone()),
                clocks,
                dispatch: Dispatch::new(config.server.name.clone()),
                making: Mutex::default(),
                storing: AtomicUsize::new(0),
                heard: Mutex::default(),
                pushed: Pushed::default(),
                hearing: Mutex::new(Hearing::new(presence)),
                config,
                store,
                keys,
                tasks,
                health,
                numbers,
                lists,
            }),
        })
    }

    /// Templates, asked of the registries' front.
    pub fn templates(&self) -> &Templates {
        &self.inner.templates
    }

    /// The config this controller runs with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Registry address handed to nodes; empty without registries.
    pub fn registry_for_nodes(&self) -> String {
        self.inner.templates.node_address().to_owned()
    }

    /// The cache.
    pub fn lists(&self) -> &Lists {
        &self.inner.lists
    }

    /// Looks who is silent, every now and then until `stop`. Every controller does, whoever leads the duty.
    pub(super) async fn listen(self, stop: Stop) {
        loop {
            tokio::select! {
                () = stop.requested() => return,
                () = tokio::time::sleep(LISTEN_EVERY) => {}
            }
            self.inner.clocks.look();
            let health = &self.inner.health;
            let live = health.cache_live() && health.store_reachable();
            let held = self.inner.lists.peek(|cache| {
                let nodes = cache.nodes().map(|(id, _)| (id, cache.presence(id).is_some()));
                lock(&self.inner.hearing).look(clock::boot(), live, nodes);
                // A node may have been deleted at another controller.
                lock(&self.inner.heard).retain(|id, _| cache.node(id).is_some());
                cache.nodes().filter(|(_, item)| item.record.absence == Some(Absence::Held)).count()
            });
            health.set_held_nodes(held);
        }
    }

    /// Every node, and how long it has been silent for sure.
    pub(super) fn silences(&self) -> Vec<Silence> {
        self.inner.lists.peek(|cache| {
            let (hearing, now) = (lock(&self.inner.hearing), clock::boot());
            let silence = |(id, item): (&NodeId, &super::lists::Item<NodeRecord>)| Silence {
                node: id.clone(),
                absent: hearing.is_absent(id),
                silent_for: hearing.silent_for(id, now),
                decided: item.record.absence,
            };
            cache.nodes().map(silence).collect()
        })
    }

    /// Whether the node has been silent for so long that the API calls it offline.
    fn is_offline(&self, node: &NodeId) -> bool {
        self.silent_for(node) >= self.inner.config.timeouts.node_active
    }

    /// How long the node has been silent for sure.
    pub(super) fn silent_for(&self, node: &NodeId) -> Duration {
        lock(&self.inner.hearing).silent_for(node, clock::boot())
    }

    /// Nothing is decided before the cache was loaded once.
    fn loaded(&self) -> Result<(), OpsError> {
        if self.inner.health.loaded() {
            Ok(())
        } else {
            Err(OpsError::unavailable("the cache is not loaded"))
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
