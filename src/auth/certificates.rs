//! Callers that are known by their certificates (`reference/authentication.md` §3): those that this server sees itself, and
//! those that a proxy in front has seen (§3.2).
//!
//! Headers are looked at only when the connection comes from a configured proxy, and the certificate in them is verified
//! again: what anybody else sends is no credential. The certificate of a connection speaks for what its client asks itself,
//! and never for what it passes on: a proxy's would make its every client the proxy.

use std::sync::Arc;

use axum::http::HeaderMap;
use tracing::debug;

use super::{Refusal, Who};
use crate::{
    config::auth::Certificates,
    http::Peer,
    tls::{Caller, Unknown},
    wire::headers,
};

/// What a request has that somebody has passed on.
const PASSED_ON: [&str; 5] =
    ["x-forwarded-for", "forwarded", "via", headers::CLIENT_VERIFY, headers::CLIENT_CERT];

/// Who it is by certificate; `peer` has the connection. `signed`: what is said of the client is a proxy's word.
pub(super) fn who(
    known: Option<&Certificates>,
    fields: &HeaderMap,
    peer: Option<&Peer>,
    signed: bool,
) -> Result<Who, Refusal> {
    let peer = peer.ok_or(Refusal::Missing)?;
    let address = peer.address.ip();
    let trusted = known.filter(|known| {
        // Without a list the signature alone says it; a config has one or the other.
        (known.trusted.is_empty() && known.signed.is_some())
            || known.trusted.iter().any(|network| network.contains(address))
    });
    match (trusted, &peer.shown) {
        (Some(known), _) if fields.contains_key(headers::CLIENT_VERIFY) => match (&known.signed, signed) {
            (Some(_), false) => Err(Refusal::Unsigned),
            _ => told(known, fields),
        },
        (_, Some(shown)) if !PASSED_ON.iter().any(|name| fields.contains_key(*name)) => {
            looked_at(shown.caller())
        }
        _ => Err(Refusal::Missing),
    }
}

/// Who it is by the headers of a proxy that may say so.
fn told(known: &Certificates, fields: &HeaderMap) -> Result<Who, Refusal> {
    let only = |name: &str| {
        let mut all = fields.get_all(name).iter();
        match (all.next(), all.next()) {
            (None, _) => Ok(None),
            (Some(one), None) => one.to_str().map(Some).map_err(|_| Refusal::Unreadable),
            _ => Err(Refusal::Unreadable),
        }
    };
    // Anything else is `NONE`, or why the certificate is not good: nobody.
    if only(headers::CLIENT_VERIFY)? != Some("SUCCESS") {
        return Err(Refusal::Missing);
    }
    let escaped = only(headers::CLIENT_CERT)?.ok_or(Refusal::Unreadable)?;
    looked_at(known.callers.look(escaped))
}

fn looked_at(looked: Result<Caller, Unknown>) -> Result<Who, Refusal> {
    match looked {
        Ok(caller) => Ok(Who::Certificate(Arc::new(caller))),
        Err(why) => {
            debug!(why = %why, "certificate refused");
            Err(if matches!(why, Unknown::Denied(_)) { Refusal::Wrong } else { Refusal::Unreadable })
        }
    }
}
