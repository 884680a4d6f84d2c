//! What is stored: versioned JSON, `{"v":1,…}`, each at most [`MAX_VALUE`] encoded.
//!
//! A record of a version that this program does not know is never rewritten and never deleted by it: it is
//! shown as far as it can be read, and left to the newer controllers that write it. Every record carries the id
//! of the write that made it, by which a writer whose answer was lost knows its own.

mod group;
mod instance;
mod command;
mod schema;
mod image;
mod start;
mod node;
mod mac;
mod permission;
mod member;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use command::{CommandRecord, DistributionRecord, OrdersTurn, Targets};
pub use group::{GroupName, GroupRecord};
pub use image::ImageRecord;
pub use instance::{InstanceRecord, InstanceSpec, OutputRef, Phase, ScriptRef};
pub use mac::{LeftOn, MacRecord};
pub use member::Leader;
pub use node::{Absence, Fixed, NodeRecord, Presence};
pub use permission::PermissionRecord;
pub use schema::Schema;
pub use start::{QueueEntry, StartRecord};

use crate::store::MAX_VALUE;

/// The version that this program writes.
pub const VERSION: u32 = 1;

/// Why a value is not a record we can work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A newer controller wrote it: it is left alone.
    #[error("record has version {0}, this controller knows up to {VERSION}")]
    Newer(u32),
    /// Not what we write.
    #[error("record cannot be read: {0}")]
    Broken(String),
    /// Over [`MAX_VALUE`] once encoded.
    #[error("record has {0} bytes, the most is {MAX_VALUE}")]
    TooLarge(usize),
}

/// Names one write, so that a writer whose answer was lost knows its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriteId(pub String);

impl WriteId {
    /// A new random one.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }
}

#[derive(Serialize)]
struct Outgoing<'a, T> {
    v: u32,
    w: &'a WriteId,
    #[serde(flatten)]
    record: &'a T,
}

#[derive(Deserialize)]
struct Head {
    v: u32,
    #[serde(default)]
    w: WriteId,
}

/// Encodes a record for the store, marked with the write that makes it.
pub fn encode<T: Serialize>(record: &T, write: &WriteId) -> Result<Bytes, RecordError> {
    let bytes = serde_json::to_vec(&Outgoing { v: VERSION, w: write, record })
        .map_err(|error| RecordError::Broken(error.to_string()))?;
    if bytes.len() > MAX_VALUE {
        return Err(RecordError::TooLarge(bytes.len()));
    }
    Ok(bytes.into())
}

/// Reads a stored record.
pub fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordError> {
    let broken = |error: serde_json::Error| RecordError::Broken(error.to_string());
    let head: Head = serde_json::from_slice(value).map_err(broken)?;
    if head.v > VERSION {
        return Err(RecordError::Newer(head.v));
    }
    serde_json::from_slice(value).map_err(broken)
}

/// Reads a stored record of any version as far as it can be read; says whether a newer controller wrote it.
pub fn decode_for_show<T: DeserializeOwned>(value: &[u8]) -> Result<(T, bool), RecordError> {
    let broken = |error: serde_json::Error| RecordError::Broken(error.to_string());
    let head: Head = serde_json::from_slice(value).map_err(broken)?;
    match serde_json::from_slice(value) {
        Ok(record) => Ok((record, head.v > VERSION)),
        Err(_) if head.v > VERSION => Err(RecordError::Newer(head.v)),
        Err(error) => Err(broken(error)),
    }
}

/// Which write made a stored value; empty when it cannot be told.
pub fn written_by(value: &[u8]) -> WriteId {
    serde_json::from_slice::<Head>(value).map(|head| head.w).unwrap_or_default()
}
