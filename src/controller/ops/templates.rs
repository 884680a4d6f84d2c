//! Templates: asked from the registries through their front, never kept. What was pushed and acknowledged a
//! moment ago is found, so nothing here is older than its question.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{OpsError, together::Together};
use crate::{
    client::{self, ClientError},
    config::{auth::RootToken, controller::Registries},
    model::{Arch, Digest, LayerId, RepositoryName, TemplateId},
    supervise::Stop,
    wire::template::{Disk, RevertTemplate, Template, TemplateSummary, Version},
};

/// How often the front is asked whether it runs, for `registry_status`.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// How long `registry_status` waits for the first check of a fresh process; then it is `FAIL`.
const FIRST_CHECK: Duration = Duration::from_secs(1);

/// What a start needs to know of a template's version: enough to pull the very same bytes later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The template.
    pub template: TemplateId,
    /// Its name.
    pub name: String,
    /// Where it is in the OCI API.
    pub repository: RepositoryName,
    /// The version's tag.
    pub tag: String,
    /// The version's number.
    pub version: i64,
    /// The version's manifest.
    pub manifest: Digest,
    /// Of the version, or of the template if the version does not say.
    pub arch: Option<Arch>,
    /// Its layers, lowest first; of more than [`LAYERS`] the lowest.
    pub layers: Vec<LayerId>,
}

/// Layers of a template that are looked at, at most: a record of each instance has them.
const LAYERS: usize = 32;

/// An answer that several callers share.
type Shared<T> = Result<T, Arc<ClientError>>;

struct Registry {
    client: client::Templates,
    node_address: String,
    push_address: String,
    shows: Together<TemplateId, Shared<Option<Arc<Template>>>>,
    running: watch::Sender<Option<bool>>,
}

/// The registries as the controller sees them. Cheap to clone.
#[derive(Clone)]
pub struct Templates {
    registry: Option<Arc<Registry>>,
}

impl Templates {
    /// Over the front that the config names, or over nothing: then every call fails and says which key is missing.
    /// They are shown the root token, if there is one.
    pub fn new(config: Option<Registries>, root: Option<&RootToken>) -> Result<Self, reqwest::Error> {
        let open = |config: Registries| {
            let towards = client::Credentials::new(client::Login::root(root), config.tls);
            Ok(Arc::new(Registry {
                client: client::Templates::new(config.address, &towards, config.timeout)?,
                node_address: config.node_address.to_string(),
                push_address: config.push_address.map(|address| address.to_string()).unwrap_or_default(),
                shows: Together::new(),
                running: watch::Sender::new(None),
            }))
        };
        Ok(Self { registry: config.map(open).transpose()? })
    }

    /// The registries' address for nodes; empty when there is none.
    pub fn node_address(&self) -> &str {
        self.registry.as_ref().map_or("", |registry| &registry.node_address)
    }

    /// Where nodes push to, if not to that address; else empty.
    pub fn push_address(&self) -> &str {
        self.registry.as_ref().map_or("", |registry| &registry.push_address)
    }

    /// Whether the registries answered when they were last asked. Waits at most a second, for the very first check.
    pub async fn running(&self) -> bool {
        let Some(registry) = &self.registry else { return false };
        let mut seen = registry.running.subscribe();
        let first = tokio::time::timeout(FIRST_CHECK, seen.wait_for(Option::is_some)).await;
        matches!(first, Ok(Ok(known)) if *known == Some(true))
    }

    /// Keeps [`Templates::running`] current until `stop`.
    pub async fn watch(self, stop: Stop) -> Result<(), std::convert::Infallible> {
        let Some(registry) = self.registry else {
            stop.requested().await;
            return Ok(());
        };
        loop {
            let asked = tokio::select! {
                () = stop.requested() => return Ok(()),
                asked = registry.client.status() => asked,
            };
            let runs = asked.as_ref().is_ok_and(|status| status.status == "Running");
            let before = registry.running.send_replace(Some(runs));
            let address = registry.client.address();
            match asked {
                Err(error) if before != Some(false) => {
                    warn!(registry.address = %address, error = %error, "registries stopped answering");
                }
                _ if runs && before != Some(true) => {
                    info!(registry.address = %address, "registries answered")
                }
                _ => {}
            }
            tokio::select! {
                () = stop.requested() => return Ok(()),
                () = tokio::time::sleep(CHECK_EVERY) => {}
            }
        }
    }

