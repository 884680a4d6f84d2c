//! Typed clients of our own APIs and of the registries', with failover over several URLs. Never a server.

mod credentials;
mod admin;
mod agent_api;
mod answer;
mod controllers;
mod error;
mod failover;
mod login;
pub mod oci;
mod pages;
mod permissions;
pub mod replication;
mod templates;
pub mod transfer;
pub mod lists;
mod webhook;

pub use admin::Admin;
pub use agent_api::{AgentApi, ControllerStatus, Limits};
pub use controllers::{Controllers, DistributeAsk, SaveAsk};
pub use credentials::Credentials;
pub use error::ClientError;
pub use failover::{Failover, http_client};
pub use login::Login;
pub use pages::{InstancesLike, NodesLike};
pub use templates::Templates;
pub use webhook::Webhook;
