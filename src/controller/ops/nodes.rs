//! Nodes: list, show, configure, delete.

use super::{Ops, OpsError};
use crate::{
    controller::{lists::Seen, records::NodeRecord},
    model::{NodeId, NodeState},
    wire::node::NodeConfig,
};

/// A node and what follows from everything else that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// Its record.
    pub record: NodeRecord,
    /// What the API says of it.
    pub state: NodeState,
    /// Running VMs.
    pub vm_count: u32,
    /// Their virtual processors.
    pub vcpu_count: u32,
    /// Their memory, MB.
    pub vram: u64,
}

impl Ops {
    /// All nodes.
    pub async fn nodes(&self) -> Result<Seen<Vec<NodeView>>, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// One node.
    pub async fn node(&self, _id: &NodeId) -> Result<Seen<NodeView>, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// Changes a node's settings.
    pub async fn configure_node(&self, _ask: NodeConfig) -> Result<(), OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// Forgets a node. What runs on it is failed: this is also how an operator says that a node is gone for good.
    pub async fn delete_node(&self, _id: &NodeId) -> Result<(), OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }

    /// Says that the nodes whose silence was taken to be our fault are really gone. Answers how many.
    pub async fn confirm_absence(&self) -> Result<usize, OpsError> {
        Err(OpsError::unavailable("the cache is not loaded"))
    }
}
