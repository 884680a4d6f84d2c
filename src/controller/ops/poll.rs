//! A node's long poll: stops first, then at most one offer.

use std::time::Duration;

use super::{Beside, Change, Ops, OpsError, vm_name::vm_name};
use crate::{
    clock,
    controller::{
        lists::Cache,
        records::{InstanceRecord, Phase},
        schedule::{
            dispatch::Seat,
            rank::BEST,
            reserve::{By, Offer},
        },
    },
    model::NodeId,
    supervise::Stop,
    wire::agent::{Poll, Script, StartTask, StopVm, Tasks},
};

/// How long a stop that was told in a poll is not told again in one: heartbeats repeat it anyway.
pub(super) const TOLD_AGAIN: Duration = Duration::from_secs(5);

impl Ops {
    /// Parks until there is a task for the node, the wait is over, or `stop` is requested.
    ///
    /// Dropping the future gives an offer back that was stored but not yet returned.
    ///
    /// # Errors
    /// `NotFound` for a node without a record; `Conflict` when another agent speaks for the node; `Unavailable`.
    pub async fn poll(&self, ask: Poll, stop: Stop) -> Result<Tasks, OpsError> {
        self.loaded()?;
        let wait = Duration::from_secs(ask.wait.into()).min(self.inner.config.timeouts.poll);
        let deadline = clock::now() + wait;
        self.known_node(&ask.node).await?;
        let mut seat = self.inner.dispatch.park(&ask.node);
        loop {
            self.loaded()?;
            seat.try_all();
            let speaks = self.inner.lists.peek(|cache| speaks(cache, &ask));
            if speaks == Speaks::Former {
                return Err(second_agent(&ask.node));
            }
            seat.ready(speaks == Speaks::Now && ask.free > 0);
            // A node reports first, and is told what is no longer its own; then it may get more.
            if speaks == Speaks::Now {
                let stops = self.stops(&ask.node);
                if !stops.is_empty() {
                    return Ok(Tasks { stop: stops, ..Tasks::default() });
                }
                let commands = self.untold_commands(&ask.node);
                if !commands.is_empty() {
                    return Ok(Tasks { commands, ..Tasks::default() });
                }
                if ask.free > 0
                    && let Some(task) = self.offer(&ask.node, &mut seat).await?
                {
                    return Ok(Tasks { start: Some(task), ..Tasks::default() });
                }
            }
            tokio::select! {
                () = stop.requested() => return Ok(Tasks::default()),
                () = tokio::time::sleep_until(deadline) => return Ok(Tasks::default()),
                () = seat.woken() => {}
            }
        }
    }

    /// The node has a record; if the cache does not show one, the store was asked.
    pub(super) async fn known_node(&self, node: &NodeId) -> Result<(), OpsError> {
        if self.inner.lists.peek(|cache| cache.node(node).is_some()) {
            return Ok(());
        }
        self.inner.lists.catch_up().await?;
        if self.inner.lists.peek(|cache| cache.node(node).is_some()) {
            Ok(())
        } else {
            Err(OpsError::NotFound)
        }
    }

    /// What the node has to stop and was not told of in a poll lately.
    fn stops(&self, node: &NodeId) -> Vec<StopVm> {
        let stops = self.inner.lists.peek(|cache| terminating(cache, node));
        if stops.is_empty() {
            return stops;
        }
        let now = clock::now();
        let mut heard = super::lock(&self.inner.heard);
        let told = &mut heard.entry(node.clone()).or_default().told;
        told.retain(|_, at| now.duration_since(*at) < TOLD_AGAIN);
        let stops: Vec<StopVm> = stops.into_iter().filter(|stop| !told.contains_key(stop)).collect();
        told.extend(stops.iter().map(|stop| (stop.clone(), now)));
        stops
    }

