//! `GET snapshot`: the catalogue at a position, a line a repository.

use std::{collections::BTreeSet, io, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Feed, Refusal};
use crate::{
    model::Digest,
    registry::{
        content::{Catalogue, Content, ContentError},
        journal::blob_ref,
    },
    telemetry::chain,
    wire::replication::{BlobRef, SnapshotHead, SnapshotRepository},
};

/// Streams it: what is in memory at once is one repository's line.
pub(super) async fn snapshot(State(feed): State<Feed>) -> Result<Response, Refusal> {
    let repositories = feed.app.repositories.clone();
    let journal = repositories.journal();
    let at = journal.at();
    // Whoever takes it over gives its own history up for it: only a writer that may write is worth that.
    journal.check_writes()?;
    if at.claimed().is_none() {
        return Err(Refusal::not_now(feed.app.health.unclaimed()));
    }
    // Catalogues that change while they are collected are newer than the position: the entries behind it, which
    // the follower reads next, change nothing in them.
    let mut catalogues = Vec::new();
    for name in repositories.content().repositories().await? {
        match repositories.content().catalogue(&name).await {
            Ok(Some(catalogue)) => catalogues.push(catalogue),
            Ok(None) => {}
            // Left out it would be taken for deleted, and the last good copies of it would go.
            Err(error) => {
                let why = format!(
                    "no replica can be made anew while `{name}` cannot be read here: {}",
                    chain(&error)
                );
                tracing::error!(repository = %name, error = %error, "snapshot was refused");
                return Err(Refusal::not_now(why));
            }
        }
    }
    let head = SnapshotHead {
        registry: feed.app.name.clone(),
        position: at.position,
        mark: at.mark,
        epochs: journal.epochs(),
        repositories: catalogues.len(),
    };
    let first = line(&head).map_err(|error| Refusal::bad(error.to_string()))?;
    let rest = stream::iter(catalogues).then(move |catalogue| {
        let repositories = repositories.clone();
        async move {
            one(repositories.content(), &catalogue).await.map_err(|error| io::Error::other(chain(&error)))
        }
    });
    let body = stream::once(async move { Ok(first) }).chain(rest);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response())
}

/// Blobs that are looked up at once, for one line.
const LOOK_UPS: usize = 16;

async fn one(content: &dyn Content, catalogue: &Arc<Catalogue>) -> Result<Bytes, ContentError> {
    let mut wanted: BTreeSet<Digest> = content.links(&catalogue.name).await?.into_iter().collect();
    wanted.extend(catalogue.manifests.keys());
    // Given once and gone since: nothing that is shown needs those that are not found.
    let found = stream::iter(wanted).map(|digest| async move { blob_ref(content, &digest).await });
    let found: Vec<Option<BlobRef>> = found.buffered(LOOK_UPS).try_collect().await?;
    let blobs = found.into_iter().flatten().collect();
    let patch = catalogue.since(&Catalogue::new(catalogue.name.clone()));
    let whole = SnapshotRepository { repository: catalogue.name.clone(), patch, blobs };
    line(&whole).map_err(|error| ContentError::Damaged { what: "catalogue".into(), why: error.to_string() })
}

fn line(value: &impl serde::Serialize) -> Result<Bytes, serde_json::Error> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    Ok(text.into())
}
