//! The list in the config file: it changes by reload alone.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::proxy::Upstream;

/// A source that never changes.
#[derive(Debug)]
pub struct Fixed {
    // Kept, so that followers see an unchanging list and not a closed channel.
    _sender: watch::Sender<Arc<[Upstream]>>,
    list: watch::Receiver<Arc<[Upstream]>>,
}

impl Fixed {
    /// Over this list.
    pub fn new(upstreams: &[Upstream]) -> Self {
        let (sender, list) = watch::channel(Arc::from(upstreams));
        Self { _sender: sender, list }
    }

    /// The list as it stands.
    pub fn now(&self) -> Arc<[Upstream]> {
        self.list.borrow().clone()
    }

    /// Follows it.
    pub fn watch(&self) -> watch::Receiver<Arc<[Upstream]>> {
        self.list.clone()
    }
}
