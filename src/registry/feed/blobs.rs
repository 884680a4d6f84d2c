//! Blobs by digest alone, for other registries: only what is here, complete.

use std::ops::Range;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{Feed, Refusal};
use crate::{
    http::with_parts,
    model::Digest,
    registry::range::{AskedRange, asked_range},
    wire::headers,
};

/// `GET blobs/<digest>`, with a range.
pub(super) async fn blob(
    State(feed): State<Feed>,
    Path(digest): Path<String>,
    asked: HeaderMap,
) -> Result<Response, Refusal> {
    let digest = parse(&digest)?;
    let content = feed.app.repositories.content();
    let Some(size) = content.find(&digest).await? else { return Err(not_here(&digest)) };
    let asked = asked.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (status, range): (StatusCode, Range<u64>) = match asked_range(asked, size) {
        AskedRange::Whole => (StatusCode::OK, 0..size),
        AskedRange::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        AskedRange::Unsatisfiable => {
            let error = format!("blob {digest} has {size} bytes");
            return Err(Refusal { status: StatusCode::RANGE_NOT_SATISFIABLE, code: "range", error });
        }
    };
    let Some(body) = content.read(&digest, Some(range.clone())).await? else { return Err(not_here(&digest)) };
    let mut answer = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(headers::BLOB_SIZE, size)
        .header(header::CONTENT_LENGTH, range.end - range.start);
    if status == StatusCode::PARTIAL_CONTENT {
        let of = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
        answer = answer.header(header::CONTENT_RANGE, of);
    }
    let answer = answer.body(Body::empty()).map_err(|error| Refusal::bad(error.to_string()))?;
    Ok(with_parts(answer, body.parts))
}

/// `GET blobs/<digest>/chunks`.
pub(super) async fn chunks(
    State(feed): State<Feed>,
    Path(digest): Path<String>,
) -> Result<Response, Refusal> {
    let digest = parse(&digest)?;
    let content = feed.app.repositories.content();
    let size = content.find(&digest).await?;
    let (Some(size), Some(list)) = (size, content.chunks(&digest).await?) else {
        return Err(not_here(&digest));
    };
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
        (headers::BLOB_SIZE, size.to_string()),
    ];
    Ok((headers, list.to_bytes()).into_response())
}

fn parse(text: &str) -> Result<Digest, Refusal> {
    Digest::parse(text).map_err(|error| Refusal::bad(error.to_string()))
}

fn not_here(digest: &Digest) -> Refusal {
    Refusal::missing(format!("blob {digest} is not here"))
}
