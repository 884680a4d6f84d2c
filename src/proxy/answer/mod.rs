//! What the proxy itself answers, in the format that the client of that service reads.
//!
//! Every such answer says what happened, why, and what to do next, and names the request. Clients parse the
//! bodies of error answers, so it is always JSON, never HTML.

use bytes::Bytes;
use serde_json::json;

use super::{choose::NoneLeft, guard::Refusal, hold::Full, limit::Turned};
use crate::{
    config::proxy::Kind,
    model::{Position, RequestId},
    wire::{envelope::Envelope, headers, oci},
};

/// Seconds after which a client may well ask again.
const RETRY_AFTER: &str = "2";

/// Seconds that a service in maintenance asks its clients to stay away.
const MAINTENANCE_RETRY_AFTER: &str = "30";

/// An answer that was not passed on, because another upstream might have had a better one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// Who gave it.
    pub upstream: String,
    /// Its status, one of `retry_status`.
    pub status: u16,
}

fn said(before: &Option<Before>) -> String {
    let Some(Before { upstream, status }) = before else { return String::new() };
    format!("server `{upstream}` answered {status}, then ")
}

fn too(full: Full) -> &'static str {
    match full {
        Full::Number => "too many are waiting",
        Full::Bytes => "those that wait hold too much already",
    }
}

fn needs(needed: &Option<Position>) -> String {
    needed.map_or_else(String::new, |needed| format!(", which needs position {needed}"))
}

/// An answer of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Answer {
    /// Turned away by the guard; the connection is closed after it.
    #[error("{0}")]
    Refused(Refusal),
    /// No rule of the listener fits, or the path is hidden.
    #[error("nothing is served here under this path")]
    NoRoute,
    /// The operator says so.
    #[error("`{service}` is in maintenance")]
    Maintenance {
        /// The service.
        service: String,
    },
    /// The hold is over.
    #[error("no server of `{service}` can take this request: {why}")]
    NoUpstream {
        /// The service.
        service: String,
        /// Each upstream, with why not.
        why: NoneLeft,
    },
    /// The hold is over, and who could take it is at a bound.
    #[error("no server of `{service}` has room for this request: {why}")]
    AtLimit {
        /// The service.
        service: String,
        /// Each upstream, with why not.
        why: NoneLeft,
    },
    /// Nobody is known to have what is needed.
    #[error("no server of `{service}` is fresh enough for {subject}{}: {why}", needs(.needed))]
    NotFresh {
        /// The service.
        service: String,
        /// What was asked about.
        subject: String,
        /// The position that is needed, if that is known.
        needed: Option<Position>,
        /// Each upstream, with what it has.
        why: NoneLeft,
    },
    /// Those that could be asked do not have it, and may well be behind.
    #[error("{subject}: not found where `{service}` could be asked, which may miss the last pushes: {why}")]
    NotSure {
        /// The service.
        service: String,
        /// What was asked about.
        subject: String,
        /// Each upstream, with why it could not say so.
        why: NoneLeft,
    },
    /// Too many are held already, or too much.
    #[error("no server of `{service}` can take this request and {}: {why}", too(*.full))]
    HeldFull {
        /// The service.
        service: String,
        /// Of what there is too much.
        full: Full,
        /// Each upstream, with why not.
        why: NoneLeft,
    },
    /// It was sent and no answer came.
    #[error("{}server `{upstream}` of `{service}` gave no answer ({what}); the outcome is unknown", said(.before))]
    Unknown {
        /// The service.
        service: String,
        /// The upstream of the last attempt.
        upstream: String,
        /// What went wrong.
        what: &'static str,
        /// What another had answered.
        before: Option<Before>,
    },
    /// It was sent and no answer came, but it only looked.
    #[error("{}server `{upstream}` of `{service}` gave no answer ({what}); nothing was changed", said(.before))]
    NoAnswer {
        /// The service.
        service: String,
        /// The upstream of the last attempt.
        upstream: String,
        /// What went wrong.
        what: &'static str,
        /// What another had answered.
        before: Option<Before>,
    },
    /// Not let in, or not with so much.
    #[error("{0}")]
    Turned(Turned),
    /// A mistake of ours.
    #[error("the proxy could not forward this request: {0}")]
    Internal(String),
}

