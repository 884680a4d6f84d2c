//! A start: one record with all its ids first, then its instances in batches, by whoever finds it unfinished.

use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Caller, Ops, OpsError, hardware, lock, macs, scripts, templates::Resolved};
use crate::{
    clock,
    controller::{
        lists::Cache,
        records::{self, InstanceRecord, InstanceSpec, MacRecord, Phase, QueueEntry, ScriptRef, StartRecord},
        writes::{Draft, Fence, Outcome, Patience, RACES},
    },
    model::{Digest, GroupId, InstanceId, MacAddress, MacRange, NodeId, StartId, TemplateId, excerpt},
    store::{Consistency, MAX_OPS, Revision},
    wire::{
        agent::{Hardware, OnScriptFailure},
        vm::StartVm,
    },
};

/// `priority`, if it is not given.
const PRIORITY: i64 = 1000;

/// `script_timeout`, if it is not given.
const SCRIPT_SECONDS: u32 = 90;

/// The longest `script_timeout`: a week. A node keeps the start's place for so long when its script hangs.
const LONGEST_SCRIPT: u32 = 7 * 24 * 3600;

/// Longest name, external id and the like.
const TEXT: usize = 4096;

/// Largest metadata, encoded: every instance carries its own copy.
const METADATA: usize = 32 * 1024;

/// Instances made in one transaction: each is a record and a queue entry, beside the start, its event and `head`.
const BATCH: usize = (MAX_OPS - 3) / 2;

/// The same with an address each.
const BATCH_WITH_MACS: usize = (MAX_OPS - 2) / 3;

/// Bytes of one transaction's values; etcd takes requests of 1.5 MiB.
const BATCH_BYTES: usize = 1024 * 1024;

/// How long a start without a key is remembered: nobody can ask for it again, but a transaction whose answer was
/// lost may still be on its way, and must find the record.
const KEYLESS_MEMORY: Duration = Duration::from_secs(600);

/// The route that idempotency keys of starts belong to.
const ROUTE: &str = "POST /api/v1/vm";

impl Ops {
    /// Starts instances: resolves the template, then stores one record with all ids. Durable when it returns.
    ///
    /// # Errors
    /// `BadInput`, `NotInRegistry`, `NoSuchTag`, `RegistryDown`, `KeyReused`, `Unavailable`; `Unknown` when it may
    /// have been accepted: with an idempotency key, asking again settles it.
    pub async fn start(&self, ask: StartVm, caller: &Caller) -> Result<Vec<InstanceId>, OpsError> {
        self.loaded()?;
        let mut checked = check(&ask, self.inner.config.limits.count)?;
        let id = start_id(caller);
        if caller.idempotency_key.is_some()
            && let Some(record) = self.stored_start(&id).await?
        {
            return same_body(&record, body_of(&ask)?);
        }
        let groups = (ask.group.as_deref(), ask.group_id.as_deref());
        checked.permission_group = self.group_of_work(groups, &checked.template, &caller.reach).await?;
        checked.group_id = self.known_group(&checked.group_id).await?;
        self.known_pin(checked.node.as_ref()).await?;
        let resolved =
            self.inner.templates.resolve(&checked.template, ask.tag.as_deref(), ask.version).await?;
        self.accept(ask, &checked, &id, caller, resolved).await
    }

    /// [`Ops::start`] of a template that is resolved already.
    pub async fn start_resolved(
        &self,
        ask: StartVm,
        caller: &Caller,
        resolved: Resolved,
    ) -> Result<Vec<InstanceId>, OpsError> {
        self.loaded()?;
        let checked = check(&ask, self.inner.config.limits.count)?;
        self.accept(ask, &checked, &start_id(caller), caller, resolved).await
    }

