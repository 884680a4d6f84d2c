//! A point in the registry's change log.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `epoch.seq`: ordered by epoch first. A new writer opens a new epoch, so positions of two writers never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Which writer's reign.
    pub epoch: u64,
    /// Which change of that reign.
    pub seq: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

impl std::str::FromStr for Position {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, seq) = text.split_once('.').ok_or("a position is `epoch.seq`")?;
        let number = |part: &str| part.parse().map_err(|_| "a position is two numbers, `epoch.seq`");
        Ok(Self { epoch: number(epoch)?, seq: number(seq)? })
    }
}
