//! A collection in a directory that no registry uses.

use std::time::Duration;

use super::{GcError, Rules, collect, roots};
use crate::{
    config::registry::{Registry, Storage},
    registry::{
        content::disk::{self, Disk},
        log::{Log, LogError},
    },
    wire::upkeep::Collected,
};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The directory: a registry uses it, or it cannot be read.
    #[error(transparent)]
    Storage(#[from] disk::OpenError),
    /// The change log, without which changes that are not shown yet are not known.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The collection.
    #[error(transparent)]
    Gc(#[from] GcError),
}

/// Collects once, or tells what would be collected. A directory of one registry is locked meanwhile; in one that several
/// have, the others go on, for one at a time collects.
pub async fn offline(config: &Registry, dry_run: bool) -> Result<Collected, OfflineError> {
    let content = Disk::open(disk::DiskSettings::of(config)).await?;
    content.settle().await;
    let unapplied = match &config.storage {
        Storage::Disk(path) => {
            let log = path.join("log");
            let opened = tokio::task::spawn_blocking(move || Log::open(&log)?.unapplied()).await;
            opened.unwrap_or_else(|gone| Err(LogError::Damaged(format!("reading it failed: {gone}"))))?
        }
        // There is no log: what is changed is shown at once.
        Storage::Shared(_) => Vec::new(),
    };
    let gc = &config.upkeep.gc;
    let rules = Rules { grace: gc.grace, trash: gc.trash };
    let collected = collect(&content, &rules, roots(&unapplied), (dry_run, Duration::ZERO)).await?;
    Ok(collected.unwrap_or_default())
}
