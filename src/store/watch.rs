//! Watching a prefix.

use tokio::sync::mpsc;

use super::{KeyValue, Revision, StoreError};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key was put.
    Put(KeyValue),
    /// A key was deleted, by hand or by the end of its lease.
    Deleted {
        /// The key.
        key: String,
        /// The revision of the deletion.
        mod_revision: Revision,
    },
}

/// What a watch yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// All events of one or more whole revisions, in order: a revision is never split over two items.
    Events {
        /// The last revision in here.
        revision: Revision,
        /// Its events and those of the revisions before, in order.
        events: Vec<Event>,
    },
    /// Nothing happened up to this revision. Tells a silent watch from a broken one; never advances a cache.
    Progress(Revision),
    /// The asked revision is gone; the watch has ended. List anew.
    Compacted {
        /// The oldest revision that can be watched from.
        oldest: Revision,
    },
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    items: mpsc::Receiver<Result<WatchItem, StoreError>>,
}

impl Watch {
    /// How many items may wait for a slow reader. Full: the store's side waits, and etcd's own buffer bounds the rest.
    pub const BUFFER: usize = 64;

    /// A watch and the end that feeds it.
    pub fn channel() -> (mpsc::Sender<Result<WatchItem, StoreError>>, Self) {
        let (sender, items) = mpsc::channel(Self::BUFFER);
        (sender, Self { items })
    }

    /// The next item; `None` when the watch has ended.
    pub async fn next(&mut self) -> Option<Result<WatchItem, StoreError>> {
        self.items.recv().await
    }
}
