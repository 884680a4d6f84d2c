//! A node's heartbeat and its single reports: presence, facts, and every VM judged against its record.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Beside, Change, Ops, OpsError, lock,
    output::{TEXT, brief},
    poll::{second_agent, terminating},
};
use crate::{
    clock,
    config::controller::Timeouts,
    controller::{
        reconcile::{Verdict, is_there, judge, judge_missing},
        records::{self, InstanceRecord, NodeRecord, Presence, RecordError},
        writes::{Draft, Outcome, Patience, RACES},
    },
    model::{CommandId, InstanceId, MacAddress, NodeId},
    store::{Consistency, LeaseId, LeaseState, Revision},
    wire::agent::{Heard, Heartbeat, LAYERS, NodeFacts, NodeSettings, Report, SeenVm, StopVm},
    wire::vm::ScriptResult,
};

/// An instance that full reports do not name is taken to be gone after this long, and never after one report
/// alone: that may have been written down before the node had it.
const MISSING_FOR: Duration = Duration::from_secs(10);

/// Changes of numbers that no reader would notice are written at most so often.
const TRIFLES_EVERY: Duration = Duration::from_secs(600);

/// Changes of mere numbers that one would are written at most so often.
const NUMBERS_EVERY: Duration = Duration::from_secs(15);

/// Templates of a node that are remembered; more would not fit a record. Those left out only cost their bonus.
const TEMPLATES: usize = 1000;

/// Bytes of their names: a record has a limit, and with it a node of long names would not be heard any more.
const TEMPLATE_BYTES: usize = 64 * 1024;

/// Entries of each list of a report that are kept, at most.
const ENTRIES: usize = 64;

/// VMs of a node without a record that are counted at a time; more of them are counted when these are gone.
const UNKNOWN: usize = 1000;

/// Longest name of an agent's session: a presence remembers several.
const SESSION: usize = 256;

/// Sessions that are remembered as replaced; the oldest is forgotten first.
const FORMER: usize = 8;

/// What a node said lately that is not worth a record.
#[derive(Default)]
pub(in crate::controller) struct Memory {
    /// Stops that were told in a poll.
    pub(super) told: HashMap<StopVm, Instant>,
    /// Commands that were told in a poll.
    pub(super) told_commands: HashMap<CommandId, Instant>,
    /// VMs that no record knows, and how often they were reported.
    unknown: HashMap<StopVm, usize>,
    /// Instances that reports do not name: since when, and how often.
    missing: HashMap<StopVm, (Instant, u32)>,
    /// Addresses that are held for VMs which its reports do not name: how many of them did not.
    pub(super) left: HashMap<MacAddress, u32>,
}

/// What [`Ops::settle`] comes to.
enum Settled {
    /// This.
    As(Option<Verdict>),
    /// Nothing before its script's output is stored.
    WithOutput,
}

impl Ops {
    /// Takes a node's whole truth; says what to stop and what to forget.
    ///
    /// # Errors
    /// `Conflict` when another agent speaks for the node; `Unavailable`, `Unknown`.
    pub async fn heartbeat(&self, ask: Heartbeat) -> Result<Heard, OpsError> {
        self.loaded()?;
        let node = &ask.node_id;
        if ask.session.is_empty() || ask.session.len() > SESSION {
            return Err(OpsError::BadInput(format!(
                "session: it has {} bytes; give 1 to {SESSION}",
                ask.session.len()
            )));
        }
        match self.known_node(node).await {
            Ok(()) => {}
            Err(OpsError::NotFound) => return Ok(self.stranger()),
            Err(error) => return Err(error),
        }
        // A node that comes back must hear what is no longer its own before it polls, so the cache should show
        // what was acknowledged before. If it cannot, the next heartbeat tells; that the node lives counts now.
        let (present, caught_up) =
            tokio::join!(self.be_present(node, &ask.session), self.inner.lists.catch_up());
        present?;
        if let Err(error) = &caught_up {
            tracing::debug!(node.id = %node, error = %error, "heartbeat was judged on a cache that may be behind");
        }
        let Some(config) = self.note_facts(node, ask.facts).await? else { return Ok(self.stranger()) };
        let mut heard = Heard { config: Some(config), known: true, ..self.stranger() };
        let named: HashSet<&InstanceId> = ask.vms.iter().map(|vm| &vm.instance).collect();
        for vm in &ask.vms {
            match self.take_in(node, vm, &mut heard).await {
                // One record that this controller cannot read or may not write is no reason to hear nothing of the
                // others, and none to tell the agent that it is not the one who speaks.
                Err(OpsError::Conflict(why) | OpsError::BadInput(why)) => {
                    tracing::warn!(instance.id = %vm.instance, node.id = %node, error = why, "report was not noted");
                }
                done => done?,
            }
        }
        self.miss(node, &named).await?;
        self.prune(node, &ask.vms);
        self.release_macs(node, &ask.vms).await?;
        self.note_commands(node, &ask.session, &ask.commands, caught_up.is_ok(), &mut heard).await?;
        for stop in self.inner.lists.peek(|cache| terminating(cache, node)) {
            if !heard.stop.contains(&stop) && !heard.forget.contains(&stop) {
                heard.stop.push(stop);
            }
        }
        Ok(heard)
    }

