//! Distribution: `/api/v1/registry/vm/distribute` and `/api/v1/registry/vm/remove` (`reference/controller-api.md` §6).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lenient;
use crate::model::{NodeId, Progress, Timestamp};

/// `POST /api/v1/registry/vm/distribute`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Distribute {
    /// The template; required.
    #[serde(deserialize_with = "lenient::text")]
    pub template_id: Option<String>,
    /// Version by tag; the latest if neither this nor `version` is given.
    #[serde(deserialize_with = "lenient::text")]
    pub tag: Option<String>,
    /// Version by number.
    #[serde(deserialize_with = "lenient::integer")]
    pub version: Option<i64>,
    /// To these nodes; to all if neither this nor `group_id` is given.
    #[serde(deserialize_with = "lenient::texts")]
    pub node_ids: Vec<String>,
    /// To the nodes of this group.
    #[serde(deserialize_with = "lenient::text")]
    pub group_id: Option<String>,
    /// Permission group; only with resource management.
    #[serde(deserialize_with = "lenient::text")]
    pub group: Option<String>,
}

/// `DELETE /api/v1/registry/vm/remove`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct RemoveFromNodes {
    /// The template, if the query does not say.
    #[serde(deserialize_with = "lenient::text")]
    pub id: Option<String>,
    /// From these nodes; from all if not given.
    #[serde(deserialize_with = "lenient::some_of", skip_serializing_if = "Option::is_none")]
    pub node_ids: Option<Vec<String>>,
}

/// Answer to [`RemoveFromNodes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct RemovalsSent {
    /// To how many nodes.
    pub requests_sent: usize,
    /// To which.
    pub node_ids: Vec<NodeId>,
}

/// Answer to a request that goes on after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Requested {
    /// What to ask about it by.
    pub request_id: String,
}

/// One distribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Distribution {
    /// What was asked.
    pub request: DistributionRequest,
    /// How far each node is.
    pub distribute_status: BTreeMap<NodeId, NodeProgress>,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DistributionRequest {
    /// Its id.
    pub request_id: String,
    /// The template.
    pub template_id: String,
    /// The version's tag.
    pub tag: String,
    /// When.
    pub time_requested: Timestamp,
}

/// How far one node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NodeProgress {
    /// The template is there.
    pub status: bool,
    /// How much of it; 1 only when all is there.
    pub progress: Progress,
    /// Why it will not be there; nothing more comes after it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}
