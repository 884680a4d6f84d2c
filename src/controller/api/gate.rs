//! What every request passes before its handler: counted, let in or turned away, and ended in time.

use std::{panic::AssertUnwindSafe, time::Duration};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, Response, StatusCode},
    middleware::Next,
    response::IntoResponse,
};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{
    Api, POLL,
    answer::{Fail, Said},
};
use crate::{
    clock,
    controller::ops::WRITE_TIME,
    http::{RequestIdLayerState, linger},
    wire::headers,
};

/// The time for a read when the caller names none. Clients give up at 5 s, and one of them asks again then.
const READ: Duration = Duration::from_millis(4500);

/// The time for a write. Clients give up at 10 s, and a start that timed out is started again.
const WRITE: Duration = Duration::from_secs(9);

/// The least time in which a read is begun.
const LEAST_READ: Duration = Duration::from_millis(20);

/// When the answer has to be there; in the request's extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

/// Counts the answer, times it and logs the failures.
pub(super) async fn watch(State(api): State<Api>, request: Request, next: Next) -> Response<Body> {
    let begun = clock::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let id = request.extensions().get::<RequestIdLayerState>().map(|id| id.0.to_string()).unwrap_or_default();
    // A panic is a mistake of ours; the client gets an answer all the same, for some repeat a start whose
    // connection dropped.
    let response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            error!(request.id = %id, "request handler panicked");
            let why = format!("a mistake of this controller; its log says more under request {id}");
            Fail::new(StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
        }
    };
    let (status, took) = (response.status(), begun.elapsed());
    let parked = route.as_deref() == Some(POLL);
    api.counts.answered(status, (!parked).then_some(took));
    let route = route.as_deref().unwrap_or("unknown");
    let said = response.extensions().get::<Said>().map(|said| said.0.as_str()).unwrap_or_default();
    if status.is_server_error() {
        warn!(request.id = %id, %method, route, status = status.as_u16(), error = said, "request failed");
    } else {
        debug!(request.id = %id, %method, route, status = status.as_u16(), ms = took.as_millis(), said, "request answered");
    }
    response
}

/// Lets in what there is room for, once the cache is loaded.
pub(super) async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response<Body> {
    let Ok(_place) = api.places.clone().try_acquire_owned() else {
        return refuse(&api, "busy", request, "too many requests at once").await;
    };
    if !api.app.health.loaded() {
        let why = "this controller is starting: its cache is not loaded";
        let mut refused = refuse(&api, "not_ready", request, why).await;
        // So that a proxy asks another one, whatever this is.
        refused.headers_mut().insert(headers::NOT_DONE, HeaderValue::from_static("starting"));
        return refused;
    }
    next.run(request).await
}

/// Refuses what cannot be done in time, and ends with an answer what took too long: two clients repeat a start
/// whose connection dropped, and none repeats one that was answered with 5xx.
pub(super) async fn in_time(State(api): State<Api>, mut request: Request, next: Next) -> Response<Body> {
    let given = request.headers().get(headers::DEADLINE).and_then(|value| value.to_str().ok()?.parse().ok());
    let given = given.map(Duration::from_millis);
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let parks = request.uri().path() == POLL;
    let (most, least) = if reads { (READ, LEAST_READ) } else { (WRITE, WRITE_TIME) };
    let left = given.map_or(most, |given| if parks { given } else { given.min(most) });
    if left < least {
        return refuse(
            &api,
            "deadline",
            request,
            &format!("not done: {} ms are left for it", left.as_millis()),
        )
        .await;
    }
    // A poll has its own wait, and ends before the deadline by itself if there is one.
    if !parks || given.is_some() {
        request.extensions_mut().insert(Deadline(clock::now() + left));
    }
    if parks {
        return next.run(request).await;
    }
    match tokio::time::timeout(left, next.run(request)).await {
        Ok(response) => response,
        Err(_) if reads => Fail::soon("the answer took too long").into_response(),
        Err(_) => Fail::soon("it is not known whether this was done: it took too long").into_response(),
    }
}

async fn refuse(api: &Api, reason: &str, request: Request, why: &str) -> Response<Body> {
    api.counts.refused(reason);
    linger(request).await;
    Fail::soon(why).into_response()
}

/// Every unknown route, with the text that the vendor's services answer.
pub(super) async fn unknown_route() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, "404 page not found\n")
}

/// A route that exists, with a method it does not have. The router adds `Allow`.
pub(super) async fn wrong_method(method: Method) -> Fail {
    Fail::new(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} is not allowed here"))
}
