//! One way to change an instance: decide on what is there, write it compared, and on a lost race decide again.

use super::{Ops, OpsError};
use crate::{
    clock,
    controller::{
        records::{self, InstanceRecord, MacRecord, Presence, QueueEntry},
        writes::{Draft, Fence, Outcome, Patience, RACES},
    },
    model::{Attempt, InstanceId, MacAddress, NodeId},
    store::{Consistency, LeaseId, Revision},
};

/// What is to be done about an instance.
pub(in crate::controller) enum Change<R> {
    /// Store this, then it is `R`.
    Write(Box<InstanceRecord>, R),
    /// Nothing to write.
    Leave(R),
    /// Delete it.
    Delete(R),
}

/// What else a change of an instance depends on and writes.
#[derive(Default)]
pub(in crate::controller) struct Beside<'a> {
    /// Only while this leader key stands.
    pub(in crate::controller) fence: Option<&'a Fence>,
    /// Only while this key is as it was at this revision.
    pub(in crate::controller) also: Option<(String, Revision)>,
    /// An offer counts in its node's presence, so that two of them cannot pass each other.
    pub(in crate::controller) presence: Option<(&'a NodeId, Presence, Revision)>,
    /// What becomes of its address when it is deleted, while that was put at this revision.
    pub(in crate::controller) address: Option<(MacAddress, MacRecord, Revision)>,
}

impl Beside<'_> {
    fn is_empty(&self) -> bool {
        self.fence.is_none() && self.also.is_none() && self.presence.is_none() && self.address.is_none()
    }
}

impl Ops {
    /// Changes one instance, or says what there is.
    ///
    /// `decide` is first asked about what the cache shows. What it wants written is compared on exactly that; a
    /// decision to leave things as they are is only taken from what the store shows, for the cache may be behind.
    pub(in crate::controller) async fn change<R>(
        &self,
        id: &InstanceId,
        beside: Beside<'_>,
        mut decide: impl FnMut(Option<&InstanceRecord>) -> Change<R>,
    ) -> Result<R, OpsError> {
        let patience = Patience::new();
        let key = self.inner.keys.instance(id);
        let cached = self.inner.lists.peek(|cache| {
            cache.instance(id).map(|item| (item.record.as_ref().clone(), item.mod_revision, item.newer))
        });
        let mut fresh = false;
        let mut now = cached;
        for _ in 0..RACES {
            let seen = now.as_ref();
            let revision = seen.map_or(0, |(_, revision, _)| *revision);
            let decided = decide(seen.map(|(record, _, _)| record));
            let mut draft = Draft::new(&key).at(&key, revision).fenced(beside.fence);
            if let Some((other, at)) = &beside.also {
                draft = draft.at(other, *at);
            }
            let (draft, done) = match (decided, seen) {
                (Change::Leave(answer), _) if fresh => return Ok(answer),
                (Change::Leave(_), _) => {
                    now = self.read_instance(id).await?;
                    fresh = true;
                    continue;
                }
                // Left to those who know what is in it.
                (_, Some((_, _, true))) => {
                    return Err(OpsError::Conflict(format!(
                        "instance `{id}` was written by a newer controller; ask that one"
                    )));
                }
                (Change::Delete(done), seen) => {
                    let event = super::events::of_change(seen.map(|(record, ..)| record), None);
                    if let Some((mac, record, at)) = &beside.address {
                        let key = self.inner.keys.mac(*mac);
                        draft = draft.at(&key, *at).put(&key, record)?;
                    }
                    let draft = draft
                        .delete(&key)
                        .delete(self.inner.keys.queued_start(id))
                        .delete_prefix(&self.inner.keys.outputs(id));
                    (self.logged(draft, event)?, done)
                }
                (Change::Write(next, done), seen) => {
                    // Here, so that nobody who puts it back into the queue can forget it.
                    let next = next.bounded(self.inner.config.limits.attempts);
                    (self.draft_change(draft, id, seen.map(|(record, ..)| record), &next, &beside)?, done)
                }
            };
            match self.inner.writes.commit(draft, patience).await? {
                Outcome::Done => return Ok(done),
                Outcome::Lost(found) => {
                    if !beside.is_empty() {
                        // What is beside may have changed and not the instance: the caller starts over.
                        return Err(OpsError::Conflict("somebody else was faster".into()));
                    }
                    now = found.map(|kv| decode(&kv.value, kv.mod_revision)).transpose()?;
                    fresh = true;
                }
            }
            if patience.is_over() {
                break;
            }
        }
        Err(OpsError::unavailable("the instance is changed by too many at once"))
    }

    fn draft_change(
        &self,
        mut draft: Draft,
        id: &InstanceId,
        old: Option<&InstanceRecord>,
        next: &InstanceRecord,
        beside: &Beside<'_>,
    ) -> Result<Draft, OpsError> {
        let keys = &self.inner.keys;
        if let Some(old) = old
            && !old.state().may_become(next.state())
        {
            let (from, to) = (old.state().as_str(), next.state().as_str());
            tracing::error!(instance.id = %id, from, to, "a state was to be left by an edge that does not exist");
            return Err(OpsError::Conflict(format!("an instance in {from} cannot become {to}")));
        }
        draft = self.logged(draft, super::events::of_change(old, Some(next)))?;
        draft = draft.put(keys.instance(id), next)?;
        let was_queued = old.is_some_and(InstanceRecord::is_queued);
        if next.is_queued() && !was_queued {
            draft = draft.put(keys.queued_start(id), &QueueEntry::of(next))?;
        } else if was_queued && !next.is_queued() {
            draft = draft.delete(keys.queued_start(id));
        }
        if let Some((node, presence, revision)) = &beside.presence {
            let key = keys.node_alive(node);
            draft = draft.at(&key, *revision).put_leased(key, presence, LeaseId(presence.lease))?;
        }
        Ok(draft)
    }

    async fn read_instance(
        &self,
        id: &InstanceId,
    ) -> Result<Option<(InstanceRecord, Revision, bool)>, OpsError> {
        let got = self.inner.store.get(&self.inner.keys.instance(id), Consistency::Linearizable).await;
        // A read that got no answer has done nothing.
        let got = got.map_err(|error| OpsError::unavailable(error.to_string()))?;
        got.kv.map(|kv| decode(&kv.value, kv.mod_revision)).transpose()
    }

    /// Gives an offer back, unless it was claimed or is another one by now. Says whether it did.
    pub(in crate::controller) async fn return_offer(
        &self,
        id: &InstanceId,
        node: &NodeId,
        attempt: Attempt,
    ) -> Result<bool, OpsError> {
        self.change(id, Beside::default(), |record| match record {
            Some(record) if record.is_offer(attempt) && record.node() == Some(node) => {
                Change::Write(Box::new(record.queued_again("", clock::wall())), true)
            }
            _ => Change::Leave(false),
        })
        .await
    }
}

fn decode(value: &[u8], revision: Revision) -> Result<(InstanceRecord, Revision, bool), OpsError> {
    let (record, newer) = records::decode_for_show(value)?;
    Ok((record, revision, newer))
}
