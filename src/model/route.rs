//! What a request is, as far as routing, deadlines and retries care.

use serde::{Deserialize, Serialize};

/// The class of a route. Limits, timeouts, lanes and the retry table speak of these and of nothing finer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RouteClass {
    /// The controller's REST API, and everything else on a controllers' front.
    ControllerApi,
    /// A node's long poll for tasks.
    AgentPoll,
    /// Reads of a registry: manifests, blobs, lists.
    RegistryRead,
    /// Writes of a registry that are no upload: manifest `PUT`, deletes, reverts.
    RegistryWrite,
    /// A step of an upload session.
    RegistryUpload,
    /// Handshakes whose secret may live in one server only.
    AuthHandshake,
}

impl RouteClass {
    /// All of them, in the order of the docs.
    pub const ALL: [Self; 6] = [
        Self::ControllerApi,
        Self::AgentPoll,
        Self::RegistryRead,
        Self::RegistryWrite,
        Self::RegistryUpload,
        Self::AuthHandshake,
    ];

    /// The word of config, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControllerApi => "controller-api",
            Self::AgentPoll => "agent-poll",
            Self::RegistryRead => "registry-read",
            Self::RegistryWrite => "registry-write",
            Self::RegistryUpload => "registry-upload",
            Self::AuthHandshake => "auth-handshake",
        }
    }
}
