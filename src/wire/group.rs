//! Groups of nodes: `/api/v1/group` and `/api/v1/node/group` (`reference/controller-api.md` §8, §5.3).

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::lenient;

/// `POST` and `PUT /api/v1/group`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[serde(default)]
pub struct NodeGroups {
    /// The groups, by id or name.
    #[serde(deserialize_with = "one_or_more")]
    pub group_ids: Vec<String>,
    /// The nodes.
    #[serde(deserialize_with = "one_or_more")]
    pub node_ids: Vec<String>,
}

/// A key that is there with nothing says that there shall be nothing.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Some(Option::<String>::deserialize(from)?.unwrap_or_default()))
}

/// A list, or one text in its place.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let texts = match Value::deserialize(from)? {
        Value::Null => Vec::new(),
        Value::String(one) => vec![Value::String(one)],
        Value::Array(all) => all,
        other => return Err(serde::de::Error::custom(format!("a list of texts is wanted, not {other}"))),
    };
    let text = |value: Value| match value {
        Value::String(text) => Ok(text),
        other => Err(serde::de::Error::custom(format!("a list of texts is wanted, and {other} is none"))),
    };
    texts.into_iter().map(text).collect()
}
