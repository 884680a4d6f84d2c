//! What the loops and the workers of one agent share.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{Notify, RwLock, watch};
use tracing::{error, info};

use super::{
    commands::{Commands, Program},
    driver::Driver,
    facts,
    facts::Own,
    journal::{Entry, Journal},
    saves::Saves,
    templates::Cache,
    vms::Vms,
};
use crate::{
    client::{AgentApi, ClientError, Credentials, oci::Oci},
    config::{BaseUrl, agent::Agent as Config},
    model::{InstanceId, NodeId},
    supervise::StopSource,
    wire::{
        agent::{Heard, NodeFacts, NodeSettings},
        node::CapacityMode,
    },
};

/// Most VMs of a node whose room is counted by resources.
const BY_RESOURCES: u32 = 1000;

/// What an agent keeps.
pub(super) struct Disk {
    pub(super) cache: Cache,
    pub(super) journal: Journal,
    pub(super) saves: Saves,
}

/// One agent's parts.
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) id: NodeId,
    /// Made at each start.
    pub(super) session: String,
    pub(super) api: AgentApi,
    /// How it speaks to controllers and registries.
    credentials: Credentials,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) cache: Cache,
    pub(super) vms: Vms,
    pub(super) commands: Commands,
    pub(super) journal: Arc<Mutex<Journal>>,
    /// Savings that a later run can go on with.
    pub(super) saves: Saves,
    /// Whether the last report was answered: only then are tasks taken and claims sent.
    pub(super) in_touch: watch::Sender<bool>,
    /// The newest settings seen.
    pub(super) settings: watch::Sender<Option<NodeSettings>>,
    /// Registry address for pulls, as last heard.
    registry: Mutex<String>,
    /// Its record is to be made or renewed.
    pub(super) must_join: watch::Sender<bool>,
    /// A report is due now.
    pub(super) beat: Notify,
    /// Heartbeats hold it alone, claims share it: a heartbeat that was made before a claim, and so does not tell
    /// of its VM, must not arrive after it.
    pub(super) gate: RwLock<()>,
    /// No new starts until then: one was just given back, and would come straight here again.
    pub(super) pause: super::pause::Pause,
    /// The agent is stopping.
    pub(super) ending: StopSource,
    /// What this process is, if it can be replaced.
    pub(super) program: OnceLock<Program>,
    /// Another program is to go on in its place.
    pub(super) replaced: StopSource,
}

impl Node {
    pub(super) fn new(
        config: Config,
        id: NodeId,
        must_join: bool,
        (api, credentials): (AgentApi, Credentials),
        driver: Arc<dyn Driver>,
        disk: Disk,
    ) -> Self {
        let Disk { cache, journal, saves } = disk;
        Self {
            credentials,
            config,
            id,
            session: uuid::Uuid::new_v4().to_string(),
            api,
            driver,
            cache,
            vms: Vms::default(),
            commands: Commands::default(),
            journal: Arc::new(Mutex::new(journal)),
            saves,
            in_touch: watch::Sender::new(false),
            settings: watch::Sender::new(None),
            registry: Mutex::default(),
            must_join: watch::Sender::new(must_join),
            beat: Notify::new(),
            gate: RwLock::new(()),
            pause: super::pause::Pause::default(),
            ending: StopSource::new(),
            program: OnceLock::new(),
            replaced: StopSource::new(),
        }
    }

    /// What this node is right now.
    pub(super) fn facts(&self) -> NodeFacts {
        let own = Own { used: self.cache.used(), templates: self.cache.list(), layers: self.cache.layers() };
        facts::facts(self.driver.facts(), &self.config.data, own)
    }

    /// How many more VMs it may take.
    pub(super) fn free(&self) -> u32 {
        let settings = self.settings.borrow();
        let config = (self.config.capacity, self.config.capacity_mode, false);
        let (capacity, mode, drained) =
            settings.as_ref().map_or(config, |s| (s.capacity, s.capacity_mode, s.drain_mode));
        // By resources the controllers know what fits; there is always a place.
        let capacity = if mode == CapacityMode::Resource { BY_RESOURCES } else { capacity };
        if drained || self.pause.holds() || self.commands.hold_starts() {
            0
        } else {
            capacity.saturating_sub(self.vms.used())
        }
    }

