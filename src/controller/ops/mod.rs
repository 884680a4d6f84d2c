//! All that may be done to a resource, one file each. Knows the store and the cache; knows no HTTP.

mod agents;
mod error;
mod instances;
mod nodes;
pub mod templates;
mod together;

use std::sync::Arc;

pub use error::{OpsError, RETRY_AFTER};
pub use nodes::NodeView;

use crate::{
    config::controller::Controller as Config, controller::ops::templates::Templates, store::Store,
    store::keys::Keys, supervise::Handle,
};

/// Who calls, as far as a start cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The bytes of `Authorization`, if any.
    pub credential: Option<Vec<u8>>,
    /// `Idempotency-Key`, if any.
    pub idempotency_key: Option<String>,
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
