//! API keys, and the two steps by which a key's holder comes to a session: the same at both roles, under paths of their
//! own (`reference/controller-api.md` §9, `reference/authentication.md` §4).

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::{
    Refusal, Sessions, Who,
    gate::{Gate, refused},
    keys::{ApiKey, KeysError, id_of},
};
use crate::{
    clock,
    http::{BodyRoom, RoomError},
    model::ApiKeyId,
    tls::rsa,
    wire::{
        apikey::{ApiKeyAsk, Handshake, split},
        envelope::{BodyFirst, Envelope, Status},
    },
};

/// Longest body: a public key of 4096 bits and a hundred groups have a fraction of it.
const BODY: usize = 64 * 1024;

/// Bytes of all such bodies at once. More: 503.
const BODIES: usize = 4 * 1024 * 1024;

/// How long a body may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// Keys that are made at once: each keeps a processor busy for a tenth of a second. More wait.
const MAKING: usize = 2;

/// How the answers of a role look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// A controller's: what is not there is 200 with `FAIL`.
    Controller,
    /// A registry's: 404, and the body before the message.
    Registry,
}

/// What the handlers are given.
#[derive(Clone)]
struct Desk {
    gate: Gate,
    manner: Manner,
    room: BodyRoom,
    making: Arc<Semaphore>,
}

/// The routes; those of keys under `path`.
pub fn routes<S: Clone + Send + Sync + 'static>(gate: &Gate, manner: Manner, path: &str) -> Router<S> {
    let desk = Desk {
        gate: gate.clone(),
        manner,
        room: BodyRoom::new(BODY, BODIES, PATIENCE),
        making: Arc::new(Semaphore::new(MAKING)),
    };
    Router::new()
        .route("/tap/v1/hand", post(hand))
        .route("/tap/v1/shake", post(shake))
        .route(path, get(show).post(make).put(change).delete(remove))
        .with_state(desk)
}

/// Why a call was not done: a status and words.
struct Fail(StatusCode, String);

impl Fail {
    fn bad(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }
}

impl From<RoomError> for Fail {
    fn from(error: RoomError) -> Self {
        let status = match error {
            RoomError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            RoomError::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            RoomError::Broken => StatusCode::BAD_REQUEST,
            RoomError::Full => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, error.to_string())
    }
}

impl Desk {
    fn sessions(&self) -> Result<&Sessions, Fail> {
        let off = || {
            Fail(
                StatusCode::NOT_FOUND,
                "API keys are off here: `api_keys` in `[auth]` switches them on".into(),
            )
        };
        self.gate.auth().sessions().ok_or_else(off)
    }

    /// Keys are changed by operators: whoever has one could make others, for longer.
    fn sessions_of_operator(&self, who: &Who) -> Result<&Sessions, Fail> {
        let sessions = self.sessions()?;
        let denied = || {
            Fail(StatusCode::FORBIDDEN, "Permission denied: API keys are changed with the root token".into())
        };
        who.is_operator().then_some(sessions).ok_or_else(denied)
    }

