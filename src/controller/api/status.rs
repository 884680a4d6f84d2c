//! `/api/v1/status` and `/api/v1/stats` (`reference/controller-api.md` §3).

use axum::extract::State;

use super::{
    Api,
    answer::{Done, Fail},
};
use crate::{
    controller::lists::Seen,
    model,
    wire::status::{ControllerStats, ControllerStatus},
};

/// Never slow: the registries' state is the last one seen, not asked for.
pub(super) async fn show(State(api): State<Api>) -> Done<ControllerStatus> {
    let templates = api.app.ops.templates();
    let runs = templates.running().await;
    Done(ControllerStatus {
        status: "Running".into(),
        version: model::full_version(),
        registry_address: templates.node_address().to_owned(),
        registry_status: if runs { "Running" } else { "FAIL" }.into(),
        license: "enterprise plus".into(),
    })
}

/// How much is waiting, and how quickly it is given out.
pub(super) async fn stats(State(api): State<Api>) -> Result<Seen<Done<ControllerStats>>, Fail> {
    Ok(api.app.ops.stats().await?.map(Done))
}
