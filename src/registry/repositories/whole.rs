//! The last look of a push: once its tag is visible, and before it is acknowledged.

use super::{About, ManifestFault, On, Parsed, Reference, Repositories, RepositoryError};
use crate::{
    model::{Digest, RepositoryName},
    registry::content::Catalogue,
    wire::replication::Change,
};

impl Repositories {
    /// Looks whether all that a manifest needs is still here, now that it is visible, and marks that as wanted. From
    /// here on every collection sees the reference. If a collection was faster than a push that took longer than both
    /// graces, the manifest is taken back and the push refused.
    ///
    /// Called beside other pushes; `before` is what the repository held just before this one.
    pub(super) async fn check_again(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        digest: Digest,
        parsed: &Parsed,
        before: Option<&Catalogue>,
    ) -> Result<(), RepositoryError> {
        let here = parsed.blobs().filter(|blob| !blob.elsewhere).map(|blob| blob.digest);
        let mut gone = self.content().keep(&digest).await?.is_none().then_some(digest);
        for blob in here {
            if self.content().keep_given(repository, &blob).await?.is_some() {
                continue;
            }
            // Taken from the repository while this was under way; the bytes may be here all the same.
            match self.content().keep(&blob).await? {
                Some(_) => self.content().link(repository, &blob).await?,
                None => gone = Some(blob),
            }
        }
        let Some(gone) = gone else { return Ok(()) };
        tracing::error!(%repository, %reference, blob = %gone,
            "what a manifest needs was collected before its push ended; the manifest is taken back");
        let about = About { digest: Some(digest), ..About::plain(Change::Removed) };
        let taken_back = self.change_in_turn(repository, about, On::Decided, |catalogue| {
            if let Reference::Tag(tag) = reference
                && catalogue.tags.get(tag).is_some_and(|version| version.digest == digest)
            {
                catalogue.untag_to(tag, before);
            }
            let tagged = catalogue.tags.values().any(|version| version.digest == digest);
            if !tagged && before.is_none_or(|before| !before.manifests.contains_key(&digest)) {
                catalogue.remove(&digest);
            }
            Ok(())
        });
        taken_back.await?;
        Err(ManifestFault::Missing(vec![gone]).into())
    }
}
