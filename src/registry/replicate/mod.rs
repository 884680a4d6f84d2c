//! How a replica comes to hold what the writer holds.
//!
//! ```text
//!   follow    reads the writer's log, ahead of what is applied ──▶ apply
//!   apply     one entry after the other: its blobs, then the change ──▶ journal
//!   adopt     a whole catalogue, where the log does not lead there
//!   scan      what the log did not bring, from time to time
//!   fetch     asks, verifies, writes: blobs that are needed, and blobs that were announced
//!   plan      which chunk of which blob is asked for next, and from whom (pure)
//!   status    what these have noted, for state, log and metrics
//! ```
//!
//! What is here is always complete and verified: a chunk is checked against the chunk list before it is written, a
//! blob against its digest before it is one. So a replica may be behind, but is never wrong.

pub mod status;
pub mod plan;
pub mod fetch;
mod follow;
mod apply;
mod adopt;
mod scan;

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::sync::{Notify, mpsc, watch};

use super::{
    content::{Content, ContentError},
    journal::Journal,
};
use crate::{
    client::{Credentials, replication::Replication},
    config::BaseUrl,
    supervise::Stop,
    wire::replication::Aside,
};
use adopt::{ASIDE, Adopt};
use apply::Apply;
use fetch::FetchHandle;
use follow::{AHEAD, Follow};
use scan::Scan;
use status::Status;

/// For a connect to another registry.
const DIAL: Duration = Duration::from_secs(3);

/// Nothing from another registry for so long, and it is given up.
const IDLE: Duration = Duration::from_secs(10);

/// Follows a writer. A clone shares everything, so that a loop that ended can be started again.
#[derive(Clone)]
pub struct Replica {
    name: String,
    writer: Replication,
    peers: Vec<Replication>,
    content: Arc<dyn Content>,
    journal: Journal,
    fetcher: FetchHandle,
    status: Arc<Status>,
}

impl Replica {
    /// Of this writer, with these peers to fetch from. Nothing is started yet.
    pub async fn new(
        name: String,
        (writer, peers, credentials): (BaseUrl, Vec<BaseUrl>, &Credentials),
        content: Arc<dyn Content>,
        journal: Journal,
        fetcher: FetchHandle,
    ) -> Result<Self, ReplicaError> {
        let client = |base| Replication::new(base, credentials, DIAL, IDLE);
        let (writer, peers) = (client(writer)?, peers.into_iter().map(client).collect::<Result<_, _>>()?);
        let status = Arc::new(Status::default());
        for (path, text) in content.asides(ASIDE).await? {
            if let Ok(aside) = serde_json::from_slice::<Aside>(&text) {
                status.set_aside(Aside { path, ..aside });
            }
        }
        Ok(Self { name, writer, peers, content, journal, fetcher, status })
    }

    /// What its loops note.
    pub fn status(&self) -> Arc<Status> {
        self.status.clone()
    }

    /// Runs until stopped.
    pub async fn run(self, stop: Stop) -> Result<(), Infallible> {
        let Self { name, writer, peers, content, journal, fetcher, status } = self;
        let (sender, work) = mpsc::channel(AHEAD);
        let abandoned = watch::Sender::new(false);
        status.forget();
        let adopt = Adopt {
            content: content.clone(),
            journal: journal.clone(),
            fetcher: fetcher.clone(),
            status: status.clone(),
            writer: writer.clone(),
        };
        let due = Arc::new(Notify::new());
        let scan = Scan {
            content: content.clone(),
            journal: journal.clone(),
            fetcher: fetcher.clone(),
            writer: writer.clone(),
            due: due.clone(),
        };
        let sources = std::iter::once(writer).chain(peers).collect();
        let apply = Apply {
            content: content.clone(),
            journal: journal.clone(),
            fetcher,
            status: status.clone(),
            adopt,
            abandoned: abandoned.clone(),
        };
        let follow = Follow { name, sources, content, journal, status, work: sender, abandoned, due };
        let copying = async { tokio::join!(follow.run(stop.clone()), apply.run(work, stop.clone())) };
        tokio::select! {
            _ = copying => {}
            // Never ends by itself; a look that is cut short is done again.
            () = scan.run() => {}
        }
        Ok(())
    }
}

/// Why a replica does not start.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The HTTP client.
    #[error("no client for other registries could be made")]
    Client(#[from] reqwest::Error),
    /// The storage.
    #[error(transparent)]
    Content(#[from] ContentError),
}
