//! Nodes: list, show, configure, delete.

use std::time::Duration;

use super::{Ops, OpsError, Reach};
use crate::{
    clock,
    controller::{
        lists::{Cache, Item, Seen},
        records::{self, Absence, InstanceRecord, NodeRecord, Phase},
        writes::{Draft, Fence, Outcome, Patience, RACES},
    },
    model::{NodeId, NodeState, Timestamp},
    store::{Consistency, StoreError},
    wire::{
        command::Order,
        events::Action,
        node::{NodeConfig, NodeGroup, UsbDevice},
        permission::{CHANGE_CONFIG, REMOVE},
    },
};

/// A node and what follows from everything else that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// Its record.
    pub record: NodeRecord,
    /// What the API says of it.
    pub state: NodeState,
    /// When it was last heard.
    pub heard: Timestamp,
    /// Running VMs.
    pub vm_count: u32,
    /// Their virtual processors.
    pub vcpu_count: u32,
    /// Their memory, MB.
    pub vram: u64,
    /// Its groups.
    pub groups: Vec<NodeGroup>,
    /// Its USB devices, and whether a VM has each.
    pub usb_devices: Vec<UsbDevice>,
}

/// Instances that have a VM on the node.
fn with_vms<'a>(cache: &'a Cache, node: &'a NodeId) -> impl Iterator<Item = &'a InstanceRecord> {
    let records = cache.on_node(node).map(|(_, item)| item.record.as_ref());
    records.filter(|instance| matches!(instance.phase, Phase::Started { .. }) || instance.is_kept())
}

/// Whether it has VMs, and none of them is up.
fn none_runs(cache: &Cache, node: &NodeId) -> bool {
    let mut vms = with_vms(cache, node).peekable();
    let runs = |vm: &InstanceRecord| vm.info.as_ref().is_some_and(|info| info.status == "running");
    vms.peek().is_some() && !vms.any(runs)
}

impl Ops {
    /// All nodes.
    pub async fn nodes(&self) -> Result<Seen<Vec<NodeView>>, OpsError> {
        self.inner.lists.read(|cache| cache.nodes().map(|(_, item)| self.view(cache, item)).collect()).await
    }

    /// One node.
    pub async fn node(&self, id: &NodeId) -> Result<Seen<NodeView>, OpsError> {
        let seen = self.inner.lists.read(|cache| cache.node(id).map(|item| self.view(cache, item))).await?;
        match seen.value {
            Some(view) => Ok(Seen { value: view, stale: seen.stale }),
            None if seen.stale.is_none() => Err(OpsError::NotFound),
            None => {
                Err(OpsError::unavailable("the store is out of reach, and this node is not in the cache"))
            }
        }
    }

    pub(super) fn view(&self, cache: &Cache, item: &Item<NodeRecord>) -> NodeView {
        let record = item.record.as_ref();
        let running: Vec<_> = with_vms(cache, &record.id).collect();
        let info = || running.iter().filter_map(|instance| instance.info.as_ref());
        let vm_count = u32::try_from(running.len()).unwrap_or(u32::MAX);
        NodeView {
            state: self.state_of(cache, record),
            heard: self.heard(record, cache.presence(&record.id).is_some()),
            vm_count,
            vcpu_count: info().map(|info| info.cpu_cores).sum(),
            vram: info().map(|info| megabytes(&info.ram)).sum(),
            groups: super::groups::groups_of(cache, record),
            usb_devices: super::usb::of_node(cache, record),
            record: record.clone(),
        }
    }

    /// The state of a node, without the rest of what is shown of it.
    pub(super) fn state_of(&self, cache: &Cache, record: &NodeRecord) -> NodeState {
        let present = cache.presence(&record.id).is_some();
        let full = || cache.taken(&record.id) >= record.settings.capacity && record.settings.capacity > 0;
        if record.absence.is_some() || !present && self.is_offline(&record.id) {
            NodeState::Offline
        } else if matches!(cache.commands().holding_starts(&record.id), Some(Order::Update)) {
            NodeState::Updating
        } else if record.settings.drain_mode {
            NodeState::DrainMode
        } else if full() && none_runs(cache, &record.id) {
            NodeState::Unhealthy
        } else {
            NodeState::Active
        }
    }

    /// When a node was last heard, as well as it is known: not each report is written down. A presence outlives the last
    /// one by little; of a silent node it is known for how long it has been silent at least.
    pub(in crate::controller) fn heard(&self, record: &NodeRecord, present: bool) -> Timestamp {
        let silent = match (present, record.absence) {
            (true, _) => Duration::ZERO,
            // Its record has it from when that was decided.
            (false, Some(_)) => return record.reported,
            (false, None) => match self.silent_for(&record.id) {
                // Nothing can be heard, or not yet.
                Duration::ZERO => return record.reported,
                silent => silent,
            },
        };
        record.reported.max(clock::wall().minus(silent))
    }

