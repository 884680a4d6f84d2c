//! `/api/v1/registry/…`: templates, through the controller (`reference/controller-api.md` §6).

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    Api,
    answer::{Done, Empty, Fail},
    extract::{AnyType, Asked, Within, id, required},
    views,
};
use crate::{
    controller::ops::OpsError,
    model::TemplateId,
    wire::{
        permission::DELETE_REVERT,
        template::{Disk, RevertTemplate},
    },
};

/// One element of the quick list.
#[derive(Serialize)]
struct Named {
    id: String,
    name: String,
}

/// One template with `?id=`, else all of them: with sizes, or with `?apiVer=v1` only ids and names, which is
/// quicker.
pub(super) async fn templates(
    State(api): State<Api>,
    Within(reach): Within,
    asked: Asked,
) -> Result<Response, Fail> {
    let (seen, templates) = (api.app.ops.templates_seen(&reach).await?, api.app.ops.templates());
    let sees = |template: &str| seen.as_ref().is_none_or(|seen| seen.contains(template));
    if let Some(id) = asked.id::<TemplateId>("id")? {
        if !sees(id.as_str()) {
            return Err(OpsError::NotFound.into());
        }
        let template = templates.show(&id).await?;
        return Ok(Done(views::template(&template)).into_response());
    }
    if asked.get("apiVer") == Some("v1") {
        let list = templates.list(false).await?;
        let named: Vec<_> =
            list.into_iter().filter(|t| sees(&t.id)).map(|t| Named { id: t.id, name: t.name }).collect();
        return Ok(Done(named).into_response());
    }
    let mut list = templates.list(true).await?;
    list.retain(|template| sees(&template.id));
    Ok(Done(list).into_response())
}

/// Deletes a template with all its versions.
pub(super) async fn delete(
    State(api): State<Api>,
    Within(reach): Within,
    asked: Asked,
    AnyType(ask): AnyType<RevertTemplate>,
) -> Result<Empty, Fail> {
    let text = required("id", asked.get("id").or(ask.id.as_deref()))?;
    let template = id("id", text)?;
    api.app.ops.reaches_template(&reach, &template, DELETE_REVERT).await?;
    api.app.ops.delete_template(&template).await?;
    Ok(Empty)
}

/// Deletes a version and every later one; without one that is named, the newest. Query and body count, the query first.
pub(super) async fn revert(
    State(api): State<Api>,
    Within(reach): Within,
    asked: Asked,
    AnyType(ask): AnyType<RevertTemplate>,
) -> Result<Empty, Fail> {
    // In a query a `+` is read as a space, and no tag has one.
    let text = |key: &str| asked.get(key).map(|text| text.replace(' ', "+"));
    let number = |key: &str| {
        let wrong = |_| Fail::bad(format!("`{key}` is not a whole number"));
        asked.get(key).map(|text| text.trim().parse::<i64>().map_err(wrong)).transpose()
    };
    let template = required("id", asked.get("id").map(str::to_owned).or_else(|| ask.id.clone()))?;
    let named = asked.get("tag").or(asked.get("tag_name")).or(asked.get("version")).or(asked.get("number"));
    let ask = match named {
        Some(_) => RevertTemplate {
            id: None,
            tag: text("tag"),
            tag_name: text("tag_name"),
            version: number("version")?,
            number: number("number")?,
        },
        None => ask,
    };
    api.app.ops.reaches_template(&reach, &id::<TemplateId>("id", &template)?, DELETE_REVERT).await?;
    ask.beyond_doubt(|key| asked.is_empty(key)).map_err(Fail::bad)?;
    api.app.ops.revert_template(&RevertTemplate { id: Some(template), ..ask }).await?;
    Ok(Empty)
}

/// The registries' disk.
pub(super) async fn disk(State(api): State<Api>) -> Result<Done<Disk>, Fail> {
    Ok(Done(api.app.ops.templates().disk().await?))
}
