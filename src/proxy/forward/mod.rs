//! Step 8: what goes to the upstream and back: header edits, deadlines, limits. Decides; moves nothing.

use std::{net::IpAddr, time::Duration};

use ::http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::Instant;

use super::{
    classify::{Pace, Route},
    guard::identity,
    identify::Client,
};
use crate::{
    config::proxy::{Hold, UpstreamTimeouts},
    health::Access,
    model::RequestId,
    wire::headers,
};

/// From head to first byte of the answer, whatever happens in between: real clients give up at 5 s.
const READ_DEADLINE: Duration = Duration::from_millis(4500);

/// The same for what may change something: real clients give up at 10 s.
const WRITE_DEADLINE: Duration = Duration::from_secs(9);

/// A hold ends so long before the deadline, so that the upstream has time to answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// A parked poll is answered within its server's time-out (10 s, up to 60 s by config) or its server is gone.
const PARKED: Duration = Duration::from_secs(90);

/// After the last byte of an upload the registry makes it durable, on several machines if told so.
const COMMIT: Duration = Duration::from_secs(15 * 60);

/// An upgraded connection may be silent for so long.
const UPGRADED: Duration = Duration::from_secs(60 * 60);

/// The one deadline of a request; `None` for what takes its time on purpose.
pub fn deadline(route: Route, started: Instant) -> Option<Instant> {
    match (route.pace, route.access) {
        (Pace::Prompt, Access::Read) => Some(started + READ_DEADLINE),
        (Pace::Prompt, Access::Write) => Some(started + WRITE_DEADLINE),
        (Pace::Parked | Pace::Bulk | Pace::Commit, _) => None,
    }
}

/// When one attempt ends although the deadline has not come, if another upstream could take the request then:
/// one that is frozen accepts and never answers, and must not use up the time of those that would.
pub fn attempt_until(deadline: Instant, now: Instant) -> Instant {
    now + deadline.saturating_duration_since(now) / 2
}

/// When such a request must have been sent, so that the upstream has time to answer.
pub fn wait_until(route: Route, started: Instant) -> Option<Instant> {
    deadline(route, started).map(|deadline| deadline.checked_sub(ANSWER_TIME).unwrap_or(started))
}

/// How long such a request may be held.
pub fn hold(route: Route, hold: Hold) -> Duration {
    match route.access {
        Access::Read => hold.read,
        Access::Write => hold.write,
    }
}

/// When holding such a request ends.
pub fn hold_until(route: Route, hold: Hold, started: Instant) -> Instant {
    let end = started + self::hold(route, hold);
    wait_until(route, started).map_or(end, |latest| end.min(latest))
}

/// Limits of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For connecting.
    pub connect: Duration,
    /// Between two reads from the upstream; `None` while the answer may rightly be long in coming.
    pub read: Option<Duration>,
    /// For each write to the upstream, and for each read and write of the client's body.
    pub write: Duration,
    /// May go over a connection that was used before. A pooled one can be dead already, and then nobody
    /// knows whether the request has arrived.
    pub pooled: bool,
}

/// Limits of the next attempt.
pub fn limits(route: Route, timeouts: UpstreamTimeouts, upgrade: bool, left: Option<Duration>) -> Limits {
    let idle = match route.pace {
        // Nobody waits longer for it. The deadline cannot see an upstream that takes only half of a body.
        Pace::Prompt => timeouts.idle.min(WRITE_DEADLINE),
        _ if upgrade => timeouts.idle.max(UPGRADED),
        _ => timeouts.idle,
    };
    Limits {
        connect: left.map_or(timeouts.connect, |left| timeouts.connect.min(left)),
        read: match route.pace {
            Pace::Prompt | Pace::Bulk => Some(idle),
            Pace::Parked => Some(idle.max(PARKED)),
            Pace::Commit => None,
        },
        write: idle,
        pooled: route.repeatable,
    }
}

/// How long the answer may take after the last byte of the request; the idle limit does not run meanwhile.
pub fn after_body(route: Route) -> Option<Duration> {
    (route.pace == Pace::Commit).then_some(COMMIT)
}

