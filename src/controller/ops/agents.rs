//! What agents ask for besides tasks: join, claim, starting, give back, leave.

use super::{Beside, Change, Ops, OpsError, heartbeat::bounded};
use crate::{
    clock,
    controller::{
        lists::Cache,
        records::{Fixed, InstanceRecord, NodeRecord, Phase},
        writes::{Draft, Outcome, Patience, RACES},
    },
    model::{Attempt, NodeId},
    store::{Consistency, LeaseId},
    wire::agent::{Claim, GiveBack, Granted, Join, Joined, Leave, NodeSettings, NodeWish},
    wire::events::Action,
};

/// Groups that an agent may join with, at most.
const GROUPS: usize = 64;

const GRANTED: Granted = Granted { granted: true, why: String::new() };

fn refused(why: impl Into<String>) -> Granted {
    Granted { granted: false, why: why.into() }
}

impl Ops {
    /// Makes or renews a node's record. Settings that an operator made win over what the agent wishes.
    pub async fn join(&self, ask: Join) -> Result<Joined, OpsError> {
        self.loaded()?;
        super::start::check_text("name", Some(&ask.wish.name))?;
        super::start::check_host(Some(&ask.wish.host))?;
        check_groups(&ask.wish.groups)?;
        let key = self.inner.keys.node(&ask.node_id);
        let facts = bounded(ask.facts);
        for _ in 0..RACES {
            let (old, revision) = match self.record_at(&key).await? {
                Some((old, revision)) => (Some(old), revision),
                None => (None, 0),
            };
            let most = self.inner.config.limits.nodes;
            if old.is_none() && self.inner.lists.peek(Cache::node_count) >= most {
                return Err(OpsError::TooMany(format!(
                    "{most} nodes have joined, which is the most (`limits.nodes`): delete those that are gone \
                     (`switchyard node delete`)"
                )));
            }
            let now = clock::wall();
            let next = joined(old, &ask.node_id, &ask.wish);
            let next = NodeRecord { facts: facts.clone(), reported: now, ..next };
            let draft = Draft::new(&key).at(&key, revision).put(&key, &next)?;
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                tracing::info!(node.id = %ask.node_id, node.name = %next.settings.name, "node joined");
                return Ok(Joined { registry: self.registry_for_nodes(), config: next.settings });
            }
        }
        Err(OpsError::unavailable("the node's record is changed by too many at once"))
    }

    /// Takes an offer.
    pub async fn claim(&self, ask: Claim) -> Result<Granted, OpsError> {
        self.loaded()?;
        self.known_node(&ask.node_id).await?;
        self.step(&ask, |record| match &record.phase {
            Phase::Offered { node } => {
                let (node, progress) = (node.clone(), crate::model::Progress::NONE);
                let claimed = Phase::Claimed { node, pulling: false, progress };
                Change::Write(Box::new(record.in_phase(claimed, clock::wall())), GRANTED)
            }
            Phase::Claimed { .. } | Phase::Starting { .. } | Phase::Started { .. } => Change::Leave(GRANTED),
            _ => Change::Leave(refused(gone(record))),
        })
        .await
    }

    /// The last step before the VM is started: afterwards no other node ever gets the instance.
    pub async fn starting(&self, ask: Claim) -> Result<Granted, OpsError> {
        self.loaded()?;
        self.known_node(&ask.node_id).await?;
        self.step(&ask, |record| match &record.phase {
            Phase::Claimed { node, .. } => {
                let starting = Phase::Starting { node: node.clone() };
                let next =
                    InstanceRecord { message: String::new(), ..record.in_phase(starting, clock::wall()) };
                Change::Write(Box::new(next), GRANTED)
            }
            Phase::Starting { .. } | Phase::Started { .. } => Change::Leave(GRANTED),
            Phase::Offered { .. } => Change::Leave(refused("it was not claimed")),
            _ => Change::Leave(refused(gone(record))),
        })
        .await
    }

    /// Returns a claimed start to the queue, before `starting`.
    pub async fn give_back(&self, ask: GiveBack) -> Result<Granted, OpsError> {
        self.loaded()?;
        self.known_node(&ask.claim.node_id).await?;
        let why: String = ask.why.chars().take(1000).collect();
        let by = ask.claim.node_id.clone();
        self.step(&ask.claim, |record| match &record.phase {
            Phase::Offered { .. } | Phase::Claimed { .. } => {
                let mut next =
                    record.attempt_failed(&format!("node `{by}` gave it back: {why}"), clock::wall());
                next.refused_by.retain(|node| *node != by);
                next.refused_by.push(by.clone());
                let surplus = next.refused_by.len().saturating_sub(InstanceRecord::REFUSERS);
                next.refused_by.drain(..surplus);
                Change::Write(Box::new(next), GRANTED)
            }
            Phase::Starting { .. } | Phase::Started { .. } => {
                Change::Leave(refused("it is starting; report that it failed"))
            }
            _ => Change::Leave(refused(gone(record))),
        })
        .await
    }

    /// One step of a node with an instance: only if it is this node's, by this offer.
    async fn step(
        &self,
        ask: &Claim,
        mut decide: impl FnMut(&InstanceRecord) -> Change<Granted>,
    ) -> Result<Granted, OpsError> {
        self.change(&ask.instance, Beside::default(), |record| {
            let Some(record) = record else { return Change::Leave(refused("there is no such instance")) };
            if record.attempt != ask.attempt || record.node() != Some(&ask.node_id) {
                return Change::Leave(refused(over(record, ask.attempt)));
            }
            decide(record)
        })
        .await
    }

    /// Forgets a node for good; refused while instances run on it.
    pub async fn leave(&self, ask: Leave) -> Result<Granted, OpsError> {
        self.loaded()?;
        let busy = self.inner.lists.read(|cache| cache.taken(&ask.node_id)).await?;
        if busy.stale.is_some() {
            return Err(OpsError::unavailable("the store is out of reach"));
        }
        if busy.value > 0 {
            return Ok(refused(format!("{} instances are on it; terminate them first", busy.value)));
        }
        match self.forget_node(&ask.node_id, true).await {
            Ok(()) | Err(OpsError::NotFound) => Ok(GRANTED),
            Err(OpsError::Conflict(why)) => Ok(refused(why)),
            Err(error) => Err(error),
        }
    }

    /// Deletes a node's record and presence. `idle`: only if it was offered nothing meanwhile.
    pub(super) async fn forget_node(&self, node: &NodeId, idle: bool) -> Result<(), OpsError> {
        let (key, alive) = (self.inner.keys.node(node), self.inner.keys.node_alive(node));
        for _ in 0..RACES {
            let presence = self.inner.store.get(&alive, Consistency::Linearizable).await;
            let presence = presence.map_err(|error| OpsError::unavailable(error.to_string()))?.kv;
            let got = self.inner.store.get(&key, Consistency::Linearizable).await;
            let got = got.map_err(|error| OpsError::unavailable(error.to_string()))?;
            let Some(kv) = got.kv else { return Err(OpsError::NotFound) };
            if idle {
                // The presence counts offers: what was offered before it was read shows in the cache by now, and
                // what is offered afterwards breaks the comparison.
                self.inner.lists.catch_up().await?;
                if self.inner.lists.peek(|cache| cache.taken(node)) > 0 {
                    return Err(OpsError::Conflict("it was just given an instance".into()));
                }
            }
            let revision = presence.as_ref().map_or(0, |kv| kv.mod_revision);
            let mut draft = Draft::new(&key).at(&key, kv.mod_revision).at(&alive, revision).delete(&key);
            if presence.is_some() {
                draft = draft.delete(&alive);
            }
            // One that leaves does so by itself, when nothing of it is left.
            let action = if idle { Action::NodeUnregistered } else { Action::DeleteNode };
            draft = self.logged(draft, Some(super::events::of_node(action, node)))?;
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                if let Some(lease) = presence.and_then(|kv| kv.lease) {
                    self.revoke_later(lease);
                }
                super::lock(&self.inner.heard).remove(node);
                tracing::info!(node.id = %node, "node was forgotten");
                return Ok(());
            }
        }
        Err(OpsError::unavailable("the node's record is changed by too many at once"))
    }

    /// A lease without keys costs little and ends by itself; this only ends it sooner.
    fn revoke_later(&self, lease: LeaseId) {
        let store = self.inner.store.clone();
        self.inner.tasks.finish("revoke a lease", async move {
            store.lease_revoke(lease).await.ok();
        });
    }
}

