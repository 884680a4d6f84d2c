//! What became of an attempt, and what must be noted of it.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::{
    answer::{Answer, Before},
    choose::{NoneLeft, Tried},
    classify::{Needs, Pace},
    ctx::{Ctx, End},
    follow::Said,
    forward,
    h1::Fields,
    lane::Lane,
    next::{another, give_up},
    passive,
    record::ProxyMetrics,
    retry::{self, Case, Event, Verdict, What},
    vendor,
    weigh::{self, Weighed},
};
use crate::{
    clock,
    config::proxy::Balance,
    health::Access,
    model::{Position, RouteClass},
    tls::signed::SigningKey,
    wire::{headers, ready::SUPPORTS_IDEMPOTENCY},
};

/// The 502 for a request that was sent and not answered.
pub(super) fn no_answer(ctx: &Ctx, unknown: bool) -> Answer {
    let service = ctx.service().map(|service| service.name.to_string()).unwrap_or_default();
    let upstream =
        ctx.attempts.last().map(|note| ctx.upstream_name(note.place).to_owned()).unwrap_or_default();
    let what = ctx.what.map_or("it could not be reached", What::text);
    let before = ctx.before.clone();
    if unknown {
        Answer::Unknown { service, upstream, what, before }
    } else {
        Answer::NoAnswer { service, upstream, what, before }
    }
}

/// The attempt under way has a connection: one that was `kept` from an earlier request, or a new one.
pub(super) fn connected(ctx: &mut Ctx, now: Instant, kept: bool) {
    if let Some(upstream) = ctx.current.as_ref().and_then(|current| current.under_way.upstream()) {
        upstream.numbers.took(Lane::of(ctx.route), kept);
    }
    ctx.connect = ctx.current.as_ref().map(|current| now.saturating_duration_since(current.began));
}

/// The last bytes of the request went out over it: from here on the upstream is waited for.
pub(super) fn whole(ctx: &mut Ctx, now: Instant) {
    if let Some(current) = &mut ctx.current {
        let after = now.saturating_duration_since(current.began).as_micros();
        current.whole = u32::try_from(after).unwrap_or(u32::MAX).max(1);
    }
}

/// How long the upstream took to begin its answer, or has not begun one, if that says how fast it is: polls wait on
/// purpose, and so may pages and logs that no table knows. A quick error is no reason to send it more.
fn timed(ctx: &Ctx, now: Instant) {
    let Some(current) = &ctx.current else { return };
    let Some(upstream) = current.under_way.upstream().filter(|_| current.whole > 0) else { return };
    let whole = current.began + Duration::from_micros(current.whole.into());
    let tells = ctx.route.pace == Pace::Prompt || ctx.route.needs == Needs::Blob;
    if tells && ctx.service().is_some_and(|service| service.balance == Balance::PeakEwma) {
        upstream.speed.observe(now.saturating_duration_since(whole), now);
    }
}

/// The first bytes went out over it: from here on the request may have run.
pub(super) fn sent(ctx: &mut Ctx) {
    ctx.sends += 1;
    if let Some(current) = &ctx.current {
        ctx.tried.sent(current.place);
    }
    vendor::sent(ctx);
}

/// The key with which the attempt under way is signed, and the time that its upstream will believe.
pub(super) fn signing(ctx: &Ctx) -> Option<(&SigningKey, u64)> {
    let key = ctx.service()?.sign.as_ref()?;
    let upstream = ctx.current.as_ref()?.under_way.upstream()?;
    let seconds = clock::wall().unix_seconds() + upstream.ahead.load(Ordering::Relaxed);
    Some((key, u64::try_from(seconds).unwrap_or(0)))
}

/// Whether a signature was refused for its time, and another of the time that the upstream says may be believed. No
/// upstream is given one for a time that is far away.
fn is_of_another_time(ctx: &Ctx, status: u16, fields: &Fields<'_>) -> bool {
    const FARTHEST: i64 = 600;
    let said = || fields.text(headers::TIME)?.parse::<i64>().ok();
    let (425, Some(theirs), true) = (status, said(), ctx.service().is_some_and(|of| of.sign.is_some()))
    else {
        return false;
    };
    let ahead = theirs.saturating_sub(clock::wall().unix_seconds());
    let Some(upstream) = ctx.current.as_ref().and_then(|current| current.under_way.upstream()) else {
        return false;
    };
    let known = upstream.ahead.load(Ordering::Relaxed);
    let new = ahead.abs() <= FARTHEST && ahead.abs_diff(known) > 2;
    if new {
        upstream.ahead.store(ahead, Ordering::Relaxed);
        tracing::warn!(upstream.name = %upstream.name, seconds = ahead, "its clock is ahead of ours; signatures are of its time from now on");
    }
    new
}

