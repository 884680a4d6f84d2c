//! Templates, asked of the registries' front.

use crate::{
    config::controller::Registries,
    controller::ops::OpsError,
    model::{Arch, Digest, RepositoryName, TemplateId},
};

/// A template version, as a start needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Template id.
    pub template: TemplateId,
    /// Template name.
    pub name: String,
    /// Where nodes pull it from.
    pub repository: RepositoryName,
    /// The version's tag.
    pub tag: String,
    /// The version's number.
    pub version: i64,
    /// Its manifest.
    pub manifest: Digest,
    /// Its architecture, if known.
    pub arch: Option<Arch>,
}

/// Asks the registries' front.
#[derive(Debug, Clone)]
pub struct Templates {
    registries: Option<Registries>,
}

impl Templates {
    /// Of these registries; without any, every call fails and names the config key.
    pub fn new(registries: Option<Registries>) -> Result<Self, reqwest::Error> {
        Ok(Self { registries })
    }

    /// Which version a start means: by tag, by number, else the latest.
    pub async fn resolve(
        &self,
        _template: &TemplateId,
        _tag: Option<&str>,
        _version: Option<i64>,
    ) -> Result<Resolved, OpsError> {
        match &self.registries {
            None => Err(OpsError::RegistryDown("no registries: set `registries.address`".into())),
            Some(registries) => {
                Err(OpsError::RegistryDown(format!("registries at {} were not asked", registries.address)))
            }
        }
    }
}
