//! Callers that a proxy in front knows by their certificates (`reference/authentication.md` §3.2).
//!
//! The headers are looked at only when the connection comes from a configured proxy, and the certificate in them is
//! verified again: what anybody else sends is no credential.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use axum::http::HeaderMap;
use tracing::{debug, error, info, warn};

use super::{Refusal, Who};
use crate::{
    clock,
    config::auth::Certificates,
    supervise::Stop,
    tls::{Callers, Unknown},
    wire::headers,
};

/// The files are looked at so often.
const EVERY: Duration = Duration::from_secs(10);

/// A revocation list that ends so soon is told of, once an hour.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// Looks between two such words.
const SAID: u32 = 360;

/// Who it is by the headers of the proxy at `peer`.
pub(super) fn who(known: &Certificates, fields: &HeaderMap, peer: Option<IpAddr>) -> Result<Who, Refusal> {
    if !peer.is_some_and(|peer| known.trusted.iter().any(|network| network.contains(peer))) {
        return Err(Refusal::Missing);
    }
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
    match known.callers.look(escaped) {
        Ok(caller) => Ok(Who::Certificate(Arc::new(caller))),
        Err(why) => {
            debug!(why = %why, "certificate from a proxy refused");
            Err(if matches!(why, Unknown::Denied(_)) { Refusal::Wrong } else { Refusal::Unreadable })
        }
    }
}

/// Takes what is new in the files until `stop`, and says in time when a revocation list ends.
pub async fn keep(callers: Callers, stop: Stop) -> Result<(), Infallible> {
    let (mut looks, mut wrong) = (0, false);
    loop {
        let of = callers.clone();
        match tokio::task::spawn_blocking(move || of.refresh()).await {
            Ok(Ok(true)) => info!("new authorities or revocation lists of callers were taken"),
            Ok(Ok(false)) => {}
            Ok(Err(problems)) if !wrong => {
                for problem in &problems {
                    error!(file = %problem.name, why = %problem.what, "authorities or revocation lists of callers cannot be used; those before are");
                }
            }
            Ok(Err(_)) => {}
            Err(gone) => error!(error = %gone, "looking at the files of callers' certificates failed"),
        }
        wrong = callers.trouble();
        let ends = callers.list_until().filter(|until| clock::wall().plus(SOON) >= *until);
        if let Some(until) = ends
            && looks % SAID == 0
        {
            warn!(until = %until, "revocation list of callers' certificates ends soon or has ended; then no certificate is good");
        }
        looks += 1;
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
