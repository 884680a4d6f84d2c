//! All that may be done to a resource, one file each. Knows the store and the cache; knows no HTTP.

mod agents;
mod error;
mod instances;
mod nodes;
pub mod templates;
mod together;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub use error::{OpsError, RETRY_AFTER};
pub use nodes::NodeView;

use crate::{
    clock, config::controller::Controller as Config, controller::ops::templates::Templates, store::Store,
    store::keys::Keys, supervise::Handle,
};

/// Who calls, as far as a start cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The bytes of `Authorization`, if any.
    pub credential: Option<Vec<u8>>,
    /// `Idempotency-Key`, if any.
    pub idempotency_key: Option<String>,
    /// When the answer has to be there, if it has to.
    pub deadline: Option<Instant>,
}

/// The least time for a transaction of the store and its answer. With less a write is refused before it has any
/// effect.
pub const WRITE_TIME: Duration = Duration::from_millis(200);

impl Caller {
    /// Refuses what cannot be finished in time. To be asked after slow preparations, right before the effect.
    pub fn has_time_to_write(&self) -> Result<(), OpsError> {
        match self.deadline {
            Some(end) if clock::now() + WRITE_TIME > end => {
                Err(OpsError::unavailable("not done: its time was used up before it was begun"))
            }
            _ => Ok(()),
        }
    }
}

/// Does things. Cheap to clone; every handler has one.
#[derive(Clone)]
pub struct Ops {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    store: Arc<dyn Store>,
    keys: Keys,
    templates: Templates,
    tasks: Handle,
}

impl Ops {
    /// Templates, asked of the registries' front.
    pub fn templates(&self) -> &Templates {
        &self.inner.templates
    }

    /// The config this controller runs with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Registry address handed to nodes; empty without registries.
    pub fn registry_for_nodes(&self) -> String {
        self.inner.config.registries.as_ref().map(|r| r.node_address.to_string()).unwrap_or_default()
    }
}
