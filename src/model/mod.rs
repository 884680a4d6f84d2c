//! Words of the domain as types: ids, names, states, positions. No behaviour beyond parse and print, no I/O.
//! [`proxy_protocol`] is here because config, probes and the proxy all name it.

mod ids;
mod digest;
mod layer;
mod timestamp;
mod trace;
mod position;
mod instance;
mod mac;
mod node;
mod route;
mod version;
pub mod proxy_protocol;

pub use digest::{Algorithm, Digest, DigestError, Hash};
pub use ids::{
    ApiKeyId, CommandId, DistributionId, GroupId, IdError, ImageId, InstanceId, NodeId, RegistryName,
    RepositoryName, RequestId, ServiceName, StartId, Tag, TemplateId, UpstreamName, ZoneName, excerpt,
};
pub use instance::{Attempt, InstanceState, Progress};
pub use layer::{LayerId, NoLayerId};
pub use mac::{MacAddress, MacError, MacRange};
pub use node::{Arch, NodeState};
pub use position::{Mark, MarkError, Position, PositionError};
pub use route::RouteClass;
pub use timestamp::{Timestamp, TimestampError};
pub use trace::TraceParent;
pub use version::{COMPATIBILITY, OURS, ServerVersion, full as full_version};
