//! Content addresses: `sha256:<64 hex>` and `sha512:<128 hex>`, the two algorithms that OCI registers.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{
    Digest as _, Sha256, Sha512,
    digest::common::hazmat::{SerializableState, SerializedState},
};

/// Why a text is not a digest we can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Another algorithm: well formed by the OCI grammar, but nothing is stored under it.
    #[error("digest algorithm is not supported; {}", USE)]
    Algorithm,
    /// Not a digest at all.
    #[error("digest is malformed; {}", USE)]
    Malformed,
}

const USE: &str = "use `sha256:` and 64 lower-case hex digits, or `sha512:` and 128";

/// What content is hashed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// What everything is named by unless its client says otherwise.
    #[default]
    Sha256,
    /// Named by a client.
    Sha512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// Reads the word in front of a digest's colon.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        Self::ALL.into_iter().find(|one| one.word() == text).ok_or(DigestError::Algorithm)
    }

    /// The word in front of a digest's colon.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The digest of these bytes.
    pub fn of(self, bytes: &[u8]) -> Digest {
        match self {
            Self::Sha256 => Digest::Sha256(Sha256::digest(bytes).into()),
            Self::Sha512 => Digest::Sha512(Sha512::digest(bytes).into()),
        }
    }
}

/// A content address. Ordered as its text is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Digest {
    /// `sha256:…`
    Sha256([u8; 32]),
    /// `sha512:…`
    Sha512([u8; 64]),
}

impl Digest {
    /// Reads `sha256:<64 lower-case hex digits>`, or `sha512:` and 128.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (algorithm, digits) = text.split_once(':').ok_or(DigestError::Malformed)?;
        let algorithm = Algorithm::parse(algorithm)?;
        Self::from_hex(digits).ok_or(DigestError::Malformed).and_then(|digest| {
            if digest.algorithm() == algorithm { Ok(digest) } else { Err(DigestError::Malformed) }
        })
    }

    /// Reads the lower-case hex digits alone: their number tells the algorithm.
    pub fn from_hex(digits: &str) -> Option<Self> {
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let (mut short, mut long) = ([0; 32], [0; 64]);
        match digits.len() {
            64 => hex::decode_to_slice(digits, &mut short).ok().map(|()| Self::Sha256(short)),
            128 => hex::decode_to_slice(digits, &mut long).ok().map(|()| Self::Sha512(long)),
            _ => None,
        }
    }

    /// The sha256 of these bytes; [`Algorithm::of`] hashes by another.
    pub fn of(bytes: &[u8]) -> Self {
        Algorithm::Sha256.of(bytes)
    }

    /// The digest a running sha256 has come to.
    pub fn from_hash(hash: Sha256) -> Self {
        Self::Sha256(hash.finalize().into())
    }

    /// What it was made with.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw hash.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(hash) => hash,
            Self::Sha512(hash) => hash,
        }
    }

    /// From a raw sha256.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self::Sha256(bytes)
    }

    /// The hex part.
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().word(), self.hex())
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

/// A running hash by either algorithm. Cloning it forks it.
#[derive(Debug, Clone)]
pub enum Hash {
    /// See [`Algorithm::Sha256`].
    Sha256(Sha256),
    /// See [`Algorithm::Sha512`].
    Sha512(Sha512),
}

impl Hash {
    /// Of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// By which it hashes.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Feeds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// What it has come to.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::Sha256(hash.clone().finalize().into()),
            Self::Sha512(hash) => Digest::Sha512(hash.clone().finalize().into()),
        }
    }

    /// Its state: what [`Hash::restored`] goes on from.
    pub fn saved(&self) -> Vec<u8> {
        match self {
            Self::Sha256(hash) => hash.serialize().to_vec(),
            Self::Sha512(hash) => hash.serialize().to_vec(),
        }
    }

    /// How long a saved state is.
    pub fn saved_len(algorithm: Algorithm) -> usize {
        match algorithm {
            Algorithm::Sha256 => SerializedState::<Sha256>::default().len(),
            Algorithm::Sha512 => SerializedState::<Sha512>::default().len(),
        }
    }

    /// Reads what [`Hash::saved`] wrote; nothing if it is not such a state.
    pub fn restored(algorithm: Algorithm, state: &[u8]) -> Option<Self> {
        Some(match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::deserialize(state.try_into().ok()?).ok()?),
            Algorithm::Sha512 => Self::Sha512(Sha512::deserialize(state.try_into().ok()?).ok()?),
        })
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self::new(Algorithm::default())
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
        let long = Algorithm::Sha512.of(b"abc");
        assert_eq!(
            long.to_string(),
            "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
        for digest in [digest, long] {
            assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
            assert_eq!(Digest::from_hex(&digest.hex()), Some(digest));
        }
        assert!(digest < long && digest.to_string() < long.to_string());
    }

    #[test]
    fn other_algorithms_and_broken_texts_are_told_apart() {
        for other in ["sha384:00", "blake3:00", "SHA256:00", ":00"] {
            assert_eq!(Digest::parse(other), Err(DigestError::Algorithm), "{other}");
        }
        let (short, long) = ("a".repeat(64), "a".repeat(128));
        let bad = [
            String::new(),
            "sha256".into(),
            "sha256:".into(),
            "sha256:zz".into(),
            format!("sha256:{}", "A".repeat(64)),
            format!("sha512:{}", "A".repeat(128)),
            // The digits of the one behind the name of the other.
            format!("sha256:{long}"),
            format!("sha512:{short}"),
        ];
        for bad in bad {
            assert_eq!(Digest::parse(&bad), Err(DigestError::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_saved_hash_goes_on_by_its_own_algorithm_only() {
        for algorithm in Algorithm::ALL {
            let mut hash = Hash::new(algorithm);
            hash.update(b"ab");
            let state = hash.saved();
            assert_eq!(state.len(), Hash::saved_len(algorithm));
            let mut again = Hash::restored(algorithm, &state).unwrap();
            again.update(b"c");
            assert_eq!(again.digest(), algorithm.of(b"abc"));
            let other = Algorithm::ALL.into_iter().find(|other| *other != algorithm).unwrap();
            assert!(Hash::restored(other, &state).is_none());
        }
    }
}
