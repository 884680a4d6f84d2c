//! What a registry does for its storage, checked.

use std::time::Duration;

/// `[gc]`, and what comes beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Upkeep {
    /// `[gc]`.
    pub gc: Gc,
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