    /// One VM's change, at once.
    pub async fn report(&self, ask: Report) -> Result<Heard, OpsError> {
        self.loaded()?;
        match self.known_node(&ask.node_id).await {
            Ok(()) => {}
            Err(OpsError::NotFound) => return Ok(self.stranger()),
            Err(error) => return Err(error),
        }
        let settings = self.inner.lists.peek(|cache| Some(cache.node(&ask.node_id)?.record.settings.clone()));
        let mut heard = Heard { config: settings, known: true, ..self.stranger() };
        self.take_in(&ask.node_id, &ask.vm, &mut heard).await?;
        Ok(heard)
    }

    fn stranger(&self) -> Heard {
        let registry = self.registry_for_nodes();
        Heard {
            known: false,
            registry,
            config: None,
            stop: Vec::new(),
            forget: Vec::new(),
            commands: Vec::new(),
            noted: Vec::new(),
        }
    }

    /// Renews the node's presence, or makes it. All controllers share the one lease.
    async fn be_present(&self, node: &NodeId, session: &str) -> Result<(), OpsError> {
        let cached = self
            .inner
            .lists
            .peek(|cache| cache.presence(node).map(|item| (item.record.as_ref().clone(), item.mod_revision)));
        if self.renewed(node, session, cached.as_ref().map(|(presence, _)| presence)).await? {
            return Ok(());
        }
        let key = self.inner.keys.node_alive(node);
        for _ in 0..RACES {
            let got = self.inner.store.get(&key, Consistency::Linearizable).await?;
            let (old, revision): (Option<Presence>, Revision) = match got.kv {
                Some(kv) => (decode_presence(node, &kv.value)?, kv.mod_revision),
                None => (None, 0),
            };
            if self.renewed(node, session, old.as_ref()).await? {
                return Ok(());
            }
            let lease = self.inner.store.lease_grant(presence_seconds(&self.inner.config.timeouts)).await?;
            let next = succeed(old.as_ref(), session, lease);
            let draft = Draft::new(&key).at(&key, revision).put_leased(&key, &next, lease)?;
            match self.inner.writes.commit(draft, Patience::new()).await {
                Ok(Outcome::Done) => {
                    if let Some(old) = old {
                        // Its key is no longer under that lease; left alone it would run out by itself.
                        self.inner.store.lease_revoke(LeaseId(old.lease)).await.ok();
                    }
                    tracing::info!(node.id = %node, "node is present");
                    return Ok(());
                }
                Ok(Outcome::Lost(_)) | Err(OpsError::Conflict(_)) => {
                    self.inner.store.lease_revoke(lease).await.ok();
                }
                Err(error) => return Err(error),
            }
        }
        Err(OpsError::unavailable("the node's presence is changed by too many at once"))
    }

    async fn renewed(
        &self,
        node: &NodeId,
        session: &str,
        presence: Option<&Presence>,
    ) -> Result<bool, OpsError> {
        match presence {
            Some(now) if now.session == session => {
                let state = self.inner.store.lease_keep_alive(LeaseId(now.lease)).await?;
                Ok(state == LeaseState::Alive)
            }
            Some(now) if now.former.iter().any(|former| former == session) => Err(second_agent(node)),
            _ => Ok(false),
        }
    }