    async fn accept(
        &self,
        ask: StartVm,
        checked: &Checked,
        id: &StartId,
        caller: &Caller,
        resolved: Resolved,
    ) -> Result<Vec<InstanceId>, OpsError> {
        hardware::of_arch(&ask, resolved.arch)?;
        self.has_room_for(checked.count)?;
        let given = self.mac_range().and_then(|_| checked.hardware.mac_address.parse().ok());
        if self.mac_range().is_some() {
            // What was accepted a moment ago counts, wherever that was.
            self.inner.lists.catch_up().await?;
        }
        self.has_macs(given, checked.count)?;
        let body = body_of(&ask)?;
        let (script, _room) = match &checked.script {
            None => (None, None),
            Some(bytes) => {
                // The folder is named by start and body: another body under the same key must not overwrite it.
                let named = Sha256::new().chain_update(id.as_str()).chain_update(body.hex()).finalize();
                let at = StartId::parse(hex::encode(named)).map_err(|e| OpsError::BadInput(e.to_string()))?;
                let script = ScriptRef {
                    at,
                    chunks: scripts::chunks(bytes.len()),
                    digest: Digest::of(bytes),
                    ..checked.script_terms.clone()
                };
                // Until its record counts.
                let room = self.script_room(script.chunks)?;
                self.store_script(&script, bytes).await?;
                (Some(script), Some(room))
            }
        };
        caller.has_time_to_write()?;
        let now = clock::wall();
        let memory = match caller.idempotency_key {
            Some(_) => self.inner.config.timeouts.start_memory.max(KEYLESS_MEMORY),
            None => KEYLESS_MEMORY,
        };
        let mut record = StartRecord {
            body,
            ids: (0..checked.count).map(|_| InstanceId::random()).collect(),
            answered: Vec::new(),
            made: 0,
            created: now,
            expires: now.plus(memory),
            name: ask.name,
            external_id: ask.external_id,
            metadata: ask.metadata.unwrap_or_default(),
            spec: spec(checked, resolved, script, ask.name_template),
        };
        let key = self.inner.keys.start(id);
        for _ in 0..RACES {
            record.made = 0;
            let mut draft = Draft::new(&key).at(&key, 0);
            if let Some((group, made)) = self.standing_group(&checked.group_id).await? {
                draft = draft.made_at(group, made);
            }
            // The first batch goes with the record itself: most starts are done in this one transaction.
            let draft = self.draft_batch(draft, id, &mut record)?;
            let draft = self.logged(draft, Some(super::events::of_start(&record.ids, &record.spec)))?;
            match self.inner.writes.commit(draft, Patience::new()).await? {
                Outcome::Done => {
                    if !record.unmade().is_empty() {
                        self.finish_start(id);
                    }
                    return Ok(record.ids);
                }
                Outcome::Lost(Some(kv)) => return same_body(&records::decode(&kv.value)?, body),
                // It was there, and is gone again: its time is over. Or somebody else was given one of its addresses, or its
                // group was deleted.
                Outcome::Lost(None) => {
                    self.inner.lists.catch_up().await?;
                    self.has_macs(given, checked.count)?;
                }
            }
        }
        Err(OpsError::unavailable("the record of this start comes and goes"))
    }

    /// Refuses a start with which there would be more instances than there may be.
    fn has_room_for(&self, count: usize) -> Result<(), OpsError> {
        let (there, most) =
            (self.inner.lists.peek(Cache::instance_count), self.inner.config.limits.instances);
        if there + count <= most {
            return Ok(());
        }
        Err(OpsError::TooMany(format!(
            "there are {there} instances, and with this start there would be more than {most} (`limits.instances`): terminate \
             those that nobody needs; one in Error stays until it is terminated"
        )))
    }

    /// A group is one that was made, or a name that nodes have joined with. A start for another would wait for ever, by a
    /// typing error.
    pub(super) async fn known_group(&self, group: &str) -> Result<String, OpsError> {
        if group.is_empty() {
            return Ok(String::new());
        }
        let known = self.inner.lists.read(|cache| match cache.groups().find(group) {
            Some(record) => Some(record.id.to_string()),
            None => {
                let mut joined = cache.nodes().flat_map(|(_, node)| &node.record.groups);
                joined.any(|of_node| of_node == group).then(|| group.to_owned())
            }
        });
        known.await?.value.ok_or_else(|| {
            let group: String = group.chars().take(64).collect();
            OpsError::BadInput(format!(
                "group_id: no node is in group `{group}`, and none was made with that id or name"
            ))
        })
    }

