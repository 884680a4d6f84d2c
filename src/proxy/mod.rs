//! The data plane. The story of one request, in order:
//!
//! ```text
//!   engine accepts, reads the raw head
//!     h1          HTTP/1.1 as bytes: where a head ends, fields, framing
//!     h2          HTTP/2 as bytes: frames, compressed fields, heads as those of HTTP/1.1
//!     guard       refuse what is ambiguous; one form of the path
//!     identify    who is calling
//!     limit       let in or turn away
//!     classify    head → service, route class, what may be done with it
//!     affinity    what ties it to one upstream: what it is about, or whose it is
//!   ┌▶ next
//!   │    choose    filters, then balance → upstream and why
//!   │    hold      nothing eligible: wait, bounded, then choose again or 503
//!   │  forward     what goes to the upstream and back: headers, deadlines, limits
//!   │    engine moves the bytes
//!   │  weigh       may this answer be passed on? as fresh as it must be?
//!   └─ retry       what failed and what was sent → again, pass on, answer, abort
//!     record      access line, metrics
//! ```
//!
//! The steps decide and know neither sockets nor Pingora; [`engine`] moves bytes and calls them. What a request
//! may read of the configuration is one [`snapshot`]; what it carries from step to step is [`ctx`].

pub mod h1;
pub mod h2;
pub mod guard;
pub mod identify;
pub mod trace;
pub mod limit;
pub mod classify;
pub mod affinity;
pub mod lane;
pub mod choose;
pub mod hold;
mod next;
mod held;
pub mod forward;
pub mod weigh;
pub mod retry;
mod attempt;
pub mod passive;
pub mod record;
mod explain;
pub mod answer;
pub mod ctx;
pub mod share;
pub mod transfers;
pub mod room;
mod boxed;
pub mod snapshot;
pub mod freshness;
pub mod catalogue;
pub mod follow;
pub mod cohort;
pub mod survey;
mod vendor;
mod kept;
pub mod orders;
pub mod pins;
pub mod members;
pub mod reload;
pub mod handover;
mod certificates;
mod engine;
mod admin;
mod source;
mod role;

use ::http::Method;
use smallvec::SmallVec;

use self::{
    affinity::cookie_for,
    answer::Answer,
    attempt::{
        answer_until, broke_off, connected, failed, is_retry_status, passed_on, received, sent, signing,
        waits_on, whole,
    },
    boxed::boxed,
    ctx::{Arrival, Ctx, End, Protocol},
    guard::{Refusal, path::Target},
    h1::{Fields, Framing},
    limit::{Turned, who::Caller},
    next::{Mover, NoNext, next_upstream},
    passive::{answered, moved},
};
use crate::{
    config::proxy::{Does, Kind},
    model::RequestId,
    wire::headers,
};
pub use reload::ReloadError;
pub use role::{Handle, Proxy, ProxyError};
pub use source::ReloadRefused;

/// A request head as the steps see it, once [`guard::head`] has let it by.
#[derive(Debug, Clone, Copy)]
struct Head<'a> {
    method: &'a str,
    target: &'a str,
    /// In which it was asked.
    protocol: Protocol,
    fields: Fields<'a>,
    framing: Framing,
    /// Address of the other end, as it is written.
    peer: &'a str,
    /// Bytes of all of it.
    length: usize,
}

impl<'a> Head<'a> {
    /// For whom it is.
    fn host(&self) -> &'a str {
        // RFC 9112 §3.2.2: without the field the target's is the host. The guard has let it by.
        self.fields.text("host").or_else(|| guard::path::authority(self.target)).unwrap_or_default()
    }
}