    fn failed(&self, error: &KeysError) -> Fail {
        let status = match (error, self.manner) {
            (KeysError::Bad(_), _) => StatusCode::BAD_REQUEST,
            (KeysError::Exists(_) | KeysError::TooMany, _) => StatusCode::CONFLICT,
            (KeysError::NotFound, Manner::Controller) => StatusCode::OK,
            (KeysError::NotFound, Manner::Registry) => StatusCode::NOT_FOUND,
            (KeysError::NotHere(_), _) => StatusCode::FORBIDDEN,
            (KeysError::Unavailable(_), _) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Fail(status, error.to_string())
    }

    fn done<T: Serialize>(&self, body: Option<T>) -> Response {
        self.answer(StatusCode::OK, Envelope { status: Status::Ok, message: String::new(), body })
    }

    fn fail(&self, Fail(status, message): Fail) -> Response {
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), error = %message, "call about API keys failed");
        }
        self.answer(status, Envelope::<()> { status: Status::Fail, message, body: None })
    }

    fn answer<T: Serialize>(&self, status: StatusCode, envelope: Envelope<T>) -> Response {
        let text = match self.manner {
            Manner::Controller => serde_json::to_vec(&envelope),
            Manner::Registry => serde_json::to_vec(&BodyFirst::from(envelope)),
        };
        let mut response = json(text.unwrap_or_default());
        *response.status_mut() = status;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    fn refused(&self, what: &'static str, refusal: &Refusal) -> Response {
        self.gate.handshake(refusal.label());
        tracing::debug!(handshake.step = what, why = refusal.label(), "handshake refused");
        match refusal {
            Refusal::NotNow(why) => self.fail(Fail(StatusCode::SERVICE_UNAVAILABLE, why.clone())),
            other => refused(other, false),
        }
    }

    /// The body, whatever it says it is; nothing counts as `{}`.
    async fn body<T: DeserializeOwned>(&self, request: Request) -> Result<T, Fail> {
        let body = self.room.read(request).await?;
        let bytes = body.bytes().trim_ascii();
        let text = if bytes.is_empty() || bytes == b"null" { b"{}" } else { bytes };
        if !text.starts_with(b"{") {
            return Err(Fail::bad("the body is not a JSON object"));
        }
        serde_json::from_slice(text).map_err(|error| Fail::bad(format!("the body cannot be read: {error}")))
    }

    /// What is asked about a key, in the body and in the query; the query goes first.
    async fn ask(&self, request: Request) -> Result<ApiKeyAsk, Fail> {
        let query = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
        let Query(query) = query.map_err(|error| Fail::bad(format!("the query: {error}")))?;
        let mut ask: ApiKeyAsk = self.body(request).await?;
        for (key, value) in query.into_iter().filter(|(_, value)| !value.is_empty()) {
            match key.as_str() {
                "id" => ask.id = Some(value),
                "ttl" => {
                    let ttl = value.trim().parse();
                    ask.ttl = Some(ttl.map_err(|_| Fail::bad("`ttl`: expected a whole number"))?);
                }
                "groups" => ask.groups = Some(split(&value)),
                // A plus of base64 that nobody has escaped arrives as a blank.
                "publicKey" => ask.public_key = Some(value.replace(' ', "+")),
                _ => {}
            }
        }
        Ok(ask)
    }

    async fn made(&self, ask: ApiKeyAsk) -> Result<Option<String>, Fail> {
        let sessions = self.sessions()?;
        let (public, private) = match &ask.public_key {
            Some(text) => {
                let (_, public) =
                    rsa::PublicKey::read(text).map_err(|why| Fail::bad(format!("`publicKey` {why}")))?;
                (public, None)
            }
            None => {
                // What is wrong with the rest is said before a processor is kept busy.
                ApiKey::new(&ask, &[], [0; 16], clock::wall()).map_err(|error| self.failed(&error))?;
                let _place = self.making.acquire().await;
                let pair = tokio::task::spawn_blocking(rsa::generate).await.unwrap_or(Err(rsa::Failed));
                let failed = |error: rsa::Failed| Fail(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
                let (private, public) = pair.map_err(failed)?;
                (public, Some(STANDARD.encode(private)))
            }
        };
        let key = ApiKey::new(&ask, &public, rand::random(), clock::wall());
        let key = key.map_err(|error| self.failed(&error))?;
        let id = key.id.clone();
        sessions.keys.add(key).await.map_err(|error| self.failed(&error))?;
        tracing::info!(key.id = %id, "API key made");
        Ok(private)
    }
}

fn json(text: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from([&text[..], b"\n"].concat()));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `{"id"}` → the secret, encrypted: bare base64 without a line end, which one client's decoder does not take.
async fn hand(State(desk): State<Desk>, request: Request) -> Response {
    let asked = async {
        let sessions = desk.sessions()?;
        let Handshake { id, .. } = desk.body(request).await?;
        let id = id.ok_or_else(|| Fail::bad("`id` is required: the API key's"))?;
        Ok::<_, Fail>((sessions, ApiKeyId::parse(id)))
    };
    let handed = match asked.await {
        Err(fail) => return desk.fail(fail),
        // What cannot be an id is nobody's.
        Ok((_, Err(_))) => Err(Refusal::Gone),
        Ok((sessions, Ok(id))) => sessions.hand(&id).await,
    };
    match handed {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain"), (header::CACHE_CONTROL, "no-store")], text)
            .into_response(),
        Err(refusal) => desk.refused("hand", &refusal),
    }
}

/// `{"id","secret"}` → a session, as plain JSON without an envelope.
async fn shake(State(desk): State<Desk>, request: Request) -> Response {
    let asked = async {
        let sessions = desk.sessions()?;
        let Handshake { id, secret } = desk.body(request).await?;
        let id = id.ok_or_else(|| Fail::bad("`id` is required: the API key's"))?;
        let secret =
            secret.ok_or_else(|| Fail::bad("`secret` is required: what /tap/v1/hand gave, decrypted"))?;
        Ok::<_, Fail>((sessions, ApiKeyId::parse(id), secret))
    };
    let shaken = match asked.await {
        Err(fail) => return desk.fail(fail),
        Ok((_, Err(_), _)) => Err(Refusal::Gone),
        Ok((sessions, Ok(id), secret)) => sessions.shake(&id, &secret).await,
    };
    match shaken {
        Ok(shaken) => {
            desk.gate.handshake("done");
            json(serde_json::to_vec(&shaken).unwrap_or_default())
        }
        Err(refusal) => desk.refused("shake", &refusal),
    }
}

/// One key, or all of them.
async fn show(State(desk): State<Desk>, request: Request) -> Response {
    let shown = async {
        let sessions = desk.sessions()?;
        let ask = desk.ask(request).await?;
        if ask.id.is_none() {
            let all = sessions.keys.all().await.map_err(|error| desk.failed(&error))?;
            return Ok(desk.done(Some(all.iter().map(|key| key.shown()).collect::<Vec<_>>())));
        }
        let id = id_of(&ask).map_err(|_| desk.failed(&KeysError::NotFound))?;
        let found = sessions.keys.newest(&id).await.and_then(|key| key.ok_or(KeysError::NotFound));
        let key = found.map_err(|error| desk.failed(&error))?;
        Ok(desk.done(Some(key.shown())))
    };
    shown.await.unwrap_or_else(|fail| desk.fail(fail))
}

/// Makes one. Whoever brings no public half gets the private one, this once.
async fn make(State(desk): State<Desk>, Extension(who): Extension<Who>, request: Request) -> Response {
    let made = async {
        desk.sessions_of_operator(&who)?;
        desk.made(desk.ask(request).await?).await
    };
    match made.await {
        Ok(private) => desk.done(private),
        Err(fail) => desk.fail(fail),
    }
}

async fn change(State(desk): State<Desk>, Extension(who): Extension<Who>, request: Request) -> Response {
    let changed = async {
        let sessions = desk.sessions_of_operator(&who)?;
        let ask = desk.ask(request).await?;
        let id = id_of(&ask).map_err(|error| desk.failed(&error))?;
        sessions.keys.change(&id, &ask).await.map_err(|error| desk.failed(&error))?;
        tracing::info!(key.id = %id, "API key changed");
        Ok(())
    };
    match changed.await {
        Ok(()) => desk.done(None::<()>),
        Err(fail) => desk.fail(fail),
    }
}

async fn remove(State(desk): State<Desk>, Extension(who): Extension<Who>, request: Request) -> Response {
    let removed = async {
        let sessions = desk.sessions_of_operator(&who)?;
        let id = id_of(&desk.ask(request).await?).map_err(|error| desk.failed(&error))?;
        sessions.keys.delete(&id).await.map_err(|error| desk.failed(&error))?;
        tracing::info!(key.id = %id, "API key deleted");
        Ok(())
    };
    match removed.await {
        Ok(()) => desk.done(None::<()>),
        Err(fail) => desk.fail(fail),
    }
}
