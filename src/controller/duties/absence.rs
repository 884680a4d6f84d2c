//! Acts on silent nodes: gives up or holds the node, then each instance of a lost one.

use super::{MOST, Pass};
use crate::{
    clock,
    controller::{
        absence::{Silence, judge},
        ops::{Beside, Change, Ops, OpsError},
        records::{Absence, InstanceRecord, NodeRecord, Phase},
        writes::{Draft, Fence, Outcome, Patience},
    },
    model::{InstanceId, NodeId},
    store::Revision,
};

pub(super) struct Absences;

impl Pass for Absences {
    const NAME: &'static str = "absence";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let decided = nodes(ops, held).await?;
        Ok(decided + instances(ops, held).await?)
    }
}

/// Decides about nodes that have been silent for too long.
async fn nodes(ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
    let timeouts = &ops.inner.config.timeouts;
    let silences: Vec<Silence> = ops.silences();
    let mut done = 0;
    for (node, decision) in judge(&silences, timeouts.instance_active, timeouts.mass_absence) {
        let key = ops.inner.keys.node(&node);
        let seen = ops.inner.lists.peek(|cache| {
            cache.node(&node).map(|item| (item.record.as_ref().clone(), item.mod_revision, item.newer))
        });
        let Some((record, revision, false)) = seen else { continue };
        let next = NodeRecord { reported: ops.heard(&record, false), absence: Some(decision), ..record };
        // Only if it has no presence at this very moment: a report in between is heard.
        let draft = Draft::new(&key)
            .at(&key, revision)
            .at(ops.inner.keys.node_alive(&node), 0)
            .fenced(Some(held))
            .put(&key, &next)?;
        if let Outcome::Done = ops.inner.writes.commit(draft, Patience::new()).await? {
            match decision {
                Absence::Lost => tracing::warn!(node.id = %node, "node is silent and is taken to be gone"),
                Absence::Held => tracing::error!(
                    node.id = %node,
                    "too many nodes fell silent at once; nothing of this one is failed until it returns, is deleted or is confirmed to be gone"
                ),
            }
            done += 1;
        }
    }
    Ok(done)
}

/// Why a node will not go on with its instances, and which revision of its record says so.
fn lost(record: Option<(&NodeRecord, Revision)>) -> Option<(&'static str, Revision)> {
    match record {
        None => Some(("was deleted", 0)),
        Some((record, revision)) if record.absence == Some(Absence::Lost) => {
            Some(("is not communicating", revision))
        }
        Some(_) => None,
    }
}

/// Takes instances away from lost nodes: to another one before `starting`, never after.
async fn instances(ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
    let taken: Vec<(InstanceId, NodeId, String, Revision)> = ops.inner.lists.peek(|cache| {
        let nodes = cache.placed_nodes().filter_map(|node| {
            let record = cache.node(node).map(|item| (item.record.as_ref(), item.mod_revision));
            lost(record).map(|(why, revision)| (node, why, revision))
        });
        let all = nodes.flat_map(|(node, why, revision)| {
            let going =
                cache.on_node(node).filter(|(_, item)| !item.newer && next(&item.record, "").is_some());
            going.map(move |(id, _)| (id.clone(), node.clone(), format!("node `{node}` {why}"), revision))
        });
        all.take(MOST).collect()
    });
    let mut done = 0;
    for (id, node, why, revision) in taken {
        // Should the node report in between, its record changes, and nothing is taken from it.
        let also = Some((ops.inner.keys.node(&node), revision));
        let beside = Beside { fence: Some(held), also, ..Beside::default() };
        let changed = ops
            .change(&id, beside, |record| match record {
                Some(record) if record.node() == Some(&node) => match next(record, &why) {
                    Some(next) => Change::Write(Box::new(next), true),
                    None => Change::Leave(false),
                },
                _ => Change::Leave(false),
            })
            .await;
        match changed {
            Ok(true) => {
                tracing::warn!(instance.id = %id, node.id = %node, why, "instance lost its node");
                done += 1;
            }
            Ok(false) | Err(OpsError::Conflict(_)) => {}
            // Of this one instance, whatever it is: the others of the node do not wait for it.
            Err(OpsError::BadInput(why)) => {
                tracing::error!(instance.id = %id, error = why, "instance of a lost node could not be changed");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// What becomes of an instance whose node is lost; nothing if that changes nothing for it.
fn next(record: &InstanceRecord, why: &str) -> Option<InstanceRecord> {
    let now = clock::wall();
    match &record.phase {
        Phase::Offered { .. } => Some(record.queued_again(why, now)),
        Phase::Claimed { .. } => Some(record.attempt_failed(why, now)),
        // It may run there, whatever we hear: it never goes to a second node.
        Phase::Starting { .. } | Phase::Started { .. } => Some(record.failed(why, true, now)),
        Phase::Queued { .. }
        | Phase::Failed { .. }
        | Phase::Terminating { .. }
        | Phase::Terminated { .. } => None,
    }
}
