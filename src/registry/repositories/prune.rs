//! Manifests that nothing leads to, where an operator wants them gone after a while.

use super::{About, Repositories, RepositoryError};
use crate::{model::RepositoryName, wire::replication::Change};

impl Repositories {
    /// Removes the manifests of a repository that no tag leads to and that were last pushed before this (Unix
    /// seconds); tells how many.
    pub async fn prune(
        &self,
        repository: &RepositoryName,
        pushed_before: i64,
    ) -> Result<u64, RepositoryError> {
        let there = self.content().catalogue(repository).await?;
        if there.is_none_or(|catalogue| catalogue.untagged(pushed_before).is_empty()) {
            return Ok(0);
        }
        let (_, gone) = self
            .change(repository, About::plain(Change::Removed), |catalogue| {
                // Decided anew: one may have been tagged meanwhile.
                let gone = catalogue.untagged(pushed_before);
                for digest in &gone {
                    catalogue.remove(digest);
                }
                Ok(gone.len() as u64)
            })
            .await?;
        tracing::info!(%repository, manifests = gone, "untagged manifests removed");
        Ok(gone)
    }
}
