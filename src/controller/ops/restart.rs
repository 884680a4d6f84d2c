//! Restarts of VMs in their place.

use super::{
    Ops, OpsError,
    commands::{cannot, room_for},
};
use crate::{
    clock,
    controller::{
        lists::Item,
        records::{InstanceRecord, NodeRecord, Phase, Presence},
        writes::{Draft, Outcome, Patience, RACES},
    },
    model::{CommandId, InstanceId, InstanceState, NodeId, excerpt},
    store::{LeaseId, Revision},
    wire::{
        command::{Order, RestartVm},
        image::RestartInstance,
    },
};

/// Longest password of a display.
const PASSWORD: usize = 128;

impl Ops {
    /// Has a started instance's VM stopped and started again, on its node; it is `Started` all the while. One that is to be
    /// restarted already is not restarted twice.
    ///
    /// # Errors
    /// `BadInput`, `NotFound`, `Conflict` for an instance that is not started, `TooMany`, `Unavailable`.
    pub async fn restart(&self, id: &InstanceId, ask: &RestartInstance) -> Result<(), OpsError> {
        self.loaded()?;
        if ask.vnc_password.as_ref().is_some_and(|password| password.len() > PASSWORD) {
            return Err(OpsError::BadInput(format!("vnc_password: at most {PASSWORD} bytes")));
        }
        let device = ask.usb_device.clone().unwrap_or_default();
        let password = ask.vnc_password.clone().unwrap_or_default();
        for _ in 0..RACES {
            let Some((node, item)) = self.started(id, "restarted").await? else {
                return Err(OpsError::NotFound);
            };
            let order = Order::Restart(RestartVm {
                instance: id.clone(),
                attempt: item.record.attempt,
                usb_device: device.clone(),
                vnc_password: password.clone(),
            });
            // An older one with another device in between is not the same any more.
            let last = self.inner.lists.peek(|cache| {
                let of_it = cache.commands().open(&node.id).filter(|item| restarts(&item.record.order, id));
                of_it.last().map(|item| item.record.clone())
            });
            if last.is_some_and(|last| last.order == order) {
                return Ok(());
            }
            let presence = self.may_have(&device, &node, &item.record)?;
            if let Some(why) = cannot(&node, &order) {
                return Err(OpsError::Conflict(why));
            }
            self.inner.lists.peek(|cache| room_for(cache, std::iter::once(&node.id)))?;
            let command = CommandId::random();
            let draft = Draft::new(self.inner.keys.command(&node.id, &command))
                .at(self.inner.keys.instance(id), item.mod_revision);
            let mut draft = self.draft_command(draft, &node, &command, &order, None, clock::wall())?;
            let mut next = item.record.as_ref().clone();
            for (of, given) in
                [(&mut next.spec.usb_device, &device), (&mut next.spec.devices.vnc_password, &password)]
            {
                if !given.is_empty() {
                    of.clone_from(given);
                }
            }
            // Written though nothing may have changed in it: of two who restart it at once, the second sees the first.
            draft = draft.put(self.inner.keys.instance(id), &next)?;
            if let Some((presence, revision)) = presence {
                let key = self.inner.keys.node_alive(&node.id);
                let lease = LeaseId(presence.lease);
                draft = draft.at(&key, revision).put_leased(key, &presence, lease)?;
            }
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                tracing::info!(instance.id = %id, node.id = %node.id, command.id = %command, "instance is to be restarted");
                return Ok(());
            }
            self.inner.lists.catch_up().await?;
        }
        Err(OpsError::unavailable("the instance is changed by too many at once"))
    }

    /// Whether the instance may have this USB device of its node; none is had by all. A device that is taken counts in the
    /// node's presence, as an offer does: of two who take one at once, one is refused.
    fn may_have(
        &self,
        device: &String,
        node: &NodeRecord,
        instance: &InstanceRecord,
    ) -> Result<Option<(Presence, Revision)>, OpsError> {
        if device.is_empty() || *device == instance.spec.usb_device {
            return Ok(None);
        }
        // Before the look at who has what: what is taken in between breaks the comparison.
        let presence = self.inner.lists.peek(|cache| cache.presence(&node.id).cloned());
        if !node.facts.usb_devices.contains(device) {
            let device = excerpt(device);
            return Err(OpsError::BadInput(format!(
                "usb_device: node `{}` has no USB device `{device}`",
                node.id
            )));
        }
        if self.inner.lists.peek(|cache| cache.usb_busy(device, &node.id)) {
            return Err(OpsError::Conflict(format!(
                "USB device `{device}` of node `{}` is another VM's",
                node.id
            )));
        }
        let Some(item) = presence.filter(|item| !item.newer) else {
            return Err(OpsError::Conflict(format!(
                "node `{}` does not report now; a USB device is given only while it does",
                node.id
            )));
        };
        let counted = Presence { offers: item.record.offers + 1, ..item.record.as_ref().clone() };
        Ok(Some((counted, item.mod_revision)))
    }

    /// A started instance and its node; nothing if there is no such instance. `what`: what can be done only to those.
    pub(super) async fn started(
        &self,
        id: &InstanceId,
        what: &str,
    ) -> Result<Option<(std::sync::Arc<NodeRecord>, Item<InstanceRecord>)>, OpsError> {
        let seen = self.inner.lists.read(|cache| {
            let item = cache.instance(id).cloned();
            let state = cache.shown_instance(id).map(|record| record.state());
            let node = item.as_ref().and_then(|item| node_of(&item.record)).and_then(|node| cache.node(node));
            (state, item, node.map(|node| node.record.clone()))
        });
        let seen = seen.await?;
        if seen.stale.is_some() {
            return Err(OpsError::unavailable("the store is out of reach"));
        }
        match seen.value {
            (None, ..) => Ok(None),
            (Some(InstanceState::Started), Some(item), Some(node)) if !item.newer => Ok(Some((node, item))),
            (Some(InstanceState::Started), Some(item), node) => Err(OpsError::Conflict(match node {
                None => format!("the record of the instance's node is gone, so it cannot be {what}"),
                Some(_) => {
                    format!("instance `{}` was written by a newer controller; ask that one", item.record.id)
                }
            })),
            (Some(state), ..) => Err(OpsError::Conflict(format!(
                "the instance is {}; only one that is Started can be {what}",
                state.as_str()
            ))),
        }
    }
}

fn node_of(record: &InstanceRecord) -> Option<&NodeId> {
    match &record.phase {
        Phase::Started { node } => Some(node),
        _ => None,
    }
}

fn restarts(order: &Order, instance: &InstanceId) -> bool {
    matches!(order, Order::Restart(of) if of.instance == *instance)
}
