//! `/v2/<name>/blobs/uploads/`: sessions that take a blob at once or in chunks, also over several connections.

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::Response,
};

use super::{
    Ask, Code, DIGEST, OciError, UPLOAD,
    blobs::built,
    body::{Interrupted, receive},
};
use crate::{
    model::{Algorithm, Digest, Position, RepositoryName},
    registry::{
        apikeys::is_hidden,
        content::{ContentError, Upload},
        position::Wrote,
        quota::Room,
        range::content_range,
    },
};

/// `POST`: a mount, a whole blob, or a new session.
pub(super) async fn begin(ask: &Ask<'_>, name: &RepositoryName, body: Body) -> Result<Response, OciError> {
    let content = ask.app.repositories.content();
    if let Some(wanted) = ask.query.get("mount") {
        let digest = match Digest::parse(wanted) {
            Ok(digest) => digest,
            Err(error) => return Err(OciError::from(error).with_body(body)),
        };
        // Without `from`, or when that one does not have it, the client uploads: the specification's fallback.
        let from = ask.query.get("from").and_then(|from| RepositoryName::parse(from).ok());
        let from = from.filter(|from| !is_hidden(from));
        if let Some(from) = from
            && content.keep_given(&from, &digest).await?.is_some()
        {
            let position = ask.app.repositories.journal().give(name, &digest).await?;
            return Ok(given(name, &digest, position));
        }
    }
    let owner = ask.owner();
    let Some(expected) = ask.query.get("digest") else {
        // The client may say by what it will name the blob, so that it is hashed by that as it comes.
        let algorithm = match ask.query.get("digest-algorithm").map(Algorithm::parse).transpose() {
            Ok(algorithm) => algorithm.unwrap_or_default(),
            Err(error) => return Err(OciError::from(error).with_body(body)),
        };
        return match content.begin(name, &owner, algorithm, 0).await {
            Ok(upload) => Ok(session(StatusCode::ACCEPTED, name, upload.id(), 0)),
            Err(error) => Err(refused(ask, error).with_body(body)),
        };
    };
    let expected = match Digest::parse(expected) {
        Ok(digest) => digest,
        Err(error) => return Err(OciError::from(error).with_body(body)),
    };
    let declared = ask.content_length().unwrap_or(0);
    let upload = match content.begin(name, &owner, expected.algorithm(), declared).await {
        Ok(upload) => upload,
        Err(error) => return Err(refused(ask, error).with_body(body)),
    };
    // The client never learns the session's name, so nobody can go on with it.
    let mut upload = upload.unresumable();
    let _room = take(ask, name, upload.as_mut(), body).await?;
    stored(ask, name, upload, &expected).await
}

/// `GET`: where the session stands.
pub(super) async fn status(ask: &Ask<'_>, name: &RepositoryName, id: &str) -> Result<Response, OciError> {
    let received = ask.app.repositories.content().received(name, id).await?;
    Ok(session(StatusCode::NO_CONTENT, name, id, received))
}

/// `PATCH`: the next chunk, or, without `Content-Range`, a stream of unknown length.
pub(super) async fn append(
    ask: &Ask<'_>,
    name: &RepositoryName,
    id: &str,
    body: Body,
) -> Result<Response, OciError> {
    let upload = next_chunk(ask, name, id, None, body).await?;
    Ok(session(StatusCode::ACCEPTED, name, id, upload.received()))
}

/// `PUT`: the end, with or without a last chunk.
pub(super) async fn finish(
    ask: &Ask<'_>,
    name: &RepositoryName,
    id: &str,
    body: Body,
) -> Result<Response, OciError> {
    let expected = match ask.query.get("digest").map(Digest::parse) {
        Some(Ok(digest)) => digest,
        Some(Err(error)) => return Err(OciError::from(error).with_body(body)),
        None => {
            let text = "the end of an upload names its digest: ?digest=sha256:…";
            return Err(OciError::new(Code::DigestInvalid, text).with_body(body));
        }
    };
    let upload = next_chunk(ask, name, id, Some(expected.algorithm()), body).await?;
    stored(ask, name, upload, &expected).await
}

/// `DELETE`: the client gives up.
pub(super) async fn cancel(ask: &Ask<'_>, name: &RepositoryName, id: &str) -> Result<Response, OciError> {
    ask.app.repositories.content().cancel(name, id).await?;
    Ok(built(Response::builder().status(StatusCode::NO_CONTENT), Body::empty()))
}

