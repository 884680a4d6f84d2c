//! The data plane. The story of one request, in order:
//!
//! ```text
//!   engine accepts, reads the raw head
//!     guard       refuse what is ambiguous; one form of the path
//!     identify    who is calling
//!     limit       let in or turn away
//!     classify    head → service, route class, what may be done with it
//!   ┌▶ choose      filters, then balance → upstream and why
//!   │    hold      nothing eligible: wait, bounded, then choose again or 503
//!   │  forward     what goes to the upstream and back: headers, deadlines, limits
//!   │    engine moves the bytes
//!   └─ retry       what failed and what was sent → again, pass on, answer, abort
//!     record      access line, metrics
//! ```
//!
//! The steps decide and know neither sockets nor Pingora; [`engine`] moves bytes and calls them. What a request
//! may read of the configuration is one [`snapshot`]; what it carries from step to step is [`ctx`].

pub mod guard;
pub mod identify;
pub mod limit;
pub mod classify;
pub mod choose;
pub mod hold;
pub mod forward;
pub mod retry;
pub mod record;
pub mod answer;
pub mod ctx;
pub mod snapshot;
pub mod reload;
mod engine;
mod admin;
mod role;

use std::{future::Future, sync::atomic::Ordering};

use ::http::{HeaderMap, Method};
use tokio::time::Instant;

use self::{
    answer::{Answer, Before},
    choose::{Draw, NoneLeft, Want},
    ctx::{Arrival, Ctx, Current, End, Note},
    retry::{Case, Event, Verdict},
    snapshot::{Service, UnderWay},
};
use crate::{
    clock,
    health::Access,
    model::RequestId,
    wire::{headers, ready::SUPPORTS_IDEMPOTENCY},
};
pub use reload::ReloadError;
pub use role::{Handle, Proxy, ProxyError, ReloadRefused};

/// A request head as the steps see it.
#[derive(Debug, Clone, Copy)]
struct Head<'a> {
    method: &'a Method,
    /// Of the target, without query.
    path: &'a str,
    headers: &'a HeaderMap,
}

/// Steps 2 to 5. The request is there in any case, for it is recorded also when it was turned away.
fn admit(arrival: Arrival, head: Head<'_>) -> (Ctx, Result<(), Answer>) {
    let Arrival { snapshot, listener, peer, started } = arrival;
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let trusted = snapshot.listeners.get(listener).map_or(&[][..], |listener| &listener.trusted);
    let client = identify::client(peer, head.headers, trusted);
    let given = text(headers::REQUEST_ID).and_then(|id| RequestId::parse(id).ok());
    let path = guard::path::normalise(head.path).map(String::from);
    let host = text("host").unwrap_or_default().to_owned();
    let mut ctx = Ctx {
        route: classify::route(crate::config::proxy::Kind::Controller, head.method, ""),
        snapshot,
        listener,
        peer,
        client,
        method: head.method.clone(),
        path: path.clone().unwrap_or_else(|_| head.path.to_owned()),
        host,
        request: given.unwrap_or_else(RequestId::random),
        started,
        upgrade: forward::is_upgrade(head.headers),
        service: None,
        deadline: None,
        key: text(headers::IDEMPOTENCY_KEY).map(str::to_owned),
        ability: None,
        tried: Default::default(),
        hold_over: false,
        despaired: false,
        held: Default::default(),
        sends: 0,
        before: None,
        what: None,
        current: None,
        attempts: Vec::new(),
        connect: None,
        first_byte: None,
        passed: None,
        ours: None,
        end: End::Done,
    };
    let admitted = path.map_err(Answer::Refused).and_then(|_| route(&mut ctx));
    (ctx, admitted)
}

/// Step 5.
fn route(ctx: &mut Ctx) -> Result<(), Answer> {
    let listener = ctx.snapshot.listeners.get(ctx.listener).ok_or(Answer::NoRoute)?;
    let host = bare_host(&ctx.host).to_ascii_lowercase();
    if classify::is_hidden(&ctx.path, &listener.expose) {
        return Err(Answer::NoRoute);
    }
    ctx.service = classify::service(&listener.rules, &host, &ctx.path);
    let service = ctx.service().ok_or(Answer::NoRoute)?.clone();
    ctx.route = classify::route(service.kind, &ctx.method, &ctx.path);
    if ctx.upgrade {
        // Another protocol begins with it, so it can neither be sent twice nor be timed.
        (ctx.route.repeatable, ctx.route.creates) = (false, false);
        ctx.route.pace = classify::Pace::Bulk;
    }
    ctx.deadline = forward::deadline(ctx.route, ctx.started);
    if ctx.route.creates {
        ctx.key.get_or_insert_with(|| RequestId::random().to_string());
    }
    if service.maintenance {
        return Err(Answer::Maintenance { service: service.name.to_string() });
    }
    Ok(())
}

