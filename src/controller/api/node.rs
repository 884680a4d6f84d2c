//! `/api/v1/node`: nodes (`reference/controller-api.md` §5).

use std::collections::BTreeMap;

use axum::extract::State;

use super::{
    Api,
    answer::{Done, Empty, Fail},
    extract::{AnyType, Asked, Within, id, required},
    views,
};
use crate::{
    controller::{
        lists::Seen,
        ops::{OpsError, Reach},
    },
    wire::node::{Confirmed, DeleteNode, Node, NodeConfig, UsbCount},
};

/// Always an array, also with `?id=`.
pub(super) async fn read(
    State(api): State<Api>,
    Within(reach): Within,
    asked: Asked,
) -> Result<Seen<Done<Vec<Node>>>, Fail> {
    let seen = match asked.id("id")? {
        Some(id) => {
            let seen = api.app.ops.node(&id).await?.map(|node| vec![node]);
            if !api.app.ops.sees_node(&reach, &id) {
                return Err(OpsError::NotFound.into());
            }
            seen
        }
        None => api.app.ops.nodes().await?,
    };
    Ok(seen.map(|mut nodes| {
        api.app.ops.seen_by_id(&reach, &mut nodes, |view| view.record.id.as_str());
        Done(nodes.into_iter().map(views::node).collect())
    }))
}

/// How many USB devices of each name there are.
pub(super) async fn usb(State(api): State<Api>) -> Result<Seen<Done<BTreeMap<String, UsbCount>>>, Fail> {
    Ok(api.app.ops.usb_devices().await?.map(Done))
}

/// Changes a node's settings.
pub(super) async fn configure(
    State(api): State<Api>,
    Within(reach): Within,
    AnyType(ask): AnyType<NodeConfig>,
) -> Result<Empty, Fail> {
    required("node_id", ask.node_id.as_ref())?;
    api.app.ops.configure_node(ask, &reach).await?;
    Ok(Empty)
}

/// Has every agent install its newest program and go on as that.
pub(super) async fn update(State(api): State<Api>, Within(reach): Within) -> Result<Empty, Fail> {
    api.app.ops.update_agents(&reach).await?;
    Ok(Empty)
}

/// An operator says that the nodes whose silence was taken to be our own fault are really gone.
pub(super) async fn confirm_absence(
    State(api): State<Api>,
    Within(reach): Within,
) -> Result<Done<Confirmed>, Fail> {
    if reach != Reach::Everything {
        let why = "it is about all nodes, and while resource management is on it needs the root token";
        return Err(OpsError::Forbidden(why.into()).into());
    }
    Ok(Done(Confirmed { nodes: api.app.ops.confirm_absence().await? }))
}

/// Forgets a node.
pub(super) async fn delete(
    State(api): State<Api>,
    Within(reach): Within,
    asked: Asked,
    AnyType(ask): AnyType<DeleteNode>,
) -> Result<Empty, Fail> {
    let text = required("node_id", ask.node_id.as_deref().or_else(|| asked.get("id")))?;
    api.app.ops.delete_node(&id("node_id", text)?, &reach).await?;
    Ok(Empty)
}