/// Takes the turn at a session, checks that the chunk fits where it stands, and takes it.
async fn next_chunk(
    ask: &Ask<'_>,
    name: &RepositoryName,
    id: &str,
    ends_by: Option<Algorithm>,
    body: Body,
) -> Result<Box<dyn Upload>, OciError> {
    let length = ask.content_length();
    let range = match ask.header(header::CONTENT_RANGE).map(content_range) {
        None => None,
        Some(None) => {
            let text = "Content-Range cannot be read; write `<start>-<end>`";
            return Err(OciError::new(Code::BlobUploadInvalid, text).with_body(body));
        }
        Some(Some(range)) if length.is_some_and(|length| length != range.length) => {
            let text = "Content-Range and Content-Length disagree";
            return Err(OciError::new(Code::SizeInvalid, text).with_body(body));
        }
        Some(Some(range)) => Some(range),
    };
    let content = ask.app.repositories.content();
    let mut upload = match content.resume(name, id, ends_by, length.unwrap_or(0)).await {
        Ok(upload) => upload,
        Err(error) => return Err(OciError::from(error).with_body(body)),
    };
    let before = upload.received();
    if let Some(range) = range
        && range.start != before
    {
        let text = format!("the chunk begins at {}, and the session has {before} bytes", range.start);
        return Err(OciError::new(Code::BlobUploadInvalid, text)
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header(header::LOCATION, &location(name, id))
            .header(header::RANGE, &received_range(before))
            .header(UPLOAD, id)
            .with_body(body));
    }
    drop(take(ask, name, upload.as_mut(), body).await?);
    let came = upload.received() - before;
    match range {
        Some(range) if range.length != came => {
            let text = format!("Content-Range announced {} bytes, and {came} came", range.length);
            Err(OciError::new(Code::SizeInvalid, text))
        }
        _ => Ok(upload),
    }
}

/// Feeds the request's body to the session.
async fn take(
    ask: &Ask<'_>,
    name: &RepositoryName,
    upload: &mut dyn Upload,
    body: Body,
) -> Result<Room, OciError> {
    let known = upload.received().saturating_add(ask.content_length().unwrap_or(0));
    let room = match ask.app.quotas.admit(name, known).await {
        Ok(room) => room,
        Err(error) => return Err(OciError::from(error).with_body(body)),
    };
    let count = |bytes| ask.app.metrics.received.inc_by(bytes as u64);
    let bounds = (room.most, ask.app.limits.body_idle);
    receive(body, upload, bounds, count).await.map_err(|interrupted| match interrupted {
        Interrupted::Client(why) => {
            OciError::new(Code::BlobUploadInvalid, format!("{why}; a session keeps what came"))
        }
        Interrupted::Content(error, body) => OciError::from(error).with_rest(body),
        Interrupted::TooMuch(body) => OciError::from(ask.app.quotas.over(name)).with_rest(body),
    })?;
    Ok(room)
}

/// A session that is not opened is counted by why.
fn refused(ask: &Ask<'_>, error: ContentError) -> OciError {
    let why = match &error {
        ContentError::TooManyUploads { client: None, .. } => "uploads",
        ContentError::TooManyUploads { client: Some(_), .. } => "client",
        ContentError::Full { .. } => "space",
        _ => "storage",
    };
    ask.app.metrics.uploads_refused.with_label_values(&[why]).inc();
    error.into()
}

fn location(name: &RepositoryName, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

/// The specification cannot say "nothing"; `0-0` is what clients know for it.
fn received_range(received: u64) -> String {
    format!("0-{}", received.saturating_sub(1))
}

fn session(status: StatusCode, name: &RepositoryName, id: &str, received: u64) -> Response {
    let answer = Response::builder()
        .status(status)
        .header(header::LOCATION, location(name, id))
        .header(header::RANGE, received_range(received))
        .header(UPLOAD, id);
    built(answer, Body::empty())
}

/// All of it has come. It becomes a blob of the repository whether its client waits for that or not.
async fn stored(
    ask: &Ask<'_>,
    name: &RepositoryName,
    upload: Box<dyn Upload>,
    digest: &Digest,
) -> Result<Response, OciError> {
    let size = upload.received();
    let new = ask.app.repositories.content().find(digest).await?.is_none();
    let position = ask.app.repositories.journal().receive(name, upload, digest).await?;
    ask.app.quotas.came(name, *digest, size, new);
    Ok(given(name, digest, position))
}

/// The blob is complete and the repository's.
fn given(name: &RepositoryName, digest: &Digest, position: Position) -> Response {
    let answer = Response::builder()
        .status(StatusCode::CREATED)
        .extension(Wrote(position))
        .header(header::LOCATION, format!("/v2/{name}/blobs/{digest}"))
        .header(DIGEST, digest.to_string());
    built(answer, Body::empty())
}
