//! The one table from what went wrong to status and envelope of the vendor's API.

use axum::{
    Extension, Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    http::RoomError,
    model::Position,
    registry::{
        content::ContentError, journal::JournalError, position::Wrote, repositories::RepositoryError,
    },
    wire::envelope::{BodyFirst, Envelope},
};

/// What a handler gives.
pub(super) type Answer = Result<Response, Fail>;

/// A success with a body.
pub(super) fn done<T: Serialize>(body: T) -> Answer {
    Ok(Json(BodyFirst::from(Envelope::ok(body))).into_response())
}

/// A change that was made there in the log.
pub(super) fn changed(position: Position) -> Answer {
    Ok((Extension(Wrote(position)), Json(BodyFirst::from(Envelope::ok(())))).into_response())
}

/// Of what may pass: as long as the other API says.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// A failure.
#[derive(Debug)]
pub(super) struct Fail {
    status: StatusCode,
    message: String,
}

impl Fail {
    /// What was asked makes no sense.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// More than this registry takes at a time.
    pub(super) fn too_many(message: impl Into<String>) -> Self {
        Self { status: StatusCode::TOO_MANY_REQUESTS, message: message.into() }
    }

    /// The K8s-mac client takes 404 for "no such template"; the text is the controller's.
    pub(super) fn not_found() -> Self {
        Self { status: StatusCode::NOT_FOUND, message: "Not found".into() }
    }
}

impl IntoResponse for Fail {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::error!(status = self.status.as_u16(), error = %self.message, "request failed");
        }
        let body = Json(BodyFirst::from(Envelope::fail(self.message)));
        let mut response = (self.status, body).into_response();
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

impl From<RepositoryError> for Fail {
    fn from(error: RepositoryError) -> Self {
        let message = error.to_string();
        match error {
            RepositoryError::NoTemplate(_) | RepositoryError::NoRepository { .. } => Self::not_found(),
            // The vendor's command line prints this text.
            RepositoryError::NoVersion(_) => Self::bad(message),
            RepositoryError::Bound { .. } => Self { status: StatusCode::FORBIDDEN, message },
            RepositoryError::NoManifest { .. } | RepositoryError::NoBlob { .. } => Self::not_found(),
            RepositoryError::Needed { .. } => Self { status: StatusCode::CONFLICT, message },
            RepositoryError::Manifest(_) => Self { status: StatusCode::INTERNAL_SERVER_ERROR, message },
            RepositoryError::NotYet(_) => Self { status: StatusCode::SERVICE_UNAVAILABLE, message },
            RepositoryError::Content(error) => error.into(),
            RepositoryError::Journal(error) => error.into(),
        }
    }
}

impl From<JournalError> for Fail {
    fn from(error: JournalError) -> Self {
        let message = error.to_string();
        let status = match error {
            JournalError::Content(error) => return error.into(),
            JournalError::Never(_) => StatusCode::FORBIDDEN,
            JournalError::NotNow(_) | JournalError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            JournalError::Log(_) | JournalError::NoLog => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, message }
    }
}

impl From<ContentError> for Fail {
    fn from(error: ContentError) -> Self {
        let message = error.to_string();
        let status = match &error {
            ContentError::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
            ContentError::Conflict { .. }
            | ContentError::LeaseLost { .. }
            | ContentError::Unsure(_)
            | ContentError::Damaged { .. }
            | ContentError::TooManyUploads { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = match error {
            ContentError::Io { source, .. } => format!("{message}: {source}"),
            _ => message,
        };
        Self { status, message }
    }
}

impl From<RoomError> for Fail {
    fn from(error: RoomError) -> Self {
        let status = match error {
            RoomError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            RoomError::Full => StatusCode::TOO_MANY_REQUESTS,
            RoomError::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            RoomError::Broken => StatusCode::BAD_REQUEST,
        };
        Self { status, message: error.to_string() }
    }
}

/// A known path, another method.
pub(super) async fn wrong_method() -> Fail {
    Fail { status: StatusCode::METHOD_NOT_ALLOWED, message: "Method not allowed".into() }
}

/// A page of any origin may read what is said here. It may not change anything: its browser asks for leave first
/// (`OPTIONS`), and that is refused like every method that a path does not have.
pub(super) async fn for_any_origin(mut response: Response) -> Response {
    let any = HeaderValue::from_static("*");
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
    response
}
