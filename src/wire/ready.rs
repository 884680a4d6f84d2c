//! The body of `/readyz`, and what a prober takes from it.

use serde::{Deserialize, Serialize};

/// What a server can do right now. Controllers speak of `read`, `write` and `poll`, registries of `read` and `write`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Ready {
    /// At least one class can be served: the HTTP status is 200, else 503.
    pub ready: bool,
    /// Reads can be served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<bool>,
    /// Writes can be served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<bool>,
    /// Long polls can be served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<bool>,
    /// One sentence for each thing that is wrong.
    #[serde(default)]
    pub why: Vec<String>,
    /// The server's own name: what a registry's upload sessions begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The version that it is, as its status says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What this server understands beyond the public API; see [`SUPPORTS_IDEMPOTENCY`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supports: Vec<String>,
}

/// The server makes no second thing for the same `Idempotency-Key`, so a proxy may repeat a create with one.
pub const SUPPORTS_IDEMPOTENCY: &str = "idempotency-key";