fn bare_host(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Why there is no next upstream.
#[derive(Debug)]
enum NoNext {
    /// The client is told so.
    Answer(Answer),
    /// The client has closed.
    ClientGone,
}

/// Steps 6 and 7: sets [`Ctx::current`]. `gone` completes when the client has closed.
async fn next_upstream<G: Future<Output = ()>>(
    ctx: &mut Ctx,
    metrics: &record::ProxyMetrics,
    gone: impl Fn() -> G,
) -> Result<(), NoNext> {
    let service = ctx.service().ok_or(NoNext::Answer(Answer::NoRoute))?.clone();
    let until = forward::hold_until(ctx.route, service.hold, ctx.started);
    let mut holding = None;
    loop {
        let now = clock::now();
        let none = match choose_now(ctx, &service, now) {
            Ok(()) => return Ok(()),
            Err(none) => none,
        };
        let name = service.name.to_string();
        if ctx.tried.sent_any() {
            // Once bytes went out, waiting would only delay an error that is already known.
            return Err(NoNext::Answer(no_answer(ctx, ctx.route.access == Access::Write)));
        }
        if ctx.hold_over {
            return Err(NoNext::Answer(Answer::NoUpstream { service: name, why: none }));
        }
        let Some((_inside, verdicts)) = &mut holding else {
            let Some(inside) = service.held.enter(ctx.snapshot.limits.held) else {
                metrics.held_refused(&name);
                return Err(NoNext::Answer(Answer::HeldFull { service: name, why: none }));
            };
            let follow = |upstream: &std::sync::Arc<snapshot::Upstream>| {
                let mut verdict = upstream.prober.follow();
                verdict.mark_unchanged();
                verdict
            };
            // A verdict may have changed before it was followed: look once more before waiting.
            holding = Some((inside, service.upstreams.iter().map(follow).collect::<Vec<_>>()));
            continue;
        };
        let ended = hold::wait(verdicts, until, now, gone()).await;
        ctx.held += clock::now().saturating_duration_since(now);
        match ended {
            hold::Ended::ClientGone => return Err(NoNext::ClientGone),
            hold::Ended::LookAgain => ctx.tried.forgive(),
            hold::Ended::Over => {
                ctx.hold_over = true;
                ctx.tried.forgive();
            }
        }
    }
}

/// Step 6.
fn choose_now(ctx: &mut Ctx, service: &Service, now: Instant) -> Result<(), NoneLeft> {
    let candidates = service.candidates();
    let want = ctx.want();
    let hold = match ctx.route.access {
        Access::Read => service.hold.read,
        Access::Write => service.hold.write,
    };
    let long = || choose::failing_for(&candidates, &want, now).is_some_and(|failing| failing > hold);
    let at_once = !ctx.hold_over && !ctx.despaired && long();
    let draw = Draw { turn: service.turn.fetch_add(1, Ordering::Relaxed), chance: rand::random() };
    let chosen =
        choose::next(&candidates, &want, &ctx.tried, service.balance, ctx.hold_over || at_once, draw);
    let chosen = chosen.inspect_err(|_| ctx.despaired |= at_once)?;
    let Some(upstream) = service.upstreams.get(chosen.place) else { return Err(NoneLeft::default()) };
    let honours = upstream.prober.verdict().supports(SUPPORTS_IDEMPOTENCY);
    tracing::debug!(request.id = %ctx.request, upstream.name = %upstream.name, why = %chosen.why, "upstream chosen");
    ctx.attempts.push(Note { upstream: upstream.name.clone(), why: chosen.why, end: "under-way" });
    ctx.current = Some(Current {
        under_way: UnderWay::at(upstream.clone()),
        place: chosen.place,
        began: now,
        connected: false,
        keyed: ctx.route.creates && honours,
    });
    Ok(())
}

/// The 502 for a request that was sent and not answered.
fn no_answer(ctx: &Ctx, unknown: bool) -> Answer {
    let service = ctx.service().map(|service| service.name.to_string()).unwrap_or_default();
    let upstream = ctx.attempts.last().map(|note| note.upstream.to_string()).unwrap_or_default();
    let what = ctx.what.map_or("it could not be reached", retry::What::text);
    let before = ctx.before.clone();
    if unknown {
        Answer::Unknown { service, upstream, what, before }
    } else {
        Answer::NoAnswer { service, upstream, what, before }
    }
}

/// The attempt under way has a connection.
fn connected(ctx: &mut Ctx, now: Instant) {
    ctx.sends += 1;
    let Some(current) = &mut ctx.current else { return };
    current.connected = true;
    ctx.connect = Some(now.saturating_duration_since(current.began));
    ctx.tried.sent(current.place);
}

/// Step 9, and what must be noted of the attempt. `body_at_hand`: what was read of the request's body can be
/// sent again.
fn failed(ctx: &mut Ctx, event: Event, body_at_hand: bool, metrics: &record::ProxyMetrics) -> Verdict {
    let now = clock::now();
    let Some(service) = ctx.service().cloned() else { return Verdict::Abort };
    let Some(current) = ctx.current.take() else { return Verdict::Abort };
    let upstream = current.under_way.upstream().clone();
    let end = match event {
        Event::ConnectFailed => {
            ctx.what = None;
            ctx.tried.refused(current.place);
            // Traffic has seen what the verdict does not say yet.
            upstream.prober.nudge();
            "connect-failed"
        }
        Event::NoAnswer(what) => {
            ctx.what = Some(what);
            upstream.prober.nudge();
            what.label()
        }
        Event::BadStatus(_) => "retry-status",
        Event::BrokeOff => "broke-off",
    };
    let case = Case {
        route: ctx.route,
        event,
        sends_left: ctx.sends < service.attempts,
        time_left: ctx.left(now).is_none_or(|left| !left.is_zero()),
        body_at_hand,
        keyed: current.keyed,
        other: another(ctx, &service, &ctx.want(), current.place),
        status_spent: ctx.before.is_some(),
    };
    let verdict = retry::verdict(&case);
    if verdict == Verdict::PassOn {
        // It goes on: the attempt is the one that is passed on.
        ctx.current = Some(current);
        return verdict;
    }
    metrics.upstream_failed(service.name.as_str(), upstream.name.as_str(), end);
    ctx.end_attempt(end);
    match verdict {
        Verdict::Again(why) => {
            metrics.retried(service.name.as_str(), why.label());
            if let Event::BadStatus(status) = event {
                ctx.before = Some(Before { upstream: upstream.name.to_string(), status });
            }
            if why == retry::Because::Keyed {
                ctx.ability = Some(SUPPORTS_IDEMPOTENCY);
            }
        }
        Verdict::Answer { unknown, .. } => ctx.ours = Some(no_answer(ctx, unknown)),
        Verdict::Abort => ctx.end = End::Aborted,
        Verdict::PassOn => {}
    }
    verdict
}

/// Until when the attempt under way may wait for its answer, once the request was sent whole.
fn answer_until(ctx: &Ctx, now: Instant) -> Option<Instant> {
    let deadline = ctx.deadline?;
    let (Some(service), Some(current)) = (ctx.service(), &ctx.current) else { return Some(deadline) };
    let keyed = ctx.route.creates && current.keyed;
    let mut want = ctx.want();
    if keyed {
        want.ability = Some(SUPPORTS_IDEMPOTENCY);
    }
    let goes_on = (ctx.route.repeatable || keyed)
        && ctx.sends < service.attempts
        && another(ctx, service, &want, current.place);
    Some(if goes_on { forward::attempt_until(deadline, now) } else { deadline })
}

/// Whether another upstream than this one could take the request now.
fn another(ctx: &Ctx, service: &Service, want: &Want, than: usize) -> bool {
    let draw = Draw { turn: 0, chance: 0 };
    choose::next(&service.candidates(), want, &ctx.tried, service.balance, false, draw)
        .is_ok_and(|chosen| chosen.place != than)
}

/// Whether this status is one that the service wants tried elsewhere.
fn is_retry_status(ctx: &Ctx, status: u16) -> bool {
    ctx.service().is_some_and(|service| service.retry_status.contains(&status))
}
