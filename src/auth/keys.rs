//! API keys as both roles keep them, and what may be done to them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::seal::Generation;
use crate::{
    model::{ApiKeyId, Timestamp},
    tls::rsa::PublicKey,
    wire::apikey::{ApiKeyAsk, ApiKeyShown},
};

/// Most keys of one store: every server keeps all of them.
pub const MOST: usize = 10_000;

/// Most groups of one key.
const GROUPS: usize = 100;

/// Longest name of a group.
const GROUP: usize = 256;

/// A key that has expired is listed for so long, and can be prolonged; then it is deleted. It is refused at once.
pub const KEPT: Duration = Duration::from_secs(4 * 3600);

/// The longest life of a key.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its name; sessions and clients know it by it.
    pub id: ApiKeyId,
    /// What its holder belongs to.
    #[serde(default)]
    pub groups: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is refused.
    pub expires: Timestamp,
    /// Drawn when it was made: another key of this name has another one. Hexadecimal.
    pub generation: String,
    /// Its public half, base64 of PKIX DER.
    pub public: String,
}

impl ApiKey {
    /// A new one, as asked, with this public half and generation.
    pub fn new(
        ask: &ApiKeyAsk,
        public: &[u8],
        generation: Generation,
        now: Timestamp,
    ) -> Result<Self, KeysError> {
        let id = id_of(ask)?;
        let ttl = ask
            .ttl
            .ok_or_else(|| KeysError::Bad("`ttl` is required: seconds until the key expires".into()))?;
        let groups = ask.groups.clone().ok_or_else(|| KeysError::Bad("`groups` is required".into()))?;
        Ok(Self {
            id,
            groups: checked(groups)?,
            created: now,
            expires: expires(ttl, now)?,
            generation: hex::encode(generation),
            public: STANDARD.encode(public),
        })
    }

    /// As it is changed: its groups, and when it expires if that is asked.
    pub fn changed(&self, ask: &ApiKeyAsk, now: Timestamp) -> Result<Self, KeysError> {
        if ask.public_key.is_some() {
            return Err(KeysError::Bad(
                "`publicKey` cannot be changed: delete the key and make another one".into(),
            ));
        }
        let groups = ask.groups.clone().ok_or_else(|| KeysError::Bad("`groups` is required".into()))?;
        let expires = ask.ttl.map(|ttl| expires(ttl, now)).transpose()?.unwrap_or(self.expires);
        Ok(Self { groups: checked(groups)?, expires, ..self.clone() })
    }

    /// As the API shows it.
    pub fn shown(&self) -> ApiKeyShown {
        ApiKeyShown {
            id: self.id.to_string(),
            groups: self.groups.clone(),
            expiration: self.expires,
            created: self.created,
        }
    }

    /// Whether it is refused by now.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.expires
    }

    /// Whether it has been refused for so long that it may be deleted.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.expires.plus(KEPT)
    }

    /// Its generation; `None` if the record is damaged.
    pub fn generation(&self) -> Option<Generation> {
        hex::decode(&self.generation).ok()?.try_into().ok()
    }

    /// Its public half; `None` if the record is damaged.
    pub fn public(&self) -> Option<PublicKey> {
        PublicKey::of(&STANDARD.decode(&self.public).ok()?).ok()
    }
}

/// The id that is asked about.
pub fn id_of(ask: &ApiKeyAsk) -> Result<ApiKeyId, KeysError> {
    let id = ask.id.as_deref().ok_or_else(|| KeysError::Bad("`id` is required".into()))?;
    ApiKeyId::parse(id).map_err(|error| KeysError::Bad(format!("`id`: {error}")))
}

fn expires(ttl: i64, now: Timestamp) -> Result<Timestamp, KeysError> {
    let seconds = u64::try_from(ttl).ok().filter(|seconds| (1..=LONGEST.as_secs()).contains(seconds));
    let seconds = seconds
        .ok_or_else(|| KeysError::Bad(format!("`ttl` is {ttl}: use 1 to {} seconds", LONGEST.as_secs())))?;
    Ok(now.plus(Duration::from_secs(seconds)))
}

/// Whether callers may belong to a group of this name.
fn is_group(name: &str) -> bool {
    !name.is_empty() && name.len() <= GROUP && !name.chars().any(char::is_control)
}

/// Whether a group of this name can be told what its callers may do: its name is a segment of a path then, which says the same
/// to every server on its way.
pub fn may_be_given(name: &str) -> bool {
    is_group(name) && !name.contains(['/', '\\']) && !matches!(name, "." | "..")
}

