//! `GET /admin/v1/upstreams`: the proxy's live view.

use serde::{Deserialize, Serialize};

use crate::model::{RouteClass, Timestamp};

/// All services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Upstreams {
    /// In config order.
    pub services: Vec<Service>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Name.
    pub name: String,
    /// `controller` or `registry`.
    pub kind: String,
    /// Requests that wait for an eligible upstream.
    pub held: u64,
    /// In config order.
    pub upstreams: Vec<Upstream>,
}

/// One upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    /// Name.
    pub name: String,
    /// Address as configured.
    pub address: String,
    /// `unknown`, `up` or `down`.
    pub health: String,
    /// Since when.
    pub since: Timestamp,
    /// One sentence: why it is so.
    pub evidence: String,
    /// For each class, whether it may be served and why not.
    pub classes: Vec<ClassVerdict>,
    /// Requests under way.
    pub outstanding: u64,
    /// It is the write registry.
    pub writer: bool,
}

/// The verdict for one route class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassVerdict {
    /// The class.
    pub class: RouteClass,
    /// May it be sent there?
    pub may: bool,
    /// Why not; empty when it may.
    pub why: String,
}
