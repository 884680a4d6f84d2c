//! What is done for one ask.

use std::{collections::BTreeSet, sync::Arc};

use super::{HELD, Shared};
use crate::{
    client::{ClientError, replication::Replication},
    model::{Digest, RepositoryName},
    registry::{
        content::{ChunkList, ContentError, Fill, FillError, chunk_count, chunk_range},
        replicate::plan::{Ask, End},
    },
    telemetry::chain,
    wire::replication::BlobRef,
};

/// What came of opening a blob.
pub(super) struct Opened {
    pub(super) end: End,
    pub(super) fill: Option<Arc<dyn Fill>>,
    /// Empty when nothing went wrong.
    pub(super) why: String,
}

/// What came of asking for a chunk.
pub(super) struct Taken {
    pub(super) end: End,
    /// Empty when nothing went wrong.
    pub(super) why: String,
}

/// What came of finishing a blob.
pub(super) enum Finish {
    /// These have it.
    Done(BTreeSet<RepositoryName>),
    /// The whole is wrong and was thrown away.
    Spoiled(String),
    /// The storage failed.
    Later(String),
}

/// Takes a blob's fill up, with the chunk list of this source if one is wanted.
pub(super) async fn open(shared: &Shared, blob: BlobRef, list: bool, source: usize) -> Opened {
    let ended = |(end, why)| Opened { end, fill: None, why };
    match shared.content.keep(&blob.digest).await {
        Ok(Some(_)) => return ended((End::Here, String::new())),
        Ok(None) => {}
        Err(error) => return ended(storage(shared, error.into())),
    }
    let list = match (list, shared.sources.get(source)) {
        (true, Some(client)) => match chunk_list(shared, client, &blob).await {
            Ok(list) => Some(list),
            Err(end) => return ended(end),
        },
        _ => None,
    };
    match shared.content.fill(&blob, list).await {
        Ok(fill) => {
            let end = End::Opened { missing: fill.missing(), verified: fill.verifies() };
            Opened { end, fill: Some(Arc::from(fill)), why: String::new() }
        }
        Err(error) => ended(storage(shared, error)),
    }
}

/// The blob's list from this source. One that is not the blob's is as good as none: then the whole is verified.
async fn chunk_list(
    shared: &Shared,
    client: &Replication,
    blob: &BlobRef,
) -> Result<ChunkList, (End, String)> {
    let corrupt = |why: &str| {
        count(shared, "corrupt");
        Err((End::Listless, format!("`{}` gave a chunk list of {} {why}", client.base(), blob.digest)))
    };
    match client.chunks(&blob.digest).await {
        Err(error) => Err(failed(shared, &error)),
        Ok(Some((size, bytes))) => match ChunkList::from_bytes(&bytes) {
            _ if size != blob.size => corrupt("that says another size"),
            None => corrupt("that is damaged"),
            Some(list) if list.0.len() as u64 != chunk_count(blob.size) => {
                corrupt("that is of another length")
            }
            Some(list) if blob.chunks.is_some_and(|expected| expected != list.digest()) => {
                corrupt("that is not the one of the log")
            }
            Some(list) => Ok(list),
        },
        Ok(None) => match client.range(&blob.digest, 0..1, |_| {}).await {
            Err(error) => Err(failed(shared, &error)),
            Ok(None) => Err((End::Lacks, String::new())),
            Ok(Some(_)) => Err((End::Listless, String::new())),
        },
    }
}

/// Fetches one chunk, whole, and writes it.
pub(super) async fn take(shared: &Shared, ask: &Ask, chunk: u32, fill: &dyn Fill) -> Taken {
    let ended = |(end, why)| Taken { end, why };
    let Some(client) = shared.sources.get(ask.source) else {
        return ended((End::Lacks, String::new()));
    };
    let came = |bytes: usize| {
        shared.fetched.inc_by(bytes as u64);
        shared.board().came(ask.source, bytes as u64, shared.now());
    };
    let range = chunk_range(fill.size(), chunk);
    let bytes = match tokio::time::timeout(ask.within, client.range(&ask.blob, range, came)).await {
        Err(_) => {
            count(shared, "slow");
            let why = format!("`{}` took longer than {:?} for a chunk", client.base(), ask.within);
            return ended((End::Slow, why));
        }
        Ok(Err(error)) => return ended(failed(shared, &error)),
        Ok(Ok(None)) => return ended((End::Lacks, String::new())),
        Ok(Ok(Some(bytes))) => bytes,
    };
    match fill.write(chunk, bytes).await {
        Ok(()) => ended((End::Arrived, String::new())),
        Err(FillError::Gone { .. }) => ended((End::Gone, String::new())),
        Err(error @ (FillError::Content(ContentError::Corrupt { .. }) | FillError::Misfit { .. })) => {
            count(shared, "corrupt");
            ended((End::Corrupt, format!("`{}` gave a wrong chunk of {}: {error}", client.base(), ask.blob)))
        }
        Err(error) => ended(storage(shared, error)),
    }
}

/// Makes a whole fill a blob and gives it to these repositories.
pub(super) async fn finish(
    shared: &Shared,
    blob: Digest,
    fill: Option<Arc<dyn Fill>>,
    links: BTreeSet<RepositoryName>,
) -> Finish {
    if let Some(fill) = fill {
        match fill.commit().await {
            Ok(()) => {}
            Err(error @ FillError::Content(ContentError::Corrupt { .. })) => {
                count(shared, "corrupt");
                return Finish::Spoiled(error.to_string());
            }
            Err(error) => return Finish::Later(storage(shared, error).1),
        }
    }
    for repository in &links {
        // The change that needs it gives it to the repository again.
        if let Err(error) = shared.content.link(repository, &blob).await {
            tracing::warn!(%blob, %repository, error = %chain(&error), "fetched blob was not linked");
        }
    }
    Finish::Done(links)
}

fn failed(shared: &Shared, error: &ClientError) -> (End, String) {
    count(
        shared,
        match error {
            ClientError::Unreachable { .. } | ClientError::Untrusted { .. } => "unreachable",
            ClientError::Unanswered { .. } => "unanswered",
            ClientError::Silent { .. } => "silent",
            ClientError::Refused { .. } => "refused",
            ClientError::Strange { .. } => "strange",
        },
    );
    (End::Failed, chain(error))
}

fn storage(shared: &Shared, error: FillError) -> (End, String) {
    count(shared, "storage");
    (End::Held(shared.now() + HELD), chain(&error))
}

fn count(shared: &Shared, why: &str) {
    shared.failures.with_label_values(&[why]).inc();
}
