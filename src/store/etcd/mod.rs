//! The store of a cluster: etcd, through `etcd_client`. The only room that knows that crate.
//!
//! What its own balancing does is not enough: it spreads requests over all members blindly, a frozen or
//! cut-off one included, and nothing takes a member out. So there is one client per member here, each with a
//! lazy connection of its own, and [`Members`] says which one to ask:
//!
//! * what may be repeated (reads, leases, compaction) is asked of the next member too when one is slow, the
//!   first answer wins;
//! * a transaction goes on to the next member only while it is certain that it was not done;
//! * while no member can be asked (an election, a restart) everybody waits within the request timeout, unless
//!   the store has been down for that long already.

mod ask;
mod door;
mod grpc;
mod members;
mod translate;
mod upkeep;
mod watch;

use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Error, GetOptions, LeaseGrantOptions};
use rand::Rng;

use self::translate::{end, key_value, request, start, txn_answer};
use self::{ask::Call, door::Door, members::Members};
use super::{
    Consistency, Got, LeaseId, LeaseState, Range, Ranged, Revision, Standing, Store, StoreError, Txn,
    TxnAnswer, Watch, WatchItem,
};
use crate::config::{BaseUrl, Etcd};

/// Largest answer taken: readers of large ranges ask page by page.
const MAX_ANSWER: usize = 64 << 20;

/// Pings on a connection in use, so that one to a vanished machine is dropped. Etcd turns away clients that
/// ping more often than every 5 s, or at all on an idle connection.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster of etcd members.
pub struct EtcdStore {
    etcd: Etcd,
    endpoints: Vec<Endpoint>,
    members: Members,
    request_timeout: Duration,
}

struct Endpoint {
    url: String,
    /// Refuses at once on a member that knows no leader.
    with_leader: Door,
    /// Answers what the member has, leader or not.
    alone: Door,
}

impl Endpoint {
    fn door(&self, consistency: Consistency) -> &Door {
        match consistency {
            Consistency::Linearizable => &self.with_leader,
            Consistency::Serializable => &self.alone,
        }
    }
}

impl EtcdStore {
    /// [`EtcdStore::open`] for members that want neither TLS nor a name.
    pub async fn connect(endpoints: &[BaseUrl], request_timeout: Duration) -> Result<Self, StoreError> {
        Self::open(&Etcd::plain(endpoints.to_vec()), request_timeout).await
    }

    /// Prepares for these members; opens no connection, so it does not matter whether any can be reached now.
    ///
    /// Every later request is bounded by `request_timeout`.
    pub async fn open(etcd: &Etcd, request_timeout: Duration) -> Result<Self, StoreError> {
        if etcd.urls.is_empty() {
            return Err(StoreError::Refused { why: "no etcd endpoint was given".to_owned() });
        }
        let mut prepared = Vec::with_capacity(etcd.urls.len());
        for url in &etcd.urls {
            let url = url.as_str();
            prepared.push(Endpoint {
                url: url.to_owned(),
                with_leader: Door::new(etcd, url, request_timeout / 2, true).await?,
                alone: Door::new(etcd, url, request_timeout / 2, false).await?,
            });
        }
        let members = Members::new(prepared.len(), rand::rng().random_range(0..prepared.len()));
        Ok(Self { etcd: etcd.clone(), endpoints: prepared, members, request_timeout })
    }

