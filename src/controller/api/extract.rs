//! What a request gives: its body whatever it says it is, its query, its caller.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Query},
    http::{Request, header, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, error::Category};

use super::{Api, answer::Fail, gate::Deadline};
use crate::{
    auth::Who,
    controller::ops::{Caller, Reach},
    model::excerpt,
    wire::headers,
};

/// Longest idempotency key. Longer: 400.
const KEY: usize = 255;

/// The JSON body, whatever its `Content-Type` (several clients send none, or a form's). Nothing counts as `{}`.
pub(super) struct AnyType<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for AnyType<T> {
    type Rejection = Fail;

    async fn from_request(request: Request<Body>, api: &Api) -> Result<Self, Fail> {
        let body = api.room.read(request).await?;
        parse(body.bytes()).map(Self).map_err(Fail::bad)
    }
}

/// The same of a list.
pub(super) struct AnyList<T>(pub(super) Vec<T>);

impl<T: DeserializeOwned> FromRequest<Api> for AnyList<T> {
    type Rejection = Fail;

    async fn from_request(request: Request<Body>, api: &Api) -> Result<Self, Fail> {
        let body = api.room.read(request).await?;
        let read = serde_json::from_slice(body.bytes());
        read.map(Self).map_err(|error| Fail::bad(format!("the body is a list in JSON: {error}")))
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let begins = bytes.trim_ascii_start().first().copied();
    let bytes = if begins.is_none() { b"{}" } else { bytes };
    let error = match serde_json::from_slice(bytes) {
        // Serde takes a list for a struct; no client means one by it.
        Ok(_) if begins.is_some_and(|first| first != b'{') => {
            return Err("the body is not a JSON object".into());
        }
        Ok(body) => return Ok(body),
        Err(error) => error,
    };
    if matches!(error.classify(), Category::Syntax | Category::Eof | Category::Io) {
        return Err(format!("the body is not valid JSON: {error}"));
    }
    // Valid JSON that does not fit: find the key that is wrong, for the text.
    let whole: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| format!("the body is not a JSON object: {error}"))?;
    let alone = |key: &String, value: &Value| {
        let one = Map::from_iter([(key.clone(), value.clone())]);
        serde_json::from_value::<T>(Value::Object(one)).err().map(|error| error.to_string())
    };
    for (key, value) in &whole {
        if let Some(why) = alone(key, value).filter(|why| !why.starts_with("missing field")) {
            let key = excerpt(key);
            return Err(format!("`{key}`: {why}"));
        }
    }
    // Each key alone is good. A key given twice is taken as its last value, as Go's decoders take it.
    serde_json::from_value(Value::Object(whole)).map_err(|error| error.to_string())
}

/// The query's keys that this API knows. Unknown ones are ignored, and an empty value is one that was not given:
/// the vendor's services cannot tell the two apart either.
pub(super) struct Asked(Vec<(String, String)>);

impl Asked {
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let first = self.0.iter().find(|(name, _)| name == key);
        first.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// A key that is there with nothing: whatever it was to say, it says it not.
    pub(super) fn is_empty(&self, key: &str) -> bool {
        self.0.iter().find(|(name, _)| name == key).is_some_and(|(_, value)| value.is_empty())
    }

    /// A value as an id or a name of ours; nothing if it was not given.
    pub(super) fn id<I>(&self, key: &str) -> Result<Option<I>, Fail>
    where
        I: std::str::FromStr<Err: std::fmt::Display>,
    {
        self.get(key).map(|text| id(key, text)).transpose()
    }
}

#[cfg(test)]
impl Asked {
    pub(super) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Fail;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Fail> {
        let query = Query::try_from_uri(&parts.uri);
        query.map(|Query(pairs)| Self(pairs)).map_err(|error| Fail::bad(format!("the query: {error}")))
    }
}

/// A text as an id or a name of ours, or a 400 that says which key it came from.
pub(super) fn id<I>(key: &str, text: &str) -> Result<I, Fail>
where
    I: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse().map_err(|error| Fail::bad(format!("`{key}`: {error}")))
}

