//! Changes where no log is kept: several registries change one storage, which decides for all of them.
//!
//! Each change is one step of the storage, whole or absent whenever it is cut off, so nothing is to be made good at a start. They
//! are made here and not by those who ask, for a client that leaves must not leave half of one behind.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::{Draft, JournalError};
use super::{
    group::Ask,
    turn::{Order, Received},
};
use crate::{
    model::{Digest, Position, RepositoryName},
    registry::{
        content::Content,
        writer::{Pending, Writer},
    },
    supervise::Stop,
};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Plain {
    content: Arc<dyn Content>,
    writer: Writer,
}

impl Plain {
    pub(super) fn new(content: Arc<dyn Content>, writer: Writer) -> Self {
        Self { content, writer }
    }

    /// Takes orders until the registry stops and nobody asks any more. They go beside each other: the storage says which one
    /// was first, of other registries' as well.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Order>, stop: Stop) {
        let mut running: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            let order = tokio::select! {
                Some(()) = running.next() => continue,
                order = queue.recv() => order,
                () = stop.requested() => None,
            };
            let Some(order) = order else { break };
            running.push(self.clone().take(order).boxed());
        }
        while running.next().await.is_some() {}
    }

    /// Whoever asked may be gone: what was done stays done.
    async fn take(self, order: Order) {
        match order {
            Order::Change(Ask::Commit(draft, reply)) => drop(reply.send(self.commit(*draft).await)),
            Order::Receive(Received { repository: _, mut upload, blob, reply }) => {
                let received = upload.commit(&blob).await;
                drop(reply.send(received.map(|_| Position::ZERO).map_err(JournalError::from)));
            }
            Order::Change(Ask::Give(repository, blob, reply)) => {
                drop(reply.send(self.give(&repository, &blob).await));
            }
            Order::Withdraw(repository, blob, reply) => {
                drop(reply.send(self.withdraw(&repository, &blob).await));
            }
            Order::Restore(whole, reply) => {
                drop(reply.send(self.content.restore(*whole).await.map(drop).map_err(JournalError::from)));
            }
            Order::Forget(repository, reply) => {
                drop(reply.send(self.content.remove(&repository).await.map_err(JournalError::from)));
            }
            Order::Apply(_, reply) => drop(reply.send(Err(JournalError::NoLog))),
            Order::Rebase(.., reply) | Order::Disown(_, reply) | Order::Reign(.., reply) => {
                drop(reply.send(Err(JournalError::NoLog)));
            }
        }
    }

    async fn commit(&self, draft: Draft) -> Result<Pending, JournalError> {
        self.writer.check()?;
        self.content.publish(Arc::unwrap_or_clone(draft.next)).await?;
        Ok(self.writer.appended(Position::ZERO))
    }

    async fn give(&self, repository: &RepositoryName, blob: &Digest) -> Result<Position, JournalError> {
        self.writer.check()?;
        // One that is gone again already is nobody's to give.
        if self.content.find(blob).await?.is_some() {
            self.content.link(repository, blob).await?;
        }
        Ok(Position::ZERO)
    }

    /// A push at another registry that needs it at this moment gives it back, once its tag is visible.
    async fn withdraw(&self, repository: &RepositoryName, blob: &Digest) -> Result<Position, JournalError> {
        self.writer.check()?;
        self.content.unlink(repository, blob).await?;
        Ok(Position::ZERO)
    }
}
