//! A start request, and its place in the queue.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{InstanceRecord, InstanceSpec, Phase};
use crate::model::{Digest, InstanceId, StartId, Timestamp};

/// One start request: everything that is needed to make its instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartRecord {
    /// Of the body as understood, so that the same key with another body is told.
    pub body: Digest,
    /// All ids, in the order in which they are made: that of the answer, but for those that ended before their turn.
    pub ids: Vec<InstanceId>,
    /// The same, once `ids` has another order than the answer had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<InstanceId>,
    /// How many of `ids`, from the front, are made.
    pub made: usize,
    /// When it was accepted.
    pub created: Timestamp,
    /// Not forgotten before; extended while its instances wait.
    pub expires: Timestamp,
    /// Label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// As given.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// What was asked for.
    pub spec: InstanceSpec,
}

impl StartRecord {
    /// An instance as it is made: what lists show of one that is not made yet.
    pub fn instance(&self, start: &StartId, id: &InstanceId) -> InstanceRecord {
        InstanceRecord {
            id: id.clone(),
            start: start.clone(),
            phase: Phase::Queued { since: self.created },
            attempt: 0,
            message: String::new(),
            name: self.name.clone(),
            external_id: self.external_id.clone(),
            metadata: self.metadata.clone(),
            created: self.created,
            updated: self.created,
            spec: self.spec.clone(),
            info: None,
            script: None,
            saving: None,
            output: None,
            refused_by: Vec::new(),
            attempts_failed: 0,
        }
    }

    /// What the start was answered with, and is again when it is repeated.
    pub fn answer(&self) -> &[InstanceId] {
        if self.answered.is_empty() { &self.ids } else { &self.answered }
    }

    /// Counts this instance as made before its turn. Whether it still had to be made.
    pub fn out_of_turn(&mut self, id: &InstanceId) -> bool {
        let Some(at) = self.unmade().iter().position(|unmade| unmade == id) else { return false };
        if at > 0 && self.answered.is_empty() {
            self.answered.clone_from(&self.ids);
        }
        if let Some(turn) = self.ids.get_mut(self.made..=self.made + at) {
            turn.rotate_right(1);
        }
        self.made += 1;
        true
    }

    /// The ids whose instances are not made yet.
    pub fn unmade(&self) -> &[InstanceId] {
        self.ids.get(self.made..).unwrap_or_default()
    }
}

/// A pending start: only what ordering needs, the rest is in the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// 1..=10000, lower is sooner.
    pub priority: u32,
    /// When the start was accepted.
    pub since: Timestamp,
}

impl QueueEntry {
    /// The place of an instance: it keeps its age when it comes back to the queue.
    pub fn of(record: &InstanceRecord) -> Self {
        Self { priority: record.spec.priority, since: record.created }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(count: usize, made: usize) -> StartRecord {
        let spec = serde_json::json!({
            "template": "t", "template_name": "t", "repository": "t", "tag": "v1", "version": 0,
            "manifest": Digest::of(b""), "priority": 1000,
        });
        let ids: Vec<String> = (0..count).map(|n| format!("i{n}")).collect();
        let text = serde_json::json!({
            "body": Digest::of(b""), "ids": ids, "made": made, "created": Timestamp::NEVER, "expires": Timestamp::NEVER,
            "spec": spec,
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn the_largest_start_that_a_config_may_allow_fits_a_record() {
        let most = usize::try_from(crate::config::controller::Limits::COUNT).unwrap();
        let ids: Vec<InstanceId> = (0..most).map(|_| InstanceId::random()).collect();
        let mut start = StartRecord { ids, ..record(0, 0) };
        // As much beside them as may be given.
        start.metadata.insert("x".into(), "y".repeat(32 * 1024).into());
        start.external_id = Some("e".repeat(4096));
        start.name = start.external_id.clone();
        let last = start.ids.last().cloned().unwrap();
        assert!(start.out_of_turn(&last) && start.answered.len() == most);
        super::super::encode(&start, &super::super::WriteId::random()).unwrap();
    }

    proptest! {
        #[test]
        fn what_ends_before_its_turn_leaves_the_others_as_they_were(
            (count, made, ends) in (1..20_usize).prop_flat_map(|count| (Just(count), 0..=count, prop::collection::vec(0..count, 0..30))),
        ) {
            let first = record(count, made);
            let mut now = first.clone();
            for end in ends {
                let id = &first.ids[end];
                let waits: Vec<_> = now.unmade().iter().filter(|other| *other != id).cloned().collect();
                let was_unmade = now.unmade().contains(id);
                prop_assert_eq!(now.out_of_turn(id), was_unmade);
                prop_assert_eq!(now.unmade(), &waits[..], "in their old order");
                prop_assert_eq!(now.answer(), &first.ids[..], "a repeat is answered as before");
                let mut all = now.ids.clone();
                all.sort();
                let mut before = first.ids.clone();
                before.sort();
                prop_assert_eq!(all, before);
            }
        }
    }
}
