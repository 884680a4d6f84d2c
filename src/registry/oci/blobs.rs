//! `/v2/<name>/blobs/<digest>`: whole or one range, straight from the file (`sendfile(2)` on plain connections).

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use futures_util::StreamExt;

use super::{Ask, Code, DIGEST, OciError};
use crate::{
    http::with_parts,
    model::{Digest, RepositoryName},
    registry::{
        position::Wrote,
        range::{AskedRange, asked_range},
    },
};

/// `GET` and `HEAD`.
pub(super) async fn get(ask: &Ask<'_>, name: &RepositoryName, digest: &Digest) -> Result<Response, OciError> {
    let content = ask.app.repositories.content();
    let unknown = || {
        OciError::new(Code::BlobUnknown, format!("blob {digest} is not in `{name}`"))
            .detail(serde_json::json!({ "digest": digest }))
    };
    // A HEAD is how pushes ask what is here already: what they find must stay until they use it.
    let size = match ask.is_head() {
        true => content.keep_given(name, digest).await?,
        false if content.linked(name, digest).await? => content.find(digest).await?,
        false => None,
    };
    let size = size.ok_or_else(unknown)?;
    let etag = format!("\"{digest}\"");
    let answer = Response::builder()
        .header(DIGEST, digest.to_string())
        .header(header::ETAG, &etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CACHE_CONTROL, "max-age=31536000, immutable")
        .header(header::CONTENT_TYPE, "application/octet-stream");
    if ask.has(&etag) {
        return Ok(built(answer.status(StatusCode::NOT_MODIFIED), Body::empty()));
    }
    let same = ask.header(header::IF_RANGE).is_none_or(|known| known == etag);
    // A range is asked for with GET alone.
    let asked =
        if same && !ask.is_head() { asked_range(ask.header(header::RANGE), size) } else { AskedRange::Whole };
    let (answer, range) = match asked {
        AskedRange::Unsatisfiable => {
            return Err(OciError::new(Code::SizeInvalid, format!("the blob has {size} bytes"))
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(header::CONTENT_RANGE, &format!("bytes */{size}")));
        }
        AskedRange::Whole => (answer.status(StatusCode::OK), 0..size),
        AskedRange::Part(range) => {
            let of = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            (answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, of), range)
        }
    };
    let answer = answer.header(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if ask.is_head() {
        return Ok(built(answer, Body::empty()));
    }
    let blob =
        content.read(digest, Some(range)).await?.filter(|blob| blob.size == size).ok_or_else(unknown)?;
    let sent = ask.app.metrics.sent.clone();
    let parts = blob.parts.inspect(move |part| {
        if let Ok(part) = part {
            sent.inc_by(part.range.end - part.range.start);
        }
    });
    Ok(with_parts(built(answer, Body::empty()), parts.boxed()))
}

/// `DELETE`: takes it from this repository.
pub(super) async fn withdraw(
    ask: &Ask<'_>,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Response, OciError> {
    let position = ask.app.repositories.withdraw(name, digest).await?;
    let answer = Response::builder().status(StatusCode::ACCEPTED).extension(Wrote(position));
    Ok(built(answer, Body::empty()))
}

/// Every part of such an answer is made by us and valid, but for a media type that came with a push.
pub(super) fn built(answer: axum::http::response::Builder, body: Body) -> Response {
    answer.body(body).unwrap_or_else(|error| {
        tracing::error!(error = %error, "answer could not be built");
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