/// Each once, in the order given.
fn checked(groups: Vec<String>) -> Result<Vec<String>, KeysError> {
    let mut seen = BTreeSet::new();
    let groups: Vec<String> = groups.into_iter().filter(|group| seen.insert(group.clone())).collect();
    if groups.len() > GROUPS || groups.iter().any(|group| !is_group(group)) {
        return Err(KeysError::Bad(format!(
            "`groups`: at most {GROUPS}, each of 1 to {GROUP} bytes without control characters"
        )));
    }
    Ok(groups)
}

/// Why something was not done to a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// What is asked makes no sense.
    #[error("{0}")]
    Bad(String),
    /// There is a key of this name.
    #[error("there is an API key `{0}` already; delete it first, or choose another id")]
    Exists(ApiKeyId),
    /// There is none.
    #[error("Not found")]
    NotFound,
    /// There are too many.
    #[error("there are {MOST} API keys; delete some first")]
    TooMany,
    /// This server changes none.
    #[error("{0}")]
    NotHere(String),
    /// Certainly not done; later perhaps.
    #[error("{0}")]
    Unavailable(String),
}

/// Where keys are: the controllers' store, or a registry's log. Every method may be called at any server of its kind.
#[async_trait]
pub trait Keys: Send + Sync {
    /// One, out of what this server knows; it may be a moment behind. Cheap: asked for each request with a session.
    async fn known(&self, id: &ApiKeyId) -> Result<Option<Arc<ApiKey>>, KeysError>;

    /// One, not older than this call.
    async fn newest(&self, id: &ApiKeyId) -> Result<Option<Arc<ApiKey>>, KeysError>;

    /// All of them, by id, not older than this call.
    async fn all(&self) -> Result<Vec<Arc<ApiKey>>, KeysError>;

    /// Adds one; `Exists` if there is one of its name.
    async fn add(&self, key: ApiKey) -> Result<(), KeysError>;

    /// Changes one: its groups, and when it expires if that is asked.
    async fn change(&self, id: &ApiKeyId, ask: &ApiKeyAsk) -> Result<(), KeysError>;

    /// Deletes one.
    async fn delete(&self, id: &ApiKeyId) -> Result<(), KeysError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn ask(text: &str) -> ApiKeyAsk {
        serde_json::from_str(text).unwrap()
    }

    fn made(text: &str) -> Result<ApiKey, KeysError> {
        ApiKey::new(&ask(text), b"der", [1; 16], clock::wall())
    }

    #[test]
    fn a_key_needs_an_id_a_life_and_groups() {
        let key = made(r#"{"id":"ci-bot","ttl":"3600","groups":["a","b","a"]}"#).unwrap();
        assert_eq!(
            (key.id.as_str(), key.groups.as_slice()),
            ("ci-bot", &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!(key.expires.since(key.created), Duration::from_secs(3600));
        assert!(!key.is_expired(key.created) && key.is_expired(key.expires));
        assert!(!key.is_over(key.expires) && key.is_over(key.expires.plus(KEPT)));
        assert_eq!(key.generation(), Some([1; 16]));
        assert_eq!(made(r#"{"id":"a","ttl":1,"groups":"x, y,"}"#).unwrap().groups, ["x", "y"]);
        for (bad, words) in [
            (r#"{"ttl":1,"groups":[]}"#, "`id` is required"),
            (r#"{"id":"a b","ttl":1,"groups":[]}"#, "`id`: "),
            (r#"{"id":"a\"b","ttl":1,"groups":[]}"#, "`id`: "),
            (r#"{"id":"a","groups":[]}"#, "`ttl` is required"),
            (r#"{"id":"a","ttl":0,"groups":[]}"#, "`ttl` is 0"),
            (r#"{"id":"a","ttl":-5,"groups":[]}"#, "`ttl` is -5"),
            (r#"{"id":"a","ttl":9223372036854775807,"groups":[]}"#, "`ttl` is "),
            (r#"{"id":"a","ttl":1}"#, "`groups` is required"),
            (r#"{"id":"a","ttl":1,"groups":["\n"]}"#, "`groups`: "),
        ] {
            let why = made(bad).unwrap_err().to_string();
            assert!(why.contains(words), "{bad}: {why}");
        }
    }

    #[test]
    fn a_change_keeps_key_and_generation_and_the_end_unless_it_is_asked() {
        let key = made(r#"{"id":"a","ttl":60,"groups":[]}"#).unwrap();
        let later = key.created.plus(Duration::from_secs(30));
        let changed = key.changed(&ask(r#"{"groups":["x"]}"#), later).unwrap();
        assert_eq!(changed, ApiKey { groups: vec!["x".into()], ..key.clone() });
        let longer = key.changed(&ask(r#"{"groups":[],"ttl":60}"#), later).unwrap();
        assert_eq!(longer.expires.since(key.expires), Duration::from_secs(30));
        assert!(key.changed(&ask(r#"{"groups":[],"publicKey":"x"}"#), later).is_err());
        assert!(key.changed(&ask("{}"), later).is_err());
    }
}
