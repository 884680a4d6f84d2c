//! Groups of nodes: `/api/v1/group` and `/api/v1/node/group` (`reference/controller-api.md` §8, §5.3).

use serde::{Deserialize, Deserializer, Serialize};

use super::lenient;

/// `POST` and `PUT /api/v1/group`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct GroupAsk {
    /// Its name; required of a new one.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Free text; an empty one takes it away.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who takes its starts while it has no room; empty or `null` takes that away.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub fallback_group_id: Option<String>,
}

/// `POST` and `DELETE /api/v1/node/group`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct NodeGroups {
    /// The groups, by id or name.
    #[serde(deserialize_with = "lenient::texts")]
    pub group_ids: Vec<String>,
    /// The nodes.
    #[serde(deserialize_with = "lenient::texts")]
    pub node_ids: Vec<String>,
}

/// A key that is there with nothing says that there shall be nothing.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Some(Option::<String>::deserialize(from)?.unwrap_or_default()))
}