/// Step 8, on the way back: takes in what the head of an answer says. An event, if it may not be passed on.
pub(super) fn received(ctx: &mut Ctx, status: u16, fields: &Fields<'_>) -> Option<Event> {
    passive::answered(ctx, status, fields);
    if is_of_another_time(ctx, status, fields) {
        return Some(Event::OtherTime);
    }
    if status == 503 && fields.text(headers::NOT_DONE).is_some() {
        return Some(Event::NotDone(status));
    }
    // Nothing is known by positions, so there is nothing to take in.
    let follow = ctx.service()?.follow.clone();
    let position = |name: &str| -> Option<Position> { fields.text(name)?.parse().ok() };
    let at = position(headers::POSITION);
    ctx.said = Said { position: at, ..Said::default() };
    let current = ctx.current.as_ref()?;
    if current.asked.listing {
        let weighed = weigh::weigh(&current.asked, status, at);
        vendor::answered(ctx, status);
        return (weighed == Weighed::NotHere).then_some(Event::NotHere);
    }
    let follow = follow?;
    let shows = matches!(status, 200..=399 | 404);
    // A path that the registry does not know is answered by nobody who knows of positions.
    let of_nobody = status == 404 && at.is_none();
    let changed = match (ctx.route.access, ctx.route.class) {
        (Access::Read, _) => position(headers::CHANGED),
        (Access::Write, RouteClass::RegistryWrite) if status < 300 => at,
        (Access::Write, _) => None,
    };
    let needs_position = matches!(current.asked.needs, Needs::Repository | Needs::All | Needs::Blob);
    let said = Said {
        position: at,
        changed: changed.filter(|_| shows),
        shows: shows && !of_nobody && needs_position && !current.asked.of_writer,
    };
    follow.answered(current.place, current.asked.at, said, ctx.subject());
    let weighed = weigh::weigh(&current.asked, status, at);
    ctx.said = said;
    match weighed {
        Weighed::Good => None,
        Weighed::Behind => Some(Event::Behind),
        Weighed::NotHere => Some(Event::NotHere),
    }
}

/// The answer goes to the client: notes that, and the mark that it needs.
pub(super) fn passed_on(ctx: &mut Ctx, status: u16, now: Instant, metrics: &ProxyMetrics) {
    if let Some(current) = &ctx.current
        && let Some(upstream) = current.under_way.upstream()
    {
        upstream.numbers.answered(status, current.well);
    }
    if status < 500 {
        timed(ctx, now);
    }
    if let Some(note) = ctx.attempts.last_mut() {
        note.end = "answered";
    }
    (ctx.passed, ctx.first_byte) = (Some(status), Some(now));
    let Some(stale) = ctx.current.as_ref().and_then(|current| current.asked.stale) else { return };
    if status < 400 {
        ctx.stale = Some(stale);
        if let Some(service) = ctx.service() {
            metrics.stale_answer(service.name.as_str(), stale.as_str());
        }
    }
}

/// The answer that is passed on goes no further.
pub(super) fn broke_off(ctx: &mut Ctx, what: What) {
    ctx.what = Some(what);
    passive::broke_off(ctx, what);
}

