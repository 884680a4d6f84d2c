//! What a registry does for its storage, checked.

use std::time::Duration;

/// `[gc]`, and what comes beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Upkeep {
    /// `[gc]`.
    pub gc: Gc,
    /// `[quota]`.
    pub quota: Quota,
    /// `[scrub]`.
    pub scrub: Scrub,
}

/// `[quota]`: what may be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// In all, bytes; `None`: what the disk takes.
    pub total: Option<u64>,
    /// By one template, bytes.
    pub template: Option<u64>,
    /// From this percentage on it is told.
    pub warn: u8,
}

impl Default for Quota {
    fn default() -> Self {
        Self { total: None, template: None, warn: 80 }
    }
}

/// `[scrub]`: stored blobs are read from time to time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrub {
    /// Whether they are.
    pub enabled: bool,
    /// Bytes a second.
    pub rate: u64,
    /// From the beginning of one pass to that of the next, at least.
    pub every: Duration,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { enabled: true, rate: 20 * 1024 * 1024, every: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// `[gc]`: what nothing needs any more is deleted, after two graces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gc {
    /// Whether it is done by itself.
    pub enabled: bool,
    /// So often.
    pub every: Duration,
    /// What nothing references goes to the trash once no push asked for it for so long.
    pub grace: Duration,
    /// It stays there for so long, longer than any publication may take.
    pub trash: Duration,
    /// Manifests without a tag are removed when they are older; `None`: never.
    pub untagged: Option<Duration>,
}

impl Default for Gc {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self { enabled: true, every: 6 * HOUR, grace: 24 * HOUR, trash: 24 * HOUR, untagged: None }
    }
}
