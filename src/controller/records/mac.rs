//! Who has a MAC address of the pool. The key is the address: two instances cannot both have put it.

use serde::{Deserialize, Serialize};

use crate::model::InstanceId;

/// An address that an instance has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacRecord {
    /// Whose it is.
    pub instance: InstanceId,
}
