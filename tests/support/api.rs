//! Small HTTP clients of a test: what was answered, whole, so that a failed check can show it.

use std::{fmt, time::Duration};

use serde_json::Value;
use switchyard::clock;

/// Longer than any deadline of the product, so that it is the product that answers late, not we.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls to one base address.
#[derive(Clone)]
pub struct Api {
    base: String,
    http: reqwest::Client,
}

/// One answer, whole.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    pub took: Duration,
}

impl Api {
    pub fn new(base: impl fmt::Display) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().expect("a client");
        let base = base.to_string();
        let base = if base.contains("://") { base } else { format!("http://{base}") };
        Self { base: base.trim_end_matches('/').to_owned(), http }
    }

    /// The same server, asked with this `Authorization` each time.
    pub fn showing(&self, authorization: &str) -> Self {
        let mut value: reqwest::header::HeaderValue = authorization.parse().expect("a header's value");
        value.set_sensitive(true);
        let fields = [(reqwest::header::AUTHORIZATION, value)].into_iter().collect();
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().default_headers(fields);
        Self { http: client.build().expect("a client"), ..self.clone() }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// One call; `Err` when there was no HTTP answer at all.
    pub async fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        self.call_with(method, path, body, &[]).await
    }

    /// The same, with headers.
    pub async fn call_with(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, String> {
        let since = clock::now();
        let method: reqwest::Method = method.parse().map_err(|_| format!("no method {method}"))?;
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            // No Content-Type, as several clients send it.
            request = request.body(body.to_string());
        }
        let answer = request.send().await.map_err(causes)?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.map_err(causes)?;
        Ok(Answer { status, headers, text, took: clock::now() - since })
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.try_call(method, path, body)
            .await
            .unwrap_or_else(|error| panic!("{method} {}{path}: {error}", self.base))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call("PUT", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str, body: &Value) -> Answer {
        self.call("DELETE", path, Some(body)).await
    }
}

/// An error with all its causes: reqwest's own text leaves out what matters.
fn causes(error: reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.text.chars().take(600).collect();
        write!(f, "{} after {:?} {:?} {text}", self.status, self.took, self.headers)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Whether this is a success in the vendor's envelope.
    pub fn is_ok(&self) -> bool {
        self.status == 200 && serde_json::from_str::<Value>(&self.text).is_ok_and(|v| v["status"] == "OK")
    }

    /// The body of a success; panics on anything else.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!(self.is_ok(), "not a success: {self:?}");
        let envelope = self.json();
        assert_eq!(envelope["message"], "", "a success says nothing: {self:?}");
        envelope["body"].clone()
    }

    /// The message of a failure in the envelope; `None` for anything else.
    pub fn failure(&self) -> Option<String> {
        let envelope: Value = serde_json::from_str(&self.text).ok()?;
        (envelope["status"] == "FAIL").then(|| envelope["message"].as_str().map(str::to_owned))?
    }

    /// A failure with this status, in the client's own format, with something to read.
    pub fn is_clean(&self, status: u16) -> bool {
        self.status == status && self.failure().is_some_and(|message| !message.is_empty())
    }
}