    /// The key of a start's group and when it was made; nothing of one that is only a name, or of none.
    async fn standing_group(&self, group: &str) -> Result<Option<(String, Revision)>, OpsError> {
        let Ok(id) = GroupId::parse(group) else { return Ok(None) };
        let key = self.inner.keys.group(&id);
        let made = |cache: &Cache| cache.groups().get(&id).map(|item| item.create_revision);
        if let Some(made) = self.inner.lists.peek(made) {
            return Ok(Some((key, made)));
        }
        // Made or deleted a moment ago, or only a name.
        self.known_group(group).await?;
        Ok(self.inner.lists.peek(made).map(|made| (key, made)))
    }

    /// A node that a start is bound to is one that has joined, whether it is there now or not.
    async fn known_pin(&self, node: Option<&NodeId>) -> Result<(), OpsError> {
        let Some(node) = node else { return Ok(()) };
        match self.known_node(node).await {
            Err(OpsError::NotFound) => Err(OpsError::BadInput(format!(
                "node_id: there is no node `{node}`; GET /api/v1/node lists them"
            ))),
            known => known,
        }
    }

    async fn stored_start(&self, id: &StartId) -> Result<Option<StartRecord>, OpsError> {
        Ok(self.record_at(&self.inner.keys.start(id)).await?.map(|(record, _)| record))
    }

    /// Addresses for the next instances of a start: the one that it names, else free ones of the pool.
    fn draw_macs(&self, range: Option<MacRange>, record: &StartRecord, most: usize) -> Vec<MacAddress> {
        let Some(range) = range else { return Vec::new() };
        match record.spec.mac_address.parse() {
            Ok(given) => vec![given],
            Err(_) => {
                let count = record.unmade().len().min(most);
                self.inner.lists.peek(|cache| macs::draw(cache, range, count, rand::random()))
            }
        }
    }

    /// Adds the next batch of instances to a draft, and the start record that counts them as made.
    fn draft_batch(
        &self,
        mut draft: Draft,
        id: &StartId,
        record: &mut StartRecord,
    ) -> Result<Draft, OpsError> {
        let range = self.mac_range();
        let most = if range.is_some() { BATCH_WITH_MACS } else { BATCH };
        let mut made = 0;
        let mut macs = self.draw_macs(range, record, most).into_iter();
        for instance in record.unmade().iter().take(most) {
            let mut instance: InstanceRecord = record.instance(id, instance);
            if range.is_some() {
                // Fewer than are needed: the rest waits until some are free again.
                let Some(mac) = macs.next() else { break };
                let (key, of) =
                    (self.inner.keys.mac(mac), MacRecord { instance: instance.id.clone(), left: None });
                instance.spec.mac_address = mac.to_string();
                // Nobody else has it: the store sees to that.
                draft = draft.at(&key, 0).put(&key, &of)?;
            }
            draft = draft
                .put(self.inner.keys.instance(&instance.id), &instance)?
                .put(self.inner.keys.queued_start(&instance.id), &QueueEntry::of(&instance))?;
            made += 1;
            if draft.size() > BATCH_BYTES {
                break;
            }
        }
        record.made += made;
        draft.put(self.inner.keys.start(id), record)
    }

    /// Makes what is left of a start, without keeping the caller waiting. Lists show all of it meanwhile.
    pub(in crate::controller) fn finish_start(&self, id: &StartId) {
        if !lock(&self.inner.making).insert(id.clone()) {
            return;
        }
        let (ops, id) = (self.clone(), id.clone());
        self.inner.tasks.finish(format!("start {id}"), async move {
            if let Err(error) = ops.make_instances(&id, None).await {
                tracing::warn!(start.id = %id, error = %error, "start could not be finished yet");
            }
            lock(&ops.inner.making).remove(&id);
        });
    }

