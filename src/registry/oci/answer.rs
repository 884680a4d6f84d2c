//! The one table from what went wrong to status, code and body of the OCI API.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{body::lingering, path::PathFault};
use crate::{
    model::{Digest, DigestError, Position},
    registry::{
        content::ContentError,
        journal::JournalError,
        repositories::{ManifestFault, RepositoryError},
    },
    wire::{
        headers,
        oci::{ErrorItem, Errors},
    },
};

/// The specification's error codes, and two of the reference implementation's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    PaginationInvalid,
    SizeInvalid,
    TooManyRequests,
    Unknown,
    Unsupported,
}

impl Code {
    fn word_and_status(self) -> (&'static str, StatusCode) {
        match self {
            Self::BlobUnknown => ("BLOB_UNKNOWN", StatusCode::NOT_FOUND),
            Self::BlobUploadInvalid => ("BLOB_UPLOAD_INVALID", StatusCode::BAD_REQUEST),
            Self::BlobUploadUnknown => ("BLOB_UPLOAD_UNKNOWN", StatusCode::NOT_FOUND),
            Self::Denied => ("DENIED", StatusCode::FORBIDDEN),
            Self::DigestInvalid => ("DIGEST_INVALID", StatusCode::BAD_REQUEST),
            Self::ManifestBlobUnknown => ("MANIFEST_BLOB_UNKNOWN", StatusCode::BAD_REQUEST),
            Self::ManifestInvalid => ("MANIFEST_INVALID", StatusCode::BAD_REQUEST),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", StatusCode::NOT_FOUND),
            Self::NameInvalid => ("NAME_INVALID", StatusCode::BAD_REQUEST),
            Self::NameUnknown => ("NAME_UNKNOWN", StatusCode::NOT_FOUND),
            Self::PaginationInvalid => ("PAGINATION_NUMBER_INVALID", StatusCode::BAD_REQUEST),
            Self::SizeInvalid => ("SIZE_INVALID", StatusCode::BAD_REQUEST),
            Self::TooManyRequests => ("TOOMANYREQUESTS", StatusCode::TOO_MANY_REQUESTS),
            Self::Unknown => ("UNKNOWN", StatusCode::INTERNAL_SERVER_ERROR),
            Self::Unsupported => ("UNSUPPORTED", StatusCode::BAD_REQUEST),
        }
    }
}

/// Things missing that one answer names; the first one's message has their number.
const MISSING_TOLD: usize = 256;

/// An error answer.
#[derive(Debug)]
pub(super) struct OciError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    status: StatusCode,
    code: &'static str,
    message: String,
    detail: Option<Value>,
    more: Vec<ErrorItem>,
    headers: HeaderMap,
    /// A request body that is still coming; see [`lingering`].
    unread: Option<Body>,
    /// Some of it was read.
    begun: bool,
}

impl OciError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        let (code, status) = code.word_and_status();
        let message = message.into();
        Self(Box::new(Inner {
            status,
            code,
            message,
            detail: None,
            more: Vec::new(),
            headers: HeaderMap::new(),
            unread: None,
            begun: false,
        }))
    }

    /// 503: later perhaps.
    fn not_now(text: String) -> Self {
        Self::new(Code::Unknown, text)
            .status(StatusCode::SERVICE_UNAVAILABLE)
            .header(header::RETRY_AFTER, "2")
    }

    /// One error for each thing that a manifest needs and that is not here.
    fn missing(text: String, missing: &[Digest]) -> Self {
        let mut answer = Self::new(Code::ManifestBlobUnknown, text);
        let mut each = missing.iter().take(MISSING_TOLD).map(|digest| json!({ "digest": digest }));
        answer.0.detail = each.next();
        answer.0.more = each
            .map(|detail| ErrorItem {
                code: answer.0.code.into(),
                message: "not in the repository".into(),
                detail: Some(detail),
            })
            .collect();
        answer
    }

    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    pub(super) fn detail(mut self, detail: Value) -> Self {
        self.0.detail = Some(detail);
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.insert(name, value);
        }
        self
    }

    /// The refused request's body: read and dropped for a moment, so that the answer reaches its sender.
    pub(super) fn with_body(mut self, body: Body) -> Self {
        self.0.unread = Some(body);
        self
    }

    /// As [`OciError::with_body`], for a body of which some was taken.
    pub(super) fn with_rest(mut self, body: Body) -> Self {
        self.0.begun = true;
        self.with_body(body)
    }

    /// The client asked before it sends: a body that nobody began to read will not come.
    pub(super) fn client_waits(mut self) -> Self {
        if !self.0.begun {
            self.0.unread = None;
        }
        self
    }
}

