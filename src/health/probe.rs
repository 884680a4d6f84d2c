//! One probe of one upstream, on a fresh connection: a pooled one could hide that nobody accepts any more.

use std::{error::Error, time::Duration};

use http::Method;
use reqwest::header::{HOST, USER_AGENT};
use serde_json::Value;

use super::{direct, verdict::Found};
use crate::{
    clock,
    config::{
        Address, BaseUrl,
        proxy::{HttpProbe, ProbeKind, ProbeMethod},
    },
    model::proxy_protocol::{self, Version},
    tls::{Http, Upstream, signed::Request},
    wire::{envelope, headers, ready::Ready},
};

/// Bytes of an answer that are looked at. A longer one is not one of ours and speaks for all classes.
pub(super) const BODY: usize = 64 * 1024;

/// Who asks.
pub(super) const AGENT: &str = "switchyard-probe";

/// The vendor's status route: it answers 401 where credentials are demanded, and only a living server does.
const VENDOR_STATUS: &str = "/api/v1/status";

/// Asks one upstream again and again.
#[derive(Debug)]
pub struct Probe {
    address: Address,
    kind: ProbeKind,
    timeout: Duration,
    base: String,
    client: Option<Http>,
    tls: Option<Upstream>,
    /// Its connections begin with it: the header of a connection that is nobody else's.
    opening: Option<Vec<u8>>,
}

impl Probe {
    /// Of this upstream. Opens nothing yet.
    pub fn new(
        address: Address,
        kind: ProbeKind,
        timeout: Duration,
        (proxy_protocol, tls): (Option<Version>, Option<Upstream>),
    ) -> Self {
        let base = match &tls {
            None => format!("http://{address}"),
            Some(tls) => BaseUrl::https(tls.name(&address.host), address.port).to_string(),
        };
        let client = Http::new((&address.host, address.port), tls.clone(), move || {
            reqwest::Client::builder()
                .connect_timeout(timeout)
                .timeout(timeout)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .pool_max_idle_per_host(0)
        });
        // Building fails only without TLS back end or resolver; then each probe says so.
        let opening = proxy_protocol.map(|version| proxy_protocol::write(version, None));
        Self { address, kind, timeout, base, client: client.ok(), tls, opening }
    }

    /// Asks once. Takes at most the timeout; cancelling it closes the connection.
    pub async fn ask(&self) -> Found {
        let asked = async {
            match &self.kind {
                ProbeKind::Tcp => self.connect().await,
                ProbeKind::Http(wanted) => self.get(wanted).await,
            }
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(found) => found,
            Err(_) => self.late(),
        }
    }

    fn late(&self) -> Found {
        Found::Bad { why: format!("no answer within {}", humantime::format_duration(self.timeout)) }
    }

    async fn connect(&self) -> Found {
        match direct::connect(&self.address, self.opening.as_deref()).await {
            Ok(_) => Found::Good { seen: "accepts connections".into(), ready: None },
            Err(why) => Found::Bad { why },
        }
    }

    async fn get(&self, wanted: &HttpProbe) -> Found {
        if let Some(opening) = &self.opening {
            return match direct::get(&self.address, opening, self.tls.as_ref(), wanted).await {
                Ok((code, body)) => judge(wanted, code, &body),
                Err(why) => Found::Bad { why },
            };
        }
        let Some(client) = self.client.as_ref().map(Http::client) else {
            return Found::Bad { why: "the prober has no HTTP client".into() };
        };
        let url = format!("{}{}", self.base, wanted.path);
        let mut request = client.request(method(wanted), url);
        if wanted.headers.iter().all(|(name, _)| name != USER_AGENT) {
            request = request.header(USER_AGENT, AGENT);
        }
        // Not the name of its certificate: what requests are for is the address.
        let own = self.address.to_string();
        request = request.header(HOST, wanted.host.as_ref().unwrap_or(&own));
        for (name, value) in &wanted.headers {
            request = request.header(name, value);
        }
        if let Some(signature) = signature(wanted) {
            request = request.header(headers::SIGNATURE, signature);
        }
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            // It has a watch of its own, which may be the first to strike.
            Err(error) if error.is_timeout() => return self.late(),
            Err(error) => return Found::Bad { why: cause(&error) },
        };
        let code = answer.status().as_u16();
        let mut body = Vec::new();
        while body.len() < BODY {
            match answer.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(BODY - body.len())]),
                Ok(None) => break,
                Err(error) => return Found::Bad { why: format!("the answer broke off: {}", cause(&error)) },
            }
        }
        judge(wanted, code, &body)
    }
}

/// The innermost cause says what happened; the outer ones repeat the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if error.is_connect() { format!("cannot connect: {innermost}") } else { innermost.to_string() }
}

/// Its signature, if the service signs: a server whose clock is another, or whose key, says so before a client meets it.
pub(super) fn signature(wanted: &HttpProbe) -> Option<String> {
    let (method, target) = (method(wanted), wanted.path.as_str());
    let seconds = u64::try_from(clock::wall().unix_seconds()).unwrap_or(0);
    let of = Request { method: method.as_str(), target };
    Some(wanted.sign.as_ref()?.sign(of, seconds, |_, _| {}))
}

/// The method of a probe.
pub(super) fn method(wanted: &HttpProbe) -> Method {
    match wanted.method {
        ProbeMethod::Get => Method::GET,
        ProbeMethod::Head => Method::HEAD,
        ProbeMethod::Options => Method::OPTIONS,
    }
}