    /// Makes all instances of a start that are not made yet. Any controller may, at the same time as others:
    /// each batch compares the record that counts them, so none is made twice, nor again after its end.
    pub(in crate::controller) async fn make_instances(
        &self,
        id: &StartId,
        fence: Option<&Fence>,
    ) -> Result<(), OpsError> {
        let key = self.inner.keys.start(id);
        // What a newer controller has written is read from the store, which refuses it: it is never rewritten here.
        let cached = self.inner.lists.peek(|cache| {
            let item = cache.start(id).filter(|item| !item.newer)?;
            Some((item.record.as_ref().clone(), item.mod_revision))
        });
        let mut now = match cached {
            Some(found) => Some(found),
            None => self.read_start(id).await?,
        };
        let mut races = 0;
        while let Some((mut record, revision)) = now {
            if record.unmade().is_empty() {
                return Ok(());
            }
            let draft = Draft::new(&key).at(&key, revision).fenced(fence);
            let made = record.made;
            let draft = self.draft_batch(draft, id, &mut record)?;
            if record.made == made {
                return Err(OpsError::Conflict(format!(
                    "not all of this start can be made yet: {}",
                    macs::NONE
                )));
            }
            match self.inner.writes.commit(draft, Patience::new()).await? {
                // The next batch compares the revision that this one made.
                Outcome::Done => {}
                Outcome::Lost(_) if fence.is_some() || races >= RACES => {
                    return Err(OpsError::Conflict("somebody else is finishing this start".into()));
                }
                Outcome::Lost(_) => races += 1,
            }
            if record.unmade().is_empty() {
                return Ok(());
            }
            now = self.read_start(id).await?;
        }
        Ok(())
    }

    /// Ends an instance that its start has yet to make: it is made as one that is to be deleted, with neither an address nor a
    /// place in the queue. Whether it still had to be made.
    pub(super) async fn end_unmade(&self, start: &StartId, id: &InstanceId) -> Result<bool, OpsError> {
        let key = self.inner.keys.start(start);
        let patience = Patience::new();
        for _ in 0..RACES {
            let Some((mut record, revision)) = self.read_start(start).await? else { return Ok(false) };
            if !record.out_of_turn(id) {
                return Ok(false);
            }
            let now = clock::wall();
            let unmade = record.instance(start, id);
            let ended = unmade.in_phase(Phase::Terminating { node: None, since: now }, now);
            let draft = Draft::new(&key).at(&key, revision).put(self.inner.keys.instance(id), &ended)?;
            let draft = self.logged(draft, super::events::of_change(Some(&unmade), Some(&ended)))?;
            if let Outcome::Done = self.inner.writes.commit(draft.put(&key, &record)?, patience).await? {
                return Ok(true);
            }
            if patience.is_over() {
                break;
            }
        }
        Err(OpsError::unavailable("the instance's start is changed by too many at once"))
    }

    async fn read_start(&self, id: &StartId) -> Result<Option<(StartRecord, Revision)>, OpsError> {
        let got = self.inner.store.get(&self.inner.keys.start(id), Consistency::Linearizable).await?;
        got.kv.map(|kv| Ok((records::decode(&kv.value)?, kv.mod_revision))).transpose()
    }
}

