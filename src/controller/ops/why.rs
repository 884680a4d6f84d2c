//! Why an instance is where it is: each node's refusal, its place in the queue, what its node said.

use super::{Ops, OpsError};
use crate::{
    clock,
    controller::{
        lists::{Cache, Seen},
        records::{InstanceRecord, Phase},
        schedule::{
            dispatch::waits_for_room,
            fit::{self, Grouped, Kind, Misfit},
        },
    },
    model::InstanceId,
    wire::cloud::{NodeWhy, QueuePlace, Why},
};

/// Nodes that are listed, the nearest to fitting first.
const NODES: usize = 1000;

impl Ops {
    /// Why an instance is where it is.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn why(&self, id: &InstanceId) -> Result<Seen<Why>, OpsError> {
        let seen = self.inner.lists.read(|cache| {
            let record = cache.shown_instance(id)?;
            let mut reasons = self.reasons(cache);
            let explained = reasons.explain(record.clone());
            let mut why = self.tell(cache, &record, &explained.message);
            if reasons.waits_for_mac(&record) {
                // No node is in the way, and none can help.
                (why.why, why.nodes) = (explained.message.clone(), Vec::new());
            }
            Some(why)
        });
        let Seen { value, stale } = seen.await?;
        match value {
            Some(value) => Ok(Seen { value, stale }),
            None if stale.is_none() => Err(OpsError::NotFound),
            None => {
                Err(OpsError::unavailable("the store is out of reach, and this instance is not in the cache"))
            }
        }
    }

    fn tell(&self, cache: &Cache, record: &InstanceRecord, message: &str) -> Why {
        let mut why = Why {
            instance_id: record.id.to_string(),
            state: record.state(),
            why: sentence(record, message),
            node_id: record.node().map(ToString::to_string),
            attempt: record.attempt,
            queue: None,
            nodes: Vec::new(),
            nodes_total: cache.nodes().count(),
        };
        if !record.is_queued() {
            return why;
        }
        let ageing = self.inner.config.timeouts.ageing_per_second;
        let age_seconds = clock::wall().since(record.created).as_secs_f64();
        let kind = Kind::of(&record.spec);
        let (ahead, own, waiting) = cache.ahead_of(cache.order_of(record), &record.id, &kind);
        why.queue = Some(QueuePlace {
            ahead,
            ahead_of_its_kind: own,
            // One that its start has yet to make is in no queue yet.
            waiting: waiting.max(1),
            priority: record.spec.priority,
            since: record.created,
            age_seconds,
            aged_priority: f64::from(record.spec.priority) - age_seconds * ageing,
        });
        let mut nodes: Vec<_> =
            cache.candidates_for(&record.spec).map(|candidate| refusal(cache, record, candidate)).collect();
        nodes.sort_by(|(one, a), (other, b)| other.cmp(one).then_with(|| a.node_id.cmp(&b.node_id)));
        why.nodes = nodes.into_iter().take(NODES).map(|(_, node)| node).collect();
        why
    }
}

/// How near a node is to fitting, and what is in the way.
fn refusal(cache: &Cache, record: &InstanceRecord, candidate: fit::Candidate<'_>) -> (usize, NodeWhy) {
    let (spec, node) = (&record.spec, candidate.node);
    let grouped = cache.grouped(spec, node);
    let fits = fit::fits(spec, candidate, grouped);
    let larger = fits.ok().and_then(|()| waits_for_room(cache, node, candidate));
    let gave_back = record.refused_by.contains(&node.id);
    let (near, reason, text) = match fits {
        Err(misfit) => (misfit.nearness(), misfit.word(), misfit.about(spec, candidate)),
        Ok(()) if let Some(larger) = larger => (
            Misfit::Reserved.nearness(),
            Misfit::Reserved.word(),
            format!(
                "it has room, and is kept free for instance `{larger}`, which needs more and has waited longer"
            ),
        ),
        Ok(()) if gave_back => {
            (usize::MAX - 1, "", "it gave this instance back, and gets it again after a while".into())
        }
        Ok(()) if grouped == Grouped::Fallback => {
            (usize::MAX, "", "nothing is in the way; it stands in for the group".into())
        }
        Ok(()) => {
            (usize::MAX, "", "nothing is in the way: its next poll takes it, or one that comes first".into())
        }
    };
    let why = NodeWhy {
        node_id: node.id.to_string(),
        node_name: node.settings.name.clone(),
        fits: fits.is_ok() && larger.is_none(),
        reason: reason.to_owned(),
        why: text,
        has_template: fit::has_template(spec, node),
        layers_there: fit::layers_there(spec, node),
        gave_back,
    };
    (near, why)
}

fn sentence(record: &InstanceRecord, message: &str) -> String {
    let of = |text: String| if message.is_empty() { text } else { format!("{text}: {message}") };
    match &record.phase {
        Phase::Queued { .. } => format!("it waits for a node: {message}"),
        Phase::Offered { node } => of(format!("it is offered to node `{node}`, which has to claim it")),
        Phase::Claimed { node, pulling: true, progress } => {
            let share = serde_json::to_value(progress).ok().and_then(|share| share.as_f64()).unwrap_or(0.0);
            of(format!("node `{node}` pulls its template, {:.0} % are there", share * 100.0))
        }
        Phase::Claimed { node, .. } => of(format!("node `{node}` has taken it and prepares it")),
        Phase::Starting { node } => {
            of(format!("node `{node}` starts its VM; the network or the script is waited for"))
        }
        Phase::Started { node } if record.saving.is_some() => {
            of(format!("node `{node}` saves its image: it stops the VM and pushes it"))
        }
        Phase::Started { node } => of(format!("it runs on node `{node}`")),
        Phase::Failed { node: Some(node), .. } if record.is_kept() => {
            of(format!("it failed on node `{node}`, where its VM takes a place until it is terminated"))
        }
        Phase::Failed { node: Some(node), .. } => of(format!("it failed on node `{node}`")),
        Phase::Failed { node: None, .. } => of("it failed before its VM was started".into()),
        Phase::Terminating { node: Some(node), .. } => {
            of(format!("node `{node}` has to confirm that it is deleted"))
        }
        Phase::Terminating { node: None, .. } => of("it is deleted; no node had it".into()),
        Phase::Terminated { node, .. } => of(format!("node `{node}` has deleted it")),
    }
}
