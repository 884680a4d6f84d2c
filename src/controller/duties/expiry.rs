//! Removes what has been shown long enough: ended instances, start records, API keys; and what nothing points to or that
//! points to nothing: scripts, deleted groups in nodes' records.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use super::{MOST, Pass};
use crate::{
    clock,
    controller::{
        lists::{Cache, Item},
        ops::{Beside, Change, Ops, OpsError},
        records::{Absence, InstanceRecord, LeftOn, MacRecord, Phase},
        writes::{Draft, Fence, Outcome, Patience},
    },
    model::{InstanceId, MacAddress, NodeId, StartId, Timestamp},
    store::{Range, Revision},
};

/// How often scripts without a start are looked for. A script is one only if two looks in a row find it: it is
/// stored before the start that points to it.
const ORPHANS_EVERY: Duration = Duration::from_secs(1800);

/// How often it is looked for deleted groups that nodes' records still name.
const GROUPS_EVERY: Duration = Duration::from_secs(3);

/// Keys of one look.
const ORPHANS_PAGE: i64 = 1000;

#[derive(Default)]
pub(super) struct Expiry {
    left_groups: Option<Instant>,
    looked: Option<Instant>,
    /// How often, if not every [`ORPHANS_EVERY`].
    every: Option<Duration>,
    suspects: HashSet<String>,
}

impl Expiry {
    /// One that looks for scripts without a start so often.
    #[cfg(test)]
    pub(super) fn looking(every: Duration) -> Self {
        Self { every: Some(every), ..Self::default() }
    }
}

impl Pass for Expiry {
    const NAME: &'static str = "expiry";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let mut done = instances(ops, held).await?;
        if let Some(now) = ops.inner.clocks.believed() {
            done += starts(ops, held, now).await?;
            done += api_keys(ops, held, now).await?;
        }
        if self.left_groups.is_none_or(|looked| looked.elapsed() >= GROUPS_EVERY) {
            self.left_groups = Some(clock::now());
            done += groups(ops, held).await?;
        }
        if self.looked.is_none_or(|looked| looked.elapsed() >= self.every.unwrap_or(ORPHANS_EVERY)) {
            self.looked = Some(clock::now());
            done += self.scripts(ops, held).await?;
        }
        Ok(done)
    }
}

/// An instance that was shown for long enough, and the record of its node that says that it will not confirm it.
#[derive(Debug, PartialEq)]
struct Over {
    phase: Phase,
    node: Option<(NodeId, Revision)>,
    /// Its address, which is held from then on: its VM may run there all the same.
    address: Option<(MacAddress, MacRecord, Revision)>,
}

/// Whether an ended instance has been shown for long enough. Counted since this controller saw it end, not by the
/// record's time: wall clocks differ.
fn over(cache: &Cache, item: &Item<InstanceRecord>, visible: Duration) -> Option<Over> {
    let (node, address) = match &item.record.phase {
        Phase::Terminated { .. } | Phase::Terminating { node: None, .. } => (None, None),
        // Its node will not confirm it any more. Should the node return, it stops what no record knows.
        Phase::Terminating { node: Some(node), .. } => match cache.node(node) {
            // An operator has said that it is gone for good.
            None => (Some((node.clone(), 0)), None),
            Some(of) if of.record.absence == Some(Absence::Lost) => {
                (Some((node.clone(), of.mod_revision)), left(cache, &item.record, node))
            }
            Some(_) => return None,
        },
        _ => return None,
    };
    let due = !item.newer && item.seen.elapsed() >= visible;
    due.then(|| Over { phase: item.record.phase.clone(), node, address })
}

/// The address of an instance whose node is silent, to be held for its VM.
fn left(cache: &Cache, record: &InstanceRecord, node: &NodeId) -> Option<(MacAddress, MacRecord, Revision)> {
    let mac = record.spec.mac_address.parse().ok()?;
    let of = cache.mac(&mac).filter(|of| !of.newer && of.record.instance == record.id)?;
    let left = LeftOn { node: node.clone(), since: clock::wall() };
    Some((mac, MacRecord { instance: record.id.clone(), left: Some(left) }, of.mod_revision))
}