    /// Writes the node's facts down if they say something new, and takes back that it was silent.
    /// `None`: its record was deleted in between.
    async fn note_facts(&self, node: &NodeId, facts: NodeFacts) -> Result<Option<NodeSettings>, OpsError> {
        let facts = bounded(facts);
        let key = self.inner.keys.node(node);
        let cached = self.inner.lists.peek(|cache| {
            cache.node(node).map(|item| (item.record.as_ref().clone(), item.mod_revision, item.newer))
        });
        let Some((mut record, mut revision, newer)) = cached else { return Ok(None) };
        for _ in 0..RACES {
            let now = clock::wall();
            if newer || !worth_writing(&record, &facts, now.since(record.reported)) {
                return Ok(Some(record.settings));
            }
            let pulled = super::events::of_facts(node, &record.facts, &facts);
            let (facts, absence) = (facts.clone(), None);
            let next = NodeRecord { facts, reported: now, absence, confirmed: false, ..record };
            let mut draft = Draft::new(&key).at(&key, revision).put(&key, &next)?;
            for event in pulled {
                draft = self.logged(draft, Some(event))?;
            }
            match self.inner.writes.commit(draft, Patience::new()).await? {
                Outcome::Done => return Ok(Some(next.settings)),
                Outcome::Lost(Some(kv)) => {
                    (record, revision) = (records::decode(&kv.value)?, kv.mod_revision)
                }
                Outcome::Lost(None) => return Ok(None),
            }
        }
        Err(OpsError::unavailable("the node's record is changed by too many at once"))
    }

    /// Judges one VM, stores what follows, and adds to the answer.
    async fn take_in(&self, node: &NodeId, vm: &SeenVm, heard: &mut Heard) -> Result<(), OpsError> {
        let (vm, whole) = (&fitting(vm), vm.script.as_ref());
        let named = StopVm { instance: vm.instance.clone(), attempt: vm.attempt };
        let now = clock::wall();
        let glance = self
            .inner
            .lists
            .peek(|cache| cache.instance(&vm.instance).map(|item| judge(&item.record, node, vm, now)));
        let verdict = match glance {
            // What the cache shows is enough: phases never go back to what would say otherwise.
            Some(verdict @ (Verdict::Nothing | Verdict::Stop | Verdict::Forget)) => Some(verdict),
            None if !self.is_unknown_long_enough(node, vm, &named) => Some(Verdict::Nothing),
            Some(Verdict::Store(_) | Verdict::Behind) | None => self.settle(node, vm, whole).await?,
        };
        match verdict {
            Some(Verdict::Stop) => heard.stop.push(named),
            Some(Verdict::Forget) => heard.forget.push(named),
            // Not in the store, for sure.
            None if is_there(vm) => {
                tracing::warn!(instance.id = %vm.instance, node.id = %node, "VM that no record knows is stopped");
                heard.stop.push(named);
            }
            None => heard.forget.push(named),
            // A VM runs without the right to: the store itself says so.
            Some(Verdict::Behind) if vm.phase == crate::wire::agent::VmPhase::Running => {
                tracing::warn!(instance.id = %vm.instance, node.id = %node, "VM that was never granted is stopped");
                heard.stop.push(named);
            }
            Some(Verdict::Nothing | Verdict::Store(_) | Verdict::Behind) => {}
        }
        Ok(())
    }

    /// Judges on what the store shows and stores what follows. `None`: there is no record. `whole`: all that its script has said,
    /// which goes before the record that points to it.
    async fn settle(
        &self,
        node: &NodeId,
        vm: &SeenVm,
        whole: Option<&ScriptResult>,
    ) -> Result<Option<Verdict>, OpsError> {
        let mut longer = whole.filter(|whole| vm.script.as_ref() != Some(whole));
        let mut output = None;
        loop {
            let settled = self
                .change(&vm.instance, Beside::default(), |record| {
                    let Some(record) = record else { return Change::Leave(Settled::As(None)) };
                    match judge(record, node, vm, clock::wall()) {
                        Verdict::Store(_) if longer.is_some() && record.script != vm.script => {
                            Change::Leave(Settled::WithOutput)
                        }
                        Verdict::Store(mut next) => {
                            if vm.script.is_some() && record.script != vm.script {
                                next.output.clone_from(&output);
                            }
                            let after = judge(&next, node, vm, clock::wall());
                            Change::Write(next, Settled::As(Some(after)))
                        }
                        verdict => Change::Leave(Settled::As(Some(verdict))),
                    }
                })
                .await?;
            match (settled, longer.take()) {
                (Settled::As(verdict), _) => return Ok(verdict),
                (Settled::WithOutput, Some(whole)) => {
                    output = self.store_output(&vm.instance, whole).await?;
                }
                // It is asked for as long as there is more of it, which is once.
                (Settled::WithOutput, None) => return Ok(Some(Verdict::Nothing)),
            }
        }
    }

