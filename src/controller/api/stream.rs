//! `GET /switchyard/v1/watch`: changes as they happen, as server-sent events (`docs/instances.md`).
//!
//! A stream keeps a place in the ring of changes and nothing else: a client that takes them too slowly falls out of it
//! and is told so, and a thousand streams cost what they are sent.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use prometheus::IntGauge;
use serde::Serialize;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    Api,
    answer::{Fail, as_json},
    extract::{Asked, Within},
    permit, views,
};
use crate::{
    auth::stay::Stay,
    clock,
    controller::{
        lists::{Changed, NotKept, What},
        ops::Reach,
    },
    model::excerpt,
    wire::{
        cloud::{End, Gone, InstanceChange, NodeChange, Place},
        envelope::{Envelope, Status},
        events::Placed,
    },
};

/// Streams at once. More: 503.
pub(super) const STREAMS: usize = 1000;

/// Changes that are written at once.
const PIECE: usize = 256;

/// After so long without a change something is said all the same: under what proxies and clients wait.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How often it is looked at whether the credential of a watch is still good.
const LOOK: Duration = Duration::from_secs(1);

/// What can be asked for.
const KINDS: [&str; 3] = ["instances", "nodes", "events"];

/// One stream.
struct Watch {
    api: Api,
    at: i64,
    kinds: BTreeSet<String>,
    reach: Reach,
    told: tokio::sync::watch::Receiver<i64>,
    beat: Instant,
    /// By what it is here, and when that is looked at again; nothing where nobody is asked.
    stay: Option<(Stay, Instant)>,
    step: Step,
    _place: OwnedSemaphorePermit,
    _open: Open,
}

enum Step {
    Begin,
    Follow,
    End,
}

/// Counts a stream for as long as it is open.
struct Open(IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

pub(super) async fn watch(
    State(api): State<Api>,
    Within(reach): Within,
    headers: HeaderMap,
    stay: Option<Extension<Stay>>,
    asked: Asked,
) -> Result<Response, Fail> {
    let kinds = kinds(&asked)?;
    // A browser that comes back says where it was, and its address where it began.
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let from = match last.filter(|text| !text.is_empty()).or_else(|| asked.get("from")) {
        None => None,
        Some(text) => {
            let wrong = || Fail::bad("`from`: expected a revision, a whole number");
            Some(text.parse::<i64>().ok().filter(|from| *from >= 0).ok_or_else(wrong)?)
        }
    };
    let Ok(place) = api.streams.clone().try_acquire_owned() else {
        api.counts.refused("streams");
        return Err(Fail::soon(format!("{STREAMS} watches are open at this controller, which is the most")));
    };
    let changes = api.app.ops.changes().await.map_err(Fail::for_agent)?;
    let told = changes.subscribe();
    let at = match from {
        None => *told.borrow(),
        Some(from) => match api.app.ops.watch_from(from).await.map_err(Fail::for_agent)? {
            Ok(at) => at,
            Err(gone) => return Ok(too_old(from, gone)),
        },
    };
    api.counts.streams.inc();
    let open = Open(api.counts.streams.clone());
    let watch = Watch {
        at,
        kinds,
        reach,
        told,
        beat: clock::now() + HEARTBEAT,
        stay: stay.map(|Extension(stay)| (stay, clock::now() + LOOK)),
        step: Step::Begin,
        _place: place,
        _open: open,
        api,
    };
    let body = Body::from_stream(stream::unfold(watch, |mut watch| async {
        let piece = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), watch))
    }));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // An nginx in between would collect them.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn kinds(asked: &Asked) -> Result<BTreeSet<String>, Fail> {
    let words = asked.get("kinds").into_iter().flat_map(|words| words.split(',')).map(str::trim);
    let mut kinds = BTreeSet::new();
    for word in words.filter(|word| !word.is_empty()) {
        if !KINDS.contains(&word) {
            let word = excerpt(word);
            return Err(Fail::bad(format!(
                "`kinds`: there is no `{word}`; there are `{}`",
                KINDS.join("`, `")
            )));
        }
        kinds.insert(word.to_owned());
    }
    if kinds.is_empty() {
        kinds.extend(KINDS.map(str::to_owned));
    }
    Ok(kinds)
}

fn too_old(from: i64, gone: NotKept) -> Response {
    let NotKept { oldest, newest } = gone;
    let message =
        format!("changes from revision {from} are not kept here: list anew, and watch from {newest}");
    let body = Some(Gone { revision: newest, oldest });
    let bytes = serde_json::to_vec(&Envelope { status: Status::Fail, message, body }).unwrap_or_default();
    let mut response = (StatusCode::GONE, bytes).into_response();
    as_json(&mut response);
    response
}

