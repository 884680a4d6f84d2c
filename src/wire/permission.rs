//! What groups of callers may do: `/admin/v1/api/permission/…` (`reference/controller-api.md` §10) and
//! `/switchyard/v1/permission-groups` of controllers, and the names of permissions (`reference/authentication.md` §6).

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::lenient;

/// A permission by its name, and what it is for.
pub type Named = (&'static str, &'static str);

/// What the permissions of a controller's groups are: the vendor's names, and ours where it made none public.
pub const PERMISSIONS: &[Named] = &[
    ("list_vms", "list instances, and why they wait"),
    ("start_vm", "start instances"),
    ("terminate_vm", "terminate instances"),
    ("update_vm", "change name, external id and metadata of instances"),
    ("restart_vm", "restart VMs"),
    ("list_images", "list what is being saved"),
    ("save_image", "save a VM as a version of a template"),
    ("registry_list", "list templates"),
    ("registry_delete", "delete templates, and revert their versions"),
    ("get_registry_disk_info", "look at the registries' disk"),
    ("registry_distribute", "distribute templates to nodes, and cancel that"),
    ("registry_distribute_status", "look at distributions"),
    ("registry_remove", "remove templates from nodes"),
    ("list_nodes", "list nodes, what they are to do, and why"),
    ("change_node_config", "change the settings of nodes"),
    ("delete_node", "forget nodes, and confirm that they are gone"),
    ("update_nodes", "have agents install their newest program"),
    ("create_group", "make groups of nodes"),
    ("get_groups", "list groups of nodes"),
    ("update_group", "change groups of nodes"),
    ("delete_group", "delete groups of nodes"),
    ("add_node_to_group", "put nodes into groups"),
    ("remove_group_from_node", "take nodes out of groups"),
    ("list_usb", "list USB devices"),
    ("list_macs", "look at the pool of MAC addresses"),
    ("change_macs", "refill the pool of MAC addresses"),
    ("list_vlans", "list VLANs"),
    ("view_logs", "read the event log"),
    ("list_api_keys", "list API keys"),
    ("view_permissions", "list permissions"),
    ("view_prmission_groups", "list groups of callers and what they may do"),
    ("update_permission_groups", "change what groups of callers may do, one's own too"),
    ("delete_permission_groups", "delete groups of callers"),
    ("node_queue", "work as a node: what agents need"),
    ("get_config", "of the vendor's controllers; opens nothing here"),
    ("change_config", "of the vendor's controllers; opens nothing here"),
    ("get_registry_files", "of the vendor's controllers; opens nothing here"),
];

/// See it in lists; whatever else may be done to it, callers do not learn that it is there without this.
pub const LIST: &str = "list";
/// Run starts of the group on it.
pub const CREATE_INSTANCE: &str = "create_instance";
/// Change its settings.
pub const CHANGE_CONFIG: &str = "change_config";
/// Forget it.
pub const REMOVE: &str = "remove";
/// Bring templates to it.
pub const DISTRIBUTE: &str = "distribute";
/// Remove templates from it.
pub const DELETE_TEMPLATE: &str = "delete_template";
/// Have its agent replaced.
pub const FORCE_UPGRADE: &str = "force_upgrade";
/// Start and distribute it.
pub const PULL: &str = "pull";
/// Delete it, and revert its versions.
pub const DELETE_REVERT: &str = "delete_revert";
/// Save a VM as a version of it.
pub const SAVE_IMAGE: &str = "save_image";

/// What may be allowed with a node.
const OF_NODES: &[Named] = &[
    (LIST, "see the node in lists"),
    (CREATE_INSTANCE, "run starts of the group on it"),
    (CHANGE_CONFIG, "change its settings"),
    (REMOVE, "forget it"),
    (DISTRIBUTE, "bring templates to it"),
    (DELETE_TEMPLATE, "remove templates from it"),
    (FORCE_UPGRADE, "have its agent replaced"),
];

/// What may be allowed with a template.
const OF_TEMPLATES: &[Named] = &[
    (LIST, "see the template in lists"),
    (PULL, "start and distribute it"),
    (DELETE_REVERT, "delete it, and revert its versions"),
    (SAVE_IMAGE, "save a VM as a version of it"),
    ("get_config", "of the vendor's registries; opens nothing at a controller"),
    ("push_tag", "of the vendor's registries; opens nothing at a controller"),
    ("set_arch", "of the vendor's registries; opens nothing at a controller"),
];

/// What a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ResourceType {
    /// A node.
    Node,
    /// A template.
    Template,
}

impl ResourceType {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Node, Self::Template];

    /// What may be allowed with one of these.
    pub fn rights(self) -> &'static [Named] {
        match self {
            Self::Node => OF_NODES,
            Self::Template => OF_TEMPLATES,
        }
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Template => "template",
        })
    }
}

/// A node or a template that is a resource of a group, and what the group may do with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Resource {
    /// The node's or the template's id.
    pub id: String,
    /// How it is named: `id`.
    #[serde(default = "by_id")]
    pub id_type: String,
    /// Which of both.
    #[serde(rename = "type")]
    pub kind: ResourceType,
    /// What may be done with it, by names.
    pub permissions: Vec<String>,
}

/// The one way in which resources are named.
pub const BY_ID: &str = "id";

fn by_id() -> String {
    BY_ID.into()
}

/// What may be allowed with one type of resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Offered {
    /// Which type.
    pub resource_type: ResourceType,
    /// By name.
    pub permissions: BTreeMap<String, Described>,
}

/// One group of callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct PermissionGroup {
    /// What certificates, API keys and identity providers call it.
    pub name: String,
    /// What its callers may do, by names.
    pub permissions: Vec<String>,
}

/// `PUT /switchyard/v1/permission-groups/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct PermissionsAsk {
    /// What its callers may do from now on; required, perhaps empty.
    #[serde(deserialize_with = "lenient::some_of")]
    pub permissions: Option<Vec<String>>,
}

/// A permission as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Described {
    /// In a word or two.
    pub label: String,
    /// In a sentence.
    pub description: String,
}

/// All permissions by their names.
pub fn described(all: &[Named]) -> BTreeMap<String, Described> {
    let one = |(name, about): &Named| {
        let described = Described { label: name.replace('_', " "), description: (*about).into() };
        ((*name).to_owned(), described)
    };
    all.iter().map(one).collect()
}
