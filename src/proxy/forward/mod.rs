//! Step 8: what goes to the upstream and back: header edits, deadlines, limits. Decides; moves nothing.

pub mod floor;
pub mod part;

use std::time::Duration;

use tokio::time::Instant;

use self::floor::Meter;
use super::{
    classify::{Needs, Pace, Route},
    guard::{identity, path::Target},
    h1::{Fields, Framing, fields::text},
    identify::{Client, Secured},
    trace::Trace,
};
use crate::{
    config::proxy::{Hold, UpstreamTimeouts},
    health::Access,
    model::{RequestId, RouteClass, TraceParent},
    tls::signed::{self, SigningKey},
    wire::headers,
};

/// From head to first byte of the answer, whatever happens in between: real clients give up at 5 s.
const READ_DEADLINE: Duration = Duration::from_millis(4500);

/// The same for what may change something: real clients give up at 10 s.
const WRITE_DEADLINE: Duration = Duration::from_secs(9);

/// The same for a line of a log: agents wait for it, and have better things to do.
const LOG_DEADLINE: Duration = Duration::from_secs(3);

/// A hold ends so long before the deadline, so that the upstream has time to answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// A used connection over which an answer came so lately is as good as a new one.
pub const PROVED: Duration = Duration::from_secs(1);

/// An upgraded connection may be silent for so long.
const UPGRADED: Duration = Duration::from_secs(60 * 60);

/// The one deadline of a request; `None` for what takes its time on purpose.
pub fn deadline(route: Route, started: Instant) -> Option<Instant> {
    match (route.pace, route.access) {
        (Pace::Prompt, Access::Write) if route.needs == Needs::Logs => Some(started + LOG_DEADLINE),
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
        // A log that cannot be had now is no reason to keep anybody.
        _ if route.needs == Needs::Logs => Duration::ZERO,
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
    /// For the handshake of TLS behind that.
    pub tls: Duration,
    /// Between two reads from the upstream; `None` while the answer may rightly be long in coming.
    pub read: Option<Duration>,
    /// For each write to the upstream, and for each read and write of the client's body.
    pub write: Duration,
    /// May go over any connection that was used before. A pooled one can be dead already, and then nobody knows
    /// whether the request has arrived: so else only over one that has proved alive within [`PROVED`].
    pub pooled: bool,
}

/// How long an upgraded connection may be silent: as long as both sides are open, and once one is shut.
pub fn silent(timeouts: UpstreamTimeouts) -> (Duration, Duration) {
    (timeouts.idle.max(UPGRADED), timeouts.idle)
}

/// Limits of the next attempt.
pub fn limits(route: Route, timeouts: UpstreamTimeouts, left: Option<Duration>) -> Limits {
    let idle = match route.pace {
        // Nobody waits longer for it. The deadline cannot see an upstream that takes only half of a body.
        Pace::Prompt => timeouts.idle.min(WRITE_DEADLINE),
        _ => timeouts.idle,
    };
    let within = |time: Duration| left.map_or(time, |left| time.min(left));
    Limits {
        connect: within(timeouts.connect),
        tls: within(timeouts.tls),
        read: match route.pace {
            Pace::Prompt | Pace::Bulk => Some(idle),
            Pace::Parked => Some(idle.max(timeouts.poll)),
            Pace::Commit => None,
        },
        write: idle,
        pooled: is_pooled(route),
    }
}

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// That of the request.
    Up,
    /// That of the answer.
    Down,
}

/// What sees to it that such a body is not too slow. There is none for bodies that may rightly be: all but blobs, layers
/// and what is uploaded. A log comes when something happens.
pub fn meter(route: Route, way: Way, timeouts: UpstreamTimeouts) -> Option<Meter> {
    timeouts.floor.filter(|_| transfers(route, way)).map(|floor| Meter::new(floor, timeouts.idle))
}

fn transfers(route: Route, way: Way) -> bool {
    match way {
        Way::Up => route.class == RouteClass::RegistryUpload,
        Way::Down => route.needs == Needs::Blob && route.pace == Pace::Bulk,
    }
}

