//! The transaction of an offer, and what must happen when nobody takes it.

use crate::{
    clock,
    controller::{
        ops::{Beside, Change, Ops, OpsError},
        records::{InstanceRecord, Phase, Presence},
    },
    model::{Attempt, InstanceId, NodeId},
    store::Revision,
};

/// An offer that is stored, or may be. Dropped before [`Offer::sent`], it goes back to the queue at once: the
/// poll that it was for was closed, or could not be answered.
pub(in crate::controller) struct Offer {
    ops: Ops,
    node: NodeId,
    attempt: Attempt,
    record: InstanceRecord,
    open: bool,
}

/// A node as it was when the start was chosen for it.
pub(in crate::controller) struct By {
    pub(in crate::controller) node: NodeId,
    /// When its record was put last.
    pub(in crate::controller) record: Revision,
    pub(in crate::controller) presence: Presence,
    pub(in crate::controller) presence_at: Revision,
}

impl Offer {
    /// Stores the offer of an instance to a node as both were seen, or says that it was not done: `Conflict` when something
    /// in between was faster. The node's presence is part of it: two controllers cannot both give a node its
    /// last place, and a node that is no longer there gets nothing. So is its record: a node that was drained, or taken out
    /// of the group, gets nothing from a controller that was not told of it yet.
    pub(in crate::controller) async fn make(ops: &Ops, id: &InstanceId, by: By) -> Result<Self, OpsError> {
        let node = &by.node;
        let Some(seen) = ops.inner.lists.peek(|cache| cache.instance(id).map(|item| item.record.clone()))
        else {
            return Err(OpsError::Conflict("it is gone".into()));
        };
        let attempt = seen.attempt + 1;
        let record = seen.as_ref().clone();
        // Before the write, so that a poll closed in the middle of it gives back what may have been stored.
        let mut offer = Self { ops: ops.clone(), node: node.clone(), attempt, record, open: true };
        let counted = Presence { offers: by.presence.offers + 1, ..by.presence.clone() };
        let beside = Beside {
            also: Some((ops.inner.keys.node(node), by.record)),
            presence: Some((node, counted, by.presence_at)),
            ..Beside::default()
        };
        let made = ops
            .change(id, beside, |now| match now {
                Some(now) if now.is_queued() && now.attempt + 1 == attempt => {
                    let phase = Phase::Offered { node: node.clone() };
                    let next = InstanceRecord { attempt, ..now.in_phase(phase, clock::wall()) };
                    Change::Write(Box::new(next.clone()), Some(next))
                }
                _ => Change::Leave(None),
            })
            .await;
        match made {
            Ok(Some(record)) => {
                offer.record = record;
                Ok(offer)
            }
            Ok(None) => {
                offer.open = false;
                Err(OpsError::Conflict("it is no longer queued".into()))
            }
            Err(error) => {
                offer.open = matches!(error, OpsError::Unknown(_));
                Err(error)
            }
        }
    }

    /// The instance as it was offered.
    pub(in crate::controller) fn record(&self) -> &InstanceRecord {
        &self.record
    }

    /// The answer is on its way: from now on only the end of the claim's time gives it back.
    pub(in crate::controller) fn sent(mut self) {
        self.open = false;
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let (ops, id) = (self.ops.clone(), self.record.id.clone());
        let (node, attempt) = (self.node.clone(), self.attempt);
        self.ops.inner.tasks.finish(format!("return offer {id}"), async move {
            match ops.return_offer(&id, &node, attempt).await {
                Ok(true) => {
                    tracing::debug!(instance.id = %id, node.id = %node, "offer was returned: its poll closed")
                }
                Ok(false) => {}
                // The end of the claim's time does it, at whichever controller sees it first.
                Err(error) => {
                    tracing::debug!(instance.id = %id, error = %error, "offer could not be returned yet")
                }
            }
        });
    }
}
