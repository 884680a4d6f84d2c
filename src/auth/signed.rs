//! Before everything else: whether a proxy of ours has signed what a request says of its client (`docs/authentication.md`).
//!
//! One that carries no signature goes on, as one that nobody has vouched for. One of another time is told the server's, so
//! that its proxy can sign it again; one that is wrong goes no further, for its proxy has another key or is none. Probes
//! carry signatures too, and read what is wrong.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};

use super::{
    gate::{Gate, REQUIRED},
    seconds,
};
use crate::{
    http::linger,
    tls::signed::{self, SigningKey, Unsigned},
    wire::{headers, ready::Ready},
};

/// In a request's extensions: a proxy has signed it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed;

/// Middleware, outside of [`super::gate::admit`]: puts [`Signed`] into the request's extensions, or answers in its place.
pub async fn look(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let Some(key) = gate.auth().signing() else { return next.run(request).await };
    let checked = checked(key, &request, seconds());
    // What was looked at is of no use to anybody behind.
    request.headers_mut().remove(headers::SIGNATURE);
    let unsigned = match checked {
        None => return next.run(request).await,
        Some(Ok(())) => {
            request.extensions_mut().insert(Signed);
            return next.run(request).await;
        }
        Some(Err(unsigned)) => unsigned,
    };
    let probe = request.uri().path() == "/readyz";
    linger(request).await;
    gate.refused(if unsigned == Unsigned::Wrong { "unsigned" } else { "other_time" });
    refused(unsigned, probe)
}

/// Nothing, if there is no signature.
fn checked(key: &SigningKey, request: &Request, now: u64) -> Option<Result<(), Unsigned>> {
    let fields = request.headers();
    let mut all = fields.get_all(headers::SIGNATURE).iter();
    let one = match (all.next()?.to_str(), all.next()) {
        (Ok(one), None) => one,
        _ => return Some(Err(Unsigned::Wrong)),
    };
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let of = signed::Request { method: request.method().as_str(), target };
    Some(key.check(one, of, now, |name, take| {
        fields.get_all(name).iter().for_each(|value| take(value.as_bytes()));
    }))
}

fn refused(unsigned: Unsigned, probe: bool) -> Response {
    let (status, why) = match unsigned {
        Unsigned::Wrong => (
            StatusCode::UNAUTHORIZED,
            "the signature is of another key: proxy and server need the same".to_owned(),
        ),
        Unsigned::Time(ahead) => {
            let side = if ahead > 0 { "ahead of" } else { "behind" };
            let seconds = ahead.unsigned_abs();
            (StatusCode::TOO_EARLY, format!("the clock of the proxy is {seconds} s {side} this server's"))
        }
    };
    let text = match (probe, unsigned) {
        (true, _) => serde_json::to_string(&Ready { why: vec![why], ..Ready::default() }).unwrap_or_default(),
        (false, Unsigned::Wrong) => REQUIRED.to_owned(),
        (false, Unsigned::Time(_)) => format!("{{\"status\":\"FAIL\",\"message\":\"{why}\"}}\n"),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::TOO_EARLY {
        fields.insert(headers::TIME, HeaderValue::from(seconds()));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn asked(signatures: &[String], verify: &str) -> Request {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/api/v1/vm?id=1".parse().unwrap();
        request.headers_mut().insert(headers::CLIENT_VERIFY, verify.parse().unwrap());
        for signature in signatures {
            request.headers_mut().append(headers::SIGNATURE, signature.parse().unwrap());
        }
        request
    }

    #[test]
    fn a_signature_is_one_and_of_what_is_said() {
        let key = SigningKey::parse(KEY).unwrap();
        let of = signed::Request { method: "GET", target: "/api/v1/vm?id=1" };
        let made = key.sign(of, 1000, |name, take| {
            if name == headers::CLIENT_VERIFY {
                take(b"NONE");
            }
        });
        let one = [made.clone()];
        assert_eq!(checked(&key, &asked(&[], "NONE"), 1000), None);
        assert_eq!(checked(&key, &asked(&one, "NONE"), 1000), Some(Ok(())));
        assert_eq!(checked(&key, &asked(&one, "SUCCESS"), 1000), Some(Err(Unsigned::Wrong)));
        assert_eq!(checked(&key, &asked(&[made.clone(), made], "NONE"), 1000), Some(Err(Unsigned::Wrong)));
        assert_eq!(checked(&key, &asked(&one, "NONE"), 1094), Some(Err(Unsigned::Time(-94))));
    }

    #[test]
    fn the_refusal_of_a_time_has_the_servers_and_is_no_401() {
        let response = refused(Unsigned::Time(-94), true);
        assert_eq!(response.status(), 425);
        assert!(response.headers().contains_key(headers::TIME));
        assert_eq!(refused(Unsigned::Wrong, false).status(), 401);
    }
}
