//! `GET /admin/v1/decisions`, `GET /admin/v1/decisions/{request}`: what was decided about requests that are over.

use serde::{Deserialize, Serialize};

use crate::model::{Position, Timestamp};

/// The latest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Decisions {
    /// How many each thread keeps; 0: none.
    pub kept: usize,
    /// Those that were asked for.
    pub decisions: Vec<Decision>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Decision {
    /// Its id.
    pub request: String,
    /// When its head was complete.
    pub at: Timestamp,
    /// Where it came.
    pub listener: String,
    /// Who has sent it.
    pub client: String,
    /// Its method; empty if it never became a request.
    pub method: String,
    /// Its path without the query; what is long is cut.
    pub path: String,
    /// Its service, once routed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Its class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What the client was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `upstream`, `proxy` or `nobody`.
    pub answered_by: String,
    /// How it ended, as in the access log.
    pub end: String,
    /// The word for an answer of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What that answer said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// And what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The answer was not older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The mark on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
    /// How long it was held, in milliseconds.
    pub held_ms: u64,
    /// How long the last connect took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<f64>,
    /// When the head of the answer went out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<f64>,
    /// When it was over.
    pub total_ms: f64,
    /// In their order; of very many the last.
    pub attempts: Vec<Attempt>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = DecisionAttempt))]
pub struct Attempt {
    /// Where.
    pub upstream: String,
    /// Why there: the words of the access log.
    pub why: String,
    /// What came of it: `answered`, or the label of what went wrong.
    pub end: String,
    /// Over a connection that had been used before.
    pub reused: bool,
    /// Bytes that went out.
    pub sent: u64,
    /// Bytes that came back.
    pub received: u64,
    /// The whole request went out.
    pub whole: bool,
    /// What each upstream of the service was to the choice.
    pub upstreams: Vec<Stood>,
}

/// What one upstream was to one choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Stood {
    /// Its name.
    pub name: String,
    /// It could take the request.
    pub eligible: bool,
    /// What it was to the request, or why it could not.
    pub why: String,
}