/// Steps 2 to 5, and the part of step 8 that every attempt shares: the head as upstreams get it. The request is there
/// in any case, for it is recorded also when it was turned away.
fn admit(arrival: Arrival, head: &Head<'_>) -> (Box<Ctx>, Result<Vec<u8>, Answer>) {
    let Arrival { snapshot, listener, peer, unnamed, secured, started, chance, takes } = arrival;
    let Head { fields, protocol, .. } = head;
    let old = *protocol == Protocol::Http10;
    let listed = snapshot.listeners.get(listener).filter(|_| !unnamed);
    let trusted = listed.map_or(&[][..], |listener| &listener.trusted);
    let client = identify::client(peer, *fields, trusted);
    let trace = trace::of(fields, snapshot.tracing.as_deref(), chance);
    let given = fields.text(headers::REQUEST_ID).and_then(|id| RequestId::parse(id).ok());
    let (path, query) = guard::path::split(head.target);
    let normal = guard::path::normalise(path);
    // `guard` has let it by, so it is a token.
    let method = Method::from_bytes(head.method.as_bytes()).unwrap_or_default();
    let host = head.host();
    let caller = Caller { client, secured: secured.as_deref(), fields: *fields };
    let turned = limit::request(&snapshot, listener, &caller, !unnamed, takes, started);
    let mut ctx = boxed(|| Ctx {
        route: classify::UNROUTED,
        snapshot,
        listener,
        peer,
        protocol: *protocol,
        client,
        secured,
        method,
        path: normal.as_ref().map_or(path, |path| path.as_ref()).into(),
        hostless: host.is_empty(),
        request: given.unwrap_or_else(|| RequestId::of(chance)),
        trace,
        started,
        // RFC 9110 §7.8: HTTP/1.0 knows no other protocols.
        upgrade: !old && forward::is_upgrade(fields),
        expects: !old && fields.lists("expect", "100-continue"),
        service: None,
        deadline: None,
        key: fields.text(headers::IDEMPOTENCY_KEY).map(str::to_owned),
        key_made: false,
        repository: None,
        session: None,
        of_agent: false,
        concerns: None,
        ability: None,
        affinity: Default::default(),
        tried: Default::default(),
        hold_over: false,
        despaired: false,
        fresh_waited: false,
        impatient: false,
        said: Default::default(),
        stale: None,
        held: Default::default(),
        sends: 0,
        before: None,
        what: None,
        current: None,
        // Nearly no request needs a second one.
        attempts: SmallVec::new(),
        connect: None,
        first_byte: None,
        passed: None,
        ours: None,
        end: End::Done,
        transfer: None,
    });
    let admitted = normal.map_err(Answer::Refused).and_then(|path| {
        // Whom it was for decides in which form it is told that it goes no further.
        let routed = route(&mut ctx, host, query, fields);
        turned.map_err(Answer::Turned)?;
        routed?;
        fits(&ctx, head.framing)?;
        affinity::of(&mut ctx, query, fields);
        let mut out = Vec::with_capacity(head.length + ADDED);
        let about = forward::About {
            client,
            secured: ctx.secured.as_deref(),
            peer: head.peer,
            host,
            request: &ctx.request,
            trace: ctx.trace.as_deref(),
            upgrade: ctx.upgrade,
            framing: head.framing,
            old,
        };
        forward::request(head.method, &Target { path, query }, fields, &about, &mut out);
        Ok(out)
    });
    (ctx, admitted)
}

/// What a head grows by on its way to an upstream, mostly.
const ADDED: usize = 224;

/// Step 5.
fn route(ctx: &mut Ctx, host: &str, query: &str, fields: &Fields<'_>) -> Result<(), Answer> {
    let listener = ctx.snapshot.listeners.get(ctx.listener).ok_or(Answer::NoRoute)?;
    if classify::is_hidden(&ctx.path, &listener.expose) {
        return Err(Answer::NoRoute);
    }
    let found = classify::does(&listener.rules, bare_host(host), &ctx.path);
    let (does, service) = found.ok_or(Answer::NoRoute)?;
    ctx.service = service;
    let denied = match does {
        Does::Send(_) => None,
        Does::Forbid => Some(Answer::Turned(Turned::ByRule)),
        Does::Hide => Some(Answer::NoRoute),
    };
    let Some(service) = ctx.service() else { return Err(denied.unwrap_or(Answer::NoRoute)) };
    let kind = service.kind;
    let of_agent = service.cohort.is_some() && cohort::is_of_agents(&ctx.path);
    let closed = service.is_closed().then(|| Answer::Maintenance { service: service.name.to_string() });
    ctx.route = classify::of_target(kind, &ctx.method, &ctx.path, query);
    ctx.of_agent = of_agent;
    if kind == Kind::Registry {
        ctx.repository = classify::repository(&ctx.path);
        ctx.session = classify::session(&ctx.path).map(Into::into);
    }
    ctx.concerns = ctx.service().and_then(|service| vendor::concerns(service, ctx, query, fields));
    if ctx.upgrade {
        // Another protocol may begin with it, so it cannot be sent twice.
        (ctx.route.repeatable, ctx.route.creates) = (false, false);
    }
    ctx.deadline = forward::deadline(ctx.route, ctx.started);
    if ctx.route.creates && ctx.key.is_none() {
        (ctx.key, ctx.key_made) = (Some(RequestId::random().to_string()), true);
    }
    denied.or(closed).map_or(Ok(()), Err)
}

/// Whether a body of known length is one that its class may have.
fn fits(ctx: &Ctx, framing: Framing) -> Result<(), Answer> {
    match framing {
        Framing::Length(length) if length > ctx.body_cap() => Err(Answer::Refused(Refusal::BodyTooLarge)),
        _ => Ok(()),
    }
}

fn bare_host(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}
