//! Keeps the key of one member there: for roles that have nothing else in the store.

use std::{sync::Arc, time::Duration};

use super::{Consistency, KeptLease, LeaseId, Member, Store, StoreError, Txn, keys::Keys};
use crate::supervise::Stop;

/// How often the own key is looked at. Who lost it is missed by others for so long at most.
const LOOK: Duration = Duration::from_secs(2);

/// One server among the members of a role.
#[derive(Clone)]
pub struct Registration {
    store: Arc<dyn Store>,
    lease: KeptLease,
    key: String,
    head: String,
    name: String,
    member: Member,
}

/// What the key shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It is ours, under our lease.
    Ours,
    /// Somebody else's, or ours from before; last put at this revision, 0 when there is none.
    Other { revision: i64, stranger: bool },
}

impl Registration {
    /// Of the server `name`, which is reached at what `member` says. Nothing is written yet.
    pub fn new(store: Arc<dyn Store>, keys: &Keys, role: &str, name: &str, member: Member) -> Self {
        let (key, head) = (keys.member(role, name), keys.head());
        Self { store, lease: KeptLease::new(), key, head, name: name.to_owned(), member }
    }

    /// Keeps its lease until `stop`, then ends it, and the key with it.
    pub async fn keep_lease(self, stop: Stop) {
        self.lease.keep(self.store, stop).await;
    }

    /// Writes the key, and again whenever it is gone, until `stop`.
    pub async fn run(self, stop: Stop) {
        let (mut was_member, mut told) = (false, false);
        while !stop.is_requested() {
            if let Some(lease) = self.lease.current() {
                match self.step(lease, was_member).await {
                    Ok(Seen::Ours) => (was_member, told) = (true, false),
                    Ok(Seen::Other { .. }) if !std::mem::replace(&mut told, true) => tracing::error!(
                        member.name = %self.name,
                        "another server has taken this name; give each its own `server.name`"
                    ),
                    Ok(Seen::Other { .. }) => {}
                    Err(error) => tracing::debug!(error = %error, "could not register yet"),
                }
            }
            tokio::select! {
                () = stop.requested() => {}
                () = self.lease.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Looks, and writes if it may.
    async fn step(&self, lease: LeaseId, was_member: bool) -> Result<Seen, StoreError> {
        let seen = self.look(lease).await?;
        let Seen::Other { revision, stranger } = seen else { return Ok(seen) };
        // At our start it is what a killed run before us left; later somebody else has our name.
        if stranger && was_member {
            return Ok(seen);
        }
        let write = uuid::Uuid::new_v4().simple().to_string();
        let value = self.member.encode(&write);
        let value = value.map_err(|error| StoreError::Refused { why: error.to_string() })?;
        let head = format!(r#"{{"v":1,"w":"{write}"}}"#);
        let txn = Txn::new().at_revision(&self.key, revision).put_leased(&self.key, value, lease);
        if self.store.txn(txn.put(&self.head, head)).await?.succeeded {
            tracing::info!(member.name = %self.name, member.address = %self.member.address, "registered as a member");
        }
        self.look(lease).await
    }

    async fn look(&self, lease: LeaseId) -> Result<Seen, StoreError> {
        let Some(kv) = self.store.get(&self.key, Consistency::Linearizable).await?.kv else {
            return Ok(Seen::Other { revision: 0, stranger: false });
        };
        let ours = Member::decode(&kv.value).is_ok_and(|member| member.run == self.member.run);
        Ok(match ours && kv.lease == Some(lease) {
            true => Seen::Ours,
            false => Seen::Other { revision: kv.mod_revision, stranger: !ours },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::embedded::EmbeddedStore,
        supervise::{Stage, Tree},
    };

    fn member(run: &str) -> Member {
        Member { address: "10.0.1.4:8089".into(), version: "1".into(), zone: None, run: run.into() }
    }

    async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
        for _ in 0..1000 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within ten seconds: {what}");
    }

    #[tokio::test]
    async fn a_member_is_there_while_it_runs_and_takes_the_place_of_a_killed_run_before_it() {
        let (tree, dir) = (Tree::new(), tempfile::tempdir().unwrap());
        let store = EmbeddedStore::open(dir.path(), tree.handle()).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let keys = Keys::new("main");
        let key = keys.member("registry", "r1");
        store.txn(Txn::new().put(&key, member("before").encode("w").unwrap())).await.unwrap();
        let run_there = || async {
            let kv = store.get(&key, Consistency::Linearizable).await.unwrap().kv;
            kv.map(|kv| Member::decode(&kv.value).unwrap().run)
        };
        let new = |run| Registration::new(store.clone(), &keys, "registry", "r1", member(run));
        let (first, inner) = (new("first"), Tree::new());
        let (leased, running) = (first.clone(), first.clone());
        inner.handle().finish_at(Stage::Leases, "lease", |stop| leased.keep_lease(stop));
        inner.handle().finish_at(Stage::Loops, "member", |stop| running.run(stop));
        until("it registers", || async { run_there().await.as_deref() == Some("first") }).await;
        // Deleted by hand: it comes back.
        store.txn(Txn::new().delete(&key)).await.unwrap();
        until("it registers again", || async { run_there().await.as_deref() == Some("first") }).await;
        // Another one under its name is left alone.
        store.txn(Txn::new().put(&key, member("other").encode("w").unwrap())).await.unwrap();
        tokio::time::sleep(LOOK + LOOK / 2).await;
        assert_eq!(run_there().await.as_deref(), Some("other"));
        store.txn(Txn::new().delete(&key)).await.unwrap();
        until("it registers once more", || async { run_there().await.as_deref() == Some("first") }).await;
        inner.shut_down(Duration::from_secs(5)).await;
        assert_eq!(run_there().await, None, "the key goes with the lease");
        drop(store);
        tree.shut_down(Duration::from_secs(5)).await;
    }
}
