//! What operators say of upstreams and services, beside the config: the bodies of the admin API, what a successor is told,
//! and what is kept in `run_dir`.

use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Of an upstream: it takes nothing new.
    Drained,
    /// Of an upstream: this is its part of the requests, whatever the config says.
    Weight(u32),
    /// Of a service: whether everything is answered 503, whatever the config says.
    Maintenance(bool),
}

/// One thing that was said and not taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Order {
    /// The service.
    pub service: String,
    /// The upstream, if it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// What.
    pub what: What,
    /// Since when it holds.
    pub since: Timestamp,
    /// Who said it, as they call themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The address from which it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The config says something else. Told where it is shown.
    #[serde(default)]
    pub differs: bool,
}

/// What `POST …/drain`, `POST …/undrain`, `DELETE …/weight` and `DELETE …/maintenance` take; no body is as good as `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Who says it, for the log and for whoever looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, for the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `PUT …/weight` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetWeight {
    /// From 1 to 1000.
    pub weight: u32,
    /// As in [`Note`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// As in [`Note`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `POST …/maintenance` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetMaintenance {
    /// Whether everything is answered 503.
    pub on: bool,
    /// As in [`Note`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// As in [`Note`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `POST /admin/v1/reload` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Reloaded {
    /// Which config is in use: 0 for that of the start, one more with each that was taken.
    pub generation: u64,
}

/// How it stands after something was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Ordered {
    /// The service.
    pub service: String,
    /// The upstream, if it was of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// It was otherwise before.
    pub changed: bool,
    /// Requests that are under way at the upstream, or at all of the service.
    pub outstanding: u64,
    /// What holds now of what was said of it.
    pub orders: Vec<Order>,
    /// What an operator should know of what follows from it.
    pub warnings: Vec<String>,
}
