//! What bounds a request that goes out, and what comes of what may go wrong: the same tables that decide then.

use ::http::Method;

use super::choice::{Scene, millis};
use crate::{
    config::proxy::Kind,
    proxy::{
        classify::{Needs, Pace},
        forward,
        retry::{self, Case, Event, Traffic, Verdict, What},
    },
    wire::explain::{Budget, Course, Failure},
};

/// Of a request in this scene; `keyed`: its first upstream honours its key, `other`: another one could take it then.
pub(super) fn of(scene: &Scene<'_>, keyed: bool, other: bool) -> Course {
    let (ctx, service, now) = (scene.ctx, scene.service, scene.now);
    let (route, timeouts) = (ctx.route, service.timeouts);
    let limits = forward::limits(route, timeouts, ctx.left(now));
    let deadline = ctx.deadline.map(|at| at.saturating_duration_since(now));
    let goes_on = service.attempts > 1 && (route.repeatable || keyed) && other;
    let attempt = ctx.deadline.filter(|_| goes_on).map(|deadline| forward::attempt_until(deadline, now));
    let transfers = [forward::Way::Up, forward::Way::Down].map(|way| forward::meter(route, way, timeouts));
    let (requests, retries, allows) = service.numbers.retries(service.retry_budget, now);
    Course {
        deadline_ms: deadline.map(millis),
        attempt_ms: attempt.map(|at| millis(at.saturating_duration_since(now))),
        hold_ms: millis(forward::hold_until(route, service.hold, now).saturating_duration_since(now)),
        connect_ms: millis(limits.connect),
        tls_ms: service.tls.is_some().then(|| millis(limits.tls)),
        first_byte_ms: forward::first_byte(route, timeouts).map(millis),
        read_ms: limits.read.map(millis),
        write_ms: millis(limits.write),
        floor: timeouts.floor.filter(|_| transfers.iter().any(Option::is_some)).map(|floor| floor.rate),
        attempts: service.attempts,
        retry_status: service.retry_status.clone(),
        budget: Budget { requests, retries, allows },
        failures: failures(scene, keyed, other),
    }
}

fn failures(scene: &Scene<'_>, keyed: bool, other: bool) -> Vec<Failure> {
    let (ctx, service) = (scene.ctx, scene.service);
    let fresh = scene.want.fresh.is_some()
        && matches!(ctx.route.needs, Needs::Repository | Needs::All | Needs::Blob | Needs::Unsaid);
    let blob = ctx.route.needs == Needs::Blob && ctx.route.pace == Pace::Bulk && ctx.method == Method::GET;
    let broke = if blob { Event::BlobBrokeOff } else { Event::BrokeOff };
    let mut events = vec![
        ("there is no connection", Event::ConnectFailed),
        ("it was sent and no answer comes", Event::NoAnswer(What::Closed)),
    ];
    if let Some(status) = service.retry_status.first() {
        events.push(("the answer is one of `retry_status`", Event::BadStatus(*status)));
    }
    if service.kind == Kind::Controller {
        events.push(("a controller says that it is not ready and has done nothing", Event::NotDone(503)));
    }
    if fresh {
        events.push(("the answer is older than what is needed", Event::Behind));
        events.push(("a registry that may lack it says that it does not have it", Event::NotHere));
    }
    events.push(("the answer breaks off", broke));
    let of = |(when, event): (&str, Event)| {
        let case = Case {
            route: ctx.route,
            event,
            traffic: Traffic {
                sent: u64::from(event != Event::ConnectFailed),
                whole: true,
                ..Traffic::default()
            },
            sends_left: service.attempts > 1,
            time_left: true,
            body_at_hand: true,
            keyed,
            other,
            status_spent: false,
        };
        Failure { when: when.into(), then: then(retry::verdict(&case), other) }
    };
    events.into_iter().map(of).collect()
}

fn then(verdict: Verdict, other: bool) -> String {
    match verdict {
        Verdict::Again(retry::Because::ConnectFailed) => {
            "another upstream is tried; without one it is held, for nothing was sent".into()
        }
        Verdict::Again(retry::Because::NotDone) => {
            "another upstream is tried; without one it is held, for nothing was done".into()
        }
        Verdict::Again(retry::Because::BrokeOff) => {
            "the rest is fetched from another upstream; without one the client's connection is cut".into()
        }
        Verdict::Again(why) => {
            let whom =
                if other { "another upstream is tried" } else { "the same upstream is tried once more" };
            let price = if why.costs() { ", if the retry budget allows" } else { "" };
            format!("{whom}{price}")
        }
        Verdict::PassOn => "it is passed on as it is".into(),
        Verdict::Answer { unknown: true, .. } => "502 `outcome-unknown`: it may have happened".into(),
        Verdict::Answer { unknown: false, .. } => "502 `no-answer`: nothing was changed".into(),
        Verdict::Refuse => "503: nobody who may say so has answered".into(),
        Verdict::Abort => "the client's connection is cut, so that half an answer looks like half".into(),
    }
}