impl Answer {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::NoRoute => 404,
            Self::Maintenance { .. }
            | Self::NoUpstream { .. }
            | Self::AtLimit { .. }
            | Self::NotFresh { .. }
            | Self::NotSure { .. }
            | Self::HeldFull { .. } => 503,
            Self::Turned(turned) => turned.status(),
            // The one answer that there was says more than that there was no second one.
            Self::NoAnswer { before: Some(before), .. } => before.status,
            Self::Unknown { .. } | Self::NoAnswer { .. } => 502,
            Self::Internal(_) => 500,
        }
    }

    /// Whether the connection it came on ends with it: nobody knows what follows, or nothing is to follow.
    pub fn ends_connection(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Turned(turned) => !turned.keeps_connection(),
            _ => false,
        }
    }

    /// Whether it counts as refused: for what it is, and not for the state of the servers behind.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Turned(_))
    }

    /// A stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::NoRoute => "no-route",
            Self::Maintenance { .. } => "maintenance",
            Self::NoUpstream { .. } => "no-upstream",
            Self::AtLimit { .. } => "at-limit",
            Self::NotFresh { .. } => "not-fresh",
            Self::NotSure { .. } => "not-sure",
            Self::HeldFull { .. } => "held-full",
            Self::Unknown { .. } => "outcome-unknown",
            Self::NoAnswer { .. } => "no-answer",
            Self::Turned(turned) => turned.reason(),
            Self::Internal(_) => "internal",
        }
    }

    /// What the caller can do.
    pub(super) fn next(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.next(),
            Self::NoRoute => "check the address: controllers and registries have fronts of their own",
            Self::Maintenance { .. } => "wait until the operator ends it",
            Self::NoUpstream { .. } | Self::AtLimit { .. } | Self::HeldFull { .. } => "try again shortly",
            Self::Turned(turned) => turned.next(),
            Self::NotFresh { .. } => {
                "try again shortly; `GET /admin/v1/registries` of the proxy says what it waits for"
            }
            Self::NotSure { why, .. } if why.is_write_only() => "try again shortly",
            Self::NotSure { .. } => "try again when the writer is back",
            Self::Unknown { .. } => "look whether it happened before sending it again",
            Self::NoAnswer { .. } => "send it again",
            Self::Internal(_) => "tell the operator the request id",
        }
    }

    fn retry_after(&self) -> Option<String> {
        match self {
            Self::Maintenance { .. } => Some(MAINTENANCE_RETRY_AFTER.into()),
            Self::Turned(turned) if let Some(seconds) = turned.retry_after() => Some(seconds.to_string()),
            _ if matches!(self.status(), 429 | 503) => Some(RETRY_AFTER.into()),
            _ => None,
        }
    }

    /// OCI Distribution Specification v1.1, "Error Codes", and what the reference registry adds to them.
    fn oci_code(&self) -> &'static str {
        match self.status() {
            503 => "UNAVAILABLE",
            404 => "NAME_UNKNOWN",
            429 => "TOOMANYREQUESTS",
            403 => "DENIED",
            405 | 501 | 505 => "UNSUPPORTED",
            _ => "UNKNOWN",
        }
    }
}

/// An answer as it goes out. Length, date and connection handling are the engine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Status.
    pub status: u16,
    /// Headers besides the length.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: Bytes,
}

/// Renders an answer for a client of this kind of service at this path.
pub fn render(answer: &Answer, kind: Kind, path: &str, request: &RequestId) -> Rendered {
    let (code, next) = (answer.code(), answer.next());
    let oci_api = kind == Kind::Registry && (path == "/v2" || path.starts_with("/v2/"));
    let body = if oci_api {
        serde_json::to_vec(&oci::Errors {
            errors: vec![oci::ErrorItem {
                code: answer.oci_code().into(),
                message: answer.to_string(),
                detail: Some(json!({ "code": code, "next": next, "request": request })),
            }],
        })
    } else {
        serde_json::to_vec(&Envelope::fail(format!("{answer}; {next} (code {code}, request {request})")))
    };
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("cache-control", "no-store".to_owned()),
        (headers::ANSWERED_BY, "proxy".to_owned()),
        (headers::REQUEST_ID, request.to_string()),
    ];
    headers.extend(answer.retry_after().map(|seconds| ("retry-after", seconds)));
    // Plain structs of strings always serialise.
    Rendered { status: answer.status(), headers, body: body.unwrap_or_default().into() }
}

#[cfg(test)]
mod tests;
