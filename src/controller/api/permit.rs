//! What a call needs, and whether its caller has it: the one table of permissions (`docs/permissions.md`).

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{Method, Response, StatusCode},
    middleware::Next,
    response::IntoResponse,
};

use super::{
    Api, absent,
    answer::Fail,
    permission::{CATALOGUE, OTHER_CATALOGUE, OTHER_RESOURCES, RESOURCES},
};
use crate::{auth::Who, config::auth::Authorization, controller::ops::Reach, http::linger};

/// What a watch needs, whatever kinds it asks for; looked at again for as long as it goes on.
pub(super) const WATCH: &[&str] = &["list_vms", "list_nodes", "view_logs"];

/// The permissions that a call needs, all of them; nothing for a call that only the root token opens.
fn needs(method: &Method, route: &str) -> Option<&'static [&'static str]> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    Some(match (method, route) {
        ("GET", "/api/v1/status" | "/api/v1/stats") => &[],
        ("GET", "/api/v1/vm" | "/switchyard/v1/instances" | "/switchyard/v1/instances/{id}/why") => {
            &["list_vms"]
        }
        ("POST", "/api/v1/vm") => &["start_vm"],
        ("PUT", "/api/v1/vm") => &["update_vm"],
        ("DELETE", "/api/v1/vm") => &["terminate_vm"],
        ("POST", "/api/v1/rpc/vm/restart") => &["restart_vm"],
        ("GET", "/api/v1/image") => &["list_images"],
        ("POST", "/api/v1/image") => &["save_image"],
        ("GET", "/api/v1/node" | "/switchyard/v1/nodes" | "/switchyard/v1/nodes/{id}/why") => &["list_nodes"],
        ("GET", "/switchyard/v1/nodes/commands") => &["list_nodes"],
        ("DELETE", "/api/v1/node") | ("POST", "/switchyard/v1/nodes/confirm-absence") => &["delete_node"],
        ("POST", "/api/v1/node/config") => &["change_node_config"],
        ("PUT", "/api/v1/node/update" | "/v1/node/update") => &["update_nodes"],
        ("POST", "/api/v1/node/group") => &["add_node_to_group"],
        ("DELETE", "/api/v1/node/group") => &["remove_group_from_node"],
        ("GET", "/api/v1/group") => &["get_groups"],
        ("POST", "/api/v1/group") => &["create_group"],
        ("PUT", "/api/v1/group") => &["update_group"],
        ("DELETE", "/api/v1/group") => &["delete_group"],
        ("GET", "/api/v1/usb") => &["list_usb"],
        ("GET", "/api/v1/macaddr") => &["list_macs"],
        ("PUT" | "DELETE", "/api/v1/macaddr") => &["change_macs"],
        ("GET", "/api/v1/vlan") => &["list_vlans"],
        ("GET", "/api/v1/registry/vm") => &["registry_list"],
        ("DELETE", "/api/v1/registry/vm" | "/api/v1/registry/revert") => &["registry_delete"],
        ("GET", "/api/v1/registry/disk") => &["get_registry_disk_info"],
        ("DELETE", "/api/v1/registry/vm/remove") => &["registry_remove"],
        ("GET", "/api/v1/registry/vm/distribute") => &["registry_distribute_status"],
        ("POST" | "DELETE", "/api/v1/registry/vm/distribute") => &["registry_distribute"],
        ("GET", "/switchyard/v1/events") => &["view_logs"],
        ("GET", "/switchyard/v1/watch") => WATCH,
        ("POST", "/switchyard/v1/join" | "/switchyard/v1/heartbeat" | "/switchyard/v1/claim") => {
            &["node_queue"]
        }
        ("POST", "/switchyard/v1/starting" | "/switchyard/v1/report" | "/switchyard/v1/giveback") => {
            &["node_queue"]
        }
        ("POST", "/switchyard/v1/leave") | ("GET", super::POLL) => &["node_queue"],
        // Keys are changed with the root token: whoever has one could make others, of other groups.
        ("GET", "/api/v1/apikey") => &["list_api_keys"],
        ("GET", "/switchyard/v1/permissions") => &["view_permissions"],
        ("GET", "/switchyard/v1/permission-groups") => &["view_prmission_groups"],
        ("GET", CATALOGUE | OTHER_CATALOGUE) => &["view_permissions"],
        ("GET", RESOURCES | OTHER_RESOURCES) => &["view_prmission_groups"],
        ("POST", RESOURCES | OTHER_RESOURCES) => &["update_permission_groups"],
        ("PUT", "/switchyard/v1/permission-groups/{name}") => &["update_permission_groups"],
        ("DELETE", "/switchyard/v1/permission-groups/{name}") => &["delete_permission_groups"],
        _ => return None,
    })
}

