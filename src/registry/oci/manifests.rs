//! `/v2/<name>/manifests/<tag or digest>`.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};

use bytes::Bytes;

use super::{Ask, Code, DIGEST, OciError, blobs::built};
use crate::{
    http::RoomError,
    model::RepositoryName,
    registry::{
        position::{Shows, Wrote},
        repositories::Reference,
    },
};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// `GET` and `HEAD`.
pub(super) async fn get(
    ask: &Ask<'_>,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<Response, OciError> {
    let repositories = &ask.app.repositories;
    let found = repositories.find(name, reference).await?;
    let etag = format!("\"{}\"", found.digest);
    let answer = Response::builder()
        .extension(Shows(found.changed))
        .header(DIGEST, found.digest.to_string())
        .header(header::ETAG, &etag)
        .header(header::CONTENT_TYPE, &found.stored.media_type);
    if ask.has(&etag) {
        return Ok(built(answer.status(StatusCode::NOT_MODIFIED), Body::empty()));
    }
    let answer = answer.header(header::CONTENT_LENGTH, HeaderValue::from(found.stored.size));
    if ask.is_head() {
        return Ok(built(answer, Body::empty()));
    }
    let bytes = repositories.bytes(&found).await?;
    repositories.count_pull(name, reference).await;
    Ok(built(answer, Body::from(bytes)))
}

/// `PUT`.
pub(super) async fn put(
    ask: &Ask<'_>,
    name: &RepositoryName,
    reference: &Reference,
    body: Body,
) -> Result<Response, OciError> {
    let limit = ask.app.limits.manifest;
    let too_large = || {
        OciError::new(Code::SizeInvalid, format!("a manifest has at most {limit} bytes here"))
            .status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    if ask.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large().with_body(body));
    }
    let whole = ask.app.bodies.read(Request::new(body)).await.map_err(|error| match error {
        RoomError::TooLarge { .. } => too_large(),
        RoomError::Full => OciError::new(Code::TooManyRequests, "too many manifests arrive at once")
            .header(header::RETRY_AFTER, "1"),
        RoomError::Slow(_) => {
            OciError::new(Code::ManifestInvalid, error.to_string()).status(StatusCode::REQUEST_TIMEOUT)
        }
        RoomError::Broken => OciError::new(Code::ManifestInvalid, "the body ended before its time"),
    })?;
    let bytes = Bytes::copy_from_slice(whole.bytes());
    let media_type = ask.header(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).map(str::trim);
    let media_type = media_type.filter(|kind| !kind.is_empty()).map(str::to_owned);
    ask.app.quotas.admit_manifest(name, &bytes).await?;
    let taken = ask.app.repositories.put(name, reference, media_type, bytes).await?;
    ask.app.metrics.manifests.inc();
    let mut answer = Response::builder()
        .status(StatusCode::CREATED)
        .extension(Wrote(taken.position))
        .header(header::LOCATION, format!("/v2/{name}/manifests/{}", taken.digest))
        .header(DIGEST, taken.digest.to_string());
    if let Some(subject) = taken.subject {
        answer = answer.header(SUBJECT, subject.to_string());
    }
    Ok(built(answer, Body::empty()))
}

/// `DELETE`: a tag alone, or a manifest with its tags.
pub(super) async fn delete(
    ask: &Ask<'_>,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<Response, OciError> {
    let position = ask.app.repositories.delete(name, reference).await?;
    let answer = Response::builder().status(StatusCode::ACCEPTED).extension(Wrote(position));
    Ok(built(answer, Body::empty()))
}
