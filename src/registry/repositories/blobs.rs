//! Blobs as a repository has them: taken from it again only when nothing that it shows needs them.

use super::{Repositories, RepositoryError};
use crate::model::{Digest, Position, RepositoryName};

impl Repositories {
    /// Takes a blob from a repository; others that have it keep it. Refused while one of its manifests needs it: a tag
    /// that is shown is never made half by this. Completes when the change is in the log.
    pub async fn withdraw(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
    ) -> Result<Position, RepositoryError> {
        self.check_known()?;
        self.journal().check_writes()?;
        // No manifest that needs it can come while this holds the turn.
        let _turn = self.turn(repository).await;
        if !self.content().linked(repository, blob).await? {
            return Err(RepositoryError::NoBlob { repository: repository.clone(), blob: *blob });
        }
        // A push whose client left holds nothing any more, and may still be made.
        if let Some(catalogue) = self.journal().newest(repository).await? {
            for (manifest, stored) in &catalogue.manifests {
                let parsed = self.parsed(manifest, stored.size).await?;
                if parsed.blobs().any(|part| part.digest == *blob) {
                    return Err(RepositoryError::Needed { blob: *blob, manifest: *manifest });
                }
            }
        }
        let position = self.journal().withdraw(repository, blob).await?;
        tracing::info!(%repository, %blob, "blob taken from its repository");
        Ok(position)
    }
}
