//! Reads: one key, or a range of keys.

use bytes::Bytes;

use super::{LeaseId, Revision};

/// One key with its value and history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key; ours are all UTF-8.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// When this incarnation of the key was made.
    pub create_revision: Revision,
    /// When it was last put.
    pub mod_revision: Revision,
    /// How often it was put since it was made, from 1.
    pub version: i64,
    /// The lease it ends with.
    pub lease: Option<LeaseId>,
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began.
    Linearizable,
    /// May be answered by a member that is behind or cut off.
    Serializable,
}

/// The answer to a get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// The store's revision when it answered.
    pub revision: Revision,
    /// The key, if there is one.
    pub kv: Option<KeyValue>,
}

/// What to read of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// First key, inclusive.
    pub start: String,
    /// End, exclusive; an empty one is no end.
    pub end: String,
    /// At most so many; 0 is no limit.
    pub limit: i64,
    /// At this revision; 0 is the newest.
    pub revision: Revision,
    /// How fresh.
    pub consistency: Consistency,
    /// Leave the values out.
    pub keys_only: bool,
}

impl Range {
    /// Every key that begins with `prefix`, newest revision, linearizable, no limit.
    pub fn prefix(prefix: &str) -> Self {
        Self {
            start: prefix.to_owned(),
            end: prefix_end(prefix),
            limit: 0,
            revision: 0,
            consistency: Consistency::Linearizable,
            keys_only: false,
        }
    }

    /// At most `limit` keys.
    pub fn limit(self, limit: i64) -> Self {
        Self { limit, ..self }
    }

    /// At this revision.
    pub fn at(self, revision: Revision) -> Self {
        Self { revision, ..self }
    }

    /// Going on behind `key`, the last one of the page before.
    pub fn after(self, key: &str) -> Self {
        Self { start: format!("{key}\0"), ..self }
    }
}

/// The first key behind all keys that begin with `prefix`; empty, which is no end, when there is none.
/// Our keys are ASCII, so the last byte can be counted up.
pub fn prefix_end(prefix: &str) -> String {
    let mut bytes = prefix.as_bytes().to_vec();
    while let Some(last) = bytes.pop() {
        if last < 0x7f {
            bytes.push(last + 1);
            break;
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// The answer to a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranged {
    /// The store's revision when it answered (not the one asked for).
    pub revision: Revision,
    /// The keys, in order.
    pub kvs: Vec<KeyValue>,
    /// There are more behind the limit.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_right_behind_its_last_key() {
        assert_eq!(prefix_end("/a/"), "/a0");
        assert_eq!(prefix_end("a\u{7f}"), "b");
    }
}
