//! Who has a MAC address of the pool. The key is the address: two instances cannot both have put it.

use serde::{Deserialize, Serialize};

use crate::model::{InstanceId, NodeId, Timestamp};

/// An address that an instance has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacRecord {
    /// Whose it is.
    pub instance: InstanceId,
    /// Where its VM may still run, although the instance is gone: the address is held for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<LeftOn>,
}

/// A silent node that may still run the VM of an instance that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOn {
    /// The node.
    pub node: NodeId,
    /// When the instance was given up.
    pub since: Timestamp,
}
