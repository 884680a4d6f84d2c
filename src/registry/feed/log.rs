//! `GET log` and `DELETE lease`.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Feed, Refusal};
use crate::{
    clock,
    model::{Mark, Position, RepositoryName},
    registry::{log::Read, writer::leases},
    wire::replication::{Changed, Compacted, Diverged, LogHead, LogQuery, Role},
};

/// A replica's poll is parked at most so long.
const PARKED: Duration = Duration::from_secs(30);

/// Longest name of a follower.
const NAME: usize = 200;

/// `GET log`.
pub(super) async fn log(
    State(feed): State<Feed>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|error| Refusal::bad(error.body_text()))?;
    for name in [&query.proxy, &query.replica].into_iter().flatten() {
        check_name(name)?;
    }
    let journal = feed.app.repositories.journal();
    let began = journal.at();
    // Its own word is not known to be its writer's: nobody may take it over from here.
    if feed.app.role == Role::Replica && began.claimed().is_none() {
        return Err(Refusal::not_now(feed.app.health.unclaimed()));
    }
    let Some(after) = query.after else {
        return feed.lines(began.position, began.mark, Vec::new(), false);
    };
    if let (Some(replica), Some(applied)) = (&query.replica, query.applied) {
        journal.writer().read_by(replica, applied);
    }
    // First whether the asker's history is this one; only then does its poll confirm anything.
    let mut read = journal.read(after, query.mark).await?;
    let leased = match (&query.proxy, &read) {
        // One that may not write may not know what there is, either.
        (Some(proxy), Read::Lines { .. }) if journal.check_writes().is_ok() => {
            journal.note_lease().await?;
            journal.writer().polled(proxy, after)
        }
        _ => false,
    };
    let most = if query.proxy.is_some() { leases::PARKED } else { PARKED };
    let until = clock::now() + Duration::from_millis(query.wait.unwrap_or(0)).min(most);
    let mut follow = journal.follow();
    let mut lines = Vec::new();
    let (upto, mark) = loop {
        let (upto, mark) = match read {
            Read::Foreign { .. } | Read::Compacted { .. } if journal.check_writes().is_err() => {
                // Only a writer that may write moves anybody's history.
                let at = journal.at().position;
                return Err(Refusal::not_now(format!(
                    "this registry cannot go on from {after}; it is at {at}"
                )));
            }
            Read::Foreign { common } => return Ok(feed.diverged(after, common)),
            Read::Compacted { oldest } => return Ok(feed.compacted(after, oldest)),
            Read::Lines { lines: page, upto: to, mark: there } => {
                if query.proxy.is_some() {
                    lines.extend(changes(&page)?);
                } else {
                    lines.extend(page);
                }
                (to, there)
            }
        };
        if !lines.is_empty() {
            break (upto, mark);
        }
        if upto < follow.borrow_and_update().position {
            // A page of what a proxy need not know.
            read = journal.read(upto, Some(mark)).await?;
            continue;
        }
        tokio::select! {
            changed = follow.changed() => if changed.is_err() { break (upto, mark) },
            () = tokio::time::sleep_until(until) => break (upto, mark),
            () = feed.stop.requested() => break (upto, mark),
        }
        read = journal.read(upto, Some(mark)).await?;
    };
    // The lease is good only with all that was acknowledged before it was given.
    let leased = leased && upto >= began.position;
    feed.lines(upto, mark, lines, leased)
}

/// `DELETE lease?proxy=NAME`.
pub(super) async fn release(
    State(feed): State<Feed>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|error| Refusal::bad(error.body_text()))?;
    let Some(proxy) = &query.proxy else { return Err(Refusal::bad("`proxy` is missing: whose lease?")) };
    check_name(proxy)?;
    feed.app.repositories.journal().writer().released(proxy);
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = !name.is_empty() && name.len() <= NAME && name.bytes().all(|b| b.is_ascii_graphic());
    if fits {
        Ok(())
    } else {
        Err(Refusal::bad(format!("a follower's name has 1 to {NAME} visible characters")))
    }
}

impl Feed {
    fn lines(
        &self,
        upto: Position,
        mark: Mark,
        lines: Vec<Bytes>,
        leased: bool,
    ) -> Result<Response, Refusal> {
        let journal = self.app.repositories.journal();
        let at_proxy = u64::try_from(leases::AT_PROXY.as_millis()).unwrap_or(0);
        let head = LogHead {
            registry: self.app.name.clone(),
            role: self.app.role,
            head: journal.at().position,
            upto,
            mark,
            epochs: journal.epochs(),
            lease: if leased { at_proxy } else { 0 },
            lines: lines.len(),
        };
        let mut body =
            BytesMut::from(serde_json::to_vec(&head).map_err(|e| Refusal::bad(e.to_string()))?.as_slice());
        body.extend_from_slice(b"\n");
        for line in lines {
            body.extend_from_slice(&line);
            body.extend_from_slice(b"\n");
        }
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from(body.freeze())).into_response())
    }

    fn diverged(&self, after: Position, common: Option<Position>) -> Response {
        let head = self.app.repositories.journal().at().position;
        let error = match common {
            Some(common) => format!("{after} is not in this log, whose history parts from it after {common}"),
            None => format!("{after} is another change in this log"),
        };
        (StatusCode::CONFLICT, Json(Diverged { error, common, head })).into_response()
    }

    fn compacted(&self, after: Position, oldest: Position) -> Response {
        let head = self.app.repositories.journal().at().position;
        let error = format!("what is behind {after} is kept only from {oldest} on; begin with a snapshot");
        (StatusCode::GONE, Json(Compacted { error, oldest, head })).into_response()
    }
}

/// What a proxy must know of an entry.
#[derive(Deserialize)]
struct Glance {
    position: Position,
    #[serde(default)]
    repository: Option<RepositoryName>,
    #[serde(default)]
    patch: Option<IgnoredAny>,
}

/// The changes among these entries that alter what reads show.
fn changes(lines: &[Bytes]) -> Result<Vec<Bytes>, Refusal> {
    let mut out = Vec::new();
    for line in lines {
        let glance: Glance = serde_json::from_slice(line).map_err(|error| damaged(&error))?;
        if let (Some(repository), Some(_)) = (glance.repository, glance.patch) {
            let changed = Changed { position: glance.position, repository };
            out.push(serde_json::to_vec(&changed).map_err(|error| damaged(&error))?.into());
        }
    }
    Ok(out)
}

fn damaged(error: &serde_json::Error) -> Refusal {
    let error = format!("an entry cannot be read: {error}");
    Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, code: "log", error }
}