    /// Every template; without sizes it is cheaper, and only ids and names are right.
    ///
    /// # Errors
    /// `RegistryDown`.
    pub async fn list(&self, with_sizes: bool) -> Result<Vec<TemplateSummary>, OpsError> {
        let registry = self.registry()?;
        if with_sizes {
            return registry.client.list().await.map_err(|error| down(&error));
        }
        let names = registry.client.names().await.map_err(|error| down(&error))?;
        let named =
            |(id, name)| TemplateSummary { id, name, size: 0, arch: None, last_pull: 0, last_push: 0 };
        Ok(names.into_iter().map(named).collect())
    }

    /// One template with its versions.
    ///
    /// # Errors
    /// `NotFound`, `RegistryDown`.
    pub async fn show(&self, id: &TemplateId) -> Result<Arc<Template>, OpsError> {
        self.find(id).await?.ok_or(OpsError::NotFound)
    }

    /// Removes a template with all its versions.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when the registries refuse, `RegistryDown`; `Unknown` when it may have been done.
    pub async fn delete(&self, id: &TemplateId) -> Result<(), OpsError> {
        self.registry()?.client.delete(id).await.map_err(|error| refused(&error))
    }

    /// Removes a version and every later one.
    ///
    /// # Errors
    /// As [`Templates::delete`]; `BadInput` for an unknown version, in the registry's words.
    pub async fn revert(&self, ask: &RevertTemplate) -> Result<(), OpsError> {
        self.registry()?.client.revert(ask).await.map_err(|error| refused(&error))
    }

    /// The registries' disk.
    ///
    /// # Errors
    /// `RegistryDown`.
    pub async fn disk(&self) -> Result<Disk, OpsError> {
        self.registry()?.client.disk().await.map_err(|error| down(&error))
    }

    /// Which bytes a start is about: by tag, else by number, else the newest. A tag wins over a number.
    ///
    /// # Errors
    /// `NotInRegistry` for an unknown template and for one without versions, `NoSuchTag` (with the tag as it was
    /// sent: clients compare the text), `BadInput` for an unknown number, `RegistryDown`.
    pub async fn resolve(
        &self,
        id: &TemplateId,
        tag: Option<&str>,
        version: Option<i64>,
    ) -> Result<Resolved, OpsError> {
        let template = self.find(id).await?.ok_or(OpsError::NotInRegistry)?;
        let found = pick(&template, tag, version)?;
        let strange = |what: &str| {
            let (name, number) = (&template.name, found.number);
            let why = format!("the registries do not say {what} of version {number} of `{name}`");
            OpsError::RegistryDown(format!(
                "{why}: nodes of this controller pull from Switchyard's registries only"
            ))
        };
        Ok(Resolved {
            template: id.clone(),
            name: template.name.clone(),
            repository: template.repository.clone().ok_or_else(|| strange("the repository"))?,
            tag: found.tag.clone(),
            version: found.number,
            manifest: found.digest.ok_or_else(|| strange("the manifest"))?,
            arch: arch(&found.arch).or(template.arch),
            layers: layers(found),
        })
    }

    async fn find(&self, id: &TemplateId) -> Result<Option<Arc<Template>>, OpsError> {
        let registry = self.registry()?;
        let (client, wanted) = (registry.client.clone(), id.clone());
        let ask = async move { Ok(client.show(&wanted).await?.map(Arc::new)) };
        registry.shows.ask(id.clone(), ask).await.map_err(|error| down(&error))
    }

    fn registry(&self) -> Result<&Registry, OpsError> {
        let missing =
            || OpsError::RegistryDown("no registries are configured: set `registries.address`".into());
        self.registry.as_deref().ok_or_else(missing)
    }
}