/// Header changes: first remove, then set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// These go.
    pub remove: Vec<HeaderName>,
    /// These are set, in place of what was there.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl Edits {
    fn set(&mut self, name: &'static str, value: &str) {
        // A value that is no header value (a host with odd bytes) is left out rather than passed on.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.set.push((HeaderName::from_static(name), value));
        }
    }
}

/// What the edits of a request depend on.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Who is calling.
    pub client: Client,
    /// The other end of the connection.
    pub peer: IpAddr,
    /// `Host`, or where the upstream is when there was none.
    pub host: &'a str,
    /// The request's id.
    pub request: &'a RequestId,
    /// Time left of the deadline.
    pub left: Option<Duration>,
    /// The key that makes a repeated create harmless.
    pub key: Option<&'a str>,
    /// The client asks for another protocol.
    pub upgrade: bool,
}

/// Fields that concern one connection only (RFC 9110 §7.6.1, and what older peers add). `Transfer-Encoding`
/// is not among them: the body keeps its framing.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
];

const HOP_BY_HOP_OLD: [&str; 3] = ["keep-alive", "proxy-connection", "http2-settings"];

/// Framing and routing: a client must not be able to take them away by naming them in `Connection`.
const KEPT: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];

fn hop_by_hop(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut remove: Vec<HeaderName> =
        HOP_BY_HOP.into_iter().chain(HOP_BY_HOP_OLD.map(HeaderName::from_static)).collect();
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named = named.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    remove.extend(named.filter(|name| !KEPT.contains(name)));
    remove.retain(|name| headers.contains_key(name));
    remove
}

/// Whether the client asks to go on in another protocol. `h2c` is not passed on: what would follow could
/// not be read here.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    headers.contains_key(header::UPGRADE)
        && has(header::CONNECTION, "upgrade")
        && !has(header::UPGRADE, "h2c")
}

/// Edits of a request's headers on the way to the upstream.
pub fn request(given: &HeaderMap, about: &About<'_>) -> Edits {
    let mut edits = Edits { remove: hop_by_hop(given), set: Vec::with_capacity(8) };
    if !about.client.trusted {
        edits.remove.extend(given.keys().filter(|name| identity::is_identity(name.as_str())).cloned());
    }
    let believed = |name: &str| about.client.trusted && given.contains_key(name);
    let before = about.client.trusted.then(|| given.get_all("x-forwarded-for")).into_iter().flatten();
    let mut chain: Vec<&str> = before.filter_map(|value| value.to_str().ok()).collect();
    let peer = about.peer.to_canonical().to_string();
    chain.push(&peer);
    edits.set("x-forwarded-for", &chain.join(", "));
    if !believed("x-forwarded-proto") {
        edits.set("x-forwarded-proto", "http");
    }
    if !believed("x-forwarded-host") {
        edits.set("x-forwarded-host", about.host);
    }
    edits.set("host", about.host);
    edits.set(headers::REQUEST_ID, about.request.as_str());
    match about.left {
        Some(left) => edits.set(headers::DEADLINE, &left.as_millis().to_string()),
        None => edits.remove.push(HeaderName::from_static(headers::DEADLINE)),
    }
    if let Some(key) = about.key {
        edits.set(headers::IDEMPOTENCY_KEY, key);
    }
    if about.upgrade
        && let Some(protocol) = given.get(header::UPGRADE)
    {
        edits.set("connection", "upgrade");
        edits.set.push((header::UPGRADE, protocol.clone()));
    }
    edits
}

/// Edits of an answer's headers on the way to the client. `old` is a client of HTTP/1.0, which knows no
/// chunks: its body ends with the connection.
pub fn answer(given: &HeaderMap, switching: bool, old: bool, request: &RequestId) -> Edits {
    let mut edits = Edits { remove: hop_by_hop(given), set: Vec::new() };
    if switching {
        edits.remove.retain(|name| *name != header::UPGRADE && *name != header::CONNECTION);
    }
    if old {
        edits.remove.push(header::TRANSFER_ENCODING);
    }
    edits.remove.push(HeaderName::from_static(headers::ANSWERED_BY));
    if !given.contains_key(headers::REQUEST_ID) {
        edits.set(headers::REQUEST_ID, request.as_str());
    }
    edits
}

#[cfg(test)]
mod tests;