    /// Offers the node the best start there is for it, if any. The loser of a race takes another of the best.
    async fn offer(&self, node: &NodeId, seat: &mut Seat<'_>) -> Result<Option<StartTask>, OpsError> {
        for _ in 0..BEST {
            let chosen = self.inner.lists.peek(|cache| {
                let item = cache.node(node)?;
                let presence = cache.presence(node).filter(|presence| !presence.newer)?;
                let by = By {
                    node: node.clone(),
                    record: item.mod_revision,
                    presence: presence.record.as_ref().clone(),
                    presence_at: presence.mod_revision,
                };
                Some((self.inner.dispatch.choose(cache, seat, &item.record)?, by))
            });
            let Some((reserved, by)) = chosen else { return Ok(None) };
            match Offer::make(self, &reserved.id, by).await {
                Ok(offer) => match self.task(offer.record()).await {
                    Ok(task) => {
                        self.inner.numbers.placed(clock::wall().since(offer.record().created));
                        offer.sent();
                        return Ok(Some(task));
                    }
                    // Given back it would be first again, here and everywhere: nobody behind it would start.
                    Err(OpsError::Conflict(why)) => self.cannot_start(offer, &why).await?,
                    Err(error) => return Err(error),
                },
                Err(OpsError::Conflict(why) | OpsError::BadInput(why)) => {
                    tracing::debug!(instance.id = %reserved.id, node.id = %node, why, "offer lost a race");
                    seat.lost(reserved.id.clone());
                    // Choose again from what whoever was faster has left.
                    self.inner.lists.catch_up().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Fails what was offered and can never be sent.
    async fn cannot_start(&self, offer: Offer, why: &str) -> Result<(), OpsError> {
        let (id, attempt) = (offer.record().id.clone(), offer.record().attempt);
        self.change(&id, Beside::default(), |record| match record {
            Some(record) if record.is_offer(attempt) => {
                let failed = Phase::Failed { node: None, running: false };
                let next = record.in_phase(failed, clock::wall());
                Change::Write(Box::new(InstanceRecord { message: why.to_owned(), ..next }), ())
            }
            _ => Change::Leave(()),
        })
        .await?;
        offer.sent();
        tracing::warn!(instance.id = %id, error = why, "instance can never start and was failed");
        Ok(())
    }

    async fn task(&self, record: &InstanceRecord) -> Result<StartTask, OpsError> {
        let spec = &record.spec;
        let script = match &spec.script {
            None => None,
            Some(script) => Some(Script {
                body: self.read_script(script).await?,
                at_boot: script.at_boot,
                monitored: script.monitored,
                timeout_seconds: script.timeout_seconds,
                on_failure: script.on_failure,
            }),
        };
        let node_name = self.inner.lists.peek(|cache| {
            record.node().and_then(|node| cache.node(node)).map(|item| item.record.settings.name.clone())
        });
        Ok(StartTask {
            instance: record.id.clone(),
            attempt: record.attempt,
            template: spec.template.clone(),
            template_name: spec.template_name.clone(),
            repository: spec.repository.clone(),
            tag: spec.tag.clone(),
            manifest: spec.manifest,
            registry: self.registry_for_nodes(),
            vm_name: vm_name(record, &node_name.unwrap_or_default(), clock::wall()),
            vcpu: spec.vcpu,
            vram: spec.vram,
            script,
            hardware: spec.hardware(),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// This session speaks for the node.
    Now,
    /// It has not reported yet.
    NotYet,
    /// It was replaced by another one: a second agent with the same id.
    Former,
}

fn speaks(cache: &Cache, ask: &Poll) -> Speaks {
    match cache.presence(&ask.node) {
        Some(item) if item.record.session == ask.session => Speaks::Now,
        Some(item) if item.record.former.contains(&ask.session) => Speaks::Former,
        _ => Speaks::NotYet,
    }
}

pub(super) fn second_agent(node: &NodeId) -> OpsError {
    OpsError::Conflict(format!(
        "another agent speaks for node `{node}` and has started later; give this one an id of its own (`--node-id`)"
    ))
}

/// What the node has to stop.
pub(super) fn terminating(cache: &Cache, node: &NodeId) -> Vec<StopVm> {
    let on_node = cache.on_node(node);
    let going = on_node.filter(|(_, item)| matches!(item.record.phase, Phase::Terminating { .. }));
    going.map(|(id, item)| StopVm { instance: id.clone(), attempt: item.record.attempt }).collect()
}