impl IntoResponse for OciError {
    fn into_response(self) -> Response {
        let Inner { status, code, message, detail, more, headers, unread, .. } = *self.0;
        if status.is_server_error() {
            tracing::error!(status = status.as_u16(), error = %message, "request failed");
        }
        let mut errors = vec![ErrorItem { code: code.into(), message, detail }];
        errors.extend(more);
        let text = serde_json::to_vec(&Errors { errors }).unwrap_or_default();
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = match unread {
            Some(body) => (status, json, lingering(text, body)).into_response(),
            None => (status, json, text).into_response(),
        };
        response.headers_mut().extend(headers);
        response
    }
}

impl From<PathFault> for OciError {
    fn from(fault: PathFault) -> Self {
        let code = match &fault {
            PathFault::Name(_) => Code::NameInvalid,
            // The specification has no code of its own for a tag.
            PathFault::Tag(_) => Code::ManifestInvalid,
            PathFault::Digest(_) => Code::DigestInvalid,
            PathFault::Unknown => {
                return Self::new(Code::Unsupported, fault.to_string()).status(StatusCode::NOT_FOUND);
            }
        };
        Self::new(code, fault.to_string())
    }
}

impl From<DigestError> for OciError {
    fn from(error: DigestError) -> Self {
        Self::new(Code::DigestInvalid, error.to_string())
    }
}

impl From<ContentError> for OciError {
    fn from(error: ContentError) -> Self {
        let text = error.to_string();
        match error {
            ContentError::Full { free, needed } => Self::new(Code::Unknown, text)
                .status(StatusCode::INSUFFICIENT_STORAGE)
                .detail(json!({ "free": free, "needed": needed })),
            ContentError::TooManyUploads { .. } => {
                Self::new(Code::TooManyRequests, text).header(header::RETRY_AFTER, "5")
            }
            ContentError::UnknownUpload => Self::new(Code::BlobUploadUnknown, text),
            ContentError::ElsewhereUpload { registry } => {
                Self::new(Code::BlobUploadUnknown, text).detail(json!({ "registry": registry }))
            }
            ContentError::Overtaken => Self::new(Code::BlobUploadInvalid, text).status(StatusCode::CONFLICT),
            ContentError::Corrupt { .. } => Self::new(Code::DigestInvalid, text),
            ContentError::Conflict { .. } | ContentError::LeaseLost { .. } | ContentError::Unsure(_) => {
                Self::new(Code::Unknown, text)
                    .status(StatusCode::SERVICE_UNAVAILABLE)
                    .header(header::RETRY_AFTER, "1")
            }
            // Another registry may have it whole: a proxy asks the next one.
            ContentError::Damaged { .. } => Self::new(Code::Unknown, text)
                .status(StatusCode::SERVICE_UNAVAILABLE)
                .header(header::RETRY_AFTER, "10"),
            ContentError::Io { source, .. } => Self::new(Code::Unknown, format!("{text}: {source}")),
        }
    }
}

impl From<JournalError> for OciError {
    fn from(error: JournalError) -> Self {
        let text = error.to_string();
        match error {
            JournalError::Content(error) => error.into(),
            JournalError::Never(_) => Self::new(Code::Denied, text),
            JournalError::NotNow(_) | JournalError::Stopping => Self::not_now(text),
            JournalError::Log(_) | JournalError::NoLog => Self::new(Code::Unknown, text),
        }
    }
}

