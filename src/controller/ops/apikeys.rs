//! API keys: records in the store, found in the watched copy.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Ops, OpsError};
use crate::{
    auth::keys::{ApiKey, Keys, KeysError, MOST},
    clock,
    controller::writes::{Draft, Outcome, Patience, RACES},
    model::ApiKeyId,
    wire::apikey::ApiKeyAsk,
};

impl From<OpsError> for KeysError {
    fn from(error: OpsError) -> Self {
        match error {
            OpsError::NotFound => Self::NotFound,
            OpsError::BadInput(why) => Self::Bad(why),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

#[async_trait]
impl Keys for Ops {
    async fn known(&self, id: &ApiKeyId) -> Result<Option<Arc<ApiKey>>, KeysError> {
        Ok(self.inner.lists.peek(|cache| cache.api_key(id).map(|item| item.record.clone())))
    }

    async fn newest(&self, id: &ApiKeyId) -> Result<Option<Arc<ApiKey>>, KeysError> {
        let seen = self.inner.lists.read(|cache| cache.api_key(id).map(|item| item.record.clone())).await?;
        match (seen.value, seen.stale) {
            (None, Some(_)) => {
                let why = "the store cannot be reached, and the key is not known here yet";
                Err(KeysError::Unavailable(why.into()))
            }
            (found, _) => Ok(found),
        }
    }

    async fn all(&self) -> Result<Vec<Arc<ApiKey>>, KeysError> {
        let all = |cache: &crate::controller::lists::Cache| {
            cache.api_keys().map(|(_, item)| item.record.clone()).collect()
        };
        Ok(self.inner.lists.read(all).await?.value)
    }

    async fn add(&self, new: ApiKey) -> Result<(), KeysError> {
        self.loaded()?;
        if self.inner.lists.peek(|cache| cache.api_keys().count()) >= MOST {
            return Err(KeysError::TooMany);
        }
        let key = self.inner.keys.api_key(&new.id);
        let draft = Draft::new(&key).at(&key, 0).put(&key, &new)?;
        match self.inner.writes.commit(draft, Patience::new()).await? {
            Outcome::Done => Ok(()),
            Outcome::Lost(_) => Err(KeysError::Exists(new.id)),
        }
    }

    async fn change(&self, id: &ApiKeyId, ask: &ApiKeyAsk) -> Result<(), KeysError> {
        self.with_key(id, |old, draft| {
            let next = old.changed(ask, clock::wall())?;
            Ok(draft.put(self.inner.keys.api_key(id), &next)?)
        })
        .await
    }

    async fn delete(&self, id: &ApiKeyId) -> Result<(), KeysError> {
        self.with_key(id, |_, draft| Ok(draft.delete(self.inner.keys.api_key(id)))).await
    }
}

impl Ops {
    /// Decides on the record as it is stored, and again if it was changed meanwhile.
    async fn with_key(
        &self,
        id: &ApiKeyId,
        decide: impl Fn(ApiKey, Draft) -> Result<Draft, KeysError> + Send + Sync,
    ) -> Result<(), KeysError> {
        self.loaded()?;
        let key = self.inner.keys.api_key(id);
        for _ in 0..RACES {
            let Some((old, revision)) = self.record_at(&key).await? else {
                return Err(KeysError::NotFound);
            };
            let draft = decide(old, Draft::new(&key).at(&key, revision))?;
            if let Outcome::Done = self.inner.writes.commit(draft, Patience::new()).await? {
                return Ok(());
            }
        }
        Err(KeysError::Unavailable("the key's record is changed by too many at once".into()))
    }
}
