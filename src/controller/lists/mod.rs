//! The watch-fed cache of everything below the cluster's prefix, and reads that are linearizable all the same.
//!
//! A read asks the store for `head`, which every transaction of ours puts, and waits until the cache has applied
//! that key at that revision: then it has applied everything that was acknowledged before the read began. Past
//! the bound the store is read instead, page by page at one revision. With the store out of reach the cache
//! answers, and says so.

mod asked;
mod cache;
mod candidates;
mod commands;
mod changes;
mod events;
mod feed;
mod groups;
mod permissions;
mod pool;
mod look;
mod readings;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Notify, watch};

pub use cache::{Cache, Effects, Item};
pub use changes::{Batch, Changed, Changes, NotKept, What};
pub use commands::Commands;
pub use events::{EventPlace, Events};
pub(super) use feed::{Feed, Told, probe};
pub use groups::Groups;
pub use look::Age;
pub use permissions::Permissions;

use readings::Readings;

use super::{Health, ops::OpsError};
use crate::{
    clock,
    store::{Consistency, Revision, Store, StoreError, keys::Keys, page},
};

/// How long a read waits for `head`. Longer: the store counts as out of reach for this read.
///
/// An etcd that has lost its leader elects another one within two seconds (its election timeout of one second,
/// drawn up to twice as long), and that much nobody is to notice.
const HEAD_WAIT: Duration = Duration::from_millis(2200);

/// How long a read waits for the cache to catch up. Longer: it reads the store itself.
const CATCH_UP: Duration = Duration::from_millis(800);

/// How long such a read of the store may take; with the waits before, under the 4.5 s that a read has. Longer: 503.
const FROM_STORE: Duration = Duration::from_millis(1400);

/// What stale answers are marked with.
pub const STALE: &str = "store-unavailable";

/// What was read, and whether it may be behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen<T> {
    /// What was read.
    pub value: T,
    /// Why it may be behind; `None`: it shows everything that was acknowledged before the read began.
    pub stale: Option<String>,
}

impl<T> Seen<T> {
    /// The same reading of something made from it.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Seen<U> {
        Seen { value: f(self.value), stale: self.stale }
    }
}

/// The cache and how to read it. Cheap to clone.
#[derive(Clone)]
pub struct Lists {
    inner: Arc<Inner>,
}

struct Inner {
    cache: RwLock<Cache>,
    /// The `head` that the cache has applied.
    applied: watch::Sender<Revision>,
    /// The `mod_revision` of `head`; 0 when nothing was ever written.
    heads: Readings<Revision>,
    /// Everything, for those for whom the cache is too far behind: a listing of all is not made for each of them.
    whole: Readings<Arc<Cache>>,
    changes: Changes,
    /// Asks the feed to list anew: the watch is silent although there is something to tell.
    relist: Notify,
    store: Arc<dyn Store>,
    keys: Keys,
    health: Health,
    ageing: f64,
}

impl Lists {
    pub(super) fn new(store: Arc<dyn Store>, keys: Keys, health: Health, ageing: f64) -> Self {
        let (of, key) = (store.clone(), keys.head());
        let heads = Readings::new(move || {
            let (store, key) = (of.clone(), key.clone());
            async move {
                let got = store.get(&key, Consistency::Linearizable).await?;
                Ok(got.kv.map_or(0, |kv| kv.mod_revision))
            }
            .boxed()
        });
        let (of, all) = (store.clone(), keys.clone());
        let whole = Readings::new(move || {
            let (store, keys) = (of.clone(), all.clone());
            async move { Ok(Arc::new(load(&*store, &keys, ageing).await?.0)) }.boxed()
        });
        let (applied, _) = watch::channel(0);
        let cache = RwLock::new(Cache::new(ageing));
        Self {
            inner: Arc::new(Inner {
                cache,
                applied,
                heads,
                whole,
                changes: Changes::default(),
                relist: Notify::new(),
                store,
                keys,
                health,
                ageing,
            }),
        }
    }