    /// Counts reports of a VM without a record. One that is gone anyway needs no counting.
    fn is_unknown_long_enough(&self, node: &NodeId, vm: &SeenVm, named: &StopVm) -> bool {
        if !is_there(vm) {
            return true;
        }
        let controllers = self.inner.lists.peek(|cache| cache.members("controller").count()).max(1);
        let mut memory = lock(&self.inner.heard);
        let unknown = &mut memory.entry(node.clone()).or_default().unknown;
        if unknown.len() >= UNKNOWN && !unknown.contains_key(named) {
            return false;
        }
        let count = unknown.entry(named.clone()).or_default();
        *count += 1;
        let most = usize::try_from(self.inner.config.limits.unknown_vm_reports).unwrap_or(usize::MAX);
        count.saturating_mul(controllers) >= most
    }

    /// Notes the instances that a full report did not name, and acts on those that cannot be there.
    async fn miss(&self, node: &NodeId, named: &HashSet<&InstanceId>) -> Result<(), OpsError> {
        let absent: Vec<_> = self.inner.lists.peek(|cache| {
            let absent = cache.on_node(node).filter(|(id, item)| {
                !named.contains(id)
                    && !item.newer
                    && judge_missing(&item.record, true, clock::wall()).is_some()
            });
            absent.map(|(_, item)| item.record.clone()).collect()
        });
        let wait = MISSING_FOR.min(self.inner.config.timeouts.instance_active / 4);
        let sure: Vec<_> = {
            let mut memory = lock(&self.inner.heard);
            let missing = &mut memory.entry(node.clone()).or_default().missing;
            let of =
                |record: &InstanceRecord| StopVm { instance: record.id.clone(), attempt: record.attempt };
            let now: HashSet<StopVm> = absent.iter().map(|record| of(record)).collect();
            missing.retain(|known, _| now.contains(known));
            let mut sure = Vec::new();
            for record in absent {
                let (since, count) = missing.entry(of(&record)).or_insert((clock::now(), 0));
                *count += 1;
                let ending = record.state() == crate::model::InstanceState::Terminating;
                if *count >= 2 && (ending || since.elapsed() >= wait) {
                    sure.push(record);
                }
            }
            sure
        };
        for record in sure {
            let (attempt, node) = (record.attempt, record.node().cloned());
            let changed = self
                .change(&record.id, Beside::default(), |record| match record {
                    Some(record) if record.attempt == attempt && record.node() == node.as_ref() => {
                        match judge_missing(record, true, clock::wall()) {
                            Some(next) => Change::Write(Box::new(next), ()),
                            None => Change::Leave(()),
                        }
                    }
                    _ => Change::Leave(()),
                })
                .await;
            match changed {
                Ok(()) => {
                    tracing::info!(instance.id = %record.id, node.id = ?node, "instance is not on its node any more");
                }
                Err(OpsError::Conflict(why) | OpsError::BadInput(why)) => {
                    tracing::warn!(instance.id = %record.id, error = why, "missing instance could not be changed");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Forgets the counts of VMs that are no longer reported.
    fn prune(&self, node: &NodeId, vms: &[SeenVm]) {
        let there: HashSet<StopVm> =
            vms.iter().map(|vm| StopVm { instance: vm.instance.clone(), attempt: vm.attempt }).collect();
        if let Some(memory) = lock(&self.inner.heard).get_mut(node) {
            memory.unknown.retain(|known, _| there.contains(known));
        }
    }
}

/// How long a node's presence outlives its last heartbeat: a third of the shorter timeout, so that nodes which
/// fall silent together are seen to be silent together before the first of them is given up.
pub(super) fn presence_seconds(timeouts: &Timeouts) -> u32 {
    let third = timeouts.node_active.min(timeouts.instance_active) / 3;
    // etcd grants nothing under two seconds with its default election timeout.
    u32::try_from(third.as_secs()).unwrap_or(u32::MAX).max(2)
}

/// A presence that cannot be read says nothing that the node's own report does not: it is replaced. One of a newer
/// version is left to those who know it.
fn decode_presence(node: &NodeId, value: &[u8]) -> Result<Option<Presence>, OpsError> {
    match records::decode(value) {
        Ok(presence) => Ok(Some(presence)),
        Err(RecordError::Broken(why)) => {
            tracing::warn!(node.id = %node, error = why, "presence could not be read and is replaced");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The presence of a session that begins now.
fn succeed(old: Option<&Presence>, session: &str, lease: LeaseId) -> Presence {
    let mut former = Vec::new();
    if let Some(old) = old {
        former.clone_from(&old.former);
        if old.session != session {
            former.push(old.session.clone());
        }
        let surplus = former.len().saturating_sub(FORMER);
        former.drain(..surplus);
    }
    let offers = old.map_or(0, |old| old.offers);
    Presence { lease: lease.0, session: session.to_owned(), former, offers }
}

pub(super) fn bounded(mut facts: NodeFacts) -> NodeFacts {
    let mut bytes = 0;
    facts.templates.truncate(TEMPLATES);
    facts.templates.retain(|t| {
        bytes += t.uuid.len() + t.name.len() + t.tag.len();
        bytes <= TEMPLATE_BYTES
    });
    while facts.layers.len() > LAYERS {
        facts.layers.pop_last();
    }
    facts.usb_devices.truncate(ENTRIES);
    facts.usb_devices.retain(|name| name.len() <= 256);
    facts.commands.truncate(ENTRIES);
    facts.commands.retain(|word| word.len() <= 64);
    facts.runs.sort();
    facts.runs.dedup();
    let version = &mut facts.hypervisor;
    let texts = [&mut version.product, &mut version.version, &mut version.build, &mut version.license];
    let more = [&mut version.expires, &mut facts.driver, &mut facts.agent_version];
    texts.into_iter().chain(more).for_each(|text| shorten(text, 256));
    facts.cpu_util = facts.cpu_util.clamp(0.0, 1.0);
    facts.ram_util = facts.ram_util.clamp(0.0, 1.0);
    facts
}

/// A report that fits a record, whatever the driver and the guest have put into it.
fn fitting(vm: &SeenVm) -> SeenVm {
    let mut vm = vm.clone();
    cut(&mut vm.message);
    vm.script = vm.script.as_ref().map(brief);
    if let Some(info) = &mut vm.info {
        let texts = [&mut info.uuid, &mut info.name, &mut info.status, &mut info.version, &mut info.ram];
        let more = [&mut info.node_id, &mut info.host_ip, &mut info.ip];
        texts.into_iter().chain(more).for_each(|text| shorten(text, TEXT / 8));
        info.port_forwarding.truncate(ENTRIES);
        for rule in &mut info.port_forwarding {
            shorten(&mut rule.protocol, 64);
            shorten(&mut rule.name, 256);
        }
    }
    vm
}

/// The beginning of a text, at most so many bytes as JSON writes them.
fn shorten(text: &mut String, most: usize) {
    let mut bytes = 0;
    let end = text.char_indices().find(|(_, c)| {
        bytes += if c.is_control() { 6 } else { c.len_utf8() + usize::from(matches!(c, '"' | '\\')) };
        bytes > most
    });
    if let Some((end, _)) = end {
        text.truncate(end);
    }
}

fn cut(text: &mut String) {
    shorten(text, TEXT);
}

/// Whether a report is worth a write now: something that matters at once, numbers now and then, all the rest rarely, and
/// what says nothing new never. That the node is there its presence says ([`Ops::heard`]).
fn worth_writing(record: &NodeRecord, facts: &NodeFacts, since: Duration) -> bool {
    let news = || solid(&record.facts) != solid(facts);
    let numbers = || since >= NUMBERS_EVERY && coarse(&record.facts) != coarse(facts);
    let trifles = || since >= TRIFLES_EVERY && record.facts != *facts;
    record.absence.is_some() || news() || numbers() || trifles()
}

/// The facts without what changes by itself all the time.
fn solid(facts: &NodeFacts) -> NodeFacts {
    NodeFacts { cpu_util: 0.0, ram_util: 0.0, disk_free: 0, disk_used: 0, ..facts.clone() }
}

/// What changes by itself, in steps that a reader would notice.
fn coarse(facts: &NodeFacts) -> [u64; 4] {
    let tenth = |share: f64| (share * 10.0).round() as u64;
    let gib = |bytes: u64| bytes >> 30;
    [tenth(facts.cpu_util), tenth(facts.ram_util), gib(facts.disk_free), gib(facts.disk_used)]
}