    /// Changes a node's settings.
    pub async fn configure_node(&self, ask: NodeConfig, reach: &Reach) -> Result<(), OpsError> {
        self.loaded()?;
        let text = ask.node_id.as_deref().ok_or_else(|| OpsError::BadInput("node_id is required".into()))?;
        let id = NodeId::parse(text).map_err(|error| OpsError::BadInput(format!("node_id: {error}")))?;
        self.reaches_node(reach, &id, CHANGE_CONFIG).await?;
        super::start::check_text("name", ask.name.as_deref())?;
        super::start::check_host(ask.host.as_deref())?;
        let number = |key: &str, given: Option<i64>| {
            let wrong = |n| OpsError::BadInput(format!("{key} is {n}; it must be from 0 to {}", u32::MAX));
            given.map(|n| u32::try_from(n).map_err(|_| wrong(n))).transpose()
        };
        let capacity = number("max_vm_count", ask.max_vm_count)?;
        let vcpu = number("vcpu_override", ask.vcpu_override)?;
        let ram = number("ram_override", ask.ram_override)?;
        self.change_node_as(&id, Some(Action::ConfigNode), None, |record| {
            let before = record.settings.clone();
            let (settings, fixed) = (&mut record.settings, &mut record.fixed);
            set(&mut settings.name, &mut fixed.name, ask.name.clone());
            set(&mut settings.host, &mut fixed.host, ask.host.clone());
            set(&mut settings.capacity, &mut fixed.capacity, capacity);
            set(&mut settings.capacity_mode, &mut fixed.capacity_mode, ask.capacity_mode);
            set(&mut settings.drain_mode, &mut fixed.drain_mode, ask.drain_mode);
            set(&mut record.vcpu_override, &mut fixed.vcpu_override, vcpu);
            set(&mut record.ram_override, &mut fixed.ram_override, ram.map(u64::from));
            if let Some(off) = ask.disable_central_logging {
                record.settings.disable_central_logging = off;
            }
            if record.settings != before {
                record.settings.version += 1;
            }
        })
        .await
    }

    pub(in crate::controller) async fn change_node(
        &self,
        id: &NodeId,
        change: impl FnMut(&mut NodeRecord),
    ) -> Result<(), OpsError> {
        self.change_node_as(id, None, None, change).await
    }

    /// Changes a node's record, as this is told of, and only while this leader key stands.
    pub(super) async fn change_node_as(
        &self,
        id: &NodeId,
        action: Option<Action>,
        fence: Option<&Fence>,
        mut change: impl FnMut(&mut NodeRecord),
    ) -> Result<(), OpsError> {
        let key = self.inner.keys.node(id);
        for _ in 0..RACES {
            let Some((mut record, revision)) = self.record_at(&key).await? else {
                return Err(OpsError::NotFound);
            };
            change(&mut record);
            let draft = Draft::new(&key).at(&key, revision).fenced(fence).put(&key, &record)?;
            let draft = self.logged(draft, action.map(|action| super::events::of_node(action, id)))?;
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                return Ok(());
            }
        }
        Err(OpsError::unavailable("the node's record is changed by too many at once"))
    }

    /// Forgets a node. What runs on it is failed: this is also how an operator says that a node is gone for good.
    /// A node that lives joins again with its next heartbeat.
    pub async fn delete_node(&self, id: &NodeId, reach: &Reach) -> Result<(), OpsError> {
        self.loaded()?;
        self.reaches_node(reach, id, REMOVE).await?;
        self.forget_node(id, false).await
    }

    /// Says that the nodes whose silence was taken to be our fault are really gone. Answers how many.
    pub async fn confirm_absence(&self) -> Result<usize, OpsError> {
        self.loaded()?;
        let held = self.inner.lists.read(|cache| {
            let held = cache.nodes().filter(|(_, item)| item.record.absence == Some(Absence::Held));
            held.map(|(id, _)| id.clone()).collect::<Vec<_>>()
        });
        let mut count = 0;
        for id in held.await?.value {
            match self.confirm(&id).await {
                Ok(confirmed) => count += usize::from(confirmed),
                Err(OpsError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if count > 0 {
            tracing::warn!(count, "an operator confirmed that silent nodes are gone");
        }
        Ok(count)
    }

    /// Takes a held node to be gone, unless it has been heard again: its record may say so only in a moment.
    async fn confirm(&self, id: &NodeId) -> Result<bool, OpsError> {
        let (key, alive) = (self.inner.keys.node(id), self.inner.keys.node_alive(id));
        let unread = |error: StoreError| OpsError::unavailable(error.to_string());
        for _ in 0..RACES {
            let present = self.inner.store.get(&alive, Consistency::Linearizable).await.map_err(unread)?;
            let got = self.inner.store.get(&key, Consistency::Linearizable).await.map_err(unread)?;
            let (None, Some(kv)) = (present.kv, got.kv) else { return Ok(false) };
            let record: NodeRecord = records::decode(&kv.value)?;
            if record.absence != Some(Absence::Held) {
                return Ok(false);
            }
            let next = NodeRecord { absence: Some(Absence::Lost), confirmed: true, ..record };
            let draft = Draft::new(&key).at(&key, kv.mod_revision).at(&alive, 0).put(&key, &next)?;
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                return Ok(true);
            }
        }
        Err(OpsError::unavailable("the node's record is changed by too many at once"))
    }
}

fn set<T>(now: &mut T, fixed: &mut bool, given: Option<T>) {
    if let Some(given) = given {
        *now = given;
        *fixed = true;
    }
}

/// `4G`, `4096M` or bytes, in MB.
fn megabytes(ram: &str) -> u64 {
    let digits = ram.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().unwrap_or(0);
    match ram.get(digits.len()..).and_then(|unit| unit.chars().next()).map(|c| c.to_ascii_uppercase()) {
        Some('T') => number.saturating_mul(1024 * 1024),
        Some('G') => number.saturating_mul(1024),
        Some('M') => number,
        Some('K') => number / 1024,
        _ => number >> 20,
    }
}