/// Whether such a request moves what may be large, either way.
pub fn is_transfer(route: Route) -> bool {
    transfers(route, Way::Up) || transfers(route, Way::Down)
}

/// How long the head of the answer may take after the last byte of the request; `None`: until the one deadline.
pub fn first_byte(route: Route, timeouts: UpstreamTimeouts) -> Option<Duration> {
    match route.pace {
        Pace::Prompt => None,
        Pace::Parked => Some(timeouts.poll),
        Pace::Bulk => Some(timeouts.first_byte.unwrap_or(timeouts.idle)),
        Pace::Commit => Some(timeouts.commit),
    }
}

/// Whether it may go over any connection that was used before.
pub fn is_pooled(route: Route) -> bool {
    route.repeatable
}

/// What the head of a request depends on, besides its own fields.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Who is calling.
    pub client: Client,
    /// What the connection's TLS says of that; `None` on a plain one.
    pub secured: Option<&'a Secured>,
    /// Address of the other end of the connection.
    pub peer: &'a str,
    /// `Host` as given, which the guard has let by; empty if there was none.
    pub host: &'a str,
    /// Its id.
    pub request: &'a RequestId,
    /// The trace that it is a part of.
    pub trace: Option<&'a Trace>,
    /// The client asks for another protocol.
    pub upgrade: bool,
    /// How the body is framed.
    pub framing: Framing,
    /// It is of HTTP/1.0.
    pub old: bool,
}

/// What only one attempt knows.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Where it goes to, if the client gave no `Host`.
    pub host: Option<&'a str>,
    /// Time left of the deadline.
    pub left: Option<Duration>,
    /// The key of ours that makes a repeated create harmless.
    pub key: Option<&'a str>,
    /// What is said of the client is signed with this, at this time (seconds since 1970).
    pub sign: Option<(&'a SigningKey, u64)>,
}

/// Fields that concern one connection only (RFC 9110 §7.6.1, and what older peers add), or that are written anew:
/// framing.
fn is_of_one_hop(name: &str) -> bool {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
    match name.len() {
        2 => is("te"),
        7 => is("trailer") || is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        14 => is("content-length") || is("http2-settings"),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        18 => is("proxy-authenticate"),
        19 => is("proxy-authorization"),
        _ => false,
    }
}

/// The fields that `Connection` names: they are of one hop too. Framing and routing are not taken away by naming them,
/// for they are written anew.
fn named<'a>(given: &Fields<'a>) -> Vec<&'a str> {
    let plain = |name: &&str| !name.is_empty() && !["close", "keep-alive", "upgrade"].contains(name);
    given.members("connection").filter(plain).collect()
}

fn is_named(named: &[&str], name: &str) -> bool {
    named.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// Whether the client asks to go on in another protocol. `h2c` is not passed on: what would follow could
/// not be read here.
pub fn is_upgrade(given: &Fields<'_>) -> bool {
    given.has("upgrade") && given.lists("connection", "upgrade") && !given.lists("upgrade", "h2c")
}

/// Names and values have no line ends in them: they were parsed, or are ids and addresses. Inlined, for of most names the length
/// is known where they are written, and then nothing is called to copy them.
#[inline(always)]
fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    line(out, name, itoa::Buffer::new().format(value).as_bytes());
}

fn framing_line(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Length(length) => number(out, "content-length", length),
        Framing::Chunked => line(out, "transfer-encoding", b"chunked"),
        Framing::None | Framing::UntilClose | Framing::Upgraded => {}
    }
}

