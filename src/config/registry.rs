//! `registry.toml`, checked.

use std::path::PathBuf;

use super::{Log, Server};

/// Everything a registry is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    /// `[server]`.
    pub server: Server,
    /// `[log]`.
    pub log: Log,
    /// `[storage]`.
    pub storage: Storage,
    /// `[limits]`.
    pub limits: Limits,
}

/// `[storage]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// A directory that this process alone uses.
    Disk(PathBuf),
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest manifest, bytes. OCI Distribution v1.1 asks for at least 4 MiB.
    pub manifest: usize,
    /// Writes are refused while less than this is free, bytes.
    pub reserve: u64,
    /// An upload session without a byte for so long is thrown away.
    pub upload_idle: std::time::Duration,
    /// Most upload sessions at once.
    pub uploads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest: 4 * 1024 * 1024,
            reserve: 1024 * 1024 * 1024,
            upload_idle: std::time::Duration::from_secs(24 * 3600),
            uploads: 1024,
        }
    }
}
