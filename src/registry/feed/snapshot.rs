//! `GET snapshot`: the catalogue at a position, a line a repository.

use std::{collections::BTreeSet, io, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{Feed, Refusal, chain};
use crate::{
    model::Digest,
    registry::{
        content::{Catalogue, Content, ContentError},
        journal::blob_ref,
    },
    wire::replication::{SnapshotHead, SnapshotRepository},
};

/// Streams it: what is in memory at once is one repository's line.
pub(super) async fn snapshot(State(feed): State<Feed>) -> Result<Response, Refusal> {
    let repositories = feed.app.repositories.clone();
    let journal = repositories.journal();
    let at = journal.at();
    if let Some(why) = at.claim.unknown() {
        return Err(Refusal::not_now(why));
    }
    // Catalogues that change while they are collected are newer than the position: the entries behind it, which
    // the follower reads next, change nothing in them.
    let mut catalogues = Vec::new();
    for name in repositories.content().repositories().await? {
        match repositories.content().catalogue(&name).await {
            Ok(Some(catalogue)) => catalogues.push(catalogue),
            Ok(None) => {}
            // A damaged one cannot be copied, and must not keep the others from being copied.
            Err(error) => {
                tracing::error!(repository = %name, error = %error, "repository was left out of a snapshot")
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

async fn one(content: &dyn Content, catalogue: &Arc<Catalogue>) -> Result<Bytes, ContentError> {
    let mut wanted: BTreeSet<Digest> = content.links(&catalogue.name).await?.into_iter().collect();
    wanted.extend(catalogue.manifests.keys());
    let mut blobs = Vec::with_capacity(wanted.len());
    for digest in wanted {
        // Given once and gone since: nothing that is shown needs it.
        blobs.extend(blob_ref(content, &digest).await?);
    }
    let patch = catalogue.since(&Catalogue::new(catalogue.name.clone()));
    let whole = SnapshotRepository { repository: catalogue.name.clone(), patch, blobs };
    line(&whole).map_err(|error| ContentError::Damaged { what: "catalogue".into(), why: error.to_string() })
}

fn line(value: &impl serde::Serialize) -> Result<Bytes, serde_json::Error> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    Ok(text.into())
}
