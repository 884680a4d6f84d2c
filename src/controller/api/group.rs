//! `/api/v1/group` and `/api/v1/node/group`: groups of nodes (`reference/controller-api.md` §8, §5.3).

use axum::extract::State;

use super::{
    Api,
    answer::{Done, Empty, Fail},
    extract::{AnyType, Asked, required},
};
use crate::{
    controller::lists::Seen,
    model::GroupId,
    wire::{
        group::{GroupAsk, NodeGroups},
        node::NodeGroup,
    },
};

/// Makes one.
pub(super) async fn make(
    State(api): State<Api>,
    AnyType(ask): AnyType<GroupAsk>,
) -> Result<Done<NodeGroup>, Fail> {
    Ok(Done(api.app.ops.make_group(ask).await?))
}

/// All of them.
pub(super) async fn read(State(api): State<Api>) -> Result<Seen<Done<Vec<NodeGroup>>>, Fail> {
    Ok(api.app.ops.groups().await?.map(Done))
}

/// Changes what is given.
pub(super) async fn change(
    State(api): State<Api>,
    asked: Asked,
    AnyType(ask): AnyType<GroupAsk>,
) -> Result<Empty, Fail> {
    let id: GroupId = required("id", asked.id("id")?)?;
    api.app.ops.change_group(&id, ask).await?;
    Ok(Empty)
}

/// Deletes one.
pub(super) async fn delete(State(api): State<Api>, asked: Asked) -> Result<Empty, Fail> {
    let id: GroupId = required("id", asked.id("id")?)?;
    api.app.ops.delete_group(&id).await?;
    Ok(Empty)
}

/// Puts nodes into groups.
pub(super) async fn attach(State(api): State<Api>, AnyType(ask): AnyType<NodeGroups>) -> Result<Empty, Fail> {
    api.app.ops.regroup(&ask, true).await?;
    Ok(Empty)
}

/// Takes nodes out of groups.
pub(super) async fn detach(State(api): State<Api>, AnyType(ask): AnyType<NodeGroups>) -> Result<Empty, Fail> {
    api.app.ops.regroup(&ask, false).await?;
    Ok(Empty)
}
