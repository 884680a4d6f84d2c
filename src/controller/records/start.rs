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
    /// All ids, in the order of the answer.
    pub ids: Vec<InstanceId>,
    /// How many of them, from the front, are made.
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
