//! Looks for what the log did not bring: a blob that was announced just before a kill here is fetched by nobody, and
//! one that the writer was given just before a kill there was announced to nobody. Neither is needed by anything that
//! is shown; found now, they are here when a push of it goes on.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{adopt::AdoptError, fetch::FetchHandle};
use crate::{
    client::replication::Replication,
    registry::{
        content::Content,
        journal::{Claim, Journal},
    },
    telemetry::chain,
};

/// Between two looks; one more after each start, and whenever the writer was away.
const EVERY: Duration = Duration::from_secs(3600);

/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(30);

pub(super) struct Scan {
    pub(super) content: Arc<dyn Content>,
    pub(super) journal: Journal,
    pub(super) fetcher: FetchHandle,
    pub(super) writer: Replication,
    /// Told when the writer is there again.
    pub(super) due: Arc<Notify>,
}

impl Scan {
    /// Runs until dropped, which it may be at any time.
    pub(super) async fn run(self) {
        let mut pause = EVERY;
        loop {
            tokio::select! {
                () = self.due.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = match self.look().await {
                Ok(missing) => {
                    tracing::debug!(missing, "what the writer has was looked through");
                    EVERY
                }
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "what the writer has was not looked through");
                    AGAIN
                }
            };
        }
    }

    /// Has what is missing fetched, or given to its repository; tells how much that was. What is shown is not touched.
    async fn look(&self) -> Result<usize, AdoptError> {
        if self.journal.at().claim != Claim::Confirmed {
            // It is taking a snapshot over, or is about to.
            return Ok(0);
        }
        let (_, mut snapshot) = self.writer.snapshot().await?;
        let mut missing = 0;
        while let Some(next) = snapshot.next().await? {
            let given: BTreeSet<_> = self.content.links(&next.repository).await?.into_iter().collect();
            for blob in next.blobs {
                if given.contains(&blob.digest) || next.patch.manifests.contains_key(&blob.digest) {
                    continue;
                }
                missing += 1;
                if self.content.keep(&blob.digest).await?.is_some() {
                    self.content.link(&next.repository, &blob.digest).await?;
                } else {
                    self.fetcher.announce(next.repository.clone(), blob);
                }
            }
        }
        Ok(missing)
    }
}
