//! `/api/v1/apikey` of controllers, `/v1/apikey` of registries, and the handshake `/tap/v1/…` of both
//! (`reference/controller-api.md` §9, `reference/authentication.md` §4).

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

use super::lenient;
use crate::model::Timestamp;

/// What is asked about a key; the query may give the same.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ApiKeyAsk {
    /// Which key.
    #[serde(deserialize_with = "lenient::text")]
    pub id: Option<String>,
    /// Seconds until it expires.
    #[serde(deserialize_with = "lenient::integer")]
    pub ttl: Option<i64>,
    /// A list, or names with commas between.
    #[serde(deserialize_with = "names")]
    pub groups: Option<Vec<String>>,
    /// Base64 of PKIX DER; without one the server makes a pair.
    #[serde(rename = "publicKey", deserialize_with = "lenient::text")]
    pub public_key: Option<String>,
}

fn names<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(split(&text))),
        Value::Array(all) => all
            .into_iter()
            .map(|name| match name {
                Value::String(name) => Ok(name),
                _ => Err(D::Error::custom("expected strings in the list")),
            })
            .collect::<Result<_, _>>()
            .map(Some),
        _ => Err(D::Error::custom("expected a list, or names with commas between")),
    }
}

/// Names with commas between.
pub fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// A key as it is shown.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyShown {
    /// Its id.
    pub id: String,
    /// What its holder belongs to.
    pub groups: Vec<String>,
    /// From when on it is refused.
    pub expiration: Timestamp,
    /// When it was made.
    pub created: Timestamp,
}

/// The body of both steps of the handshake.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Handshake {
    /// The key's id.
    #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What the first step gave, decrypted; in the second step alone.
    #[serde(default, deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// The answer to the second step: plain JSON, no envelope.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shaken {
    /// The key's id.
    pub id: String,
    /// What is shown from now on, as base64 of its JSON.
    pub data: Session,
}

/// A session, as clients send it back: with its keys in any order, and others beside them.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The key's id.
    pub user_name: String,
    /// What opens.
    pub token: String,
    /// What tells it from others.
    pub session_id: String,
}

/// Without what opens.
impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("user_name", &self.user_name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_read_in_any_order_and_never_shown() {
        let text =
            "{\n \"sessionId\": \"s-1\",\n \"x\": 1, \"token\": \"uP3\",\n \"userName\": \"ci-bot\"\n}";
        let session: Session = serde_json::from_str(text).unwrap();
        let data = Session { user_name: "ci-bot".into(), token: "uP3".into(), session_id: "s-1".into() };
        assert_eq!(session, data);
        assert!(!format!("{session:?}").contains("uP3"));
        let shaken = serde_json::to_string(&Shaken { id: "ci-bot".into(), data }).unwrap();
        assert_eq!(shaken, r#"{"id":"ci-bot","data":{"userName":"ci-bot","token":"uP3","sessionId":"s-1"}}"#);
    }

    #[test]
    fn groups_are_a_list_or_a_text_and_nothing_is_not_none() {
        let groups = |text: &str| serde_json::from_str::<ApiKeyAsk>(text).map(|ask| ask.groups);
        assert_eq!(groups("{}").unwrap(), None);
        assert_eq!(groups(r#"{"groups":null}"#).unwrap(), None);
        assert_eq!(groups(r#"{"groups":[]}"#).unwrap(), Some(vec![]));
        assert_eq!(groups(r#"{"groups":""}"#).unwrap(), Some(vec![]));
        assert_eq!(groups(r#"{"groups":"a, b"}"#).unwrap(), Some(vec!["a".into(), "b".into()]));
        assert!(groups(r#"{"groups":[1]}"#).is_err() && groups(r#"{"groups":7}"#).is_err());
    }
}
