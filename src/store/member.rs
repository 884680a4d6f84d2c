//! A live server under `members/`: what it writes of itself, and what others believe of that.

use serde::{Deserialize, Serialize};

/// A live server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where it is reached.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Where it stands, if it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Made at each start, so that a name taken twice is seen.
    pub run: String,
}

/// Longest value that is read: ours have some two hundred bytes.
const LONGEST: usize = 4 * 1024;

/// Versions of the encoding that are understood.
const VERSION: u32 = 1;

/// Why a value is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// None of ours is.
    #[error("it has {0} bytes, at most {LONGEST} are read")]
    TooLong(usize),
    /// A later version wrote it, in another way.
    #[error("it is of version {0}, up to {VERSION} are understood")]
    Newer(u32),
    /// Not what we write.
    #[error("it cannot be read: {0}")]
    Strange(String),
}

#[derive(Serialize)]
struct Outgoing<'a> {
    v: u32,
    w: &'a str,
    #[serde(flatten)]
    member: &'a Member,
}

#[derive(Deserialize)]
struct Head {
    v: u32,
}

impl Member {
    /// As it is stored, marked with the write that makes it.
    pub(super) fn encode(&self, write: &str) -> Result<Vec<u8>, MemberError> {
        let encoded = serde_json::to_vec(&Outgoing { v: VERSION, w: write, member: self });
        encoded.map_err(|error| MemberError::Strange(error.to_string()))
    }

    /// What somebody has stored, who may be anybody with access to the store.
    pub fn decode(value: &[u8]) -> Result<Self, MemberError> {
        if value.len() > LONGEST {
            return Err(MemberError::TooLong(value.len()));
        }
        let strange = |error: serde_json::Error| MemberError::Strange(error.to_string());
        let head: Head = serde_json::from_slice(value).map_err(strange)?;
        if head.v > VERSION {
            return Err(MemberError::Newer(head.v));
        }
        serde_json::from_slice(value).map_err(strange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_reads_back_and_anything_else_is_refused_in_words() {
        let member = Member {
            address: "10.0.1.4:8090".into(),
            version: "1.51.2".into(),
            zone: Some("a".into()),
            run: "x".into(),
        };
        assert_eq!(Member::decode(&member.encode("w").unwrap()), Ok(member));
        let old = br#"{"v":1,"w":"w","address":"a:1","version":"1","run":"x"}"#;
        assert_eq!(Member::decode(old).unwrap().zone, None);
        assert_eq!(Member::decode(br#"{"v":2}"#), Err(MemberError::Newer(2)));
        for bad in [&b""[..], b"null", b"{}", br#"{"v":1}"#, br#"{"v":1,"address":7}"#, b"\xff"] {
            assert!(matches!(Member::decode(bad), Err(MemberError::Strange(_))), "{bad:?}");
        }
        assert_eq!(Member::decode(&[b' '; LONGEST + 1]), Err(MemberError::TooLong(LONGEST + 1)));
    }
}