    /// A compacted read does not say how far the compaction went; a watch does.
    async fn with_oldest(&self, error: StoreError, asked: Revision) -> StoreError {
        let StoreError::Compacted { oldest } = error else { return error };
        let Ok(mut watch) = self.watch("compacted", asked).await else { return error };
        match tokio::time::timeout(self.slow(), watch.next()).await {
            Ok(Some(Ok(WatchItem::Compacted { oldest }))) => StoreError::Compacted { oldest },
            _ => StoreError::Compacted { oldest },
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str, consistency: Consistency) -> Result<Got, StoreError> {
        if key.is_empty() {
            return Err(StoreError::Refused { why: "the empty key is not allowed".to_owned() });
        }
        let answer = self
            .repeatable(consistency, 0, |client| {
                let options = read(GetOptions::new(), consistency);
                let (key, mut kv) = (key.to_owned(), client.kv_client());
                Box::pin(async move { kv.get(key, Some(options)).await })
            })
            .await?;
        let mut answer = answer.0;
        let kv = answer.kvs.pop().map(key_value);
        Ok(Got { revision: answer.header.map_or(0, |h| h.revision), kv })
    }

    async fn range(&self, range: Range) -> Result<Ranged, StoreError> {
        let answer = self
            .repeatable(range.consistency, range.revision, |client| {
                let options = GetOptions::new()
                    .with_range(end(&range.end))
                    .with_limit(range.limit.max(0))
                    .with_revision(range.revision.max(0));
                let options = if range.keys_only { options.with_keys_only() } else { options };
                let options = read(options, range.consistency);
                let (start, mut kv) =
                    (start(&range.start), client.kv_client().max_decoding_message_size(MAX_ANSWER));
                Box::pin(async move { kv.get(start, Some(options)).await })
            })
            .await;
        let answer = match answer {
            Ok(answer) => answer.0,
            Err(error) => return Err(self.with_oldest(error, range.revision).await),
        };
        let kvs = answer.kvs.into_iter().map(key_value).collect();
        Ok(Ranged { revision: answer.header.map_or(0, |h| h.revision), kvs, more: answer.more })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, StoreError> {
        txn.within_limits()?;
        let request = request(&txn);
        let answer = self
            .once(|client| {
                let (request, mut kv) =
                    (request.clone(), client.kv_client().max_decoding_message_size(MAX_ANSWER));
                Box::pin(async move { kv.txn(request).await })
            })
            .await?;
        txn_answer(answer.0)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.open_watch(prefix, from).await
    }

    async fn lease_grant(&self, ttl_seconds: u32) -> Result<LeaseId, StoreError> {
        // The number is ours, so that a repeated grant is the same lease and none is left behind.
        let id = rand::rng().random_range(1..i64::MAX);
        let granted = self
            .repeatable(Consistency::Linearizable, 0, |client| {
                let mut leases = client.lease_client();
                Box::pin(async move {
                    let options = LeaseGrantOptions::new().with_id(id);
                    leases.grant(i64::from(ttl_seconds.max(1)), Some(options)).await
                })
            })
            .await;
        match granted {
            Ok(_) => Ok(LeaseId(id)),
            Err(error) if grpc::is_granted_already(&error) => Ok(LeaseId(id)),
            Err(error) => Err(error),
        }
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        self.repeatable(Consistency::Linearizable, 0, |client| {
            let mut leases = client.lease_client();
            Box::pin(async move {
                // Opens a stream, renews over it and waits for the answer. One renewal is all that the stream is for.
                match leases.keep_alive(lease.0).await {
                    Ok(_) => Ok(LeaseState::Alive),
                    Err(Error::LeaseKeepAliveError(_)) => Ok(LeaseState::Gone),
                    Err(error) => Err(error),
                }
            })
        })
        .await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoked = self
            .repeatable(Consistency::Linearizable, 0, |client| {
                let mut leases = client.lease_client();
                Box::pin(async move { leases.revoke(lease.0).await })
            })
            .await;
        match revoked {
            Ok(_) | Err(StoreError::LeaseGone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let compacted = self
            .repeatable(Consistency::Linearizable, revision, |client| {
                let mut kv = client.kv_client();
                Box::pin(async move { kv.compact(revision, None).await })
            })
            .await;
        match compacted {
            Ok(_) | Err(StoreError::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn standing(&self) -> Vec<Standing> {
        self.standings().await
    }

    async fn defragment(&self, member: &str) -> Result<(), StoreError> {
        self.make_anew(member).await
    }
}

fn read(options: GetOptions, consistency: Consistency) -> GetOptions {
    match consistency {
        Consistency::Linearizable => options,
        Consistency::Serializable => options.with_serializable(),
    }
}
