//! A collection in a directory that no registry uses.

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

/// Collects once, or tells what would be collected. The directory is locked meanwhile.
pub async fn offline(config: &Registry, dry_run: bool) -> Result<Collected, OfflineError> {
    let log = match &config.storage {
        Storage::Disk(path) => path.join("log"),
        Storage::Shared(path) => return Err(disk::OpenError::Shared { path: path.clone() }.into()),
    };
    let content = Disk::open(disk::DiskSettings::of(config)).await?;
    let opened = tokio::task::spawn_blocking(move || Log::open(&log)?.unapplied()).await;
    let unapplied =
        opened.unwrap_or_else(|gone| Err(LogError::Damaged(format!("reading it failed: {gone}"))))?;
    let gc = &config.upkeep.gc;
    let rules = Rules { grace: gc.grace, trash: gc.trash };
    Ok(collect(&content, &rules, roots(&unapplied), dry_run).await?)
}