/// A required key of a body or query.
pub(super) fn required<T>(key: &str, value: Option<T>) -> Result<T, Fail> {
    value.ok_or_else(|| Fail::bad(format!("`{key}` is required")))
}

/// Who calls: by name where credentials are asked for, for one caller may show another one each time; else whatever
/// credential comes.
pub(super) struct CalledBy(pub(super) Caller);

impl<S: Sync> FromRequestParts<S> for CalledBy {
    type Rejection = Fail;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Fail> {
        let header = |name: &str| parts.headers.get(name).map(|value| value.as_bytes());
        let key = match header(headers::IDEMPOTENCY_KEY) {
            None | Some([]) => None,
            Some(key) if key.len() <= KEY && key.iter().all(u8::is_ascii_graphic) => {
                Some(String::from_utf8_lossy(key).into_owned())
            }
            Some(_) => {
                let why = format!("`idempotency-key`: use 1 to {KEY} visible ASCII characters");
                return Err(Fail::bad(why));
            }
        };
        let name = parts.extensions.get::<Who>().and_then(Who::name).map(String::into_bytes);
        let credential = name.or_else(|| header(header::AUTHORIZATION.as_str()).map(<[u8]>::to_vec));
        let deadline = parts.extensions.get::<Deadline>().map(|deadline| deadline.0);
        Ok(Self(Caller { credential, idempotency_key: key, reach: reach(parts), deadline }))
    }
}

/// What the caller may touch, as [`super::permit`] has found out.
pub(super) struct Within(pub(super) Reach);

impl<S: Sync> FromRequestParts<S> for Within {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self(reach(parts)))
    }
}

fn reach(parts: &Parts) -> Reach {
    parts.extensions.get::<Reach>().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{agent::Claim, node::NodeConfig, vm::StartVm};

    fn why<T: DeserializeOwned>(body: &str) -> String {
        parse::<T>(body.as_bytes()).err().unwrap_or_else(|| panic!("{body} was taken"))
    }

    #[test]
    fn a_wrong_type_names_the_key_and_bad_json_the_place() {
        for (body, expected) in [
            (r#"{"vmid":"x","count":"many"}"#, "`count`: expected a whole number"),
            (r#"{"tag":["a"]}"#, "`tag`: expected a string"),
            (r#"{"metadata":"x"}"#, "`metadata`: invalid type: string \"x\", expected a map"),
            (r#"{"vmid":"x""#, "line 1 column 11"),
            ("{\n \"vmid\": x}", "line 2 column 10"),
            ("[1]", "not a JSON object"),
            ("\"text\"", "not a JSON object"),
            ("{} {}", "not valid JSON"),
            ("\u{feff}{}", "not valid JSON"),
        ] {
            assert!(why::<StartVm>(body).contains(expected), "{body}: {}", why::<StartVm>(body));
        }
        assert!(why::<NodeConfig>(r#"{"capacity_mode":"both"}"#).starts_with("`capacity_mode`: "));
        assert!(why::<Claim>(r#"{"node_id":"a/b","instance":"i","attempt":1}"#).starts_with("`node_id`: "));
        assert!(why::<Claim>(r#"{"node_id":"a"}"#).contains("missing field `instance`"));
    }

    #[test]
    fn nothing_is_an_empty_object_and_the_last_of_two_equal_keys_counts() {
        for nothing in ["", " \r\n", "{}"] {
            assert_eq!(parse::<StartVm>(nothing.as_bytes()).unwrap(), StartVm::default(), "{nothing:?}");
        }
        let twice: StartVm = parse(br#"{"tag":"a","tag":"b","unknown":[1]}"#).unwrap();
        assert_eq!(twice.tag.as_deref(), Some("b"));
    }

    #[test]
    fn a_body_nested_without_end_is_refused_not_followed() {
        let deep = format!("{{\"metadata\":{}", "[".repeat(100_000));
        assert!(why::<StartVm>(&deep).contains("recursion limit"), "{}", why::<StartVm>(&deep));
    }
}
