//! Content addresses: `sha256:<64 hex>`, the one algorithm we store by.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a text is not a digest we can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Another algorithm: well formed by the OCI grammar, but nothing is stored under it.
    #[error("digest algorithm is not supported; use `sha256:` and 64 lower-case hex digits")]
    Algorithm,
    /// Not a digest at all.
    #[error("digest is malformed; use `sha256:` and 64 lower-case hex digits")]
    Malformed,
}

/// A sha256 content address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Reads `sha256:<64 lower-case hex digits>`.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex_digits) = text.split_once(':').ok_or(DigestError::Malformed)?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm);
        }
        Self::from_hex(hex_digits)
    }

    /// Reads the 64 lower-case hex digits alone.
    pub fn from_hex(digits: &str) -> Result<Self, DigestError> {
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(DigestError::Malformed);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| DigestError::Malformed)?;
        Ok(Self(bytes))
    }

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest a running hash has come to.
    pub fn from_hash(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// The raw hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From a raw hash.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hex part.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_back_as_written() {
        let digest = Digest::of(b"abc");
        assert_eq!(
            digest.to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
    }

    #[test]
    fn other_algorithms_and_broken_texts_are_told_apart() {
        assert_eq!(Digest::parse("sha512:00"), Err(DigestError::Algorithm));
        for bad in ["", "sha256", "sha256:", "sha256:zz", &format!("sha256:{}", "A".repeat(64))] {
            assert_eq!(Digest::parse(bad), Err(DigestError::Malformed), "{bad}");
        }
    }
}