/// The start's id: a hash of who, where and which key; random without a key.
fn start_id(caller: &Caller) -> StartId {
    let Some(key) = &caller.idempotency_key else { return StartId::random() };
    let mut hash = Sha256::new();
    // Each part with its length, so that no two different triples read alike.
    for part in [caller.credential.as_deref().unwrap_or_default(), ROUTE.as_bytes(), key.as_bytes()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    StartId::parse(hex::encode(hash.finalize())).unwrap_or_else(|_| StartId::random())
}

/// One spelling of a body, hashed.
fn body_of(ask: &StartVm) -> Result<Digest, OpsError> {
    let spelled = serde_json::to_vec(ask).map_err(|error| OpsError::BadInput(error.to_string()))?;
    Ok(Digest::of(&spelled))
}

fn same_body(record: &StartRecord, body: Digest) -> Result<Vec<InstanceId>, OpsError> {
    if record.body == body { Ok(record.answer().to_vec()) } else { Err(OpsError::KeyReused) }
}

/// A start request that makes sense.
struct Checked {
    template: TemplateId,
    count: usize,
    priority: u32,
    node: Option<NodeId>,
    vcpu: Option<u32>,
    vram: Option<u64>,
    group_id: String,
    permission_group: String,
    hardware: Hardware,
    script: Option<bytes::Bytes>,
    script_terms: ScriptRef,
}

fn check(ask: &StartVm, most: u32) -> Result<Checked, OpsError> {
    let bad = |why: String| OpsError::BadInput(why);
    let vmid = ask.vmid.as_deref().ok_or_else(|| bad("vmid is required".into()))?;
    // What cannot be an id is no template's id.
    let template = TemplateId::parse(vmid).map_err(|_| OpsError::NotInRegistry)?;
    let count = ask.count.unwrap_or(1);
    if count < 1 || count > i64::from(most) {
        return Err(bad(format!("count is {count}; it must be from 1 to {most}")));
    }
    let texts = [
        ("name", &ask.name),
        ("external_id", &ask.external_id),
        ("name_template", &ask.name_template),
        ("group", &ask.group),
        ("group_id", &ask.group_id),
        ("usb_device", &ask.usb_device),
        ("mac_address", &ask.mac_address),
        ("vlan_tag", &ask.vlan_tag),
        ("network_mode", &ask.network_mode),
        ("hw_serial", &ask.hw_serial),
        ("vnc_password", &ask.vnc_password),
    ];
    for (key, text) in texts {
        check_text(key, text.as_deref())?;
    }
    for (key, text) in [("name_template", &ask.name_template), ("usb_device", &ask.usb_device)] {
        // They are the name of a VM and an argument of its hypervisor.
        if text.as_ref().is_some_and(|text| text.chars().any(char::is_control)) {
            return Err(bad(format!("{key}: it has a control character, like a line end; leave it out")));
        }
    }
    check_metadata(ask.metadata.as_ref())?;
    check_json("disk", ask.disk.as_ref(), TEXT)?;
    check_json("port_forwarding_override", ask.port_forwarding_override.as_ref(), TEXT)?;
    if let Some(other) = ask.startup_script_condition.filter(|n| !matches!(n, 0 | 1)) {
        return Err(bad(format!("startup_script_condition is {other}; it must be 0 or 1")));
    }
    let node = ask.node_id.clone().map(NodeId::parse).transpose().map_err(|error| bad(error.to_string()))?;
    let on_failure = match ask.script_fail_handler.unwrap_or(0) {
        0 => OnScriptFailure::Stop,
        1 => OnScriptFailure::Keep,
        2 => OnScriptFailure::Delete,
        other => return Err(bad(format!("script_fail_handler is {other}; it must be 0, 1 or 2"))),
    };
    let small = |key: &str, given: Option<i64>| {
        given
            .filter(|n| *n != 0)
            .map(|n| {
                u32::try_from(n).map_err(|_| bad(format!("{key} is {n}; it must be from 0 to {}", u32::MAX)))
            })
            .transpose()
    };
    Ok(Checked {
        template,
        count: usize::try_from(count).unwrap_or(1),
        priority: u32::try_from(ask.priority.unwrap_or(PRIORITY).clamp(1, 10_000)).unwrap_or(1000),
        node,
        vcpu: small("vcpu", ask.vcpu)?,
        vram: small("vram", ask.vram)?.map(u64::from),
        group_id: ask.group_id.clone().unwrap_or_default(),
        permission_group: String::new(),
        hardware: hardware::check(ask, count)?,
        script: ask.startup_script.as_deref().map(scripts::decode).transpose()?.filter(|s| !s.is_empty()),
        script_terms: ScriptRef {
            at: StartId::random(),
            chunks: 0,
            digest: Digest::of(b""),
            at_boot: ask.startup_script_condition == Some(1),
            monitored: ask.script_monitoring.unwrap_or(false),
            timeout_seconds: script_seconds(ask.script_timeout)?,
            on_failure,
        },
    })
}

fn script_seconds(given: Option<i64>) -> Result<u32, OpsError> {
    let seconds = given.filter(|seconds| *seconds != 0).map(u32::try_from);
    match seconds {
        None => Ok(SCRIPT_SECONDS),
        Some(Ok(seconds)) if seconds <= LONGEST_SCRIPT => Ok(seconds),
        Some(_) => Err(OpsError::BadInput(format!(
            "script_timeout is {}; it must be from 1 to {LONGEST_SCRIPT} seconds (a week), or 0 for the {SCRIPT_SECONDS} \
             that it is by default",
            given.unwrap_or_default()
        ))),
    }
}

pub(super) fn check_text(key: &str, text: Option<&str>) -> Result<(), OpsError> {
    // As it is stored: a control character takes six bytes there.
    let size = text.map_or(0, |text| serde_json::to_string(text).map_or(usize::MAX, |text| text.len() - 2));
    if size > TEXT {
        return Err(OpsError::BadInput(format!("{key} has {size} bytes as JSON, the most is {TEXT}")));
    }
    Ok(())
}

/// Clients dial it: an IP address or a host name, without a port.
pub(super) fn check_host(host: Option<&str>) -> Result<(), OpsError> {
    check_text("host", host)?;
    let strange =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | '?' | '#' | '\\' | '"');
    match host {
        Some(host) if host.contains(strange) => {
            let host = excerpt(host);
            Err(OpsError::BadInput(format!(
                "host: `{host}` is no IP address and no host name, like `10.0.3.7`"
            )))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_metadata(
    metadata: Option<&serde_json::Map<String, serde_json::Value>>,
) -> Result<(), OpsError> {
    check_json("metadata", metadata, METADATA)
}

fn check_json<T: Serialize>(key: &str, given: Option<&T>, most: usize) -> Result<(), OpsError> {
    let Some(given) = given else { return Ok(()) };
    let size = serde_json::to_vec(given).map_or(usize::MAX, |bytes| bytes.len());
    if size > most {
        return Err(OpsError::BadInput(format!("{key} has {size} bytes, the most is {most}")));
    }
    Ok(())
}

fn spec(
    checked: &Checked,
    resolved: Resolved,
    script: Option<ScriptRef>,
    name_template: Option<String>,
) -> InstanceSpec {
    let mut devices = checked.hardware.clone();
    // Those have fields of their own, as they had before there were others.
    let Hardware { mac_address, vlan_tag, network_mode, usb_device, disk, port_forwarding_override, .. } =
        &mut devices;
    let (mac_address, vlan_tag) = (std::mem::take(mac_address), std::mem::take(vlan_tag));
    let (network_mode, usb_device) = (std::mem::take(network_mode), std::mem::take(usb_device));
    let disk = disk.take();
    let port_forwarding_override = port_forwarding_override.take();
    InstanceSpec {
        template: resolved.template,
        template_name: resolved.name,
        repository: resolved.repository,
        tag: resolved.tag,
        version: resolved.version,
        manifest: resolved.manifest,
        arch: resolved.arch,
        layers: resolved.layers,
        node: checked.node.clone(),
        group_id: checked.group_id.clone(),
        permission_group: checked.permission_group.clone(),
        priority: checked.priority,
        name_template: name_template.unwrap_or_default(),
        vcpu: checked.vcpu,
        vram: checked.vram,
        mac_address,
        vlan: vlan_tag,
        usb_device,
        network_mode,
        disk,
        port_forwarding_override,
        devices,
        script,
    }
}
