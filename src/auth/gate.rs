//! Before every handler of a controller or a registry: lets in who may come, and turns the others away.
//!
//! What needs no credential stands in one list; whatever is not in it, an unknown path too, needs one.

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use prometheus::IntCounterVec;

use super::{Auth, Refusal, Who, signed::Signed};
use crate::{
    http::{Peer, linger},
    telemetry::{Metrics, MetricsError, names},
    wire::envelope::Envelope,
};

/// Paths that ask for no credential: probes, metrics, and what a client needs before it has one.
const OPEN: [&str; 5] = ["/livez", "/healthz", "/readyz", "/metrics", "/config/v1/auth"];

/// All below these asks for none either: the handshake is how to come by one.
const OPEN_BELOW: [&str; 1] = ["/tap/v1/"];

/// All below these is for operators and our own servers, who have the root token.
const OPERATORS: [&str; 1] = ["/replication/"];

/// What goes on for as long as its client likes: whose credential it is there by is looked at again and again.
const LASTING: [&str; 1] = ["/switchyard/v1/watch"];

/// The answer to whoever shows nothing or something wrong; clients compare it to the byte (C §1.2).
pub const REQUIRED: &str = "{\"status\":\"FAIL\",\"message\":\"Authentication Required\"}\n";

const DENIED: &str = "{\"status\":\"FAIL\",\"message\":\"Permission denied: this needs the root token\"}\n";

/// The same in the words of OCI Distribution, whose clients look for the code.
const OCI_REQUIRED: &str =
    "{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"Authentication Required\"}]}";

/// OCI clients show their credential only to a server that asks for it this way.
const OCI_WAY: &str = "Basic realm=\"switchyard\"";

/// The gate of one server. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    auth: Auth,
    refused: IntCounterVec,
    handshakes: IntCounterVec,
}

impl Gate {
    /// Of this server.
    ///
    /// # Errors
    /// A metric that exists already: this was called twice for one [`Metrics`].
    pub fn new(auth: Auth, metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            auth,
            refused: metrics.counters(names::AUTH_REFUSED)?,
            handshakes: metrics.counters(names::AUTH_HANDSHAKES)?,
        })
    }

    pub(super) fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Counts one that was turned away.
    pub(super) fn refused(&self, why: &str) {
        self.refused.with_label_values(&[why]).inc();
    }

    /// Counts the end of a handshake.
    pub(super) fn handshake(&self, end: &str) {
        self.handshakes.with_label_values(&[end]).inc();
    }
}

/// Middleware: puts [`Who`] into the request's extensions, or answers in its place.
pub async fn admit(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let enabled = gate.auth.is_enabled();
    if !enabled || is_open(request.uri().path()) {
        request.extensions_mut().insert(Who::Anybody);
        return next.run(request).await;
    }
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|peer| &peer.0);
    let signed = request.extensions().get::<Signed>().is_some();
    let who = gate.auth.asks(request.headers(), peer, signed).await;
    match who.and_then(|who| allowed(who, request.uri().path())) {
        Ok(who) => {
            if LASTING.contains(&request.uri().path()) {
                let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|peer| &peer.0);
                let stay = gate.auth.stay(&who, request.headers(), peer, signed);
                request.extensions_mut().insert(stay);
            }
            request.extensions_mut().insert(who);
            let mut response = next.run(request).await;
            // What one may see, another may not: nothing in between may keep it.
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(refusal) => {
            gate.refused(refusal.label());
            let oci = is_oci(request.uri().path());
            linger(request).await;
            refused(&refusal, oci)
        }
    }
}

fn is_open(path: &str) -> bool {
    OPEN.contains(&path) || OPEN_BELOW.iter().any(|below| path.starts_with(below))
}

fn is_oci(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

fn allowed(who: Who, path: &str) -> Result<Who, Refusal> {
    let operators = OPERATORS.iter().any(|below| path.starts_with(below));
    if operators && !who.is_operator() { Err(Refusal::Forbidden) } else { Ok(who) }
}

/// The answer to whoever is turned away.
pub(super) fn refused(refusal: &Refusal, oci: bool) -> Response {
    let (status, text) = match refusal {
        Refusal::Forbidden => (StatusCode::FORBIDDEN, DENIED.to_owned()),
        Refusal::NotNow(why) => {
            let fail = serde_json::to_string(&Envelope::fail(why.as_str())).unwrap_or_default();
            (StatusCode::SERVICE_UNAVAILABLE, fail + "\n")
        }
        _ if oci => (StatusCode::UNAUTHORIZED, OCI_REQUIRED.to_owned()),
        _ => (StatusCode::UNAUTHORIZED, REQUIRED.to_owned()),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        fields.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if oci && status == StatusCode::UNAUTHORIZED {
        fields.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(OCI_WAY));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_named_and_nothing_that_only_looks_like_it_is() {
        for open in
            ["/livez", "/readyz", "/healthz", "/metrics", "/config/v1/auth", "/tap/v1/hand", "/tap/v1/shake"]
        {
            assert!(is_open(open), "{open}");
        }
        for closed in [
            "/",
            "",
            "/livez/",
            "/livez/../api/v1/vm",
            "//livez",
            "/LIVEZ",
            "/tap/v1",
            "/tap/v1x",
            "/api/v1/status",
            "/v2/",
        ] {
            assert!(!is_open(closed), "{closed}");
        }
    }

    #[test]
    fn the_refusal_is_the_vendors_to_the_byte() {
        assert_eq!(REQUIRED.len(), 54);
        let plain = refused(&Refusal::Wrong, false);
        assert_eq!(plain.status(), 401);
        assert!(!plain.headers().contains_key(header::WWW_AUTHENTICATE), "the vendor's has none");
        let oci = refused(&Refusal::Missing, true);
        assert_eq!(
            (oci.status().as_u16(), &oci.headers()[header::WWW_AUTHENTICATE]),
            (401, &HeaderValue::from_static(OCI_WAY))
        );
        assert_eq!(refused(&Refusal::Forbidden, true).status(), 403);
    }
}