impl Watch {
    /// What is sent next; nothing when it is over.
    async fn next(&mut self) -> Option<Bytes> {
        match self.step {
            Step::End => return None,
            Step::Begin => {
                self.step = Step::Follow;
                let begin = format!("retry: 1000\nid: {}\n", self.at);
                return Some(block(&begin, "from", &Place { revision: self.at }));
            }
            Step::Follow => {}
        }
        let changes = self.api.app.ops.lists().clone();
        loop {
            if !self.may_stay().await {
                self.api.counts.streams_ended.with_label_values(&["unauthorized"]).inc();
                return Some(self.end("unauthorized"));
            }
            // Seen before it is looked at: what comes in between wakes the wait below.
            self.told.borrow_and_update();
            let Ok(batch) = changes.changes().after(self.at, PIECE) else {
                self.api.counts.streams_ended.with_label_values(&["behind"]).inc();
                return Some(self.end("behind"));
            };
            let mut piece = Vec::new();
            for change in batch.changes {
                if let Some(told) = self.told_of(&change) {
                    piece.extend_from_slice(&told);
                }
            }
            self.at = batch.upto;
            if !piece.is_empty() {
                self.beat = clock::now() + HEARTBEAT;
                return Some(piece.into());
            }
            if self.api.app.stop.is_requested() {
                self.api.counts.streams_ended.with_label_values(&["stopping"]).inc();
                return Some(self.end("stopping"));
            }
            let stop = self.api.app.stop.clone();
            let look = self.stay.as_ref().map_or(self.beat, |(_, look)| *look);
            tokio::select! {
                () = stop.requested() => {}
                changed = self.told.changed() => if changed.is_err() {
                    return Some(self.end("stopping"));
                },
                () = tokio::time::sleep_until(look), if look < self.beat => {}
                () = tokio::time::sleep_until(self.beat) => {
                    self.beat = clock::now() + HEARTBEAT;
                    // No event: a comment, and how far it is, for whoever comes back.
                    return Some(format!(": nothing new\nid: {}\n\n", self.at).into());
                }
            }
        }
    }

    /// Whether what it was opened with is still good, and good for this, looked at now and then.
    async fn may_stay(&mut self) -> bool {
        let now = clock::now();
        match &mut self.stay {
            Some((stay, look)) if now >= *look => {
                *look = now + LOOK;
                let Some(who) = stay.who().await else { return false };
                let Some(groups) = who.groups() else { return true };
                let ops = &self.api.app.ops;
                if ops.has_resources() {
                    self.reach = Reach::of(&groups);
                }
                ops.lacks(&groups, permit::WATCH).await.is_none()
            }
            _ => true,
        }
    }

    fn end(&mut self, why: &str) -> Bytes {
        self.step = Step::End;
        block("", "end", &End { revision: self.at, why: why.to_owned() })
    }

    /// The event of a change, made once for all streams; nothing if it was not asked for.
    fn told_of(&self, change: &Arc<Changed>) -> Option<Bytes> {
        let kind = match &change.what {
            What::Instance(..) => "instances",
            What::Node(..) => "nodes",
            What::Event(..) => "events",
        };
        if !self.kinds.contains(kind) {
            return None;
        }
        if let What::Node(of) = &change.what
            && !self.api.app.ops.sees_node(&self.reach, of)
        {
            return None;
        }
        self.api.app.ops.lists().changes().tell(change, || self.made(change))
    }

    fn made(&self, change: &Changed) -> Option<Bytes> {
        let revision = change.revision;
        // In the middle of a revision nobody may go on.
        let id = if change.last { format!("id: {revision}\n") } else { String::new() };
        let ops = &self.api.app.ops;
        Some(match &change.what {
            What::Instance(of, record) => {
                let record = record.clone().map(|record| ops.explained_now(record));
                let instance = record.map(|record| views::instance(&record, &ops.registry_for_nodes()));
                block(&id, "instance", &InstanceChange { revision, id: of.to_string(), instance })
            }
            What::Node(of) => {
                let node = ops.node_now(of).map(views::node);
                block(&id, "node", &NodeChange { revision, id: of.to_string(), node })
            }
            What::Event(event) => block(&id, "event", &Placed { revision, event: event.as_ref().clone() }),
        })
    }
}

/// One event. What is told has a form in JSON, which has no line ends.
fn block(before: &str, event: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("{before}event: {event}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_its_lines_and_an_empty_one() {
        let bytes = block("id: 7\n", "from", &Place { revision: 7 });
        assert_eq!(bytes, "id: 7\nevent: from\ndata: {\"revision\":7}\n\n");
    }

    #[test]
    fn kinds_are_named_and_all_of_them_without_a_name() {
        assert_eq!(kinds(&Asked::of(&[])).unwrap().len(), KINDS.len());
        let one = kinds(&Asked::of(&[("kinds", "nodes,")])).unwrap();
        assert_eq!(one.into_iter().collect::<Vec<_>>(), ["nodes"]);
        assert!(kinds(&Asked::of(&[("kinds", "vms")])).unwrap_err().message.contains("`instances`"));
    }
}
