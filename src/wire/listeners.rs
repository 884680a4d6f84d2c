//! `GET /admin/v1/listeners`: where clients come in, and what they may take there.

use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Listeners {
    /// In config order.
    pub listeners: Vec<Listener>,
    /// Connections of clients that are open, at all of them.
    pub connections: u64,
    /// And may be.
    pub max_connections: u64,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Where it listens. Port 0 of the config is resolved here.
    pub addresses: Vec<String>,
    /// The service that gets everything; `None` where there are `rules`.
    pub service: Option<String>,
    /// In their order; the first that matches wins.
    pub rules: Vec<Rule>,
    /// What its connections are wrapped in.
    pub tls: Option<Tls>,
    /// HTTP/2 is spoken besides.
    pub http2: bool,
    /// Peers whose identity headers are believed.
    pub trusted: Vec<String>,
    /// Balancers whose connections begin with a PROXY header.
    pub proxy_protocol: Vec<String>,
    /// Paths that are otherwise hidden.
    pub expose: Vec<String>,
    /// Its connections that are open.
    pub connections: u64,
    /// What clients may take here, besides what `[limits]` says of all listeners.
    pub limits: Limits,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = ListenerRule))]
pub struct Rule {
    /// Only this host.
    pub host: Option<String>,
    /// Only below this path.
    pub path: Option<String>,
    /// Who gets what it matches; `None` if that is refused.
    pub service: Option<String>,
    /// The status with which it is refused.
    pub deny: Option<u16>,
}

/// What a listener's TLS is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = ListenerTls))]
pub struct Tls {
    /// In config order; who asks for a name that none is for gets the first.
    pub certificates: Vec<Certificate>,
    /// Whether clients are asked for theirs: `off`, `optional` or `required`.
    pub client_auth: String,
    /// The oldest version spoken: `1.2` or `1.3`.
    pub min_version: String,
    /// When the first of the revocation lists is too old to be believed.
    pub lists_until: Option<Timestamp>,
    /// Why newer files were not taken; empty if nothing is wrong with them.
    pub refused: String,
}

/// One certificate, as it is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = Certificate))]
pub struct Certificate {
    /// The file that it is from.
    pub file: String,
    /// Names that it is for.
    pub names: Vec<String>,
    /// It is good until then.
    pub until: Timestamp,
}

/// What clients may take; `None` and empty: no such limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = ListenerLimits))]
pub struct Limits {
    /// Connections at once.
    pub connections: Option<u64>,
    /// Of one client.
    pub per_client: Option<u64>,
    /// Requests of one caller, as in the config.
    pub rate: Option<Rate>,
    /// Only these may come.
    pub allow: Vec<String>,
    /// These may not.
    pub deny: Vec<String>,
}

/// How many requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = ListenerRate))]
pub struct Rate {
    /// As in the config: `100/s`.
    pub requests: String,
    /// So many at once after a rest.
    pub burst: u32,
    /// Who one caller is: `address`, `certificate` or `key`.
    pub by: String,
}
