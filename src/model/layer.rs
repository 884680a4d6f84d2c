//! Layers by the beginning of their digests: enough to guess what two templates share, where a wrong guess costs nothing.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::Digest;

/// Hex digits that are told of a digest.
const DIGITS: usize = 12;

/// The beginning of a layer's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId(u64);

/// Why a text is not the beginning of a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the beginning of a digest; use its first {DIGITS} lower-case hex digits")]
pub struct NoLayerId(String);

impl LayerId {
    /// Of this layer.
    pub fn of(digest: &Digest) -> Self {
        let bytes = digest.as_bytes().iter().take(DIGITS / 2);
        Self(bytes.fold(0, |id, byte| id << 8 | u64::from(*byte)))
    }

    /// Of a layer whose file a registry calls so: its names begin with the digest.
    pub fn of_file(name: &str) -> Option<Self> {
        name.get(..DIGITS)?.parse().ok()
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0DIGITS$x}", self.0)
    }
}

impl FromStr for LayerId {
    type Err = NoLayerId;

    fn from_str(text: &str) -> Result<Self, NoLayerId> {
        let digits = text.len() == DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let read = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        // Told of in messages: not more of it than anybody reads.
        read.map(Self).ok_or_else(|| NoLayerId(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for LayerId {
    type Error = NoLayerId;

    fn try_from(text: String) -> Result<Self, NoLayerId> {
        text.parse()
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_layer_is_told_by_the_beginning_of_its_digest_and_nothing_else_is() {
        let digest = Digest::of(b"layer");
        let id = LayerId::of(&digest);
        assert_eq!(id.to_string(), digest.hex()[..DIGITS]);
        assert_eq!(LayerId::of_file(&format!("{}.ank", &digest.hex()[..32])), Some(id));
        let zero = LayerId::of(&Digest::from_bytes([0; 32]));
        assert_eq!(zero.to_string().parse(), Ok(zero));
        for bad in ["", "0123456789a", "0123456789abc", "0123456789AB", "+23456789abc", "0123456789aé"] {
            assert!(bad.parse::<LayerId>().is_err(), "{bad}");
        }
        assert_eq!(LayerId::of_file("nvram"), None);
        let told = BTreeMap::from([(id, 5_u64)]);
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<BTreeMap<LayerId, u64>>(&text).unwrap(), told);
    }
}