/// Names of groups as operators may give them too, and no more than a node can make sense of.
fn check_groups(groups: &[String]) -> Result<(), OpsError> {
    let wrong = |name: &String| name.is_empty() || name.len() > 1024 || name.chars().any(char::is_control);
    if groups.len() > GROUPS {
        return Err(OpsError::BadInput(format!("groups: {} are named, the most is {GROUPS}", groups.len())));
    }
    match groups.iter().any(wrong) {
        true => {
            Err(OpsError::BadInput("groups: each has 1 to 1024 bytes, without control characters".into()))
        }
        false => Ok(()),
    }
}

/// What has become of an offer that the instance is not at any more.
fn over(record: &InstanceRecord, attempt: Attempt) -> String {
    if record.attempt != attempt {
        format!("offer {attempt} is over; the newest is {}", record.attempt)
    } else if record.is_queued() {
        format!("offer {attempt} has gone back to the queue")
    } else {
        match record.node() {
            Some(node) => format!("offer {attempt} is that of node `{node}`"),
            None => gone(record),
        }
    }
}

fn gone(record: &InstanceRecord) -> String {
    format!("the instance is {}", record.state().as_str())
}

/// A node's record after a join: as before where an operator has spoken, else as wished.
fn joined(old: Option<NodeRecord>, id: &NodeId, wish: &NodeWish) -> NodeRecord {
    let now = clock::wall();
    let fixed = old.as_ref().map_or(Fixed::default(), |old| old.fixed);
    let wished = NodeSettings {
        // Later than that of any record before: an agent whose node was deleted has the settings of that one still.
        version: u64::try_from(now.unix_millis()).unwrap_or(1).max(1),
        name: wish.name.clone(),
        host: wish.host.clone(),
        capacity: wish.capacity,
        capacity_mode: wish.capacity_mode,
        drain_mode: wish.drain_mode,
        disable_central_logging: false,
    };
    let Some(old) = old else {
        return NodeRecord {
            id: id.clone(),
            settings: wished,
            vcpu_override: wish.vcpu_override,
            ram_override: wish.ram_override,
            groups: wish.groups.clone(),
            group_ids: Vec::new(),
            caller_groups: Vec::new(),
            force_overrides: wish.force_overrides,
            fixed,
            facts: empty_facts(),
            joined: now,
            reported: now,
            absence: None,
            confirmed: false,
        };
    };
    let was = &old.settings;
    let mut settings = NodeSettings {
        version: was.version,
        name: if fixed.name { was.name.clone() } else { wished.name },
        host: if fixed.host { was.host.clone() } else { wished.host },
        capacity: if fixed.capacity { was.capacity } else { wished.capacity },
        capacity_mode: if fixed.capacity_mode { was.capacity_mode } else { wished.capacity_mode },
        drain_mode: if fixed.drain_mode { was.drain_mode } else { wished.drain_mode },
        // No agent wishes anything of it.
        disable_central_logging: was.disable_central_logging,
    };
    if settings != *was {
        settings.version += 1;
    }
    NodeRecord {
        settings,
        vcpu_override: if fixed.vcpu_override { old.vcpu_override } else { wish.vcpu_override },
        ram_override: if fixed.ram_override { old.ram_override } else { wish.ram_override },
        groups: if fixed.groups { old.groups.clone() } else { wish.groups.clone() },
        force_overrides: wish.force_overrides,
        ..old
    }
}

fn empty_facts() -> crate::wire::agent::NodeFacts {
    crate::wire::agent::NodeFacts {
        host_arch: crate::model::Arch::here(),
        runs: Vec::new(),
        driver: String::new(),
        hypervisor: Default::default(),
        agent_version: String::new(),
        cpu_count: 0,
        memory: 0,
        disk_size: 0,
        disk_free: 0,
        disk_used: 0,
        templates: Vec::new(),
        layers: Default::default(),
        cpu_util: 0.0,
        ram_util: 0.0,
        usb_devices: Vec::new(),
        commands: Vec::new(),
    }
}