    /// Looks into the cache as it is: what it shows may be behind. Never blocks for long; do not wait inside.
    pub fn peek<R>(&self, look: impl FnOnce(&Cache) -> R) -> R {
        look(&self.inner.cache.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at everything that was acknowledged before this call began, or says that it may be behind.
    pub async fn read<R>(&self, look: impl FnOnce(&Cache) -> R) -> Result<Seen<R>, OpsError> {
        if !self.inner.health.loaded() {
            return Err(OpsError::unavailable("the cache is not loaded"));
        }
        let stale = |lists: &Self| Seen { value: (), stale: Some(STALE.to_owned()) }.map(|()| lists.clone());
        if !self.inner.health.store_reachable() {
            return Ok(stale(self).map(|lists| lists.peek(look)));
        }
        let before = self.applied();
        let head = match tokio::time::timeout(HEAD_WAIT, self.inner.heads.read()).await {
            Ok(Ok(head)) => head,
            Ok(Err(error)) if !error.may_pass() => return Err(error.into()),
            Ok(Err(_)) | Err(_) => return Ok(stale(self).map(|lists| lists.peek(look))),
        };
        if self.caught_up(before, head).await {
            return Ok(Seen { value: self.peek(look), stale: None });
        }
        tracing::debug!(store.revision = head, "cache is behind; reading the store itself");
        // Unless the store went back: then the cache shows what is no longer there, however far it is.
        let mut applied = self.inner.applied.subscribe();
        let catches_up = async {
            match head < before {
                true => std::future::pending().await,
                false => applied.wait_for(|at| *at >= head).await.is_ok(),
            }
        };
        let read = tokio::time::timeout(FROM_STORE, async {
            tokio::select! {
                true = catches_up => None,
                read = self.inner.whole.read() => Some(read),
            }
        });
        match read.await {
            Ok(None) => Ok(Seen { value: self.peek(look), stale: None }),
            Ok(Some(Ok(cache))) => Ok(Seen { value: look(&cache), stale: None }),
            Ok(Some(Err(error))) if error.may_pass() => Ok(stale(self).map(|lists| lists.peek(look))),
            Ok(Some(Err(error))) => Err(error.into()),
            Err(_) => Err(OpsError::unavailable("the cache is behind, and reading the store took too long")),
        }
    }

    /// Waits, bounded, until the cache shows what was acknowledged before this call began.
    pub(super) async fn catch_up(&self) -> Result<(), OpsError> {
        let before = self.applied();
        let head = tokio::time::timeout(HEAD_WAIT, self.inner.heads.read())
            .await
            .map_err(|_| OpsError::unavailable("the store did not answer in time"))??;
        if self.caught_up(before, head).await {
            Ok(())
        } else {
            Err(OpsError::unavailable("the cache is behind the store"))
        }
    }

    /// The `head` that the cache shows.
    fn applied(&self) -> Revision {
        *self.inner.applied.borrow()
    }

    /// `before`: what the cache showed before `head` was asked for. A store never goes back behind that, unless it
    /// was restored from an older backup: then the cache shows what is no longer there, and lists anew.
    async fn caught_up(&self, before: Revision, head: Revision) -> bool {
        if head < before {
            tracing::warn!(
                store.revision = head,
                cache.revision = before,
                "store went back; all is listed anew"
            );
            self.inner.relist.notify_one();
            return false;
        }
        let mut applied = self.inner.applied.subscribe();
        tokio::time::timeout(CATCH_UP, applied.wait_for(|at| *at >= head))
            .await
            .is_ok_and(|seen| seen.is_ok())
    }

    /// Everything there is, and what `head` held then.
    async fn load(&self) -> Result<(Cache, Bytes), StoreError> {
        load(&*self.inner.store, &self.inner.keys, self.inner.ageing).await
    }

    /// The last changes.
    pub fn changes(&self) -> &Changes {
        &self.inner.changes
    }

    fn replace(&self, mut next: Cache) {
        let (head, upto, missed) = {
            let mut cache = self.inner.cache.write().unwrap_or_else(PoisonError::into_inner);
            next.inherit(&cache);
            let goes_on = cache.applied() > 0 && next.applied() >= cache.applied();
            let missed = goes_on.then(|| next.differs_from(&cache));
            *cache = next;
            (cache.head(), cache.applied(), missed)
        };
        match missed {
            Some(missed) => self.inner.changes.add(upto, missed),
            // The first, or a store that went back: nobody can go on from what there was.
            None => self.inner.changes.begin_anew(upto),
        }
        self.inner.applied.send_replace(head);
    }

    fn apply(&self, revision: Revision, events: &[crate::store::Event]) -> Effects {
        let (mut effects, head) = {
            let mut cache = self.inner.cache.write().unwrap_or_else(PoisonError::into_inner);
            let effects = cache.apply(&self.inner.keys, revision, events, clock::now());
            (effects, cache.head())
        };
        self.inner.changes.add(revision, std::mem::take(&mut effects.changes));
        self.inner.applied.send_if_modified(|at| std::mem::replace(at, head) != head);
        effects
    }
}

/// Everything below the prefix, page by page at one revision; and what `head` held then.
async fn load(store: &dyn Store, keys: &Keys, ageing: f64) -> Result<(Cache, Bytes), StoreError> {
    let all = page::read_prefix(store, keys.root(), feed::PAGE).await?;
    let key = keys.head();
    let head = all.kvs.iter().find(|kv| kv.key == key).map(|kv| kv.value.clone()).unwrap_or_default();
    Ok((Cache::of(ageing, keys, all.kvs, all.revision, clock::now()), head))
}
