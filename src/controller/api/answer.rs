//! What is answered: the vendor's envelope, and the one table from a failure to its status and text.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;

use crate::{
    controller::{lists::Seen, ops::OpsError},
    http::RoomError,
    wire::{envelope::Envelope, headers},
};

/// When to come back if nothing better is known, for limits of this process: they move quickly.
const SOON: Duration = Duration::from_secs(1);

/// When to ask again for what hangs on the registries: a failover of theirs takes seconds.
const REGISTRY_RETRY: Duration = Duration::from_secs(2);

/// Done, with a body.
pub(super) struct Done<T>(pub(super) T);

/// Done, with nothing to say.
pub(super) struct Empty;

/// Done, in the one word that the vendor's samples show for resources (C §10).
pub(super) struct Saved;

/// Done, with the bare answer: the agent's protocol has no envelope around successes.
pub(super) struct Bare<T>(pub(super) T);

/// Not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fail {
    pub(super) status: StatusCode,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
}

/// A failure's text, on the response for whoever writes the log.
#[derive(Debug, Clone)]
pub(super) struct Said(pub(super) String);

impl Fail {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Certainly not done, worth another try after a while. The header makes it an answer, not a failure of this
    /// server: no proxy ejects a controller for it.
    pub(super) fn later(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    pub(super) fn soon(message: impl Into<String>) -> Self {
        Self::later(message, SOON)
    }

    /// An answer that cannot be written as JSON: a mistake of ours.
    pub(super) fn ours(error: &serde_json::Error) -> Self {
        tracing::error!(error = %error, "answer could not be written as JSON");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written")
    }

    /// For the agent's protocol, where 200 is always a success.
    pub(super) fn for_agent(error: OpsError) -> Self {
        let fail = Self::from(error);
        if fail.status == StatusCode::OK { Self { status: StatusCode::NOT_FOUND, ..fail } } else { fail }
    }
}

/// The table. Places are in `reference/`: C is `controller-api.md`, R is `real-clients.md`.
impl From<OpsError> for Fail {
    fn from(error: OpsError) -> Self {
        let text = error.to_string();
        match error {
            // jenkins, teamcity (C §1.1 note, R §1): 400 and more is an exception, 200 with FAIL is "instance gone";
            // mgmtcl (C §1.2) compares the text `Not found`.
            OpsError::NotFound => Self::new(StatusCode::OK, text),
            // jenkins, teamcity (C §1.2, R §1, §2): repeat the start without a tag, only if 200 and exactly this text.
            OpsError::NoSuchTag(_) => Self::new(StatusCode::OK, text),
            // drone, mgmtcl (C §1.1, R §5): 400 and the text `VM not in the registry`.
            OpsError::NotInRegistry => Self::bad(text),
            // every client (C §13): not repeated, the text is shown.
            OpsError::BadInput(_) => Self::bad(text),
            // jenkins (C §1.1): 403 is "unauthorized".
            OpsError::Forbidden(_) => Self::new(StatusCode::FORBIDDEN, text),
            // no client names it; like every 4xx it is shown and not repeated (R §1, §3).
            OpsError::Conflict(_) => Self::new(StatusCode::CONFLICT, text),
            // proxies and our own command line (design §6.2): the key was used for something else.
            OpsError::KeyReused => Self::new(StatusCode::UNPROCESSABLE_ENTITY, text),
            // every client (C §1.1, R §11): 5xx is shown and not repeated by jenkins and teamcity, so no doubles;
            // our proxy holds or asks another controller.
            OpsError::Unavailable { retry_after, .. } => Self::later(text, retry_after),
            OpsError::Unknown(_) => Self::later(text, SOON),
            OpsError::RegistryDown(_) => Self::later(text, REGISTRY_RETRY),
            // the agent and our proxy (design §4.3): an answer, never an ejection.
            OpsError::TooMany(_) => {
                Self { retry_after: Some(SOON), ..Self::new(StatusCode::TOO_MANY_REQUESTS, text) }
            }
        }
    }
}

/// Bodies that were not taken (C §13: nothing public says; each is shown, none repeated).
impl From<RoomError> for Fail {
    fn from(error: RoomError) -> Self {
        let text = error.to_string();
        match error {
            RoomError::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, text),
            RoomError::Slow(_) => Self::new(StatusCode::REQUEST_TIMEOUT, text),
            RoomError::Broken => Self::bad(text),
            RoomError::Full => Self::soon(text),
        }
    }
}

/// This value as JSON.
fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n'); // as the vendor's services end their answers (C §1)
            let mut response = Response::new(Body::from(bytes));
            *response.status_mut() = status;
            as_json(&mut response);
            response
        }
        Err(error) => Fail::ours(&error).into_response(),
    }
}