    /// Address that CI clients dial.
    pub(super) fn host(&self) -> String {
        self.settings.borrow().as_ref().map_or_else(|| self.config.host.clone(), |s| s.host.clone())
    }

    /// The controllers were not reached: report before anything else is done.
    pub(super) fn lost_touch(&self) {
        self.in_touch.send_if_modified(|in_touch| std::mem::replace(in_touch, false));
        self.beat.notify_one();
    }

    /// A call was not answered as hoped.
    pub(super) fn unheard(&self, error: &ClientError) {
        if error.status() == Some(404) {
            // The node has no record: it was deleted.
            self.must_join.send_replace(true);
        }
        self.lost_touch();
    }

    /// Takes the newest settings.
    pub(super) fn apply(&self, settings: NodeSettings) {
        self.take(settings, |now, next| now.version < next.version);
    }

    /// Takes the settings that a join has brought: those of the record before count no more, whatever their number.
    pub(super) fn begin_with(&self, settings: NodeSettings) {
        self.take(settings, |now, next| now != next);
    }

    fn take(&self, settings: NodeSettings, newer: impl Fn(&NodeSettings, &NodeSettings) -> bool) {
        let applied = self.settings.send_if_modified(|now| {
            let newer = now.as_ref().is_none_or(|now| newer(now, &settings));
            if newer {
                info!(
                    version = settings.version,
                    capacity = settings.capacity,
                    drained = settings.drain_mode,
                    central_logging = !settings.disable_central_logging,
                    "node settings were applied"
                );
                *now = Some(settings.clone());
            }
            newer
        });
        if applied {
            self.vms.room.notify_one();
        }
    }

    /// Takes the registry's address.
    pub(super) fn hear_registry(&self, registry: String) {
        if !registry.is_empty() {
            *self.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        }
    }

    /// Does as a report's answer says.
    pub(super) fn hear(&self, heard: Heard) {
        if !heard.known {
            self.must_join.send_replace(true);
            self.lost_touch();
        }
        self.hear_registry(heard.registry);
        if let Some(settings) = heard.config {
            self.apply(settings);
        }
        for stop in &heard.stop {
            self.vms.stop(stop);
        }
        self.commands.noted(&heard.noted);
        if self.commands.take(heard.commands) {
            self.beat.notify_one();
        }
        for noted in &heard.forget {
            self.vms.noted(noted);
        }
    }

    /// A client of the registry that a task names, else of the one last heard of.
    pub(super) fn registry(&self, named: &str) -> Result<Oci, String> {
        let base = self.registry_address(named)?;
        let (dial, idle) = (self.config.dial_timeout, IDLE.min(self.config.request_timeout));
        Oci::new(base.clone(), &self.credentials, dial, idle)
            .map_err(|error| format!("no client of the registry `{base}`: {error}"))
    }

    /// How this agent speaks to controllers and registries.
    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The registry's address that a task names, else the one last heard of.
    pub(super) fn registry_address(&self, named: &str) -> Result<BaseUrl, String> {
        let heard = self.registry.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let address = if named.is_empty() { heard } else { named.to_owned() };
        if address.is_empty() {
            return Err("the controllers name no registry to pull from".into());
        }
        address
            .trim_end_matches('/')
            .parse()
            .map_err(|error| format!("the registry's address `{address}` cannot be used: {error}"))
    }

    /// Writes a step down; on disk when it returns.
    pub(super) async fn write(&self, entry: Entry) -> std::io::Result<()> {
        self.with_journal(move |journal| journal.put(entry)).await
    }

    /// Strikes an instance out.
    pub(super) async fn strike(&self, instance: &InstanceId) {
        let instance = instance.clone();
        if let Err(error) = self.with_journal(move |journal| journal.strike(&instance)).await {
            // It will be found at the next start, and told as an end that nobody waits for.
            error!(error = %error, "the journal could not be written");
        }
    }

    async fn with_journal(
        &self,
        act: impl FnOnce(&mut Journal) -> std::io::Result<()> + Send + 'static,
    ) -> std::io::Result<()> {
        let journal = self.journal.clone();
        // Syncing takes as long as the disk wants.
        tokio::task::spawn_blocking(move || act(&mut journal.lock().unwrap_or_else(PoisonError::into_inner)))
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }
}

/// A registry that sends nothing for so long is asked again.
const IDLE: std::time::Duration = std::time::Duration::from_secs(30);