/// Step 9. `body_at_hand`: what was read of the request's body can be sent again.
pub(super) fn failed(ctx: &mut Ctx, event: Event, body_at_hand: bool, metrics: &ProxyMetrics) -> Verdict {
    let now = clock::now();
    let Some(service) = ctx.service().cloned() else { return Verdict::Abort };
    let given = ctx.current.as_ref().map_or(event, |current| event.given(&current.traffic));
    passive::failed(ctx, given);
    if event == Event::NoAnswer(What::TimedOut) {
        timed(ctx, now);
    }
    let Some(current) = ctx.current.take() else { return Verdict::Abort };
    let Some(upstream) = current.under_way.upstream().cloned() else { return Verdict::Abort };
    let event = event.given(&current.traffic);
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
        Event::BadStatus(_) => {
            ctx.tried.answered(current.place);
            "retry-status"
        }
        Event::BrokeOff => broken(ctx),
        Event::BlobBrokeOff => {
            // It gave a piece: what was tried before that counts no more.
            ctx.tried = Tried::default();
            ctx.tried.sent(current.place);
            ctx.sends = 1;
            broken(ctx)
        }
        Event::Behind => {
            ctx.tried.older(current.place);
            ctx.sends = ctx.sends.saturating_sub(1);
            metrics.behind_answer(service.name.as_str(), upstream.name.as_str());
            "behind"
        }
        Event::NotHere => {
            ctx.tried.absent(current.place);
            ctx.sends = ctx.sends.saturating_sub(1);
            "not-here"
        }
        Event::OtherTime => {
            ctx.tried.unsent(current.place);
            "other-time"
        }
        Event::NotDone(_) => {
            // As if it could not be connected to; its probe will say the same.
            ctx.tried.unsent(current.place);
            ctx.tried.refused(current.place);
            ctx.sends = ctx.sends.saturating_sub(1);
            upstream.prober.nudge();
            "not-done"
        }
    };
    let by_key = (ctx.route.creates && current.keyed).then_some(SUPPORTS_IDEMPOTENCY);
    let case = Case {
        route: ctx.route,
        event,
        traffic: current.traffic,
        sends_left: ctx.sends < service.attempts,
        time_left: ctx.left(now).is_none_or(|left| !left.is_zero()),
        body_at_hand,
        keyed: current.keyed,
        // Of some that start anew together, one is ready before its probe has said so.
        other: another(ctx, &service, by_key, current.place, true),
        status_spent: ctx.before.is_some(),
    };
    let mut verdict = retry::verdict(&case);
    let mut refused = false;
    if let Verdict::Again(why) = verdict
        && why.costs()
        && !service.numbers.may_retry(service.retry_budget, now)
    {
        refused = true;
        metrics.retry_refused(service.name.as_str());
        // As if this had been the last of its attempts.
        verdict = retry::verdict(&Case { sends_left: false, ..case });
    }
    if verdict == Verdict::PassOn {
        // It goes on: the attempt is the one that is passed on.
        ctx.current = Some(current);
        return verdict;
    }
    if !matches!(event, Event::Behind | Event::NotHere) {
        metrics.upstream_failed(service.name.as_str(), upstream.name.as_str(), end);
    }
    // What it ran into is in the metrics, and in the answer; the log says why that was the end.
    ctx.end_attempt(if refused { "retry-budget" } else { end });
    match verdict {
        Verdict::Again(why) => {
            metrics.retried(service.name.as_str(), why.label());
            if let Event::BadStatus(status) = event {
                ctx.before = Some(Before { upstream: upstream.name.to_string(), status });
            }
            if matches!(why, retry::Because::Keyed | retry::Because::Status) {
                ctx.ability = by_key;
            }
        }
        Verdict::Answer { unknown, .. } => ctx.ours = Some(no_answer(ctx, unknown)),
        Verdict::Refuse => {
            let why = NoneLeft::of(upstream.name.to_string(), event == Event::Behind);
            ctx.ours = Some(give_up(ctx, &service, why));
        }
        Verdict::Abort => ctx.end = End::Aborted,
        Verdict::PassOn => {}
    }
    verdict
}

/// How an answer ended that was begun.
fn broken(ctx: &Ctx) -> &'static str {
    match ctx.what {
        Some(What::TooSlow) => What::TooSlow.label(),
        _ => "broke-off",
    }
}

/// Until when the attempt under way may wait for its answer, once the request was sent whole. If that is before the
/// deadline, [`waits_on`] says then whether it goes on.
pub(super) fn answer_until(ctx: &Ctx, now: Instant) -> Option<Instant> {
    let deadline = ctx.deadline?;
    let (Some(service), Some(current)) = (ctx.service(), &ctx.current) else { return Some(deadline) };
    let may = ctx.route.repeatable || (ctx.route.creates && current.keyed);
    let goes_on = may && ctx.sends < service.attempts;
    Some(if goes_on { forward::attempt_until(deadline, now) } else { deadline })
}

/// Whether the attempt under way is waited for to the end of the deadline: nobody else could take the request now.
pub(super) fn waits_on(ctx: &Ctx) -> bool {
    let (Some(service), Some(current)) = (ctx.service(), &ctx.current) else { return true };
    let keyed = ctx.route.creates && current.keyed;
    !another(ctx, service, keyed.then_some(SUPPORTS_IDEMPOTENCY), current.place, false)
}

/// Whether this status is one that the service wants tried elsewhere.
pub(super) fn is_retry_status(ctx: &Ctx, status: u16) -> bool {
    ctx.service().is_some_and(|service| service.retry_status.contains(&status))
}
