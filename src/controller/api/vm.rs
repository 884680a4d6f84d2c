//! `/api/v1/vm`: instances (`reference/controller-api.md` §4).

use axum::{extract::State, response::IntoResponse, response::Response};

use super::{
    Api,
    answer::{Done, Empty, Fail},
    extract::{AnyType, Asked, CalledBy, id, required},
    views,
};
use crate::{
    model::InstanceId,
    wire::vm::{StartVm, TerminateVm, UpdateVm},
};

/// Starts instances; answers their ids.
pub(super) async fn start(
    State(api): State<Api>,
    CalledBy(caller): CalledBy,
    AnyType(ask): AnyType<StartVm>,
) -> Result<Done<Vec<InstanceId>>, Fail> {
    Ok(Done(api.app.ops.start(ask, &caller).await?))
}

/// One instance with `?id=`, else all of them.
pub(super) async fn read(State(api): State<Api>, asked: Asked) -> Result<Response, Fail> {
    let ops = &api.app.ops;
    let registry = ops.registry_for_nodes();
    match asked.id("id")? {
        Some(id) => {
            let seen = ops.instance(&id).await?;
            Ok(seen.map(|instance| Done(views::vm(instance, &registry))).into_response())
        }
        None => {
            let seen = ops.instances().await?;
            Ok(seen.map(|all| Done(views::Listed::new(all, registry))).into_response())
        }
    }
}

/// Changes label, free text or metadata.
pub(super) async fn update(
    State(api): State<Api>,
    asked: Asked,
    AnyType(ask): AnyType<UpdateVm>,
) -> Result<Empty, Fail> {
    let id: InstanceId = required("id", asked.id("id")?)?;
    api.app.ops.update(&id, ask).await?;
    Ok(Empty)
}

/// Has an instance deleted. The id is in the body; a stack that drops bodies of `DELETE` may put it into the query.
pub(super) async fn terminate(
    State(api): State<Api>,
    asked: Asked,
    AnyType(ask): AnyType<TerminateVm>,
) -> Result<Empty, Fail> {
    let text = required("id", ask.id.as_deref().or_else(|| asked.get("id")))?;
    api.app.ops.terminate(&id("id", text)?).await?;
    Ok(Empty)
}
