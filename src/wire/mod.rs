//! The bodies of every API as types: serde only, no behaviour. Roles meet over these.
//!
//! Reading is lenient where the reference says that clients are sloppy ([`lenient`]); writing is exact.

pub mod decisions;
pub mod envelope;
pub mod events;
pub mod explain;
pub mod lenient;
pub mod mac;
pub mod ready;
pub mod headers;
pub mod vm;
pub mod node;
pub mod status;
pub mod template;
pub mod agent;
pub mod command;
pub mod upstreams;
pub mod listeners;
pub mod config;
pub mod transfers;
pub mod orders;
pub mod registries;
pub mod oci;
pub mod replication;
pub mod cloud;
pub mod group;
pub mod distribution;
pub mod apikey;
pub mod permission;
pub mod image;
pub mod upkeep;
pub mod handover;
#[cfg(test)]
pub(crate) mod document;