impl From<RepositoryError> for OciError {
    fn from(error: RepositoryError) -> Self {
        let text = error.to_string();
        // What is not there went by some change, too: who has read that never goes back behind it.
        let shows = match &error {
            RepositoryError::NoRepository { changed, .. } | RepositoryError::NoManifest { changed, .. } => {
                Some(*changed).filter(|changed| *changed > Position::ZERO)
            }
            _ => None,
        };
        let code = match error {
            RepositoryError::Content(error) => return error.into(),
            RepositoryError::Journal(error) => return error.into(),
            RepositoryError::NotYet(_) => return Self::not_now(text),
            RepositoryError::NoRepository { .. } => Code::NameUnknown,
            RepositoryError::NoManifest { .. }
            | RepositoryError::NoTemplate(_)
            | RepositoryError::NoVersion(_) => Code::ManifestUnknown,
            RepositoryError::Bound { .. } => Code::Denied,
            RepositoryError::NoBlob { blob, .. } => {
                return Self::new(Code::BlobUnknown, text).detail(json!({ "digest": blob }));
            }
            // The specification has this status for a blob that may not be deleted.
            RepositoryError::Needed { blob, manifest } => {
                return Self::new(Code::Denied, text)
                    .status(StatusCode::METHOD_NOT_ALLOWED)
                    .header(header::ALLOW, "GET, HEAD")
                    .detail(json!({ "digest": blob, "manifest": manifest }));
            }
            RepositoryError::Manifest(fault) => match fault {
                ManifestFault::Form(_) => Code::ManifestInvalid,
                ManifestFault::Digest { .. } | ManifestFault::Reference { .. } => Code::DigestInvalid,
                ManifestFault::Missing(missing) => return Self::missing(text, &missing),
                ManifestFault::Size { .. } => Code::SizeInvalid,
            },
        };
        let answer = Self::new(code, text);
        match shows {
            Some(shows) => answer.header(HeaderName::from_static(headers::CHANGED), &shows.to_string()),
            None => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code behind this one; one that is new has to get a place here, and a row on the page.
    fn behind(last: Option<Code>) -> Option<Code> {
        Some(match last {
            None => Code::BlobUnknown,
            Some(Code::BlobUnknown) => Code::BlobUploadInvalid,
            Some(Code::BlobUploadInvalid) => Code::BlobUploadUnknown,
            Some(Code::BlobUploadUnknown) => Code::Denied,
            Some(Code::Denied) => Code::DigestInvalid,
            Some(Code::DigestInvalid) => Code::ManifestBlobUnknown,
            Some(Code::ManifestBlobUnknown) => Code::ManifestInvalid,
            Some(Code::ManifestInvalid) => Code::ManifestUnknown,
            Some(Code::ManifestUnknown) => Code::NameInvalid,
            Some(Code::NameInvalid) => Code::NameUnknown,
            Some(Code::NameUnknown) => Code::PaginationInvalid,
            Some(Code::PaginationInvalid) => Code::SizeInvalid,
            Some(Code::SizeInvalid) => Code::TooManyRequests,
            Some(Code::TooManyRequests) => Code::Unknown,
            Some(Code::Unknown) => Code::Unsupported,
            Some(Code::Unsupported) => return None,
        })
    }

    #[test]
    fn the_page_about_errors_has_every_code_with_its_status() {
        let page = include_str!("../../../docs/errors.md");
        let (_, table) = page.split_once("## Codes of a registry").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        let codes: Vec<Code> = std::iter::successors(behind(None), |last| behind(Some(*last))).collect();
        assert_eq!(rows.len(), codes.len());
        for (row, code) in rows.iter().zip(codes) {
            let (word, status) = code.word_and_status();
            assert_eq!(row[1].trim_matches('`'), word);
            assert!(row[2].split(", ").any(|one| one == status.as_str()), "{row:?}");
        }
    }
}
