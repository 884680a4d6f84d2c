//! What groups of callers may do, and how that is changed (`docs/permissions.md`).

use std::collections::BTreeMap;

use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
};

use super::{
    Api,
    answer::{Bare, Done, Fail, Saved},
    extract::{AnyList, AnyType},
};
use crate::{
    auth::Who,
    config::auth::Authorization,
    controller::lists::Seen,
    wire::permission::{
        Described, Offered, PERMISSIONS, PermissionGroup, PermissionsAsk, Resource, ResourceType, described,
    },
};

/// What may be allowed with nodes and templates. The vendor's text and its samples spell the paths in two ways.
pub(super) const CATALOGUE: &str = "/admin/v1/api/permission/resources/permissions";
pub(super) const OTHER_CATALOGUE: &str = "/admin/api/v1/permission/resources/permissions";
/// Which nodes and templates are a group's.
pub(super) const RESOURCES: &str = "/admin/v1/api/permission/group/{name}/resources";
pub(super) const OTHER_RESOURCES: &str = "/admin/api/v1/permission/group/{name}/resources";

/// All permissions that a group can have.
pub(super) async fn all() -> Bare<BTreeMap<String, Described>> {
    Bare(described(PERMISSIONS))
}

/// All groups.
pub(super) async fn groups(State(api): State<Api>) -> Result<Seen<Bare<Vec<PermissionGroup>>>, Fail> {
    let seen = api.app.ops.permission_groups().await.map_err(Fail::for_agent)?;
    Ok(seen.map(Bare))
}

/// While permissions count for nothing, whoever comes in could give itself some for later.
fn may_change(api: &Api, who: &Who) -> Result<(), Fail> {
    let counts = api.app.ops.config().auth.authorization >= Authorization::Groups;
    let why = "Permission denied: while `authorization` in `[auth]` is off, groups of callers are changed with the root token alone";
    (counts || *who == Who::Root).then_some(()).ok_or_else(|| Fail::new(StatusCode::FORBIDDEN, why))
}

/// Says what a group may do.
pub(super) async fn set(
    State(api): State<Api>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    AnyType(ask): AnyType<PermissionsAsk>,
) -> Result<Bare<PermissionGroup>, Fail> {
    may_change(&api, &who)?;
    api.app.ops.set_permissions(&name, ask).await.map(Bare).map_err(Fail::for_agent)
}

/// Forgets a group; answers what it could do.
pub(super) async fn delete(
    State(api): State<Api>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Bare<PermissionGroup>, Fail> {
    may_change(&api, &who)?;
    api.app.ops.delete_permission_group(&name).await.map(Bare).map_err(Fail::for_agent)
}

/// What may be allowed with a resource of each type.
pub(super) async fn catalogue(State(api): State<Api>) -> Result<Done<Vec<Offered>>, Fail> {
    managed(&api)?;
    let offered = |kind: ResourceType| Offered { resource_type: kind, permissions: described(kind.rights()) };
    Ok(Done(ResourceType::ALL.map(offered).to_vec()))
}

/// A group's resources.
pub(super) async fn resources(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Seen<Done<Vec<Resource>>>, Fail> {
    managed(&api)?;
    Ok(api.app.ops.resources(&name).await?.map(Done))
}

/// Gives a group these resources, and no others.
pub(super) async fn set_resources(
    State(api): State<Api>,
    Path(name): Path<String>,
    AnyList(given): AnyList<Resource>,
) -> Result<Saved, Fail> {
    managed(&api)?;
    api.app.ops.set_resources(&name, given).await?;
    Ok(Saved)
}

fn managed(api: &Api) -> Result<(), Fail> {
    let why = "resource management is off: `resource_management` in `[auth]` switches it on";
    api.app.ops.has_resources().then_some(()).ok_or_else(|| Fail::new(StatusCode::NOT_FOUND, why))
}
