//! Saved images: `/api/v1/image` (`reference/controller-api.md` §7), and restarts (§4.6).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{lenient, vm::ScriptResult};

/// `POST /api/v1/image`.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SaveImage {
    /// The instance; required.
    #[serde(deserialize_with = "lenient::text")]
    pub id: Option<String>,
    /// The new version's tag; required.
    #[serde(deserialize_with = "lenient::text")]
    pub tag: Option<String>,
    /// A template of this name; this or `target_vm_id` is required.
    #[serde(deserialize_with = "lenient::text")]
    pub new_template_name: Option<String>,
    /// The template that gets the version.
    #[serde(deserialize_with = "lenient::text")]
    pub target_vm_id: Option<String>,
    /// Shown with the version.
    #[serde(deserialize_with = "lenient::text")]
    pub description: Option<String>,
    /// Suspend rather than stop; true if not given.
    #[serde(deserialize_with = "lenient::flag")]
    pub suspend: Option<bool>,
    /// Base64; runs in the VM before.
    #[serde(deserialize_with = "lenient::text")]
    pub script: Option<String>,
    /// Take a version of the target back before.
    #[serde(deserialize_with = "lenient::flag")]
    pub revert_before_push: Option<bool>,
    /// This one and every later one; the newest if not given.
    #[serde(deserialize_with = "lenient::text")]
    pub revert_tag: Option<String>,
    /// Looked at by drivers that can suspend.
    #[serde(deserialize_with = "lenient::flag")]
    pub do_suspend_sanity_test: Option<bool>,
    /// Nothing is done if the script fails.
    #[serde(deserialize_with = "lenient::flag")]
    pub cancel_on_script_failure: Option<bool>,
    /// Permission group; only with resource management.
    #[serde(deserialize_with = "lenient::text")]
    pub group: Option<String>,
}

/// How a saving stands.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageStatus {
    /// It goes on.
    Pending,
    /// The version is in the registry.
    Done,
    /// It failed.
    Error,
}

/// One element of `GET /api/v1/image`. What is empty is `null`.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// The request's id.
    pub id: String,
    /// How it stands.
    pub status: ImageStatus,
    /// What was asked.
    pub request: ImageRequest,
    /// Why it failed.
    pub error: Option<ImageError>,
    /// How the script ended: all of its output in an answer about one image, the end of it in a list.
    pub script_result: Option<ScriptResult>,
}

/// What was asked, with the names of the vendor's own program.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageRequest {
    /// The request's id.
    pub request_id: String,
    /// Of no meaning here.
    pub priority: u32,
    /// When it was asked for, Unix seconds.
    pub timestamp: i64,
    /// Of no meaning here: nothing is reserved.
    pub reserve_expiry_timestamp: i64,
    /// Where it is pushed to.
    pub registry_addr: String,
    /// The VM on its node.
    #[serde(rename = "VMID")]
    pub vm_id: String,
    /// The instance.
    #[serde(rename = "InstanceID")]
    pub instance_id: String,
    /// Its node.
    #[serde(rename = "NodeID")]
    pub node_id: String,
    /// The template that gets the version; empty: a new one.
    #[serde(rename = "TemplateID")]
    pub template_id: String,
    /// The new one's name.
    pub new_template_name: String,
    /// The version's tag.
    pub tag: String,
    /// Shown with it.
    pub description: String,
    /// As asked.
    pub suspend: bool,
    /// As asked; in an answer about one image alone, and for an hour after its end.
    pub script: String,
    /// As asked.
    pub do_suspend_test: bool,
    /// As asked.
    pub revert_before_push: bool,
    /// As asked.
    pub revert_tag: String,
    /// As asked.
    pub cancel_on_script_failure: bool,
}

/// Why a saving failed.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageError {
    /// In words.
    pub message: String,
    /// `SaveImageError`.
    pub r#type: String,
}

/// `POST /api/v1/rpc/vm/restart`.
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RestartInstance {
    /// The instance; required.
    #[serde(deserialize_with = "lenient::text")]
    pub instance_id: Option<String>,
    /// A USB device by name or location.
    #[serde(deserialize_with = "lenient::text")]
    pub usb_device: Option<String>,
    /// For the display of the VM; kept nowhere.
    #[serde(deserialize_with = "lenient::text")]
    pub vnc_password: Option<String>,
}

impl fmt::Debug for RestartInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RestartInstance");
        shown
            .field("instance_id", &self.instance_id)
            .field("usb_device", &self.usb_device)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_debug_output() {
        let ask: RestartInstance =
            serde_json::from_str(r#"{"instance_id":"i","vnc_password":"s3cret"}"#).unwrap();
        assert!(ask.vnc_password.is_some() && !format!("{ask:?}").contains("s3cret"));
    }
}
