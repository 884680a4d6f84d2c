//! A store whose every answer is noted by [`Health`], and whose every call ends in time.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Health, numbers::Numbers};
use crate::clock;
use crate::store::{
    Consistency, Got, LeaseId, LeaseState, Range, Ranged, Revision, Standing, Store, StoreError, Txn,
    TxnAnswer, Watch,
};

/// The store as the controller sees it.
pub(super) struct Noted {
    inner: Arc<dyn Store>,
    health: Health,
    numbers: Numbers,
    timeout: Duration,
}

/// A call, by its name in metrics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Get,
    Range,
    Txn,
    Watch,
    Lease,
    Compact,
}

impl Call {
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Range => "range",
            Self::Txn => "txn",
            Self::Watch => "watch",
            Self::Lease => "lease",
            Self::Compact => "compact",
        }
    }

    fn writes(self) -> bool {
        matches!(self, Self::Txn | Self::Lease | Self::Compact)
    }
}

impl Noted {
    pub(super) fn new(inner: Arc<dyn Store>, health: Health, numbers: Numbers, timeout: Duration) -> Self {
        Self { inner, health, numbers, timeout }
    }

    async fn note<T>(
        &self,
        which: Call,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let why = || format!("no answer within {} ms", self.timeout.as_millis());
        let began = clock::now();
        let result = match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result,
            Err(_) if which.writes() => Err(StoreError::Unknown { why: why() }),
            Err(_) => Err(StoreError::Unavailable { why: why() }),
        };
        self.health.note(&result);
        let failed = result.as_ref().is_err_and(|error| {
            error.may_pass() || matches!(error, StoreError::Full { .. } | StoreError::Refused { .. })
        });
        self.numbers.called(which.as_str(), began.elapsed(), failed);
        result
    }
}

#[async_trait]
impl Store for Noted {
    async fn get(&self, key: &str, consistency: Consistency) -> Result<Got, StoreError> {
        self.note(Call::Get, self.inner.get(key, consistency)).await
    }

    async fn range(&self, range: Range) -> Result<Ranged, StoreError> {
        self.note(Call::Range, self.inner.range(range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, StoreError> {
        let result = self.note(Call::Txn, self.inner.txn(txn)).await;
        self.health.note_write(&result);
        result
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.note(Call::Watch, self.inner.watch(prefix, from)).await
    }

    async fn lease_grant(&self, ttl_seconds: u32) -> Result<LeaseId, StoreError> {
        self.note(Call::Lease, self.inner.lease_grant(ttl_seconds)).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        self.note(Call::Lease, self.inner.lease_keep_alive(lease)).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.note(Call::Lease, self.inner.lease_revoke(lease)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.note(Call::Compact, self.inner.compact(revision)).await
    }

    // These two end in time by themselves, and say nothing of the store as a whole.
    async fn standing(&self) -> Vec<Standing> {
        self.inner.standing().await
    }

    async fn defragment(&self, member: &str) -> Result<(), StoreError> {
        self.inner.defragment(member).await
    }
}
