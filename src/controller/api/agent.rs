//! `/switchyard/v1/…`: the agents' own protocol (`docs/agent-protocol.md`). Success is 200 with the bare answer,
//! every failure has a status of 400 or more.

use axum::{Extension, extract::State};

use super::{
    Api, Parked,
    answer::{Bare, Fail},
    extract::{AnyType, Asked, required},
    gate::Deadline,
};
use crate::{
    auth::Who,
    clock,
    model::NodeId,
    wire::agent::{Claim, GiveBack, Granted, Heard, Heartbeat, Join, Joined, Leave, Poll, Report, Tasks},
};

/// What a poll leaves of its deadline for the way back.
const WAY_BACK: std::time::Duration = std::time::Duration::from_millis(500);

type Answer<T> = Result<Bare<T>, Fail>;

pub(super) async fn join(
    State(api): State<Api>,
    Extension(who): Extension<Who>,
    AnyType(ask): AnyType<Join>,
) -> Answer<Joined> {
    let node = ask.node_id.clone();
    let joined = api.app.ops.join(ask).await.map_err(Fail::for_agent)?;
    note_groups(&api, &who, &node).await?;
    Ok(Bare(joined))
}

/// Which starts a node runs depends on whose its agent is. The root token is of no group.
async fn note_groups(api: &Api, who: &Who, node: &NodeId) -> Result<(), Fail> {
    if !api.app.ops.has_resources() {
        return Ok(());
    }
    let groups = who.groups().unwrap_or_default();
    api.app.ops.note_caller_groups(node, &groups).await.map_err(Fail::for_agent)
}

pub(super) async fn heartbeat(
    State(api): State<Api>,
    Extension(who): Extension<Who>,
    AnyType(ask): AnyType<Heartbeat>,
) -> Answer<Heard> {
    note_groups(&api, &who, &ask.node_id).await?;
    api.app.ops.heartbeat(ask).await.map(Bare).map_err(Fail::for_agent)
}

/// Parks. A client that goes away drops this future, and with it an offer that was not answered yet.
pub(super) async fn poll(
    State(api): State<Api>,
    deadline: Option<Extension<Deadline>>,
    asked: Asked,
) -> Answer<Tasks> {
    let number = |key: &str, otherwise: u32| match asked.get(key) {
        None => Ok(otherwise),
        Some(text) => text.parse().map_err(|_| Fail::bad(format!("`{key}`: expected a whole number"))),
    };
    let longest = u32::try_from(api.app.ops.config().timeouts.poll.as_secs()).unwrap_or(u32::MAX);
    let mut wait = number("wait", longest)?.min(longest);
    if let Some(Extension(Deadline(end))) = deadline {
        let left = end.saturating_duration_since(clock::now()).saturating_sub(WAY_BACK);
        wait = wait.min(u32::try_from(left.as_secs()).unwrap_or(u32::MAX));
    }
    let ask = Poll {
        node: required("node", asked.id("node")?)?,
        session: required("session", asked.get("session"))?.to_owned(),
        free: number("free", 0)?,
        wait,
    };
    let _parked = Parked::at(&api.counts);
    api.app.ops.poll(ask, api.app.stop.clone()).await.map(Bare).map_err(Fail::for_agent)
}

pub(super) async fn claim(State(api): State<Api>, AnyType(ask): AnyType<Claim>) -> Answer<Granted> {
    api.app.ops.claim(ask).await.map(Bare).map_err(Fail::for_agent)
}

pub(super) async fn starting(State(api): State<Api>, AnyType(ask): AnyType<Claim>) -> Answer<Granted> {
    api.app.ops.starting(ask).await.map(Bare).map_err(Fail::for_agent)
}

pub(super) async fn report(State(api): State<Api>, AnyType(ask): AnyType<Report>) -> Answer<Heard> {
    api.app.ops.report(ask).await.map(Bare).map_err(Fail::for_agent)
}

pub(super) async fn give_back(State(api): State<Api>, AnyType(ask): AnyType<GiveBack>) -> Answer<Granted> {
    api.app.ops.give_back(ask).await.map(Bare).map_err(Fail::for_agent)
}

pub(super) async fn leave(State(api): State<Api>, AnyType(ask): AnyType<Leave>) -> Answer<Granted> {
    api.app.ops.leave(ask).await.map(Bare).map_err(Fail::for_agent)
}
