//! The position in every answer: for a read one that the answer is not older than, for a change its own.

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};

use super::journal::Journal;
use crate::{model::Position, wire::headers};

/// Put into the answer to a change by its handler.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wrote(pub(super) Position);

/// Put into the answer to a read about one repository by its handler: when that last changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shows(pub(super) Position);

/// Sets the headers.
pub(super) async fn stamp(State(journal): State<Journal>, request: Request, next: Next) -> Response {
    // Taken before anything is read: what is read then is not older.
    let before = journal.at();
    let lists = ["/registry/vm", "/registry/v2/vm", "/registry/vm/info", "/v2/_catalog"];
    let lists = lists.contains(&request.uri().path());
    let mut response = next.run(request).await;
    let Some(claimed) = before.claimed() else {
        response.headers_mut().remove(headers::CHANGED);
        return response;
    };
    let wrote = response.extensions().get::<Wrote>().map(|wrote| wrote.0);
    let shows = response.extensions().get::<Shows>().map(|shows| shows.0);
    // A list is made of one repository after the other: what it shows is known when it is made.
    let shows = shows.or_else(|| lists.then(|| journal.at().shown));
    set(&mut response, headers::POSITION, wrote.unwrap_or(claimed));
    if let Some(shows) = shows {
        set(&mut response, headers::CHANGED, shows);
    }
    response
}

fn set(response: &mut Response, name: &'static str, position: Position) {
    // Digits and a dot are a header's value.
    if let Ok(value) = HeaderValue::from_str(&position.to_string()) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}
