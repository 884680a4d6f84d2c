//! Typed clients of our own APIs and of the registries', with failover over several URLs. Never a server.

mod error;
mod failover;
mod templates;

pub use error::ClientError;
pub use failover::{Failover, http_client};
pub use templates::Templates;
