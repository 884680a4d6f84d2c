//! `GET /admin/v1/upstreams`: the proxy's live view.

use serde::{Deserialize, Serialize};

use super::orders::Order;
use crate::model::{RouteClass, Timestamp};

/// All services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Upstreams {
    /// In config order.
    pub services: Vec<Service>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Service {
    /// Name.
    pub name: String,
    /// `controller` or `registry`.
    pub kind: String,
    /// Requests that wait for an eligible upstream.
    pub held: u64,
    /// What of them lies in memory, in bytes.
    #[serde(default)]
    pub held_bytes: u64,
    /// The operator says, in the config or beside it, that everything is to be answered 503; probes go on.
    #[serde(default)]
    pub maintenance: bool,
    /// What operators have said of it beside the config; and of upstreams that it does not have now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<Order>,
    /// From which version agents are served; none where it does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<Cohort>,
    /// So few upstreams are left that ejections are ignored.
    #[serde(default)]
    pub panic: bool,
    /// Where upstreams are found that the config does not list; none where it lists them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,
    /// How the next upstream is picked.
    #[serde(default)]
    pub balance: String,
    /// What ties a client to one upstream; empty when nothing does.
    #[serde(default)]
    pub sticky: String,
    /// In config order, then those that were found, by name.
    pub upstreams: Vec<Upstream>,
}

impl Service {
    /// What this upstream of it refuses although it is its part. A replica that takes no writes is as it should be.
    pub fn refusals<'a>(&self, upstream: &'a Upstream) -> impl Iterator<Item = &'a ClassVerdict> {
        let replica = !upstream.writer && self.upstreams.iter().any(|other| other.writer);
        let written = |class| matches!(class, RouteClass::RegistryWrite | RouteClass::RegistryUpload);
        upstream.classes.iter().filter(move |verdict| {
            let as_it_should = replica && !verdict.may && written(verdict.class);
            !verdict.why.is_empty() && !as_it_should
        })
    }
}

/// Where upstreams are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Discovery {
    /// The source.
    pub from: String,
    /// It can be asked. When not, those known go on.
    pub well: bool,
    /// Why not; empty when it can.
    pub why: String,
    /// Since when it is so.
    pub since: Timestamp,
    /// How many it has told of.
    pub found: u64,
}

/// From which version the agents of a service are served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Cohort {
    /// The version, once one is chosen.
    pub version: Option<String>,
    /// Why that one: `first`, `settled`, `fallback`, `ordered`, `told`; or why none is.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
    /// What an operator has named.
    pub ordered: Option<String>,
    /// Healthy upstreams that a version needs to take over.
    pub needed: u64,
    /// Whether the choice is made with other proxies, through etcd, at this moment; none where each decides by itself.
    #[serde(default)]
    pub agreed: Option<bool>,
    /// Why not.
    #[serde(default)]
    pub alone: Option<String>,
    /// Every version that there is, the highest first.
    pub versions: Vec<CohortVersion>,
}

/// One version among the upstreams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct CohortVersion {
    /// Which.
    pub version: String,
    /// Agents are served from it.
    pub served: bool,
    /// Upstreams that are of it.
    pub upstreams: u64,
    /// Those of them that could serve agents.
    pub able: u64,
    /// For so many seconds so many of them have been as are needed; none while too few are.
    pub settled_seconds: Option<u64>,
}

/// What `POST /admin/v1/services/NAME/cohort` takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CohortOrder {
    /// Serve agents from this version; none: go by the rule again.
    pub version: Option<String>,
}

/// Connections, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Connections {
    /// Everything but transfers.
    pub control: u64,
    /// Transfers.
    pub bulk: u64,
}

/// The most of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct MaxConnections {
    /// Of everything but transfers.
    pub control: Option<u64>,
    /// Of transfers.
    pub bulk: Option<u64>,
}

/// One upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
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
    /// It is ejected for what became of requests, or waits for its trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected: Option<Ejected>,
    /// Requests that failed in a row.
    #[serde(default)]
    pub failures: u32,
    /// It takes nothing new, for an operator says so.
    #[serde(default)]
    pub drained: bool,
    /// What operators have said of it beside the config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<Order>,
    /// Requests under way.
    pub outstanding: u64,
    /// So many at most; none when there is no limit.
    #[serde(default)]
    pub max_requests: Option<u64>,
    /// Open connections for requests, used or not.
    #[serde(default)]
    pub connections: Connections,
    /// Those of them that no request uses now.
    #[serde(default)]
    pub unused: Connections,
    /// So many at most; none where there is no limit.
    #[serde(default)]
    pub max_connections: MaxConnections,
    /// Connections that are being made.
    #[serde(default)]
    pub pending: u64,
    /// So many at most; none when there is no limit.
    #[serde(default)]
    pub max_pending: Option<u64>,
    /// Requests that wait for room there.
    #[serde(default)]
    pub waiting: u64,
    /// The limits that it is at now: `requests`, `connections.control`, `connections.bulk`, `pending`.
    #[serde(default)]
    pub at_limit: Vec<String>,
    /// Its part of the requests as configured.
    #[serde(default)]
    pub weight: u32,
    /// What it has of that now: less while it comes back.
    #[serde(default)]
    pub weight_now: f64,
    /// The zone that it is in.
    #[serde(default)]
    pub zone: Option<String>,
    /// And that is the proxy's own.
    #[serde(default)]
    pub local: bool,
    /// How long it takes to begin an answer, in seconds, when it is balanced by that and known.
    #[serde(default)]
    pub latency_seconds: Option<f32>,
    /// It is the write registry.
    pub writer: bool,
    /// It is not listed in the config.
    #[serde(default)]
    pub found: bool,
    /// The version that it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// An ejection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Ejected {
    /// When it began.
    pub since: Timestamp,
    /// When one request at a time is sent there again; in the past while that is awaited.
    pub until: Timestamp,
    /// Which one in succession it is.
    pub times: u32,
    /// One sentence: what had failed.
    pub why: String,
}

/// The verdict for one route class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ClassVerdict {
    /// The class.
    pub class: RouteClass,
    /// May it be sent there?
    pub may: bool,
    /// Why not; empty when it may.
    pub why: String,
}
