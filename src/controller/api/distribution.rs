//! `/api/v1/registry/vm/distribute` and `/remove`: templates on the disks of nodes (`reference/controller-api.md` §6).

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};

use super::{
    Api,
    answer::{Done, Empty, Fail},
    extract::{AnyType, Asked, Within, id, required},
};
use crate::{
    controller::lists::Seen,
    model::{DistributionId, NodeId, TemplateId},
    wire::{
        command::ShownCommand,
        distribution::{Distribute, RemovalsSent, RemoveFromNodes, Requested},
    },
};

/// Has nodes bring a template to their disks.
pub(super) async fn distribute(
    State(api): State<Api>,
    Within(reach): Within,
    AnyType(ask): AnyType<Distribute>,
) -> Result<Done<Requested>, Fail> {
    let id = api.app.ops.distribute(ask, &reach).await?;
    Ok(Done(Requested { request_id: id.into() }))
}

/// One distribution with `?id=`, else all of them.
pub(super) async fn read(State(api): State<Api>, asked: Asked) -> Result<Response, Fail> {
    Ok(match asked.id("id")? {
        Some(id) => api.app.ops.distribution(&id).await?.map(Done).into_response(),
        None => api.app.ops.distributions().await?.map(Done).into_response(),
    })
}

/// Ends one.
pub(super) async fn cancel(State(api): State<Api>, asked: Asked) -> Result<Empty, Fail> {
    let id: DistributionId = required("id", asked.id("id")?)?;
    api.app.ops.cancel_distribution(&id).await?;
    Ok(Empty)
}

/// What nodes are to do beside starts, and what has become of it: those of one node with `?node=`.
pub(super) async fn commands(
    State(api): State<Api>,
    Within(reach): Within,
    asked: Asked,
) -> Result<Seen<Done<Vec<ShownCommand>>>, Fail> {
    let node: Option<NodeId> = asked.id("node")?;
    let seen = api.app.ops.commands(node.as_ref()).await?;
    Ok(seen.map(|mut all| {
        api.app.ops.seen_by_id(&reach, &mut all, |command| command.node_id.as_str());
        Done(all)
    }))
}

/// Has nodes delete a template from their disks.
pub(super) async fn remove(
    State(api): State<Api>,
    asked: Asked,
    Within(reach): Within,
    AnyType(ask): AnyType<RemoveFromNodes>,
) -> Result<Done<RemovalsSent>, Fail> {
    let text = required("id", asked.get("id").or(ask.id.as_deref()))?;
    let template: TemplateId = id("id", text)?;
    Ok(Done(api.app.ops.remove_from_nodes(&template, ask.node_ids.as_deref(), &reach).await?))
}
