//! Instances: list, show, update, terminate. How they are started is in `start.rs`.

use std::{collections::HashMap, sync::Arc};

use super::{Beside, Change, Ops, OpsError, macs, start};
use crate::{
    clock,
    controller::{
        lists::{Cache, Seen},
        records::{InstanceRecord, Phase},
        schedule::{dispatch::waits_for_room, fit, room},
    },
    model::{InstanceId, MacRange},
    wire::{status::ControllerStats, vm::UpdateVm},
};

/// An instance of a list. Both are shared: there may be 100,000 of them, which all wait for the same.
#[derive(Debug)]
pub struct Shown {
    /// As it is in the store.
    pub record: Arc<InstanceRecord>,
    /// What is shown in place of its message, if it waits.
    pub why: Option<Arc<str>>,
}

impl Ops {
    /// All instances, with why each waits.
    pub async fn instances(&self) -> Result<Seen<Vec<Shown>>, OpsError> {
        self.inner
            .lists
            .read(|cache| {
                let mut reasons = self.reasons(cache);
                let explained = |record: Arc<InstanceRecord>| {
                    let why = reasons.why(&record);
                    Shown { record, why }
                };
                cache.shown_instances().into_iter().map(explained).collect()
            })
            .await
    }

    /// One instance, with all that its startup script has said; with the end of that while the store is out of reach.
    pub async fn instance(&self, id: &InstanceId) -> Result<Seen<InstanceRecord>, OpsError> {
        let seen = self
            .inner
            .lists
            .read(|cache| cache.shown_instance(id).map(|record| self.reasons(cache).explain(record)))
            .await?;
        match seen.value {
            Some(record) => {
                let mut record = record.as_ref().clone();
                if let (Some(output), None) = (&record.output, &seen.stale) {
                    match self.read_output(id, output).await {
                        Ok(whole) => record.script = whole.or(record.script),
                        Err(error) => {
                            tracing::debug!(instance.id = %id, error = %error, "output could not be read");
                        }
                    }
                }
                Ok(Seen { value: record, stale: seen.stale })
            }
            None if seen.stale.is_none() => Err(OpsError::NotFound),
            // It may have been made since: "not found" makes some clients start another one.
            None => {
                Err(OpsError::unavailable("the store is out of reach, and this instance is not in the cache"))
            }
        }
    }

    /// Changes name, external id or metadata.
    pub async fn update(&self, id: &InstanceId, ask: UpdateVm) -> Result<(), OpsError> {
        start::check_text("name", ask.name.as_deref())?;
        start::check_text("external_id", ask.external_id.as_deref())?;
        start::check_metadata(ask.metadata.as_ref())?;
        self.change_made(id, false, |record| {
            let next = InstanceRecord {
                name: ask.name.clone().or_else(|| record.name.clone()),
                external_id: ask.external_id.clone().or_else(|| record.external_id.clone()),
                metadata: ask.metadata.clone().unwrap_or_else(|| record.metadata.clone()),
                updated: clock::wall(),
                ..record.clone()
            };
            Change::Write(Box::new(next), ())
        })
        .await
    }

    /// Has an instance deleted; repeating it changes nothing. It wins over a start or a pull under way.
    pub async fn terminate(&self, id: &InstanceId) -> Result<(), OpsError> {
        self.change_made(id, true, |record| {
            let now = clock::wall();
            let node = match &record.phase {
                Phase::Terminating { .. } | Phase::Terminated { .. } => return Change::Leave(()),
                // An offer is no right to act: its claim is refused from now on.
                Phase::Queued { .. } | Phase::Offered { .. } => None,
                Phase::Claimed { node, .. } | Phase::Starting { node } | Phase::Started { node } => {
                    Some(node.clone())
                }
                Phase::Failed { node, .. } => node.clone(),
            };
            let mut next = record.in_phase(Phase::Terminating { node, since: now }, now);
            if matches!(record.phase, Phase::Claimed { .. } | Phase::Starting { .. }) {
                // What its node waited for, it does not any more.
                next.message.clear();
            }
            Change::Write(Box::new(next), ())
        })
        .await
    }

