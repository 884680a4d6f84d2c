//! A point in the registry's change log, and what proves that two logs agree up to it.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// `epoch.seq`: ordered by epoch first. A new writer opens a new epoch, so positions of two writers never mix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    /// Which writer's reign; from 1.
    pub epoch: u64,
    /// Which change of that reign; from 1.
    pub seq: u64,
}

impl Position {
    /// Before the first change.
    pub const ZERO: Self = Self { epoch: 0, seq: 0 };

    /// The next change of the same reign.
    pub fn next(self) -> Self {
        Self { epoch: self.epoch, seq: self.seq + 1 }
    }

    /// The first change of the next reign.
    pub fn next_epoch(self) -> Self {
        Self { epoch: self.epoch + 1, seq: 1 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

/// The text is not a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position is two numbers, `epoch.seq`")]
pub struct PositionError;

impl std::str::FromStr for Position {
    type Err = PositionError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, seq) = text.split_once('.').ok_or(PositionError)?;
        let number = |part: &str| part.parse().map_err(|_| PositionError);
        Ok(Self { epoch: number(epoch)?, seq: number(seq)? })
    }
}

impl TryFrom<String> for Position {
    type Error = PositionError;
    fn try_from(text: String) -> Result<Self, PositionError> {
        text.parse()
    }
}

impl From<Position> for String {
    fn from(position: Position) -> String {
        position.to_string()
    }
}

/// A running hash over every entry of a log up to a position: two logs with the same mark at the same position
/// hold the same history. The first 16 bytes of SHA-256 over the mark before and the entry's line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mark([u8; 16]);

impl Mark {
    /// Of a log without entries.
    pub const ZERO: Self = Self([0; 16]);

    /// With one more entry, as its line is written (without the line's end).
    pub fn then(self, line: &[u8]) -> Self {
        let whole: [u8; 32] = Sha256::new().chain_update(self.0).chain_update(line).finalize().into();
        let mut half = [0; 16];
        half.copy_from_slice(&whole[..16]);
        Self(half)
    }

    /// As stored.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From what was stored.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The text is not a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a mark is 32 hexadecimal digits")]
pub struct MarkError;

impl std::str::FromStr for Mark {
    type Err = MarkError;
    fn from_str(text: &str) -> Result<Self, MarkError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| MarkError)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mark {
    type Error = MarkError;
    fn try_from(text: String) -> Result<Self, MarkError> {
        text.parse()
    }
}

impl From<Mark> for String {
    fn from(mark: Mark) -> String {
        mark.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_order_by_epoch_and_read_back() {
        let at = |text: &str| text.parse::<Position>().unwrap();
        assert!(at("1.9") < at("1.10") && at("1.10") < at("2.1"));
        assert_eq!((at("1.9").next(), at("1.9").next_epoch()), (at("1.10"), at("2.1")));
        assert_eq!(serde_json::to_string(&at("3.4")).unwrap(), "\"3.4\"");
        for bad in ["", "1", "1.", ".1", "a.b", "1.2.3", "-1.2"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }

    #[test]
    fn marks_tell_histories_apart() {
        let [a, b] = [b"a".as_slice(), b"b".as_slice()];
        assert_ne!(Mark::ZERO.then(a).then(b), Mark::ZERO.then(b).then(a));
        let mark = Mark::ZERO.then(a);
        assert_eq!(mark.to_string().parse(), Ok(mark));
        assert!("00".parse::<Mark>().is_err());
    }
}
