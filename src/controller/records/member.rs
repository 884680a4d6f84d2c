//! Who is alive, and who leads.

use serde::{Deserialize, Serialize};

/// A live server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where it listens.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Made at each start, so that a name taken twice is seen.
    pub run: String,
}

/// Who runs a duty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The member's name.
    pub name: String,
    /// The member's run.
    pub run: String,
}
