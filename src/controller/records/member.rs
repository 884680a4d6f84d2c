//! Who leads. Who is alive is in [`crate::store::Member`], for others read it too.

use serde::{Deserialize, Serialize};

/// Who runs a duty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The member's name.
    pub name: String,
    /// The member's run.
    pub run: String,
}
