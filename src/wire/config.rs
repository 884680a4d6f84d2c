//! `GET /admin/v1/config`: what a proxy goes by. And which config that is, wherever it is told.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::Timestamp;

/// The config in use, as JSON. As TOML it is a file, with the rest in a comment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Config {
    /// Which one it is.
    pub in_use: InUse,
    /// All keys that it goes by, defaults included, as in a file. No secret is in it.
    pub config: Value,
}

/// Which config it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = ConfigInUse))]
pub struct InUse {
    /// 0 for that of the start, one more with each that was taken.
    pub generation: u64,
    /// Since when.
    pub since: Timestamp,
    /// The last reload was refused.
    pub refused: Option<Refused>,
}

/// A reload that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = RefusedReload))]
pub struct Refused {
    /// When.
    pub at: Timestamp,
    /// Why: the faults, as `check` draws them.
    pub why: String,
}