/// Writes the head of a request as every upstream gets it: all but what [`attempt`] adds.
pub fn request(method: &str, target: &Target<'_>, given: &Fields<'_>, about: &About<'_>, out: &mut Vec<u8>) {
    for part in [method.as_bytes(), b" ", target.path.as_bytes(), target.query.as_bytes(), b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
    if !about.host.is_empty() {
        line(out, "host", about.host.as_bytes());
    }
    let named = named(given);
    // Of one hand alone: what a trusted proxy says of the certificate that it was shown, or what we say of ours.
    let told = about.client.trusted && given.iter().any(|(name, _)| identity::is_of_certificate(name));
    let certified = about.secured.and_then(|secured| secured.peer.as_ref()).filter(|_| !told);
    let mut keys = 0;
    for (name, value) in given.iter() {
        let key = name.eq_ignore_ascii_case(headers::IDEMPOTENCY_KEY);
        // A key that a client could take away would be no key for the repeats that rely on it.
        if is_of_one_hop(name) || is_written(name) || (is_named(&named, name) && !key) {
            continue;
        }
        if !about.client.trusted && identity::is_identity(name) {
            continue;
        }
        if key {
            // One that is no text is none, and of several the first is the one that is known here.
            keys += 1;
            if keys > 1 || text(value).is_none() {
                continue;
            }
        }
        if about.trace.is_some_and(|trace| trace.replaces(name)) {
            continue;
        }
        if about.old && name.eq_ignore_ascii_case("expect") {
            // It knows no interim answers.
            continue;
        }
        line(out, name, value);
    }
    forwarded(given, about, out);
    if let Some(peer) = certified {
        line(out, headers::CLIENT_VERIFY, peer.verify.value().as_bytes());
        if let Some(escaped) = &peer.escaped {
            line(out, headers::CLIENT_CERT, escaped.as_bytes());
        }
    }
    line(out, headers::REQUEST_ID, about.request.as_str().as_bytes());
    if let Some(context) = about.trace.and_then(Trace::context) {
        line(out, TraceParent::NAME, &context.value());
    }
    framing_line(out, about.framing);
    if about.upgrade
        && let Some(protocol) = given.all("upgrade").next()
    {
        line(out, "connection", b"upgrade");
        line(out, "upgrade", protocol);
    }
}

/// Fields that are written anew whatever was given.
fn is_written(name: &str) -> bool {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
    match name.len() {
        4 => is("host"),
        12 => is(headers::REQUEST_ID),
        15 => is("x-forwarded-for"),
        16 => is("x-forwarded-host"),
        17 => is("x-forwarded-proto"),
        19 => is(headers::DEADLINE),
        20 => is(headers::SIGNATURE),
        _ => false,
    }
}

fn forwarded(given: &Fields<'_>, about: &About<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"x-forwarded-for: ");
    if about.client.trusted {
        for chain in given.all("x-forwarded-for").filter(|value| text(value).is_some()) {
            out.extend_from_slice(chain);
            out.extend_from_slice(b", ");
        }
    }
    out.extend_from_slice(about.peer.as_bytes());
    out.extend_from_slice(b"\r\n");
    let believed = |name: &str| given.all(name).next().filter(|_| about.client.trusted);
    let proto: &[u8] = if about.secured.is_some() { b"https" } else { b"http" };
    line(out, "x-forwarded-proto", believed("x-forwarded-proto").unwrap_or(proto));
    if let Some(host) = believed("x-forwarded-host") {
        line(out, "x-forwarded-host", host);
    } else if !about.host.is_empty() {
        line(out, "x-forwarded-host", about.host.as_bytes());
    }
}

/// Ends the head of a request with what this attempt adds to it.
pub fn attempt(of: &Attempt<'_>, out: &mut Vec<u8>) {
    if let Some(host) = of.host {
        line(out, "host", host.as_bytes());
    }
    if let Some(left) = of.left {
        number(out, headers::DEADLINE, u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
    }
    if let Some(key) = of.key {
        line(out, headers::IDEMPOTENCY_KEY, key.as_bytes());
    }
    if let Some(signature) = of.sign.and_then(|(key, seconds)| signature(key, seconds, out)) {
        line(out, headers::SIGNATURE, signature.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Signs what a head says of the client, over the request line as it goes out.
fn signature(key: &SigningKey, seconds: u64, head: &[u8]) -> Option<String> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (method, rest) = std::str::from_utf8(lines.next()?).ok()?.split_once(' ')?;
    let (target, _) = rest.rsplit_once(' ')?;
    let named = |wanted: &str, line: &[u8]| {
        line.get(..wanted.len()).is_some_and(|name| name.eq_ignore_ascii_case(wanted.as_bytes()))
    };
    Some(key.sign(signed::Request { method, target }, seconds, |wanted, take| {
        for line in lines.clone().filter(|line| named(wanted, line)) {
            if let Some(value) = line[wanted.len()..].strip_prefix(b": ") {
                take(value);
            }
        }
    }))
}

/// What the head of an answer depends on, besides its own fields.
#[derive(Debug, Clone, Copy)]
pub struct Passing<'a> {
    /// The client is of HTTP/1.0: it knows no chunks and no interim answers.
    pub old: bool,
    /// How the client's connection goes on after it.
    pub then: Then,
    /// The request's id.
    pub request: &'a RequestId,
    /// Why it may be behind.
    pub stale: Option<&'a str>,
    /// What ties the client to the upstream from now on.
    pub cookie: Option<&'a str>,
}

/// How the client's connection goes on after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// With the next request.
    KeepAlive,
    /// Not at all.
    Close,
}

/// How a body that comes framed as `framing` goes to a client. One that takes no `chunks` gets it until its connection,
/// or the stream of HTTP/2, ends.
pub fn framing_to(framing: Framing, chunks: bool) -> Framing {
    match framing {
        Framing::None | Framing::Length(_) | Framing::Upgraded => framing,
        Framing::Chunked | Framing::UntilClose if chunks => Framing::Chunked,
        Framing::Chunked | Framing::UntilClose => Framing::UntilClose,
    }
}

fn status_line(out: &mut Vec<u8>, status: u16, reason: &str) {
    for part in ["HTTP/1.1 ", itoa::Buffer::new().format(status), " ", reason, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes the head of an answer as the client gets it; `framing` is how its body will go there.
pub fn answer(
    status: u16,
    reason: &str,
    given: &Fields<'_>,
    framing: Framing,
    about: &Passing<'_>,
    out: &mut Vec<u8>,
) {
    status_line(out, status, reason);
    let named = named(given);
    for (name, value) in given.iter() {
        let replaced = about.stale.is_some() && name.eq_ignore_ascii_case(headers::STALE);
        if is_of_one_hop(name)
            || replaced
            || name.eq_ignore_ascii_case(headers::ANSWERED_BY)
            || is_named(&named, name)
        {
            continue;
        }
        line(out, name, value);
    }
    if let Some(stale) = about.stale {
        line(out, headers::STALE, stale.as_bytes());
    }
    if let Some(cookie) = about.cookie {
        line(out, "set-cookie", cookie.as_bytes());
    }
    if !given.has(headers::REQUEST_ID) {
        line(out, headers::REQUEST_ID, about.request.as_str().as_bytes());
    }
    match framing {
        // What a GET would have had; an answer that can have no body has no length either.
        Framing::None if status != 204 && status >= 200 => {
            if let Some(length) = given.all("content-length").next() {
                line(out, "content-length", length);
            }
        }
        framing => framing_line(out, framing),
    }
    match (framing, about.then) {
        (Framing::Upgraded, _) => {
            line(out, "connection", b"upgrade");
            if let Some(protocol) = given.all("upgrade").next() {
                line(out, "upgrade", protocol);
            }
        }
        (_, Then::Close) => line(out, "connection", b"close"),
        (_, Then::KeepAlive) if about.old => line(out, "connection", b"keep-alive"),
        (_, Then::KeepAlive) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim answer as the client gets it.
pub fn interim(status: u16, reason: &str, given: &Fields<'_>, out: &mut Vec<u8>) {
    status_line(out, status, reason);
    let named = named(given);
    for (name, value) in given.iter() {
        if !is_of_one_hop(name) && !is_named(&named, name) {
            line(out, name, value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The trailers of an answer that may go on to a client that asked for trailers: no framing, no routing, nothing of
/// one hop (RFC 9110 §6.5.1). `lines` are whole lines.
pub fn trailers(lines: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for whole in lines.split_inclusive(|byte| *byte == b'\n') {
        let name = whole.split(|byte| *byte == b':').next().and_then(|name| std::str::from_utf8(name).ok());
        let passes = |name: &str| !is_of_one_hop(name) && !is_written(name) && !identity::is_identity(name);
        if name.is_some_and(passes) {
            out.extend_from_slice(whole);
        }
    }
    out
}

#[cfg(test)]
mod tests;
