//! Watching a prefix.

use std::{fmt, pin::Pin};

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

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

impl Event {
    /// The revision that did it.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Deleted { mod_revision, .. } => *mod_revision,
        }
    }

    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Deleted { key, .. } => key,
        }
    }
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
///
/// It is pulled: nothing is fetched for a reader that does not ask, so a slow one holds no memory of ours.
pub struct Watch {
    items: Pin<Box<dyn Stream<Item = Result<WatchItem, StoreError>> + Send>>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    /// How many items may wait in a channel for a slow reader. Full: the feeding side waits.
    pub const BUFFER: usize = 64;

    /// A watch over a stream of items. An error or [`WatchItem::Compacted`] is to be the last one.
    pub fn new(items: impl Stream<Item = Result<WatchItem, StoreError>> + Send + 'static) -> Self {
        Self { items: Box::pin(items) }
    }

    /// A watch and the end that feeds it.
    pub fn channel() -> (mpsc::Sender<Result<WatchItem, StoreError>>, Self) {
        let (sender, items) = mpsc::channel(Self::BUFFER);
        (sender, Self::new(ReceiverStream::new(items)))
    }

    /// The next item; `None` when the watch has ended. Cancel-safe: nothing is lost by dropping the future.
    pub async fn next(&mut self) -> Option<Result<WatchItem, StoreError>> {
        self.items.next().await
    }
}
