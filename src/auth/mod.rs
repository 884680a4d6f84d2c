//! Who may use a controller or a registry (`reference/authentication.md`, `docs/authentication.md`).
//!
//! ```text
//!   credential   what a request's `Authorization` says                                pure
//!   gate         before every handler of both roles: in, 401 or 403                   the only door
//!   signed       before that: what a proxy says of its clients, and whether it was a proxy that says it
//!   routes       API keys, and the two steps by which a key's holder comes to a session
//!   keys         what an API key is; where they are kept is the roles' own
//!   seal         secrets and session tokens that every server of a kind can check     pure
//!   certificates callers that are known by theirs, here or at a proxy in front
//!   files        what certificates are read from, looked at again while the server runs
//!   stay         whether who came in a while ago may stay: for watches
//!   used         no secret is good twice; what is encrypted to a key's holder is [`crate::tls::rsa`]'s
//! ```
//!
//! Knows neither role; both put the one gate before their routes. No secret is in a log, an error or a metric. No session
//! is remembered: a token names its key and the key's generation, and both are looked up for each request, so that what
//! becomes of a key becomes of its sessions.

mod credential;
mod certificates;
pub mod files;
pub mod gate;
pub mod keys;
pub mod routes;
pub mod seal;
pub mod signed;
pub mod stay;
mod used;

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::http::HeaderMap;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use crate::{
    clock,
    config::auth::{Auth as Config, Certificates},
    http::Peer,
    model::ApiKeyId,
    tls::{Caller, signed::SigningKey},
    wire::apikey::{Session, Shaken},
};
use credential::Given;
use keys::{ApiKey, Keys, KeysError};
use seal::{Bad, Sealer};
use used::Used;

/// Who a request is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Nobody is asked.
    Anybody,
    /// Whoever has the root token.
    Root,
    /// The holder of an API key.
    Key(Arc<ApiKey>),
    /// The holder of a certificate.
    Certificate(Arc<Caller>),
}

impl Who {
    /// The same for all requests of one caller, and different for different callers; nothing when nobody is asked.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Anybody => None,
            Self::Root => Some("root".into()),
            Self::Key(key) => Some(format!("key:{}", key.id)),
            Self::Certificate(caller) => Some(format!("certificate:{}", caller.name)),
        }
    }

    /// The groups whose permissions count for it, its own name as one of them; nothing for whoever may do everything.
    pub fn groups(&self) -> Option<Vec<&str>> {
        let (name, groups) = match self {
            Self::Anybody | Self::Root => return None,
            Self::Key(key) => (key.id.as_str(), &key.groups),
            Self::Certificate(caller) => (caller.name.as_str(), &caller.groups),
        };
        Some(groups.iter().map(String::as_str).chain([name]).collect())
    }

    /// Whether it may do what only operators and our own servers do.
    fn is_operator(&self) -> bool {
        matches!(self, Self::Anybody | Self::Root)
    }
}

/// Why a request is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It brings no credential.
    Missing,
    /// It brings one that cannot be read.
    Unreadable,
    /// It brings a wrong one.
    Wrong,
    /// Its session is over, or its key has expired.
    Expired,
    /// Its key is gone, or is another one by now.
    Gone,
    /// It says whose certificate a proxy has seen, and no proxy has signed that.
    Unsigned,
    /// Its credential is good, and not for this.
    Forbidden,
    /// Nobody can say now: why.
    NotNow(String),
}

impl Refusal {
    /// The label of metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Wrong => "wrong",
            Self::Expired => "expired",
            Self::Gone => "gone",
            Self::Unsigned => "unsigned",
            Self::Forbidden => "forbidden",
            Self::NotNow(_) => "not_now",
        }
    }
}

impl From<KeysError> for Refusal {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::NotFound => Self::Gone,
            other => Self::NotNow(other.to_string()),
        }
    }
}

/// What credentials are good at one server. Cheap to clone.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    enabled: bool,
    /// Of the root token, so that what is compared is always as long.
    root: Option<[u8; 32]>,
    sessions: Option<Sessions>,
    certificates: Option<Certificates>,
}

/// API keys and their sessions.
struct Sessions {
    keys: Arc<dyn Keys>,
    sealer: Sealer,
    seconds: u64,
    used: Mutex<Used>,
}

impl Auth {
    /// As the config says, for servers of this kind (`controller`, `registry`), whose API keys are these.
    pub fn new(config: &Config, kind: &str, keys: Arc<dyn Keys>) -> Self {
        let root = config.root_token.as_ref();
        // With nobody asked for anything, anybody could make keys for later.
        let sessions = root.filter(|_| config.enabled && config.api_keys).map(|token| Sessions {
            keys,
            sealer: Sealer::derive(token.expose(), kind),
            seconds: config.session_ttl.as_secs(),
            used: Mutex::default(),
        });
        let root = root.map(|token| hash(token.expose()));
        let certificates = config.certificates.clone();
        Self(Arc::new(Inner { enabled: config.enabled, root, sessions, certificates }))
    }

    /// Whether anybody is asked for a credential.
    pub fn is_enabled(&self) -> bool {
        self.0.enabled
    }

    /// The key with which proxies sign, if they have to.
    fn signing(&self) -> Option<&SigningKey> {
        Some(&self.0.certificates.as_ref()?.signed.as_ref()?.key)
    }

