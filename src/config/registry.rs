//! `registry.toml`, checked.

use std::{path::PathBuf, time::Duration};

pub use super::upkeep::{Gc, Quota, Scrub, Upkeep};
use super::{BaseUrl, Etcd, Log, Server, auth::Auth, proxy::Network};
use crate::{telemetry::Access, tls::Upstream};

/// Everything a registry is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    /// `[server]`.
    pub server: Server,
    /// `[log]`.
    pub log: Log,
    /// `[auth]`.
    pub auth: Auth,
    /// `[log] access`.
    pub access: Access,
    /// `[storage]`.
    pub storage: Storage,
    /// `[limits]`.
    pub limits: Limits,
    /// `[gc]`, and what else is done for the storage.
    pub upkeep: Upkeep,
    /// `[replication]`.
    pub replication: Replication,
    /// `[members]`: where it makes itself known to proxies.
    pub members: Option<Members>,
}

/// `[members]`: the etcd in which proxies look for servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// Which etcd.
    pub etcd: Etcd,
    /// Which cloud's keys.
    pub cluster: String,
}

/// `[replication]`. Without it a registry is a writer that knows of no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    /// What it is.
    pub role: Role,
    /// Entries of the change log that are kept for those who follow.
    pub log_keep: u64,
    /// Whom to trust and what to show where the others are asked by `https://`.
    pub tls: Option<Upstream>,
}

/// What a registry is to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Takes pushes. It asks its peers at start whether their history is newer than its own; `alone`: it does not.
    Writer {
        /// The replicas.
        peers: Vec<BaseUrl>,
        /// An operator says that nobody else writes.
        alone: bool,
    },
    /// Copies.
    Replica {
        /// From here.
        writer: BaseUrl,
        /// Blobs also from here.
        peers: Vec<BaseUrl>,
    },
}

/// Entries of the change log that are kept: some weeks of a busy cloud, in some ten megabytes.
pub const LOG_KEEP: u64 = 100_000;

impl Default for Replication {
    fn default() -> Self {
        Self { role: Role::Writer { peers: Vec::new(), alone: false }, log_keep: LOG_KEEP, tls: None }
    }
}

/// `[storage]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// A directory that this process alone uses.
    Disk(PathBuf),
    /// One that other registries read and write, too.
    Shared(PathBuf),
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest manifest, bytes. OCI Distribution v1.1 asks for at least 4 MiB.
    pub manifest: usize,
    /// Writes are refused while less than this is free, bytes.
    pub reserve: u64,
    /// An upload session without a byte for so long is thrown away.
    pub upload_idle: Duration,
    /// An upload session that was opened so long ago is thrown away, whoever writes to it.
    pub upload_age: Duration,
    /// A body of an upload that brings nothing for so long is given up.
    pub body_idle: Duration,
    /// Most upload sessions at once.
    pub uploads: usize,
    /// Most upload sessions of one client.
    pub uploads_per_client: Option<usize>,
    /// Proxies whose `X-Forwarded-For` tells who the client is.
    pub trusted: Vec<Network>,
    /// What was stored and not verified for so long is hashed before it is sent.
    pub verify_every: std::time::Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest: 4 * 1024 * 1024,
            reserve: 1024 * 1024 * 1024,
            upload_idle: Duration::from_secs(24 * 3600),
            upload_age: Duration::from_secs(7 * 24 * 3600),
            body_idle: Duration::from_secs(120),
            uploads: 1024,
            uploads_per_client: None,
            trusted: Vec::new(),
            verify_every: std::time::Duration::from_secs(24 * 3600),
        }
    }
}
