//! `GET /admin/v1/decisions` and `GET /admin/v1/decisions/{request}`: what was decided about requests that are over.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    clock,
    model::Timestamp,
    proxy::{
        answer::Answer,
        choose::{Brief, Stale},
        ctx::Note,
        record::decisions::{Decision, Names},
        role::Handle,
    },
    wire::decisions::{Attempt, Decision as Shown, Decisions, Stood},
};

/// Decisions that are shown if nobody says how many.
const SHOWN: usize = 50;

/// And at most: each takes a few KiB of JSON where services are large.
const MOST: usize = 1000;

/// Which ones are asked for. All that is given must fit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// So many at most.
    limit: Option<usize>,
    listener: Option<String>,
    service: Option<String>,
    /// Some attempt was there.
    upstream: Option<String>,
    status: Option<u16>,
}

impl Which {
    fn fits(&self, one: &Decision) -> bool {
        let is = |wanted: &Option<String>, has: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| has == Some(wanted))
        };
        let service = one.names.as_ref().map(|names| names.service.as_str());
        let there = |name: &String| one.attempts.iter().any(|note| upstream(one, note) == name);
        is(&self.listener, one.listener.as_deref())
            && is(&self.service, service)
            && self.status.is_none_or(|status| one.status == Some(status))
            && self.upstream.as_ref().is_none_or(there)
    }
}

/// The latest.
pub(super) fn last(handle: &Handle, which: &Which) -> Response {
    let most = which.limit.unwrap_or(SHOWN).min(MOST);
    Json(shown(handle, handle.decisions.last(|one| which.fits(one), most))).into_response()
}

/// The latest that were answered by us: refused, or nobody could take them.
pub(super) fn refused(handle: &Handle, most: usize) -> Vec<Shown> {
    shown(handle, handle.decisions.last(|one| one.ours.is_some(), most)).decisions
}

/// Those of one id: clients may give several requests the same.
pub(super) fn of(handle: &Handle, request: &str) -> Response {
    let found = handle.decisions.last(|one| one.request.as_str() == request, MOST);
    if !found.is_empty() {
        return Json(shown(handle, found)).into_response();
    }
    let why = match handle.live.load().decisions {
        0 => "no decisions are kept: `[admin] decisions` is 0".into(),
        kept => format!(
            "none of the last {kept} requests of each thread has this id; one that is not over yet is not among them, \
             and the access log has all"
        ),
    };
    (StatusCode::NOT_FOUND, format!("{why}\n")).into_response()
}

fn shown(handle: &Handle, decisions: Vec<Decision>) -> Decisions {
    let (now, wall) = (clock::now(), clock::wall());
    let kept = handle.live.load().decisions;
    Decisions { kept, decisions: decisions.into_iter().map(|one| show(&one, now, wall)).collect() }
}

fn show(one: &Decision, now: Instant, wall: Timestamp) -> Shown {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    let (method, path) = one.target.as_ref().map(|(method, path)| (method.as_str(), path.as_str())).unzip();
    let ours = one.ours.as_deref();
    Shown {
        request: one.request.as_str().into(),
        at: wall.minus(now.saturating_duration_since(one.ended) + one.took),
        listener: one.listener.as_deref().unwrap_or_default().to_owned(),
        client: one.client.to_string(),
        method: method.unwrap_or_default().into(),
        path: path.unwrap_or_default().into(),
        service: one.names.as_ref().map(|names| names.service.clone()),
        class: one.names.as_ref().map(|_| one.class.as_str().into()),
        status: one.status,
        answered_by: match (ours, one.status) {
            (Some(_), _) => "proxy",
            (None, Some(_)) => "upstream",
            (None, None) => "nobody",
        }
        .into(),
        end: one.end.map_or("refused", |end| end.as_str()).into(),
        reason: ours.map(|answer| answer.code().into()),
        error: ours.map(ToString::to_string),
        next: ours.map(|answer: &Answer| answer.next().into()),
        position: one.position,
        stale: one.stale.map(|stale: Stale| stale.as_str().into()),
        held_ms: u64::try_from(one.held.as_millis()).unwrap_or(u64::MAX),
        connect_ms: one.connect.map(ms),
        first_byte_ms: one.first_byte.map(ms),
        total_ms: ms(one.took),
        attempts: one.attempts.iter().map(|note| attempt(one, note)).collect(),
    }
}

fn upstream<'a>(one: &'a Decision, note: &Note) -> &'a str {
    name(one.names.as_deref(), note.place)
}

fn name(names: Option<&Names>, place: usize) -> &str {
    names.and_then(|names| names.upstreams.get(place)).map_or("", String::as_str)
}

fn attempt(one: &Decision, note: &Note) -> Attempt {
    let stood = |(place, brief): (usize, &Brief)| Stood {
        name: name(one.names.as_deref(), place).into(),
        eligible: brief.is_able(),
        why: brief.to_string(),
    };
    Attempt {
        upstream: upstream(one, note).into(),
        why: note.why.to_string(),
        end: note.end.into(),
        reused: note.traffic.reused,
        sent: note.traffic.sent,
        received: note.traffic.received,
        whole: note.traffic.whole,
        upstreams: note.stood.iter().enumerate().map(stood).collect(),
    }
}