    fn sessions(&self) -> Option<&Sessions> {
        self.0.sessions.as_ref()
    }

    /// Who asks, by what its request and its connection show. `Authorization` goes first, and a bad one never counts as
    /// none.
    async fn asks(&self, fields: &HeaderMap, peer: Option<&Peer>, signed: bool) -> Result<Who, Refusal> {
        match credential::read(fields) {
            Given::Nothing if self.0.enabled => {
                certificates::who(self.0.certificates.as_ref(), fields, peer, signed)
            }
            given => self.who(given).await,
        }
    }

    /// Who shows this `Authorization`. With authentication off, whatever comes is ignored.
    async fn who(&self, given: Given) -> Result<Who, Refusal> {
        if !self.0.enabled {
            return Ok(Who::Anybody);
        }
        match (given, self.sessions()) {
            (Given::Nothing, _) => Err(Refusal::Missing),
            (Given::Unreadable, _) => Err(Refusal::Unreadable),
            (Given::Password(password), _) => match &self.0.root {
                Some(root) if same(root, &hash(&password)) => Ok(Who::Root),
                _ => Err(Refusal::Wrong),
            },
            (Given::Session(session), Some(sessions)) => sessions.who(&session).await,
            (Given::Session(_), None) => Err(Refusal::Wrong),
        }
    }
}

impl Sessions {
    /// Whose session this is. A key is looked up only for a token that these servers have made.
    async fn who(&self, session: &Session) -> Result<Who, Refusal> {
        let id = ApiKeyId::parse(&*session.user_name).map_err(|_| Refusal::Wrong)?;
        let opened = self.sealer.session(&session.token, id.as_str(), &session.session_id, seconds());
        let generation = opened.map_err(|bad| match bad {
            Bad::Wrong => Refusal::Wrong,
            Bad::Late => Refusal::Expired,
        })?;
        let is_it = |key: &Arc<ApiKey>| key.generation() == Some(generation);
        let key = self.current(&id, is_it).await?.ok_or(Refusal::Gone)?;
        if key.is_expired(clock::wall()) { Err(Refusal::Expired) } else { Ok(Who::Key(key)) }
    }

    /// The key of this id, if it is the one that is meant. It may have been made a moment ago at another server: what is not
    /// known is looked for in the newest state.
    async fn current(
        &self,
        id: &ApiKeyId,
        is_it: impl Fn(&Arc<ApiKey>) -> bool,
    ) -> Result<Option<Arc<ApiKey>>, KeysError> {
        match self.keys.known(id).await?.filter(&is_it) {
            Some(key) => Ok(Some(key)),
            None => Ok(self.keys.newest(id).await?.filter(is_it)),
        }
    }

    /// The first step: a secret that only the key's holder can read, as base64.
    async fn hand(&self, id: &ApiKeyId) -> Result<String, Refusal> {
        let key = self.current(id, |_| true).await?.ok_or(Refusal::Gone)?;
        if key.is_expired(clock::wall()) {
            return Err(Refusal::Expired);
        }
        let damaged = || Refusal::NotNow(format!("the record of API key `{id}` is damaged: delete the key"));
        let (generation, public) = (key.generation().ok_or_else(damaged)?, key.public().ok_or_else(damaged)?);
        let secret = self.sealer.secret(id.as_str(), &generation, seconds(), &rand::random());
        let sealed = public.encrypt(secret.as_bytes()).map_err(|error| Refusal::NotNow(error.to_string()))?;
        Ok(STANDARD.encode(sealed))
    }

    /// The second step: a session for whoever read the secret.
    async fn shake(&self, id: &ApiKeyId, secret: &str) -> Result<Shaken, Refusal> {
        let now = seconds();
        let known = self.keys.known(id).await?;
        let opened = |key: &ApiKey| {
            let generation = key.generation().ok_or(Bad::Wrong)?;
            self.sealer.opened(secret, id.as_str(), &generation, now).map(|opened| (opened, generation))
        };
        let (key, opened) = match known.map(|key| (opened(&key), key)) {
            Some((Ok(opened), key)) => (key, opened),
            Some((Err(Bad::Late), _)) => return Err(Refusal::Expired),
            // The key may have been made, or made anew, a moment ago at another server.
            Some((Err(Bad::Wrong), _)) | None => {
                let key = self.keys.newest(id).await?.ok_or(Refusal::Gone)?;
                let opened = opened(&key).map_err(|bad| match bad {
                    Bad::Wrong => Refusal::Wrong,
                    Bad::Late => Refusal::Expired,
                })?;
                (key, opened)
            }
        };
        let ((nonce, until), generation) = opened;
        if key.is_expired(clock::wall()) {
            return Err(Refusal::Expired);
        }
        if !self.used.lock().unwrap_or_else(PoisonError::into_inner).first(nonce, until, now) {
            return Err(Refusal::Wrong);
        }
        let session_id = uuid::Uuid::new_v4().to_string();
        let token = self.sealer.token(id.as_str(), &session_id, &generation, now + self.seconds);
        let data = Session { user_name: id.to_string(), token, session_id };
        Ok(Shaken { id: id.to_string(), data })
    }
}

/// The wall clock's: servers agree on it, and what it decides has minutes of room.
fn seconds() -> u64 {
    clock::wall().unix_seconds().unsigned_abs()
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Takes as long whatever they are.
fn same(a: &[u8], b: &[u8]) -> bool {
    verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests;
