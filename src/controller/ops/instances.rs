//! Instances: start, list, show, update, terminate.

use std::sync::Arc;

use super::{Caller, Ops, OpsError};
use crate::{
    controller::{lists::Seen, records::InstanceRecord},
    model::InstanceId,
    wire::vm::{StartVm, UpdateVm},
};

impl Ops {
    /// Starts instances: resolves the template, then stores one record with all ids. Durable when it returns.
    pub async fn start(&self, _ask: StartVm, _caller: &Caller) -> Result<Vec<InstanceId>, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// All instances, with why each waits.
    pub async fn instances(&self) -> Result<Seen<Vec<Arc<InstanceRecord>>>, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// One instance.
    pub async fn instance(&self, _id: &InstanceId) -> Result<Seen<InstanceRecord>, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// Changes name, external id or metadata.
    pub async fn update(&self, _id: &InstanceId, _ask: UpdateVm) -> Result<(), OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// Has an instance deleted; repeating it changes nothing.
    pub async fn terminate(&self, _id: &InstanceId) -> Result<(), OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }
}
