//! `GET /admin/v1/registries`: which registry may answer reads, as the proxy sees it now, and why.

use serde::{Deserialize, Serialize};

use super::replication::{Role, State};
use crate::model::Position;

/// The services of registries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Registries {
    /// In config order.
    pub services: Vec<Service>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = RegistryService))]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `replicated` or `shared`.
    pub storage: String,
    /// `position`, `catalogue` or `none`.
    pub freshness: String,
    /// The upstream that takes writes; `None` on shared storage.
    pub writer: Option<String>,
    /// The writer is asked for no reads.
    pub write_only: bool,
    /// `writer-lost`, `never` or `allow`.
    pub stale_reads: String,
    /// What the writer knows this proxy as.
    pub proxy: Option<String>,
    /// Milliseconds that are left of the lease on the writer's log; `None` without one.
    pub lease_ms: Option<u64>,
    /// Why there is none; empty while there is one.
    pub lease_why: String,
    /// Where what the registries say of themselves does not go with the config, and what to do about it.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What reads of a repository need that has not changed since the proxy began to follow the log.
    pub floor: Option<Position>,
    /// The newest change that is known: what lists of everything need.
    pub newest: Option<Position>,
    /// Repositories of which the last change is known.
    pub repositories: u64,
    /// Where lists are compared: how many templates were written so lately that the writer alone is asked about them;
    /// `None` when that is so of all, or where none are compared.
    #[serde(default)]
    pub written: Option<u64>,
    /// In config order.
    pub upstreams: Vec<Upstream>,
}

/// One registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = Registry))]
pub struct Upstream {
    /// Its name in the config.
    pub name: String,
    /// Its address.
    pub address: String,
    /// What it calls itself, if it ever said so: upload sessions begin with it.
    pub registry: Option<String>,
    /// What the config makes of it; `None` on shared storage.
    pub role: Option<Role>,
    /// The position that is counted; `None` while it claims none, or one of another history.
    pub position: Option<Position>,
    /// It passes its probes and is known to have the newest change: not without a lease.
    pub fresh: bool,
    /// May it be asked for a list of everything now? A read of one repository needs less.
    pub reads: bool,
    /// Why, or why not.
    pub why: String,
    /// Seconds since it told its state.
    pub told_seconds: Option<f64>,
    /// The last state that it told, as it came; `None` if it never did.
    pub state: Option<State>,
    /// What it lists, where lists are compared.
    #[serde(default)]
    pub catalogue: Option<Catalogue>,
}

/// What one registry lists, compared with the writer's list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Catalogue {
    /// How many templates; `None` while its list is not known.
    pub templates: Option<u64>,
    /// Templates that it does not have as the writer does.
    pub differing: u64,
    /// Some of them.
    pub named: Vec<String>,
    /// Seconds since its last list was asked for.
    pub asked_seconds: Option<f64>,
    /// Why the last list could not be had; empty if it could.
    pub why: String,
}
