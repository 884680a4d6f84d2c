//! What groups of callers may do, as an operator's program asks for it and changes it: `/switchyard/v1/permission-groups`.

use std::collections::BTreeMap;

use reqwest::Method;

use super::{
    ClientError, Controllers,
    controllers::{Call, delete, get, segment},
    templates,
};
use crate::wire::permission::{Described, PermissionGroup};

impl Controllers {
    /// All permissions that a group can have.
    pub async fn permissions(&self) -> Result<BTreeMap<String, Described>, ClientError> {
        self.bare("/switchyard/v1/permissions", &[]).await
    }

    /// All groups of callers.
    pub async fn permission_groups(&self) -> Result<Vec<PermissionGroup>, ClientError> {
        self.bare("/switchyard/v1/permission-groups", &[]).await
    }

    /// Says what a group may do from now on; makes it if it is not there.
    pub async fn set_permissions(
        &self,
        group: &str,
        permissions: &[String],
    ) -> Result<PermissionGroup, ClientError> {
        let path = path(group);
        let body = Some(serde_json::json!({ "permissions": permissions }));
        self.bare_again(&Call { method: Method::PUT, body, ..get(&path, &[]) }).await
    }

    /// Deletes a group. One that is not there after a lost answer was deleted by it.
    pub async fn delete_permission_group(&self, group: &str) -> Result<(), ClientError> {
        let path = path(group);
        let call = delete(&path, serde_json::json!({}));
        match self.bare_again::<PermissionGroup>(&call).await {
            Err(error) if templates::says_not_there(&error) => Ok(()),
            answered => answered.map(drop),
        }
    }
}

fn path(group: &str) -> String {
    format!("/switchyard/v1/permission-groups/{}", segment(group))
}
