//! The OCI Distribution API v1.1 under `/v2/`. Handlers translate; nothing is decided by a media type.

mod answer;
mod blobs;
mod body;
mod manifests;
mod owner;
mod path;
mod tags;
mod uploads;

use std::net::IpAddr;

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{apikeys::is_hidden, query::Query, repositories::RepositoryError, state::App};
use crate::{http::Peer, model::Position};
use answer::{Code, OciError};
use path::Target;

/// Clients look for it to know what they talk to.
const API_VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Everything under `/v2/`.
pub(super) async fn serve(State(app): State<App>, request: Request) -> Response {
    let asks_first = request.headers().contains_key(header::EXPECT);
    let mut response = match route(&app, request).await {
        Ok(response) => response,
        Err(error) if asks_first => error.client_waits().into_response(),
        Err(error) => error.into_response(),
    };
    response.headers_mut().insert(API_VERSION.0, API_VERSION.1);
    response
}

async fn route(app: &App, request: Request) -> Result<Response, OciError> {
    let (parts, body) = request.into_parts();
    let target = match path::parse(parts.uri.path()) {
        Ok(target) => target,
        Err(fault) => return Err(OciError::from(fault).with_body(body)),
    };
    if let Some(hidden) = target.repository().filter(|name| is_hidden(name)) {
        let unknown = RepositoryError::NoRepository { repository: hidden.clone(), changed: Position::ZERO };
        return Err(OciError::from(unknown).with_body(body));
    }
    let ask = Ask {
        app,
        method: parts.method,
        headers: parts.headers,
        peer: parts.extensions.get::<ConnectInfo<Peer>>().map(|peer| peer.0.address.ip()),
        query: Query::parse(parts.uri.query().unwrap_or_default()),
    };
    let read = matches!(ask.method, Method::GET | Method::HEAD);
    if !read && let Err(error) = app.repositories.journal().check_writes() {
        return Err(OciError::from(error).with_body(body));
    }
    match (target, ask.method.as_str()) {
        (Target::Base, _) if read => Ok(json(StatusCode::OK, &serde_json::json!({}))),
        (Target::Repositories, _) if read => tags::repositories(&ask).await,
        (Target::Tags(name), _) if read => tags::list(&ask, &name).await,
        (Target::Referrers(name, digest), _) if read => tags::referrers(&ask, &name, &digest).await,
        (Target::Blob(name, digest), _) if read => blobs::get(&ask, &name, &digest).await,
        (Target::Blob(name, digest), "DELETE") => blobs::withdraw(&ask, &name, &digest).await,
        (Target::Manifest(name, reference), _) if read => manifests::get(&ask, &name, &reference).await,
        (Target::Manifest(name, reference), "PUT") => manifests::put(&ask, &name, &reference, body).await,
        (Target::Manifest(name, reference), "DELETE") => manifests::delete(&ask, &name, &reference).await,
        (Target::Uploads(name), "POST") => uploads::begin(&ask, &name, body).await,
        (Target::Upload(name, id), _) if read => uploads::status(&ask, &name, &id).await,
        (Target::Upload(name, id), "PATCH") => uploads::append(&ask, &name, &id, body).await,
        (Target::Upload(name, id), "PUT") => uploads::finish(&ask, &name, &id, body).await,
        (Target::Upload(name, id), "DELETE") => uploads::cancel(&ask, &name, &id).await,
        (target, _) => Err(OciError::new(Code::Unsupported, "this method is not supported here")
            .status(StatusCode::METHOD_NOT_ALLOWED)
            .header(header::ALLOW, target.methods())
            .with_body(body)),
    }
}

/// One request, without its body.
struct Ask<'a> {
    app: &'a App,
    method: Method,
    headers: HeaderMap,
    peer: Option<IpAddr>,
    query: Query,
}

impl Ask<'_> {
    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whose an upload is that this request begins.
    fn owner(&self) -> String {
        let forwarded = self.headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok());
        let owner = self.peer.map(|peer| owner::of(peer, forwarded, &self.app.limits.trusted));
        owner.map(|owner| owner.to_string()).unwrap_or_default()
    }

    /// A header's text, if it is given and readable.
    fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body's declared length.
    fn content_length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok())
    }

    /// Whether the client has this content already.
    fn has(&self, etag: &str) -> bool {
        let given = self.header(header::IF_NONE_MATCH).unwrap_or_default();
        given.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == etag)
    }
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    (status, axum::Json(body)).into_response()
}
