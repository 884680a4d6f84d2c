//! Who is alive and who leads: keys under this run's lease.

use std::time::Duration;

use super::{
    ops::Ops,
    records::Leader,
    writes::{Draft, Fence, Outcome, Patience},
};
use crate::{
    model,
    store::{KeptLease, LeaseId, Member},
    supervise::Stop,
};

/// The role under which controllers are members.
pub(super) const ROLE: &str = "controller";

/// How often the own key is looked at in the cache.
const LOOK: Duration = Duration::from_millis(500);

/// This run among the members.
#[derive(Clone)]
pub(super) struct Membership {
    pub(super) ops: Ops,
    pub(super) lease: KeptLease,
    pub(super) address: String,
    /// Made at each start.
    pub(super) run: String,
}

impl Membership {
    fn name(&self) -> &str {
        &self.ops.inner.config.server.name
    }

    /// Registers once the cache is loaded, and again whenever the key is gone, until `stop`.
    pub(super) async fn run(self, stop: Stop) {
        let mut was_member = false;
        let mut told = false;
        loop {
            tokio::select! {
                () = stop.requested() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let (Some(lease), true) = (self.lease.current(), self.ops.inner.health.loaded()) else {
                continue;
            };
            let now = self.ops.inner.lists.peek(|cache| {
                let mut members = cache.members(ROLE);
                members.find(|(name, _)| *name == self.name()).map(|(_, item)| item.clone())
            });
            let revision = match now {
                Some(item) if item.record.run == self.run && item.lease == Some(lease) => {
                    was_member = true;
                    continue;
                }
                // At our start the key is what a killed run before us left. Later somebody else has our name.
                Some(item) if item.record.run != self.run && was_member => {
                    if !told {
                        tracing::error!(
                            member.name = self.name(),
                            member.address = %item.record.address,
                            "another controller has taken this name; give each its own `server.name`"
                        );
                        told = true;
                    }
                    continue;
                }
                Some(item) => item.mod_revision,
                None => 0,
            };
            if let Err(error) = self.register(lease, revision).await {
                tracing::debug!(error = %error, "could not register yet");
            }
        }
    }

    async fn register(&self, lease: LeaseId, revision: i64) -> Result<(), super::ops::OpsError> {
        let key = self.ops.inner.keys.member(ROLE, self.name());
        let member = Member {
            address: self.address.clone(),
            version: model::full_version(),
            zone: self.ops.inner.config.server.zone.clone(),
            run: self.run.clone(),
        };
        let draft = Draft::new(&key).at(&key, revision).put_leased(&key, &member, lease)?;
        if let Outcome::Done = self.ops.inner.writes.commit(draft, Patience::new()).await? {
            tracing::info!(member.name = self.name(), "registered as a member");
        }
        Ok(())
    }

    /// The fence of a duty, if this run leads it; tries to take it up when nobody does.
    pub(super) async fn lead(&self, duty: &str) -> Option<Fence> {
        let lease = self.lease.current()?;
        let key = self.ops.inner.keys.leader(duty);
        let now = self.ops.inner.lists.peek(|cache| cache.leader(duty).cloned());
        match now {
            Some(item) if item.record.run == self.run && item.lease == Some(lease) => {
                Some(Fence { key, created: item.create_revision })
            }
            Some(_) => None,
            None => {
                let leader = Leader { name: self.name().to_owned(), run: self.run.clone() };
                let draft = Draft::new(&key).at(&key, 0).put_leased(&key, &leader, lease).ok()?;
                if let Ok(Outcome::Done) = self.ops.inner.writes.commit(draft, Patience::new()).await {
                    tracing::info!(duty, "took up a duty");
                }
                // It begins once the cache shows the key, and with it everything the leader before has done.
                None
            }
        }
    }
}