async fn instances(ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
    let visible = ops.inner.config.timeouts.instance_visible;
    let over: Vec<(InstanceId, Over)> = ops.inner.lists.peek(|cache| {
        let over = |(id, item): (&InstanceId, _)| over(cache, item, visible).map(|over| (id.clone(), over));
        let over = cache.instances().filter_map(over);
        over.take(MOST).collect()
    });
    let mut done = 0;
    for (id, Over { phase, node, address }) in over {
        // A node that reports in between changes its record, and nothing of it is deleted.
        let also = node.map(|(node, revision)| (ops.inner.keys.node(&node), revision));
        let beside = Beside { fence: Some(held), also, address, presence: None };
        let removed = ops
            .change(&id, beside, |now| match now {
                Some(now) if now.phase == phase => Change::Delete(true),
                _ => Change::Leave(false),
            })
            .await;
        match removed {
            Ok(removed) => done += usize::from(removed),
            Err(OpsError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Start records whose key's time is over, with their scripts. One whose instances may still be offered stays:
/// the offer reads the script.
async fn starts(ops: &Ops, held: &Fence, now: Timestamp) -> Result<usize, OpsError> {
    let over: Vec<_> = ops.inner.lists.peek(|cache| {
        let waits = |id: &StartId| {
            cache.of_start(id).any(|item| {
                let phase = &item.record.phase;
                matches!(phase, Phase::Queued { .. } | Phase::Offered { .. } | Phase::Claimed { .. })
            })
        };
        let over = cache.starts().filter(|(id, item)| {
            item.record.expires < now && item.record.unmade().is_empty() && !item.newer && !waits(id)
        });
        over.map(|(id, item)| (id.clone(), item.record.clone(), item.mod_revision)).take(MOST).collect()
    });
    let mut done = 0;
    for (id, record, revision) in over {
        let key = ops.inner.keys.start(&id);
        let mut draft = Draft::new(&key).at(&key, revision).fenced(Some(held)).delete(&key);
        if let Some(script) = &record.spec.script {
            draft = draft.delete_prefix(&ops.inner.keys.scripts(&script.at));
        }
        if let Outcome::Done = ops.inner.writes.commit(draft, Patience::new()).await? {
            done += 1;
        }
    }
    Ok(done)
}

/// API keys that have been refused for so long that nobody will prolong them.
async fn api_keys(ops: &Ops, held: &Fence, now: Timestamp) -> Result<usize, OpsError> {
    let over: Vec<_> = ops.inner.lists.peek(|cache| {
        let over = cache.api_keys().filter(|(_, item)| item.record.is_over(now) && !item.newer);
        over.map(|(id, item)| (id.clone(), item.mod_revision)).take(MOST).collect()
    });
    let mut done = 0;
    for (id, revision) in over {
        let key = ops.inner.keys.api_key(&id);
        let draft = Draft::new(&key).at(&key, revision).fenced(Some(held)).delete(&key);
        if let Outcome::Done = ops.inner.writes.commit(draft, Patience::new()).await? {
            done += 1;
        }
    }
    Ok(done)
}

/// Deleted groups in nodes' records, where the controller that deleted them did not live to strike them out.
async fn groups(ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
    let gone = ops.gone_groups().await?;
    for id in &gone {
        ops.leave_group(id, Some(held)).await?;
    }
    Ok(gone.len())
}

impl Expiry {
    /// Scripts whose start was never accepted: its controller ended in between.
    async fn scripts(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let prefix = ops.inner.keys.all_scripts();
        let mut folders: HashSet<String> = HashSet::new();
        let mut range = Range { keys_only: true, ..Range::prefix(&prefix) }.limit(ORPHANS_PAGE);
        // All of them at each look: one that is told apart by two looks in a row has to be seen in both.
        loop {
            let page = ops.inner.store.range(range.clone()).await?;
            let folder = |key: &str| Some(key.strip_prefix(&prefix)?.split_once('/')?.0.to_owned());
            folders.extend(page.kvs.iter().filter_map(|kv| folder(&kv.key)));
            match page.kvs.last() {
                Some(last) if page.more => range = range.after(&last.key),
                _ => break,
            }
        }
        let known: HashSet<String> = ops.inner.lists.peek(|cache| {
            let of_starts = cache.starts().filter_map(|(_, item)| item.record.spec.script.as_ref());
            let of_instances = cache.instances().filter_map(|(_, item)| item.record.spec.script.as_ref());
            of_starts.chain(of_instances).map(|script| script.at.to_string()).collect()
        });
        let mut done = 0;
        let orphans: HashSet<String> = folders.difference(&known).cloned().collect();
        for at in orphans.intersection(&self.suspects).take(MOST) {
            let Ok(at) = StartId::parse(at.clone()) else { continue };
            let folder = ops.inner.keys.scripts(&at);
            let first = ops.inner.keys.script_chunk(&at, 0);
            let draft = Draft::new(first).fenced(Some(held)).delete_prefix(&folder);
            if let Outcome::Done = ops.inner.writes.commit(draft, Patience::new()).await? {
                tracing::info!(script.at = %at, "script without a start was removed");
                done += 1;
            }
        }
        self.suspects = orphans;
        Ok(done)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        controller::{
            reconcile::tests::record,
            records::{self, WriteId},
        },
        store::{KeyValue, keys::Keys},
        wire::node::HypervisorVersion,
    };

    #[test]
    fn what_a_lost_node_does_not_confirm_is_deleted_only_while_its_record_says_that_it_is_lost() {
        let (keys, node) = (Keys::new("main"), NodeId::parse("n1").unwrap());
        let going = Phase::Terminating { node: Some(node.clone()), since: clock::wall() };
        let instance = records::encode(&record(going.clone(), 1), &WriteId::default()).unwrap();
        let stored = |key: String, revision, value: bytes::Bytes| KeyValue {
            key,
            value,
            create_revision: 1,
            mod_revision: revision,
            version: 1,
            lease: None,
        };
        let over = |absence: Option<Option<&str>>| {
            let mut kvs = vec![stored(keys.instance(&InstanceId::parse("i1").unwrap()), 3, instance.clone())];
            if let Some(absence) = absence {
                let record = record_of(absence);
                kvs.push(stored(keys.node(&node), 7, record.to_string().into()));
            }
            let cache = Cache::of(1.0, &keys, kvs, 9, clock::now());
            assert_eq!(cache.unreadable(), 0);
            let (_, item) = cache.instances().next().unwrap();
            super::over(&cache, item, Duration::ZERO)
        };
        let by = |revision| {
            Some(Over { phase: going.clone(), node: Some((node.clone(), revision)), address: None })
        };
        assert_eq!(over(Some(Some("lost"))), by(7), "only as long as that is its record");
        assert_eq!(over(None), by(0), "only as long as it has none");
        assert_eq!(over(Some(None)), None, "it is there, and has yet to confirm it");
        assert_eq!(over(Some(Some("held"))), None);
    }

    /// A node's record that says that it is lost.
    pub(in crate::controller::duties) fn silent_node(confirmed: bool) -> serde_json::Value {
        let mut record = record_of(Some("lost"));
        record["confirmed"] = confirmed.into();
        record
    }

    fn record_of(absence: Option<&str>) -> serde_json::Value {
        serde_json::json!({
            "v": 1, "id": "n1", "settings": { "version": 1, "name": "n1", "host": "h", "capacity": 2,
            "capacity_mode": "number", "drain_mode": false }, "facts": facts(), "joined": clock::wall(),
            "reported": clock::wall(), "absence": absence, "vcpu_override": 0, "ram_override": 0, "groups": [],
        })
    }

    fn facts() -> serde_json::Value {
        serde_json::json!({
            "host_arch": "arm64", "runs": [], "driver": "d", "hypervisor": HypervisorVersion::default(), "agent_version": "1",
            "cpu_count": 1, "memory": 1, "disk_size": 1, "disk_free": 1, "disk_used": 0, "templates": [], "cpu_util": 0.0,
            "ram_util": 0.0,
        })
    }
}
