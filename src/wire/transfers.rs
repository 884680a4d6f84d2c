//! `GET /admin/v1/transfers`: what moves now, and what it waits for.

use serde::{Deserialize, Serialize};

use crate::model::{RouteClass, Timestamp};

/// The transfers in flight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Transfers {
    /// The oldest first.
    pub transfers: Vec<Transfer>,
    /// So many are listed at most, so there may be others.
    pub full: bool,
}

/// One transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Transfer {
    /// The id of its request, as in the access log.
    pub request: String,
    /// Whose it is.
    pub client: String,
    /// The listener that it came by.
    pub listener: String,
    /// Method.
    pub method: String,
    /// Path, without query; its beginning, if it is a long one.
    pub path: String,
    /// The service.
    pub service: String,
    /// What the request is.
    pub class: RouteClass,
    /// `control` or `bulk`.
    pub lane: String,
    /// The upstream of the attempt under way.
    pub upstream: Option<String>,
    /// `up`: to the upstream; `down`: to the client; `both`: another protocol.
    pub direction: String,
    /// Bytes of the request's body so far.
    pub bytes_received: u64,
    /// Bytes of the answer's body so far.
    pub bytes_sent: u64,
    /// Bytes of the body that goes in its direction, when that is known.
    pub length: Option<u64>,
    /// Bytes a second, of late.
    pub rate: u64,
    /// Its request came then.
    pub since: Timestamp,
    /// Seconds since then.
    pub seconds: f64,
    /// Who was waited for when it last paused: `client`, `upstream`; `turn`: others that are served first.
    pub waits_for: String,
}