/// The headers of every answer (C §1).
pub(super) fn as_json(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

impl<T: Serialize> IntoResponse for Done<T> {
    fn into_response(self) -> Response<Body> {
        json(StatusCode::OK, &Envelope::ok(self.0))
    }
}

impl IntoResponse for Empty {
    fn into_response(self) -> Response<Body> {
        json(StatusCode::OK, &Envelope::done())
    }
}

impl IntoResponse for Saved {
    fn into_response(self) -> Response<Body> {
        json(StatusCode::OK, &Envelope { message: "Saved".into(), ..Envelope::done() })
    }
}

impl<T: Serialize> IntoResponse for Bare<T> {
    fn into_response(self) -> Response<Body> {
        json(StatusCode::OK, &self.0)
    }
}

impl IntoResponse for Fail {
    fn into_response(self) -> Response<Body> {
        let mut response = json(self.status, &Envelope::fail(&*self.message));
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs().max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(Said(self.message));
        response
    }
}

/// What can be read, and so be behind.
pub(super) trait Answers: IntoResponse {}

impl<T> Answers for Done<T> where Self: IntoResponse {}
impl<T> Answers for Bare<T> where Self: IntoResponse {}

/// A reading: done, and marked if it may be behind.
impl<T: Answers> IntoResponse for Seen<T> {
    fn into_response(self) -> Response<Body> {
        let mut response = self.value.into_response();
        if let Some(why) = self.stale {
            let why = HeaderValue::from_str(&why).unwrap_or(HeaderValue::from_static("unknown"));
            response.headers_mut().insert(HeaderName::from_static(headers::STALE), why);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn check(error: OpsError, status: u16, body: &str) {
        let response = Fail::from(error.clone()).into_response();
        assert_eq!(response.status(), status, "{error:?}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let waits = response.headers().contains_key(header::RETRY_AFTER);
        assert_eq!(waits, [503, 429].contains(&status), "{error:?}");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(String::from_utf8_lossy(&bytes), format!("{body}\n"), "{error:?}");
    }

    #[tokio::test]
    async fn each_failure_has_the_status_and_text_that_clients_compare() {
        let fail = |text: &str| format!(r#"{{"status":"FAIL","message":"{text}"}}"#);
        check(OpsError::NotFound, 200, &fail("Not found")).await;
        check(OpsError::NoSuchTag("v3+ssh".into()), 200, &fail("No such tag v3+ssh")).await;
        check(OpsError::NotInRegistry, 400, &fail("VM not in the registry")).await;
        check(OpsError::BadInput("`count`: 0".into()), 400, &fail("`count`: 0")).await;
        check(OpsError::Conflict("x".into()), 409, &fail("x")).await;
        check(OpsError::KeyReused, 422, &fail(&OpsError::KeyReused.to_string())).await;
        check(OpsError::unavailable("no leader"), 503, &fail("no leader")).await;
        check(OpsError::Unknown("x".into()), 503, &fail(&OpsError::Unknown("x".into()).to_string())).await;
        check(OpsError::RegistryDown("x".into()), 503, &fail("x")).await;
        check(OpsError::TooMany("x".into()), 429, &fail("x")).await;
    }

    #[test]
    fn the_page_about_errors_has_each_failure_with_its_status() {
        let page = include_str!("../../../docs/errors.md");
        let (_, table) = page.split_once("## Answers of a controller").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        let (told, of_room) = ("x".to_owned(), |error: RoomError| Fail::from(error));
        let fails = [
            OpsError::NotFound,
            OpsError::NoSuchTag("…".into()),
            OpsError::NotInRegistry,
            OpsError::BadInput(told.clone()),
            OpsError::Conflict(told.clone()),
            OpsError::KeyReused,
            OpsError::unavailable("x"),
            OpsError::Unknown("…".into()),
            OpsError::RegistryDown(told.clone()),
            OpsError::TooMany(told),
        ];
        let fails = fails.into_iter().map(Fail::from).chain([
            of_room(RoomError::TooLarge { limit: 1 }),
            of_room(RoomError::Slow(SOON)),
            of_room(RoomError::Broken),
            of_room(RoomError::Full),
        ]);
        let mut statuses = vec!["500".to_owned()];
        for Fail { status, message, .. } in fails {
            statuses.push(status.as_u16().to_string());
            let row = format!("| {} | `{message}` |", status.as_u16());
            // Where the text is another one each time, the row describes it.
            let described = table.contains(&format!("| {} | ", status.as_u16()));
            let fixed = message.len() > 8 && status != StatusCode::BAD_REQUEST && status.as_u16() < 500
                || message.starts_with("it is not known");
            let bounded = message.starts_with("the body") || message.starts_with("too many");
            assert!(if fixed && !bounded { table.contains(&row) } else { described }, "{row}");
        }
        let written = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        for status in written.filter(|cell| cell.starts_with(|c: char| c.is_ascii_digit())) {
            assert!(statuses.iter().any(|known| known == status), "no answer has {status}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_body_has_no_body_key_and_one_with_an_empty_list_has_a_list() {
        let text = async |response: Response<Body>| {
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
        };
        assert_eq!(text(Empty.into_response()).await, "{\"status\":\"OK\",\"message\":\"\"}\n");
        let empty = Done(Vec::<u8>::new()).into_response();
        assert_eq!(text(empty).await, "{\"status\":\"OK\",\"message\":\"\",\"body\":[]}\n");
    }

    #[test]
    fn agents_never_get_a_failure_with_200() {
        assert_eq!(Fail::for_agent(OpsError::NotFound).status, 404);
        assert_eq!(Fail::for_agent(OpsError::Conflict("x".into())).status, 409);
    }
}