/// Middleware behind the one that finds out who calls: passes on what the caller's groups may do.
pub(super) async fn check(State(api): State<Api>, mut request: Request, next: Next) -> Response<Body> {
    // Without a route there is nothing to protect: the fallback says so.
    let Some(route) = request.extensions().get::<MatchedPath>() else { return next.run(request).await };
    let of_nodes = matches!(route.as_str(), "/api/v1/group" | "/api/v1/node/group");
    if of_nodes && !request.method().is_safe() && api.app.ops.has_resources() {
        linger(request).await;
        return absent::groups().await.into_response();
    }
    let who = request.extensions().get::<Who>();
    // `None` is whoever may do everything.
    let Some(groups) = who.map_or(Some(Vec::new()), Who::groups) else { return next.run(request).await };
    let why = match needs(request.method(), route.as_str()) {
        None => "Permission denied: this needs the root token".to_owned(),
        Some(needed) => match api.app.ops.lacks(&groups, needed).await {
            None => {
                if api.app.ops.has_resources() {
                    let reach = Reach::of(&groups);
                    request.extensions_mut().insert(reach);
                }
                return next.run(request).await;
            }
            Some(lacking) => denied(lacking),
        },
    };
    api.counts.refused("forbidden");
    linger(request).await;
    Fail::new(StatusCode::FORBIDDEN, why).into_response()
}

/// Refuses whoever lacks what a call needs for what its body asks.
pub(super) async fn also(api: &Api, who: &Who, needed: &[&'static str]) -> Result<(), Fail> {
    let counts = api.app.ops.config().auth.authorization >= Authorization::Groups;
    let Some(groups) = who.groups().filter(|_| counts) else { return Ok(()) };
    match api.app.ops.lacks(&groups, needed).await {
        None => Ok(()),
        Some(lacking) => Err(Fail::new(StatusCode::FORBIDDEN, denied(lacking))),
    }
}

fn denied(lacking: &str) -> String {
    format!("Permission denied: none of your groups may do this; it needs `{lacking}`")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::{
        controller::api::openapi::DOCUMENT,
        wire::permission::{PERMISSIONS, ResourceType},
    };

    /// What is outside this gate, and what only the root token opens.
    const NOT_HERE: [&str; 12] = [
        "/",
        "/config/v1/auth",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi",
        "/openapi.json",
        "/pkg/{name}",
        "/readyz",
        "/tap/v1/hand",
        "/tap/v1/shake",
        "/api/v1/apikey",
    ];

    #[test]
    fn each_call_needs_permissions_that_exist_and_each_permission_opens_something() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let mut opened = BTreeSet::from(["list_api_keys"]);
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                if NOT_HERE.contains(&path.as_str()) {
                    continue;
                }
                let needed = needs(&method, path)
                    .unwrap_or_else(|| panic!("{method} {path} is in no line of the table"));
                opened.extend(needed);
            }
        }
        for (name, about) in PERMISSIONS {
            assert_eq!(opened.contains(name), !about.contains("opens nothing here"), "{name}");
        }
        assert!(opened.iter().all(|name| PERMISSIONS.iter().any(|(known, _)| known == name)));
        let page = include_str!("../../../docs/permissions.md");
        let rights = ResourceType::ALL.into_iter().flat_map(ResourceType::rights);
        for (name, _) in PERMISSIONS.iter().chain(rights) {
            assert!(page.contains(&format!("`{name}`")), "docs/permissions.md does not have `{name}`");
        }
        assert_eq!(needs(&Method::HEAD, "/api/v1/vm"), Some(&["list_vms"][..]));
        assert_eq!(needs(&Method::POST, "/api/v1/apikey"), None);
        assert_eq!(needs(&Method::PATCH, "/api/v1/vm"), None);
    }
}
