//! The one envelope of the vendor's APIs: `{"status":"OK"|"FAIL","message":"…","body":…}`.

use serde::{Deserialize, Serialize};

/// Success or failure; no third word since 1.37.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Done.
    #[serde(rename = "OK")]
    Ok,
    /// Not done; the message says why.
    #[serde(rename = "FAIL")]
    Fail,
}

/// An answer. `message` is always a string: strict getters of two clients break on anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Success or failure.
    pub status: Status,
    /// Empty on success.
    #[serde(default)]
    pub message: String,
    /// Left out when there is nothing to say.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub body: Option<T>,
}

impl<T> Envelope<T> {
    /// A success with a body.
    pub fn ok(body: T) -> Self {
        Self { status: Status::Ok, message: String::new(), body: Some(body) }
    }
}

impl Envelope<()> {
    /// A success without a body.
    pub fn done() -> Self {
        Self { status: Status::Ok, message: String::new(), body: None }
    }

    /// A failure.
    pub fn fail(message: impl Into<String>) -> Self {
        Self { status: Status::Fail, message: message.into(), body: None }
    }
}

/// The same with the registry's order of keys: `body` before `message`, and a body always, `null` when there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BodyFirst<T> {
    status: Status,
    body: Option<T>,
    message: String,
}

impl<T> From<Envelope<T>> for BodyFirst<T> {
    fn from(Envelope { status, message, body }: Envelope<T>) -> Self {
        Self { status, body, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_says_the_body_before_the_message() {
        let text = |envelope: BodyFirst<u32>| serde_json::to_string(&envelope).unwrap();
        assert_eq!(text(Envelope::ok(7).into()), r#"{"status":"OK","body":7,"message":""}"#);
        let failed = Envelope { status: Status::Fail, message: "Not found".into(), body: None };
        assert_eq!(text(failed.into()), r#"{"status":"FAIL","body":null,"message":"Not found"}"#);
    }
}