/// The version that was asked for, or the newest.
fn pick<'t>(template: &'t Template, tag: Option<&str>, number: Option<i64>) -> Result<&'t Version, OpsError> {
    let versions = || template.versions.iter();
    match (tag, number) {
        (Some(tag), _) => {
            versions().find(|v| v.tag == tag).ok_or_else(|| OpsError::NoSuchTag(tag.to_owned()))
        }
        (None, Some(number)) => versions().find(|v| v.number == number).ok_or_else(|| {
            OpsError::BadInput(format!("`version`: template `{}` has no version {number}", template.name))
        }),
        (None, None) => versions().max_by_key(|v| v.number).ok_or(OpsError::NotInRegistry),
    }
}

/// As their files' names tell them, newest first.
fn layers(version: &Version) -> Vec<LayerId> {
    let all = version.images.iter().rev().filter_map(|name| LayerId::of_file(name));
    let mut layers = Vec::new();
    for layer in all {
        if layers.len() < LAYERS && !layers.contains(&layer) {
            layers.push(layer);
        }
    }
    layers
}

fn arch(word: &str) -> Option<Arch> {
    [Arch::Amd64, Arch::Arm64].into_iter().find(|arch| arch.as_str() == word)
}

/// Why a change of the registries' was not made, if that is known.
fn refused(error: &ClientError) -> OpsError {
    match error {
        // A busy or broken registry says so before it has done anything.
        ClientError::Unreachable { .. } | ClientError::Untrusted { .. } => down(error),
        ClientError::Unanswered { .. } | ClientError::Silent { .. } | ClientError::Strange { .. } => {
            OpsError::Unknown(format!("the registries' answer was lost: {error}"))
        }
        ClientError::Refused { status: 404, .. } => OpsError::NotFound,
        ClientError::Refused { status: 200 | 400, message, .. } if message == "Not found" => {
            OpsError::NotFound
        }
        // The words of the registry are those that the vendor's tools show.
        ClientError::Refused { status: 200 | 400, message, .. } => OpsError::BadInput(message.clone()),
        ClientError::Refused { status: 403 | 409, message, .. } => {
            OpsError::Conflict(format!("the registries refuse: {message}"))
        }
        // Behind a front, a 502 or 504 is one whose outcome it does not know.
        ClientError::Refused { status: 502 | 504, .. } => {
            OpsError::Unknown(format!("the registries' answer was lost: {error}"))
        }
        ClientError::Refused { .. } => down(error),
    }
}

fn down(error: &ClientError) -> OpsError {
    OpsError::RegistryDown(format!("the registries cannot be asked: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(tags: &[(i64, &str)]) -> Template {
        let versions: Vec<_> =
            tags.iter().map(|(number, tag)| serde_json::json!({ "number": number, "tag": tag })).collect();
        serde_json::from_value(serde_json::json!({ "id": "t", "name": "sonoma", "versions": versions }))
            .unwrap()
    }

    #[test]
    fn a_tag_wins_over_a_number_and_without_either_the_newest_is_meant() {
        let template = template(&[(0, "base"), (2, "v3+ssh"), (1, "v2")]);
        let number = |tag, number| pick(&template, tag, number).map(|version| version.number);
        assert_eq!(number(None, None), Ok(2));
        assert_eq!(number(None, Some(1)), Ok(1));
        assert_eq!(number(Some("base"), Some(1)), Ok(0));
    }

    #[test]
    fn what_is_not_there_is_said_in_the_words_that_clients_compare() {
        let some = template(&[(0, "base")]);
        let text = |tag, number| pick(&some, tag, number).unwrap_err().to_string();
        assert_eq!(text(Some("Base"), None), "No such tag Base");
        assert!(text(None, Some(7)).contains("no version 7"), "{}", text(None, Some(7)));
        assert_eq!(pick(&template(&[]), None, None), Err(OpsError::NotInRegistry), "nothing to start");
    }

    #[tokio::test]
    async fn without_registries_each_call_names_the_key_to_set() {
        let none = Templates::new(None, None).unwrap();
        let id: TemplateId = "t".parse().unwrap();
        for error in [
            none.list(true).await.unwrap_err(),
            none.show(&id).await.unwrap_err(),
            none.disk().await.unwrap_err(),
            none.resolve(&id, None, None).await.unwrap_err(),
        ] {
            assert!(
                matches!(&error, OpsError::RegistryDown(why) if why.contains("registries.address")),
                "{error}"
            );
        }
        assert!(!none.running().await);
        assert_eq!(none.node_address(), "");
    }
}
