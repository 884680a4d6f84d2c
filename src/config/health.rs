//! How upstreams are found to be well: by asking them, and by what becomes of requests.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::tls::signed::SigningKey;

/// `[service.NAME.health]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// What a probe does.
    pub kind: ProbeKind,
    /// Time between probes.
    pub interval: Duration,
    /// One probe.
    pub timeout: Duration,
    /// Good probes in a row until it is up.
    pub rise: u32,
    /// Bad probes in a row until it is down.
    pub fall: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            kind: ProbeKind::Http(HttpProbe::default()),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq)]
pub enum ProbeKind {
    /// Connects.
    Tcp,
    /// Asks and looks at the answer.
    Http(HttpProbe),
}

/// What a probe asks, and which answer is good.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    /// Method.
    pub method: ProbeMethod,
    /// Path and query.
    pub path: String,
    /// `Host`, if not the address.
    pub host: Option<String>,
    /// More fields of the request. Their values are marked as secrets: nothing shows them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Good answers.
    pub status: Vec<u16>,
    /// JSON pointers and the value each must have.
    pub json: Vec<(String, serde_json::Value)>,
    /// What the body must contain.
    pub text: Option<String>,
    /// The key with which the service signs; its probes do too.
    pub sign: Option<SigningKey>,
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self {
            method: ProbeMethod::Get,
            path: "/readyz".into(),
            host: None,
            headers: Vec::new(),
            status: vec![200],
            json: Vec::new(),
            text: None,
            sign: None,
        }
    }
}

/// With which method a probe asks. None that could change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeMethod {
    /// `GET`.
    Get,
    /// `HEAD`: the answer has no body to look at.
    Head,
    /// `OPTIONS`.
    Options,
}

impl ProbeMethod {
    /// As it is sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
        }
    }
}

/// `[service.NAME.passive]`: when an upstream is ejected for what becomes of its requests, and what bounds that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Passive {
    /// So many failures in a row.
    pub failures: u32,
    /// Such a part of all requests within `window`.
    pub ratio: f64,
    /// That part counts once there were so many requests.
    pub requests: u64,
    /// How far back `ratio` looks.
    pub window: Duration,
    /// The first ejection; each further one is twice as long.
    pub ejection: Duration,
    /// None is longer.
    pub longest: Duration,
    /// Such a part of the pool may be ejected at once, rounded down, but one in any case; with 0 nobody is.
    pub max_ejected: f64,
    /// With a smaller part of the pool left, ejections are ignored.
    pub panic_threshold: f64,
}

impl Default for Passive {
    fn default() -> Self {
        Self {
            // One broken request that is repeated by its client does not make five in a row where others come between.
            failures: 5,
            ratio: 0.5,
            requests: 20,
            window: Duration::from_secs(10),
            ejection: Duration::from_secs(5),
            longest: Duration::from_secs(300),
            // What is left carries at most twice its load.
            max_ejected: 0.5,
            panic_threshold: 0.3,
        }
    }
}
