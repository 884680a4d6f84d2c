//! A store whose every answer is noted by [`Health`], and whose every call ends in time.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::Health;
use crate::store::{
    Consistency, Got, LeaseId, LeaseState, Range, Ranged, Revision, Store, StoreError, Txn, TxnAnswer, Watch,
};

/// The store as the controller sees it.
pub(super) struct Noted {
    inner: Arc<dyn Store>,
    health: Health,
    timeout: Duration,
}

impl Noted {
    pub(super) fn new(inner: Arc<dyn Store>, health: Health, timeout: Duration) -> Self {
        Self { inner, health, timeout }
    }

    async fn note<T>(
        &self,
        writes: bool,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let why = || format!("no answer within {} ms", self.timeout.as_millis());
        let result = match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result,
            Err(_) if writes => Err(StoreError::Unknown { why: why() }),
            Err(_) => Err(StoreError::Unavailable { why: why() }),
        };
        self.health.note(&result);
        result
    }
}

#[async_trait]
impl Store for Noted {
    async fn get(&self, key: &str, consistency: Consistency) -> Result<Got, StoreError> {
        self.note(false, self.inner.get(key, consistency)).await
    }

    async fn range(&self, range: Range) -> Result<Ranged, StoreError> {
        self.note(false, self.inner.range(range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, StoreError> {
        self.note(true, self.inner.txn(txn)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.note(false, self.inner.watch(prefix, from)).await
    }

    async fn lease_grant(&self, ttl_seconds: u32) -> Result<LeaseId, StoreError> {
        self.note(true, self.inner.lease_grant(ttl_seconds)).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        self.note(true, self.inner.lease_keep_alive(lease)).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.note(true, self.inner.lease_revoke(lease)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.note(true, self.inner.compact(revision)).await
    }
}
