//! The controller's `/api/v1/status` (`reference/controller-api.md` §3).

use serde::{Deserialize, Serialize};

/// What a controller says of itself. Every value is a text, never empty or null where a client looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ControllerStatus {
    /// `Running`.
    pub status: String,
    /// The compatibility level, a dash, ours; one client compares the digits before the dash.
    pub version: String,
    /// Registry address handed to nodes; empty when the cloud has no registry.
    pub registry_address: String,
    /// `Running` or `FAIL`.
    pub registry_status: String,
    /// `enterprise plus`: two clients open features by this text.
    pub license: String,
}

/// `GET /api/v1/stats` of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ControllerStats {
    /// Starts offered to nodes each second, over the last minute.
    pub tasks_per_second: f64,
    /// How long the starts that wait now have waited, seconds; 0 when none does. Above 5 the vendor speaks of overload.
    pub average_queue_time: f64,
    /// Starts that wait now. Ours.
    pub queued: usize,
}
