//! API keys of the registries: each is a manifest of one repository that nobody is shown, tagged by the hash of its id.
//!
//! So a key is a change in the log like any other: it is copied, set aside, taken over with a snapshot, scrubbed and
//! collected as templates are, on every kind of storage, and a replica has it as soon as it has what was pushed then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Mutex as TurnMutex;

use super::{
    content::ContentError,
    journal::JournalError,
    repositories::{Found, Reference, Repositories, RepositoryError},
};
use crate::{
    auth::keys::{ApiKey, Keys, KeysError, MOST},
    clock,
    model::{ApiKeyId, Digest, RepositoryName, Tag},
    telemetry::chain,
    wire::apikey::ApiKeyAsk,
};

/// Where keys are kept.
const HIDDEN: &str = "switchyard-internal/api-keys";

/// The type of such a manifest.
const MEDIA_TYPE: &str = "application/vnd.switchyard.api-key.v1+json";

/// Whether this repository is for registries alone: neither API shows or changes it.
pub(super) fn is_hidden(repository: &RepositoryName) -> bool {
    repository.as_str().eq_ignore_ascii_case(HIDDEN)
}

/// The keys of one registry.
pub(super) struct ApiKeys {
    repositories: Repositories,
    hidden: RepositoryName,
    /// As read, by manifest: they never change. Those that are not there any more go when another one comes.
    read: Mutex<HashMap<Digest, Arc<ApiKey>>>,
    /// Taken while one is changed.
    turn: TurnMutex<()>,
}

impl ApiKeys {
    /// Over these repositories.
    pub(super) fn new(repositories: Repositories) -> Self {
        let hidden = RepositoryName::parse(HIDDEN).expect("a constant that is a repository's name");
        Self { repositories, hidden, read: Mutex::default(), turn: TurnMutex::default() }
    }

    async fn found(&self, id: &ApiKeyId) -> Result<Option<(Digest, Arc<ApiKey>)>, RepositoryError> {
        match self.repositories.find(&self.hidden, &reference(id)).await {
            Ok(found) => Ok(Some((found.digest, self.read(&found).await?))),
            Err(RepositoryError::NoRepository { .. } | RepositoryError::NoManifest { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read(&self, found: &Found) -> Result<Arc<ApiKey>, RepositoryError> {
        if let Some(key) = self.kept().get(&found.digest) {
            return Ok(key.clone());
        }
        let bytes = self.repositories.bytes(found).await?;
        let key = serde_json::from_slice(&bytes).map_err(|error| {
            let what = format!("API key {}", found.digest);
            RepositoryError::Content(ContentError::Damaged { what, why: error.to_string() })
        })?;
        let (key, catalogue) = (Arc::new(key), self.repositories.catalogue(&self.hidden).await?);
        let mut kept = self.kept();
        kept.retain(|digest, _| catalogue.manifests.contains_key(digest));
        kept.insert(found.digest, Arc::clone(&key));
        Ok(key)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<ApiKey>>> {
        // What is behind it is whole at every step.
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a key's record, and takes the one away that was there before.
    async fn put(&self, key: &ApiKey, before: Option<Digest>) -> Result<(), KeysError> {
        let bytes = serde_json::to_vec(key).map_err(|error| KeysError::Unavailable(error.to_string()))?;
        let (at, kind) = (reference(&key.id), Some(MEDIA_TYPE.to_owned()));
        let taken = self.repositories.put(&self.hidden, &at, kind, Bytes::from(bytes));
        let digest = taken.await.map_err(failed)?.digest;
        match before.filter(|before| *before != digest) {
            Some(before) => self.remove(before).await,
            None => Ok(()),
        }
    }

    async fn remove(&self, digest: Digest) -> Result<(), KeysError> {
        match self.repositories.delete(&self.hidden, &Reference::Digest(digest)).await {
            Ok(_) | Err(RepositoryError::NoRepository { .. } | RepositoryError::NoManifest { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Every key that can be read, with its manifest, by id.
    async fn every(&self) -> Result<Vec<(Digest, Arc<ApiKey>)>, KeysError> {
        let catalogue = match self.repositories.catalogue(&self.hidden).await {
            Ok(catalogue) => catalogue,
            Err(RepositoryError::NoRepository { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut all = Vec::with_capacity(catalogue.tags.len());
        for tag in catalogue.tags.keys() {
            match self.repositories.find(&self.hidden, &Reference::Tag(tag.clone())).await {
                Ok(found) => match self.read(&found).await {
                    Ok(key) => all.push((found.digest, key)),
                    // One that is damaged hides no other.
                    Err(error) => tracing::warn!(error = %chain(&error), "API key could not be read"),
                },
                Err(RepositoryError::NoRepository { .. } | RepositoryError::NoManifest { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        all.sort_by(|(_, a), (_, b)| a.id.cmp(&b.id));
        Ok(all)
    }
}

/// An id may have what a tag may not.
fn reference(id: &ApiKeyId) -> Reference {
    let tag = Digest::of(id.as_str().as_bytes()).hex();
    Reference::Tag(Tag::parse(tag).expect("hexadecimal digits are a tag"))
}

fn failed(error: RepositoryError) -> KeysError {
    match error {
        RepositoryError::Journal(JournalError::Never(_)) => KeysError::NotHere(error.to_string()),
        RepositoryError::Bound { .. } => KeysError::TooMany,
        error => KeysError::Unavailable(chain(&error)),
    }
}

#[async_trait]
impl Keys for ApiKeys {
    async fn known(&self, id: &ApiKeyId) -> Result<Option<Arc<ApiKey>>, KeysError> {
        Ok(self.found(id).await.map_err(failed)?.map(|(_, key)| key))
    }

    async fn newest(&self, id: &ApiKeyId) -> Result<Option<Arc<ApiKey>>, KeysError> {
        // What this registry has is all that it can say: a replica is as new as its position.
        self.known(id).await
    }

    async fn all(&self) -> Result<Vec<Arc<ApiKey>>, KeysError> {
        Ok(self.every().await?.into_iter().map(|(_, key)| key).collect())
    }

    async fn add(&self, key: ApiKey) -> Result<(), KeysError> {
        let _turn = self.turn.lock().await;
        self.repositories.journal().check_writes().map_err(|error| failed(error.into()))?;
        let now = clock::wall();
        let all = self.every().await?;
        let mut left = all.len();
        for (digest, old) in &all {
            if old.is_over(now) && old.id != key.id {
                self.remove(*digest).await?;
                left -= 1;
            }
        }
        if all.iter().any(|(_, old)| old.id == key.id) {
            return Err(KeysError::Exists(key.id));
        }
        if left >= MOST {
            return Err(KeysError::TooMany);
        }
        self.put(&key, None).await
    }

    async fn change(&self, id: &ApiKeyId, ask: &ApiKeyAsk) -> Result<(), KeysError> {
        let _turn = self.turn.lock().await;
        self.repositories.journal().check_writes().map_err(|error| failed(error.into()))?;
        let (digest, old) = self.found(id).await.map_err(failed)?.ok_or(KeysError::NotFound)?;
        self.put(&old.changed(ask, clock::wall())?, Some(digest)).await
    }

    async fn delete(&self, id: &ApiKeyId) -> Result<(), KeysError> {
        let _turn = self.turn.lock().await;
        self.repositories.journal().check_writes().map_err(|error| failed(error.into()))?;
        let (digest, _) = self.found(id).await.map_err(failed)?.ok_or(KeysError::NotFound)?;
        self.remove(digest).await
    }
}
