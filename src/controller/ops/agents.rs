//! What agents ask and tell: join, heartbeat, poll, claim, starting, report, give back, leave.

use super::{Ops, OpsError};
use crate::{
    supervise::Stop,
    wire::agent::{Claim, GiveBack, Granted, Heard, Heartbeat, Join, Joined, Leave, Poll, Report, Tasks},
};

impl Ops {
    /// Makes or renews a node's record.
    pub async fn join(&self, _ask: Join) -> Result<Joined, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// Takes a node's whole truth; says what to stop and what to forget.
    pub async fn heartbeat(&self, _ask: Heartbeat) -> Result<Heard, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// Parks until there is a task for the node, the wait is over, or `stop` is requested.
    ///
    /// Dropping the future gives an offer back that was stored but not yet returned.
    pub async fn poll(&self, _ask: Poll, _stop: Stop) -> Result<Tasks, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// Takes an offer.
    pub async fn claim(&self, _ask: Claim) -> Result<Granted, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// The last step before the VM is started: afterwards no other node ever gets the instance.
    pub async fn starting(&self, _ask: Claim) -> Result<Granted, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// One VM's change, at once.
    pub async fn report(&self, _ask: Report) -> Result<Heard, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// Returns a claimed start to the queue.
    pub async fn give_back(&self, _ask: GiveBack) -> Result<Granted, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// Forgets a node for good; refused while instances run on it.
    pub async fn leave(&self, _ask: Leave) -> Result<Granted, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }
}
