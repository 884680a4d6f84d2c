//! `/api/v1/registry/…`: templates, through the controller (`reference/controller-api.md` §6).

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    Api,
    answer::{Done, Fail},
    extract::Asked,
    views,
};
use crate::wire::template::Disk;

/// One element of the quick list.
#[derive(Serialize)]
struct Named {
    id: String,
    name: String,
}

/// One template with `?id=`, else all of them: with sizes, or with `?apiVer=v1` only ids and names, which is
/// quicker.
pub(super) async fn templates(State(api): State<Api>, asked: Asked) -> Result<Response, Fail> {
    let templates = api.app.ops.templates();
    if let Some(id) = asked.id("id")? {
        let template = templates.show(&id).await?;
        return Ok(Done(views::template(&template)).into_response());
    }
    if asked.get("apiVer") == Some("v1") {
        let list = templates.list(false).await?;
        let named: Vec<_> = list.into_iter().map(|t| Named { id: t.id, name: t.name }).collect();
        return Ok(Done(named).into_response());
    }
    Ok(Done(templates.list(true).await?).into_response())
}

/// The registries' disk.
pub(super) async fn disk(State(api): State<Api>) -> Result<Done<Disk>, Fail> {
    Ok(Done(api.app.ops.templates().disk().await?))
}
