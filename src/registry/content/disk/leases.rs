//! Leases of duties: of one that is alone the process has them, of a shared directory whoever the directory says.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use super::super::{
    ContentError,
    lease::{Duty, Lease, Leases},
    shared::Term,
};
use super::{Disk, Inner};

/// Duties that this process is at.
pub(super) type Busy = [AtomicBool; Duty::ALL.len()];

/// Held once in this process.
struct Once {
    inner: Arc<Inner>,
    duty: Duty,
}

impl Drop for Once {
    fn drop(&mut self) {
        busy(&self.inner, self.duty).store(false, Ordering::Release);
    }
}

fn busy(inner: &Inner, duty: Duty) -> &AtomicBool {
    &inner.busy[duty as usize]
}

/// Of a directory that this process has alone: the lock on it keeps others out.
struct Alone {
    _once: Once,
}

#[async_trait]
impl Lease for Alone {
    fn check(&self) -> Result<(), ContentError> {
        Ok(())
    }

    async fn keep(&self) -> ContentError {
        std::future::pending().await
    }

    fn noted(&self) -> Option<String> {
        None
    }

    async fn note(&self, _: String) -> Result<(), ContentError> {
        Ok(())
    }

    async fn end(self: Box<Self>) -> Result<(), ContentError> {
        Ok(())
    }
}

/// Of a shared directory.
struct Among {
    disk: Disk,
    term: Arc<Term>,
    _once: Once,
}

impl Among {
    async fn write(
        &self,
        work: impl FnOnce(&super::super::shared::Leases, &Term) -> Result<(), ContentError> + Send + 'static,
    ) -> Result<(), ContentError> {
        let term = self.term.clone();
        self.disk.writing(move |disk| disk.leases.as_ref().map_or(Ok(()), |leases| work(leases, &term))).await
    }
}

#[async_trait]
impl Lease for Among {
    fn check(&self) -> Result<(), ContentError> {
        self.term.check()
    }

    async fn keep(&self) -> ContentError {
        loop {
            tokio::time::sleep(self.term.pause()).await;
            match self.write(|leases, term| leases.beat(term)).await {
                Ok(()) => {}
                Err(lost @ ContentError::LeaseLost { .. }) => return lost,
                Err(error) => {
                    tracing::debug!(error = %error, "lease could not be kept, and is tried again");
                    if let Err(lost) = self.term.check() {
                        return lost;
                    }
                }
            }
        }
    }

    fn noted(&self) -> Option<String> {
        self.term.noted()
    }

    async fn note(&self, text: String) -> Result<(), ContentError> {
        self.write(|leases, term| leases.note(term, text)).await
    }

    async fn end(self: Box<Self>) -> Result<(), ContentError> {
        self.write(|leases, term| leases.end(term)).await
    }
}

#[async_trait]
impl Leases for Disk {
    async fn lease(&self, duty: Duty, silence: Duration) -> Result<Option<Box<dyn Lease>>, ContentError> {
        if busy(&self.inner, duty).swap(true, Ordering::AcqRel) {
            return Ok(None);
        }
        let once = Once { inner: self.inner.clone(), duty };
        if self.inner.leases.is_none() {
            return Ok(Some(Box::new(Alone { _once: once })));
        }
        let taken = self.writing(move |disk| {
            // What this mount shows may be old: then nobody can tell from here what is needed.
            if let Some(why) = disk.peers.as_ref().and_then(super::Peers::doubt) {
                return Err(ContentError::Unsure(why));
            }
            disk.leases.as_ref().map_or(Ok(None), |leases| leases.take(duty, silence))
        });
        Ok(taken.await?.map(|term| -> Box<dyn Lease> {
            Box::new(Among { disk: self.clone(), term: Arc::new(term), _once: once })
        }))
    }
}