    /// Changes an instance that may still have to be made by its start. `ends`: what cannot be made now ends unmade.
    async fn change_made(
        &self,
        id: &InstanceId,
        ends: bool,
        mut decide: impl FnMut(&InstanceRecord) -> Change<()>,
    ) -> Result<(), OpsError> {
        self.loaded()?;
        for _ in 0..2 {
            let found = self
                .change(id, Beside::default(), |record| match record {
                    None => Change::Leave(false),
                    Some(record) => match decide(record) {
                        Change::Write(next, ()) => Change::Write(next, true),
                        Change::Leave(()) => Change::Leave(true),
                        Change::Delete(()) => Change::Delete(true),
                    },
                })
                .await?;
            if found {
                return Ok(());
            }
            let seen = self.inner.lists.read(|cache| cache.unmade(id).cloned()).await?;
            match seen.value {
                Some(start) => match self.make_instances(&start, None).await {
                    Ok(()) => {}
                    Err(OpsError::Conflict(_)) if ends => {
                        if self.end_unmade(&start, id).await? {
                            return Ok(());
                        }
                    }
                    Err(error) => return Err(error),
                },
                // Made by somebody in between, or never there.
                None if self.inner.lists.peek(|cache| cache.instance(id).is_some()) => {}
                None if seen.stale.is_some() => {
                    return Err(OpsError::unavailable("the store is out of reach"));
                }
                None => return Err(OpsError::NotFound),
            }
        }
        Err(OpsError::NotFound)
    }
}

impl Ops {
    /// How much waits, and how quickly it is given out.
    pub async fn stats(&self) -> Result<Seen<ControllerStats>, OpsError> {
        let (now, wall) = (clock::now(), clock::wall());
        let stats = self.inner.lists.read(|cache| {
            let waits =
                cache.queues().flatten().map(|(_, _, item)| wall.since(item.record.created).as_secs_f64());
            let (queued, waited) = waits.fold((0, 0.0), |(count, sum), one| (count + 1, sum + one));
            let average_queue_time = if queued == 0 { 0.0 } else { waited / queued as f64 };
            ControllerStats { tasks_per_second: cache.offers_a_second(now), average_queue_time, queued }
        });
        stats.await
    }
}

/// Why instances wait: found once for all that ask for the same.
pub(in crate::controller) struct Reasons<'a> {
    cache: &'a Cache,
    known: HashMap<String, Arc<str>>,
    /// Some node counts room by resources: starts of different sizes wait for different things.
    by_size: bool,
    /// Where instances get their addresses from, if they do; whether none is free, once somebody wanted to know.
    pool: Option<MacRange>,
    dry: Option<bool>,
}

impl Ops {
    /// For these instances.
    pub(in crate::controller) fn reasons<'a>(&self, cache: &'a Cache) -> Reasons<'a> {
        Reasons::new(cache, self.mac_range())
    }
}

impl<'a> Reasons<'a> {
    fn new(cache: &'a Cache, pool: Option<MacRange>) -> Self {
        let by_size = cache.nodes().any(|(_, item)| room::limit(&item.record).is_some());
        Self { cache, known: HashMap::new(), by_size, pool, dry: None }
    }

    /// Whether the instance waits for an address, and is made only when there is one: nodes have nothing to do with it.
    pub(super) fn waits_for_mac(&mut self, record: &InstanceRecord) -> bool {
        let (cache, Some(pool)) = (self.cache, self.pool) else { return false };
        cache.instance(&record.id).is_none()
            && cache.unmade(&record.id).is_some()
            && *self.dry.get_or_insert_with(|| macs::free(cache, pool) == 0)
    }

    /// The instance with the message that is shown of it.
    pub(in crate::controller) fn explain(&mut self, record: Arc<InstanceRecord>) -> Arc<InstanceRecord> {
        match self.why(&record) {
            None => record,
            Some(why) => {
                Arc::new(InstanceRecord { message: why.as_ref().to_owned(), ..record.as_ref().clone() })
            }
        }
    }

    /// What is shown in place of the message of one that waits.
    fn why(&mut self, record: &InstanceRecord) -> Option<Arc<str>> {
        if !record.is_queued() {
            return None;
        }
        if self.waits_for_mac(record) {
            return Some(macs::NONE.into());
        }
        let spec = &record.spec;
        let mut same = format!(
            "{:?} {:?} {:?} {:?} {:?}",
            spec.arch, spec.node, spec.group_id, spec.permission_group, spec.usb_device
        );
        if self.by_size {
            same.push_str(&format!(" {} {:?} {:?}", spec.manifest, spec.vcpu, spec.vram));
        }
        let cache = self.cache;
        let why = self.known.entry(same).or_insert_with(|| {
            let grouped = |one: fit::Candidate<'a>| (one, cache.grouped(spec, one.node));
            let reserved = |one: fit::Candidate<'a>| waits_for_room(cache, one.node, one).is_some();
            fit::why_waiting(spec, cache.candidates_for(spec).map(grouped), reserved).into()
        });
        Some(match record.message.as_str() {
            "" => why.clone(),
            // What a node said when it gave it back explains more than what is missing now.
            said => format!("{why} ({said})").into(),
        })
    }
}
