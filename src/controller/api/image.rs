//! `/api/v1/image`: VMs saved as versions of templates (`reference/controller-api.md` §7), and `/api/v1/rpc/vm/restart`.

use axum::{
    Extension,
    extract::State,
    response::{IntoResponse, Response},
};

use super::{
    Api,
    answer::{Done, Empty, Fail},
    extract::{AnyType, Asked, Within, id, required},
    permit,
};
use crate::{
    auth::Who,
    wire::{
        distribution::Requested,
        image::{RestartInstance, SaveImage},
    },
};

/// Has an instance saved.
pub(super) async fn save(
    State(api): State<Api>,
    Extension(who): Extension<Who>,
    Within(reach): Within,
    AnyType(ask): AnyType<SaveImage>,
) -> Result<Done<Requested>, Fail> {
    if ask.revert_before_push == Some(true) {
        permit::also(&api, &who, &["registry_delete"]).await?;
    }
    let id = api.app.ops.save_image(ask, &reach).await?;
    Ok(Done(Requested { request_id: id.into() }))
}

/// One saving with `?id=`, else all of them.
pub(super) async fn read(State(api): State<Api>, asked: Asked) -> Result<Response, Fail> {
    Ok(match asked.id("id")? {
        Some(id) => api.app.ops.image(&id).await?.map(Done).into_response(),
        None => api.app.ops.images().await?.map(Done).into_response(),
    })
}

/// Has an instance's VM stopped and started again.
pub(super) async fn restart(
    State(api): State<Api>,
    AnyType(ask): AnyType<RestartInstance>,
) -> Result<Empty, Fail> {
    let text = required("instance_id", ask.instance_id.as_deref())?;
    api.app.ops.restart(&id("instance_id", text)?, &ask).await?;
    Ok(Empty)
}