/// What an answer means. Pure.
fn judge(wanted: &HttpProbe, code: u16, body: &[u8]) -> Found {
    let HttpProbe { path, status, json, text, .. } = wanted;
    // Whoever wants to see something else there says so.
    let demands = code == 401 && text.is_none() && !status.contains(&401);
    if demands && path.split('?').next() == Some(VENDOR_STATUS) {
        return Found::Good { seen: format!("`{path}` demands credentials, so it is alive"), ready: None };
    }
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let ready: Option<Ready> = value.clone().and_then(|value| serde_json::from_value(value).ok());
    if !status.contains(&code) {
        let why = ready.map(|ready| ready.why.join("; ")).filter(|why| !why.is_empty());
        return Found::Bad {
            why: match why {
                Some(why) => format!("`{path}` answered {code}: {why}"),
                None => format!("`{path}` answered {code}"),
            },
        };
    }
    if let Some(ready) = &ready
        && !ready.ready
    {
        return Found::Bad { why: format!("it is not ready: {}", ready.why.join("; ")) };
    }
    let failed = value.clone().and_then(|v| serde_json::from_value::<envelope::Envelope<Value>>(v).ok());
    if let Some(failed) = failed
        && failed.status == envelope::Status::Fail
    {
        return Found::Bad { why: format!("`{path}` says FAIL: {}", failed.message) };
    }
    for (pointer, wanted) in json {
        let got = value.as_ref().and_then(|value| value.pointer(pointer));
        if got != Some(wanted) {
            let got = got.map_or_else(|| "nothing".to_owned(), Value::to_string);
            return Found::Bad { why: format!("`{pointer}` of `{path}` is {got}, not {wanted}") };
        }
    }
    // A vendor's status is no word about what it may do, but says which version it is.
    let version = || value.as_ref()?.pointer("/body/version")?.as_str().map(str::to_owned);
    let ready = ready.or_else(|| Some(Ready { ready: true, version: Some(version()?), ..Ready::default() }));
    if let Some(text) = text
        && memchr::memmem::find(body, text.as_bytes()).is_none()
    {
        return Found::Bad { why: format!("`{path}` answers {code} without `{text}` in its body") };
    }
    Found::Good { seen: format!("`{path}` answers {code}"), ready }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, code: u16, body: &str, json: &[(String, Value)]) -> Result<Option<Ready>, String> {
        let wanted = HttpProbe { path: path.into(), json: json.to_vec(), ..HttpProbe::default() };
        found(&wanted, code, body)
    }

    fn found(wanted: &HttpProbe, code: u16, body: &str) -> Result<Option<Ready>, String> {
        match judge(wanted, code, body.as_bytes()) {
            Found::Good { ready, .. } => Ok(ready),
            Found::Bad { why } => Err(why),
        }
    }

    #[test]
    fn a_text_must_be_in_the_body() {
        let wanted = HttpProbe { text: Some("pong".into()), ..HttpProbe::default() };
        assert_eq!(found(&wanted, 200, "ping? pong!"), Ok(None));
        let why = found(&wanted, 200, "ping").unwrap_err();
        assert_eq!(why, "`/readyz` answers 200 without `pong` in its body");
        // What a server of ours says of itself counts all the same.
        let body = r#"{"ready":true,"write":false,"why":["pong"]}"#;
        assert_eq!(found(&wanted, 200, body).unwrap().unwrap().write, Some(false));
        let vendor = HttpProbe { path: VENDOR_STATUS.into(), ..wanted };
        assert!(found(&vendor, 401, "pong").is_err());
    }

    #[test]
    fn the_body_of_our_readyz_is_understood() {
        let ready = check("/readyz", 200, r#"{"ready":true,"read":true,"write":false,"why":["disk"]}"#, &[]);
        assert_eq!(ready.unwrap().unwrap().write, Some(false));
        let why =
            check("/readyz", 503, r#"{"ready":false,"why":["etcd: no leader for 12 s"]}"#, &[]).unwrap_err();
        assert_eq!(why, "`/readyz` answered 503: etcd: no leader for 12 s");
        assert!(check("/readyz", 200, r#"{"ready":false}"#, &[]).is_err());
    }

    #[test]
    fn a_body_of_another_shape_speaks_for_all_classes() {
        for body in ["ok", "", "{}", "[1]", r#"{"status":"OK","message":""}"#] {
            assert_eq!(check("/readyz", 200, body, &[]), Ok(None), "{body}");
        }
    }

    #[test]
    fn two_hundred_whose_body_says_fail_is_a_failure() {
        let why = check("/api/v1/status", 200, r#"{"status":"FAIL","message":"no store"}"#, &[]).unwrap_err();
        assert!(why.contains("no store"));
    }

    #[test]
    fn a_json_pointer_must_have_its_value() {
        let want = [("/body/status".to_owned(), Value::from("Running"))];
        let body = |word: &str| format!(r#"{{"status":"OK","body":{{"status":"{word}"}}}}"#);
        assert!(check("/api/v1/status", 200, &body("Running"), &want).is_ok());
        assert!(check("/api/v1/status", 200, &body("Starting"), &want).is_err());
        assert!(check("/api/v1/status", 200, "ok", &want).is_err());
    }

    #[test]
    fn a_vendors_status_says_which_version_it_is() {
        let body = r#"{"status":"OK","message":"","body":{"status":"Running","version":"1.51.2-0a1b2c3d"}}"#;
        let ready = check("/api/v1/status", 200, body, &[]).unwrap().unwrap();
        assert_eq!(ready.version.as_deref(), Some("1.51.2-0a1b2c3d"));
        assert_eq!((ready.read, ready.write, ready.poll), (None, None, None), "it speaks for all classes");
    }

    #[test]
    fn the_vendors_status_route_may_demand_credentials() {
        assert!(
            check("/api/v1/status", 401, r#"{"status":"FAIL","message":"Authentication Required"}"#, &[])
                .is_ok()
        );
        assert!(check("/readyz", 401, "", &[]).is_err());
    }
}
