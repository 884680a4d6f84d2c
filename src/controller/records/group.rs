//! A group of nodes that an operator has made.

use serde::{Deserialize, Serialize};

use crate::model::{GroupId, Timestamp};

/// One group. A node is in it if an operator has put it there, or if its agent names it when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Its id.
    pub id: GroupId,
    /// Its name; no other group has it.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Who takes its starts while it has no room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<GroupId>,
    /// When it was made.
    pub created: Timestamp,
}

/// Which group has a name: what makes two of one name impossible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupName {
    /// Whose it is.
    pub id: GroupId,
}
